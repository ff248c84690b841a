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
        self._total: _Sums | None = None
        self._rooms: list[_Sums] = []

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
        room = self._room()
        # Nothing of this is in the total before all of it is there.
        self._sums(x, y, room.views)
        if self._total is None:
            self._total = room
        else:
            torch._foreach_add_(self._total.flat, room.flat)
            self._rooms.append(room)

    def step(self, optimizer: Optimizer) -> None:
        """Add noise and move the parameters; also where no row was taken, for nobody may see that.

        Args:
            optimizer: Over parameters of the model.
        """
        parameters = self._sums.trainable
        total, self._total = self._total, None
        self.steps += 1
        if total is None:
            total = self._room()
            torch._foreach_zero_(total.flat)
        for parameter in parameters:
            parameter.grad = None  # its memory is the next one's
        mean = total.like(released(total.flat, self.deviation, over=self.expected_batch))
        self._rooms.append(total)
        for parameter, each in zip(parameters, mean, strict=True):
            parameter.grad = each if each.dtype == parameter.dtype else each.to(parameter.dtype)
        optimizer.step()

    def _room(self) -> _Sums:
        """For sums, and whatever is in it; memory that was written before is taken again faster than new one."""
        while self._rooms:
            room = self._rooms.pop()
            if room.fits(self._sums.trainable):
                return room
        return _Sums(self._sums.trainable)


class _Sums:
    """Numbers for all parameters, side by side in one tensor for each device and type; zeros at first.

    In float32 at least: a sum of half precision would round before the noise is in it.

    Args:
        parameters: In order.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._like = [(p.device, p.dtype, p.shape) for p in parameters]
        kinds = [(device, torch.promote_types(dtype, torch.float32)) for device, dtype, _ in self._like]
        self._groups = [[i for i, kind in enumerate(kinds) if kind == one] for one in dict.fromkeys(kinds)]
        self.flat = [
            torch.zeros(sum(_padded(parameters[i].numel()) for i in group), device=device, dtype=dtype)
            for (device, dtype), group in zip(dict.fromkeys(kinds), self._groups, strict=True)
        ]
        self.views = self.like(self.flat)

    def fits(self, parameters: list[nn.Parameter]) -> bool:
        """Whether these parameters are still where they were."""
        return self._like == [(p.device, p.dtype, p.shape) for p in parameters]

    def like(self, flat: list[torch.Tensor]) -> list[torch.Tensor]:
        """Others of the form of `flat`, as one tensor for each parameter."""
        views = [flat[0]] * len(self._like)
        for group, whole in zip(self._groups, flat, strict=True):
            at = 0
            for i in group:
                shape = self._like[i][2]
                size = shape.numel()
                views[i] = whole[at : at + size].view(shape)
                at += _padded(size)
        return views


def _padded(size: int) -> int:
    """Each parameter begins at a multiple of 64 bytes."""
    return -(-size // 16) * 16
