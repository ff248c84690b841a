"""Data sets read a batch at a time, for what is larger than memory; and a bare file as a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import pyarrow as pa

from fedcore.errors import DataError
from fedcore.participant.data.catalogue import plain_schema, read_table
from fedcore.participant.data.checks import no_rows, within

if TYPE_CHECKING:
    from fedcore.jobs.datasets import CsvData, DataSet, ParquetData, SqliteData

_ROWS = 2**16
_BLOCK = 8 * 2**20
_IN_FLIGHT = 8  # batches between the reader and its user, each a share of the memory
_VALUE = 64  # bytes that a value is reckoned with before any is seen

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".db": "sqlite",
}
"""Ends of file names, and the connector that each stands for."""
_PACKED = (".gz", ".bz2", ".zst", ".lz4")


@dataclass(frozen=True)
class BareFile:
    """A file as a data set, with the defaults of `fedcore.jobs.datasets`."""

    connector: Literal["csv", "parquet", "sqlite"]
    path: Path
    delimiter: str = ","
    encoding: str = "utf-8"
    nulls: tuple[str, ...] = ("", "NA", "N/A", "null", "NULL")
    table: str | None = None
    query: None = None
    row_id: None = None
    part: None = None


def read_batches(
    data: DataSet, columns: Sequence[str] | None = None, *, memory: int | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a data set in their order, a batch at a time.

    The first batch has no rows: the columns and their types are known from it whatever follows, and an empty data
    set is no error here. Types are those of `read_table`, but for CSV, whose columns are all text: a type that
    holds for a part of the file need not hold for the rest.

    Args:
        data: As the catalogue has it. A `part` of a data set is dealt in memory, as `read_table` does it.
        columns: Which to read, in this order; all when None.
        memory: Bytes that the batches under way take together, about; unbounded when None.

    Raises:
        DataError: With the first batch: the data set is not there, lacks a column (the columns it has are listed)
            or has a connector that does not stream. With any: it cannot be read, or a batch is above `memory`.
    """
    if data.part is not None:
        table = read_table(data, columns, memory=memory)
        yield no_rows(table.schema)
        yield from table.to_batches(_ROWS)
        return
    for batch in _streamed(data, columns, memory):
        schema = plain_schema(batch.schema)
        within(batch.nbytes, memory, "more than ")
        yield batch if schema.equals(batch.schema, check_metadata=True) else batch.cast(schema)


def _streamed(data: DataSet, columns: Sequence[str] | None, memory: int | None) -> Iterator[pa.RecordBatch]:
    share = _BLOCK if memory is None else min(max(memory // _IN_FLIGHT, 2**16), _BLOCK)
    rows = min(max(share // (_VALUE * max(1, len(columns or ()))), 2**10), _ROWS)
    # By name and not by class: a bare file is read without the schemas of jobs, which take long to import.
    one: Any = data
    if data.connector in ("csv", "parquet"):
        from fedcore.participant.data import tables

        if data.connector == "csv":
            return tables.csv_batches(one, columns, share)
        return tables.parquet_batches(one, columns, rows)
    if data.connector in ("sqlite", "postgresql"):
        from fedcore.participant.data import databases

        if data.connector == "sqlite":
            return databases.sqlite_batches(one, columns, rows)
        return databases.postgres_batches(one, columns, share)
    raise DataError(
        f"connector {data.connector!r} is not read in batches; allowed: csv, parquet, sqlite, postgresql"
    )


def file_data(path: Path, table: str | None = None) -> CsvData | ParquetData | SqliteData:
    """A data set for a file that no catalogue describes; its suffix says what it is, a folder is Parquet.

    Args:
        path: A CSV (comma, UTF-8; `.tsv`: tab; also packed, `.csv.gz`), Parquet or SQLite file, or a folder of
            Parquet files.
        table: Of an SQLite file; not needed where it has one only.

    Raises:
        DataError: Nothing is there, a suffix that says nothing, or an SQLite file with several tables.
    """
    if not path.exists():
        where = f"{path.parent} holds no {path.name}" if path.parent.is_dir() else f"no folder {path.parent}"
        raise DataError(f"no file {path}: {where}; correct the path")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in _PACKED and suffixes[-2] in (".csv", ".tsv"):
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    connector = "parquet" if path.is_dir() else SUFFIXES.get(suffix)
    if connector is None:
        known = ", ".join(SUFFIXES)
        raise DataError(
            f"{path} is not known by its suffix {suffix!r}; allowed: {known} (.csv and .tsv also packed: "
            f"{', '.join(_PACKED)}), or a folder of *.parquet files; rename it, or describe it in a catalogue"
        )
    if table is not None and connector != "sqlite":
        raise DataError(f"table {table!r} was asked of {path}, which is not a database; leave table out")
    if connector == "csv":
        return cast("CsvData", BareFile("csv", path, delimiter="\t" if suffix == ".tsv" else ","))
    if connector == "parquet":
        return cast("ParquetData", BareFile("parquet", path))
    return cast("SqliteData", BareFile("sqlite", path, table=table or _only_table(path)))


def _only_table(path: Path) -> str:
    from fedcore.participant.data.databases import sqlite_tables

    tables = sqlite_tables(path)
    if len(tables) != 1:
        listed = f": {', '.join(sorted(tables))}" if tables else ""
        raise DataError(f"{path} has {len(tables)} tables{listed}; name the one to read")
    return tables[0]
