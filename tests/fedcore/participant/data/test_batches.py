"""Streams of batches against whole tables, and bare files as data sets."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import DataError
from fedcore.jobs.datasets import CsvData, DataSet, NpzData, ParquetData, Part, PostgresData, SqliteData
from fedcore.participant.data import read_table
from fedcore.participant.data.batches import file_data, read_batches
from tests.fedcore.participant.data.postgres_server import Postgres

ROWS = 30_000
TABLE = pa.table(
    {
        "id": [None if i % 11 == 0 else f"00{i}" for i in range(ROWS)],
        "n": pa.array(range(ROWS), pa.int64()),
        "x": pa.array(np.arange(ROWS) / 8),
    }
)


def joined(data: DataSet, columns: list[str] | None = None, memory: int | None = None) -> pa.Table:
    """All batches as one table; the first has no rows."""
    batches = list(read_batches(data, columns, memory=memory))
    assert batches[0].num_rows == 0
    assert all(batch.schema == batches[0].schema for batch in batches)
    if memory is not None:
        assert all(batch.nbytes <= memory for batch in batches)
    return pa.Table.from_batches(batches)


def csv_file(file: Path, table: pa.Table, delimiter: str = ",") -> CsvData:
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened, delimiter=delimiter)
        writer.writerow(table.column_names)
        writer.writerows([tuple(row.values()) for row in table.to_pylist()])
    return CsvData(connector="csv", path=file, delimiter=delimiter)


def sqlite_file(file: Path, rows: list[tuple[Any, ...]], names: str = "id, n, x") -> SqliteData:
    with sqlite3.connect(file) as connection:
        connection.execute(f"CREATE TABLE t ({names})")
        connection.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(rows[0]))})", rows)
    connection.close()
    return SqliteData(connector="sqlite", path=file, table="t")


# ---- each connector


def test_parquet_batches_are_the_table_whatever_its_row_groups(tmp_path: Path) -> None:
    for group in (ROWS, 1000):
        pq.write_table(TABLE, tmp_path / "t.parquet", row_group_size=group)
        data = ParquetData(connector="parquet", path=tmp_path / "t.parquet")
        assert joined(data) == read_table(data) == TABLE
        assert joined(data, ["x", "id"], memory=2**20) == TABLE.select(["x", "id"])
    assert len(list(read_batches(data, ["id"], memory=2**20))) > 10


def test_parquet_batches_of_a_folder_come_in_the_order_of_its_files_without_dictionaries(
    tmp_path: Path,
) -> None:
    coded = TABLE.set_column(0, "id", TABLE["id"].dictionary_encode())
    for name, part in (("b", coded.slice(100)), ("a", coded.slice(0, 100))):
        pq.write_table(part, tmp_path / f"{name}.parquet")
    assert joined(ParquetData(connector="parquet", path=tmp_path)) == TABLE


def test_csv_batches_are_the_text_that_stands_there(tmp_path: Path) -> None:
    data = csv_file(tmp_path / "t.csv", TABLE)
    found = joined(data, ["n", "id"], memory=2**20)
    assert [str(kind) for kind in found.schema.types] == ["string", "string"]
    assert found["id"].to_pylist() == TABLE["id"].to_pylist()
    assert found["n"].to_pylist() == [str(i) for i in range(ROWS)]
    assert len(list(read_batches(data, memory=2**20))) > 3


@settings(deadline=None, max_examples=30)
@given(
    values=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), min_size=1, max_size=9),
        max_size=20,
    )
)
def test_csv_batches_keep_every_character(
    values: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    marked = [f"t{value}" for value in values]  # so that none is one of the words for a missing value
    data = csv_file(tmp_path_factory.mktemp("csv") / "t.csv", pa.table({"a": pa.array(marked, pa.string())}))
    assert joined(data)["a"].to_pylist() == marked


def test_csv_refusals_are_those_of_the_whole_table(tmp_path: Path) -> None:
    (tmp_path / "short.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(DataError, match="has 1 fields and the header has 2"):
        joined(CsvData(connector="csv", path=tmp_path / "short.csv"))
    (tmp_path / "latin.csv").write_bytes("a\nGrün\n".encode("latin-1"))
    with pytest.raises(DataError, match="is not utf-8 text; set encoding"):
        joined(CsvData(connector="csv", path=tmp_path / "latin.csv"))
    latin = CsvData(connector="csv", path=tmp_path / "latin.csv", encoding="latin-1")
    assert joined(latin)["a"].to_pylist() == ["Grün"]


def test_sqlite_batches_have_the_types_of_all_values_however_late_they_come(tmp_path: Path) -> None:
    rows: list[tuple[Any, ...]] = [(None, None, 1, None, None)] * 5000 + [("a", 7, 0.5, b"\xff", None)]
    data = sqlite_file(tmp_path / "t.db", rows, "id, n, x, raw, empty")
    found = joined(data, memory=2**20)
    assert found == read_table(data)
    assert [str(kind) for kind in found.schema.types] == ["string", "int64", "double", "binary", "int64"]
    assert len(list(read_batches(data, memory=2**20))) > 3


def test_sqlite_batches_keep_the_order_of_a_query(tmp_path: Path) -> None:
    sqlite_file(tmp_path / "t.db", [(str(i), -i, i / 2) for i in range(9000)])
    query = SqliteData(connector="sqlite", path=tmp_path / "t.db", query="SELECT n, id FROM t ORDER BY n")
    found = joined(query, ["n"], memory=2**20)["n"].to_pylist()
    assert found == sorted(-i for i in range(9000))


def test_postgres_batches_are_the_table(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS streamed")
        connection.execute(
            "CREATE TABLE streamed AS SELECT i AS n, 'k' || i AS id, i::numeric(10, 2) AS amount, "
            "gen_random_uuid() AS token FROM generate_series(1, 20000) AS i"
        )
        connection.execute("CREATE TABLE IF NOT EXISTS none (id text)")
    data = PostgresData(connector="postgresql", url=postgres.url(), table="streamed")
    assert joined(data, memory=2**20) == read_table(data)
    assert len(list(read_batches(data, memory=2**20))) > 3
    empty = joined(PostgresData(connector="postgresql", url=postgres.url(), table="none"))
    assert empty.num_rows == 0 and empty.column_names == ["id"]
    with pytest.raises(DataError, match=r"no column 'idd' in the data set.*allowed: amount, id, n, token"):
        joined(data, ["idd"])


# ---- what holds for all


def each_connector(folder: Path, table: pa.Table) -> list[DataSet]:
    pq.write_table(table, folder / "t.parquet")
    rows = [tuple(row.values()) for row in table.to_pylist()]
    base = sqlite_file(folder / "t.db", rows or [(None, None, None)])
    if not rows:
        base = base.model_copy(update={"table": None, "query": "SELECT * FROM t WHERE 0"})
    return [
        csv_file(folder / "t.csv", table),
        ParquetData(connector="parquet", path=folder / "t.parquet"),
        base,
    ]


def test_a_missing_column_is_refused_with_the_columns_there_are(tmp_path: Path) -> None:
    for data in each_connector(tmp_path, TABLE.slice(0, 10)):
        with pytest.raises(DataError, match=r"no column 'key' in the data set; .*allowed: id, n, x"):
            next(read_batches(data, ["id", "key"]))


def test_no_rows_are_one_batch_with_the_columns(tmp_path: Path) -> None:
    for data in each_connector(tmp_path, TABLE.slice(0, 0)):
        batches = list(read_batches(data, ["x", "id"]))
        assert sum(batch.num_rows for batch in batches) == 0
        assert batches[0].schema.names == ["x", "id"]


def test_a_part_of_a_data_set_is_dealt_as_a_table(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    part = Part(index=1, of=3, seed=5)
    data = ParquetData(connector="parquet", path=tmp_path / "t.parquet", part=part)
    assert joined(data, ["n"]) == read_table(data, ["n"])


def test_a_connector_of_tensors_is_refused(tmp_path: Path) -> None:
    data = NpzData(connector="npz", path=tmp_path / "t.npz")
    with pytest.raises(
        DataError, match="connector 'npz' is not read in batches; allowed: csv, parquet, sqlite"
    ):
        next(read_batches(data))


def test_a_batch_above_the_memory_is_refused_with_both_sizes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": ["x" * 3_000_000]}), tmp_path / "t.parquet")
    data = ParquetData(connector="parquet", path=tmp_path / "t.parquet")
    with pytest.raises(
        DataError, match=r"needs more than 3\.0 MB of memory and this site gives a job 1\.0 MB"
    ):
        joined(data, memory=1_000_000)


# ---- bare files


def assert_the_same(bare: Any, described: Any) -> None:
    """A bare file says of itself what a catalogue without further words would, and has no settings that it lacks."""
    said = described.model_dump()
    ours = {field.name: getattr(bare, field.name) for field in dataclasses.fields(bare)}
    assert {name: ours[name] for name in said if name in ours} == {
        name: value for name, value in said.items() if name in ours
    }
    assert all(getattr(bare, name) == value for name, value in said.items() if name in ("part", "connector"))


def test_a_bare_file_is_known_by_its_suffix(tmp_path: Path) -> None:
    few = TABLE.slice(0, 20)
    for data in each_connector(tmp_path, few):
        assert isinstance(data, CsvData | ParquetData | SqliteData)
        assert_the_same(file_data(data.path), data)
    tabs = csv_file(tmp_path / "T.TSV", few, "\t")
    assert_the_same(file_data(tabs.path), tabs)
    packed = tmp_path / "t.v2.csv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "t.csv").read_bytes()))
    assert joined(file_data(packed)) == joined(file_data(tmp_path / "t.csv"))
    (tmp_path / "folder").mkdir()
    pq.write_table(few, tmp_path / "folder" / "a.parquet")
    assert joined(file_data(tmp_path / "folder")) == few


def test_a_file_that_is_not_there_or_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*gone\.csv: .* holds no gone\.csv; correct the path"):
        file_data(tmp_path / "gone.csv")
    for name in ("t.xlsx", "t", "t.gz"):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=r"is not known by its suffix.*allowed: \.csv, \.tsv, \.parquet"):
            file_data(tmp_path / name)
    csv_file(tmp_path / "t.csv", TABLE.slice(0, 1))
    with pytest.raises(DataError, match=r"table 'a' was asked of .*which is not a database"):
        file_data(tmp_path / "t.csv", "a")


def test_an_sqlite_file_of_several_tables_needs_a_name(tmp_path: Path) -> None:
    file = tmp_path / "t.sqlite"
    sqlite_file(file, [(1, 2, 3)])
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE other (id)")
    with pytest.raises(DataError, match="has 2 tables: other, t; name the one to read"):
        file_data(file)
    assert joined(file_data(file, "t")).num_rows == 1
    (tmp_path / "junk.db").write_bytes(b"not a database at all, but long enough to look at" * 20)
    with pytest.raises(DataError, match="is not an SQLite database"):
        file_data(tmp_path / "junk.db")
