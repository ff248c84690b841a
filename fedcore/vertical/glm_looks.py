"""What is opened of shared weights: to their owners, and the few sums that the job asks for.

Each function is one role's; the label holder's and the first partner's add up to what is opened.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crypto.bfv.products import MODULUS
from crypto.channel import Channel, recv_array
from fedcore.errors import ProtocolFailed
from fedcore.vertical.glm_pass import (
    GRADIENT_BITS,
    WEIGHT_BITS,
    First,
    Holder,
    Other,
    first_rows,
    holder_rows,
    recv_residues,
)
from fedcore.vertical.links import Series, far_series, loss_series
from fedcore.vertical.sharing import Floats, Residues, plus, signed

Mask = npt.NDArray[np.bool_]
LARGEST_WEIGHT = 2.0**20
FINE = 20
"""Fixed point of sines where a sum is opened."""
SLOPE_NOISE = 0.01
"""Of a slope, for one row."""
WORSE, BETTER, BEST = range(3)
"""A loss: not the least; the least so far; not the least, and it ends: go back to the weights of the least."""
_STEP = "glm.opened"


# ---- own weights ----------------------------------------------------------------------------------------------------


def holder_own(side: Holder, share: Residues) -> Residues:
    """Numbers of each party opened to it: the label holder's own, modulo p."""
    parts = side.parts(share)
    for channel, part in zip(side.channels, parts[1:], strict=True):
        channel.send(_STEP, part)
    return plus(parts[0], recv_residues(side.channels[0], _STEP, len(parts[0])))


def first_own(side: First, share: Residues) -> Residues:
    """The first partner's own."""
    parts = side.parts(share)
    side.channel.send(_STEP, parts[0])
    for channel, part in zip(side.others, parts[2:], strict=True):
        channel.send(_STEP, part)
    return plus(parts[1], recv_residues(side.channel, _STEP, len(parts[1])))


def other_own(side: Other, count: int) -> Residues:
    """A further partner's own."""
    return plus(recv_residues(side.channel, _STEP, count), recv_residues(side.to_first, _STEP, count))


def weights_of(numbers: Residues) -> Floats:
    """Opened weights as numbers.

    Raises:
        ProtocolFailed: They are so large that truncation must have failed, or the fit diverged.
    """
    weights = signed(numbers) / 2.0**WEIGHT_BITS
    if (np.abs(weights) > LARGEST_WEIGHT).any():
        raise ProtocolFailed(
            "a weight is far out of range: the fit diverged, or a local truncation failed, which happens about once "
            "in a million fits; run the job again",
            step=_STEP,
        )
    return np.asarray(weights)


# ---- rows out of range ----------------------------------------------------------------------------------------------


def holder_far(side: Holder, z: Residues, period: float) -> float:
    """The sum of sin^16(pi z / 2 period) over rows, opened to the label holder.

    Args:
        side: The label holder.
        z: Own share of the last predictor, its middle at 0.
        period: Of the mean function.
    """
    return holder_sum(side, z, far_series(period), np.ones(len(z)))


def first_far(side: First, z: Residues, period: float) -> None:
    """The first partner's part in `holder_far`."""
    first_sum(side, z, far_series(period))


def holder_sum(
    side: Holder, z: Residues, series: Series, weights: Floats, signs: Floats | None = None
) -> float:
    """The sum of w f(z) over rows, opened to the label holder; `signs` as in `holder_rows`."""
    share = sum(holder_rows(side, z, series, weights, FINE, signs).tolist())
    theirs = int(recv_residues(side.channels[0], _STEP, 1)[0])
    return _centred(share + theirs) / 4.0**FINE


def first_sum(side: First, z: Residues, series: Series) -> None:
    """The first partner's part in `holder_sum`."""
    share = sum(first_rows(side, z, series, FINE).tolist()) % MODULUS
    side.channel.send(_STEP, np.array([share], dtype=np.uint64))


def _centred(number: int) -> int:
    number %= MODULUS
    return number - MODULUS if number > MODULUS // 2 else number


# ---- loss -----------------------------------------------------------------------------------------------------------


def holder_loss(side: Holder, z: Residues, y: Floats, period: float) -> float:
    """The mean logistic loss of the test rows, opened to the label holder: ln(1 + e^-s z), s = 1 or -1."""
    total = holder_sum(side, z, loss_series(period), np.ones(len(z)), 2 * y - 1)
    return total / len(z)


def first_loss(side: First, z: Residues, period: float) -> None:
    """The first partner's part in `holder_loss`."""
    first_sum(side, z, loss_series(period))


# ---- change ---------------------------------------------------------------------------------------------------------


def largest(numbers: Residues) -> Floats:
    """The largest weight in size, (1,)."""
    return np.array([np.abs(weights_of(numbers)).max()])


def holder_change(side: Holder, share: Residues) -> float:
    """The largest change of any weight, which all parties tell."""
    changes = [float(largest(holder_own(side, share))[0])]
    for channel in side.channels:
        told = float(recv_array(channel, _STEP, np.float64, 1)[0])
        if not 0 <= told < np.inf:
            raise ProtocolFailed("a partner's change of weights is no size", step=_STEP)
        changes.append(told)
    return max(changes)


# ---- signs ----------------------------------------------------------------------------------------------------------


def held_at_zero(weights: Floats, slopes: Floats, held: Mask, released: Mask, rows: int) -> Mask:
    """Which of a party's weights are held at zero next, so that all become at least 0.

    Args:
        weights: Own, (d,).
        slopes: Of the loss, at these weights, (d,).
        held: Now, (d,).
        released: Those that were released before; they are not released again. Changed in place, (d,).
        rows: Of the fit; the slope's rounding grows with their root.
    """
    free = held & (slopes < -SLOPE_NOISE * rows**0.5) & ~released
    released |= free
    return np.asarray((held & ~free) | (~held & (weights < 0)), dtype=np.bool_)


def slopes_of(numbers: Residues) -> Floats:
    """Opened slopes as numbers."""
    return np.asarray(signed(numbers) / 2.0**GRADIENT_BITS)


def recv_mask(channel: Channel, count: int) -> Mask:
    """A partner's held weights."""
    raw = recv_array(channel, _STEP, np.uint8, count)
    if (raw > 1).any():
        raise ProtocolFailed("a partner's list of held weights is no list", step=_STEP)
    mask: Mask = raw.astype(np.bool_)
    return mask
