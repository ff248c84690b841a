"""A query's answer out of sums with noise: the noise hides each row, so that no group is kept back for being small.

Each array of sums has noise of its own, and its entries those of one row's group only: a row changes one entry of each. Sums
are around the middle of the bounds, where a row changes them least. All that is computed from them here costs nothing more.

Shown is the noisy number itself, which is right on average, and beside it the standard error of its noise (of what is divided
or has a root taken: to first order). A mean is a noisy sum divided by a noisy count of at least 1, moved into the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fedcore.analytics.cells import Form
from fedcore.analytics.disclosure import Key
from fedcore.analytics.evaluate import totals_of
from fedcore.analytics.partial import measure, sort_key
from fedcore.analytics.quantile import Interval, NoisySearch, noisy_rounds
from fedcore.analytics.query import Aggregate, Query
from fedcore.analytics.question import Bounds
from fedcore.analytics.sums import Sums
from fedcore.analytics.table import Table, Value

REMARKS = (
    "numbers are as the noise left them: groups of any size are shown, empty ones too, and a count may be negative",
    "'noise' is the standard error of the noise alone; a mean divides a noisy sum by a noisy count",
)
_ENDS = {"min": 0.01, "max": 0.99}


def lacks(query: Query) -> str | None:
    """Why a query cannot be asked under differential privacy, and what can; None when it can."""
    seen: dict[str, tuple[float, float]] = {}
    for each in query.asked:
        if each.statistic in ("count", "histogram"):
            continue
        if each.bounds is None or each.column is None:
            return (
                f"{each.name} needs bounds of {each.column} under differential privacy, known before its rows are looked "
                f"at. Cure: clamp({each.column}, low, high) in SQL, bounds= in Python; or ask a histogram"
            )
        if measure(each) is not None and seen.setdefault(each.column, each.bounds) != each.bounds:
            return f"{each.column} has two pairs of bounds; allowed under differential privacy: one. Cure: two questions"
        if each.searched and query.margins and query.groups:
            return f"{each.name} has no totals under differential privacy. Cure: ask it without the keys too"
    return None


def rounds(query: Query) -> int:
    """That it takes."""
    return max(
        [1, *(noisy_rounds(each.bounds, each.width) for each in query.asked if each.bounds and each.searched)]
    )


def search(asked: Aggregate) -> NoisySearch:
    """The search for a quantile; the lowest and highest are those of 0.01 and 0.99."""
    q = _ENDS.get(asked.statistic, asked.q)
    return NoisySearch.begun(0.5 if q is None else q, asked.bounds or (0.0, 1.0), asked.width)


def centres(query: Query) -> dict[str, float]:
    """Per column, the middle of its bounds."""
    return {each.column: _middle(each) for each in query.asked if each.column is not None and measure(each)}


def needed(form: Form) -> dict[str, Bounds]:
    """The arrays that the answer is computed from, and what one row can add to an entry."""
    made: dict[str, Bounds] = {}
    one = Bounds(0, 1)
    if any(each.column is None for each in form.query.asked):
        made["rows"] = one
    for each in form.query.asked:
        which = measure(each)
        if each.column is not None and (each.statistic == "count" or which is not None):
            made[f"present.{form.present.index(each.column)}"] = one
        if which is not None and each.bounds is not None:
            at = form.measures.index(which)
            far = max(each.bounds[1] - _middle(each), _middle(each) - each.bounds[0])
            made[f"total.{at}"] = Bounds(each.bounds[0] - _middle(each), each.bounds[1] - _middle(each))
            if which in form.squared:
                made[f"square.{at}"] = Bounds(0, far**2)
    return made | {f"bins.{at}": one for at in range(len(form.histograms))}


def table(
    form: Form,
    sums: Sums,
    variance: Mapping[str, float],
    intervals: Mapping[str, Sequence[Interval]],
    sites: int,
    title: str,
) -> Table:
    """The answer.

    Args:
        form: Of the arrays.
        sums: That `needed` names, with noise.
        variance: Per array, of the noise in an entry.
        intervals: Per name of what was searched, for each group.
        sites: In the sum.
        title: Of the table.
    """
    query = form.query
    members: dict[Key, list[int]] = {key: [place] for key, place in form.places.items()}
    if query.margins:
        for key, place in form.places.items():
            for total in totals_of(key):
                members.setdefault(total, []).append(place)
    names: list[str] = []
    for each in query.asked:
        names += [each.name] if each.searched or each.edges else [each.name, f"{each.name} noise"]
    rows: dict[Key, tuple[Value, ...]] = {}
    for key in sorted(members, key=sort_key):
        at = members[key]
        whole = {name: value[at].sum(axis=0) for name, value in sums.items()}
        spread = {name: len(at) * each for name, each in variance.items()}
        line: list[Value] = []
        for each in query.asked:
            if each.searched:
                line.append(intervals[each.name][at[0]])
            elif each.edges:
                line.append(tuple(whole[f"bins.{form.histograms.index(each)}"].tolist()[1:-1]))
            else:
                line += _number(each, form, whole, spread)
        rows[key] = tuple(line)
    edges = {each.name: each.edges for each in query.asked if each.edges}
    bins = tuple(
        f"{each.name}: the noise in each bin of a group has a standard error of {math.sqrt(variance.get(f'bins.{at}', 0)):.4g}"
        for at, each in enumerate(form.histograms)
    )
    ends = tuple(
        f"{each.name}: the noisy quantile of {_ENDS[each.statistic]}"
        for each in query.asked
        if each.statistic in _ENDS
    )
    other: tuple[str, ...] = ()
    if query.groups and "rows" in sums:
        other = (
            f"rows in no group, for their key is none of the levels: {int(sums['rows'][-1])}, with noise",
        )
    return Table(query.groups, tuple(names), rows, edges, 1, sites, title, (*REMARKS, *bins, *ends, *other))


def _number(asked: Aggregate, form: Form, whole: Sums, spread: Mapping[str, float]) -> tuple[Value, Value]:
    """A statistic of a group, and the standard error of its noise."""
    if asked.column is None:
        return int(whole["rows"]), math.sqrt(spread.get("rows", 0.0))
    name = f"present.{form.present.index(asked.column)}"
    count, of_count = float(whole[name]), spread.get(name, 0.0)
    which = measure(asked)
    if which is None or asked.bounds is None:
        return int(whole[name]), math.sqrt(of_count)
    at, (low, high), middle = form.measures.index(which), asked.bounds, _middle(asked)
    total, of_total = float(whole[f"total.{at}"]), spread.get(f"total.{at}", 0.0)
    if asked.statistic == "sum":
        return total + count * middle, math.sqrt(of_total + middle**2 * of_count)
    if asked.statistic == "mean":
        count = max(1.0, count)
        error = math.sqrt(of_total + (total / count) ** 2 * of_count) / count
        return min(high, max(low, middle + total / count)), error
    count = max(2.0, count)
    mean = total / count
    squares, of_squares = float(whole[f"square.{at}"]), spread.get(f"square.{at}", 0.0)
    found = max(0.0, (squares - count * mean**2) / (count - 1))
    error = math.sqrt(of_squares + 4 * mean**2 * of_total + (mean**2 - found) ** 2 * of_count) / (count - 1)
    if asked.statistic == "variance":
        return found, error
    root = math.sqrt(found)
    # Where the variance is lost in its noise, so is the first order: the root of the error is the error then.
    return root, error / (2 * root) if root**2 > error else math.sqrt(error)


def _middle(asked: Aggregate) -> float:
    low, high = asked.bounds or (0.0, 0.0)
    return float(np.float64(low) / 2 + np.float64(high) / 2)
