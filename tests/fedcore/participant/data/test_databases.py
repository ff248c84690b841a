"""SQLite against the standard library's sqlite3, PostgreSQL against psycopg on a real server."""

from __future__ import annotations

import os
import sqlite3
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pydantic
import pytest

from fedcore.errors import DataError
from fedcore.jobs.datasets import PostgresData, SqliteData
from fedcore.participant.data import read_schema, read_table
from tests.fedcore.participant.data.postgres_server import PASSWORD, Postgres


def sqlite_file(file: Path, *statements: str, rows: list[tuple[Any, ...]] | None = None) -> Path:
    connection = sqlite3.connect(file)
    for statement in statements:
        connection.execute(statement)
    if rows:
        connection.executemany(f"INSERT INTO t VALUES ({','.join('?' * len(rows[0]))})", rows)
    connection.commit()
    connection.close()
    return file


def from_sqlite(file: Path, **more: object) -> SqliteData:
    return SqliteData(connector="sqlite", path=file, **more)  # type: ignore[arg-type]


def from_postgres(url: str, **more: object) -> PostgresData:
    return PostgresData(connector="postgresql", url=url, **more)  # type: ignore[arg-type]


def test_sqlite_table_equals_what_sqlite3_reads(tmp_path: Path) -> None:
    rows = [(i if i % 7 else None, i / 8 if i % 5 else None, f"t {i}", bytes([i % 256])) for i in range(3000)]
    file = sqlite_file(tmp_path / "s.db", 'CREATE TABLE t (a INT, "b "" c" REAL, d TEXT, e BLOB)', rows=rows)
    table = read_table(from_sqlite(file, table="t"))
    with sqlite3.connect(file) as connection:
        cursor = connection.execute("SELECT * FROM t")
        assert table.column_names == [column[0] for column in cursor.description]
        assert [tuple(row.values()) for row in table.to_pylist()] == cursor.fetchall()
    assert [str(kind) for kind in table.schema.types] == ["int64", "double", "string", "binary"]
    assert read_schema(from_sqlite(file, table="t")) == table.schema


def test_sqlite_types_are_those_of_all_values_however_late_they_come(tmp_path: Path) -> None:
    # The driver alone looks at the first 1,024 rows.
    rows: list[tuple[Any, ...]] = [(1, 1, None)] * 2000 + [(0.5, "high", 0.5)]
    file = sqlite_file(tmp_path / "s.db", "CREATE TABLE t (a, b, c)", rows=rows)
    table = read_table(from_sqlite(file, table="t"))
    assert [str(kind) for kind in table.schema.types] == ["double", "string", "double"]
    assert table.slice(1999).to_pylist() == [{"a": 1, "b": "1", "c": None}, {"a": 0.5, "b": "high", "c": 0.5}]


def test_sqlite_query_table_of_a_schema_and_columns(tmp_path: Path) -> None:
    file = sqlite_file(tmp_path / "a 100%?.db", "CREATE TABLE t (a, b, c)", rows=[(1, 2, 3), (4, 5, 6)])
    query = from_sqlite(file, query="SELECT b, c, a + 1 AS d FROM t WHERE a > 1 -- the last ones")
    assert read_table(query, ["d", "b"]).to_pylist() == [{"d": 5, "b": 5}]
    assert read_table(from_sqlite(file, table="main.t"), ["c"]).to_pylist() == [{"c": 3}, {"c": 6}]


@pytest.mark.parametrize(
    "query", ["DELETE FROM t RETURNING a", "DELETE FROM t", "SELECT a FROM t; DELETE FROM t"]
)
def test_sqlite_query_that_writes_is_refused(tmp_path: Path, query: str) -> None:
    file = sqlite_file(tmp_path / "s.db", "CREATE TABLE t (a)", rows=[(1,)])
    with pytest.raises(DataError, match="the query; a query is one SELECT that does not write"):
        read_table(from_sqlite(file, query=query))
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_sqlite_mistakes_are_told_apart(tmp_path: Path) -> None:
    file = sqlite_file(tmp_path / "s.db", "CREATE TABLE visits (a)", "CREATE TABLE secrets (a)")
    with pytest.raises(
        DataError, match=r'no table .visit. in the database; did you mean "visits"\?'
    ) as caught:
        read_table(from_sqlite(file, table="visit"))
    assert "secrets" not in str(caught.value) and "secrets" in (caught.value.detail or "")
    with pytest.raises(DataError, match="the query names a table that is not there"):
        read_table(from_sqlite(file, query="SELECT * FROM visit"))
    with pytest.raises(DataError, match="no column 'b' in the data set; allowed: a"):
        read_table(from_sqlite(file, table="visits"), ["b"])
    with pytest.raises(DataError, match="the data set has 0 rows"):
        read_table(from_sqlite(file, table="visits"))
    (tmp_path / "x.db").write_bytes(b"not a database at all, but long enough to be read as a header" * 20)
    with pytest.raises(DataError, match=r"x\.db is not an SQLite database"):
        read_table(from_sqlite(tmp_path / "x.db", table="t"))
    with pytest.raises(DataError, match=r"no file .*gone\.db"):
        read_table(from_sqlite(tmp_path / "gone.db", table="t"))
    assert not (tmp_path / "gone.db").exists()


