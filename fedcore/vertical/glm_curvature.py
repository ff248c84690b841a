"""The table of second moments X^T X of all parties' columns, and the fixed matrix that steps are multiplied with.

Step t + 1 of the optimiser is w = q - P (X^T e(q) + l2 q), q = w_t + m (w_t - w_t-1) (Nesterov), with

    P = (c X^T X + l2)^-1

and c between the mean and the largest slope of the mean function. P is public, so a step is linear and each of the two
parties that hold the weights takes it on its share alone, over the integers: exactly.

    label holder a, partner i     X_a^T X_i, one protected product for each of a's columns, opened to the label holder
    first partner, partner i      X_1^T X_i likewise, opened to both of these
    partner i                     X_i^T X_i, to the label holder
    label holder                  P, to the first partner

Who learns what: label holder and first partner the second moments of all columns, cross-party ones included, the same
numbers as in a table of correlations; a further partner nothing. Pairs of further partners have no channel: their
cross moments are replaced by a bound, |x_2 + .. + x_k|^2 <= (k - 1) (|x_2|^2 + .. + |x_k|^2), which is safe and
slower.

Source: Nesterov, Soviet Mathematics Doklady 27, 1983; a fixed bound of the Hessian: Boehning and Lindsay, Annals of the
Institute of Statistical Mathematics 40, 1988.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from crypto.bfv.keys import PublicKey
from crypto.bfv.products import MODULUS, transposed_receive, transposed_send
from crypto.channel import Channel, recv_array
from fedcore.errors import DataError
from fedcore.vertical.glm_pass import (
    COLUMN_BITS,
    GRADIENT_BITS,
    WAVE_BITS,
    WEIGHT_BITS,
    Block,
    First,
    Holder,
    Other,
    recv_residues,
)
from fedcore.vertical.sharing import Floats, Integers, Residues, lifted, lowered, plus, residues, signed

MATRIX_BITS = 64
"""Fixed point of P."""
STATE_BITS = MATRIX_BITS + GRADIENT_BITS
"""Fixed point of weights between steps."""
FACTOR_BITS = 16
SMALLEST = 1e-9
"""Least eigenvalue of c X^T X + l2, as a share of the largest."""


# ---- second moments -------------------------------------------------------------------------------------------------


def holder_moments(side: Holder, blocks: Sequence[Block]) -> Floats:
    """X^T X over all columns, (D, D), at the label holder."""
    starts = np.cumsum((0, *side.widths))
    gram = np.zeros((starts[-1], starts[-1]))
    gram[: starts[1], : starts[1]] = _own(blocks)
    further = len(side.channels) - 1
    for i, channel in enumerate(side.channels, start=1):
        at = slice(starts[i], starts[i + 1])
        d = side.widths[i]
        theirs = recv_array(channel, "glm.moments", np.float64, d, d)
        if not np.isfinite(theirs).all():
            raise DataError("a partner's second moments are not finite", step="glm.moments")
        gram[at, at] = theirs * (1 if i == 1 else further)
        crossed = _crossed_receive(channel, side, blocks, d)
        gram[: starts[1], at], gram[at, : starts[1]] = crossed, crossed.T
    first = slice(starts[1], starts[2])
    for i in range(2, len(side.widths)):
        at = slice(starts[i], starts[i + 1])
        crossed = recv_array(side.channels[0], "glm.moments", np.float64, side.widths[1], side.widths[i])
        gram[first, at], gram[at, first] = crossed, crossed.T
    return gram / 4.0**COLUMN_BITS


def first_moments(side: First, blocks: Sequence[Block]) -> None:
    """The first partner's part in `holder_moments`."""
    side.channel.send("glm.moments", _own(blocks))
    _crossed_send(side.channel, side.label_key, blocks, side.widths[0])
    for channel, d in zip(side.others, side.widths[2:], strict=True):
        side.channel.send("glm.moments", _crossed_receive(channel, side, blocks, d))


def other_moments(
    side: Other, blocks: Sequence[Block], first_key: PublicKey, widths: tuple[int, ...]
) -> None:
    """A further partner's part in `holder_moments`."""
    side.channel.send("glm.moments", _own(blocks))
    _crossed_send(side.channel, side.label_key, blocks, widths[0])
    _crossed_send(side.to_first, first_key, blocks, widths[1])


def _own(blocks: Sequence[Block]) -> Floats:
    columns = [block.numbers.astype(np.float64) for block in blocks]
    return np.asarray(sum(each.T @ each for each in columns))


def _crossed_receive(channel: Channel, side: Holder | First, blocks: Sequence[Block], d: int) -> Floats:
    """Own columns times the other party's, opened: (own, d)."""
    total = np.zeros((blocks[0].numbers.shape[1], d), dtype=np.uint64)
    for block in blocks:
        columns = residues(block.numbers.T)
        rows = [transposed_receive(channel, side.secret, each, d, "glm.crossed") for each in columns]
        total = plus(total, np.stack(rows))
    return signed(plus(total, recv_residues(channel, "glm.crossed-share", *total.shape))).astype(np.float64)


