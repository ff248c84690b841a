"""Tables and queries of SQLite and PostgreSQL databases, read-only.

Rows come through the ADBC drivers, which give Arrow directly. (DuckDB's scanners for the two are extensions
that DuckDB downloads at run time, which a hospital's network does not allow.) Whatever the owner's query is,
it runs as a sub-query of our SELECT, so it can only be a SELECT itself, and in a session that cannot write.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fedcore.errors import DataError, did_you_mean, nearest
from fedcore.participant.data.checks import chosen, collected, existing, no_rows, unreadable, within

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Cursor

    from fedcore.jobs.datasets import PostgresData, SqliteData

_CONNECT_TIMEOUT = 30  # seconds; libpq would wait for as long as TCP does

# How SQLite's storage classes become Arrow types, each with the SQL that makes a column of mixed classes one and
# a value of the class.
_SQLITE_KINDS = (
    (pa.int64(), "{0}", "0"),  # only NULL
    (pa.int64(), "{0}", "0"),
    (pa.float64(), "CAST({0} AS REAL)", "0.0"),
    (pa.string(), "CAST({0} AS TEXT)", "''"),
    (pa.binary(), "CAST({0} AS BLOB)", "x''"),
)


def quoted(name: str) -> str:
    """A name between double quotes, those in it doubled, as SQL writes any name whatever."""
    return '"' + name.replace('"', '""') + '"'


def _source(data: SqliteData | PostgresData) -> str:
    if data.table is not None:
        return ".".join(quoted(part) for part in data.table.split("."))
    # On a line of its own, so that a comment at the end of the query does not swallow the bracket.
    return f"(\n{(data.query or '').strip().rstrip(';')}\n) AS data"


# ---- SQLite


def sqlite_schema(data: SqliteData) -> pa.Schema:
    """Names and types of the columns; looks at every value, since SQLite's types belong to values."""
    with _sqlite(data) as cursor:
        return _sqlite_plan(cursor, data, chosen(data, None, _names(cursor, data))).schema


def sqlite_table(data: SqliteData, columns: Sequence[str] | None, memory: int | None) -> pa.Table:
    """The rows of an SQLite table or query.

    A column whose values are all integers is int64; integers and reals are float64; with any text in it, it
    is text; with any blob, binary. SQLite has no dates: what was stored as text or number stays that.

    Raises:
        DataError: No file, not SQLite, no such table or column, too large.
    """
    with _sqlite(data) as cursor:
        plan = _sqlite_plan(cursor, data, chosen(data, columns, _names(cursor, data)))
        within(plan.needed, memory, "about ")
        # The driver infers types from its first batch: make that all rows.
        cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(max(plan.rows, 1))})
        cursor.execute(f"SELECT {', '.join(plan.expressions)} FROM {_source(data)}")
        table: pa.Table = cursor.fetch_arrow_table()
        return table.cast(plan.schema)


