"""Mean functions as short trigonometric series, which shares of the argument can be put into.

The linear predictor z is shared as a + b modulo p. A frequency that is a multiple of 1/p sees no wrap, and
sin(a + b) = sin a cos b + cos a sin b, so each term of a series is a sum of two products of a number that one
party knows and a number that the other knows. `own_terms` are the label holder's (they hold the series' coefficients
and may differ from row to row), `other_terms` the partner's; the sum over the terms of a row is f(z).

The series is a least-squares fit on |z| <= period / 2 - GAP. It is within 2e-4 of the
logistic function there; rows outside it get a wrong mean. `far_series` notices them: the sum over all rows of
sin^16(pi z / 2 period) is next to zero when there is none, and the period is doubled when it is not.

Source: least squares with a period longer than the interval: Huybrechs, "On the Fourier extension of nonperiodic
functions", SIAM Journal on Numerical Analysis 47, 2010.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from crypto.bfv.products import MODULUS
from fedcore.vertical.sharing import Floats, Residues

GAP = 4.0
"""Half of what lies between the fitted interval and its repetition."""
PERIOD = 24.0
"""Of z, to begin with."""
LARGEST_PERIOD = 384.0
HIGH = 4.0
"""Of the Poisson link: a row's mean is at most e^HIGH times the mean of all."""
FAR_DEGREE = 8
FAR = 2e-3
"""What `far_series` sums to when one row is near the end of the interval."""
_GRID = 4001
_RIDGE = 1e-9


def logistic(z: Floats) -> Floats:
    """1 / (1 + e^-z), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * z)))


def logistic_slope(z: Floats) -> Floats:
    """The derivative of `logistic`."""
    mean = logistic(z)
    return np.asarray(mean * (1 - mean))


@dataclass(frozen=True, eq=False)
class Series:
    """f(z) = constant + sum_k cosine_k cos(2 pi k z / period) + sine_k sin(2 pi k z / period), k = 1, 2, ...

    Args:
        period: Of z.
        constant: A number.
        cosine, sine: (K,).
    """

    period: float
    constant: float
    cosine: Floats = field(repr=False)
    sine: Floats = field(repr=False)

    def __call__(self, z: Floats) -> Floats:
        """The series itself, (n,)."""
        angles = 2 * math.pi / self.period * np.outer(z, np.arange(1, len(self.sine) + 1))
        return np.asarray(self.constant + np.cos(angles) @ self.cosine + np.sin(angles) @ self.sine)


def fitted(
    function: Callable[[Floats], Floats], period: float, low: float, high: float, terms: int
) -> Series:
    """The series nearest to a function on an interval.

    Args:
        function: Of an array.
        period: Longer than the interval.
        low, high: The interval's ends.
        terms: K.
    """
    z = np.linspace(low, high, _GRID)
    angles = 2 * math.pi / period * np.outer(z, np.arange(1, terms + 1))
    basis = np.concatenate([np.ones((_GRID, 1)), np.cos(angles), np.sin(angles)], axis=1)
    normal = basis.T @ basis + _RIDGE * _GRID * np.eye(basis.shape[1])
    found = np.linalg.solve(normal, basis.T @ function(z))
    found[np.abs(found) < 1e-7] = 0.0
    return Series(period, float(found[0]), found[1 : terms + 1], found[terms + 1 :])


@dataclass(frozen=True, eq=False)
class Link:
    """A mean function mu(z) = level f(z - shift), f a series with the interval in the middle of its period.

    Args:
        name: As in the job.
        function: f(z) before the shift to the middle.
        slope: Its derivative.
        centre: Of the interval, from the period.
        kept: Frequencies for each unit of the period.
    """

    name: str
    function: Callable[[Floats], Floats]
    slope: Callable[[Floats], Floats]
    centre: Callable[[float], float]
    kept: float


LOGISTIC = Link("logistic", logistic, logistic_slope, lambda period: 0.0, 0.42)
POISSON = Link("poisson", np.exp, np.exp, lambda period: HIGH - period / 2 + GAP, 0.6)
"""The upper end of the interval stays: e^HIGH times the mean count."""
LINKS = {"logistic": LOGISTIC, "poisson": POISSON}


@functools.cache
def mean_series(link: Link, period: float) -> Series:
    """The mean function on the interval, its middle at 0."""
    return _middle(link.function, link, period)


@functools.cache
def slope_series(link: Link, period: float) -> Series:
    """The derivative of the mean function on the interval, its middle at 0."""
    return _middle(link.slope, link, period, 1.4)


@functools.cache
def loss_series(period: float) -> Series:
    """ln(1 + e^-z), the logistic loss of a label 1; that of a label 0 has the sines' signs reversed."""
    end = period / 2 - GAP
    return fitted(lambda z: np.logaddexp(0.0, -z), period, -end, end, math.ceil(LOGISTIC.kept * period))


def _middle(function: Callable[[Floats], Floats], link: Link, period: float, more: float = 1.0) -> Series:
    centre, end = link.centre(period), period / 2 - GAP
    return fitted(lambda z: function(z + centre), period, -end, end, math.ceil(more * link.kept * period))


@functools.cache
def far_series(period: float) -> Series:
    """sin^16(pi z / (2 period)): 4e-3 at half a period, below 3e-7 at a quarter, 1 at a whole one."""
    degree = FAR_DEGREE
    weights = [(-1) ** k * 2 * math.comb(2 * degree, degree - k) / 4**degree for k in range(1, degree + 1)]
    middle = math.comb(2 * degree, degree) / 4**degree
    return Series(2 * period, middle, np.array(weights), np.zeros(degree))


def turns(share: Residues, period: float, bits: int) -> Floats:
    """A share of z as an angle, such that the two parties' angles add up to 2 pi z / period.

    Args:
        share: (n,), of z 2^bits.
        period: Of z, at most p / 2^bits; it is rounded to p / (j 2^bits) with an integer j.
        bits: Of the fixed point.

    Returns:
        In [0, 2 pi), (n,).
    """
    periods = max(1, round(MODULUS / 2**bits / period))
    length = MODULUS // periods
    left = MODULUS - length * periods
    whole, part = np.divmod(share, np.uint64(length))
    turned = part * (periods / MODULUS) - whole * (left / MODULUS)
    return np.asarray(2 * math.pi * (turned % 1.0))


def other_terms(angles: Floats, count: int) -> Floats:
    """cos(k b) and sin(k b) for k = 1 ... count, (n, 2 count)."""
    return _waves(angles, count)


def own_terms(angles: Floats, cosine: Floats, sine: Floats) -> Floats:
    """What `other_terms` is multiplied with.

    Args:
        angles: (n,).
        cosine, sine: Coefficients, (K,) or (n, K) where they differ from row to row.

    Returns:
        (n, 2 K).
    """
    count = cosine.shape[-1]
    waves = _waves(angles, count)
    cos, sin = waves[:, :count], waves[:, count:]
    return np.concatenate([cosine * cos + sine * sin, sine * cos - cosine * sin], axis=1)


def _waves(angles: Floats, count: int) -> Floats:
    powers: npt.NDArray[np.complex128] = np.exp(1j * np.outer(angles, np.arange(1, count + 1)))
    return np.concatenate([powers.real, powers.imag], axis=1)
