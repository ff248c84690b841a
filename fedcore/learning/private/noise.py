"""Gaussian noise for model updates: many numbers at once, from a cipher keyed by the operating system.

    key       256 bits of `secrets`, new at each call
    words     the key stream of ChaCha20
    normal    Box and Muller's transform in float32 (`crypto.kernels.gaussian`); a radius whose word is small gets 63 more bits,
              so that |z| reaches 11
    release   value + noise, rounded to a multiple of 2^-12 standard deviations (`released`), in the same pass

What is proved of the Gaussian mechanism holds for real numbers. Floating-point noise added to a floating-point value can
show the value in its last bits (Mironov 2012, for Laplace noise; Holohan and Braghin 2021 and Jin et al. 2022 for Gaussian
noise). Rounding to a grid cuts these bits off after the noise is added; a multiple of the grid stands for a thousand results
or more, and rounding costs no privacy. What is left is the distance of the drawn distribution from the normal one: errors of
float32's functions, about 2^-22 of the radius. That is a defence, not a proof. Exact noise
(`fedcore.privacy.mechanisms.discrete_gaussian`) takes a microsecond a number, hundreds of times more, several training steps of
a small model, and values on a grid before the noise; it is for where few numbers are released.

Source: Box and Muller 1958; Mironov, "On significance of the least significant bits for differential privacy", CCS 2012;
Holohan and Braghin, "Secure random sampling in differential privacy", ESORICS 2021.
"""

from __future__ import annotations

import contextlib
import functools
import math
import secrets
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedcore.errors import JobError

Words = npt.NDArray[np.uint32]

GRID_BITS = 12
"""Results are multiples of 2^-12 standard deviations, taken down to a power of two."""
_LOW_63 = 2**63 - 1
_MOST = 2**31
"""Numbers of one stream."""


def random_words(count: int) -> torch.Tensor:
    """Uniform whole numbers from 0 to 2^63 - 1.

    Args:
        count: How many, 0 or more.

    Returns:
        int64, `[count]`; others at each call.
    """
    return torch.from_numpy(np.frombuffer(_random_bytes(8 * count), dtype=np.int64) & _LOW_63)


def _random_bytes(count: int) -> bytes:
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
    except ImportError:  # the system's own generator then: ten times slower
        return secrets.token_bytes(count)
    stream: bytes = (
        Cipher(algorithms.ChaCha20(secrets.token_bytes(32), bytes(16)), None).encryptor().update(bytes(count))
    )
    return stream


def standard_normal(count: int) -> torch.Tensor:
    """Independent normal numbers of mean 0 and variance 1.

    Args:
        count: How many, 0 or more.

    Returns:
        float32, `[count]`, on the CPU; others at each call.
    """
    gaussian = _kernels()
    if gaussian is None:
        return _drawn_by_torch(count, torch.device("cpu"))
    drawn = torch.empty(count + count % 2)
    bits = _bits(drawn)

    for start in range(0, len(bits), _MOST):
        part = bits[start : start + _MOST]
        with _stream() as (states, room):
            found = gaussian.normal(states, room, part)
            if found:
                places, numbers = _far(room, found)
                part[places] = numbers.view(np.uint32)
    return drawn[:count]


def _bits(values: torch.Tensor) -> Words:
    found: Words = values.detach().numpy().view(np.uint32)
    return found


@functools.cache
def _kernels() -> Any:
    """`crypto.kernels.gaussian`; None where a package that it needs is not installed."""
    try:
        from crypto.kernels import gaussian
    except ImportError:
        return None
    return gaussian


class _Rooms(threading.local):
    """Memory that a thread makes noise in."""

    def __init__(self) -> None:
        from crypto.kernels import chacha, gaussian

        self.states = chacha.Streams([bytes(chacha.BYTES)]).states
        self.key = self.states[0, 4:12]
        self.room = np.empty(gaussian.ROOM, dtype=np.uint32)


@functools.cache
def _rooms() -> _Rooms:
    return _Rooms()


@contextlib.contextmanager
def _stream() -> Iterator[tuple[Words, Words]]:
    """A new stream, of this thread, and room to work in; key and words are gone after."""
    own = _rooms()
    own.key[:] = np.frombuffer(secrets.token_bytes(32), dtype=np.uint32)
    try:
        yield own.states, own.room
    finally:
        own.key[:] = 0
        own.room[:] = 0


def _far(room: Words, found: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The numbers whose radius is from a small word, with more bits: places among all, and what they are.

    The radius is sqrt(-2 log u), u uniform: (word + a uniform number of its own) / 2^32.

    Args:
        room: Where a kernel told of them (`crypto.kernels.gaussian.normal`).
        found: How many pairs.
    """
    from crypto.kernels.gaussian import PIECE

    told = room[PIECE : PIECE + 4 * found].reshape(found, 4).astype(np.int64)
    more = (random_words(found).numpy().astype(np.float64) + 0.5) * 2.0**-63
    radius = np.sqrt(-2 * np.log((told[:, 2] + more) * 2.0**-32))
    angle = (told[:, 3] + 0.5) * (2 * math.pi * 2.0**-32)
    made = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)]).astype(np.float32)
    return told[:, :2].T.reshape(-1), made


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
    # The step is a power of two: to divide by it and to multiply with it is exact.
    factors = (deviation / step, 1 / step, step / over)
    return [_one(each.detach(), factors) for each in values]


def _one(values: torch.Tensor, factors: tuple[float, float, float]) -> torch.Tensor:
    count = values.numel()
    if values.device.type != "cpu" or values.dtype != torch.float32 or _kernels() is None:
        noisy = _drawn(count, values.device).to(values).view(values.shape)
        return noisy.mul_(factors[0]).add_(values, alpha=factors[1]).round_().mul_(factors[2])
    flat = values.reshape(-1)
    if count % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    out = torch.empty_like(flat, memory_format=torch.contiguous_format)
    _release(flat.contiguous(), factors, out)
    return out[:count].view(values.shape)


def _release(flat: torch.Tensor, factors: tuple[float, float, float], out: torch.Tensor) -> None:
    gaussian = _kernels()
    values, made, by = _bits(flat), _bits(out), np.array(factors, dtype=np.float32)
    for start in range(0, len(values), _MOST):
        held, part = values[start : start + _MOST], made[start : start + _MOST]
        with _stream() as (states, room):
            found = gaussian.noisy(states, room, held, by.view(np.uint32), part)
            if found:
                places, numbers = _far(room, found)
                exact = np.rint(numbers * by[0] + held[places].view(np.float32) * by[1]) * by[2]
                part[places] = exact.view(np.uint32)


def _drawn(count: int, device: torch.device) -> torch.Tensor:
    """Normal numbers on a device; on a GPU they are made there."""
    if device.type == "cuda":
        return _drawn_by_torch(count, device)
    return standard_normal(count).to(device)


def _drawn_by_torch(count: int, device: torch.device) -> torch.Tensor:
    from fedcore.learning.kernels import normal

    return normal.standard_normal(count, device)
