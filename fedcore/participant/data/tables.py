"""Files that hold a table: CSV and Parquet.

CSV is read by Arrow rather than by DuckDB, because it must be strict: Arrow infers a column's type over the
whole file and refuses a row with too few or too many fields, where DuckDB's sniffer takes such a row for the
header and drops what stands above it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from fedcore.errors import DataError
from fedcore.participant.data.checks import chosen, collected, existing, no_rows, unreadable, within

if TYPE_CHECKING:
    from pyarrow import csv

    from fedcore.jobs.datasets import CsvData, ParquetData

_BLOCK = 8 * 2**20  # bytes parsed at a time; a row must fit in one
_PAGES = 2**20  # bytes read at a time of each column of a Parquet file that is streamed


def csv_schema(data: CsvData) -> pa.Schema:
    """Names and types of the columns; reads the whole file, since types are inferred over all of it."""
    return _read_csv(data, None).schema


def csv_table(data: CsvData, columns: Sequence[str] | None, memory: int | None) -> pa.Table:
    """The rows of a CSV file.

    A column is int64, boolean, date, time, timestamp or float64 when every value is one, else text. The
    `row_id` is always text, so that leading zeros and long numbers stay as they are.

    Raises:
        DataError: No file, not a CSV file of the given delimiter and encoding, no such column, too large.
    """
    # The parser holds the file's text until the types are known, so the text has to fit as well.
    within(existing(data.path, folder=False).stat().st_size, memory, "at least ")
    return _read_csv(data, columns)


def csv_batches(
    data: CsvData, columns: Sequence[str] | None, block: int = _BLOCK
) -> Iterator[pa.RecordBatch]:
    """The rows of a CSV file, a part of the file at a time, every column as text; first a batch without rows.

    A CSV file has no types, and to infer them takes the whole file; text is what stands there: `007` stays `007`.

    Args:
        data: As the catalogue has it.
        columns: Which to read; all when None.
        block: Bytes parsed at a time; a row must fit.

    Raises:
        DataError: As `csv_table`.
    """
    from pyarrow import csv

    with _csv_errors(data):
        read, parse, wanted = _csv_plan(data, columns, block)
        convert = csv.ConvertOptions(
            include_columns=wanted,
            column_types=dict.fromkeys(wanted, pa.string()),
            null_values=list(data.nulls),
            strings_can_be_null=True,
        )
        yield no_rows(pa.schema([pa.field(name, pa.string()) for name in wanted]))
        with csv.open_csv(data.path, read, parse, convert) as reader:
            yield from reader


def _read_csv(data: CsvData, columns: Sequence[str] | None) -> pa.Table:
    from pyarrow import csv

    with _csv_errors(data):
        read, parse, wanted = _csv_plan(data, columns, _BLOCK)
        convert = csv.ConvertOptions(
            include_columns=wanted,
            column_types={data.row_id: pa.string()} if data.row_id in wanted else {},
            null_values=list(data.nulls),
            strings_can_be_null=True,
        )
        table: pa.Table = csv.read_csv(data.path, read, parse, convert)
    for field in table.schema:
        if pa.types.is_binary(field.type):  # what Arrow makes of text that is not UTF-8
            raise _wrong_encoding(data.path, data.encoding, None)
    return table


def _csv_plan(
    data: CsvData, columns: Sequence[str] | None, block: int
) -> tuple[csv.ReadOptions, csv.ParseOptions, list[str]]:
    """How to read and parse the file, and the columns to read."""
    from pyarrow import csv

    path = existing(data.path, folder=False)
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; a CSV file has the names of its columns in the first line")
    encoding = "utf8" if codecs.lookup(data.encoding).name == "utf-8" else data.encoding  # Arrow's fast path
    read = csv.ReadOptions(block_size=block, encoding=encoding)
    parse = csv.ParseOptions(delimiter=data.delimiter, newlines_in_values=True)
    with csv.open_csv(path, read, parse, csv.ConvertOptions(check_utf8=False)) as reader:
        names = reader.schema.names
    return read, parse, chosen(data, columns, names)


@contextmanager
def _csv_errors(data: CsvData) -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:
        raise _wrong_encoding(data.path, data.encoding, error) from error
    except (pa.ArrowInvalid, OSError) as error:
        if "UTF8" in str(error):
            raise _wrong_encoding(data.path, data.encoding, error) from error
        raise _malformed(data.path, error) from error


def _malformed(path: Path, error: Exception) -> DataError:
    # Arrow's message ends with the text of the offending row, which must not leave the site.
    found = re.search(r"Expected (\d+) columns, got (\d+)", str(error))
    if found is None:
        return unreadable(path, error, "a CSV file")
    row = re.search(r"Row #(\d+)", str(error))
    where = f"line {row[1]}" if row else "a line"
    return DataError(
        f"{path}: {where} has {found[2]} fields and the header has {found[1]}; every line needs as many as "
        "the header (a text with the delimiter in it is put between double quotes)",
        detail=str(error),
    )


def _wrong_encoding(path: Path, encoding: str, error: Exception | None) -> DataError:
    return DataError(
        f"{path} is not {encoding} text; set encoding in the catalogue (such as latin-1) or save it as utf-8",
        detail=str(error) if error else None,
    )


def parquet_schema(data: ParquetData) -> pa.Schema:
    """Names and types of the columns, from the files' footers."""
    schema = _files(data.path).schema
    chosen(data, None, schema.names)
    return schema


