"""Records of a key of 128 bits and a number of 32, sorted by the key's top byte."""

from __future__ import annotations

from typing import Any

import numpy as np

from crypto.kernels.blocks import u64
from crypto.kernels.compiled import kernel

_TOP = u64(56)


@kernel
def spread(keys: Any, numbers: Any, starts: Any, free: Any, out: Any, out_numbers: Any) -> None:
    """Sort by the top byte; records with the same keep their order.

    Args:
        keys: (n, 2) uint64, little end first.
        numbers: (n,) uint32.
        starts: Out, (257,) int64: where the records of each byte begin, n at the end.
        free: Scratch, (256,) int64.
        out, out_numbers: Out, as `keys` and `numbers`.
    """
    for byte in range(257):
        starts[byte] = 0
    for i in range(keys.shape[0]):
        starts[np.int64(keys[i, 1] >> _TOP) + 1] += 1
    for byte in range(256):
        free[byte] = starts[byte]
        starts[byte + 1] += starts[byte]
    for i in range(keys.shape[0]):
        each = np.int64(keys[i, 1] >> _TOP)
        at = free[each]
        free[each] = at + 1
        out[at, 0], out[at, 1] = keys[i, 0], keys[i, 1]
        out_numbers[at] = numbers[i]


_LONGEST_SEARCH = 64


@kernel
def may_repeat(keys: Any, table: Any) -> Any:
    """Whether a key may stand twice; never False where one does.

    Compares 32 bits of keys that meet in a hash table: that some are equal by chance costs the caller a closer look.

    Args:
        keys: (n, 2) uint64, hashes.
        table: Scratch, (2^k,) uint32, k from 1 to 32, with at least 2 n places.
    """
    mask = table.shape[0] - 1
    for i in range(table.shape[0]):
        table[i] = 0
    for i in range(keys.shape[0]):
        mark = np.uint32(keys[i, 0] & u64(0xFFFFFFFF)) | np.uint32(1)
        at = np.int64(keys[i, 1] & u64(mask))
        for _ in range(_LONGEST_SEARCH):
            found = table[at]
            if found == 0 or found == mark:
                break
            at = (at + 1) & mask
        if table[at] != 0:
            return True
        table[at] = mark
    return False
