"""Statistics of groups from counts and sums added over sites, and what of them may be shown.

A value that a site suppressed is suppressed in the sum, for the sum of the others would be wrong, and so are totals over
it. Where only the sum is seen, as under secure aggregation, sites leave small cells in and the sum alone decides.

Who learns what: the one that adds learns each site's answer, unless the sum is a secure one, and the sum before it is
suppressed; the one that reads the table learns the table. Neither is differentially private.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedcore.analytics.disclosure import ALL, SUPPRESSED, Key, suppressed_bins, to_suppress
from fedcore.analytics.partial import Cell, Count, Measure, Moments, added, measure, tells_missing
from fedcore.analytics.quantile import Search
from fedcore.analytics.query import Aggregate, Query
from fedcore.analytics.table import Value, with_bins

Hidden = Mapping[str | None, frozenset[Key]]
"""Per column, and None for rows: groups and totals of which nothing is told."""


def totals(cells: Mapping[Key, Cell]) -> dict[Key, Cell]:
    """Totals over one or two keys; `ALL` stands in the place of a key."""
    groups: dict[Key, list[Cell]] = {}
    for key, cell in cells.items():
        for total in totals_of(key):
            groups.setdefault(total, []).append(cell)
    return {key: added(members) for key, members in groups.items()}


def totals_of(key: Key) -> list[Key]:
    """The totals that a group counts in."""
    return [(ALL,)] if len(key) == 1 else [(key[0], ALL), (ALL, key[1]), (ALL, ALL)] if key else []


def hidden(query: Query, cells: Mapping[Key, Cell], minimum: int) -> Hidden:
    """What must not be told of the sum.

    Args:
        query: What is asked.
        cells: Groups over all sites, without totals.
        minimum: Least cell.
    """
    margins = query.margins and bool(query.groups)
    every = {key: cell.rows if isinstance(cell.rows, int) else 0 for key, cell in cells.items()}
    lost = [key for key, cell in cells.items() if cell.rows is SUPPRESSED]
    rows = to_suppress(every, minimum, margins=margins, unknown=lost)
    made: dict[str | None, frozenset[Key]] = {None: rows}
    for column in {each.column for each in query.asked if each.column is not None}:
        counts = {key: cell.present[column] for key, cell in cells.items()}
        unknown = [key for key, count in counts.items() if count is SUPPRESSED]
        present = {key: count if isinstance(count, int) else 0 for key, count in counts.items()}
        mask = rows
        if (present, unknown) != (every, lost):
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


def others(query: Query, other: Count, mask: Hidden, minimum: int) -> Count:
    """Rows whose key is none of the levels, as they may be told.

    With the number of all rows, which another question can tell, they would tell of a group that is suppressed. Beside
    totals they are not told: those are over the levels, and a site compares one set of groups with earlier questions.

    Args:
        query: What is asked.
        other: Such rows over all sites.
        mask: What must not be told of the groups.
        minimum: Least cell.
    """
    if other == 0:
        return 0
    apart = not mask[None] and not (query.margins and query.groups)
    return other if apart and isinstance(other, int) and other >= minimum else SUPPRESSED


def centres(query: Query, cells: Mapping[Key, Cell], mask: Hidden, minimum: int) -> dict[str, float]:
    """Around which squares are summed: per column the mean over the groups that may be told.

    Args:
        query: What is asked.
        cells: Groups over all sites, without totals; their sums are around 0.
        mask: What must not be told of them.
        minimum: Values that a mean is over, at least; 0 stands for that of fewer.
    """
    made: dict[str, float] = {}
    for each in query.asked:
        which = measure(each)
        if which is None or each.statistic not in ("variance", "stddev") or which[0] in made:
            continue
        pairs = [
            (moments.total, count)
            for key, cell in cells.items()
            if key not in mask[which[0]]
            and isinstance(moments := cell.moments[which], Moments)
            and isinstance(count := cell.present[which[0]], int)
        ]
        values = sum(count for _, count in pairs)
        made[which[0]] = math.fsum(total for total, _ in pairs) / values if values >= minimum else 0.0
    return made


def value(asked: Aggregate, cell: Cell, around: Mapping[Measure, float], minimum: int) -> Value:
    """One statistic, found without a search, of one group that may be told.

    Args:
        asked: Which.
        cell: The group over all sites.
        around: Per measure, what its sums are around; 0 for others.
        minimum: Least cell.
    """
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
    centre = around.get(which, 0.0)
    if asked.statistic == "sum":
        return moments.total + count * centre
    if asked.statistic == "mean":
        return centre + moments.total / count if count else None
    if count < 2:
        return None
    variance = max(0.0, (moments.squares - moments.total**2 / count) / (count - 1))
    return variance if asked.statistic == "variance" else math.sqrt(variance)


def search(asked: Aggregate, values: int, minimum: int) -> Search:
    """The search for a quantile, or for the values about the lowest or highest, in a group that may be told.

    Args:
        asked: Which.
        values: In the group, 1 or more.
        minimum: Least cell; the lowest and highest of fewer values are not sought.
    """
    ranks = {"min": minimum, "max": values - minimum + 1}
    q = 0.5 if asked.q is None else asked.q
    return Search(q, values, minimum, asked.width, ranks.get(asked.statistic), asked.bounds)


def interval(found: Search) -> Value:
    """What may be told of a search that is done."""
    # Where all but the number of values is suppressed, nothing is known of where they lie.
    return found.found if found.found is not None and math.isfinite(found.found.width) else SUPPRESSED


def _bins(counts: Sequence[Count], minimum: int) -> Value:
    known = [count for count in counts if isinstance(count, int)]
    if len(known) == len(counts):
        return with_bins(suppressed_bins(known, minimum))
    # The site that suppressed some did so in a way that leaves room; small ones here join them in it.
    return with_bins(
        [SUPPRESSED if not isinstance(count, int) or 0 < count < minimum else count for count in counts]
    )
