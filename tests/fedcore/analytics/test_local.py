"""A query at a site: what it reads, and that it cannot reach for more."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.analytics import local
from fedcore.analytics.columns import Column
from fedcore.analytics.disclosure import ALL
from fedcore.analytics.local import answer, bins, row_sets
from fedcore.analytics.partial import Moments
from fedcore.analytics.query import Query
from fedcore.analytics.source import Source, opened
from fedcore.analytics.sql import parse
from fedcore.errors import DataError, JobError, PolicyRefused

HOSTILE = [
    'x"; DROP TABLE held; --',
    "x'); ATTACH '/etc/passwd'; --",
    "c0",
    "place",
    "number",
    "*",
    "read_csv('/etc/passwd')",
    "?",
    "$1",
    "a.b",
    " ",
    "SELECT",
    "é\n\t",
]


def counted(query: Query, source: Source) -> dict[Any, Any]:
    return {key: cell.rows for key, cell in answer(query, source, minimum=3).cells.items()}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_a_column_like_another(name: str) -> None:
    source = Source(name, pa.table({name: [1.0, 2, 3, 4, 5], "key": [0, 0, 0, 0, 0]}))
    query = (
        Query(name).where(name, ">", 1).group_by("key").sum(name).quantile(name).histogram(name, [0, 3, 5])
    )
    cell = answer(query, source, minimum=3).cells[(0,)]
    assert cell.rows == 4 and cell.moments[name, None] == Moments(14, 0)
    assert cell.bins["histogram(" + name + ")"] == (0, 1, 3, 0)
    assert bins(query, source, name, {(0,): [2.5]}, minimum=3) == {(0,): (1, 3)}
    assert row_sets(query, source, minimum=3) == {(0,): 0b11110}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_literal_is_a_value_from_sql_to_the_site(name: str) -> None:
    source = Source("lung", pa.table({"sex": [name] * 4 + ["f"] * 4}))
    quoted = name.replace("'", "''")
    query = parse(
        f"SELECT sex, count(*) FROM lung WHERE sex = '{quoted}' GROUP BY sex", {"lung": source.columns}
    )
    assert counted(query, source) == {(name,): 4}


@settings(deadline=None, max_examples=20)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=30))
def test_any_text_is_only_a_value(text: str) -> None:
    source = Source("lung", pa.table({"sex": [text] * 4 + [text + "x"] * 4}))
    assert counted(Query("lung").where("sex", "in", [text]).count(), source) == {(): 4}


def test_the_database_at_the_site_reads_no_file_and_takes_no_setting(tmp_path: Path) -> None:
    import duckdb

    file = tmp_path / "other.csv"
    file.write_text("a\n1\n")
    source = Source("lung", pa.table({"age": [1, 2, 3, 4]}))
    secret = pa.table({"a": [1]})
    with local._scanned(Query("lung").count("age"), source, 3) as scan:
        for text in (
            f"SELECT * FROM read_csv('{file}')",
            f"SELECT * FROM '{file}'",
            f"COPY given TO '{tmp_path / 'out.csv'}'",
            f"ATTACH '{tmp_path / 'new.db'}'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SET enable_external_access = true",
            "SET memory_limit = '100GB'",
            "SELECT * FROM secret",
        ):
            with pytest.raises(duckdb.Error):
                scan.connection.execute(text)
    assert secret.num_rows == 1 and not (tmp_path / "out.csv").exists()


def test_a_query_that_needs_more_memory_than_the_site_gives_is_refused() -> None:
    rows = 400_000
    source = Source("lung", pa.table({"key": [f"key {at // 3}" * 20 for at in range(rows)]}), memory=16)
    with pytest.raises(DataError, match=r"more than 16 MiB"):
        counted(Query("lung").group_by("key").count(), source)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_of_the_site(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"lung.{ending}"
    table = pa.table({"sex": ["f", "m"] * 5, "age": list(range(10))})
    if ending == "csv":
        file.write_text("sex,age\n" + "".join(f"{'fm'[at % 2]},{at}\n" for at in range(10)))
    else:
        pq.write_table(table, file)
    source = opened("lung", file, {"age": "years"})
    assert source.columns == {"sex": Column("text"), "age": Column("number", "years")}
    assert counted(Query("lung").group_by("sex").count(), source) == {("f",): 5, ("m",): 5}


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_text("no parquet")
    for name, words in (
        ("none.csv", "cannot be read"),
        ("bad.parquet", "cannot be read"),
        ("a.xlsx", "allowed: .csv"),
    ):
        with pytest.raises(DataError, match=words):
            opened("lung", tmp_path / name)


def test_days_times_flags_and_missing_keys() -> None:
    days = [date(2024, 1, at + 1) for at in range(8)]
    source = Source(
        "lung",
        pa.table(
            {
                "day": days,
                "clock": [datetime(2024, 1, 1, at) for at in range(8)],
                "dead": [True, False] * 4,
                "sex": pa.array([None, None, None, None, "f", "f", "f", "f"]).dictionary_encode(),
                "odd": [[1]] * 8,
            },
        ),
    )
    assert "odd" not in source.columns
    start = Query("lung").count()
    assert counted(start.where("day", ">=", "2024-01-03"), source) == {(): 6}
    assert counted(start.where("clock", "between", ["2024-01-01T02:00", "2024-01-01T04:00"]), source) == {
        (): 3
    }
    assert counted(start.where("dead", "=", True).group_by("sex"), source) == {(None,): 2, ("f",): 2}


def test_a_number_that_is_none_is_missing() -> None:
    source = Source("lung", pa.table({"age": [1.0, float("nan"), None, 4.0], "k": [1, 1, 1, 1]}))
    cell = answer(Query("lung").group_by("k").sum("age").where("k", "=", 1), source, minimum=3).cells[(1,)]
    assert (cell.rows, cell.present["age"], cell.moments["age", None]) == (4, 2, Moments(5, 0))
    assert counted(Query("lung").count().where("age", ">", 0), source) == {(): 2}


def test_bins_of_totals_and_groups_have_their_own_edges() -> None:
    source = Source("lung", pa.table({"a": [0, 0, 1, 1] * 3, "b": [0, 1, 0, 1] * 3, "x": range(12)}))
    query = Query("lung").group_by("a", "b").quantile("x")
    found = bins(
        query, source, "x", {(0, 1): [4.0], (ALL, 0): [0.0, 6.0], (ALL, ALL): [3.0], (7, 7): [1.0]}, minimum=3
    )
    assert found == {(0, 1): (1, 2), (ALL, 0): (0, 3, 3), (ALL, ALL): (3, 9), (7, 7): (0, 0)}


def test_a_key_is_judged_by_the_whole_data_set() -> None:
    source = Source("lung", pa.table({"patient": [f"p{at}" for at in range(40)], "age": [1] * 40}))
    with pytest.raises(PolicyRefused, match="patient"):
        answer(Query("lung").where("age", "=", 2).group_by("patient").count(), source)
    with pytest.raises(JobError, match="3 or more"):
        answer(Query("lung").count(), source, minimum=1)
