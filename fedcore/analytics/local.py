"""A query at a site: DuckDB over the columns that it reads.

No name and no value of a query is part of an SQL text: columns are handed over under names made here (`c0`, `c1`, …),
values as parameters. DuckDB runs without files, network, extensions or settings that could be changed, in the memory it
is given and on one thread, so that sums come out the same each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedcore.analytics.columns import Column, Kind, problems
from fedcore.analytics.condition import Compare, Condition, Not
from fedcore.analytics.disclosure import ALL, MINIMUM, Key, checked_minimum, refuse_identifying
from fedcore.analytics.partial import Cell, Measure, Moments, Partial, measure
from fedcore.analytics.query import Query
from fedcore.errors import DataError, JobError

if TYPE_CHECKING:
    import pyarrow as pa

STEP = "query"
MEMORY = 1024
_SETTINGS = (
    "SET threads = 1",
    "SET temp_directory = ''",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET python_enable_replacements = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set at this site.

    Args:
        name: As in the catalogue.
        rows: Its columns, at least those that a query reads.
        units: Per column; over what a field's metadata says under `unit`.
        memory: That DuckDB may take, in MiB.
    """

    name: str
    rows: pa.Table
    units: Mapping[str, str] = field(default_factory=dict)
    memory: int = MEMORY

    @property
    def columns(self) -> dict[str, Column]:
        """What a query sees of them; columns of other types are left out."""
        found = {}
        for each in self.rows.schema:
            kind = _kind_of(each.type)
            stated = (each.metadata or {}).get(b"unit", b"").decode(errors="replace")
            if kind is not None:
                found[each.name] = Column(kind, self.units.get(each.name, stated))
        return found


