"""Many records of a key and a number, given in any order and read back by the key's top byte, in 256 pieces.

Records are gathered to a run of a million or so, each run is sorted by the top byte and put on a shelf, whole: one
long write. A piece is read from all runs. So a set far larger than memory takes one pass to write and one to read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.kernels.okvs_kernels import PIECES
from crypto.kernels.spread import spread
from crypto.psi.shelf import Kept, Shelf

Blocks = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.uint32]

RECORD = 20
"""Bytes."""
LONGEST_RUN = 2**21
SHORTEST_RUN = 2**12


class Runs:
    """Records, by the top byte of their key.

    Args:
        shelf: Where they are kept.
        run: Records in a run.

    Attributes:
        counts: Records in each piece, (256,) int64; complete after `flush`.
    """

    def __init__(self, shelf: Shelf, run: int = LONGEST_RUN) -> None:
        self._shelf, self._run = shelf, run
        self._kept: list[tuple[Kept, Kept, npt.NDArray[np.int64]]] = []
        """Keys, numbers, and where each piece begins."""
        self._filled = 0
        self._keys: Blocks | None = None
        self._numbers: Numbers = np.empty(0, dtype=np.uint32)
        self.counts = np.zeros(PIECES, dtype=np.int64)

    def __repr__(self) -> str:
        return f"Runs({int(self.counts.sum())} records)"

    def add(self, keys: Blocks, numbers: Numbers) -> None:
        """Take records.

        Args:
            keys: (n, 2) uint64.
            numbers: (n,) uint32.

        Raises:
            OSError: There is no room for them.
        """
        done = 0
        while done < len(keys):
            if self._keys is None:
                self._keys = np.empty((self._run, 2), dtype=np.uint64)
                self._numbers = np.empty(self._run, dtype=np.uint32)
            end = min(len(keys), done + self._run - self._filled)
            at = slice(self._filled, self._filled + end - done)
            self._keys[at], self._numbers[at] = keys[done:end], numbers[done:end]
            self._filled += end - done
            done = end
            if self._filled == self._run:
                self._put()

    def flush(self) -> None:
        """Take what was added last to the others, and give the room for more back."""
        self._put()
        self._keys, self._numbers = None, np.empty(0, dtype=np.uint32)

    def _put(self) -> None:
        if not self._filled or self._keys is None:
            return
        keys, numbers = self._keys[: self._filled], self._numbers[: self._filled]
        out, out_numbers = np.empty_like(keys), np.empty_like(numbers)
        starts = np.empty(PIECES + 1, dtype=np.int64)
        spread(keys, numbers, starts, np.empty(PIECES, dtype=np.int64), out, out_numbers)
        self._kept.append((self._shelf.put(out), self._shelf.put(out_numbers), starts))
        self.counts += np.diff(starts)
        self._filled = 0

    def keys(self, first: int, end: int) -> Blocks:
        """The keys of pieces `first` to `end` - 1, piece after piece, (n, 2) uint64; not to be written to."""
        kept = [(keys, starts) for keys, _, starts in self._kept]
        return _joined(kept, first, end, np.empty((0, 2), dtype=np.uint64))

    def numbers(self, first: int, end: int) -> Numbers:
        """Their numbers, (n,) uint32, in the same order."""
        kept = [(numbers, starts) for _, numbers, starts in self._kept]
        return _joined(kept, first, end, np.empty(0, dtype=np.uint32))


def _joined(
    kept: list[tuple[Kept, npt.NDArray[np.int64]]], first: int, end: int, nothing: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    if len(kept) == 1:
        array, starts = kept[0]
        return array.part(int(starts[first]), int(starts[end]))
    parts = [
        array.part(int(starts[piece]), int(starts[piece + 1]))
        for piece in range(first, end)
        for array, starts in kept
    ]
    return np.concatenate(parts) if parts else nothing
