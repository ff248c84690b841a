"""Record-level privacy over a run: what is refused before round 1, and what is told of it."""

from __future__ import annotations

from typing import Any

from fedcore.coordinator.model import Model
from fedcore.coordinator.prepare import Agreement
from fedcore.coordinator.workflows.private import refuse_counters
from fedcore.errors import JobError
from fedcore.jobs.job import TrainJob
from fedcore.learning.private.loop import check_task
from fedcore.learning.private.validation import check
from fedcore.privacy.sensitivity import Neighbours


def check_records(job: TrainJob, model: Model) -> None:
    """Refuse a model or a task whose rows cannot be told apart, where the job promises privacy to each.

    Raises:
        JobError: With all layers that rows share, at once, or the method that the task lacks.
    """
    if job.protection.of_record is None:
        return
    try:
        check_task(model.task)
        check(model.module)
        refuse_counters(model.initial_arrays())
    except JobError as error:
        raise JobError(error.message, party="coordinator", step="prepare") from error


def records_told(job: TrainJob, agreement: Agreement, rounds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """For the result: what was promised to each row, and how far it was used; None where nothing was.

    The sites' noise stands there where their numbers of rows are known, from which it follows.
    """
    asked = job.protection.of_record
    if asked is None:
        return None
    return {
        "level": asked.level,
        "neighbours": Neighbours("row", "add-remove").word,
        "epsilon": asked.epsilon,
        "delta": asked.delta,
        "clip": asked.clip,
        "rounds_paid": job.rounds + asked.spare,
        "rounds_completed": len(rounds),
        "sites": {name: site["private"] for name, site in agreement.sites.items() if "private" in site},
    }
