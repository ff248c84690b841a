"""One run, whatever the engine: the job on a grid, and the run folder around it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedcore import __version__
from fedcore.coordinator import checkpoint as checkpoints
from fedcore.coordinator.answered import write_answers
from fedcore.coordinator.model import write_card
from fedcore.coordinator.predictions import predict
from fedcore.coordinator.prepare import COUNTS
from fedcore.coordinator.record_protection import protected
from fedcore.coordinator.workflows.analytics import AnalyticsOutcome, run_analytics
from fedcore.coordinator.workflows.psi import PsiOutcome, run_psi
from fedcore.coordinator.workflows.settings import Settings
from fedcore.coordinator.workflows.train import Outcome, run_train
from fedcore.coordinator.workflows.vertical import VerticalOutcome, finished_steps, run_vertical
from fedcore.errors import FedcoreError, PeerLost, RunInterrupted
from fedcore.jobs.analytics import AnalyticsJob
from fedcore.jobs.job import AnyJob, TrainJob
from fedcore.jobs.psi import PsiJob
from fedcore.jobs.vertical import VerticalJob
from fedcore.learning.builtin import build_task
from fedcore.learning.seeds import seeded_model
from fedcore.network.usage_log import FILE, read_log, summary
from fedcore.trust import evidence

log = logging.getLogger("fedcore.coordinator")

RESULT = "result.json"


def execute(job: AnyJob, grid: Grid, settings: Settings) -> dict[str, Any]:
    """Run a job and write the run folder: result, model, report, evidence, log.

    Args:
        job: What to do.
        grid: The engine's.
        settings: Where and for whom.

    Returns:
        The result, as in `result.json`.

    Raises:
        FedcoreError: As `run_train`, `run_psi` or `run_vertical`; `result.json` then says `refused`, `interrupted` or `failed`, and why.
        KeyboardInterrupt: Ctrl-C; the run is `interrupted`.
    """
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    result: dict[str, Any] = {
        "fedcore": __version__,
        "kind": job.kind,
        "name": job.name,
        "run": settings.run,
        "engine": settings.engine,
        "started": started,
        "job": job.model_dump(mode="json", by_alias=True),
        "protection": job.protection.model_dump() if isinstance(job, TrainJob | AnalyticsJob) else {},
    }
    with _log_to(settings.folder / "run.log"):
        try:
            if isinstance(job, TrainJob):
                result.update(_trained(job, settings, run_train(job, grid, settings)))
            elif isinstance(job, AnalyticsJob):
                result.update(_answered(settings, run_analytics(job, grid, settings)))
            elif isinstance(job, VerticalJob):
                result.update(_stepped(run_vertical(job, grid, settings)))
            else:
                result.update(_intersected(job, run_psi(job, grid, settings)))
        except FedcoreError as error:
            result.update(_stopped(settings.folder, error, job.kind))
            log.error("%s", error)
            raise
        except Exception as error:
            log.exception("the run failed")
            result.update(
                _stopped(settings.folder, FedcoreError(f"{type(error).__name__}: {error}"), job.kind)
            )
            raise
        except BaseException as error:
            # Ctrl-C; or Flower ends the ServerApp because the run was stopped.
            how = "Ctrl-C" if isinstance(error, KeyboardInterrupt) else type(error).__name__
            stopped = RunInterrupted(f"stopped by the user ({how})", party="coordinator")
            result.update(_stopped(settings.folder, stopped, job.kind))
            raise
        finally:
            result["seconds"] = time.monotonic() - began
            used = _usage(settings.folder)
            if used:
                result["usage"] = used
            sums = protected(result)
            if sums is not None:
                result["secure_aggregation"] = sums.as_dict()
            checkpoints.write_json(settings.folder / RESULT, result)
            _receipt(settings, result)
            _report(settings)
    settings.watcher.finished(checkpoints.plain(result))
    return result


def _trained(job: TrainJob, settings: Settings, outcome: Outcome) -> dict[str, Any]:
    progress, agreement = outcome.progress, outcome.agreement
    checkpoints.save_model(settings.folder / "model.safetensors", outcome.arrays)
    write_card(settings.folder / "model.json", job, agreement.schema)
    final = _final(progress.rounds, progress.best if job.stop else None)
    predictions = predict(job, agreement.schema, outcome.arrays, settings.folder)
    return {
        "status": "stopped-early" if progress.stopped else "finished",
        "reason": progress.stopped,
        "participants": [
            {
                "name": name,
                **{key: site.get(key) for key in (*COUNTS, "layers")},
            }
            for name, site in agreement.sites.items()
        ],
        "left_out": [vars(one) for one in agreement.left_out],
        "warnings": agreement.warnings,
        "model": _describe(job, outcome),
        "prepare": {
            "seconds": agreement.phase.seconds,
            "bytes": {w: agreement.phase.total(w) for w in ("down", "up")},
            **({"totals": agreement.totals, "protection": outcome.totals} if outcome.totals else {}),
        },
        "rounds": progress.rounds,
        "final": final,
        "baselines": outcome.baselines,
        "best": progress.best,
        **({"privacy": outcome.privacy} if outcome.privacy else {}),
        **({"predictions": predictions} if predictions else {}),
    }


def _of_parties(
    receipts: Mapping[str, Mapping[str, Any]], offers: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Sizes and layers of the parties that met."""
    return [
        {
            "name": name,
            **{key: receipt[key] for key in ("rows", "items", "role")},
            "layers": offers[name]["layers"],
        }
        for name, receipt in receipts.items()
    ]