def opened(name: str, file: Path, units: Mapping[str, str] | None = None, memory: int = MEMORY) -> Source:
    """A Parquet or CSV file of the site's own catalogue.

    Raises:
        DataError: There is no such file, or it is of another kind or cannot be read.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    readers = {".parquet": parquet.read_table, ".csv": csv.read_csv}
    if file.suffix not in readers:
        raise DataError(f"data set {name}: {file.suffix or 'no ending'}; allowed: .csv, .parquet", step=STEP)
    try:
        return Source(name, readers[file.suffix](file), dict(units or {}), memory)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"data set {name} cannot be read", step=STEP, detail=str(error)) from error


def answer(
    query: Query, source: Source, *, minimum: int = MINIMUM, centres: Mapping[str, float] | None = None
) -> Partial:
    """Counts and sums of each group of this site.

    What comes back is not yet suppressed: where it leaves the site by itself, `partial.suppressed` comes between; where
    only its sum with other sites is seen, the sum is suppressed.

    Args:
        query: To answer.
        source: The data set.
        minimum: Least cell of the site; a data set with fewer rows answers nothing.
        centres: Per column, around which squares are summed; 0 for others.

    Raises:
        DataError: The data set is another one, lacks columns, has them with other types or units, or is too small.
        PolicyRefused: A group key could name single persons.
    """
    if not query.asked:
        raise JobError("the query asks nothing. Cure: add count()", step=STEP)
    around = dict(centres or {})
    measures = list(dict.fromkeys(each for each in map(measure, query.asked) if each is not None))
    squared = {measure(each) for each in query.asked if each.statistic in ("variance", "stddev")}
    present = list(dict.fromkeys(each.column for each in query.asked if each.column is not None))
    with _scanned(query, source, minimum) as scan:
        parameters: list[Any] = []
        wanted = ["count(*)", *(f"count({scan.names[column]})" for column in present)]
        for column, bounds in measures:
            value = scan.names[column]
            if bounds is not None:
                # DuckDB's least and greatest pass over a missing value, which must stay missing.
                value = (
                    f"CASE WHEN {value} IS NOT NULL THEN least(greatest({value}, ?::DOUBLE), ?::DOUBLE) END"
                )
            distance = f"({value} - ?::DOUBLE)"
            here = [*(bounds or ()), around.get(column, 0.0)]
            wanted.append(f"fsum({distance})")
            parameters += here
            if (column, bounds) in squared:
                wanted.append(f"fsum({distance} * {distance})")
                parameters += here * 2
            else:
                wanted.append("0.0::DOUBLE")
        found = scan.grouped(wanted, parameters)
        cells = {key: _cell(row, present, measures) for key, row in found}
        for each in query.asked:
            if each.statistic == "histogram" and each.column is not None:
                grid = dict.fromkeys(cells, (*each.edges[:-1], float(np.nextafter(each.edges[-1], np.inf))))
                for key, counts in scan.bins(each.column, grid).items():
                    cells[key] = replace(cells[key], bins={**cells[key].bins, each.name: counts})
    return Partial(query.hash, {column: around.get(column, 0.0) for column, _ in measures}, cells)


def bins(
    query: Query,
    source: Source,
    column: str,
    edges: Mapping[Key, Sequence[float]],
    *,
    minimum: int = MINIMUM,
) -> dict[Key, tuple[int, ...]]:
    """Rows of groups between edges that differ from group to group, for one round of a search for quantiles.

    Args:
        query: Whose groups and condition hold.
        source: The data set.
        column: Of numbers.
        edges: Per key, rising; `ALL` stands for every value of a key.
        minimum: Least cell of the site.

    Returns:
        Per key: values below the first edge, at or above each edge and below the next, at or above the last.

    Raises:
        DataError: As `answer`.
    """
    made: dict[Key, tuple[int, ...]] = {}
    with _scanned(query, source, minimum) as scan:
        for level in {tuple(each is ALL for each in key) for key in edges}:
            grid = {key: value for key, value in edges.items() if tuple(each is ALL for each in key) == level}
            made.update(scan.bins(column, grid, level))
    return made


def row_sets(query: Query, source: Source, *, minimum: int = MINIMUM) -> dict[Key, int]:
    """Which rows each group holds, as the set bits of a whole number: for the site only.

    Args:
        query: Whose groups and condition hold.
        source: The data set; a row keeps its place from query to query.
        minimum: Least cell of the site.

    Returns:
        Per key: bit i is set when row i is in the group.
    """
    with _scanned(query, source, minimum) as scan:
        made = {}
        for key, (places,) in scan.grouped(["list(place)"], []):
            bits = np.zeros(source.rows.num_rows, dtype=np.uint8)
            bits[places or []] = 1
            made[key] = int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")
        return made


class _Scan:
    """The rows that a query takes, in a connection that reads nothing else."""

    def __init__(
        self, connection: Any, query: Query, names: Mapping[str, str], kinds: Mapping[str, Kind]
    ) -> None:
        self.connection, self.names, self.kinds = connection, names, kinds
        self.keys = [names[column] for column in query.groups]
        self.values: list[Any] = []
        where = "" if query.condition is None else f" WHERE {self._where(query.condition)}"
        self.rows = f"(SELECT * FROM held{where}) AS taken"

    def grouped(
        self, wanted: Sequence[str], parameters: Sequence[Any]
    ) -> Iterator[tuple[Key, Sequence[Any]]]:
        """Keys of each group, and what is wanted of it."""
        by = ", ".join(self.keys)
        text = f"SELECT {', '.join([*self.keys, *wanted])} FROM {self.rows}" + (
            f" GROUP BY {by}" if by else ""
        )
        for row in self.connection.execute(text, [*parameters, *self.values]).fetchall():
            yield tuple(row[: len(self.keys)]), row[len(self.keys) :]

    def bins(
        self, column: str, edges: Mapping[Key, Sequence[float]], total: Sequence[bool] = ()
    ) -> dict[Key, tuple[int, ...]]:
        """Values of each group between its edges."""
        import pyarrow as pa

        names = [name for at, name in enumerate(self.keys) if not (total and total[at])]
        places = [at for at in range(len(self.keys)) if not (total and total[at])]
        order = {tuple(key[at] for at in places): key for key in edges}
        counts = {key: [0] * (len(value) + 1) for key, value in edges.items()}
        flat = [(group, edge) for group, key in enumerate(order.values()) for edge in edges[key]]
        self.connection.register(
            "edges",
            pa.table(
                {
                    "number": pa.array([group for group, _ in flat], pa.int64()),
                    "edge": pa.array([edge for _, edge in flat], pa.float64()),
                }
            ),
        )
        groups = f"dense_rank() OVER (ORDER BY {', '.join(names)})" if names else "1"
        value = self.names[column]
        # Keys are numbered by DuckDB and named again by one row of each number, so that a missing key is a key.
        kept = f"CREATE OR REPLACE TEMP TABLE kept AS SELECT {', '.join([*names, groups])} AS number, {value} AS value FROM "
        self.connection.execute(kept + self.rows, self.values)
        listed = ", ".join([*(f"any_value({name})" for name in names), "number"])
        numbers = {
            row[-1]: order.get(tuple(row[:-1]))
            for row in self.connection.execute(f"SELECT {listed} FROM kept GROUP BY number").fetchall()
        }
        own = {key: at for at, key in enumerate(order.values())}
        pairs = [(number, own[key]) for number, key in numbers.items() if key is not None]
        self.connection.register(
            "pairs",
            pa.table(
                {
                    "number": pa.array([number for number, _ in pairs], pa.int64()),
                    "own": pa.array([at for _, at in pairs], pa.int64()),
                }
            ),
        )
        text = (
            "SELECT pairs.own, edges.edge, count(*) FROM kept JOIN pairs ON kept.number = pairs.number "
            "ASOF LEFT JOIN edges ON pairs.own = edges.number AND kept.value >= edges.edge "
            "WHERE kept.value IS NOT NULL GROUP BY ALL"
        )
        keys = list(order.values())
        for at, edge, count in self.connection.execute(text).fetchall():
            key = keys[at]
            counts[key][0 if edge is None else list(edges[key]).index(edge) + 1] += count
        return {key: tuple(value) for key, value in counts.items()}

    def _where(self, condition: Condition) -> str:
        if isinstance(condition, Not):
            return f"(NOT {self._where(condition.part)})"
        if not isinstance(condition, Compare):
            word = " AND " if condition.op == "and" else " OR "
            return f"({word.join(self._where(part) for part in condition.parts)})"
        name, kind = self.names[condition.column], self.kinds[condition.column]
        self.values += [_bound(value, kind) for value in condition.values]
        if condition.op in ("is null", "is not null"):
            return f"({name} {condition.op.upper()})"
        if condition.op == "between":
            return f"({name} BETWEEN ? AND ?)"
        if condition.op == "in":
            return f"({name} IN ({', '.join('?' * len(condition.values))}))"
        return f"({name} {condition.op} ?)"


@contextmanager
def _scanned(query: Query, source: Source, minimum: int) -> Iterator[_Scan]:
    """The data set, checked against the query, in DuckDB."""
    checked_minimum(minimum)
    if query.dataset != source.name:
        raise DataError(f'the query asks "{query.dataset}", this is "{source.name}"', step=STEP)
    columns = source.columns
    if found := problems(query, columns):
        raise DataError("; ".join(found), step=STEP)
    if source.rows.num_rows < minimum:
        raise DataError(
            f"data set {source.name} has fewer than {minimum} rows; it answers nothing", step=STEP
        )
    import duckdb

    try:
        with duckdb.connect(":memory:") as connection:
            connection.execute(f"SET memory_limit = '{int(source.memory)}MiB'")
            for setting in _SETTINGS:
                connection.execute(setting)
            names = {column: f"c{at}" for at, column in enumerate(query.columns)}
            connection.register("given", _handed(query, source, names))
            _hold(connection, query, columns, names)
            for column in query.groups:
                text = f"SELECT count(DISTINCT {names[column]}) + (count(*) > count({names[column]}))::INT FROM held"
                distinct = connection.execute(text).fetchall()[0][0]
                refuse_identifying(column, distinct, source.rows.num_rows, minimum)
            yield _Scan(connection, query, names, {name: columns[name].kind for name in query.columns})
    except duckdb.OutOfMemoryException as error:
        raise DataError(
            f"the query needs more than {source.memory} MiB. Cure: ask fewer groups, or let the site allow more",
            step=STEP,
            detail=str(error),
        ) from error
    except duckdb.Error as error:
        raise DataError(
            "the query failed in the site's database; the site's log says more", step=STEP, detail=str(error)
        ) from error


def _handed(query: Query, source: Source, names: Mapping[str, str]) -> pa.Table:
    import pyarrow as pa

    table = source.rows.select(list(query.columns)).rename_columns(
        [names[column] for column in query.columns]
    )
    return table.append_column("place", pa.array(np.arange(source.rows.num_rows)))


def _hold(connection: Any, query: Query, columns: Mapping[str, Column], names: Mapping[str, str]) -> None:
    """A view in which a number that is none is missing, and measured columns are doubles."""
    asked = {each.column for each in query.asked if each.statistic != "count"}
    chosen = ["place"]
    for column, name in names.items():
        if columns[column].kind != "number":
            chosen.append(name)
            continue
        if column in asked:
            infinite = f"SELECT count(*) FROM given WHERE isinf({name}::DOUBLE)"
            if connection.execute(infinite).fetchall()[0][0]:
                raise DataError(f"{column} holds infinite values. Cure: make them missing", step=STEP)
        value = f"{name}::DOUBLE" if column in asked and column not in query.groups else name
        chosen.append(f"CASE WHEN NOT isnan({name}::DOUBLE) THEN {value} END AS {name}")
    connection.execute(f"CREATE TEMP VIEW held AS SELECT {', '.join(chosen)} FROM given")


def _cell(row: Sequence[Any], present: Sequence[str], measures: Sequence[Measure]) -> Cell:
    after = 1 + len(present)
    sums = {
        each: Moments(row[after + 2 * at] or 0.0, row[after + 2 * at + 1] or 0.0)
        for at, each in enumerate(measures)
    }
    return Cell(row[0], dict(zip(present, row[1:after], strict=True)), dict(sums), {})


def _bound(value: Any, kind: Kind) -> Any:
    return {"date": date.fromisoformat, "time": datetime.fromisoformat}.get(kind, lambda same: same)(value)


def _kind_of(held: pa.DataType) -> Kind | None:
    import pyarrow as pa

    if pa.types.is_dictionary(held):
        held = held.value_type
    tests: tuple[tuple[Kind, tuple[Any, ...]], ...] = (
        ("number", (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)),
        ("text", (pa.types.is_string, pa.types.is_large_string)),
        ("flag", (pa.types.is_boolean,)),
        ("date", (pa.types.is_date,)),
        ("time", (pa.types.is_timestamp,)),
    )
    return next((kind for kind, allowed in tests if any(test(held) for test in allowed)), None)
