"""An estimate of epsilon by convolving privacy losses with a Fourier transform: a second opinion, not a bound.

The privacy loss of one release is a random number; that of many is the sum of as many. Its distribution is put on a
grid, raised to the power of the rounds in the frequency domain, and read at the delta:

    delta(epsilon) = E[max(0, 1 - exp(epsilon - loss))]

Both directions of an add-remove relation are tried and the larger epsilon counts. The grid reaches
twelve standard deviations of the sum to each side, and rounding to it is corrected for the mean.

Source: Gopi, Lee and Wutschitz, "Numerical Composition of Differential Privacy", NeurIPS 2021, algorithm 1; without its
error terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_POINTS = 2**19
_WIDTHS = 12.0
"""Standard deviations of the summed loss on each side of its mean."""


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
    spreads = [_spread(each, added=added) for each in losses]
    middle = sum(each.times * mean for each, (mean, _) in zip(losses, spreads, strict=True))
    deviation = math.sqrt(sum(each.times * var for each, (_, var) in zip(losses, spreads, strict=True)))
    largest = max(_WIDTHS * deviation, max(6 * math.sqrt(var) for _, var in spreads), abs(middle), 1e-3)
    half = 1.25 * largest + 0.05
    step = 2 * half / _POINTS
    grid = np.asarray((np.arange(_POINTS) - _POINTS // 2) * step, np.float64)
    product = np.ones(_POINTS // 2 + 1, np.complex128)
    shift = 0.0
    for each, (mean, _) in zip(losses, spreads, strict=True):
        edges = np.append(grid - step / 2, grid[-1] + step / 2)
        mass = np.diff(_distribution(each, added=added)(edges))
        shift += each.times * (mean - float(mass @ grid))
        product *= np.fft.rfft(np.roll(mass, -(_POINTS // 2))) ** each.times
    summed = np.roll(np.asarray(np.fft.irfft(product, _POINTS), np.float64), _POINTS // 2)
    loss: Floats = grid + shift
    return _epsilon_at(np.maximum(summed, 0.0), loss, delta)


def _epsilon_at(mass: Floats, loss: Floats, delta: float) -> float:
    def at(epsilon: float) -> float:
        above = loss > epsilon
        return float(np.sum(mass[above] * -np.expm1(epsilon - loss[above])))

    low, high = 0.0, float(loss[-1])
    if at(low) <= delta:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) > delta else (low, middle)
    return high


def _distribution(loss: Loss, *, added: bool) -> Callable[[Floats], Floats]:
    """P(loss <= x), for the pair in one direction."""
    if loss.kind == "laplace":
        return lambda x: _laplace(x, loss.noise)
    sigma, share = loss.noise, loss.sampling
    from scipy.special import ndtr

    def place(x: Floats) -> Floats:
        """Where the noisy value is at which ln of mixture / plain is x; -inf where it is never so small."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            inside = np.where(x > 0, x + np.log1p(-(1 - share) * np.exp(-np.maximum(x, 0))), 0.0)
            below = np.where(x <= 0, np.log(np.maximum(np.exp(np.minimum(x, 0)) - (1 - share), 0.0)), 0.0)
            return sigma**2 * (np.where(x > 0, inside, below) - math.log(share)) + 0.5

    if added:
        # ln plain / mixture, under plain: small where the other is large.
        return lambda x: np.asarray(ndtr(-place(-x) / sigma))
    return lambda x: np.asarray((1 - share) * ndtr(place(x) / sigma) + share * ndtr((place(x) - 1) / sigma))


def _laplace(x: Floats, scale: float) -> Floats:
    """P((|y - 1| - |y|) / scale <= x) for y of the Laplace distribution; the same in both directions."""
    most = 1 / scale
    between = 0.5 * np.exp(-np.clip(most - x, 0, None) / 2)
    return np.where(x < -most, 0.0, np.where(x >= most, 1.0, between))


def _spread(loss: Loss, *, added: bool) -> tuple[float, float]:
    """Mean and variance of one loss, from its distribution on a fine grid."""
    if loss.kind == "laplace":
        reach = 1 / loss.noise + 1e-6
    else:
        # The loss of the unsampled mechanism, 40 deviations out, bounds that of the sampled one.
        reach = 0.5 / loss.noise**2 + 40 / loss.noise
    edges = np.linspace(-reach, reach, _POINTS + 1)
    mass = np.diff(_distribution(loss, added=added)(edges))
    middle = (edges[1:] + edges[:-1]) / 2
    mean = float(mass @ middle)
    return mean, float(mass @ (middle - mean) ** 2)
