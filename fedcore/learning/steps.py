"""Steps of a training round, and which of them count."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn

from fedcore.learning.gradients import Gradients, all_finite
from fedcore.learning.several import SharedGradients
from fedcore.learning.sgd import Sgd
from fedcore.learning.task import Batch
from strategies.base import ClientHalf


class Steps:
    """The steps of one round.

    Args:
        model: Changed in place.
        gradients: Of the model.
        optimizer: Over its trainable parameters.
        scaler: Of the loss, for float16.
        half: Client half of the strategy; sees the gradients of steps that are taken.
        careful: Look at each loss and gradient, and skip the step where one is not finite: nothing of it stays, not in the
            weights, the optimizer or the statistics of batch normalisation. Waits for a GPU in each step.

    Attributes:
        taken: Steps that moved the weights.
        skipped: Steps that did not.
    """

    def __init__(
        self,
        model: nn.Module,
        gradients: Gradients | SharedGradients,
        optimizer: torch.optim.Optimizer | Sgd,
        *,
        scaler: torch.amp.GradScaler | None = None,
        half: ClientHalf | None = None,
        careful: bool = False,
    ) -> None:
        self.taken = self.skipped = 0
        self._model, self._gradients, self._optimizer = model, gradients, optimizer
        self._scaler, self._half, self._careful = scaler, half, careful
        self._buffers = list(model.buffers()) if careful else []
        self._total: torch.Tensor | None = None
        self._seen = 0
        self._fine: Batch | None = None

    def __call__(self, batch: Batch) -> None:
        """Take a step, or skip it."""
        before = [each.clone() for each in self._buffers]
        loss = self._gradients(batch)
        if not self._right(loss):
            restore(self._buffers, before)
            self.skipped += 1
            return
        if self._half is not None:
            self._half.adjust_gradients(self._model)
        if self._scaler is not None:
            self._scaler.step(self._optimizer)  # type: ignore[arg-type]
            self._scaler.update()
        else:
            self._optimizer.step()
        if self._careful and self._fine is None:
            self._fine = Batch(batch.x.clone(), batch.y.clone())
        loss = loss * len(batch)
        self._total = loss if self._total is None else self._total.add_(loss)
        self._seen += len(batch)
        self.taken += 1
        if self._half is not None:
            self._half.steps = self.taken

    def loss(self) -> float:
        """Mean loss of the steps taken, per row; NaN before the first. Waits for a GPU."""
        return float(self._total) / self._seen if self._total is not None else float("nan")

    def usable(self, autocast: Callable[[], AbstractContextManager[object]]) -> bool:
        """Whether the model still has a finite loss on rows that it had one on; one whose weights diverged has not.

        Args:
            autocast: Makes the context of a forward pass.
        """
        if self._fine is None:
            return False
        self._model.eval()
        with torch.no_grad(), autocast():
            finite = all_finite([self._gradients.task.loss(self._model, self._fine)])
        self._model.train()
        return finite

    def _right(self, loss: torch.Tensor) -> bool:
        if self._careful and not all_finite([loss]):
            return False
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)  # type: ignore[arg-type]
        if not self._careful or self._gradients.finite():
            return True
        if self._scaler is not None:
            self._scaler.update()  # they overflowed: a smaller scale for the next one
        return False


def restore(weights: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    """Put values back into weights, in place."""
    with torch.no_grad():
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)