def parquet_table(data: ParquetData, columns: Sequence[str] | None, memory: int | None) -> pa.Table:
    """The rows of a Parquet file, or of all `*.parquet` files below a folder in the order of their names.

    Raises:
        DataError: No file, not Parquet, files with different columns, no such column, too large.
    """
    source = _files(data.path)
    wanted = chosen(data, columns, source.schema.names)
    try:
        rows = source.count_rows()
        # Little read-ahead: a bound on memory is only as good as what is in flight beside it.
        scanner = source.scanner(columns=wanted, batch_readahead=2, fragment_readahead=1)
        return collected(scanner.to_batches(), scanner.projected_schema, memory, rows)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise unreadable(data.path, error, "Parquet") from error


def parquet_batches(data: ParquetData, columns: Sequence[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of `parquet_table`, at most `rows` at a time; first a batch without rows.

    Raises:
        DataError: As `parquet_table`.
    """
    from pyarrow import parquet

    files = _paths(data.path)
    try:
        # Not Arrow's data sets, whose import takes longer than to read a million numbers.
        schemas = [parquet.read_schema(file) for file in files]
        for each, schema in zip(files, schemas, strict=True):
            _check_same(schema, schemas[0], each, files[0])
        wanted = chosen(data, columns, schemas[0].names)
        yield no_rows(pa.schema([schemas[0].field(name) for name in wanted]))
        for name in files:
            # Not a scanner, which decodes whole row groups: a file may be one row group.
            with parquet.ParquetFile(name, pre_buffer=False, buffer_size=_PAGES) as file:
                for batch in file.iter_batches(rows, columns=wanted):
                    yield batch.select(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise unreadable(data.path, error, "Parquet") from error


def _paths(path: Path) -> list[Path]:
    existing(path)
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"no *.parquet file below the folder {path}; put them there, or correct the path")
    return files


def _check_same(schema: pa.Schema, first: pa.Schema, file: object, first_file: Path) -> None:
    if not schema.equals(first):
        raise DataError(
            f"{file} and {first_file} have different columns or types; all files of one data set need the same"
        )


def _files(path: Path) -> pa.dataset.Dataset:
    import pyarrow.dataset

    files = _paths(path)
    try:
        source = pyarrow.dataset.dataset([str(file) for file in files], format="parquet")
        for fragment in source.get_fragments():
            _check_same(fragment.physical_schema, source.schema, fragment.path, files[0])
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable(path, error, "Parquet") from error
    return source
