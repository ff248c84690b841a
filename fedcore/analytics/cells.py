"""Groups of a query as arrays whose form follows from the query and the levels of its keys, as sums over sites need it.

    rows        (K,) rows of each group; the last entry counts the rows whose key is none of the levels, where there are keys
    present.i   (K,) of the i-th column that is asked: values that are not missing
    total.j     (K,) of the j-th measure: sum of the distances from a centre; square.j of their squares
    bins.n      (K, b + 2) of the n-th aggregate, a histogram: values below its first edge, in its bins, above its last edge

Counts are int64, sums float64. What a site may not tell is set to 1 where it is a count, which is below any least cell and
so is kept back on its way out, and to 0 where it is a sum that goes with such a count.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import product
from typing import Any, Final, final

import numpy as np

from fedcore.analytics.columns import Column, Kind, fits
from fedcore.analytics.disclosure import SUPPRESSED, Key
from fedcore.analytics.partial import Cell, Count, Measure, Moments, measure
from fedcore.analytics.query import Query
from fedcore.analytics.question import STEP, Total
from fedcore.analytics.sums import Sums
from fedcore.errors import JobError

MOST_GROUPS = 10_000
MOST_WITH_TOTALS = 2_000
"""Fewer where there are totals: what else must be suppressed for them takes time that grows faster than the groups."""
_KEPT_BACK = 1


@final
@dataclass(frozen=True)
class Other:
    """In the place of a key: rows whose key is none of the levels."""

    def __repr__(self) -> str:
        return "no group"


OTHER: Final = Other()


def keys_of(
    query: Query, columns: Mapping[str, Column], levels: Mapping[str, Sequence[Hashable]]
) -> tuple[Key, ...]:
    """The groups that a query may have: each level of each key, and a missing one.

    Args:
        query: Whose groups.
        columns: Of the data set.
        levels: By column, as JSON has them; a day is text. Those of a flag need not be there.

    Raises:
        JobError: Levels of a key are not known, are of another kind, or there are too many groups.
    """
    of = []
    for name in query.groups:
        kind = columns[name].kind
        known = levels.get(name) or ((False, True) if kind == "flag" else ())
        if not known:
            raise JobError(
                f"which values {name} has must be known before groups by it are summed. Cure: declare `levels` for it in "
                "the participants' catalogue or in the job, or ask under differential privacy with private_keys",
                step=STEP,
            )
        wrong = [each for each in known if not (isinstance(each, int | float | str) and fits(each, kind))]
        if wrong:
            raise JobError(
                f"levels of {name}: {wrong[0]!r:.60}; allowed: {kind}, as the column holds", step=STEP
            )
        of.append((*dict.fromkeys(_native(each, kind) for each in known), None))
    groups = int(np.prod([len(each) for each in of], dtype=object)) if of else 1
    most = MOST_WITH_TOTALS if query.margins and query.groups else MOST_GROUPS
    if groups > most:
        raise JobError(
            f"{' and '.join(query.groups)} make {groups} groups; allowed: {MOST_GROUPS}, and {MOST_WITH_TOTALS} with totals. Cure: "
            "group by coarser columns",
            step=STEP,
        )
    return tuple(product(*of))


class Form:
    """Which arrays stand for the groups of a query.

    Args:
        query: What is asked of the groups.
        keys: Of the groups, in order.

    Attributes:
        present: Columns that are asked.
        measures: Of the sums.
        squared: Those whose squares are summed.
        histograms: The aggregates that count bins.
    """

    def __init__(self, query: Query, keys: tuple[Key, ...]) -> None:
        self.query, self.keys = query, keys
        self.places = {key: place for place, key in enumerate(keys)}
        self.size = len(keys) + bool(query.groups)
        self.present = list(dict.fromkeys(each.column for each in query.asked if each.column is not None))
        found = {each: measure(each) for each in query.asked}
        self.measures = list(dict.fromkeys(each for each in found.values() if each is not None))
        self.squared = {
            which
            for each, which in found.items()
            if which is not None and each.statistic in ("variance", "stddev")
        }
        self.histograms = [each for each in query.asked if each.statistic == "histogram"]

    @property
    def cells(self) -> dict[str, tuple[str, ...]]:
        """Arrays of counts of which each entry is a cell, and the arrays that go with it."""
        made: dict[str, tuple[str, ...]] = {}
        for at, column in enumerate(self.present):
            sums = [f"total.{n}" for n, each in enumerate(self.measures) if each[0] == column]
            squares = [
                f"square.{n}"
                for n, each in enumerate(self.measures)
                if each[0] == column and each in self.squared
            ]
            bins = [f"bins.{n}" for n, each in enumerate(self.histograms) if each.column == column]
            made[f"present.{at}"] = (*sums, *squares, *bins)
        every = tuple(name for follow in made.items() for name in (follow[0], *follow[1]))
        return {"rows": every, **made, **{f"bins.{n}": () for n in range(len(self.histograms))}}

    def zeros(self) -> Sums:
        """The arrays of a site without rows."""
        made: Sums = {}
        for name in dict.fromkeys(name for first, follow in self.cells.items() for name in (first, *follow)):
            word, _, at = name.partition(".")
            bins = (len(self.histograms[int(at)].edges) + 1,) if word == "bins" else ()
            made[name] = np.zeros((self.size, *bins), np.float64 if word in ("total", "square") else np.int64)
        return made

    def sums(self, cells: Mapping[Key, Cell]) -> Sums:
        """The arrays of a site.

        Args:
            cells: Its groups, also those whose keys are none of the levels.
        """
        made = self.zeros()
        for key, cell in cells.items():
            place = self.places.get(key)
            if place is None:
                made["rows"][-1] += _count(cell.rows)
                continue
            made["rows"][place] = _count(cell.rows)
            for at, column in enumerate(self.present):
                made[f"present.{at}"][place] = _count(cell.present[column])
            for at, which in enumerate(self.measures):
                moments = cell.moments[which]
                if isinstance(moments, Moments):
                    made[f"total.{at}"][place] = moments.total
                    if which in self.squared:
                        made[f"square.{at}"][place] = moments.squares
            for at, each in enumerate(self.histograms):
                made[f"bins.{at}"][place] = [_count(count) for count in cell.bins[each.name]]
        return made

    def read(self, total: Total) -> dict[Key, Cell]:
        """The groups over all sites; what a site kept back is suppressed. Of keys, those without rows are left out."""
        told = {name: masked(total, name) for name in self.zeros()}
        made: dict[Key, Cell] = {}
        for key, place in self.places.items():
            rows = told["rows"][place]
            if self.query.groups and isinstance(rows, int) and rows == 0:
                continue
            moments: dict[Measure, Any] = {}
            for at, which in enumerate(self.measures):
                sums = told[f"total.{at}"][place]
                squares = told[f"square.{at}"][place] if which in self.squared else 0.0
                lost = sums is SUPPRESSED or squares is SUPPRESSED
                moments[which] = SUPPRESSED if lost else Moments(sums, squares)
            made[key] = Cell(
                rows,
                {column: told[f"present.{at}"][place] for at, column in enumerate(self.present)},
                moments,
                {each.name: tuple(told[f"bins.{at}"][place]) for at, each in enumerate(self.histograms)},
            )
        return made

    def other(self, total: Total) -> Count:
        """Rows whose key is none of the levels."""
        found: Count = masked(total, "rows")[-1] if self.query.groups else 0
        return found


def kept_back(counts: Sequence[Count]) -> list[int]:
    """Counts as a site hands them on; those that it may not tell are such as are kept back."""
    return [_count(count) for count in counts]


def _count(count: Count) -> int:
    return count if isinstance(count, int) else _KEPT_BACK


def masked(total: Total, name: str) -> list[Any]:
    """An array as lists, suppressed where a site kept an entry back."""
    values = total.sums[name]
    hidden = total.hidden.get(name)
    if hidden is None or not hidden.any():
        return values.tolist()  # type: ignore[no-any-return]
    made = values.astype(object)
    made[np.broadcast_to(hidden, values.shape)] = SUPPRESSED
    return made.tolist()  # type: ignore[no-any-return]


def _native(level: Any, kind: Kind) -> Hashable:
    """A level as the site's database gives it."""
    made: Hashable = {"date": date.fromisoformat, "time": datetime.fromisoformat}.get(
        kind, lambda same: same
    )(level)
    return made