def _intersected(job: PsiJob, outcome: PsiOutcome) -> dict[str, Any]:
    receipts = outcome.receipts
    result: dict[str, Any] = {
        "status": "finished",
        "reason": None,
        "participants": _of_parties(receipts, outcome.offers),
        "meeting": {"how": outcome.meeting.how, "session": outcome.meeting.session},
        "exchanges": {
            phase.name: {
                "seconds": phase.seconds,
                "bytes": {way: phase.total(way) for way in ("down", "up")},
            }
            for phase in outcome.phases
        },
        "receipts": receipts,
    }
    counts = [receipt["intersection"] for receipt in receipts.values() if "intersection" in receipt]
    if job.reveal.coordinator == "count" and counts:
        result["intersection"] = counts[0]
    return result


def _stepped(outcome: VerticalOutcome) -> dict[str, Any]:
    last = outcome.steps[-1]["receipts"]
    return {
        "status": "finished",
        "reason": None,
        "participants": _of_parties(last, outcome.offers),
        "meetings": outcome.how,
        "steps": outcome.steps,
    }


def _answered(settings: Settings, outcome: AnalyticsOutcome) -> dict[str, Any]:
    files = write_answers(settings.folder, outcome.answers)
    answered = [each.answer is not None for each in outcome.answers.values()]
    return {
        "status": "finished" if all(answered) else "partial",
        "reason": None,
        "participants": [
            {"name": name, "layers": about.get("layers")} for name, about in outcome.meeting.sites.items()
        ],
        "left_out": [vars(one) for one in outcome.meeting.phase.lost],
        "warnings": outcome.meeting.warnings,
        "answers": {name: {**each.as_dict(), "files": files[name]} for name, each in outcome.answers.items()},
    }


def _usage(folder: Path) -> dict[str, Any]:
    """What each participant used; nothing where no record was made."""
    try:
        return summary(read_log(folder / "evidence" / FILE))
    except FedcoreError as error:
        log.warning("usage is not summed up: %s", error)
        return {}


def _describe(job: TrainJob, outcome: Outcome) -> dict[str, Any]:
    # Seeded, so that counting parameters does not disturb another run in this process.
    module = seeded_model(build_task(job.task, outcome.agreement.schema).model, job.seed)
    return {
        "file": "model.safetensors",
        "parameters": sum(p.numel() for p in module.parameters()),
        "bytes": sum(value.nbytes for value in outcome.arrays.values()),
    }


def _final(rounds: list[dict[str, Any]], best: dict[str, Any] | None) -> dict[str, Any]:
    """The evaluation that belongs to the model that was kept."""
    measured = [r for r in rounds if r["evaluate"] or r["central"]] or rounds
    kept = next((r for r in measured if best and r["round"] == best["round"]), measured[-1])
    return {
        "round": kept["round"],
        "evaluate": kept["evaluate"],
        "central": kept["central"],
        "sites": {name: site["evaluate"] for name, site in kept["sites"].items() if "evaluate" in site},
    }


def _stopped(folder: Path, error: FedcoreError, kind: str) -> dict[str, Any]:
    stored = checkpoints.load(folder / "checkpoints")
    steps = finished_steps(folder) if kind == "vertical" else []
    # A step of a vertical job begins again with whoever is back.
    lost = kind == "vertical" and isinstance(error, PeerLost) and error.step != "prepare"
    if stored or steps or lost or isinstance(error, RunInterrupted):
        error.message += f". Go on with `fedcore resume {folder}`"
    rounds = stored.progress["rounds"] if stored else []
    if steps or lost:
        status = "interrupted"
    elif kind != "train" and error.step != "prepare" and not isinstance(error, RunInterrupted):
        status = "failed"
    elif not rounds and not isinstance(error, RunInterrupted):
        status = "refused"
    else:
        status = "interrupted"
    return {
        "status": status,
        "reason": str(error),
        "rounds": rounds,
        **({"steps": steps} if steps else {}),
        "error": {
            "type": type(error).__name__,
            "message": error.message,
            "party": error.party,
            "step": error.step,
            "exit_code": error.exit_code,
        },
    }


def note_interruption(folder: Path, about: dict[str, Any], error: FedcoreError) -> None:
    """Write the result of a run whose coordinator was killed before it could.

    Args:
        folder: Run folder.
        about: What its `run.json` holds.
        error: What is known of the reason.
    """
    result = {
        "fedcore": __version__,
        **{key: about[key] for key in ("run", "engine", "job")},
        "kind": about["job"]["kind"],
        "name": about["job"]["name"],
        "protection": about["job"].get("protection", {}),
        **_stopped(
            folder,
            RunInterrupted(error.message, party=error.party, step=error.step),
            about["job"]["kind"],
        ),
    }
    checkpoints.write_json(folder / RESULT, result)


def _receipt(settings: Settings, result: dict[str, Any]) -> None:
    """Which layers of the release gate were on, at whom; beside the coordinator's log."""
    layers = {site["name"]: site["layers"] for site in result.get("participants", [])}
    if layers:
        receipt = {"run": settings.run, "protection": result["protection"], "layers": layers}
        if "secure_aggregation" in result:
            receipt["secure_aggregation"] = result["secure_aggregation"]
        checkpoints.write_json(settings.folder / "evidence" / "receipt.json", receipt)
    with contextlib.suppress(OSError):
        evidence.append(
            settings.folder / "evidence" / "coordinator.jsonl",
            {"event": "run ended", "run": settings.run, "status": result.get("status", "failed")},
        )


def _report(settings: Settings) -> None:
    from fedcore.coordinator.report import write_report

    try:
        write_report(settings.folder)
    except OSError as error:
        log.warning("report.html could not be written: %s; `fedcore show` makes it again", error)


@contextlib.contextmanager
def _log_to(file: Path) -> Iterator[None]:
    """Send the logs of fedcore and Flower to the run's log file while the run lasts."""
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("fedcore", "flwr")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()
