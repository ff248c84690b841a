"""How the integers of a vector lie in the coefficients of polynomials, so that no sum can overflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.rlwe.noise import wide_sum
from crypto.rlwe.parameters import LARGEST_COHORT, PRIME_BITS, PRIMES, SIZE, Q

LARGEST_COUNT = 2**30
"""Numbers in a vector."""


@dataclass(frozen=True)
class Layout:
    """What all participants of a sum agree on; made by `layout`.

    Args:
        count: Numbers in a vector.
        limit: The largest number of one participant, in size.
        contributors: Participants at most.
        signed: Whether numbers may be negative.
        width: Bits that hold the sum of one number.
        fields: Numbers in a coefficient.
    """

    count: int
    limit: int
    contributors: int
    signed: bool
    width: int
    fields: int

    @property
    def polynomials(self) -> int:
        """Polynomials that a vector takes."""
        return -(-self.count // (self.fields * SIZE))

    @property
    def factor(self) -> int:
        """What noise is multiplied with, T = 2^(width fields)."""
        return 1 << (self.width * self.fields)

    @property
    def bytes_per_value(self) -> float:
        """Bytes of a payload for each number, when coefficients are full."""
        return len(PRIMES) * PRIME_BITS / 8 / self.fields


def layout(count: int, limit: int, contributors: int, *, signed: bool = True) -> Layout:
    """The layout with most numbers in a coefficient.

    Args:
        count: Numbers in a vector, from 1 to 2^30.
        limit: The largest number of one participant, in size, at least 1.
        contributors: Participants at most, from 1 to 10,000.
        signed: Whether numbers may be negative.

    Raises:
        ValueError: One of these is not allowed, or a sum would not fit in 64 bits.
    """
    if not 1 <= count <= LARGEST_COUNT:
        raise ValueError(f"a vector of {count} numbers; from 1 to {LARGEST_COUNT} are allowed: split it")
    if not 1 <= contributors <= LARGEST_COHORT:
        raise ValueError(f"{contributors} participants; from 1 to {LARGEST_COHORT} are allowed")
    if limit < 1:
        raise ValueError(f"the largest number is given as {limit}; at least 1 is needed")
    width = (contributors * limit).bit_length() + signed
    if width > 64:
        raise ValueError(
            f"sums of {contributors} numbers up to {limit} need {width} bits, 64 are allowed; "
            "quantise more coarsely"
        )
    # All of sum + T noise must stay within q / 2 of zero.
    room = (Q // 2 // (wide_sum(contributors) + 1)).bit_length() - 1
    return Layout(count, limit, contributors, signed, width, room // width)


def words_of(values: npt.NDArray[Any], plan: Layout) -> npt.NDArray[np.int64]:
    """A participant's numbers as 64-bit words, after checking them.

    Args:
        values: Integers, (count,).
        plan: Their layout.

    Raises:
        ValueError: The shape, the type or a number is not allowed. A number is not named.
    """
    if values.ndim != 1 or len(values) != plan.count:
        raise ValueError(f"a vector of shape {values.shape} came where ({plan.count},) is agreed")
    if values.dtype.kind not in "iu":
        raise ValueError(f"numbers of type {values.dtype} came; quantise them to integers first")
    least = -plan.limit if plan.signed else 0
    if int(values.min()) < least or int(values.max()) > plan.limit:
        raise ValueError(f"a number lies outside {least} to {plan.limit}; clip before encrypting")
    kind = np.int64 if plan.signed else np.uint64
    return np.ascontiguousarray(values, dtype=kind).view(np.int64)
