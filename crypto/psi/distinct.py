"""A set of keys: each once, in an order that does not tell where its rows stood, with the way back to the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crypto.kernels import radix

Blocks = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Distinct:
    """Distinct keys, ascending as numbers of 128 bits, and the rows that have them.

    Args:
        blocks: (m, 2) uint64, little end first.
        rows: (n,) int64, by key in the order of `blocks`; rows of one key in the order given.
        starts: (m + 1,) int64, where the rows of each key begin in `rows`, n at the end; None where no key has
            two rows, so that `rows` has one for each.
    """

    blocks: Blocks
    rows: Int64
    starts: Int64 | None

    def __repr__(self) -> str:
        return f"Distinct({len(self.blocks)} keys, duplicates={self.duplicates})"

    @property
    def duplicates(self) -> int:
        """Rows beyond the first of their key."""
        return len(self.rows) - len(self.blocks)

    def rows_of(self, keys: Int64) -> tuple[Int64, Int64]:
        """All rows of some of the keys.

        Args:
            keys: (k,) int64, places in `blocks`, in any order.

        Returns:
            The row numbers, by key in the order asked; and for each the place in `keys` of its key, ascending from
            0: where two sides ask for the same keys in the same order, rows that match have the same.

        Raises:
            IndexError: A place that is not there.
        """
        if keys.size and not 0 <= keys.min() <= keys.max() < len(self.blocks):
            raise IndexError(
                f"keys have places 0 to {len(self.blocks) - 1}, not {keys.min()} to {keys.max()}"
            )
        if self.starts is None:
            return self.rows[keys], np.arange(len(keys), dtype=np.int64)
        begins = self.starts[keys]
        counts = self.starts[keys + 1] - begins
        groups = np.repeat(np.arange(len(keys), dtype=np.int64), counts)
        before = np.cumsum(counts) - counts
        return self.rows[(begins - before)[groups] + np.arange(len(groups), dtype=np.int64)], groups


def collapse(blocks: Blocks, rows: Int64) -> Distinct:
    """The distinct keys of many rows.

    Takes 24 bytes a row beside the arguments.

    Args:
        blocks: (n, 2) uint64, little end first; hashes: other values are sorted rightly, more slowly.
        rows: (n,) int64, whose they are.

    Raises:
        ValueError: The arrays are not of one length.
    """
    if blocks.shape != (len(rows), 2):
        raise ValueError(f"blocks of shape {blocks.shape} for {len(rows)} rows; they are (rows, 2)")
    ordered, order = radix.sort(np.ascontiguousarray(blocks, np.uint64), np.ascontiguousarray(rows, np.int64))
    found = int(radix.count_distinct(ordered))
    if found == len(rows):
        return Distinct(ordered, order, None)
    starts = np.empty(found + 1, dtype=np.int64)
    radix.squeeze(ordered, starts)
    return Distinct(ordered[:found].copy(), order, starts)
