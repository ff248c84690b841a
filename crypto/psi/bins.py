"""A set of keys laid out in the bins of a store, a few bins at a time, from the first to the last.

A set gives its keys in 256 pieces by their top byte, which is the order of the bins (`okvs_kernels`): so only a few
pieces are in memory at any time, wherever the set is kept.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from crypto.kernels import okvs_kernels as kernels
from crypto.kernels.aes import expand_key
from crypto.psi.okvs import Partition
from crypto.psi.okvs_shape import Shape
from crypto.psi.runs import Runs
from crypto.psi.shelf import Shelf

Blocks = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.uint32]

AT_ONCE = 2**18
"""Keys laid out together, at least, where there are as many left: 5 MB of rows."""
_MIXED = b"fedcore psi mixed keys"


class KeySet(Protocol):
    """Distinct keys, by their top byte."""

    def __len__(self) -> int:
        """How many there are."""

    def pieces(self, first: int, end: int) -> tuple[Blocks, Numbers]:
        """The keys whose top byte is `first` to `end` - 1, by it, and their names; not to be written to.

        Returns:
            (n, 2) uint64 and (n,) uint32.
        """

    def mixed(self, seed: bytes) -> KeySet:
        """The same set with every key replaced by its encryption under a public seed, under the same names."""


class RunsOfKeys:
    """Records that were gathered, as a set.

    Args:
        runs: Flushed; the number of a record is the name of its key.
        shelf: For what mixing makes.
    """

    def __init__(self, runs: Runs, shelf: Shelf) -> None:
        self._runs, self._shelf = runs, shelf

    def __len__(self) -> int:
        return int(self._runs.counts.sum())

    def pieces(self, first: int, end: int) -> tuple[Blocks, Numbers]:
        """As `KeySet.pieces`."""
        return self._runs.keys(first, end), self._runs.numbers(first, end)

    def mixed(self, seed: bytes) -> KeySet:
        """As `KeySet.mixed`."""
        return mixed(self, seed, self._shelf)


def spans(count: int, at_once: int = 2**16) -> Iterator[tuple[int, int]]:
    """Pieces that are read together: as many as have `at_once` of so many keys, about; the first and the one behind."""
    together = max(1, min(kernels.PIECES, kernels.PIECES * at_once // max(1, count)))
    for first in range(0, kernels.PIECES, together):
        yield first, min(first + together, kernels.PIECES)


def mixed(keys: KeySet, seed: bytes, shelf: Shelf) -> KeySet:
    """`KeySet.mixed` for any set: AES-128 under a hash of the seed, a bijection.

    Keys that somebody has chosen to fall into few bins fall anywhere under a seed that was drawn after them.
    """
    round_keys = expand_key(hashlib.sha256(_MIXED + seed).digest()[:16])
    runs = Runs(shelf)
    for first, end in spans(len(keys)):
        some, names = keys.pieces(first, end)
        out = np.empty_like(some)
        kernels.encrypt_keys(some, round_keys, out)
        runs.add(out, names)
    runs.flush()
    return RunsOfKeys(runs, shelf)


def of_array(keys: Blocks) -> KeySet:
    """An array as a set; a key's name is its place.

    Args:
        keys: (n, 2) uint64, n below 2^32.
    """
    shelf = Shelf(2**63)
    runs = Runs(shelf, max(1, len(keys)))
    runs.add(keys, np.arange(len(keys), dtype=np.uint32))
    runs.flush()
    return RunsOfKeys(runs, shelf)


class Layout:
    """The bins of a set under a seed.

    Args:
        keys: The set.
        seed: 16 bytes, public.
        shape: Of the store.

    Attributes:
        most: Keys in the fullest bin.
    """

    def __init__(self, keys: KeySet, seed: bytes, shape: Shape) -> None:
        self._keys, self._shape = keys, shape
        self._round_keys, self._bins = expand_key(seed), np.uint64(shape.bins)
        self._starts = np.zeros(shape.bins + 1, dtype=np.int64)
        self._spans = deque(spans(len(keys)))
        for span in self._spans:
            some, _ = keys.pieces(*span)
            kernels.count(some, self._round_keys, self._bins, self._starts[1:])
        self.most = int(self._starts.max(initial=0))
        np.cumsum(self._starts, out=self._starts)
        self._ready: list[Partition] = []
        self._first = self._end = 0
        """Bins that are ready: from `_first` to `_end` - 1."""
        self._left: tuple[Blocks, Numbers] = np.empty((0, 2), dtype=np.uint64), np.empty(0, dtype=np.uint32)
        """Rows and names of a bin that the pieces loaded so far hold in part."""

    def __repr__(self) -> str:
        return f"Layout({len(self._keys)} keys in {self._shape.bins} bins)"

    def take(self, count: int) -> Partition:
        """The next bins, numbered from 0, as a partition."""
        first, end = self._first, self._first + count
        if end > self._shape.bins:
            raise ValueError(f"bins {first} to {end} of a store of {self._shape.bins}")
        while self._end < end:
            self._load()
        parts: list[Partition] = []
        while self._first < end:
            part = self._ready[0]
            here = len(part.start) - 1
            wanted = min(here, end - self._first)
            parts.append(_bins(part, 0, wanted))
            if wanted < here:
                self._ready[0] = _bins(part, wanted, here)
            else:
                self._ready.pop(0)
            self._first += wanted
        return parts[0] if len(parts) == 1 else _together(parts)

    def _load(self) -> None:
        """Lay out the next pieces: the bins that are whole then are ready."""
        loaded: list[tuple[Blocks, Numbers]] = []
        size = 0
        first, shape = self._end, self._shape
        while self._spans and size < AT_ONCE:
            loaded.append(self._keys.pieces(*self._spans.popleft()))
            size += len(loaded[-1][0])
        end = kernels.bins_of_piece(self._spans[0][0], shape.bins)[0] if self._spans else shape.bins
        last = min(end + 1, shape.bins) if self._spans else shape.bins
        base = int(self._starts[first])
        rows = np.empty((int(self._starts[last]) - base, 2), dtype=np.uint64)
        order = np.empty(len(rows), dtype=np.uint32)
        free = self._starts[first:last] - base
        before = len(self._left[0])
        if before:
            rows[:before], order[:before] = self._left
            free[0] += before
        for some, names in loaded:
            kernels.place(some, names, self._round_keys, self._bins, np.uint64(first), free, rows, order)
        start = self._starts[first : end + 1] - base
        whole = int(start[-1])
        self._left = np.empty((0, 2), dtype=np.uint64), np.empty(0, dtype=np.uint32)
        if last > end:
            self._left = rows[whole : free[-1]].copy(), order[whole : free[-1]].copy()
        if end > first:
            self._ready.append(Partition(shape, rows[:whole], order[:whole], start))
        self._end = end


def _bins(part: Partition, first: int, end: int) -> Partition:
    start = part.start[first : end + 1]
    low, high = int(start[0]), int(start[-1])
    return Partition(part.shape, part.rows[low:high], part.order[low:high], start - low)


def _together(parts: list[Partition]) -> Partition:
    starts = [parts[0].start]
    for part in parts[1:]:
        starts.append(part.start[1:] + starts[-1][-1])
    return Partition(
        parts[0].shape,
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.order for part in parts]),
        np.concatenate(starts),
    )
