"""Identifiers of two parties that share half of them, as files; and whether a found intersection is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

Ids = npt.NDArray[np.uint64]
SIDES = ("left", "right")


def ids(first: int, count: int) -> Ids:
    """Distinct numbers of 64 bits that look random: splitmix64, a bijection, of `first`, `first + 1`, ..."""
    x = np.arange(first, first + count, dtype=np.uint64)
    x += np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def file_of(folder: Path, side: str, count: int, kind: str) -> Path:
    """Where a side's `parquet` or `csv` file is."""
    return folder / f"{side}-{count}.{kind}"


def generate(folder: Path, count: int, *, csv: bool) -> None:
    """Write a Parquet file for each side, one shuffled column `id`; with `csv` the same rows as CSV too.

    Files of an earlier run of the same size are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, side in enumerate(SIDES):
        parquet, text = (file_of(folder, side, count, kind) for kind in ("parquet", "csv"))
        if not parquet.exists():
            mixed = ids(number * (count // 2), count)
            np.random.default_rng(number).shuffle(mixed)
            partial = parquet.with_suffix(".partial")
            pq.write_table(pa.table({"id": mixed}), partial)
            partial.replace(parquet)
        if csv and not text.exists():
            partial = text.with_suffix(".partial")
            with partial.open("wb") as out:
                out.write(b"id\n")
                options = pa_csv.WriteOptions(include_header=False)
                for batch in pq.ParquetFile(parquet).iter_batches(1 << 20):
                    pa_csv.write_csv(pa.table([batch.column(0)], names=["id"]), out, options)
            partial.replace(text)


def rows_are_exact(folder: Path, count: int, rows: Path) -> bool:
    """Whether the left side's rows that a `rows.parquet` lists are those it shares, each once."""
    whole = pq.read_table(file_of(folder, "left", count, "parquet"))["id"].to_numpy()
    return _exact(whole[pq.read_table(rows)["row"].to_numpy()], count)


def csv_is_exact(count: int, found: Path) -> bool:
    """The same of a CSV file with a column `id`."""
    options = pa_csv.ConvertOptions(column_types={"id": pa.uint64()}, include_columns=["id"])
    return _exact(pa_csv.read_csv(found, convert_options=options)["id"].to_numpy(), count)


def _exact(found: Ids, count: int) -> bool:
    shared = ids(count // 2, count - count // 2)
    return len(found) == len(shared) and np.array_equal(np.sort(found), np.sort(shared))
