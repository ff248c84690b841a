"""Sorting records of a block of 128 bits and a row number, for blocks that are spread evenly, as hashes are.

Two passes put records where the top bits of their block say, the second within a piece that fits the processor's
cache; what is left are handfuls. Blocks that are not spread evenly are sorted rightly too, more slowly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.kernels.blocks import u64
from crypto.kernels.compiled import kernel

_HANDFUL = 48
_PIECE_BITS = 15
_MOST_BITS = 11


@kernel(inline="always")
def _less(a0: Any, a1: Any, b0: Any, b1: Any) -> Any:
    return a1 < b1 or (a1 == b1 and a0 < b0)


@kernel(inline="always")
def _digit(word: Any, skip: Any, bits: Any) -> Any:
    """The `bits` bits of a word behind its first `skip` ones; in two shifts, since one by 64 is undefined."""
    return np.int64(((word << u64(skip)) >> u64(1)) >> u64(63 - bits))


@kernel
def _count(blocks: Any, bits: Any, places: Any) -> None:
    """Add to `places[d + 1]` the blocks whose first `bits` bits are d; (2^bits + 1,) int64."""
    for i in range(blocks.shape[0]):
        places[_digit(blocks[i, 1], 0, bits) + 1] += 1


@kernel
def _sorted(
    blocks: Any, rows: Any, bits: Any, places: Any, own: Any, own_rows: Any, marks: Any,
    out: Any, out_rows: Any, late: Any,
) -> Any:  # fmt: skip
    """Sort into `out` and `out_rows`; ranges that are left to another way of sorting go to `late`.

    Args:
        blocks, out: (n, 2) uint64.
        rows, out_rows: (n,) int64.
        bits: Of the first pass, 0 to 63.
        places: Where the piece of each digit begins, (2^bits + 1,) int64; afterwards, where it ends.
        own, own_rows: Room for the largest piece, of m records: (m, 2) uint64, (m,) int64.
        marks: Room, (m // 2 + 2,) int64.
        late: (n // _HANDFUL + 1, 2) int64, first and end of each such range.

    Returns:
        How many ranges there are in `late`.
    """
    n = blocks.shape[0]
    for i in range(n):
        piece = _digit(blocks[i, 1], 0, bits)
        at = places[piece]
        places[piece] += 1
        out[at, 0], out[at, 1] = blocks[i, 0], blocks[i, 1]
        out_rows[at] = rows[i]

    left = 0
    first = 0
    for piece in range(1 << bits):
        end = places[piece]
        size = end - first
        fine = 0
        while (4 << fine) < size and fine < 63 - bits:
            fine += 1
        for each in range((1 << fine) + 1):
            marks[each] = 0
        for i in range(first, end):
            marks[_digit(out[i, 1], bits, fine) + 1] += 1
        for each in range(1 << fine):
            marks[each + 1] += marks[each]
        for i in range(first, end):
            each = _digit(out[i, 1], bits, fine)
            at = marks[each]
            marks[each] += 1
            own[at, 0], own[at, 1] = out[i, 0], out[i, 1]
            own_rows[at] = out_rows[i]
        low = 0
        for each in range(1 << fine):
            high = marks[each]
            falls = 0
            for i in range(low + 1, high):
                falls += _less(own[i, 0], own[i, 1], own[i - 1, 0], own[i - 1, 1])
            if falls and high - low > _HANDFUL:
                late[left, 0], late[left, 1] = first + low, first + high
                left += 1
            elif falls:
                for i in range(low + 1, high):
                    b0, b1, row = own[i, 0], own[i, 1], own_rows[i]
                    j = i
                    while j > low and _less(b0, b1, own[j - 1, 0], own[j - 1, 1]):
                        own[j, 0], own[j, 1], own_rows[j] = own[j - 1, 0], own[j - 1, 1], own_rows[j - 1]
                        j -= 1
                    own[j, 0], own[j, 1], own_rows[j] = b0, b1, row
            low = high
        for i in range(size):
            out[first + i, 0], out[first + i, 1] = own[i, 0], own[i, 1]
            out_rows[first + i] = own_rows[i]
        first = end
    return left


def sort(
    blocks: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Copies sorted by block, as numbers of 128 bits; rows of equal blocks stay in their order.

    Args:
        blocks: (n, 2) uint64, little end first.
        rows: (n,) int64.
    """
    n = len(rows)
    out, out_rows = np.empty((n, 2), dtype=np.uint64), np.empty(n, dtype=np.int64)
    bits = min(max(n.bit_length() - _PIECE_BITS, 0), _MOST_BITS)
    late = np.empty((n // _HANDFUL + 1, 2), dtype=np.int64)
    places = np.zeros((1 << bits) + 1, dtype=np.int64)
    _count(blocks, bits, places)
    largest = int(places.max())
    np.cumsum(places, out=places)
    own, own_rows = np.empty((largest, 2), dtype=np.uint64), np.empty(largest, dtype=np.int64)
    marks = np.empty(largest // 2 + 2, dtype=np.int64)
    left = _sorted(blocks, rows, bits, places, own, own_rows, marks, out, out_rows, late)
    for first, end in late[:left].tolist():
        order = np.lexsort((out[first:end, 0], out[first:end, 1]))
        out[first:end] = out[first:end][order]
        out_rows[first:end] = out_rows[first:end][order]
    return out, out_rows


@kernel
def count_distinct(blocks: Any) -> Any:
    """How many different blocks there are; (n, 2) uint64, sorted."""
    found = min(1, blocks.shape[0])
    for i in range(1, blocks.shape[0]):
        found += blocks[i, 0] != blocks[i - 1, 0] or blocks[i, 1] != blocks[i - 1, 1]
    return found


@kernel
def squeeze(blocks: Any, starts: Any) -> None:
    """Move the different blocks to the front, in their order, and note where each began.

    Args:
        blocks: (n, 2) uint64, sorted, n at least 1.
        starts: (m + 1,) int64 for the m different blocks; the last is n.
    """
    found = 0
    for i in range(blocks.shape[0]):
        if i == 0 or blocks[i, 0] != blocks[found - 1, 0] or blocks[i, 1] != blocks[found - 1, 1]:
            blocks[found, 0], blocks[found, 1] = blocks[i, 0], blocks[i, 1]
            starts[found] = i
            found += 1
    starts[found] = blocks.shape[0]
