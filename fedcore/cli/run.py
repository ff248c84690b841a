"""`fedcore run` and `fedcore resume`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from fedcore.cli.output import Json, print_json
from fedcore.errors import FedcoreError, JobError, did_you_mean
from fedcore.jobs.analytics import AnalyticsJob
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
) -> int:
    """Run a job over a federation and write a run folder with the result and a report.

    Example: fedcore run configs/jobs/hospital_tabular.yaml --federation configs/federations/five_hospitals.yaml
    """
    chosen = engine_of(engine)
    from fedcore.engines.run import run
    from fedcore.jobs.load import load_job

    loaded = load_job(job)
    with shown(loaded, as_json) as watcher:
        ended = run(job, federation, engine=chosen, folder=folder, watcher=watcher)
    return tell(ended, as_json)


def resume(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    engine: Annotated[str | None, typer.Option("--engine", "-e", help="Another engine than before.")] = None,
    as_json: Json = False,
) -> int:
    """Go on with an interrupted run from its last completed round or step.

    Example: fedcore resume runs/hospital-tabular-20261121-101500
    """
    chosen = engine_of(engine)
    from fedcore.engines import run as engines

    job = engines.job_of(run)
    with shown(job, as_json) as watcher:
        ended = engines.resume(run, engine=chosen, watcher=watcher)
    return tell(ended, as_json)


def engine_of(word: str | None) -> Engine | None:
    """The engine of `--engine`; None where none is said."""
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
    elif isinstance(job, AnalyticsJob):
        from fedcore.coordinator.terminal_analytics import AnswerProgress

        with AnswerProgress(list(job.ask), name=job.name) as answers:
            yield answers
    else:
        from fedcore.coordinator.terminal_psi import PairProgress

        with PairProgress(list(job.parties), name=job.name) as pair:
            yield pair


def tell(ended: Any, as_json: bool) -> int:
    """Print how a run ended.

    Returns:
        The exit code: 0, or that of the first question without an answer where only others have one.
    """
    told = ended.json
    if as_json:
        print_json({"folder": str(ended.folder), **told})
    else:
        from fedcore.coordinator.terminal import print_summary

        print_summary(told, report=str(ended.folder / "report.html"))
    if told.get("status") != "partial":
        return 0
    from fedcore.coordinator.record_analytics import first_error

    code = first_error(told).get("exit_code")
    return code if isinstance(code, int) and not isinstance(code, bool) and code else FedcoreError.exit_code
