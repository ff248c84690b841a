"""The keys of one side's rows: gathered batch by batch, each key once, in bounded memory, with the way back to the rows.

Keys lie on a `Shelf` by their top byte, in 256 pieces; one piece is sorted at a time to find the rows that share a
key. An item is called by its number: items of a piece follow those of the pieces before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crypto.kernels import radix
from crypto.kernels.okvs_kernels import PIECES
from crypto.kernels.spread import may_repeat
from crypto.psi.bins import KeySet, mixed, spans
from crypto.psi.runs import LONGEST_RUN, RECORD, SHORTEST_RUN, Runs
from crypto.psi.shelf import Kept, Shelf

Blocks = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.uint32]
Int64 = npt.NDArray[np.int64]

MOST_ROWS = 2**32 - 2**16
"""Row numbers from here on are of planted items."""
_CACHED = 4


@dataclass(frozen=True)
class _Shared:
    """A piece in which rows share keys.

    Args:
        keys: Each once.
        rows: Of all of them, by key.
        starts: Where the rows of each key begin, (m + 1,) int64.
    """

    keys: Kept
    rows: Kept
    starts: Kept


class KeyStore:
    """Keys of rows; a `KeySet` once `collapse` was called.

    Args:
        memory: Bytes that it may take, about: half for what it keeps, the rest for work. More goes to a file.
        folder: Where that file is made; the system's folder for temporary files when None.

    Attributes:
        rows: Rows that were added.
        duplicates: Rows beyond the first of their key.
    """

    def __init__(self, memory: int, folder: Path | None = None) -> None:
        self._shelf = Shelf(memory // 2, folder)
        self._runs = Runs(self._shelf, min(max(memory // (8 * RECORD), SHORTEST_RUN), LONGEST_RUN))
        self._shared: dict[int, _Shared] = {}
        self._sizes = np.zeros(PIECES, dtype=np.int64)
        self._bases = np.zeros(PIECES + 1, dtype=np.int64)
        self._cache: dict[int, tuple[Numbers, Int64 | None]] = {}
        self.rows = self.duplicates = 0

    def __repr__(self) -> str:
        return f"KeyStore({len(self)} keys, duplicates={self.duplicates})"

    @property
    def spilled(self) -> int:
        """Bytes that were put in a file."""
        return self._shelf.spilled

    def __len__(self) -> int:
        return int(self._bases[-1])

    def add(self, keys: Blocks, rows: Int64) -> None:
        """Take the keys of some rows.

        Args:
            keys: (n, 2) uint64, little end first; hashes.
            rows: Whose they are, (n,) int64, from 0 to `MOST_ROWS` - 1, each once.

        Raises:
            ValueError: A row's number is outside.
            OSError: There is no room for them.
        """
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < MOST_ROWS:
            raise ValueError(
                f"rows {rows.min()} to {rows.max()}: at most {MOST_ROWS} rows can be intersected"
            )
        self.rows += len(rows)
        self._runs.add(keys, rows.astype(np.uint32))

    def collapse(self) -> None:
        """Find the rows that share a key; nothing is added afterwards but by `plant`."""
        self._runs.flush()
        self._sizes[:] = self._runs.counts
        # Few at a time: the table in which they are looked for stays in the first cache.
        for first, end in spans(self.rows, 2**12):
            if _may_repeat(self._runs.keys(first, end)):
                for piece in range(first, end):
                    self._share(piece)
        self._number()

    def _share(self, piece: int) -> None:
        """Find the rows of a piece that share a key."""
        keys = np.ascontiguousarray(self._runs.keys(piece, piece + 1))
        rows = self._runs.numbers(piece, piece + 1)
        ordered, order = radix.sort(keys, rows.astype(np.int64))
        found = int(radix.count_distinct(ordered))
        if found == len(rows):
            return
        self._sizes[piece] = found
        starts = np.empty(found + 1, dtype=np.int64)
        radix.squeeze(ordered, starts)
        self.duplicates += len(rows) - found
        self._shared[piece] = _Shared(
            self._shelf.put(ordered[:found].copy()),
            self._shelf.put(order.astype(np.uint32)),
            self._shelf.put(starts),
        )

    def plant(self, keys: Blocks) -> None:
        """Add items that belong to no row: random ones, which are not there yet.

        Args:
            keys: (n, 2) uint64, n at most 2^16.
        """
        rows = np.arange(MOST_ROWS, MOST_ROWS + len(keys), dtype=np.int64).astype(np.uint32)
        pieces = (keys[:, 1] >> np.uint64(56)).astype(np.int64)
        for piece in np.unique(pieces[np.isin(pieces, list(self._shared))]).tolist():
            here = pieces == piece
            old, count = self._shared[piece], int(here.sum())
            ends = old.starts.whole()
            self._shared[piece] = _Shared(
                self._shelf.put(np.concatenate([old.keys.whole(), keys[here]])),
                self._shelf.put(np.concatenate([old.rows.whole(), rows[here]])),
                self._shelf.put(np.concatenate([ends, ends[-1] + np.arange(1, count + 1)])),
            )
            self._sizes[piece] += count
        alone = ~np.isin(pieces, list(self._shared))
        self._runs.add(keys[alone], rows[alone])
        self._runs.flush()
        for piece in set(range(PIECES)) - set(self._shared):
            self._sizes[piece] = self._runs.counts[piece]
        self._number()

    def _number(self) -> None:
        np.cumsum(self._sizes, out=self._bases[1:])
        self._cache.clear()

    def pieces(self, first: int, end: int) -> tuple[Blocks, Numbers]:
        """As `KeySet.pieces`; names are the items' numbers."""
        if self._shared.keys().isdisjoint(range(first, end)):
            keys = self._runs.keys(first, end)
        else:
            keys = np.concatenate([self._keys(piece) for piece in range(first, end)])
        base = int(self._bases[first])
        return keys, np.arange(base, base + len(keys), dtype=np.uint32)

    def _keys(self, piece: int) -> Blocks:
        shared = self._shared.get(piece)
        return shared.keys.whole() if shared else self._runs.keys(piece, piece + 1)

    def mixed(self, seed: bytes) -> KeySet:
        """As `KeySet.mixed`."""
        return mixed(self, seed, self._shelf)

    def whole(self) -> Blocks:
        """All keys in memory, (n, 2) uint64, in the order of their numbers."""
        return np.concatenate([self.pieces(*span)[0] for span in spans(len(self))])

    def rows_of(self, items: npt.NDArray[np.integer]) -> tuple[Int64, Int64]:
        """All rows of some items.

        Args:
            items: Their numbers, (k,), in any order; fastest where neighbours are of few pieces.

        Returns:
            The rows, (n,) int64, item by item in the order asked, planted ones among them (`MOST_ROWS` and above);
            and for each the place in `items` of its item.

        Raises:
            IndexError: An item that is not there.
        """
        wanted = items.astype(np.int64)
        if wanted.size and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(self):
            raise IndexError(f"items have numbers 0 to {len(self) - 1}, not {wanted.min()} to {wanted.max()}")
        pieces = np.searchsorted(self._bases, wanted, side="right") - 1
        firsts = np.empty(len(wanted), dtype=np.int64)
        counts = np.ones(len(wanted), dtype=np.int64)
        several: dict[int, tuple[Numbers, Int64, npt.NDArray[np.bool_]]] = {}
        for piece in np.unique(pieces).tolist():
            here = pieces == piece
            rows, starts = self._rows(piece)
            local = wanted[here] - self._bases[piece]
            if starts is None:
                firsts[here] = rows[local]
            else:
                firsts[here], counts[here] = starts[local], starts[local + 1] - starts[local]
                several[piece] = rows, starts, here
        groups = np.repeat(np.arange(len(wanted), dtype=np.int64), counts)
        if not several:
            return firsts, groups
        out = firsts[groups]
        within = np.arange(len(groups), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        for rows, _, here in several.values():
            chosen = here[groups]
            out[chosen] = rows[out[chosen] + within[chosen]]
        return out, groups

    def _rows(self, piece: int) -> tuple[Numbers, Int64 | None]:
        """Rows of the items of a piece, and where each item's begin; None where each has one."""
        if piece not in self._cache:
            while len(self._cache) >= _CACHED:
                del self._cache[next(iter(self._cache))]
            shared = self._shared.get(piece)
            self._cache[piece] = (
                (shared.rows.whole(), shared.starts.whole())
                if shared
                else (self._runs.numbers(piece, piece + 1), None)
            )
        return self._cache[piece]

    def close(self) -> None:
        """Give back what it holds on disk."""
        self._shelf.close()


def _may_repeat(keys: Blocks) -> bool:
    table = np.empty(1 << max(1, (2 * len(keys)).bit_length()), dtype=np.uint32)
    return bool(may_repeat(np.ascontiguousarray(keys), table))
