"""A site's rows for one run: read once, described, split, encoded and kept while the run lasts."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from fedcore.errors import DataError, JobError, PolicyRefused
from fedcore.jobs.job import BUILT_IN_TASKS, CustomTask, ImageTask, SegmentationTask
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import TrainRequest
from fedcore.learning.builtin import Classifier, build_task, task_class
from fedcore.learning.examples import (
    Examples,
    NDArray,
    Rows,
    classes_of,
    columns_to_read,
    encode,
    rows_from_table,
    split,
)
from fedcore.learning.segmentation import check_masks
from fedcore.learning.task import Schema, Task
from fedcore.participant.mods.policy import check
from fedcore.participant.usable_rows import usable

RUNS_KEPT = 2

log = logging.getLogger("fedcore.participant")

T = TypeVar("T")


@dataclass(frozen=True)
class Site:
    """What a site knows about its rows before anything is agreed.

    Args:
        rows: All of them.
        train, validation: Row numbers of the two sides of the split, int64.
        classes: Distinct target values at this site; empty without a class target. Under a promise to each row those that
            the job names.
        unusable: Rows that are held and count as nothing, under a promise to each row.
    """

    rows: Rows
    train: NDArray
    validation: NDArray
    classes: tuple[int | float | str, ...]
    unusable: int = 0

    @property
    def held(self) -> int:
        """Rows that are trained on, with those that count as nothing."""
        return len(self.train) + self.unusable

    def describe(self) -> dict[str, Any]:
        """For the coordinator: names, no values of features."""
        x = self.rows.x
        return {
            "features": list(self.rows.features),
            "shape": list(x.shape[1:]),
            "dtype": "uint8" if x.dtype == np.uint8 else "float32",
            "classes": list(self.classes),
        }

    def counts(self) -> dict[str, int]:
        """How many rows there are, and on the two sides of the split."""
        return {
            "rows": len(self.rows) + self.unusable,
            "train_rows": self.held,
            "validation_rows": len(self.validation),
        }

    def moments(self) -> tuple[list[float], list[float]]:
        """Sum and sum of squares of each feature over the training rows, in double precision."""
        x = self.rows.x[self.train].astype(np.float64)
        return x.sum(axis=0).tolist(), np.square(x).sum(axis=0).tolist()


@dataclass(frozen=True)
class Ready:
    """A site's rows once the schema is agreed.

    Args:
        task: Over the agreed schema.
        train, validation: Encoded rows on the device.
    """

    task: Task
    train: Examples
    validation: Examples


def open_site(participant: Participant, request: TrainRequest) -> Site:
    """Read, check and split the rows that a request names; kept for the run's later rounds.

    Raises:
        DataError: The data cannot serve the task.
        PolicyRefused: Fewer rows than the site's policy asks for.
    """
    key = (participant.name, request.rows_key)
    site = _of_run(request.run, key, lambda: _open(participant, request))
    # Asked each time: another cohort may fall under another rule.
    _refuse_few(participant, request, len(site.rows) + site.unusable)
    return site


def ready_site(participant: Participant, request: TrainRequest, device: torch.device) -> Ready:
    """The rows encoded by the request's agreed schema, on a device; kept for the run's later rounds."""
    site = open_site(participant, request)
    key = (participant.name, f"{device} {request.work_key}")
    return _of_run(request.run, key, lambda: _ready(site, request, device))


def _open(participant: Participant, request: TrainRequest) -> Site:
    import pyarrow as pa

    from fedcore.participant.data import read_schema, read_table

    data = participant.catalogue[request.data]
    spec = request.task
    features = (spec.image,) if isinstance(spec, ImageTask) else spec.features
    columns = None
    if features is not None:
        columns = columns_to_read(read_schema(data).names, features, spec.target, data.row_id)
    table = read_table(data, columns, memory=participant.resources.memory)
    classification = _classification(spec)
    _refuse_few(participant, request, table.num_rows)
    promised, all_rows = request.of_record, table.num_rows
    if promised is not None:
        if classification and promised.classes is None:
            raise JobError(
                "the task is a classification; protection.differential_privacy.classes must name its classes"
            )
        values = len(spec.classes) if isinstance(spec, SegmentationTask) else None
        named = (promised.classes or ()) if classification else None
        table = table.filter(pa.array(usable(table, features, spec.target, data.row_id, named, values)))
        if lost := all_rows - table.num_rows:
            log.warning(
                "%s: %d of %d rows of %s cannot be used (a missing or infinite value, or a class that the job does not "
                "name) and count as nothing in run %s",
                participant.name,
                lost,
                all_rows,
                request.data,
                request.run,
            )
    rows = rows_from_table(table, features, spec.target, data.row_id, empty=promised is not None)
    if isinstance(spec, SegmentationTask):
        check_masks(rows, spec)
    classes: tuple[int | float | str, ...] = ()
    if classification and promised is not None:
        classes = promised.classes or ()
    elif classification:
        if rows.target is None:
            raise DataError("the task is a classification and needs task.target, the column with the class")
        classes = tuple(classes_of(rows.target, str(spec.target)))
    elif rows.target is not None and rows.target.dtype.kind not in "biuf":
        raise DataError(f"the target {spec.target!r} is not numeric; a task without classes needs numbers")
    train, validation = split(
        rows, request.local.validation, classification, request.seed, participant.name, "split"
    )
    if len(train) == 0 and promised is None:
        raise DataError(
            "no rows are left to train on after the validation rows are set aside; lower local.validation"
        )
    return Site(rows, train, validation, classes, all_rows - len(rows))


def _refuse_few(participant: Participant, request: TrainRequest, rows: int) -> None:
    least = check(participant, request).min_rows
    if rows < least:
        raise PolicyRefused(
            f"data set {request.data!r} has fewer rows than the {least} that the site's policy asks for "
            "(policy.rules, min_rows)"
        )


def _classification(spec: Any) -> bool:
    if isinstance(spec, SegmentationTask):
        return False
    if spec.use in BUILT_IN_TASKS:
        return Classifier.classification
    return task_class(spec).classification if isinstance(spec, CustomTask) else False


def _ready(site: Site, request: TrainRequest, device: torch.device) -> Ready:
    task = agreed_task(request)
    sides = [
        encode(site.rows, task.schema, task.classification, at).to(device)
        for at in (site.train, site.validation)
    ]
    return Ready(task, *sides)


def agreed_task(request: TrainRequest) -> Task:
    """The request's task over its agreed schema; one object for all participants in a process."""
    agreed = request.schema_
    if agreed is None:
        raise DataError("the request carries no agreed schema; the coordinator must prepare the run first")
    key = ("", request.work_key)
    return _of_run(request.run, key, lambda: build_task(request.task, Schema.from_dict(agreed)))


_cache: OrderedDict[str, dict[tuple[str, str], Any]] = OrderedDict()
_lock = threading.Lock()


def _of_run(run: str, key: tuple[str, str], make: Callable[[], T]) -> T:
    with _lock:
        of_run = _cache.setdefault(run, {})
        _cache.move_to_end(run)
        while len(_cache) > RUNS_KEPT:
            _cache.popitem(last=False)
        if key in of_run:
            found: T = of_run[key]
            return found
    made = make()
    with _lock:
        of_run[key] = made
    return made
