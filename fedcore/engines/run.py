"""Run a job on a federation: `fedcore.run(...)` in Python, `fedcore run` in a shell."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fedcore.coordinator.checkpoint import write_json
from fedcore.errors import JobError, RunInterrupted, did_you_mean
from fedcore.jobs.analytics import AnalyticsJob
from fedcore.jobs.federation import Engine, Federation
from fedcore.jobs.job import AnyJob, TrainJob, parse_job
from fedcore.jobs.load import LoadedFederation, load_federation, load_job
from fedcore.jobs.show import as_yaml
from fedcore.jobs.vertical import VerticalJob
from fedcore.vertical.steps import check_models

if TYPE_CHECKING:
    from fedcore.coordinator.record_analytics import Answered

log = logging.getLogger("fedcore.engines")

JOB_FILE = "job.yaml"
RUN_FILE = "run.json"
LOCK_FILE = ".running"


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Args:
        folder: The run folder.
    """

    folder: Path

    @property
    def result(self) -> SimpleNamespace:
        """`metrics` (per round and site) and everything else of `result.json` by attribute."""
        told = self.json
        metrics = [
            {"round": r["round"], "train": r["train"], "evaluate": r["evaluate"], "sites": r["sites"]}
            for r in told.get("rounds", [])
        ]
        return SimpleNamespace(**{**told, "metrics": metrics})

    @property
    def answers(self) -> dict[str, Answered]:
        """Of an analytics job: what became of each question, by its name."""
        from fedcore.coordinator.record_analytics import answers_of

        return answers_of(self.json)

    @property
    def json(self) -> dict[str, Any]:
        """`result.json`."""
        told: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return told

    @property
    def model(self) -> Path:
        """The model's weights, safetensors."""
        return self.folder / "model.safetensors"

    @property
    def report(self) -> _Report:
        """The HTML report; a notebook shows it inline."""
        return _Report(self.folder / "report.html")

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


@dataclass(frozen=True)
class _Report:
    path: Path

    def _repr_html_(self) -> str:
        import html

        page = html.escape(self.path.read_text(), quote=True)
        return f'<iframe srcdoc="{page}" width="100%" height="900" style="border:0"></iframe>'


def run(
    job: str | Path | AnyJob,
    federation: str | Path,
    *,
    engine: Engine | None = None,
    folder: str | Path | None = None,
    watcher: Any = None,
) -> Run:
    """Run a job on a federation and wait for its end.

    Args:
        job: Job file; or a job, with every path in it absolute.
        federation: Federation file.
        engine: Instead of the federation's own.
        folder: The run folder; `runs/<job>-<time>` when absent.
        watcher: Told what happens (`fedcore.coordinator.watch.RunWatcher`).

    Returns:
        The run.

    Raises:
        FedcoreError: A file is wrong, the job was refused, or the run stopped and can be resumed.
    """
    loaded_job = load_job(job) if isinstance(job, str | Path) else job
    loaded = load_federation(federation)
    if folder and (Path(folder) / RUN_FILE).exists():
        raise JobError(
            f"{folder} holds a run already; go on with it by `fedcore resume {folder}`, or choose another folder"
        )
    home = Path(folder) if folder else _new_folder(loaded_job)
    home.mkdir(parents=True, exist_ok=True)
    (home / "evidence").mkdir(exist_ok=True)
    if isinstance(job, str | Path):
        shutil.copyfile(job, home / JOB_FILE)
    else:
        (home / JOB_FILE).write_text(as_yaml(job), encoding="utf-8")
    shutil.copyfile(federation, home / "federation.yaml")
    about: dict[str, Any] = {
        "run": f"{loaded_job.name}-{secrets.token_hex(4)}",
        "engine": engine or loaded.spec.engine,
        "federation": str(Path(federation).resolve()),
        "expected": len(_names(loaded, engine or loaded.spec.engine)),
        "job": loaded_job.model_dump(mode="json", by_alias=True),
    }
    write_json(home / RUN_FILE, about)
    return _go(home, loaded_job, loaded, about, resume=False, watcher=watcher)


