"""Which blocks of one set are in another, and whether a set holds one twice: by a hash table.

The table is keyed with fresh randomness, so that a side that chooses its tags cannot make it slow. It compares
sets of tags, which are no secrets of the side that holds both.

Cost: 8 to 16 bytes of table for each element of the set looked into, one or two random reads for each lookup.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.kernels.blocks import gf_mul, u64
from crypto.kernels.compiled import kernel

Blocks = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]


@kernel
def _place(low: Any, high: Any, salt: Any, shift: Any) -> Any:
    """Where in a table of 2^(64 - shift) places the search for a block starts."""
    _, top = gf_mul(low, high, salt[0, 0], salt[0, 1])
    return np.int64(top >> shift)


@kernel
def _fill(blocks: Any, salt: Any, shift: Any, table: Any) -> Any:
    """Put all blocks into the table, (2^k,) int64 of zeros; the first position of a block put before, or -1."""
    last = table.shape[0] - 1
    twice = -1
    for i in range(blocks.shape[0]):
        at = _place(blocks[i, 0], blocks[i, 1], salt, shift)
        while table[at]:
            j = table[at] - 1
            if blocks[j, 0] == blocks[i, 0] and blocks[j, 1] == blocks[i, 1]:
                break
            at = (at + 1) & last
        if not table[at]:
            table[at] = i + 1
        elif twice < 0:
            twice = i
    return twice


@kernel
def _look(blocks: Any, others: Any, salt: Any, shift: Any, table: Any, out: Any) -> None:
    """`out[i]`: whether `blocks[i]` is among `others`, which the table holds."""
    last = table.shape[0] - 1
    for i in range(blocks.shape[0]):
        out[i] = False
        at = _place(blocks[i, 0], blocks[i, 1], salt, shift)
        while table[at]:
            j = table[at] - 1
            if others[j, 0] == blocks[i, 0] and others[j, 1] == blocks[i, 1]:
                out[i] = True
                break
            at = (at + 1) & last


def _table(count: int) -> tuple[Blocks, Any, Positions]:
    """Salt, shift and an empty table for `count` blocks: at most half full."""
    bits = max(4, (2 * count - 1).bit_length() if count else 0)
    salt = np.frombuffer(secrets.token_bytes(16), dtype="<u8").reshape(1, 2)
    return salt, u64(64 - bits), np.zeros(1 << bits, dtype=np.int64)


def first_duplicate(blocks: Blocks) -> int | None:
    """The first position whose block stands before it too.

    Args:
        blocks: (n, 2) uint64.
    """
    salt, shift, table = _table(blocks.shape[0])
    found: int = _fill(blocks, salt, shift, table)
    return None if found < 0 else found


def members(mine: Blocks, theirs: Blocks) -> Positions:
    """Positions of `mine` whose block is in `theirs`, ascending.

    Args:
        mine: (n, 2) uint64.
        theirs: (m, 2) uint64; may hold a block twice.

    Returns:
        (k,) int64.
    """
    salt, shift, table = _table(theirs.shape[0])
    _fill(theirs, salt, shift, table)
    out = np.empty(mine.shape[0], dtype=np.bool_)
    _look(mine, theirs, salt, shift, table, out)
    return np.flatnonzero(out)


def check_items(items: Blocks) -> Blocks:
    """The items of a set, contiguous.

    Args:
        items: (n, 2) uint64, distinct.

    Raises:
        ValueError: They have another form, or an item stands there twice.
    """
    if items.ndim != 2 or items.shape[1] != 2 or items.dtype != np.uint64:
        raise ValueError(f"items are (n, 2) uint64, these are {items.shape} {items.dtype}")
    whole = np.ascontiguousarray(items)
    twice = first_duplicate(whole)
    if twice is not None:
        raise ValueError(f"the item at position {twice} stands in the set before; collapse duplicates first")
    return whole
