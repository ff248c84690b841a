"""An estimate of epsilon by convolving privacy losses with a Fourier transform: a second opinion, not a bound.

The privacy loss of one release is a random number; that of many is the sum of as many. Its distribution is put on a
grid, raised to the power of the rounds in the frequency domain, and read at the delta:

    delta(epsilon) = E[max(0, 1 - exp(epsilon - loss))]

Both directions of an add-remove relation are tried and the larger epsilon counts.

The grid is a circle that holds the sum but for a share of the delta at each end: Chernoff's bound says how far that is,
also where few units are sampled and rare large losses reach many standard deviations out. Each loss goes to the four
points around it, with weights that keep the first three moments, so that a grid far wider than one loss adds no error
that many rounds would multiply.

Source: Gopi, Lee and Wutschitz, "Numerical Composition of Differential Privacy", NeurIPS 2021, algorithm 1; without its
error terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_POINTS = 2**19
_VALUES = 2**16
"""Of the noise, at which a loss is taken."""
_WIDTH = 12.0
"""Standard deviations of Gaussian noise to each side that these lie in: less than 1e-32 is beyond."""
_BEYOND = 1e-4
"""Of the delta: probability of a sum beyond either end of the grid."""
_TILTS = np.geomspace(1e-4, 1e4, 81)
"""Exponents that Chernoff's bound is tried with, in units of 1 / deviation of the sum."""
_FEW = 2**12
"""Values of the noise that are enough for that bound."""


@dataclass(frozen=True)
class Loss:
    """A mechanism whose losses are summed.

    Args:
        kind: Its noise.
        noise: Standard deviation or scale, relative to sensitivity.
        sampling: Probability of a unit being in, above 0, at most 1; 1 for Laplace.
        times: How often.
    """

    kind: Literal["gaussian", "laplace"]
    noise: float
    sampling: float = 1.0
    times: int = 1


def estimate(losses: Sequence[Loss], delta: float) -> float:
    """The epsilon of all losses together.

    Args:
        losses: One or more.
        delta: Above 0, below 1; from 1e-12 the transform's rounding is far below it.
    """
    return max(_one_way(losses, delta, added=way) for way in (False, True))


def _one_way(losses: Sequence[Loss], delta: float, *, added: bool) -> float:
    start, end = _reach([(*_values(each, _FEW, added=added), each.times) for each in losses], delta * _BEYOND)
    step = (end - start) / _POINTS
    first = math.floor(start / step)
    product = np.ones(_POINTS // 2 + 1, np.complex128)
    for each in losses:
        loss, chance = _values(each, _VALUES, added=added)
        product *= np.fft.rfft(_on_circle(loss / step, chance)) ** each.times
    summed = np.roll(np.fft.irfft(product, _POINTS), -(first % _POINTS))
    at = np.asarray((first + np.arange(_POINTS)) * step, np.float64)
    return _epsilon_at(np.asarray(summed, np.float64), at, delta)


def _epsilon_at(mass: Floats, loss: Floats, delta: float) -> float:
    def at(epsilon: float) -> float:
        above = int(np.searchsorted(loss, epsilon, side="right"))
        return float(np.sum(mass[above:] * -np.expm1(epsilon - loss[above:])))

    low, high = 0.0, float(loss[-1])
    if high <= 0 or at(low) <= delta:
        return 0.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) > delta else (low, middle)
    return high


def _values(loss: Loss, count: int, *, added: bool) -> tuple[Floats, Floats]:
    """Values of one loss and their probabilities, for the pair in one direction."""
    if loss.kind == "laplace":
        # The noisy value is at or below 0, between 0 and 1, or at or above 1; the same in both directions.
        most = 1 / loss.noise
        edges = np.linspace(0, 1, count + 1)
        between = -0.5 * np.diff(np.exp(-edges * most))
        values = np.concatenate([[most, -most], most * (1 - (edges[1:] + edges[:-1]))])
        return values, np.concatenate([[0.5, 0.5 * math.exp(-most)], between])
    sigma, share = loss.noise, loss.sampling
    noise = np.linspace(-_WIDTH, _WIDTH, count)
    chance = np.exp(-(noise**2) / 2) * ((noise[1] - noise[0]) / math.sqrt(2 * math.pi))

    def ratio(of: float) -> Floats:
        """ln of mixture / plain where the noisy value is around `of`."""
        plain = (noise * sigma + (of - 0.5)) / sigma**2
        if share == 1:
            return np.asarray(plain)
        # The first form is exact where the ratio is near 1, the second where it is out of the range of a number.
        near = np.log1p(share * np.expm1(np.minimum(plain, 1.0)))
        return np.where(
            plain < 1, near, plain + np.log(share + (1 - share) * np.exp(-np.maximum(plain, 1.0)))
        )

    if added:
        # ln plain / mixture, under plain: small where the other is large.
        return -ratio(0.0), chance
    return np.concatenate([ratio(0.0), ratio(1.0)]), np.concatenate([(1 - share) * chance, share * chance])


def _reach(singles: Sequence[tuple[Floats, Floats, int]], beyond: float) -> tuple[float, float]:
    """Between what the sum of losses lies, but for a probability at each end."""
    variance = sum(
        times * float(chance @ (loss - float(chance @ loss)) ** 2) for loss, chance, times in singles
    )
    tilts = _TILTS / max(math.sqrt(variance), 1e-9)
    ends = []
    for sign in (-1.0, 1.0):
        # ln E exp(tilt * sum)
        grown = np.zeros(len(tilts))
        for loss, chance, times in singles:
            grown += times * _log_means(sign * loss, chance, tilts)
        ends.append(sign * float(np.min((grown - math.log(beyond)) / tilts)))
    # Room for the points that a loss at an end is spread to.
    room = 1e-3 * (ends[1] - ends[0]) + 1e-9
    return ends[0] - room, ends[1] + room


def _log_means(loss: Floats, chance: Floats, tilts: Floats) -> Floats:
    """ln E exp(tilt * loss) for each tilt."""
    found = np.empty(len(tilts))
    there = chance > 0
    loss, chance = loss[there], chance[there]
    logs = np.log(chance)
    size = float(np.abs(loss).max())
    for place, tilt in enumerate(tilts):
        if tilt * size < 1:
            # Near zero the logarithm of a sum near 1 would lose the digits that many rounds multiply.
            found[place] = math.log1p(float(chance @ np.expm1(tilt * loss)))
        else:
            power = tilt * loss + logs
            most = float(power.max())
            found[place] = most + math.log(float(np.exp(power - most).sum()))
    return found


def _on_circle(places: Floats, chance: Floats) -> Floats:
    """Mass at the points of a circle, from places in steps: cubic interpolation, turned around."""
    below = np.floor(places)
    part = places - below
    index = np.mod(below, _POINTS).astype(np.int64)
    mass = np.zeros(_POINTS)
    for offset, weight in (
        (-1, -part * (part - 1) * (part - 2) / 6),
        (0, (part + 1) * (part - 1) * (part - 2) / 2),
        (1, -(part + 1) * part * (part - 2) / 2),
        (2, (part + 1) * part * (part - 1) / 6),
    ):
        mass += np.bincount((index + offset) % _POINTS, chance * weight, _POINTS)
    return mass
