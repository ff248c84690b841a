"""Doubles as words of a modular sum, so that the sum over many participants is exact, and is all that the words show.

A double is a whole number of steps 2^low. It is cut into digits of `width` bits, each with the sign of the value, and
each digit gets a word of 64 bits of its own. Carries cannot be made while words are added modulo 2^64; they are made
once, on Python's integers, when the sum is read. What comes out is the sum of the values as they are in mathematics,
rounded once: it does not depend on the order, and equals `math.fsum` over the pooled values.

Who learns what: sums of digits would show more than the sum of the values, namely what each digit's sum carries into
the next. So every participant moves a random number r of carries from each digit to the next, adding r 2^width to the
one and taking r from the other, uniform over 2^carry values. A digit's sum then shows its lowest `width` bits, which
the sum of the values determines, and above them a number that is within cohort / 2^carry <= 2^-40 of one that does not
depend on what is summed, for as long as one participant is honest.

Cost: `Digits.count` words a value: 9 at 3 participants, 20 at 100, 80 at 1000.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.quantisation import NotFinite

NDArray = npt.NDArray[Any]

BITS = 64
HIDING = 40
"""Bits by which random carries hide true ones."""
DTYPE = np.dtype(np.uint64)
_MANTISSA = 53


class TooLarge(ValueError):
    """A value does not fit.

    Args:
        count: Of values that do not.
        limit: What a value's magnitude must be below.
    """

    def __init__(self, count: int, limit: float) -> None:
        super().__init__(f"{count} values are not below {limit:g} in magnitude")
        self.count, self.limit = count, limit


@dataclass(frozen=True)
class Digits:
    """How values are cut.

    Args:
        cohort: Participants that a sum can have, 1 to 1024.
        low: Exponent of the smallest step; what is below it is cut off, towards zero.
        high: Exponent that a magnitude must be below.
    """

    cohort: int
    low: int = -64
    high: int = 96

    def __post_init__(self) -> None:
        if self.cohort < 1 or self.width < 2:
            raise ValueError(
                f"a cohort of {self.cohort} leaves no room in words of {BITS} bits; allowed: 1 to 1024"
            )
        if not -1000 <= self.low < self.high <= 1000:
            raise ValueError(
                f"exponents from {self.low} to {self.high}; allowed: from -1000 to 1000, and in order"
            )

    @property
    def _log(self) -> int:
        return math.ceil(math.log2(self.cohort)) if self.cohort > 0 else 0

    @property
    def carry(self) -> int:
        """Bits of a random number of carries."""
        return HIDING + self._log

    @property
    def width(self) -> int:
        """Bits of a digit: with its carries, and over the cohort, it stays below 2^63."""
        return BITS - 2 - self.carry - self._log

    @property
    def count(self) -> int:
        """Words of a value."""
        return -(-(self.high - self.low) // self.width)


def split(values: NDArray, digits: Digits) -> NDArray:
    """The words of values; others at each call.

    Args:
        values: Any shape, real; taken as float64.
        digits: How to cut them.

    Returns:
        uint64, shape (digits.count, number of values); the lowest digits first.

    Raises:
        NotFinite: NaN or infinity among them.
        TooLarge: A magnitude of 2^high or more.
    """
    flat = np.asarray(values, np.float64).ravel()
    strange = int(np.count_nonzero(~np.isfinite(flat)))
    if strange:
        raise NotFinite(strange, len(flat))
    limit = 2.0**digits.high
    large = int(np.count_nonzero(np.abs(flat) >= limit))
    if large:
        raise TooLarge(large, limit)
    fraction, exponent = np.frexp(np.abs(flat))
    whole = np.ldexp(fraction, _MANTISSA).astype(np.int64)
    place = exponent.astype(np.int64) - _MANTISSA - digits.low
    # Below the smallest step: cut off here, so that every shift below is by fewer than 64 bits.
    whole, place = whole >> np.clip(-place, 0, 63), np.maximum(place, 0)
    sign = np.sign(flat).astype(np.int64)
    words = np.empty((digits.count, len(flat)), np.int64)
    for number in range(digits.count):
        up = place - number * digits.width
        # Only the bits that stay in this digit are moved up: the others would leave the 64 bits.
        room = np.clip(digits.width - up, 0, digits.width)
        kept = (whole >> np.clip(-up, 0, 63)) & ((np.int64(1) << room) - 1)
        words[number] = sign * np.where(up < digits.width, kept << np.clip(up, 0, digits.width), 0)
    moved = _carries(digits, len(flat))
    words[:-1] += moved << digits.width
    words[1:] -= moved
    return words.view(DTYPE)


def _carries(digits: Digits, length: int) -> NDArray:
    """Uniform over 2^carry numbers around zero, int64, from the operating system."""
    raw = np.frombuffer(secrets.token_bytes(8 * (digits.count - 1) * length), np.uint64)
    drawn = (raw >> np.uint64(64 - digits.carry)).astype(np.int64) - (1 << (digits.carry - 1))
    return drawn.reshape(digits.count - 1, length)


def join(total: NDArray, digits: Digits) -> NDArray:
    """The sums that words stand for.

    Args:
        total: Sums of words modulo 2^64, as `split` shapes them.
        digits: How the values were cut.

    Returns:
        float64, each the exact sum of the cut values rounded once.

    Raises:
        ValueError: The shape or the dtype is another.
    """
    if total.ndim != 2 or total.shape[0] != digits.count or total.dtype != DTYPE:
        raise ValueError(f"words of dtype {DTYPE} and shape ({digits.count}, n) are expected")
    weights = [1 << (number * digits.width) for number in range(digits.count)]
    step = Fraction(2) ** digits.low
    columns = np.ascontiguousarray(total).view(np.int64).T.tolist()
    return np.array(
        [
            float(sum(word * weight for word, weight in zip(column, weights, strict=True)) * step)
            for column in columns
        ],
        np.float64,
    )