def sqlite_batches(data: SqliteData, columns: Sequence[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of `sqlite_table`, at most `rows` at a time; first a batch without rows.

    Raises:
        DataError: As `sqlite_table`.
    """
    with _sqlite(data) as cursor:
        plan = _sqlite_plan(cursor, data, chosen(data, columns, _names(cursor, data)))
        yield no_rows(plan.schema)
        cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(rows)})
        # The driver infers types from its first batch: begin that with a row of the right types.
        cursor.execute(
            f"SELECT {', '.join(plan.examples)} UNION ALL "
            f"SELECT {', '.join(plan.expressions)} FROM {_source(data)}"
        )
        for number, batch in enumerate(cursor.fetch_record_batch()):
            yield (batch.slice(1) if number == 0 else batch).cast(plan.schema)


@dataclass(frozen=True)
class _SqlitePlan:
    """How to read some columns of an SQLite table.

    Args:
        schema: Their names and types.
        expressions: SQL for each, of its type whatever the row.
        examples: SQL for a value of each one's type.
        rows: How many there are.
        needed: About how many bytes they take.
    """

    schema: pa.Schema
    expressions: list[str]
    examples: list[str]
    rows: int
    needed: int


def _sqlite_plan(cursor: Cursor, data: SqliteData, columns: list[str]) -> _SqlitePlan:
    asked = ["count(*)"]
    for name in columns:
        column = quoted(name)
        asked.append(
            f"max(CASE typeof({column}) WHEN 'blob' THEN 4 WHEN 'text' THEN 3 WHEN 'real' THEN 2 "
            "WHEN 'integer' THEN 1 ELSE 0 END)"
        )
        asked.append(
            f"sum(CASE WHEN typeof({column}) IN ('text', 'blob') THEN length(CAST({column} AS BLOB)) ELSE 8 "
            "END)"
        )
    cursor.execute(f"SELECT {', '.join(asked)} FROM {_source(data)}")
    found = cursor.fetchone() or (0,)
    kinds = [_SQLITE_KINDS[int(kind or 0)] for kind in found[1::2]]
    planned = list(zip(columns, kinds, strict=True))
    return _SqlitePlan(
        schema=pa.schema([pa.field(name, kind[0]) for name, kind in planned]),
        expressions=[f"{kind[1].format(quoted(name))} AS {quoted(name)}" for name, kind in planned],
        examples=[f"{kind[2]} AS {quoted(name)}" for name, kind in planned],
        rows=int(found[0]),
        needed=sum(int(bytes_ or 0) for bytes_ in found[2::2]),
    )


@contextmanager
def _sqlite(data: SqliteData) -> Iterator[Cursor]:
    from adbc_driver_manager import Error
    from adbc_driver_sqlite import dbapi

    path = existing(data.path, folder=False)
    if not os.access(path, os.R_OK):
        raise DataError(f"no permission to read {path}; let the account that runs fedcore read it")
    try:
        with dbapi.connect(path.resolve().as_uri() + "?mode=ro") as connection, connection.cursor() as cursor:
            yield cursor
    except (Error, OSError, pa.ArrowInvalid) as error:
        if "no such table" in str(error):
            raise _no_table(data, sqlite_tables(path), error) from error
        raise _not_sqlite(path, error) or _failed(data, str(path), error) from error


def _not_sqlite(path: Path, error: BaseException) -> DataError | None:
    """The error for a file that is no database, or locked; None for another fault."""
    text = str(error)
    if "not a database" in text:
        return DataError(f"{path} is not an SQLite database; correct its path")
    if "locked" in text:
        return DataError(
            f"{path} is locked by another program; close it there, or give a copy of the file", detail=text
        )
    return None


def sqlite_tables(path: Path) -> list[str]:
    """Names of the tables and views of an SQLite file.

    Raises:
        DataError: It is no SQLite file, or cannot be read.
    """
    from adbc_driver_manager import Error
    from adbc_driver_sqlite import dbapi

    try:
        with (
            dbapi.connect(path.resolve().as_uri() + "?mode=ro") as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
            return [str(row[0]) for row in cursor.fetchall()]
    except (Error, OSError) as error:
        raise _not_sqlite(path, error) or unreadable(path, error, "an SQLite database") from error


# ---- PostgreSQL


def postgres_schema(data: PostgresData) -> pa.Schema:
    """Names and types of the columns, from the server's description of the query; no row is read."""
    with _postgres(data) as cursor:
        described = _described(cursor, data)
        chosen(data, None, described.names)
        return pa.schema([pa.field(field.name, _postgres_plan(field)[0]) for field in described])


def postgres_table(data: PostgresData, columns: Sequence[str] | None, memory: int | None) -> pa.Table:
    """The rows of a PostgreSQL table or query, from one consistent snapshot.

    `numeric` and `money` become float64; what Arrow has no type for (uuid, json, inet, xml, ...) becomes
    text. Write a `query` with a cast where a `numeric` must keep more than 15 digits.

    Raises:
        DataError: No server, no access, no such table or column, a query that fails, too large.
    """
    with _postgres(data) as cursor:
        reader, schema = _postgres_reader(cursor, data, columns)
        return collected(reader, reader.schema, memory).cast(schema)


def postgres_batches(
    data: PostgresData, columns: Sequence[str] | None, size: int
) -> Iterator[pa.RecordBatch]:
    """The rows of `postgres_table`, in batches of about `size` bytes; first a batch without rows.

    Raises:
        DataError: As `postgres_table`.
    """
    with _postgres(data) as cursor:
        cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(size)})
        reader, schema = _postgres_reader(cursor, data, columns)
        yield no_rows(schema)
        for batch in reader:
            yield batch.cast(schema)


def _postgres_reader(
    cursor: Cursor, data: PostgresData, columns: Sequence[str] | None
) -> tuple[pa.RecordBatchReader, pa.Schema]:
    """What comes from the server, and the types it shall be given."""
    described = _described(cursor, data)
    wanted = chosen(data, columns, described.names)
    plans = [_postgres_plan(described.field(name)) for name in wanted]
    schema = pa.schema([pa.field(name, plan[0]) for name, plan in zip(wanted, plans, strict=True)])
    selected = ", ".join(
        f"{quoted(name)}{plan[1]} AS {quoted(name)}" for name, plan in zip(wanted, plans, strict=True)
    )
    cursor.execute(f"SELECT {selected} FROM {_source(data)}")
    return cursor.fetch_record_batch(), schema


