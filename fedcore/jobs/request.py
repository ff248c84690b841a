"""What the coordinator asks of a participant, as it travels: one JSON text beside Flower's own records."""

from __future__ import annotations

import json
from functools import cached_property, lru_cache
from typing import Any, Literal

from pydantic import ValidationError

from fedcore.errors import JobError
from fedcore.jobs.common import Name, Strict
from fedcore.jobs.job import LocalTraining, Strategy, Task, TrainJob

RECORD = "fedcore"
"""Name of the ConfigRecord that carries the request."""

VERSION = 1


class Request(Strict):
    """A request to a participant.

    Args:
        version: Of this format; both sides must speak the same.
        run: The run it belongs to.
        job, kind, purpose, data: Of the job.
        cohort: How many participants take part.
        task, local, strategy, seed: Of the job.
        schema_: What the participants agreed their rows look like; None while preparing.
    """

    version: Literal[1] = 1
    run: Name
    job: Name
    kind: Literal["train"]
    purpose: Name
    data: Name
    cohort: int
    task: Task
    local: LocalTraining
    strategy: Strategy
    seed: int
    schema_: dict[str, Any] | None = None

    @cached_property
    def rows_key(self) -> str:
        """What decides which rows are read for which purpose; equal for a run's prepare and its rounds."""
        return self.model_dump_json(exclude={"cohort", "schema_", "strategy"})

    @cached_property
    def work_key(self) -> str:
        """What decides the work; equal for all rounds of a run."""
        return self.model_dump_json(exclude={"cohort"})

    def to_json(self) -> str:
        """The text that travels."""
        return self.model_dump_json(by_alias=True)


def request_for(job: TrainJob, run: str, cohort: int, schema: dict[str, Any] | None) -> Request:
    """The request that a job makes of each participant of a run."""
    return Request(
        run=run,
        job=job.name,
        kind=job.kind,
        purpose=job.purpose,
        data=job.data,
        cohort=cohort,
        task=job.task,
        local=job.local,
        strategy=job.strategy,
        seed=job.seed,
        schema_=schema,
    )


@lru_cache(maxsize=64)
def parse_request(text: str) -> Request:
    """Read a request, strictly: a participant acts on nothing it does not know.

    Raises:
        JobError: Not a request of this version.
    """
    try:
        version = json.loads(text).get("version")
        if version != VERSION:
            raise JobError(
                f"the coordinator speaks request version {version!r}, this participant {VERSION}; "
                "install the same version of fedcore at both"
            )
        return Request.model_validate_json(text)
    except (ValueError, AttributeError, ValidationError) as error:
        raise JobError("the coordinator's message is not a request this version of fedcore knows") from error
