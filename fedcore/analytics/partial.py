"""What one site finds for a query: counts and sums of each group, which add up over sites.

Variances need sums of squares, and those are taken around a centre that all sites share: around zero they would lose
their digits where the mean is large against the spread.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from fedcore.analytics.disclosure import ALL, SUPPRESSED, Key, Suppressed, checked_minimum, suppressed_bins
from fedcore.analytics.query import Aggregate, Query

Count: TypeAlias = int | Suppressed
Measure: TypeAlias = tuple[str, tuple[float, float] | None]
"""A column, and the bounds that its values are moved into."""


@dataclass(frozen=True)
class Moments:
    """Sums over the values of a group.

    Args:
        total: Of the distances from the centre, in the column's unit.
        squares: Of their squares; 0 where neither a variance nor a stddev is asked.
    """

    total: float
    squares: float


@dataclass(frozen=True)
class Cell:
    """One group at a site, or over sites.

    Args:
        rows: In the group.
        present: Per column, values that are not missing.
        moments: Per measure.
        bins: Per name of a histogram: counts below its first edge, of its bins, above its last edge.
    """

    rows: Count
    present: Mapping[str, Count] = field(default_factory=dict)
    moments: Mapping[Measure, Moments | Suppressed] = field(default_factory=dict)
    bins: Mapping[str, tuple[Count, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Partial:
    """What one site answers.

    Args:
        query: Hash of what it answers.
        centres: Per column, around which squares are summed.
        cells: Groups that have rows, by their keys.
    """

    query: str
    centres: Mapping[str, float]
    cells: Mapping[Key, Cell]


def measure(aggregate: Aggregate) -> Measure | None:
    """What a sum, mean, variance or stddev is computed from; None for other statistics."""
    if aggregate.column is None or aggregate.statistic not in ("sum", "mean", "variance", "stddev"):
        return None
    return aggregate.column, aggregate.bounds


def tells_present(query: Query, column: str) -> bool:
    """Whether a result shows how many values of a column are not missing, asked or to be reckoned."""
    asked: dict[tuple[float, float] | None, set[str]] = {}
    for each in query.asked:
        if each.column == column:
            if each.statistic in ("count", "histogram"):
                return True
            asked.setdefault(each.bounds, set()).add(each.statistic)
    return any({"sum", "mean"} <= kinds for kinds in asked.values())


def tells_missing(query: Query, column: str) -> bool:
    """Whether a result shows how many values of a column are missing: rows, and those that are not."""
    return tells_present(query, column) and any(
        each.statistic == "count" and each.column is None for each in query.asked
    )


def suppressed(partial: Partial, query: Query, minimum: int) -> Partial:
    """What may leave a site where its groups are seen by themselves: small cells suppressed.

    Args:
        partial: Of this site.
        query: That it answers.
        minimum: Least cell of the site.
    """
    checked_minimum(minimum)
    cells = {key: _suppressed_cell(cell, query, minimum) for key, cell in partial.cells.items()}
    return Partial(partial.query, partial.centres, cells)


def _suppressed_cell(cell: Cell, query: Query, minimum: int) -> Cell:
    if cell.rows is SUPPRESSED or _whole(cell.rows) < minimum:
        return Cell(
            SUPPRESSED,
            dict.fromkeys(cell.present, SUPPRESSED),
            dict.fromkeys(cell.moments, SUPPRESSED),
            {name: (SUPPRESSED,) * len(counts) for name, counts in cell.bins.items()},
        )
    rows = _whole(cell.rows)
    hidden = {
        column
        for column, count in cell.present.items()
        if count is SUPPRESSED
        or 0 < _whole(count) < minimum
        or (tells_missing(query, column) and 0 < rows - _whole(count) < minimum)
    }
    of = {each.name: each.column for each in query.asked}
    return Cell(
        rows,
        {column: SUPPRESSED if column in hidden else count for column, count in cell.present.items()},
        {each: SUPPRESSED if each[0] in hidden else value for each, value in cell.moments.items()},
        {
            name: (SUPPRESSED,) * len(counts)
            if of.get(name) in hidden
            else suppressed_bins([_whole(count) for count in counts], minimum)
            for name, counts in cell.bins.items()
        },
    )


def added(cells: Sequence[Cell]) -> Cell:
    """Groups taken together, of several sites or of one total."""
    return Cell(
        add(cell.rows for cell in cells),
        {name: add(cell.present[name] for cell in cells) for name in cells[0].present},
        {name: _moments([cell.moments[name] for cell in cells]) for name in cells[0].moments},
        {
            name: tuple(add(counts) for counts in zip(*(cell.bins[name] for cell in cells), strict=True))
            for name in cells[0].bins
        },
    )


def add(counts: Iterable[Count]) -> Count:
    """Their sum; suppressed when one is."""
    whole = 0
    for count in counts:
        if isinstance(count, Suppressed):
            return SUPPRESSED
        whole += count
    return whole


def _moments(found: Sequence[Moments | Suppressed]) -> Moments | Suppressed:
    known = [each for each in found if isinstance(each, Moments)]
    if len(known) < len(found):
        return SUPPRESSED
    return Moments(math.fsum(each.total for each in known), math.fsum(each.squares for each in known))


def _whole(count: Count) -> int:
    if isinstance(count, Suppressed):
        raise TypeError("a suppressed count has no number")
    return count


def sort_key(key: Sequence[Hashable]) -> tuple[tuple[int, str, float | str], ...]:
    """Keys in order: numbers, then text, then a missing one, then a total."""
    return tuple(_rank(each) for each in key)


def _rank(each: Hashable) -> tuple[int, str, float | str]:
    if each is ALL:
        return 3, "", ""
    if each is None:
        return 2, "", ""
    if isinstance(each, int | float):
        return 0, "", float(each)
    return 1, type(each).__name__, str(each)