def _described(cursor: Cursor, data: PostgresData) -> pa.Schema:
    return cursor.adbc_execute_schema(f"SELECT * FROM {_source(data)}")


def _postgres_plan(field: pa.Field) -> tuple[pa.DataType, str]:
    """The Arrow type to give and the SQL cast that gives it."""
    kind = (field.metadata or {}).get(b"POSTGRESQL:type", b"").decode()
    if kind == "numeric":
        return pa.float64(), "::double precision"
    if kind == "money":
        return pa.float64(), "::numeric::double precision"
    if isinstance(field.type, pa.BaseExtensionType):
        return pa.string(), "::text"
    return field.type, ""


@contextmanager
def _postgres(data: PostgresData) -> Iterator[Cursor]:
    from adbc_driver_manager import Error
    from adbc_driver_postgresql import dbapi

    url = data.url
    if "connect_timeout" not in url and "PGCONNECT_TIMEOUT" not in os.environ:
        url += f"{'&' if '?' in url else '?'}connect_timeout={_CONNECT_TIMEOUT}"
    try:
        connection = dbapi.connect(url, autocommit=True)
    except (Error, OSError) as error:
        raise _no_access(data, error) from error
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            try:
                yield cursor
            except (Error, OSError, pa.ArrowInvalid) as error:
                if getattr(error, "sqlstate", None) == "42P01":  # undefined_table
                    raise _no_table(data, _postgres_tables(cursor), error) from error
                if getattr(error, "sqlstate", None) == "42501":  # insufficient_privilege
                    raise DataError(
                        f"the account has no right to read this from {_where(data.url)}; grant it SELECT",
                        detail=str(error),
                    ) from error
                raise _failed(data, _where(data.url), error) from error
    except (Error, OSError) as error:  # the connection broke outside a statement
        raise _failed(data, _where(data.url), error) from error


def _postgres_tables(cursor: Cursor) -> list[str]:
    cursor.execute(
        "SELECT CASE WHEN pg_table_is_visible(c.oid) THEN c.relname ELSE n.nspname || '.' || c.relname END "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'v', 'm', "
        "'p', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
    )
    return [str(row[0]) for row in cursor.fetchall()]


def _no_access(data: PostgresData, error: BaseException) -> DataError:
    text, where = str(error), _where(data.url)
    if re.search(r"password|authentication failed|pg_hba|peer", text, re.IGNORECASE):
        return DataError(
            f"{where} did not accept the account or its password; give the password in PGPASSFILE, "
            "~/.pgpass or PGPASSWORD of the account that runs fedcore, the user in url",
            detail=text,
        )
    if re.search(r'(role|database) ".*" does not exist', text):
        return DataError(
            f"{where} has no such database or account; correct url in the catalogue",
            detail=text,
        )
    return DataError(
        f"no PostgreSQL server answers at {where}; check url, that the server runs and that the network lets "
        "this machine reach it",
        detail=text,
    )


def _where(url: str) -> str:
    """Host and database, without user and parameters."""
    return url.split("://", 1)[-1].split("?")[0].rsplit("@", 1)[-1]


# ---- both


def _names(cursor: Cursor, data: SqliteData) -> list[str]:
    cursor.execute(f"SELECT * FROM {_source(data)} LIMIT 0")
    described: Any = cursor.description
    return [str(column[0]) for column in described or ()]


def _no_table(data: SqliteData | PostgresData, tables: list[str], error: BaseException) -> DataError:
    # The names of the other tables are not the coordinator's business.
    if data.table is None:
        return DataError(
            "the query names a table that is not there; correct query in the catalogue",
            detail=f"{error}; tables: {', '.join(sorted(tables))}",
        )
    near = nearest(data.table, tables)
    hint = (
        f'did you mean "{near}"?' if near else "correct table in the catalogue, with its schema if it has one"
    )
    return DataError(
        f"no table {data.table!r} in the database; {hint} (the site's log lists all)",
        detail=did_you_mean(data.table, tables),
    )


def _failed(data: SqliteData | PostgresData, where: str, error: BaseException) -> DataError:
    what = "the query" if data.table is None else f"table {data.table!r}"
    cure = (
        "a query is one SELECT that does not write"
        if data.table is None
        else "try it in the database's shell"
    )
    state = getattr(error, "sqlstate", None)
    return DataError(
        f"{where} could not give {what}{f' (SQLSTATE {state})' if state else ''}; {cure}; the database's own "
        "words are in the site's log",
        detail=str(error),
    )
