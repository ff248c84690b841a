"""A query put to sites, their answers added up, and what may be shown of the sum.

    site: answer -> (suppressed there, where its answer is seen by itself) -> sum -> suppressed in the sum -> table

A value that a site suppressed is suppressed in the sum, for the sum of the others would be wrong, and so are totals over
it. Where only the sum is seen, as under secure aggregation, sites leave small cells in and the sum alone decides.

Who learns what: the one that adds learns each site's answer, unless the sum is a secure one, and the sum before it is
suppressed; the one that reads the table learns the table. Neither is differentially private.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bound
from typing import Literal, TypeVar

from fedcore.analytics import local
from fedcore.analytics.disclosure import (
    ALL,
    MINIMUM,
    SUPPRESSED,
    Key,
    checked_minimum,
    suppressed_bins,
    to_suppress,
)
from fedcore.analytics.local import Source
from fedcore.analytics.partial import (
    Cell,
    Count,
    Moments,
    Partial,
    add,
    added,
    measure,
    merged,
    sort_key,
    suppressed,
    tells_missing,
)
from fedcore.analytics.quantile import Search
from fedcore.analytics.query import Aggregate, Query
from fedcore.analytics.table import Table, Value, with_bins
from fedcore.errors import DataError, FedcoreError, JobError

STEP = "query"
Where = Literal["site", "sum"]
T = TypeVar("T")


@dataclass(frozen=True)
class Site:
    """How a site is asked.

    Args:
        answer: Query and centres to counts and sums of its groups.
        bins: Query, column and edges per key to counts between edges per key.
    """

    answer: Callable[[Query, Mapping[str, float]], Partial]
    bins: Callable[[Query, str, Mapping[Key, Sequence[float]]], Mapping[Key, tuple[Count, ...]]]


def site(source: Source, minimum: int = MINIMUM, seen: Where = "site") -> Site:
    """A site whose data set lies here.

    Args:
        source: The data set.
        minimum: Least cell of this site.
        seen: `site` where its answer is seen by itself, `sum` where only the sum over sites is.
    """

    def answer(query: Query, centres: Mapping[str, float]) -> Partial:
        found = local.answer(query, source, minimum=minimum, centres=centres)
        return suppressed(found, query, minimum) if seen == "site" else found

    def bins(
        query: Query, column: str, edges: Mapping[Key, Sequence[float]]
    ) -> Mapping[Key, tuple[Count, ...]]:
        found = local.bins(query, source, column, edges, minimum=minimum)
        if seen == "sum":
            return found
        return {key: suppressed_bins(counts, minimum) for key, counts in found.items()}

    return Site(answer, bins)


def evaluate(query: Query, sites: Mapping[str, Site], *, minimum: int = MINIMUM) -> Table:
    """Ask and add up.

    Args:
        query: What is asked.
        sites: By name.
        minimum: Least cell of the sum.

    Raises:
        JobError: It asks for totals beside histograms of groups, or asks nothing.
        DataError: There is no site, or one cannot answer; the site is named.
        PolicyRefused: A site refuses; it is named.
    """
    checked_minimum(minimum)
    if query.margins and query.groups and any(each.statistic == "histogram" for each in query.asked):
        raise JobError(
            "totals beside histograms of groups would tell suppressed bins. Cure: ask the histogram in a query without "
            "totals",
            step=STEP,
        )
    whole = _summed(query, sites, {})
    if any(each.statistic in ("variance", "stddev") for each in query.asked):
        whole = _summed(query, sites, _centres(whole))
    cells = dict(whole.cells)
    if query.margins and query.groups:
        cells.update(_totals(cells))
    hidden = _hidden(query, whole.cells, minimum)
    found: dict[str, dict[Key, Value]] = {}
    for each in query.asked:
        mask = hidden[each.column]
        if each.statistic == "quantile":
            found[each.name] = _quantiles(query, each, cells, mask, sites, minimum)
        else:
            found[each.name] = {
                key: SUPPRESSED if key in mask else _value(each, cell, whole.centres, minimum)
                for key, cell in cells.items()
            }
    return Table(
        query.groups,
        tuple(found),
        {key: tuple(values[key] for values in found.values()) for key in sorted(cells, key=sort_key)},
        {each.name: each.edges for each in query.asked if each.edges},
        minimum,
        len(sites),
    )


def _summed(query: Query, sites: Mapping[str, Site], centres: Mapping[str, float]) -> Partial:
    answers = {name: _asked(name, bound(each.answer, query, centres)) for name, each in sites.items()}
    return merged(answers, query)


def _asked(name: str, ask: Callable[[], T]) -> T:
    try:
        return ask()
    except FedcoreError as error:
        error.party = error.party or name
        raise


def _centres(whole: Partial) -> dict[str, float]:
    """Means over all groups, where they are known."""
    made: dict[str, float] = {}
    for column in whole.centres:
        pairs = [
            (moments.total, count)
            for cell in whole.cells.values()
            for (name, _), moments in cell.moments.items()
            if name == column
            and isinstance(moments, Moments)
            and isinstance(count := cell.present[name], int)
        ]
        values = sum(count for _, count in pairs)
        made[column] = math.fsum(total for total, _ in pairs) / values if values else 0.0
    return made


def _totals(cells: Mapping[Key, Cell]) -> dict[Key, Cell]:
    groups: dict[Key, list[Cell]] = {}
    for key, cell in cells.items():
        totals: list[Key] = [(ALL,)] if len(key) == 1 else [(key[0], ALL), (ALL, key[1]), (ALL, ALL)]
        for total in totals:
            groups.setdefault(total, []).append(cell)
    return {key: added(members) for key, members in groups.items()}


def _hidden(query: Query, cells: Mapping[Key, Cell], minimum: int) -> dict[str | None, frozenset[Key]]:
    """Per column, and None for rows, the groups and totals of which nothing is told."""
    margins = query.margins and bool(query.groups)
    rows = to_suppress(
        {key: cell.rows if isinstance(cell.rows, int) else 0 for key, cell in cells.items()},
        minimum,
        margins=margins,
        unknown=[key for key, cell in cells.items() if cell.rows is SUPPRESSED],
    )
    made: dict[str | None, frozenset[Key]] = {None: rows}
    for column in {each.column for each in query.asked if each.column is not None}:
        counts = {key: cell.present[column] for key, cell in cells.items()}
        unknown = [key for key, count in counts.items() if count is SUPPRESSED]
        present = {key: count if isinstance(count, int) else 0 for key, count in counts.items()}
        mask = to_suppress(present, minimum, margins=margins, hidden=rows, unknown=unknown)
        if tells_missing(query, column):
            # Who reads both counts has a table of what is missing too; each suppresses for the other until both hold.
            missing = {
                key: cell.rows - present[key] if isinstance(cell.rows, int) and key not in unknown else 0
                for key, cell in cells.items()
            }
            while True:
                more = to_suppress(missing, minimum, margins=margins, hidden=mask, unknown=unknown)
                more = to_suppress(present, minimum, margins=margins, hidden=more, unknown=unknown)
                if more == mask:
                    break
                mask = more
        made[column] = mask
    return made


def _value(asked: Aggregate, cell: Cell, centres: Mapping[str, float], minimum: int) -> Value:
    """One statistic of one group that may be told."""
    if asked.column is None:
        return cell.rows
    if asked.statistic == "histogram":
        return _bins(cell.bins[asked.name], minimum)
    count = cell.present[asked.column]
    which = measure(asked)
    if asked.statistic == "count" or which is None or not isinstance(count, int):
        return count
    moments = cell.moments[which]
    if not isinstance(moments, Moments):
        return SUPPRESSED
    centre = centres[asked.column]
    if asked.statistic == "sum":
        return moments.total + count * centre
    if asked.statistic == "mean":
        return centre + moments.total / count if count else None
    if count < 2:
        return None
    variance = max(0.0, (moments.squares - moments.total**2 / count) / (count - 1))
    return variance if asked.statistic == "variance" else math.sqrt(variance)


def _bins(counts: Sequence[Count], minimum: int) -> Value:
    known = [count for count in counts if isinstance(count, int)]
    if len(known) == len(counts):
        return with_bins(suppressed_bins(known, minimum))
    # The site that suppressed some did so in a way that leaves room; small ones here join them in it.
    return with_bins(
        [SUPPRESSED if not isinstance(count, int) or 0 < count < minimum else count for count in counts]
    )


def _quantiles(
    query: Query,
    asked: Aggregate,
    cells: Mapping[Key, Cell],
    mask: frozenset[Key],
    sites: Mapping[str, Site],
    minimum: int,
) -> dict[Key, Value]:
    column = asked.column or ""
    found: dict[Key, Value] = {}
    open_: dict[Key, Search] = {}
    for key, cell in cells.items():
        count = cell.present[column]
        if key in mask or not isinstance(count, int):
            found[key] = SUPPRESSED
        elif count == 0:
            found[key] = None
        else:
            open_[key] = Search(asked.q or 0.5, count, minimum, asked.width)
    while open_:
        edges = {key: search.edges for key, search in open_.items()}
        answers = {name: _asked(name, bound(each.bins, query, column, edges)) for name, each in sites.items()}
        for name, each in answers.items():
            wrong = [key for key in edges if key not in each or len(each[key]) != len(edges[key]) + 1]
            if wrong:
                raise DataError(f"answers {len(wrong)} groups of {asked.name} wrongly", party=name, step=STEP)
        for key, search in list(open_.items()):
            counts = [add(each) for each in zip(*(answer[key] for answer in answers.values()), strict=True)]
            open_[key] = search.told(counts)
            if open_[key].done:
                interval = open_.pop(key).found
                # Where all but the number of values is suppressed, nothing is known of where they lie.
                bounded = interval is not None and math.isfinite(interval.width)
                found[key] = interval if bounded else SUPPRESSED
    return found
