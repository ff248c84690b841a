"""Tags of one bin: cut to their length, padded and shuffled at the sender, looked up at the receiver."""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt

from crypto.kernels import masks
from crypto.kernels.blocks import random_blocks
from crypto.psi.shuffle import new_seed, permutation

Blocks = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.uint32]


def cut(tags: Blocks, size: int) -> None:
    """Keep the first `size` bytes of each tag, in place."""
    if size < 8:
        tags[:, 0] &= np.uint64((1 << 8 * size) - 1)
        tags[:, 1] = 0
    elif size < 16:
        tags[:, 1] &= np.uint64((1 << 8 * (size - 8)) - 1)


def shuffled(tags: Blocks, size: int, out: npt.NDArray[np.uint8]) -> Numbers:
    """A bin's tags and random padding, in a secret random order.

    Args:
        tags: (n, 2) uint64.
        size: Bytes of a tag.
        out: Gets them, (room, size) uint8, room at least n.

    Returns:
        Which tag stands where, (room,) uint32; n and above is padding.
    """
    room = len(out)
    padded = np.empty((room, 2), dtype=np.uint64)
    padded[: len(tags)] = tags
    padded[len(tags) :] = random_blocks(room - len(tags))
    order = permutation(room, new_seed())
    masks.pack(padded[order], size, out)
    return order.astype(np.uint32)


def match(own: Blocks, theirs: Blocks) -> tuple[Positions, Positions]:
    """Which of the own tags are among the others, ascending, and where each stands there."""
    table = np.empty(1 << max(1, (2 * len(theirs) - 1).bit_length()), dtype=np.int32)
    found = np.empty(len(own), dtype=np.int64)
    salt = np.frombuffer(secrets.token_bytes(16), dtype=np.uint64)
    masks.match(theirs, own, salt, table, found)
    rows = np.flatnonzero(found >= 0)
    return rows, found[rows]
