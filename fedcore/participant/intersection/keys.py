"""The keys of a party's rows, read batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crypto.psi.items import keys_of, kinds_of
from crypto.psi.key_store import KeyStore
from fedcore.errors import DataError
from fedcore.participant.data.batches import read_batches
from fedcore.participant.intersection.amounts import Columns, Table
from fedcore.participant.intersection.side import MEMORY, Side

Watch = Callable[[str, int, int], None]
"""Told a phase, how much of it is done, and how much there is (0 when that is not known)."""


@dataclass(frozen=True)
class Read:
    """What was read.

    Args:
        store: Keys of the rows without a null.
        rows: All rows.
        kinds: What each key column is encoded as.
        amounts: Where this party's numbers are added up: those of the rows.
    """

    store: KeyStore
    rows: int
    kinds: tuple[str, ...]
    amounts: Table | None = None

    @property
    def nulls(self) -> int:
        """Rows with a null in a key column, which never match."""
        return self.rows - self.store.rows


def read_keys(side: Side, folder: Path, watch: Watch) -> Read:
    """The keys of all rows, and the numbers that are to be added up where they are this party's.

    Args:
        side: Whose.
        folder: Where keys go that have no room in memory.
        watch: Told the rows read.

    Raises:
        DataError: The data cannot be read, lacks a column (those it has are listed), has a key column that cannot be
            a key, or a row without a number to add up.
        OSError: There is no room for keys in the folder.
    """
    memory = side.memory or MEMORY
    store = KeyStore(memory, folder)
    rows = 0
    kinds: tuple[str, ...] = ()
    summed = Columns(side.sum_of) if side.sum_of is not None and side.holds else None
    columns = side.key if summed is None or side.sum_of is None else (*side.key, *side.sum_of.columns)
    for batch in read_batches(side.data, columns, memory=side.memory):
        key = [batch.column(name) for name in side.key]
        try:
            kinds = kinds or kinds_of([column.type for column in key], side.rules)
            keys = keys_of(key, side.rules, first_row=rows)
            store.add(keys.blocks, keys.rows)
        except ValueError as error:
            raise DataError(f"key {', '.join(side.key)}: {error}", step="read") from error
        if summed is not None:
            summed.take(batch, keys.rows - rows)
        rows += batch.num_rows
        watch("read", rows, 0)
    return Read(store, rows, kinds, None if summed is None else summed.table())


@contextmanager
def keeping(out: Path) -> Iterator[None]:
    """Turn what the system says of the keys' file into an error."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"the keys could not be kept in a temporary file in {out} ({error.strerror or error}); make room "
            "there, raise the memory limit, or choose another folder for the result",
            step="spill",
        ) from error
