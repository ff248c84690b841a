"""Masks of set intersection: from what a store gives for a key to a tag, and which tags two sides share."""

from __future__ import annotations

from typing import Any

import numpy as np

from crypto.kernels.aes import fixed
from crypto.kernels.blocks import gf_mul, u64
from crypto.kernels.compiled import kernel

_TAG = u64(0x7465_6B73_616D)
"""Separates the hash of tags from the other uses of the permutation, which have small tweaks."""


@kernel(inline="always")
def _value(low: Any, high: Any) -> Any:
    """The value that belongs to a row: pi(x) + x, a random oracle for an ideal permutation."""
    a, b = fixed(low, high)
    return a ^ low, b ^ high


@kernel(inline="always")
def _tag(low: Any, high: Any) -> Any:
    """pi(pi(x) + t) + pi(x): correlation robust, so that D times an unknown value hides the rest."""
    a, b = fixed(low, high)
    c, d = fixed(a ^ _TAG, b)
    return a ^ c, b ^ d


@kernel
def values(rows: Any, out: Any) -> None:
    """What is stored for each row: (n, 2) uint64 both."""
    for i in range(rows.shape[0]):
        out[i, 0], out[i, 1] = _value(rows[i, 0], rows[i, 1])


@kernel
def receiver_tags(decoded: Any) -> None:
    """Tags of what the receiver's own store of c gives, in place."""
    for i in range(decoded.shape[0]):
        decoded[i, 0], decoded[i, 1] = _tag(decoded[i, 0], decoded[i, 1])


@kernel
def sender_tags(rows: Any, delta: Any, decoded: Any) -> None:
    """Tags of what the sender's store of K gives less D times the row's value, in place; `delta` (1, 2)."""
    d0, d1 = delta[0, 0], delta[0, 1]
    for i in range(rows.shape[0]):
        v0, v1 = _value(rows[i, 0], rows[i, 1])
        p0, p1 = gf_mul(v0, v1, d0, d1)
        decoded[i, 0], decoded[i, 1] = _tag(decoded[i, 0] ^ p0, decoded[i, 1] ^ p1)


@kernel
def pack(tags: Any, size: Any, out: Any) -> None:
    """The first `size` bytes of each tag: (n, 2) uint64 to (n, size) uint8."""
    for i in range(tags.shape[0]):
        for j in range(size):
            word = tags[i, j >> 3]
            out[i, j] = np.uint8((word >> u64(8 * (j & 7))) & u64(0xFF))


@kernel
def unpack(packed: Any, size: Any, out: Any) -> None:
    """`pack` undone, with zeros behind: (n, size) uint8 to (n, 2) uint64."""
    for i in range(out.shape[0]):
        low = u64(0)
        high = u64(0)
        for j in range(min(size, 8)):
            low |= u64(packed[i, j]) << u64(8 * j)
        for j in range(8, size):
            high |= u64(packed[i, j]) << u64(8 * (j - 8))
        out[i, 0] = low
        out[i, 1] = high


@kernel
def match(theirs: Any, mine: Any, salt: Any, table: Any, found: Any) -> None:
    """Where each of my tags stands among theirs.

    Args:
        theirs, mine: (m, 2) and (n, 2) uint64.
        salt: Two secret random words, (2,) uint64: nobody can choose tags that fall on one place of the table.
        table: Room, (2^k,) int32 with at least 2 m places, k at least 1.
        found: Out, (n,) int64; -1 where there is none.
    """
    mask = table.shape[0] - 1
    shift = u64(64)
    places = table.shape[0]
    while places > 1:
        shift -= u64(1)
        places >>= 1
    for i in range(table.shape[0]):
        table[i] = -1
    for i in range(theirs.shape[0]):
        at = np.int64((theirs[i, 0] * salt[0] + theirs[i, 1] * salt[1]) >> shift)
        while table[at] >= 0:
            j = table[at]
            if theirs[j, 0] == theirs[i, 0] and theirs[j, 1] == theirs[i, 1]:
                break  # the first of equal ones stands for all
            at = (at + 1) & mask
        if table[at] < 0:
            table[at] = i
    for i in range(mine.shape[0]):
        at = np.int64((mine[i, 0] * salt[0] + mine[i, 1] * salt[1]) >> shift)
        found[i] = -1
        while table[at] >= 0:
            j = table[at]
            if theirs[j, 0] == mine[i, 0] and theirs[j, 1] == mine[i, 1]:
                found[i] = j
                break
            at = (at + 1) & mask
