"""What `benchmarks/gpu_masking.py` compares with: ChaCha20, quantising and masks in NumPy, written from the documents alone.

Source: RFC 8439, sections 2.1 to 2.4 (the block function; a stream's counter begins at 0 here).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def stream(key: bytes, words: int) -> Array:
    """The first words of a stream, uint32.

    Args:
        key: 32 bytes of key and 12 of nonce.
        words: How many.
    """
    blocks = -(-words // 16)
    start = np.empty((16, blocks), dtype=np.uint32)
    start[:4] = np.frombuffer(b"expand 32-byte k", dtype="<u4")[:, None]
    start[4:12] = np.frombuffer(key[:32], dtype="<u4")[:, None]
    start[12] = np.arange(blocks, dtype=np.uint32)
    start[13:] = np.frombuffer(key[32:], dtype="<u4")[:, None]
    state = start.copy()
    for _ in range(10):
        for column in range(4):
            _quarter(state, column, 4 + column, 8 + column, 12 + column)
        for column in range(4):
            _quarter(state, column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return (state + start).T.reshape(-1)[:words]


def _quarter(state: Array, a: int, b: int, c: int, d: int) -> None:
    for one, other, third, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[one] += state[other]
        turned = state[third] ^ state[one]
        state[third] = (turned << np.uint32(by)) | (turned >> np.uint32(32 - by))


def masks(keys: Sequence[bytes], minus: Sequence[bool], count: int, bits: int) -> Array:
    """The sum of streams, with their signs, modulo 2^bits."""
    per = bits // 32
    kind = np.dtype(f"<u{bits // 8}")
    total = np.zeros(count, dtype=kind)
    for key, away in zip(keys, minus, strict=True):
        words = stream(key, per * count).astype("<u4").view(kind)
        total = total - words if away else total + words
    return total


def masked(
    values: Array,
    clip: float,
    scale: float,
    rounding: bytes,
    keys: Sequence[bytes],
    minus: Sequence[bool],
    bits: int,
) -> Array:
    """Masked words, signed, for finite numbers in float32."""
    fractions = stream(rounding, len(values)).astype(np.float64) * 2.0**-32
    units = np.floor(np.clip(values.astype(np.float64), -clip, clip) * scale + fractions)
    words = units.astype(np.int64).astype(f"i{bits // 8}").view(f"u{bits // 8}")
    found: Array = (words + masks(keys, minus, len(values), bits)).view(f"i{bits // 8}")
    return found


def unmasked(vectors: Array, keys: Sequence[bytes], minus: Sequence[bool], factor: float) -> Array:
    """The mean that signed words `[m, P]` stand for once their masks are away, float32."""
    bits = 8 * vectors.dtype.itemsize
    total = vectors.view(f"u{bits // 8}").sum(axis=0, dtype=f"u{bits // 8}")
    total = total + masks(keys, minus, vectors.shape[1], bits)
    found: Array = (total.view(f"i{bits // 8}").astype(np.float64) * factor).astype(np.float32)
    return found
