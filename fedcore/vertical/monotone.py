"""Merging fine bins of a variable, from their totals alone, so that the bad rate rises or falls throughout.

Of all merges of neighbours into at most `max_bins` bins, each with at least `least` rows, whose bad rates
strictly rise, or strictly fall, this is one with the largest information value, and among equals one with the
fewest bins. Groups of categories have no order of their own: they are brought into that of their bad rates
first.

The optimum is found by dynamic programming over the last bin of a merge. Best(b, i, j), the largest
information value of b bins over the fine bins before j of which the last starts at i, is the value of that
last bin plus the largest Best(b-1, k, i) whose last rate is below its rate: candidates k are sorted by rate
once for each (b, i), so that a merge of n fine bins takes max_bins n^2 log n steps. One bin is always
allowed.

Source: the problem is that of Navas-Palencia, "Optimal binning: mathematical programming formulation", 2020,
arXiv 2001.08025, section 2, which solves it by constraint programming.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fedcore.vertical.evidence import evidence

_EQUAL = 1e-12
"""Information values that differ by less are equal."""

Floats = npt.NDArray[np.float64]
Groups = tuple[tuple[int, ...], ...]


def merge(
    good: Sequence[int] | npt.NDArray[np.int64],
    bad: Sequence[int] | npt.NDArray[np.int64],
    goods: int,
    bads: int,
    *,
    max_bins: int,
    least: float,
    ordered: bool = True,
) -> Groups:
    """The fine bins that become one, for each bin of the best monotone merge.

    Args:
        good, bad: Rows of each class per fine bin, at least one bin.
        goods, bads: Rows of each class in all, with special and missing values.
        max_bins: Most bins.
        least: Rows that a bin must have.
        ordered: Whether only neighbours merge; otherwise any, as they are brought into the order of bad rates.

    Returns:
        Numbers of fine bins, each once, in order where they have one.
    """
    of_good, of_bad = np.asarray(good, dtype=np.int64), np.asarray(bad, dtype=np.int64)
    rows = of_good + of_bad
    place = np.arange(len(rows))
    if not ordered:
        place = np.lexsort((place, of_bad / np.maximum(rows, 1)))
    sums = [np.concatenate([[0], np.cumsum(each[place])]) for each in (of_good, of_bad)]
    between = [each[None, :] - each[:, None] for each in sums]
    count = between[0] + between[1]
    allowed = (count >= least) & np.triu(np.ones(count.shape, dtype=bool), 1)
    allowed[0, -1] = True
    of_good, of_bad = (np.where(allowed, each, 0) for each in between)
    # Equal rates of whole numbers are equal as floats.
    rate: Floats = of_bad / np.maximum(count, 1)
    value = np.where(allowed, evidence(of_good, of_bad, goods, bads)[1], -np.inf)
    rising, cuts = _rising(rate, value, max_bins)
    falling, other_cuts = _rising(-rate, value, max_bins)
    bounds = other_cuts if falling > rising + _EQUAL else cuts
    # In order inside a bin, whose bad rates would else be told one after the other.
    return tuple(tuple(sorted(int(each) for each in place[low:high])) for low, high in pairwise(bounds))


def _rising(rate: Floats, value: Floats, max_bins: int) -> tuple[float, list[int]]:
    """The largest value of a merge with rising rates, and where its bins begin, with the end.

    Args:
        rate, value: Of the fine bins from i to j - 1 as one bin, at [i, j]; the value is -inf where it may not be.
        max_bins: Most bins.
    """
    end = len(rate) - 1
    best = np.full(rate.shape, -np.inf)
    best[0] = value[0]
    reached, chosen, used = float(value[0, end]), 0, 1
    before: list[npt.NDArray[np.intp]] = []
    for bins in range(2, min(max_bins, end) + 1):
        best, came = _one_more(rate, value, best)
        if not np.isfinite(best).any():
            break
        before.append(came)
        start = int(np.argmax(best[:, end]))
        if best[start, end] > reached + _EQUAL:
            reached, chosen, used = float(best[start, end]), start, bins
    bounds = [end]
    for came in reversed(before[: used - 1]):
        bounds.insert(0, chosen)
        chosen = int(came[chosen, bounds[1]])
    return reached, [0, *bounds]


def _one_more(rate: Floats, value: Floats, best: Floats) -> tuple[Floats, npt.NDArray[np.intp]]:
    """The best values with one bin more, and the start of the bin before the last."""
    end = len(rate) - 1
    more = np.full(rate.shape, -np.inf)
    came = np.zeros(rate.shape, dtype=np.intp)
    for start in range(1, end):
        candidates = np.flatnonzero(np.isfinite(best[:start, start]))
        if not len(candidates):
            continue
        candidates = candidates[np.argsort(rate[candidates, start], kind="stable")]
        values = best[candidates, start]
        largest = np.maximum.accumulate(values)
        # The candidate at which the largest so far was reached.
        which = np.maximum.accumulate(np.where(values == largest, np.arange(len(values)), 0))
        below = np.searchsorted(rate[candidates, start], rate[start, start + 1 :], side="left") - 1
        ends = np.flatnonzero((below >= 0) & np.isfinite(value[start, start + 1 :]))
        more[start, start + 1 + ends] = value[start, start + 1 + ends] + largest[below[ends]]
        came[start, start + 1 + ends] = candidates[which[below[ends]]]
    return more, came
