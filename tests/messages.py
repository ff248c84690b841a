"""Requests and messages for tests of one layer, as the coordinator would make them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedcore.flower import array_record, enter_process, stamp
from fedcore.jobs.job import CustomTask, LocalTraining, TabularTask, TrainJob
from fedcore.jobs.load import load_participant
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import RECORD, Request, request_for
from tests.sites import ALLOW, blobs, write_site

CONTEXT = Context(run_id=1, node_id=7, node_config={}, state=RecordDict(), run_config={})


def a_job(**changes: Any) -> TrainJob:
    """A small train job over the data set `study`; `changes` replace its keys."""
    written = {
        "kind": "train",
        "name": "study-job",
        "data": "study",
        "task": {"use": "tabular-classifier", "target": "y", "model": "logistic", "standardize": "none"},
        "local": {"lr": 0.1, "batch_size": 8},
        "deadline": 20,
        "seed": 3,
        **changes,
    }
    return TrainJob.model_validate(written)


def a_request(*, run: str = "run-1", cohort: int = 3, schema: Any = None, **changes: Any) -> Request:
    """What `a_job(**changes)` asks of a participant."""
    return request_for(a_job(**changes), run, cohort, schema)


def tabular(**changes: Any) -> TabularTask:
    """A tabular task over `y`."""
    return TabularTask.model_validate({"use": "tabular-classifier", "target": "y", **changes})


def custom(use: str, **changes: Any) -> CustomTask:
    """A custom task."""
    return CustomTask.model_validate({"use": use, "target": "y", **changes})


def local(**changes: Any) -> LocalTraining:
    """Local training on the CPU."""
    return LocalTraining.model_validate({"device": "cpu", "lr": 0.1, "batch_size": 8, **changes})


def message(
    kind: str = "train",
    *,
    request: Request | None = None,
    arrays: Mapping[str, Any] | None = None,
    node: int = 7,
    **config: Any,
) -> Message:
    """A message as a strategy and the cohort grid make it."""
    enter_process()
    content: dict[str, Any] = {}
    if arrays is not None:
        content["arrays"] = array_record({name: np.asarray(value) for name, value in arrays.items()})
    if config:
        content["config"] = ConfigRecord({name.replace("_", "-"): value for name, value in config.items()})
    if request is not None:
        content[RECORD] = ConfigRecord({"request": request.to_json()})
    made = Message(RecordDict(content), node, kind)
    stamp(made)
    return made


def reply_to(
    asked: Message, arrays: Mapping[str, Any] | None = None, examples: float | None = 1, **metrics: Any
) -> Message:
    """A participant's reply; `examples=None` leaves their number out."""
    numbers = metrics if examples is None else {"num-examples": examples, **metrics}
    content: dict[str, Any] = {"metrics": MetricRecord(numbers)}
    if arrays is not None:
        content["arrays"] = array_record({name: np.asarray(value) for name, value in arrays.items()})
    return Message(RecordDict(content), reply_to=asked)


def a_site(
    folder: Path,
    columns: Mapping[str, Any] | None = None,
    *,
    name: str = "site-0",
    rule: str = ALLOW,
    extra: str = "",
) -> Participant:
    """A participant with one data set, `study`, of 40 rows unless told otherwise."""
    columns = blobs(40, 0) if columns is None else dict(columns)
    return load_participant(write_site(folder, name, columns, rule=rule, extra=extra))
