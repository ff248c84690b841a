"""A step of training with differential privacy of single rows (DP-SGD).

    1 rows        each takes part by its own coin                    `fedcore.learning.private.sampling.poisson_batch`
    2 gradients   clipped row by row and summed, in as many physical batches as memory asks for      `accumulate`
    3 noise       Gaussian, deviation noise x clip, once             `step`
    4 mean        over the number of rows that is expected, not the number drawn, which is not public

    training = PrivateStep(model, partial(cross_entropy, reduction="none"), clip=1.0, noise=1.1, expected_batch=256)
    for _ in range(steps):
        chosen = poisson_batch(len(x), 256 / len(x))
        for rows in physical_batches(chosen, 128):
            training.accumulate(x[rows], y[rows])
        training.step(optimizer)

What leaves is the model, after any number of steps; that costs what `fedcore.learning.private.calibration.training_cost`
says, for rows that are there or not. Nothing here gives losses or norms: they are no release, and cost nothing only while
nobody sees them.

Source: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, algorithm 1.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import nn

from fedcore.errors import JobError
from fedcore.learning.private.clipping import ClippedSums
from fedcore.learning.private.general import Loss
from fedcore.learning.private.noise import released
from fedcore.learning.private.validation import STEP


class Optimizer(Protocol):
    """What a step is taken with: any of torch's, or `fedcore.learning.sgd.Sgd`."""

    def step(self) -> object:
        """Move the parameters along their gradients."""
        ...


class PrivateStep:
    """Private gradients of a model.

    Args:
        model: Has no layer that rows share (`fedcore.learning.private.validation`). Frozen parameters stay as they are and
            cost nothing.
        loss_per_sample: Losses `[n]` from outputs and targets, row by row.
        clip: Largest l2 norm of a row's gradient, above 0.
        noise: Standard deviation of the noise / clip, above 0.
        expected_batch: Rows of a step on average, rows x sampling rate, above 0; public.

    Raises:
        JobError: A number is out of range, or the model cannot be trained so.
    """

    def __init__(
        self, model: nn.Module, loss_per_sample: Loss, *, clip: float, noise: float, expected_batch: float
    ) -> None:
        for name, value in (("noise", noise), ("expected_batch", expected_batch)):
            if not 0 < value < math.inf:
                raise JobError(f"{name} is {value}; allowed: above 0, finite", step=STEP)
        self._sums = ClippedSums(model, loss_per_sample, clip)
        self.deviation = noise * clip
        self.expected_batch = expected_batch
        self.steps = 0
        """Steps taken: what is to be accounted for, whatever became of them."""
        self._total: list[torch.Tensor] | None = None

    @property
    def route(self) -> str:
        """`parts`, or `general` for a model whose every gradient must be made."""
        return self._sums.route

    def accumulate(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Take some rows of the step; a row at most once in a step.

        Args:
            x: `[n, ...]`, n of 0 or more.
            y: `[n, ...]`.

        Raises:
            DataError, JobError: As `fedcore.learning.private.clipping.ClippedSums`; nothing is taken then.
        """
        found = self._sums(x, y)
        if self._total is None:
            self._total = found
        else:
            torch._foreach_add_(self._total, found)

    def step(self, optimizer: Optimizer) -> None:
        """Add noise and move the parameters; also where no row was taken, for nobody may see that.

        Args:
            optimizer: Over parameters of the model.
        """
        parameters = self._sums.trainable
        total, self._total = self._total, None
        self.steps += 1
        if total is None:
            total = [torch.zeros_like(p) for p in parameters]
        # A sum of half precision would round before the noise is in it.
        wide = [each.to(torch.promote_types(each.dtype, torch.float32)) for each in total]
        mean = released(wide, self.deviation, over=self.expected_batch)
        for parameter, each in zip(parameters, mean, strict=True):
            parameter.grad = each.to(parameter)
        optimizer.step()
