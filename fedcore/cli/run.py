"""`fedcore run` and `fedcore resume`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from fedcore.cli.output import Json, print_json
from fedcore.errors import JobError, did_you_mean
from fedcore.jobs.federation import Engine
from fedcore.jobs.job import AnyJob, TrainJob
from fedcore.jobs.vertical import VerticalJob

ENGINES = ("embedded", "simulation", "deployment")
DEFAULT_FEDERATION = "configs/federations/five_hospitals.yaml"


def command(
    job: Annotated[Path, typer.Argument(help="Job file.", show_default=False)],
    federation: Annotated[Path, typer.Option("--federation", "-f", help="Federation file.")] = Path(
        DEFAULT_FEDERATION
    ),
    engine: Annotated[
        str | None, typer.Option("--engine", "-e", help="embedded, simulation or deployment.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Run folder instead of runs/<job>-<time>.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a job over a federation and write a run folder with the result and a report.

    Example: fedcore run configs/jobs/hospital_tabular.yaml --federation configs/federations/five_hospitals.yaml
    """
    chosen = _engine(engine)
    from fedcore.engines.run import run
    from fedcore.jobs.load import load_job

    loaded = load_job(job)
    with shown(loaded, as_json) as watcher:
        ended = run(job, federation, engine=chosen, folder=folder, watcher=watcher)
    tell(ended, as_json)


def resume(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    engine: Annotated[str | None, typer.Option("--engine", "-e", help="Another engine than before.")] = None,
    as_json: Json = False,
) -> None:
    """Go on with an interrupted run from its last completed round or step.

    Example: fedcore resume runs/hospital-tabular-20261121-101500
    """
    chosen = _engine(engine)
    from fedcore.engines import run as engines

    job = engines.job_of(run)
    with shown(job, as_json) as watcher:
        ended = engines.resume(run, engine=chosen, watcher=watcher)
    tell(ended, as_json)


def _engine(word: str | None) -> Engine | None:
    if word is None or word in ENGINES:
        return word  # type: ignore[return-value]
    raise JobError(f"--engine: no engine {word!r}; {did_you_mean(word, ENGINES)}")


@contextmanager
def shown(job: AnyJob, as_json: bool) -> Iterator[Any]:
    """Progress in the terminal, as the kind of job has it; None for machines."""
    if as_json:
        yield None
    elif isinstance(job, TrainJob):
        from fedcore.coordinator.terminal import RoundProgress

        with RoundProgress(job.rounds, name=job.name) as rounds:
            yield rounds
    elif isinstance(job, VerticalJob):
        from fedcore.coordinator.terminal_vertical import StepProgress

        with StepProgress(list(job.parties), name=job.name) as steps:
            yield steps
    else:
        from fedcore.coordinator.terminal_psi import PairProgress

        with PairProgress(list(job.parties), name=job.name) as pair:
            yield pair


def tell(ended: Any, as_json: bool) -> None:
    """Print how a run ended."""
    if as_json:
        print_json({"folder": str(ended.folder), **ended.json})
        return
    from fedcore.coordinator.terminal import print_summary

    print_summary(ended.json, report=str(ended.folder / "report.html"))