def test_sqlite_table_above_the_memory_bound_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = sqlite_file(tmp_path / "s.db", "CREATE TABLE t (a, b)", rows=[(1, "x" * 1000)] * 1000)
    with pytest.raises(DataError, match=r"needs about 1\.0 MB of memory and this site gives a job 500\.0 kB"):
        read_table(from_sqlite(file, table="t"), memory=500_000)
    assert read_table(from_sqlite(file, table="t"), ["a"], memory=500_000).num_rows == 1000


# ---- PostgreSQL

TYPES = """
CREATE TYPE mood AS ENUM ('low', 'high');
CREATE TABLE visits (
    small smallint, whole int, big bigint, single real, double double precision, exact numeric(12, 3),
    price money, note text, code char(3), yes boolean, day date, at timestamp, moment timestamptz,
    key uuid, feel mood, doc jsonb, net inet, raw bytea, "Odd ""x"" name" int
);
INSERT INTO visits VALUES
    (1, 2, 3, 0.5, 0.1, 12.345, 9.99, 'ünï', 'abc', true,
     '2026-01-31', '2026-01-31 10:00', '2026-01-31 10:00+02',
     '6f2c1e3a-0000-4000-8000-000000000001', 'low', '{"a": 1}', '10.0.0.1', '\\x0001', 7),
    (NULL, -2, NULL, 'NaN', 'NaN', 'NaN', NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL);
CREATE SCHEMA lab;
CREATE TABLE lab.results AS SELECT i AS id, i / 4.0 AS value FROM generate_series(1, 5000) AS i;
CREATE TABLE hidden (a int);
CREATE TABLE nobody (a int);
CREATE ROLE guarded LOGIN PASSWORD 'right horse';
"""


@pytest.fixture(scope="module")
def hospital(postgres: Postgres) -> Postgres:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(TYPES)
    return postgres


def test_postgres_values_equal_what_psycopg_reads(hospital: Postgres) -> None:
    table = read_table(from_postgres(hospital.url(), table="visits"))
    with psycopg.connect(hospital.url()) as connection:
        cursor = connection.execute("SELECT * FROM visits")
        assert table.column_names == [column.name for column in cursor.description or ()]
        expected = [plain(row) for row in cursor.fetchall()]
    assert [tuple(map(comparable, row.values())) for row in table.to_pylist()] == expected
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["exact"] == kinds["price"] == kinds["double"] == "double"
    assert kinds["moment"] == "timestamp[us, tz=UTC]" and kinds["day"] == "date32[day]"
    assert kinds["key"] == kinds["doc"] == kinds["feel"] == "string"
    assert read_schema(from_postgres(hospital.url(), table="visits")) == table.schema


def plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """What psycopg gives, as the connector's documentation says it arrives."""

    def one(value: Any) -> Any:
        if isinstance(value, Decimal):
            return comparable(float(value))
        if isinstance(value, dict):
            return '{"a": 1}'
        if isinstance(value, str) and value.startswith("$"):
            return float(value[1:])
        if isinstance(value, uuid.UUID):
            return str(value)
        if type(value).__module__ == "ipaddress":
            return str(value) + "/32"
        return comparable(value)

    return tuple(map(one, row))


def comparable(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return "NaN"
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value


def test_postgres_schema_query_and_columns_are_pushed_down(hospital: Postgres) -> None:
    table = read_table(from_postgres(hospital.url(), table="lab.results"), ["value"])
    assert table.column("value").to_pylist() == [i / 4 for i in range(1, 5001)]
    query = from_postgres(
        hospital.url(), query='SELECT day, "Odd ""x"" name" AS odd FROM visits LIMIT 1 -- one'
    )
    assert read_table(query, ["odd", "day"]).to_pylist() == [{"odd": 7, "day": date(2026, 1, 31)}]


@pytest.mark.parametrize(
    "query", ["DELETE FROM lab.results RETURNING id", "SELECT 1) AS data; DELETE FROM lab.results; --"]
)
def test_postgres_query_that_writes_is_refused(hospital: Postgres, query: str) -> None:
    with pytest.raises(DataError, match="a query is one SELECT that does not write"):
        read_table(from_postgres(hospital.url(), query=query))
    with psycopg.connect(hospital.url()) as connection:
        assert connection.execute("SELECT count(*) FROM lab.results").fetchone() == (5000,)


def test_postgres_session_cannot_write_even_through_a_function(hospital: Postgres) -> None:
    with psycopg.connect(hospital.url(), autocommit=True) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION sly() RETURNS int LANGUAGE sql AS "
            "'INSERT INTO hidden VALUES (1) RETURNING a'"
        )
    with pytest.raises(DataError, match="could not give the query") as caught:
        read_table(from_postgres(hospital.url(), query="SELECT sly() AS a"))
    assert "read-only transaction" in (caught.value.detail or "")


