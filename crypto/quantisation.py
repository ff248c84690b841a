"""Real numbers as integers modulo 2^32 or 2^64: sums are exact, and a weighted mean comes out of a sum.

A participant with the weight w (its number of examples; 1 where all count the same) puts into the protected
vector

    round(w S clip(x_1)), ..., round(w S clip(x_P)), w          modulo 2^bits

and from the sum over those that took part comes the weighted mean: the sum of an element over S times the sum
of the weights. The weight is multiplied in before rounding, so that a participant adds less than one unit of
error to a sum, whatever its weight. S is the largest power of two with which no sum can overflow; it follows
from the cohort, the clip and the largest weight allowed, so all sides that know the job agree on it.

Rounding is stochastic: up with the probability of the fraction, so its expectation is the number itself. The
randomness is that of a stream cipher whose seed is given, or drawn from the operating system. It need not be secret for
secure aggregation, where only the rounded sum is protected; a seed is never used for two vectors, or their
errors would not cancel.

Error of a mean of m participants whose weights sum to W: below m / (S W) in each element, clipping aside, and
besides the rounding of the type that the mean is returned in. The standard deviation is at most sqrt(m) / (2
S W).
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.kernels import chacha
from crypto.kernels.keystream import Streams, check_words
from crypto.kernels.quantise import PIECE, from_integers, to_integers, to_integers_chacha
from crypto.streams import KEY_BYTES, StreamCipher, check_cipher

Words = npt.NDArray[Any]
"""uint32 or uint64."""
Floats = npt.NDArray[Any]
"""float32 or float64."""

SEED = KEY_BYTES["aes"]
"""Bytes that rounding takes by default: a key of AES-128 and a nonce."""
_ALIGNED = 16
"""Numbers whose rounding begins a block of either cipher."""
_LONGEST: dict[StreamCipher, int] = {"aes": 2**32 * 4, "chacha20": 2**32 * 16}
"""Numbers that one seed rounds: a word each, of 2^32 blocks."""
_EXACT = 44
"""Largest product, in bits: float64 then still holds eight bits of its fraction for the rounding."""
_TYPES = {32: "uint32", 64: "uint64"}


class NotFinite(ValueError):
    """A vector holds NaN or infinity, which no sum recovers from.

    Args:
        count: How many of its elements.
        length: Of the vector.
    """

    def __init__(self, count: int, length: int) -> None:
        super().__init__(
            f"{count} of {length} numbers are NaN or infinite; a protected sum cannot leave them out. "
            "Look for a diverged training (learning rate, loss), and send nothing from it"
        )
        self.count = count
        self.length = length


@dataclass(frozen=True)
class FixedPoint:
    """How numbers stand for integers in one kind of vector; the same at all participants and the coordinator.

    Args:
        clip: Largest absolute value; what is larger is cut to it.
        cohort: Participants that a sum can have, at most.
        largest_weight: That one of them can have; 1 where all count the same.
        bits: Of the modulus, 32 or 64.

    Raises:
        ValueError: A value is not allowed, or these leave no room below the modulus.
    """

    clip: float
    cohort: int
    largest_weight: int = 1
    bits: int = 32

    def __post_init__(self) -> None:
        if self.bits not in _TYPES:
            raise ValueError(f"bits is {self.bits}; allowed: 32, 64")
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise ValueError(f"clip is {self.clip}; it has to be positive and finite")
        if self.cohort < 1 or self.largest_weight < 1:
            raise ValueError(
                f"a cohort of {self.cohort} with weights up to {self.largest_weight}; both are 1 or more"
            )
        if self._log2_scale < -20:
            raise ValueError(
                f"{self.cohort} participants of weight up to {self.largest_weight} and a clip of {self.clip} leave "
                f"no room below 2^{self.bits}: take bits=64, a smaller clip or a smaller largest_weight"
            )

    @property
    def _log2_scale(self) -> int:
        # A participant's element is at most w c S + 1 in absolute value, and its weight is below that room too.
        room = 2 ** (self.bits - 1) - 1 - self.cohort
        total = self.cohort * self.largest_weight
        if room <= total:
            return -(2**31)
        return min(
            _floor_log2(room, self.clip * total), _floor_log2(2**_EXACT, self.clip * self.largest_weight)
        )

    @property
    def scale(self) -> float:
        """S, a power of two: integers to one unit of the numbers."""
        return float(2.0**self._log2_scale)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the words of a protected vector."""
        return np.dtype(_TYPES[self.bits])

    def error_bound(self, total_weight: int, participants: int = 1) -> float:
        """Below what the error of each element of a mean stays, for numbers within the clip.

        Args:
            total_weight: Sum of the weights, 1 or more.
            participants: That are in the sum.
        """
        return participants / (self.scale * total_weight)


