"""The task: what a person writes to say what is learned.

A task has three methods. Data loading, device choice, mixed precision, local epochs, seeds and early stopping
are done by fedcore:

    class Ridge(fedcore.Task):
        def model(self):
            return torch.nn.Linear(len(self.schema.features), 1)

        def loss(self, model, batch):
            return torch.nn.functional.mse_loss(model(batch.x).squeeze(1), batch.y)

        def metrics(self, model, batches):
            losses = [(self.loss(model, batch).item(), len(batch)) for batch in batches]
            return {"mse": sum(loss * n for loss, n in losses) / sum(n for _, n in losses)}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Schema:
    """What all participants agreed their rows look like.

    Args:
        features: Columns in the order of `Batch.x`'s last axis; for images the one image column.
        shape: Shape of one row of `Batch.x`.
        classes: Distinct values of the target over all sites, sorted; empty for a regression target or none.
        mean: Per feature, over all sites' training rows; empty when not standardised.
        scale: Per feature standard deviation (1 for a constant column); empty when not standardised.
    """

    features: tuple[str, ...]
    shape: tuple[int, ...]
    classes: tuple[int | float | str, ...] = ()
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Schema:
        """Back from JSON."""
        return cls(**{name: tuple(value) for name, value in values.items()})


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows.

    Args:
        x: Float32, `[n, *schema.shape]`; images are `[n, channels, height, width]` in [0, 1].
        y: Int64 class indices `[n]`, or float32 `[n]` for a numeric target, or empty `[0]` without one.
    """

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return int(self.x.shape[0])


class Task(ABC):
    """What is learned: a model, a loss and the metrics to report.

    `self.schema` is set before any method is called. The constructor's arguments come from the job's
    `task: {use: package.module:Class, with: {...}}`.
    """

    schema: Schema

    classification: bool = False
    """Whether the target is a class (then `Batch.y` holds indices into `schema.classes`)."""

    @abstractmethod
    def model(self) -> nn.Module:
        """A fresh module. Its initial weights are drawn from torch's global generator, which is seeded."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The mean loss over the batch, a scalar to differentiate."""

    def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of each row, from the model's outputs for `Batch.x` and `Batch.y`; for record-level privacy.

        Only a task that says it can be trained with `differential_privacy: {level: record}`, where each row's gradient is
        clipped. The loss of a row must not depend on another row.

        Args:
            outputs: `model(batch.x)`, rows on the first axis.
            y: `batch.y`.

        Returns:
            `[n]`.
        """
        raise NotImplementedError(f"{type(self).__name__} says no loss for each row")

    def augmented(self, batch: Batch, source: torch.Generator) -> Batch:
        """The rows of one training step, changed at random; as they are where a task says nothing else.

        Each row from itself and its own random numbers alone.

        Args:
            batch: On the device that is trained on.
            source: Seeded for the participant and the round; on that device.
        """
        return batch

    @abstractmethod
    def metrics(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Metrics over the rows in `batches`; the model is in evaluation mode, gradients are off.

        Each is averaged over the sites, weighted by rows. NaN says "not defined here" (an AUC over one class)
        and leaves the site out of that average.
        """


@dataclass
class MetricSums:
    """Adds up per-batch sums; `means()` divides by the rows."""

    rows: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, rows: int, **sums: float) -> None:
        """Add sums over `rows` further rows."""
        self.rows += rows
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """The mean of each, NaN over no rows."""
        return {name: value / self.rows if self.rows else float("nan") for name, value in self.sums.items()}
