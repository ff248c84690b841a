"""Gaussian noise for model updates: many numbers at once, from a cipher keyed by the operating system.

    key       256 bits of `secrets`, new at each call
    words     the key stream of ChaCha20
    normal    Box and Muller's transform in float32; a radius whose word is small gets 63 more bits, so that |z| reaches 11
    release   value + noise, rounded to a multiple of 2^-12 standard deviations (`released`)

What is proved of the Gaussian mechanism holds for real numbers. Floating-point noise added to a floating-point value can
show the value in its last bits (Mironov 2012, for Laplace noise; Holohan and Braghin 2021 and Jin et al. 2022 for Gaussian
noise). Rounding to a grid cuts these bits off after the noise is added; a multiple of the grid stands for a thousand results
or more, and rounding costs no privacy. What is left is the distance of the drawn distribution from the normal one: relative
errors of float32's functions, about 2^-22. That is a defence, not a proof. Exact noise
(`fedcore.privacy.mechanisms.discrete_gaussian`) takes a microsecond a number, hundreds of times more, several training steps of
a small model, and values on a grid before the noise; it is for where few numbers are released.

Source: Box and Muller 1958; Mironov, "On significance of the least significant bits for differential privacy", CCS 2012;
Holohan and Braghin, "Secure random sampling in differential privacy", ESORICS 2021.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from fedcore.errors import JobError

GRID_BITS = 12
"""Results are multiples of 2^-12 standard deviations, taken down to a power of two."""
_LOW_31, _LOW_63 = 2**31 - 1, 2**63 - 1
_AT_A_TIME = 2**15
"""Words of 32 bits: fit into a processor's second cache, with what is made of them; torch does so many with one thread."""
_ZEROS = bytes(4 * _AT_A_TIME)
_SMALL = 2**7
"""A radius from a smaller word is beyond 5.7 and gets more bits; one of 2^24 does."""


class _Stream:
    """Random bytes of one key, which may give 2^38."""

    def __init__(self) -> None:
        self._cipher = Cipher(algorithms.ChaCha20(secrets.token_bytes(32), bytes(16)), None).encryptor()
        self._buffer = bytearray(len(_ZEROS))

    def next(self, count: int) -> bytearray:
        """So many bytes or more, at most as many as `_ZEROS` has; overwritten by the next call."""
        self._cipher.update_into(memoryview(_ZEROS)[:count], self._buffer)
        return self._buffer


def random_words(count: int) -> torch.Tensor:
    """Uniform whole numbers from 0 to 2^63 - 1.

    Args:
        count: How many, 0 or more.

    Returns:
        int64, `[count]`; others at each call.
    """
    source, drawn = _Stream(), torch.empty(count, dtype=torch.int64)
    for start in range(0, count, _AT_A_TIME // 2):
        part = drawn[start : start + _AT_A_TIME // 2]
        words = torch.frombuffer(source.next(8 * len(part)), dtype=torch.int64, count=len(part))
        torch.bitwise_and(words, _LOW_63, out=part)
    return drawn


def standard_normal(count: int) -> torch.Tensor:
    """Independent normal numbers of mean 0 and variance 1.

    Args:
        count: How many, 0 or more.

    Returns:
        float32, `[count]`, on the CPU; others at each call.
    """
    source, drawn = _Stream(), torch.empty(count + count % 2)
    for start in range(0, count, _AT_A_TIME):
        part = drawn[start : start + _AT_A_TIME]
        many = len(part) // 2
        words = torch.frombuffer(source.next(8 * many), dtype=torch.int32, count=2 * many)
        words.bitwise_and_(_LOW_31)
        radius = _radius(words[:many])
        angle = words[many:].to(torch.float32).mul_(2 * math.pi * 2.0**-31)
        torch.cos(angle, out=part[:many]).mul_(radius)
        torch.mul(angle.sin_(), radius, out=part[many:])
    return drawn[:count]


def _radius(words: torch.Tensor) -> torch.Tensor:
    """sqrt(-2 log u), float32, u uniform: (word + a uniform number of its own) / 2^31, which matters for small words only."""
    found = words.to(torch.float32).add_(0.5).mul_(2.0**-31).log_().mul_(-2).sqrt_()
    if int(words.min()) < _SMALL:
        small = torch.nonzero(words < _SMALL).flatten()
        more = random_words(len(small)).to(torch.float64).add_(0.5).mul_(2.0**-63)
        exact = more.add_(words[small]).mul_(2.0**-31).log_().mul_(-2).sqrt_()
        found[small] = exact.to(torch.float32)
    return found


def grid(deviation: float) -> float:
    """The power of two that results under noise of this standard deviation are multiples of."""
    return 2.0 ** (math.floor(math.log2(deviation)) - GRID_BITS)


def released(values: Sequence[torch.Tensor], deviation: float, over: float = 1.0) -> list[torch.Tensor]:
    """Values under Gaussian noise, on a grid.

    Args:
        values: float32 or float64, any shapes and devices.
        deviation: Of the noise, above 0, finite.
        over: What the result is divided by, after it is on the grid.

    Returns:
        Of the shapes, types and devices of `values`.

    Raises:
        JobError: The deviation is not allowed.
    """
    if not 0 < deviation < math.inf:
        raise JobError(
            f"the noise has a standard deviation of {deviation}; allowed: above 0, finite. Cure: a larger clip or noise"
        )
    step = grid(deviation)
    sizes = [each.numel() for each in values]
    found = []
    for each, drawn in zip(values, torch.split(standard_normal(sum(sizes)), sizes), strict=True):
        noisy = drawn.to(each).view(each.shape)
        # The step is a power of two: to divide by it and to multiply with it is exact.
        found.append(noisy.mul_(deviation / step).add_(each, alpha=1 / step).round_().mul_(step / over))
    return found
