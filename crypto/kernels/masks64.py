"""Masks of set intersection where a value is a word: H of 64 bits, and tags cut to a number of bits."""

from __future__ import annotations

from typing import Any

from crypto.kernels.blocks import u64
from crypto.kernels.compiled import kernel
from crypto.kernels.gf64 import gf64_mul
from crypto.kernels.masks import _tag, _value


@kernel
def values(rows: Any, out: Any) -> None:
    """What is stored for each row, the low word of its value: (n, 2) to (n,) uint64."""
    for i in range(rows.shape[0]):
        out[i], _ = _value(rows[i, 0], rows[i, 1])


@kernel
def sender_tags(rows: Any, delta: Any, decoded: Any) -> None:
    """Tags of what the sender's store of K gives less D times the row's value, in place; `delta` (1, 2)."""
    d0, d1 = delta[0, 0], delta[0, 1]
    for i in range(rows.shape[0]):
        v, _ = _value(rows[i, 0], rows[i, 1])
        low = decoded[i, 0] ^ gf64_mul(v, d0)
        high = decoded[i, 1] ^ gf64_mul(v, d1)
        decoded[i, 0], decoded[i, 1] = _tag(low, high)


@kernel
def cut(tags: Any, bits: Any) -> None:
    """Keep the lowest `bits` (1 to 128) of each tag, (n, 2) uint64, in place."""
    low = high = u64(0)
    low = ~low >> u64(64 - min(bits, 64))
    if bits > 64:
        high = ~high >> u64(128 - bits)
    for i in range(tags.shape[0]):
        tags[i, 0] &= low
        tags[i, 1] &= high
