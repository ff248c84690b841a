"""Which numbers stand where in a plaintext: fixed-point numbers side by side, with room for a cohort's sum.

A value v, |v| <= bound, becomes the whole number k = round(v 2^fraction), |k| <= limit, and stands in its
slot as k + limit, which is never negative, so that no slot borrows from the next. A slot has the bits of 2
limit capacity, where capacity is the largest sum of weights: participants times the largest weight of one. So
no sum that the weights allow carries into the next slot, and whoever adds can know from the weights alone
that it does not.

    plaintext    slot 0: 1, which becomes the sum of the weights; slots 1, 2, ...: values

The sum of the weights is told beside the ciphertexts too; where the two differ, ciphertexts are missing or
mixed up.

Source: Ge, Zdonik, VLDB 2007, for several values in a Paillier plaintext with room between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crypto.errors import ProtocolError
from crypto.paillier.keys import BITS, integers

Whole = npt.NDArray[np.int64]
MOST_LIMIT = 1 << 62
MOST_CAPACITY = 1 << 62


@dataclass(frozen=True)
class Packing:
    """The form of the numbers, which all participants share.

    Args:
        bound: Largest absolute value, above 0.
        fraction: Binary digits after the point, 0 for integers; a value is off by at most 2^-(fraction + 1).
        cohort: Participants that are added, at most.
        weight: Largest weight of one of them, a whole number.
        bits: Of the key.

    Raises:
        ValueError: An argument is out of its range, or a plaintext has not two slots.
    """

    bound: float
    fraction: int
    cohort: int
    weight: int = 1
    bits: int = BITS

    def __post_init__(self) -> None:
        if not 0 < self.bound <= MOST_LIMIT:
            raise ValueError(f"a bound is above 0 and at most 2^62, not {self.bound}")
        if not 0 <= self.fraction <= 62 or self.limit > MOST_LIMIT:
            raise ValueError(
                f"bound {self.bound} with {self.fraction} binary digits after the point (0 to 62) is more than 2^62 "
                "units; take fewer digits, or the values in a larger unit"
            )
        if self.cohort < 1 or self.weight < 1 or self.capacity > MOST_CAPACITY:
            raise ValueError(
                f"{self.cohort} participants of weight {self.weight}: each is at least 1, and the product at most 2^62"
            )
        if self.slots < 1:
            raise ValueError(
                f"two slots of {self.slot} bits do not fit a key of {self.bits} bits; take fewer digits after the point"
            )

    @property
    def limit(self) -> int:
        """Largest absolute whole number."""
        return math.ceil(math.ldexp(self.bound, self.fraction))

    @property
    def capacity(self) -> int:
        """Largest sum of weights."""
        return self.cohort * self.weight

    @property
    def slot(self) -> int:
        """Bits of a slot."""
        return (2 * self.limit * self.capacity).bit_length()

    @property
    def slots(self) -> int:
        """Values in a ciphertext."""
        return (self.bits - 1) // self.slot - 1

    def ciphertexts(self, count: int) -> int:
        """Ciphertexts of that many values."""
        return -(-count // self.slots)


def whole_numbers(values: npt.ArrayLike, packing: Packing) -> Whole:
    """Values as the whole numbers that stand for them.

    Args:
        values: (n,) floats or integers, finite, within the bound.
        packing: Their form.

    Returns:
        (n,) int64, of at most `packing.limit`.

    Raises:
        ValueError: A value is not finite or out of bounds; the message names the first one's place.
    """
    given = np.asarray(values)
    if given.ndim != 1 or given.dtype.kind not in "iuf":
        raise ValueError(f"values are (n,) numbers, these are {given.shape} {given.dtype}")
    if given.dtype.kind == "f":
        given = given.astype(np.float64)
        wrong = ~(np.abs(given) <= packing.bound)
    else:
        wrong = (given > math.floor(packing.bound)) | (given < -math.floor(packing.bound))
    if wrong.any():
        raise ValueError(
            f"value {int(np.argmax(wrong))} is not a number between -{packing.bound} and {packing.bound}"
        )
    if given.dtype.kind != "f":
        # Exact beyond the 53 bits of a float; the bound leaves room for the shift.
        shifted: Whole = given.astype(np.int64) << packing.fraction
        return shifted
    whole: Whole = np.rint(np.ldexp(given, packing.fraction)).astype(np.int64)
    return whole


def pack(numbers: Sequence[int], packing: Packing) -> int:
    """A plaintext of at most `packing.slots` whole numbers; free slots hold the number 0."""
    padded = [1] + [number + packing.limit for number in numbers]
    padded += [packing.limit] * (packing.slots - len(numbers))
    return int(integers().pack(padded, packing.slot))


def unpack(plaintext: int, weight: int, packing: Packing, step: str) -> list[int]:
    """The `packing.slots` sums of a plaintext to which numbers of that total weight were added.

    Raises:
        ProtocolError: It was made under another form, or from other ciphertexts than is told.
    """
    if plaintext.bit_length() > packing.slot * (packing.slots + 1):
        raise ProtocolError("what was decrypted is no sum of numbers of this form", step=step)
    found = [int(part) for part in integers().unpack(plaintext, packing.slot)]
    found += [0] * (packing.slots + 1 - len(found))
    if found[0] != weight:
        raise ProtocolError(
            f"weights of {weight} in total are told, the ciphertext holds others: some are missing or added twice",
            step=step,
        )
    sums = [part - weight * packing.limit for part in found[1:]]
    if any(abs(number) > weight * packing.limit for number in sums):
        raise ProtocolError("a sum is more than the bounds of its numbers allow", step=step)
    return sums