def test_postgres_failure_while_rows_arrive_shows_no_value(hospital: Postgres) -> None:
    query = (
        "SELECT CASE WHEN id = 4999 THEN (note || id::text)::int ELSE id END AS a "
        "FROM lab.results, (SELECT 'private' AS note) AS n"
    )
    with pytest.raises(DataError, match="could not give the query") as caught:
        read_table(from_postgres(hospital.url(), query=query))
    assert "private" not in str(caught.value)
    assert "private" in (caught.value.detail or "")


def test_postgres_mistakes_are_told_apart(hospital: Postgres) -> None:
    url = hospital.url()
    with pytest.raises(
        DataError, match=r'no table .vists. in the database; did you mean "visits"\?'
    ) as caught:
        read_table(from_postgres(url, table="vists"))
    assert "hidden" not in str(caught.value) and "hidden" in (caught.value.detail or "")
    with pytest.raises(DataError, match=r'did you mean "lab\.results"\?'):
        read_table(from_postgres(url, table="lab.result"))
    with pytest.raises(DataError, match=r"no column 'vlue' in the data set; did you mean \"value\""):
        read_table(from_postgres(url, table="lab.results"), ["vlue"])
    with pytest.raises(DataError, match="the data set has 0 rows"):
        read_table(from_postgres(url, table="nobody"))
    with pytest.raises(DataError, match="column 'id' stands twice"):
        read_table(
            from_postgres(url, query="SELECT * FROM lab.results AS a JOIN lab.results AS b USING (value)")
        )
    with pytest.raises(DataError, match=r"SQLSTATE 42601"):
        read_table(from_postgres(url, query="SELEC 1"))
    with pytest.raises(DataError, match="has no such database or account; correct url"):
        read_table(from_postgres(hospital.url(database="gone"), table="visits"))


def test_postgres_password_trouble_names_the_cure(
    hospital: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    guarded = from_postgres(hospital.url("guarded"), query="SELECT 1 AS a")
    for _ in range(2):
        with pytest.raises(DataError, match="did not accept the account or its password; give the"):
            read_table(guarded)
        monkeypatch.setenv("PGPASSWORD", "wrong horse")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert read_table(guarded).to_pylist() == [{"a": 1}]
    with pytest.raises(DataError, match=r"has no right to read this from .*; grant it SELECT"):
        read_table(from_postgres(hospital.url("guarded"), table="visits"))


def test_postgres_password_in_the_url_is_refused() -> None:
    for url in ("postgresql://a:secret@h/d", "postgresql://a@h/d?password=secret"):
        with pytest.raises(pydantic.ValidationError, match=r"a password does not stand in a file; give"):
            from_postgres(url, table="t")
    with pytest.raises(pydantic.ValidationError, match=r"a url reads postgresql://user@host:port/database"):
        from_postgres("host=h dbname=d", table="t")


def test_postgres_without_a_server_is_told_by_host_and_database_only() -> None:
    with pytest.raises(DataError, match=r"no PostgreSQL server answers at 127\.0\.0\.1:1/d") as caught:
        read_table(from_postgres("postgresql://someone@127.0.0.1:1/d?sslmode=disable", table="t"))
    assert "someone" not in str(caught.value)


def test_postgres_table_above_the_memory_bound_stops_the_stream(hospital: Postgres) -> None:
    query = "SELECT repeat('x', 1000) AS a FROM generate_series(1, 60000)"
    with pytest.raises(DataError, match=r"needs more than \d+\.\d MB of memory and this site gives a job"):
        read_table(from_postgres(hospital.url(), query=query), memory=2_000_000)


def test_postgres_table_is_read_with_the_arrow_types_of_its_schema(hospital: Postgres) -> None:
    table = read_table(from_postgres(hospital.url(), table="visits"), ["small", "single"])
    assert table.schema == pa.schema({"small": pa.int16(), "single": pa.float32()})
