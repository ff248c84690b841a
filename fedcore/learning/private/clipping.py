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
import math
from collections import defaultdict

import torch
from torch import nn

from fedcore.errors import DataError, JobError
from fedcore.learning.kernels import norms
from fedcore.learning.private.general import Loss, RowByRow
from fedcore.learning.private.layers import Single, SingleBias
from fedcore.learning.private.parts import Part, Rows
from fedcore.learning.private.record import Key, Recorder, Unwatched, without_autocast
from fedcore.learning.private.validation import STEP, check, check_gradient, check_independence, kept

_log = logging.getLogger(__name__)

TINY = torch.finfo(torch.float32).tiny
LOOK = 4
"""Rows that are looked at, at most."""


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

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor, out: list[torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        """The sum over some rows.

        Args:
            x: `[n, ...]`, n of 0 or more.
            y: `[n, ...]`.
            out: Where the sum is written, shaped as the trainable parameters are; what is there does not matter, nor what is
                left there by an error. New tensors by default.

        Returns:
            A tensor for each trainable parameter, in the model's order; `out` where it is given.

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
            out = [torch.empty_like(p) for p in self.trainable] if out is None else out
            torch._foreach_zero_(out)
            return out
        if not self._looked and len(x) > 1:
            self._look(x[:LOOK], y[:LOOK])
            self._looked = True
        with torch.enable_grad():
            if self._recorder is not None:
                try:
                    return self._in_parts(self._recorder, x, y, out)
                except Unwatched as reason:
                    self._go_general(str(reason))
            return self._in_general(x, y, out)

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
        """At one row among others: as in training, and alone and among them without dropout."""
        with torch.enable_grad(), kept(self.model):
            check_gradient(self._losses, x, y)
        with torch.no_grad():
            self._look_at_values(x, y)
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with kept(self.model):
                self._look_without_dropout(x, y)
        except Unwatched as reason:
            self._go_general(str(reason))
        finally:
            for module, mode in modes:
                module.training = mode

    def _look_without_dropout(self, x: torch.Tensor, y: torch.Tensor) -> None:
        with torch.no_grad():
            check_independence(self._losses(x[:1], y[:1])[0], self._losses(x, y)[0])
        if self._recorder is not None:
            # One row alone shows a first axis that is something else.
            with self._recorder.watching(), torch.enable_grad():
                losses = self._losses(x[:1], y[:1])
            self._recorder.gradients(losses)

    def _look_at_values(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """At one row among others and among others still, as in training: what gradients do not show."""
        found = []
        others = x[:1].expand_as(x), y[:1].expand_as(y)
        for batch in ((x, y), (x, y), others):
            with kept(self.model):
                found.append(self._losses(*batch)[0])
        # Random numbers of the process's own make two passes differ.
        if torch.equal(found[0], found[1]):
            check_independence(found[0], found[2])

    def _in_parts(
        self, recorder: Recorder, x: torch.Tensor, y: torch.Tensor, out: list[torch.Tensor] | None
    ) -> list[torch.Tensor]:
        with recorder.watching():
            losses = self._losses(x, y)
        parts = recorder.gradients(losses)
        with torch.no_grad(), without_autocast(x.device):
            squared = _squared_norms(parts, len(x), x.device)
            # One number to look at; it may be infinite where none of them is.
            if math.isfinite(float(squared.sum())) or bool(torch.isfinite(squared).all()):
                return self._summed(parts, self._weights(squared), out)
            finite = torch.isfinite(squared)
        del parts
        return self(x[finite], y[finite], out)

    def _summed(
        self, parts: dict[Key, Part], weights: torch.Tensor, out: list[torch.Tensor] | None
    ) -> list[torch.Tensor]:
        own: dict[nn.Parameter, list[tuple[int, int, Part]]] = defaultdict(list)
        for (parameter, start, stop), part in parts.items():
            own[parameter].append((start, stop, part))
        if out is None:
            kinds = [_dtype(own[p][0][2]) if p in own else p.dtype for p in self.trainable]
            out = [
                torch.empty(p.shape, dtype=kind, device=p.device)
                for p, kind in zip(self.trainable, kinds, strict=True)
            ]
        cast = {weights.dtype: weights}
        for parameter, place in zip(self.trainable, out, strict=True):
            here = own.get(parameter, [])
            if not here or sum(stop - start for start, stop, _ in here) != parameter.shape[0]:
                place.zero_()
            for start, stop, part in here:
                kind = _dtype(part)
                if kind not in cast:
                    cast[kind] = weights.to(kind)
                _write(part, cast[kind], place if stop - start == place.shape[0] else place[start:stop])
        return out

    def _in_general(
        self, x: torch.Tensor, y: torch.Tensor, out: list[torch.Tensor] | None
    ) -> list[torch.Tensor]:
        rows = self._rows
        if rows is None:
            raise JobError("the general way was not prepared; this is worth reporting", step=STEP)
        total = [torch.empty_like(p) for p in self.trainable] if out is None else out
        torch._foreach_zero_(total)
        for start in range(0, len(x), rows.at_a_time):
            made = rows.gradients(x[start : start + rows.at_a_time], y[start : start + rows.at_a_time])
            with torch.no_grad(), without_autocast(x.device):
                squared = torch.stack([norms.squares(each) for each in made]).sum(0)
                finite = torch.isfinite(squared)
                weights = self._weights(squared[finite])
                for own, each in zip(total, made, strict=True):
                    wide = each.to(torch.promote_types(each.dtype, torch.float32)).flatten(1)
                    own += (weights.to(wide.dtype) @ wide[finite]).view(own.shape)
        return total

    def _weights(self, squared: torch.Tensor) -> torch.Tensor:
        weights = squared.rsqrt().mul_(self.clip).clamp_(max=1)
        # Below the normal numbers of float32 a weight has few bits, and may be rounded up by half.
        return weights.masked_fill_(weights < TINY, 0)


def _squared_norms(parts: dict[Key, Part], rows: int, device: torch.device) -> torch.Tensor:
    """Of every row's whole gradient, `[n]`."""
    if not parts:
        return torch.zeros(rows, device=device, dtype=torch.float64)
    return torch.stack([part.squared_norms() for part in parts.values()]).sum(0)


def _write(part: Part, weights: torch.Tensor, place: torch.Tensor) -> None:
    """The weighted sum of a part, to its place; without a copy where torch can write there itself."""
    plain = place.device.type == "cpu" and place.dtype == weights.dtype and place.is_contiguous()
    if plain and type(part) is Single:
        torch.mm((part.d * weights[:, None]).T, part.a, out=place)
    elif plain and type(part) is SingleBias:
        torch.mv(part.gradients.T, weights, out=place)
    else:
        place.copy_(part.weighted_sum(weights).view(place.shape))


def _dtype(part: Part) -> torch.dtype:
    held = part.gradients if isinstance(part, Rows) else part.outputs  # type: ignore[attr-defined]
    dtype: torch.dtype = held.dtype
    return dtype
