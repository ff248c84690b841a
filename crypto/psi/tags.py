"""Tags of one bin: cut to their length, and looked up at the receiver."""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt

from crypto.kernels import masks

Blocks = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]


def cut(tags: Blocks, size: int) -> None:
    """Keep the first `size` bytes of each tag, in place."""
    if size < 8:
        tags[:, 0] &= np.uint64((1 << 8 * size) - 1)
        tags[:, 1] = 0
    elif size < 16:
        tags[:, 1] &= np.uint64((1 << 8 * (size - 8)) - 1)


def match(own: Blocks, theirs: Blocks) -> tuple[Positions, Positions]:
    """Which of the own tags are among the others, ascending, and where each stands there."""
    table = np.empty(1 << max(1, (2 * len(theirs) - 1).bit_length()), dtype=np.int32)
    found = np.empty(len(own), dtype=np.int64)
    salt = np.frombuffer(secrets.token_bytes(16), dtype=np.uint64)
    masks.match(theirs, own, salt, table, found)
    rows = np.flatnonzero(found >= 0)
    return rows, found[rows]
