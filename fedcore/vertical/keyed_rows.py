"""A party's rows by key, for scoring: whoever is asked for is looked up, whoever is not there has missing values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError
from fedcore.vertical.table import TRAIN, Table

Blocks = npt.NDArray[np.uint64]


class KeyedRows:
    """Columns of a party and the keys of their rows, in memory.

    Args:
        items: Keys of the rows that have one, (n, 2) uint64, as `crypto.psi.items.keys_of` gives them.
        rows: Which row of the columns each key is of, (n,) int64, ascending. Of rows with one key the first counts.
        columns: By name, as in `Table`.

    Attributes:
        duplicates: Rows that do not count, because an earlier one has their key.
    """

    def __init__(
        self, items: Blocks, rows: npt.NDArray[np.int64], columns: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        # Stable, so that of equal keys the first row stays in front.
        order = np.lexsort((np.arange(len(items)), items[:, 1], items[:, 0]))
        found = items[order]
        fresh = np.ones(len(found), dtype=np.bool_)
        fresh[1:] = (found[1:] != found[:-1]).any(axis=1)
        self._first = np.ascontiguousarray(found[fresh, 0])
        self._second = np.ascontiguousarray(found[fresh, 1])
        self._rows = rows[order][fresh]
        self._columns = dict(columns)
        self.duplicates = int(len(found) - fresh.sum())

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, items: Blocks) -> npt.NDArray[np.int64]:
        """The row of each key, -1 where there is none.

        Args:
            items: (n, 2) uint64.
        """
        found = np.full(len(items), -1, dtype=np.int64)
        at = np.searchsorted(self._first, items[:, 0])
        open_ = np.arange(len(items))
        # Keys that agree in their first half are neighbours; there is hardly ever a second one to look at.
        while len(open_):
            open_ = open_[at[open_] < len(self._first)]
            open_ = open_[self._first[at[open_]] == items[open_, 0]]
            hit = self._second[at[open_]] == items[open_, 1]
            found[open_[hit]] = self._rows[at[open_[hit]]]
            open_ = open_[~hit]
            at[open_] += 1
        return found

    def table(self, items: Blocks) -> tuple[Table, int]:
        """The rows of some keys, and how many keys have none; of those every value is missing.

        Args:
            items: (n, 2) uint64.
        """
        rows = self.find(items)
        unknown = rows < 0
        columns = {}
        for name, values in self._columns.items():
            if len(values):
                taken = values[rows]
                taken[unknown] = None if taken.dtype == object else np.nan
            else:
                taken = np.full(len(rows), None if values.dtype == object else np.nan, dtype=values.dtype)
            columns[name] = taken
        return Table(columns, np.full(len(rows), TRAIN, dtype=np.int8)), int(unknown.sum())


def keys_in_order(blocks: Blocks, rows: npt.NDArray[np.int64], count: int) -> Blocks:
    """Keys of all rows, in their order.

    Args:
        blocks, rows: As `crypto.psi.items.Keys` has them.
        count: Rows there are.

    Raises:
        DataError: A row has no key.
    """
    if len(rows) != count:
        raise DataError(
            f"{count - len(rows)} of {count} rows have no value in a key column; everybody who is scored needs a key"
        )
    return blocks
