"""The rows that match, written as they are found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from crypto.psi.key_store import MOST_ROWS, KeyStore
from fedcore.errors import DataError

Int64 = npt.NDArray[np.int64]

GROUP = 2**20
"""Rows written together."""
_SCHEMA = pa.schema([("row", pa.int64()), ("match", pa.int64())])
# Row numbers in a random order do not compress; matches count up.
_ENCODINGS: dict[str, Any] = {
    "use_dictionary": False,
    "compression": "none",
    "column_encoding": {"row": "PLAIN", "match": "DELTA_BINARY_PACKED"},
}


class RowsFile:
    """Takes items and writes their rows: a sink of `crypto.psi.vole_psi`.

    Planted items are counted and left out. The file has its name once `finish` was called; until then it is partial.

    Args:
        file: Parquet, with `row` (a row of the party's own data, from 0) and `match` (rows that match one another
            have the same number, from 0).
        store: What the items' rows are known from.

    Attributes:
        matches: Items so far, planted ones aside.
        written: Rows.
        planted: The planted items, by their row numbers.
    """

    def __init__(self, file: Path, store: KeyStore) -> None:
        self._file, self._partial, self._store = file, file.with_name(f".{file.name}.partial"), store
        self._writer: pq.ParquetWriter | None = None
        self.clear()

    def clear(self) -> None:
        """Forget what was taken."""
        self.discard()
        self.matches = self.written = 0
        self.planted: set[int] = set()
        self._rows: list[Int64] = []
        self._groups: list[Int64] = []
        self._waiting = 0

    def append(self, items: npt.NDArray[np.integer[Any]]) -> None:
        """Take items.

        Raises:
            DataError: They cannot be written.
        """
        rows, places = self._store.rows_of(items)
        real = rows < MOST_ROWS
        if not real.all():
            self.planted.update(rows[~real].tolist())
            # A planted item has one row; what comes behind it moves up.
            is_real = np.ones(len(items), dtype=np.int64)
            is_real[places[~real]] = 0
            places = (np.cumsum(is_real) - 1)[places[real]]
            rows = rows[real]
            count = int(is_real.sum())
        else:
            count = len(items)
        self._rows.append(rows)
        self._groups.append(places + self.matches)
        self.matches += count
        self._waiting += len(rows)
        if self._waiting >= GROUP:
            self._flush()

    def _flush(self) -> None:
        rows = np.concatenate([*self._rows, np.empty(0, dtype=np.int64)])
        groups = np.concatenate([*self._groups, np.empty(0, dtype=np.int64)])
        self._rows, self._groups, self._waiting = [], [], 0
        with writing(self._file, self._partial):
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._partial, _SCHEMA, **_ENCODINGS)
            self._writer.write_table(pa.table([rows, groups], schema=_SCHEMA))
        self.written += len(rows)

    def finish(self) -> None:
        """Give the file its name.

        Raises:
            DataError: It cannot be written.
        """
        self._flush()
        with writing(self._file, self._partial):
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._partial.replace(self._file)

    def discard(self) -> None:
        """Leave nothing of a file that has no name yet."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # The disk is full; the file goes.
                self._writer.close()
            self._writer = None
        self._partial.unlink(missing_ok=True)


class writing:  # noqa: N801 - reads as a phrase
    """Turns what the system says of a file that cannot be written into an error, and removes what is there of it."""

    def __init__(self, file: Path, partial: Path) -> None:
        self._file, self._partial = file, partial

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            self._partial.unlink(missing_ok=True)
            raise DataError(
                f"{self._file.name} could not be written ({error.strerror or error}); make room and run it again",
                step="write",
            ) from error


def save(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all.

    Raises:
        DataError: It cannot be written; nothing of it is there then.
    """
    partial = file.with_name(f".{file.name}.partial")
    with writing(file, partial):
        write(partial)
        partial.replace(file)
