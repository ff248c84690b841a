"""A query at a site: DuckDB over the columns that it reads.

No name and no value of a query is part of an SQL text: columns are handed over under names made here (`c0`, `c1`, …),
values as parameters. DuckDB runs closed and on one thread (`fedcore.analytics.database`), so that sums come out the same
each time.

Rows are read once where that is enough. Whether a column holds numbers only, and how many values a key has, is found
once for a data set and kept with it; keys are counted among the groups where no condition leaves rows out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from fedcore.analytics.columns import Kind, problems
from fedcore.analytics.condition import Compare, Condition, Not
from fedcore.analytics.database import connected
from fedcore.analytics.disclosure import ALL, MINIMUM, Key, checked_minimum, refuse_identifying
from fedcore.analytics.partial import Cell, Measure, Moments, Partial, measure
from fedcore.analytics.query import Query
from fedcore.analytics.source import Source
from fedcore.errors import DataError, JobError

STEP = "query"
_PIECE = 2**20
"""Rows that are taken out of DuckDB at a time."""
_FEW = 2**16
"""Groups, likewise: a key that has a value for each person is refused before all of them are here."""


def answer(
    query: Query, source: Source, *, minimum: int | None = MINIMUM, centres: Mapping[str, float] | None = None
) -> Partial:
    """Counts and sums of each group of this site.

    What comes back is not yet suppressed: where it leaves the site by itself, `partial.suppressed` comes between; where
    only its sum with other sites is seen, the sum is suppressed.

    Args:
        query: To answer.
        source: The data set.
        minimum: Least cell of the site; a data set with fewer rows answers nothing, and keys that nearly name rows are
            refused. None: neither, where keys are public and nobody sees the answer by itself.
        centres: Per column, around which squares are summed; 0 for others.

    Raises:
        DataError: The data set is another one, lacks columns, has them with other types or units, or is too small.
        PolicyRefused: A group key could name single persons.
    """
    if not query.asked:
        raise JobError("the query asks nothing. Cure: add count()", step=STEP)
    around = dict(centres or {})
    measures = list(dict.fromkeys(each for each in map(measure, query.asked) if each is not None))
    # Sums over all rows are finite only where all values are, so that nobody has to look at these before.
    summed = {column for column, bounds in measures if bounds is None and query.condition is None}
    held = source.columns.keys() - set(query.groups)
    trusted = frozenset(column for column in summed & held if source.to_look_at(column))
    cells = _cells(query, source, minimum, around, measures, trusted)
    kept = frozenset(column for column in trusted if _all_finite(cells, column))
    for column in kept:
        source.found_finite(column)
    if kept != trusted:
        cells = _cells(query, source, minimum, around, measures, kept)
    return Partial(query.hash, {column: around.get(column, 0.0) for column, _ in measures}, cells)


def bins(
    query: Query,
    source: Source,
    column: str,
    edges: Mapping[Key, Sequence[float]],
    *,
    minimum: int | None = MINIMUM,
) -> dict[Key, tuple[int, ...]]:
    """Rows of groups between edges that differ from group to group, for one round of a search for quantiles.

    Args:
        query: Whose groups and condition hold.
        source: The data set.
        column: Of numbers.
        edges: Per key, rising; `ALL` stands for every value of a key.
        minimum: As for `answer`.

    Returns:
        Per key: values below the first edge, at or above each edge and below the next, at or above the last.

    Raises:
        DataError: As `answer`.
    """
    with _scanned(query, source, minimum) as scan:
        return scan.bins(column, edges)


def row_sets(query: Query, source: Source, *, minimum: int | None = MINIMUM) -> dict[Key, int]:
    """Which rows each group holds, as the set bits of a whole number: for the site only.

    Args:
        query: Whose groups and condition hold.
        source: The data set; a row keeps its place from query to query.
        minimum: As for `answer`.

    Returns:
        Per key: bit i is set when row i is in the group.
    """
    with _scanned(query, source, minimum, places=True) as scan:
        keys = scan.numbered()
        width = -(-source.rows.num_rows // 8)
        bits = np.zeros(len(keys) * width, np.uint8)
        for numbers, places in scan.pieces("place"):
            np.bitwise_or.at(
                bits, numbers * width + (places >> 3), np.uint8(1) << (places & 7).astype(np.uint8)
            )
        sets = bits.reshape(len(keys), width)
        return {key: int.from_bytes(row.tobytes(), "little") for key, row in zip(keys, sets, strict=True)}


def _cells(
    query: Query,
    source: Source,
    minimum: int | None,
    around: Mapping[str, float],
    measures: Sequence[Measure],
    trusted: frozenset[str],
) -> dict[Key, Cell]:
    squared = {measure(each) for each in query.asked if each.statistic in ("variance", "stddev")}
    present = list(dict.fromkeys(each.column for each in query.asked if each.column is not None))
    with _scanned(query, source, minimum, trusted=trusted) as scan:
        parameters: list[Any] = []
        wanted = ["count(*)"]
        wanted += [f"count({scan.names[column] if scan.misses(column) else '*'})" for column in present]
        for column, bounds in measures:
            value, here = scan.names[column], list(bounds or ())
            if bounds is not None:
                # DuckDB's least and greatest pass over a missing value, which must stay missing.
                value = (
                    f"CASE WHEN {value} IS NOT NULL THEN least(greatest({value}, ?::DOUBLE), ?::DOUBLE) END"
                )
            if centre := around.get(column, 0.0):
                value, here = f"({value} - ?::DOUBLE)", [*here, centre]
            wanted.append(f"fsum({value})")
            parameters += here
            if (column, bounds) in squared:
                wanted.append(f"fsum({value} * {value})")
                parameters += here * 2
            else:
                wanted.append("0.0::DOUBLE")
        cells = {key: _cell(row, present, measures) for key, row in scan.grouped(wanted, parameters)}
        for each in query.asked:
            if each.statistic == "histogram" and each.column is not None:
                grid = dict.fromkeys(cells, (*each.edges[:-1], float(np.nextafter(each.edges[-1], np.inf))))
                for key, counts in scan.bins(each.column, grid).items():
                    cells[key] = replace(cells[key], bins={**cells[key].bins, each.name: counts})
    return cells


def _all_finite(cells: Mapping[Key, Cell], column: str) -> bool:
    found = (cell.moments[column, None] for cell in cells.values())
    return all(isinstance(each, Moments) and math.isfinite(each.total) for each in found)


class _Scan:
    """The rows that a query takes, in a connection that reads nothing else: `given` holds its columns."""

    def __init__(
        self,
        connection: Any,
        query: Query,
        source: Source,
        minimum: int | None,
        places: bool,
        trusted: frozenset[str],
    ) -> None:
        self.connection, self.source, self.minimum = connection, source, minimum
        self.groups, self.trusted = query.groups, trusted
        self.names = {column: f"c{at}" for at, column in enumerate(query.columns)}
        self.kinds = {column: kind.kind for column, kind in source.columns.items()}
        self.keys = [self.names[column] for column in query.groups]
        self.values: list[Any] = []
        self.all = query.condition is None
        where = "" if query.condition is None else f" WHERE {self._where(query.condition)}"
        self.held = _hold(connection, query, source, self.names, places, trusted)
        self.rows = f"(SELECT * FROM {self.held}{where}) AS taken"

    def grouped(self, wanted: Sequence[str], parameters: Sequence[Any]) -> list[tuple[Key, Sequence[Any]]]:
        """Keys of each group, and what is wanted of it."""
        by = ", ".join(self.keys)
        text = f"SELECT {', '.join([*self.keys, *wanted])} FROM {self.rows}{f' GROUP BY {by}' if by else ''}"
        if not self.all:
            self.judge(self.held)
        new = [(at, each) for at, each in enumerate(self.groups) if not self._known(each)]
        seen: dict[str, set[Any]] = {column: set() for _, column in new}
        made: list[tuple[Any, ...]] = []
        self.connection.execute(text, [*parameters, *self.values])
        while piece := self.connection.fetchmany(_FEW):
            made += piece
            for at, column in new:
                seen[column].update(row[at] for row in piece)
                self._refuse(column, len(seen[column]))
        self.source.distinct.update({column: len(values) for column, values in seen.items()})
        return [(row[: len(self.keys)], row[len(self.keys) :]) for row in made]

    def judge(self, rows: str) -> None:
        """Refuse keys that identify.

        Args:
            rows: That have all values of the keys that the data set has.
        """
        for column, name in zip(self.groups, self.keys, strict=True):
            if not self._known(column):
                text = f"SELECT count(DISTINCT {name}) + (count(*) > count({name}))::INT FROM {rows}"
                self.source.distinct[column] = self.connection.execute(text).fetchall()[0][0]
                self._known(column)

    def _known(self, column: str) -> bool:
        """Whether the values of a key were counted already; refuses the key where there are too many."""
        if column not in self.source.distinct:
            return False
        self._refuse(column, self.source.distinct[column])
        return True

    def _refuse(self, column: str, distinct: int) -> None:
        if self.minimum is not None:
            refuse_identifying(column, distinct, self.source.rows.num_rows, self.minimum)

    def misses(self, column: str) -> bool:
        """Whether a column may miss a value."""
        return not self.source.full(column) or not (column in self.trusted or self.source.finite(column))

    def numbered(self) -> list[Key]:
        """The keys of the groups, each in the place of its number; in a table, too, for `pieces`."""
        if not self.keys:
            return [()]
        by = ", ".join(self.keys)
        text = (
            f"CREATE OR REPLACE TEMP TABLE numbered AS SELECT {by}, row_number() OVER () - 1 AS number "
            f"FROM (SELECT DISTINCT {by} FROM {self.rows})"
        )
        self.connection.execute(text, self.values)
        self.judge("numbered" if self.all else self.held)
        return self.connection.execute(f"SELECT {by} FROM numbered ORDER BY number").fetchall()  # type: ignore[no-any-return]

    def pieces(self, name: str) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]:
        """Of the rows that do not miss a value: the number of the group, and the value; some rows at a time."""
        same = " AND ".join(f"taken.{key} IS NOT DISTINCT FROM numbered.{key}" for key in self.keys)
        text = (
            f"SELECT {'number' if same else '0::BIGINT AS number'}, {name} AS value FROM {self.rows} "
            f"{f'JOIN numbered ON {same} ' if same else ''}WHERE {name} IS NOT NULL"
        )
        for piece in self.connection.sql(text, params=self.values).to_arrow_reader(_PIECE):
            yield piece["number"].to_numpy(), piece["value"].to_numpy()

    def bins(self, column: str, edges: Mapping[Key, Sequence[float]]) -> dict[Key, tuple[int, ...]]:
        """Values of each group, or of each total over groups, between its edges."""
        numbered = self.numbered()
        counts = {key: np.zeros(len(value) + 1, np.int64) for key, value in edges.items()}
        levels = []
        for total in {tuple(each is ALL for each in key) for key in edges}:
            shown = [tuple(ALL if t else k for t, k in zip(total, key, strict=True)) for key in numbered]
            order = {key: at for at, key in enumerate(dict.fromkeys(shown))}
            levels.append((list(order), np.array([order[key] for key in shown], np.int64)))
        for numbers, values in self.pieces(self.names[column]):
            for keys, places in levels:
                for place, own in _apart(places[numbers], values):
                    if (key := keys[place]) in counts:
                        found = np.searchsorted(np.asarray(edges[key], np.float64), own, side="right")
                        counts[key] += np.bincount(found, minlength=len(counts[key]))
        return {key: tuple(value.tolist()) for key, value in counts.items()}

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
def _scanned(
    query: Query,
    source: Source,
    minimum: int | None,
    places: bool = False,
    trusted: frozenset[str] = frozenset(),
) -> Iterator[_Scan]:
    """The data set, checked against the query, in DuckDB.

    Args:
        query: Whose columns it holds.
        source: The data set.
        minimum: As for `answer`.
        places: Whether the places of the rows are a column, too.
        trusted: Columns taken to be finite, without a look.
    """
    if minimum is not None:
        checked_minimum(minimum)
    if query.dataset != source.name:
        raise DataError(f'the query asks "{query.dataset}", this is "{source.name}"', step=STEP)
    columns = source.columns
    if found := problems(query, columns):
        raise DataError("; ".join(found), step=STEP)
    if minimum is not None and source.rows.num_rows < minimum:
        raise DataError(
            f"data set {source.name} has fewer than {minimum} rows; it answers nothing", step=STEP
        )
    import duckdb

    try:
        with connected(source.memory) as connection:
            yield _Scan(connection, query, source, minimum, places, trusted)
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


def _hold(
    connection: Any,
    query: Query,
    source: Source,
    names: Mapping[str, str],
    places: bool,
    trusted: frozenset[str],
) -> str:
    """A table of rows in which a number that is none is missing, and measured columns are doubles."""
    import pyarrow as pa

    table = source.rows.select(list(names)).rename_columns(list(names.values()))
    if places or not names:
        table = table.append_column("place", pa.array(np.arange(source.rows.num_rows)))
    connection.register("given", table)
    columns = source.columns
    asked = {each.column for each in query.asked if each.statistic != "count"}
    chosen = ["place"] if places or not names else []
    for column, name in names.items():
        if columns[column].kind != "number":
            chosen.append(name)
            continue
        value = f"{name}::DOUBLE" if column in asked and column not in query.groups else name
        if column in trusted or source.finite(column):
            chosen.append(f"{value} AS {name}")
            continue
        if column in asked:
            infinite = f"SELECT count(*) FROM given WHERE isinf({name}::DOUBLE)"
            if connection.execute(infinite).fetchall()[0][0]:
                raise DataError(f"{column} holds infinite values. Cure: make them missing", step=STEP)
        chosen.append(f"CASE WHEN NOT isnan({name}::DOUBLE) THEN {value} END AS {name}")
    return f"(SELECT {', '.join(chosen)} FROM given) AS held"


def _apart(
    numbers: npt.NDArray[np.int64], values: npt.NDArray[Any]
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Values by number, in their order."""
    if not len(numbers):
        return
    # numpy sorts small whole numbers in one pass.
    small = numbers.astype(np.uint16) if numbers.max() < 2**16 else numbers
    order = np.argsort(small, kind="stable")
    held, sorted_ = numbers[order], values[order]
    starts = np.flatnonzero(np.diff(held, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(held)], strict=True):
        yield int(held[start]), sorted_[start:end]


def _cell(row: Sequence[Any], present: Sequence[str], measures: Sequence[Measure]) -> Cell:
    after = 1 + len(present)
    sums = {
        each: Moments(row[after + 2 * at] or 0.0, row[after + 2 * at + 1] or 0.0)
        for at, each in enumerate(measures)
    }
    return Cell(row[0], dict(zip(present, row[1:after], strict=True)), dict(sums), {})


def _bound(value: Any, kind: Kind) -> Any:
    return {"date": date.fromisoformat, "time": datetime.fromisoformat}.get(kind, lambda same: same)(value)