def resume(folder: str | Path, *, engine: Engine | None = None, watcher: Any = None) -> Run:
    """Go on with a run from its last completed round.

    Args:
        folder: The run folder.
        engine: Another one than before, if wished.
        watcher: As in `run`.

    Raises:
        JobError: Not a run folder, or the run has finished.
        FedcoreError: As in `run`.
    """
    home = Path(folder)
    job, about = job_of(home), _about(home)
    result = home / "result.json"
    if result.exists() and json.loads(result.read_text()).get("status") in ("finished", "stopped-early"):
        raise JobError(f"{home} has finished; there is nothing to resume. `fedcore show {home}` shows it")
    about["engine"] = engine or about["engine"]
    return _go(home, job, load_federation(about["federation"]), about, resume=True, watcher=watcher)


def job_of(folder: str | Path) -> AnyJob:
    """The job of a run, not what its file may say by now.

    Raises:
        JobError: Not a run folder.
    """
    return parse_job(_about(Path(folder))["job"])


def _about(home: Path) -> dict[str, Any]:
    if not (home / RUN_FILE).exists():
        raise JobError(f"{home} is not a run folder (no {RUN_FILE}); run folders are below runs/")
    about: dict[str, Any] = json.loads((home / RUN_FILE).read_text())
    return about


def _go(
    home: Path,
    job: AnyJob,
    federation: LoadedFederation,
    about: dict[str, str],
    *,
    resume: bool,
    watcher: Any,
) -> Run:
    check_together(job, federation.spec, about["engine"], _names(federation, about["engine"]))
    with _only_one(home):
        if about["engine"] == "embedded":
            from fedcore.engines.local import run_embedded

            run_embedded(home, job, federation, about["run"], resume=resume, watcher=watcher)
        elif about["engine"] == "simulation":
            from fedcore.engines.simulation import run_simulated

            run_simulated(home, job, federation, about["run"], resume=resume, watcher=watcher)
        else:
            from fedcore.engines.remote import run_deployed

            run_deployed(home, about, federation, resume=resume, watcher=watcher)
    return Run(home)


def _names(federation: LoadedFederation, engine: str) -> list[str]:
    """Who may take part; in a deployment also those whom only the roster knows, on machines of their own."""
    if engine == "deployment":
        from fedcore.engines.plan import everyone

        return everyone(federation)
    return [participant.name for participant in federation.participants]


def check_together(job: AnyJob, federation: Federation, engine: str, names: list[str]) -> None:
    """Refuse a job that this federation cannot run, before anything starts.

    Raises:
        JobError: With what is allowed.
    """
    if isinstance(job, TrainJob):
        _check_cohort(job, federation, names)
        _check_baselines(job, engine)
    elif isinstance(job, AnalyticsJob):
        _check_cohort(job, federation, names)
    else:
        for name in job.parties:
            if name not in names:
                raise JobError(f"parties: nobody is called {name!r}; {did_you_mean(name, names)}")
    if isinstance(job, VerticalJob):
        check_models(job)
    if engine == "deployment" and federation.virtual is not None:
        raise JobError("virtual participants run on engine embedded or simulation, not deployment")


def _check_cohort(job: TrainJob | AnalyticsJob, federation: Federation, names: list[str]) -> None:
    if len(names) < job.participants.min:
        raise JobError(
            f"participants.min is {job.participants.min} but federation {federation.name} has {len(names)} "
            f"({', '.join(names[:10])}); lower it or add participants"
        )
    unknown = [name for name in job.participants.names or () if name not in names]
    if unknown:
        raise JobError(
            f"participants.names: nobody is called {unknown[0]!r}; {did_you_mean(unknown[0], names)}"
        )


def _check_baselines(job: TrainJob, engine: str) -> None:
    if engine == "deployment" and "pooled" in job.baselines:
        raise JobError(
            "baselines: pooled needs every site's rows on one machine; engine deployment keeps them at the sites. "
            "Leave it out, or run the study on engine embedded"
        )


def _new_folder(job: AnyJob) -> Path:
    stem = f"{job.name}-{datetime.now():%Y%m%d-%H%M%S}"
    for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
        folder = Path("runs") / (stem + suffix)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise JobError(f"runs/ has a thousand runs named {stem}; remove some")


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Two processes must not write one run folder."""
    import fcntl

    with (home / LOCK_FILE).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunInterrupted(
                f"{home} is being written by another process; wait for it or stop it"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
