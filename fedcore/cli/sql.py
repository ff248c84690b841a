"""`fedcore sql`: ask a federation one question in SQL."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedcore.cli.output import Json, print_json
from fedcore.cli.run import DEFAULT_FEDERATION, engine_of, shown
from fedcore.errors import JobError

if TYPE_CHECKING:
    from fedcore.coordinator.record_analytics import Answered

NAME = "sql"
_MOST_ROWS = 1000


def command(
    sql: Annotated[str, typer.Argument(help="SELECT of group keys and aggregates.", show_default=False)],
    federation: Annotated[Path, typer.Option("--federation", "-f", help="Federation file.")] = Path(
        DEFAULT_FEDERATION
    ),
    engine: Annotated[
        str | None, typer.Option("--engine", "-e", help="embedded, simulation or deployment.")
    ] = None,
    totals: Annotated[bool, typer.Option("--totals", help="Totals over the keys too.")] = False,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Noise: differential privacy at this cost.")
    ] = None,
    delta: Annotated[float | None, typer.Option("--delta", help="Of the noise; below 1 / rows.")] = None,
    no_secure_sum: Annotated[
        bool, typer.Option("--no-secure-sum", help="Let the coordinator see each participant's part.")
    ] = False,
    purpose: Annotated[str, typer.Option("--purpose", help="Why; policies may allow some.")] = "research",
    asker: Annotated[str, typer.Option("--asker", help="Who; policies may allow some.")] = "coordinator",
    least: Annotated[int, typer.Option("--min", help="Fewest participants that must answer.")] = 3,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the table here too; - is stdout.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Run folder instead of runs/sql-<time>.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a federation one question in SQL, and print the table.

    The rows stay where they are; small cells are suppressed. The data set is the table of FROM, by its name in the
    participants' catalogues. docs/analytics.md says which SQL is known.

    Example: fedcore sql "SELECT sex, count(*), avg(age) FROM lung GROUP BY sex" --federation configs/federations/eighteen_hospitals.yaml
    """
    chosen = engine_of(engine)
    quiet = as_json or _stdout(csv)
    if as_json and _stdout(csv):
        raise JobError("--csv - and --json both write to stdout; choose one")
    if csv is not None and not _stdout(csv) and not csv.resolve().parent.is_dir():
        raise JobError(f"--csv: there is no folder {csv.resolve().parent}; make it first")
    from fedcore.asking import job_of
    from fedcore.engines.run import run
    from fedcore.jobs.load import load_federation

    job = job_of(
        sql,
        load_federation(federation),
        name=NAME,
        totals=totals,
        epsilon=epsilon,
        delta=delta,
        secure_sum=not no_secure_sum,
        purpose=purpose,
        asker=asker,
        least=least,
    )
    with _progress(job, quiet) as watcher:
        ended = run(job, federation, engine=chosen, folder=folder, watcher=watcher)
    answer = ended.answers[NAME]
    if csv is not None:
        _write(answer.table().to_csv(), csv)
    if as_json:
        print_json({"folder": str(ended.folder), **_without_nan(ended.json["answers"][NAME])})
    elif not quiet:
        _print(answer, ended.folder)


@contextlib.contextmanager
def _progress(job: Any, quiet: bool) -> Iterator[Any]:
    """The bar of questions in a terminal only: what is piped is the table."""
    with shown(job, quiet or not sys.stdout.isatty()) as watcher:
        yield watcher


def _print(answer: Answered, folder: Path) -> None:
    from rich.console import Console
    from rich.text import Text

    from fedcore.coordinator.terminal_analytics import answer_parts

    console = Console()
    for part in answer_parts(answer, most=_MOST_ROWS):
        console.print(part)
    console.print(Text(f"report: {folder / 'report.html'}", style="dim"), soft_wrap=True)


def _write(text: str, file: Path) -> None:
    if _stdout(file):
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise JobError(f"--csv: {file} cannot be written ({error.strerror})") from error


def _stdout(csv: Path | None) -> bool:
    return csv is not None and str(csv) == "-"


def _without_nan(value: Any) -> Any:
    from fedcore.cli.show import without_nan

    return without_nan(value)