def _crossed_send(channel: Channel, key: PublicKey, blocks: Sequence[Block], columns: int) -> None:
    # One sum over all blocks: the moments of a few rows could be solved for them.
    total = np.zeros((columns, blocks[0].numbers.shape[1]), dtype=np.uint64)
    for block in blocks:
        shares = [transposed_send(channel, key, block.matrix, "glm.crossed") for _ in range(columns)]
        total = plus(total, np.stack(shares))
    channel.send("glm.crossed-share", total)


# ---- steps ----------------------------------------------------------------------------------------------------------


def preconditioner(gram: Floats, curvature: float, ridge: Floats, held: npt.NDArray[np.bool_]) -> Floats:
    """P, with zeros for weights that are held.

    Args:
        gram: X^T X, (D, D).
        curvature: c.
        ridge: l2 of each weight, (D,).
        held: Weights that stay as they are, (D,).

    Raises:
        DataError: Columns are linearly dependent and there is no l2.
    """
    free = np.flatnonzero(~held)
    system = curvature * gram[np.ix_(free, free)] + np.diag(ridge[free])
    values = np.linalg.eigvalsh(system)
    if values[0] <= SMALLEST * values[-1]:
        raise DataError(
            "the columns of all parties together are linearly dependent; drop one of them, or set l2 above 0",
            step="glm.moments",
        )
    out = np.zeros_like(gram)
    out[np.ix_(free, free)] = np.linalg.inv(system)
    return out


@dataclass(frozen=True, eq=False)
class Steps:
    """P and P l2 as integers, the same at both parties that hold weights.

    Args:
        matrix: P 2^MATRIX_BITS, (D, D).
        decay: P l2 2^MATRIX_BITS, (D, D).
        held: (D,) bool.
    """

    matrix: Integers = field(repr=False)
    decay: Integers = field(repr=False)
    held: npt.NDArray[np.bool_]


def steps_of(matrix: Floats, ridge: Floats) -> Steps:
    """The integers of a matrix P; weights whose row is zero are held."""
    return Steps(_whole(matrix), _whole(matrix * ridge), np.asarray(~matrix.any(axis=1)))


def _whole(numbers: Floats) -> Integers:
    out = np.empty(numbers.shape, dtype=object)
    for place, number in np.ndenumerate(numbers):
        out[place] = int(math.ldexp(number, MATRIX_BITS))
    return out


@dataclass(frozen=True, eq=False)
class Weights:
    """One party's shares of all weights, over the integers, 2^STATE_BITS.

    Args:
        now, before: (D,).
        first: Whether this is the label holder.
    """

    now: Integers = field(repr=False)
    before: Integers = field(repr=False)
    first: bool

    def held(self, which: npt.NDArray[np.bool_]) -> Weights:
        """With zeros where weights are held; momentum starts anew."""
        now = np.where(which, 0, self.now)
        return Weights(now, now, self.first)

    def ahead(self, momentum: float) -> Integers:
        """q."""
        apart = self.now - self.before
        return np.asarray(self.now + ((apart * int(momentum * 2**FACTOR_BITS)) >> FACTOR_BITS))

    def stepped(self, steps: Steps, gradient: Residues, momentum: float, gain: float, rate: float) -> Weights:
        """After a step.

        Args:
            steps: P.
            gradient: Own share of X^T e 2^GRADIENT_BITS at q.
            momentum: As for q.
            gain: What the gradient is multiplied with: rows over rows of the step, times the rate.
            rate: Of the step; 1 without batches.
        """
        ahead = self.ahead(momentum)
        moved = steps.matrix @ lifted(gradient, first=self.first)
        decay = (steps.decay @ ahead) >> MATRIX_BITS
        moved = (moved * int(gain * 2**FACTOR_BITS)) >> FACTOR_BITS
        decay = (decay * int(rate * 2**FACTOR_BITS)) >> FACTOR_BITS
        return Weights(ahead - moved - decay, self.now, self.first)


def for_product(share: Integers) -> Residues:
    """A share of weights as `product` takes it."""
    return lowered(share, STATE_BITS - WEIGHT_BITS)


def start(size: int, intercept: float, *, first: bool) -> Weights:
    """Zero, but for the intercept, which the label holder chooses."""
    zero = np.array([0] * size, dtype=object)
    if first:
        zero[0] = int(math.ldexp(intercept, STATE_BITS)) if abs(intercept) < 2**20 else 0
    return Weights(zero, zero, first)


def failure(largest_gradient: float, columns: int, rows: int, passes: int) -> float:
    """A bound on the probability that local truncation or lifting goes wrong anywhere in a fit.

    Args:
        largest_gradient: Of X^T e, in its own units.
        columns, rows, passes: Of the fit.
    """
    each_pass = columns * largest_gradient * 2**GRADIENT_BITS + rows * 4.0**WAVE_BITS
    return float(passes * each_pass / MODULUS)
