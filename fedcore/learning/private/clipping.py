"""Sums over rows of clipped gradients, at close to the cost of a plain gradient.

    sum over i of  g_i min(1, C / |g_i|)        g_i: gradient of row i's loss in all trainable parameters together, C: the clip

In parts, one backward pass gives norms and sum (`fedcore.learning.private.record`), where a second pass over weighted losses
would compute again what is there already; the two were not timed against each other. A model that cannot be watched goes the general way, which is
logged with its reason, once.

A row whose gradient is not finite counts as zero, which is within the clip: what the sum tells of it is bounded like of any
other. To skip the whole step for it would tell that the row is there.

A sum of rounded numbers differs from the exact one by more than the clip bounds, in the 24th bit of float32 (Casacuberta,
Shoemate, Vadhan and Wagaman, CCS 2022); the noise is not enlarged for that.
"""

from __future__ import annotations

import logging

import torch
from torch import nn

from fedcore.errors import DataError, JobError
from fedcore.learning.private.general import Loss, RowByRow
from fedcore.learning.private.parts import Part
from fedcore.learning.private.record import Key, Recorder, Unwatched
from fedcore.learning.private.validation import STEP, check, check_independence

_log = logging.getLogger(__name__)


class ClippedSums:
    """Clipped gradients of a model, summed over rows.

    Args:
        model: Has no layer that rows share; its parameters that require gradients count, and stay the same ones.
        loss: Losses `[n]` from outputs and targets, row by row.
        clip: Largest l2 norm of a row's gradient, above 0.

    Raises:
        JobError: A layer breaks the independence of rows, nothing is trained, or the clip is not allowed.
    """

    def __init__(self, model: nn.Module, loss: Loss, clip: float) -> None:
        if not 0 < clip < float("inf"):
            raise JobError(f"the clip is {clip}; allowed: above 0, finite", step=STEP)
        check(model)
        self.model, self.clip = model, clip
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self._loss = loss
        self._recorder: Recorder | None = None
        self._rows: RowByRow | None = None
        self._looked = False
        try:
            self._recorder = Recorder(model)
        except Unwatched as reason:
            self._go_general(str(reason))

    @property
    def route(self) -> str:
        """`parts`, or `general` for a model that cannot be watched."""
        return "parts" if self._recorder is not None else "general"

    def _go_general(self, reason: str) -> None:
        _log.warning("private training of this model makes every row's gradient: %s", reason)
        self._recorder = None
        self._rows = RowByRow(self.model, self._loss)

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        """The sum over some rows.

        Args:
            x: `[n, ...]`, n of 0 or more.
            y: `[n, ...]`.

        Returns:
            A tensor for each trainable parameter, in the model's order.

        Raises:
            DataError: `x` and `y` do not go together, or the loss gives no number for each row.
            JobError: Rows depend on each other, or other parameters are trained than at the start.
        """
        if len(x) != len(y):
            raise DataError(f"{len(x)} rows and {len(y)} targets; allowed: as many", step=STEP)
        now = [p for p in self.model.parameters() if p.requires_grad]
        if len(now) != len(self.trainable) or any(
            a is not b for a, b in zip(now, self.trainable, strict=True)
        ):
            raise JobError(
                "other parameters are trained than at the start; freeze and unfreeze before, or start anew",
                step=STEP,
            )
        if not len(x):
            return [torch.zeros_like(p) for p in self.trainable]
        if not self._looked and len(x) > 1:
            self._look(x[:2], y[:2])
            self._looked = True
        with torch.enable_grad():
            if self._recorder is not None:
                try:
                    return self._in_parts(self._recorder, x, y)
                except Unwatched as reason:
                    self._go_general(str(reason))
            return self._in_general(x, y)

    def _losses(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        losses = self._loss(self.model(x), y)
        if losses.shape != (len(x),):
            raise DataError(
                f"the loss of {len(x)} rows has the shape {tuple(losses.shape)}; allowed: one number for each row, as with "
                "reduction='none'",
                step=STEP,
            )
        return losses

    def _look(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """At one row alone and among others, without dropout."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad():
                check_independence(self._losses(x[:1], y[:1])[0], self._losses(x, y)[0])
            if self._recorder is not None:
                # One row alone shows a first axis that is something else.
                with self._recorder.watching(), torch.enable_grad():
                    losses = self._losses(x[:1], y[:1])
                self._recorder.gradients(losses)
        except Unwatched as reason:
            self._go_general(str(reason))
        finally:
            for module, mode in modes:
                module.training = mode

    def _in_parts(self, recorder: Recorder, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        with recorder.watching():
            losses = self._losses(x, y)
        parts = recorder.gradients(losses)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            squared = losses.new_zeros(len(x), dtype=torch.float32)
            for part in parts.values():
                squared = squared + part.squared_norms()
            finite = torch.isfinite(squared)
            if bool(finite.all()):
                return self._summed(parts, self._weights(squared))
        del parts
        return self(x[finite], y[finite])

    def _summed(self, parts: dict[Key, Part], weights: torch.Tensor) -> list[torch.Tensor]:
        found: dict[nn.Parameter, torch.Tensor] = {}
        for (parameter, start, stop), part in parts.items():
            total = part.weighted_sum(weights.to(_dtype(part)))
            if stop - start == len(parameter) and parameter not in found:
                found[parameter] = total.view(parameter.shape)
                continue
            if parameter not in found:
                found[parameter] = torch.zeros_like(parameter, dtype=total.dtype)
            found[parameter][start:stop] += total
        return [found.get(p, torch.zeros_like(p)) for p in self.trainable]

    def _in_general(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        rows = self._rows
        if rows is None:
            raise JobError("the general way was not prepared; this is worth reporting", step=STEP)
        total = [torch.zeros_like(p) for p in self.trainable]
        for start in range(0, len(x), rows.at_a_time):
            made = rows.gradients(x[start : start + rows.at_a_time], y[start : start + rows.at_a_time])
            with torch.no_grad():
                flat = [each.reshape(len(each), -1) for each in made]
                squared = torch.stack([torch.linalg.vecdot(each, each) for each in flat]).sum(0)
                finite = torch.isfinite(squared)
                weights = self._weights(squared[finite])
                for own, each in zip(total, flat, strict=True):
                    own += (weights @ each[finite]).view(own.shape)
        return total

    def _weights(self, squared: torch.Tensor) -> torch.Tensor:
        return (self.clip / squared.sqrt()).clamp_(max=1)


def _dtype(part: Part) -> torch.dtype:
    held = getattr(part, "outputs", None)
    found = held if held is not None else part.gradients  # type: ignore[attr-defined]
    dtype: torch.dtype = found.dtype
    return dtype
