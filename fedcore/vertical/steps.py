"""The steps of a vertical job, and what each needs of the steps before it."""

from __future__ import annotations

from fedcore.errors import JobError
from fedcore.jobs.reveals import BIN, SELECT, is_binary
from fedcore.jobs.vertical import Logistic, VerticalJob

ALIGN, SCORE, REPORT = "align", "score", "report"
MODEL = "model:"
"""What stands before a model's name."""


def steps_of(job: VerticalJob) -> tuple[str, ...]:
    """In their order: `align`, `bin`, `select`, `model:NAME` for each, `score`, `report`.

    Without a label of 0 or 1 there are no weights of evidence, and neither `bin` nor `select`.

    Raises:
        JobError: The models do not fit together.
    """
    binned = (BIN, SELECT) if is_binary(job) else ()
    return (ALIGN, *binned, *(MODEL + name for name in job.models), SCORE, REPORT)


def check_models(job: VerticalJob) -> None:
    """Refuse what the models cannot do together, or with so many parties, before anything starts.

    Raises:
        JobError: With what is allowed.
    """
    from fedcore.vertical.glm_setup import unsupported  # here, because it imports what models are made of

    steps_of(job)
    for name, model in job.models.items():
        if isinstance(model, Logistic):
            try:
                unsupported(model, len(job.partners))
            except JobError as error:
                raise JobError(f"models.{name}: {error.message}", step="prepare") from error


def folder_name(step: str) -> str:
    """The folder of a step's result: its name, without what a folder's name must not have."""
    return step.replace(":", "-")


def pairs_of(job: VerticalJob) -> tuple[tuple[str, str], ...]:
    """Who talks with whom: the label holder with each partner, and the first partner with the others."""
    holder, partners = job.label.party, job.partners
    return (*((holder, name) for name in partners), *((partners[0], name) for name in partners[1:]))
