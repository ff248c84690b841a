"""Files that hold a table: CSV and Parquet.

CSV is read by Arrow rather than by DuckDB, because it must be strict: Arrow infers a column's type over the
whole file and refuses a row with too few or too many fields, where DuckDB's sniffer takes such a row for the
header and drops what stands above it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from fedcore.errors import DataError
from fedcore.jobs.datasets import CsvData, ParquetData
from fedcore.participant.data.checks import chosen, collected, existing, unreadable, within

_BLOCK = 8 * 2**20  # bytes parsed at a time; a row must fit in one


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


def _read_csv(data: CsvData, columns: Sequence[str] | None) -> pa.Table:
    from pyarrow import csv

    path = existing(data.path, folder=False)
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; a CSV file has the names of its columns in the first line")
    encoding = "utf8" if codecs.lookup(data.encoding).name == "utf-8" else data.encoding  # Arrow's fast path
    read = csv.ReadOptions(block_size=_BLOCK, encoding=encoding)
    parse = csv.ParseOptions(delimiter=data.delimiter, newlines_in_values=True)
    try:
        with csv.open_csv(path, read, parse, csv.ConvertOptions(check_utf8=False)) as reader:
            names = reader.schema.names
        wanted = chosen(data, columns, names)
        convert = csv.ConvertOptions(
            include_columns=wanted,
            column_types={data.row_id: pa.string()} if data.row_id in wanted else {},
            null_values=list(data.nulls),
            strings_can_be_null=True,
        )
        table: pa.Table = csv.read_csv(path, read, parse, convert)
    except UnicodeError as error:
        raise _wrong_encoding(path, data.encoding, error) from error
    except (pa.ArrowInvalid, OSError) as error:
        if "UTF8" in str(error):
            raise _wrong_encoding(path, data.encoding, error) from error
        raise _malformed(path, error) from error
    for field in table.schema:
        if pa.types.is_binary(field.type):  # what Arrow makes of text that is not UTF-8
            raise _wrong_encoding(path, data.encoding, None)
    return table


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


def _files(path: Path) -> pa.dataset.Dataset:
    import pyarrow.dataset

    existing(path)
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"no *.parquet file below the folder {path}; put them there, or correct the path")
    try:
        source = pyarrow.dataset.dataset([str(file) for file in files], format="parquet")
        for fragment in source.get_fragments():
            if not fragment.physical_schema.equals(source.schema):
                raise DataError(
                    f"{fragment.path} and {files[0]} have different columns or types; all files of one data "
                    "set need the same"
                )
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable(path, error, "Parquet") from error
    return source
