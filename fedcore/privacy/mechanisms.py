"""Whole-number noise, drawn exactly: the discrete Laplace and the discrete Gaussian distribution.

    discrete Laplace, scale b:        P(x) proportional to exp(-|x| / b)          over all whole x
    discrete Gaussian, variance v:    P(x) proportional to exp(-x^2 / (2 v))      over all whole x

Every decision compares whole numbers with uniform bits of the operating system; no floating-point number takes part,
so the distribution is the stated one and not one near to it. `v` is the parameter of the distribution; its variance is
not above v, and equal to it to ten digits from v = 2.

Values to be released are whole numbers, or multiples of a step that is chosen beforehand. How long a draw takes
depends on the numbers drawn; an observer who can time single draws is not held against.

Source: Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020, algorithms 1 to 3.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import JobError
from fedcore.privacy.exact import Number, positive, text

LARGEST = 2**48
"""Of a scale, and of the root of a variance: a number of 64 bits then overflows with probability below exp(-2^14)."""

_AT_A_TIME = 2**16
_WORD = 2**62
_SMALL_WORD = 2**30

Whole = NDArray[Any]
"""Whole numbers: int64, or Python's own (dtype object) where 64 bits do not suffice."""


def discrete_laplace(scale: Number, count: int) -> NDArray[np.int64]:
    """Draw from the discrete Laplace distribution.

    Args:
        scale: b, above 0 and at most 2^48, in units of the value released: sensitivity / epsilon.
        count: How many, 0 or more.

    Returns:
        int64, shape (count,); others at each call.

    Raises:
        JobError: The scale or the count is not allowed.

    Source: Canonne, Kamath and Steinke, algorithm 2.
    """
    found = positive(scale, "scale")
    _check(found, found, count, "scale")
    return _many(count, lambda wanted: _laplace(found.numerator, found.denominator, wanted))


def discrete_gaussian(variance: Number, count: int) -> NDArray[np.int64]:
    """Draw from the discrete Gaussian distribution.

    Args:
        variance: v, above 0 and at most 2^96, in squared units of the value released.
        count: How many, 0 or more.

    Returns:
        int64, shape (count,); others at each call.

    Raises:
        JobError: The variance or the count is not allowed.

    Source: Canonne, Kamath and Steinke, algorithm 3.
    """
    found = positive(variance, "variance")
    _check(found, Fraction(_floor_root(found)), count, "variance")
    return _many(count, lambda wanted: _gaussian(found, wanted))


def _check(value: Fraction, width: Fraction, count: int, name: str) -> None:
    if width > LARGEST:
        most = "2^96" if name == "variance" else "2^48"
        raise JobError(
            f"{name} is {text(value)}; allowed: at most {most}, so that noise fits into 64 bits. Cure: a larger step"
        )
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise JobError(f"{count} numbers of noise are asked for; allowed: a whole number, 0 or more")


def _many(count: int, propose: Callable[[int], Whole]) -> NDArray[np.int64]:
    """Accepted proposals, in the order in which they were drawn."""
    drawn = np.empty(count, np.int64)
    filled = 0
    while filled < count:
        accepted = propose(min(_AT_A_TIME, count - filled + 32))[: count - filled]
        drawn[filled : filled + len(accepted)] = accepted
        filled += len(accepted)
    return drawn


def _gaussian(variance: Fraction, count: int) -> Whole:
    """Some of `count` proposals from the discrete Laplace distribution of scale t = floor(sigma) + 1.

    Accepted with exp(-(|y| - v/t)^2 / (2v)); for v = a/b that is exp(-(|y| b t - a)^2 / (2 a b t^2)).
    """
    a, b, t = variance.numerator, variance.denominator, _floor_root(variance) + 1
    drawn = _laplace(t, 1, count)
    distance = np.abs(drawn)
    below = 2 * a * b * t * t
    largest = max((int(distance.max(initial=0)) * b * t + a) ** 2, below)
    above = (_whole(distance, largest) * (b * t) - a) ** 2
    accepted: Whole = drawn[_exp_minus(above, below)]
    return accepted


def _laplace(t: int, s: int, count: int) -> Whole:
    """Some of `count` proposals from the discrete Laplace distribution of scale t / s."""
    low = _below(t, count)
    low = low[_exp_minus(low, t)]
    high = _geometric(len(low))
    largest = t * (int(high.max(initial=0)) + 1)
    drawn = (_whole(low, largest) + _whole(high, largest) * t) // s
    negative = _below(2, len(drawn)) == 1
    # Minus zero is zero: it would count twice.
    kept = ~(negative & (drawn == 0))
    signed: Whole = np.where(negative, -drawn, drawn)[kept]
    return signed


def _geometric(count: int) -> Whole:
    """How often in a row an event of probability exp(-1) happens."""
    found = np.zeros(count, np.int64)
    going = np.arange(count)
    while len(going):
        going = going[_exp_minus_small(np.ones(len(going), np.int64), 1)]
        found[going] += 1
    return found


def _exp_minus(above: Whole, below: int) -> NDArray[np.bool_]:
    """Events of probability exp(-above / below), above 0 or more."""
    left, rest = above // below, above % below
    happened = np.ones(len(above), np.bool_)
    going = np.flatnonzero(left > 0)
    passed = 0
    while len(going):
        happened[going] = _exp_minus_small(np.ones(len(going), np.int64), 1)
        passed += 1
        going = going[happened[going] & (left[going] > passed).astype(np.bool_)]
    still = np.flatnonzero(happened)
    happened[still] = _exp_minus_small(rest[still], below)
    return happened


def _exp_minus_small(above: Whole, below: int) -> NDArray[np.bool_]:
    """Events of probability exp(-x), x = above / below from 0 to 1.

    The first k at which an event of probability x/k fails is odd with that probability. An event of x/k is one of x
    and one of 1/k at once, which keeps the numbers small.

    Source: Canonne, Kamath and Steinke, algorithm 1.
    """
    happened = np.empty(len(above), np.bool_)
    going, k = np.arange(len(above)), 1
    while len(going):
        on = (_below(below, len(going)) < above[going]).astype(np.bool_)
        if k > 1:
            on &= _below(k, len(going)) == 0
        happened[going[~on]] = k % 2 == 1
        going, k = going[on], k + 1
    return happened


def _below(bound: int, count: int) -> Whole:
    """Uniform from 0 to bound - 1, from the operating system; int64 where the bound allows."""
    if bound > _WORD:
        return np.array([secrets.randbelow(bound) for _ in range(count)], dtype=object)
    if bound == 1:
        return np.zeros(count, np.int64)
    word = np.dtype(np.uint32 if bound <= _SMALL_WORD else np.uint64)
    mask = (1 << (bound - 1).bit_length()) - 1
    found = np.empty(count, np.int64)
    filled = 0
    while filled < count:
        # A masked word is below the bound with probability one half at least.
        raw = np.frombuffer(
            secrets.token_bytes(word.itemsize * (2 * (count - filled) + 8)), word
        ) & word.type(mask)
        fits = raw[raw < bound][: count - filled]
        found[filled : filled + len(fits)] = fits
        filled += len(fits)
    return found


def _whole(values: Whole, largest: int) -> Whole:
    """The values with room for a result of that size."""
    return values.astype(object) if largest >= _WORD else values


def _floor_root(value: Fraction) -> int:
    """The square root, rounded down."""
    return isqrt(value.numerator // value.denominator)
