"""The model as the coordinator holds it: initial weights, and evaluation on data of the coordinator's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedcore.errors import DataError
from fedcore.flower import NDArray
from fedcore.jobs.job import ImageTask, SegmentationTask, TrainJob
from fedcore.learning.builtin import build_task
from fedcore.learning.examples import Examples, encode, rows_from_table
from fedcore.learning.seeds import derive_seed, own_randomness, seeded_model
from fedcore.learning.segmentation import check_masks
from fedcore.learning.task import Schema
from fedcore.learning.training import evaluate, load_arrays, placed, take_arrays


class Model:
    """A job's task over the agreed schema, at the coordinator.

    Args:
        job: Names the task and the central data.
        schema: As agreed in prepare.

    Raises:
        DataError: The central data does not fit the schema.
    """

    def __init__(self, job: TrainJob, schema: Schema) -> None:
        self.job = job
        self.schema = schema
        self.task = build_task(job.task, schema)
        seed = derive_seed(job.seed, "initial weights")
        self.module = placed(own_randomness(seeded_model(self.task.model, seed)), torch.device("cpu"))
        self._initial = take_arrays(self.module)
        self.central = _central_rows(job, schema, self.task.classification)

    def initial_arrays(self) -> dict[str, NDArray]:
        """Weights before round 1, the same for the same seed."""
        return dict(self._initial)

    def evaluate_central(self, arrays: dict[str, NDArray]) -> dict[str, float] | None:
        """Metrics on the central data; None without."""
        return None if self.central is None else self.evaluate_on(arrays, self.central)

    def evaluate_on(self, arrays: dict[str, NDArray], rows: Examples) -> dict[str, float]:
        """Metrics on some rows."""
        load_arrays(self.module, {name: np.array(value) for name, value in arrays.items()})
        return evaluate(self.module, self.task, rows)

    def describe(self, arrays: dict[str, NDArray]) -> dict[str, Any]:
        """Size, for the result."""
        return {
            "file": "model.safetensors",
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "bytes": sum(value.nbytes for value in arrays.values()),
        }


def write_card(file: Path, job: TrainJob, schema: Schema) -> None:
    """What is needed to use the weights: task, features in order, scaling, classes."""
    card = {"task": job.task.model_dump(mode="json"), "schema": schema.as_dict(), "seed": job.seed}
    file.write_text(json.dumps(card, indent=1))


def _central_rows(job: TrainJob, schema: Schema, classification: bool) -> Examples | None:
    data = job.evaluation.central
    if data is None:
        return None
    from fedcore.participant.data import read_table

    try:
        features = schema.features
        columns = None
        if isinstance(job.task, ImageTask | SegmentationTask):
            features = job.task.features
            columns = [*features, job.task.target, *([data.row_id] if data.row_id else [])]
        rows = rows_from_table(read_table(data, columns), features, job.task.target, data.row_id)
        if isinstance(job.task, SegmentationTask):
            check_masks(rows, job.task)
        return encode(rows, schema, classification, np.arange(len(rows)))
    except DataError as error:
        raise DataError(
            f"evaluation.central: {error.message}", party="coordinator", step="prepare"
        ) from error


def torch_threads(count: int) -> None:
    """Threads inside one torch operation; participants that train side by side get one each."""
    torch.set_num_threads(max(1, count))