def _floor_log2(room: int, size: float) -> int:
    """The largest e with size * 2^e at most room."""
    exponent = math.frexp(room / size)[1] - 1
    return exponent if size * 2.0**exponent <= room else exponent - 1


def quantise(
    values: Floats,
    form: FixedPoint,
    *,
    weight: int = 1,
    out: Words | None = None,
    seed: bytes | None = None,
    cipher: StreamCipher = "aes",
    first: int = 0,
) -> tuple[Words, int]:
    """The vector that goes into a protected sum.

    Args:
        values: (P,) float32 or float64.
        form: Of the vector.
        weight: Of this participant, 1 to `form.largest_weight`; 0 takes part with nothing.
        out: Gets the vector, (P + 1,) of `form.dtype`, contiguous; made if not given.
        seed: Key and nonce that rounding is drawn from, 28 bytes for AES and 44 for ChaCha20, never used before; from
            the operating system if not given.
        cipher: That rounding is drawn from.
        first: Place of the first number in a longer vector that is rounded with the same seed piece by piece, a
            multiple of 16.

    Returns:
        The vector, (P + 1,) of `form.dtype`: the numbers, then the weight; and how many numbers were clipped.

    Raises:
        NotFinite: A number is NaN or infinite.
        ValueError: The weight is not allowed, or an array has another form.
    """
    if values.dtype not in (np.float32, np.float64) or values.ndim != 1 or not values.flags.c_contiguous:
        raise ValueError(
            f"contiguous vectors of float32 or float64 can be quantised, not {values.dtype} {values.shape}"
        )
    check_weight(weight, form)
    if first < 0 or first % _ALIGNED:
        raise ValueError(f"a piece from number {first} on; allowed are multiples of {_ALIGNED}")
    check_cipher(cipher)
    if first + len(values) > _LONGEST[cipher]:
        raise ValueError(
            f"{len(values)} numbers from number {first} on pass the end of a stream of {cipher}, which rounds "
            f"{_LONGEST[cipher]}; use another seed"
        )
    if out is None:
        out = np.empty(len(values) + 1, dtype=form.dtype)
    check_words(out)
    if out.dtype != form.dtype or len(out) != len(values) + 1:
        raise ValueError(f"room for {out.dtype} {out.shape}; {len(values) + 1} of {form.dtype} are needed")
    key = secrets.token_bytes(KEY_BYTES[cipher]) if seed is None else seed
    told = np.empty(2, dtype=np.int64)
    bounds = _bits(np.array([form.clip, weight * form.scale]))
    fractions = np.empty(PIECE, dtype=np.uint32)
    if cipher == "aes":
        aes = Streams([key])
        to_integers(_bits(values), bounds, aes.keys, aes.nonces, first // 4, fractions, out[:-1], told)
    else:
        states = chacha.Streams([key]).states
        to_integers_chacha(_bits(values), bounds, states, first // 16, fractions, out[:-1], told)
    clipped, strange = told.tolist()
    if strange:
        out[:] = 0
        raise NotFinite(strange, len(values))
    out[-1] = weight
    return out, clipped


def check_weight(weight: int, form: FixedPoint) -> None:
    """Refuse a weight with which a sum could overflow.

    Raises:
        ValueError: It is not 0 to `form.largest_weight`.
    """
    if not 0 <= weight <= form.largest_weight:
        raise ValueError(
            f"a weight of {weight}; allowed are 0 to {form.largest_weight}, the largest that no sum overflows with. "
            "Raise largest_weight in the job, for all participants"
        )


def weighted_mean(total: Words, form: FixedPoint, *, dtype: npt.DTypeLike = np.float32) -> tuple[Floats, int]:
    """The mean that a sum of such vectors stands for.

    Args:
        total: (P + 1,) of `form.dtype`, the sum modulo 2^bits.
        form: That the vectors were made with.
        dtype: Of the mean.

    Returns:
        The mean, (P,), and the sum of the weights.

    Raises:
        ValueError: The sum is none of vectors of this form: its weight is impossible or its type another. Or
            the weight is zero, so that there is no mean.
    """
    check_words(total)
    if total.dtype != form.dtype or len(total) < 1:
        raise ValueError(f"a sum of {total.dtype} {total.shape}; {form.dtype} and a weight are expected")
    weight = int(total[-1])
    if not 1 <= weight <= form.cohort * form.largest_weight:
        raise ValueError(
            f"the weights sum to {weight}; possible are 1 to {form.cohort * form.largest_weight}. If it is not 0, a "
            "participant sent what is no vector of this form"
        )
    signed = total[:-1].view(np.int32 if form.bits == 32 else np.int64)
    mean = np.empty(len(signed), dtype=dtype)
    from_integers(signed, _bits(np.array([1.0 / (form.scale * weight)])), _bits(mean))
    return mean, weight


def _bits(values: Floats) -> Words:
    return values.view(f"uint{8 * values.itemsize}")
