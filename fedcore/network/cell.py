"""The placement problem once the length of the round is given: time leaves the objective, a transport problem is left.

Of the owners only the `pick` cheapest of each site are kept, besides the mandatory ones: where a dearer one stands in
a placement, one of the cheaper is free, and changing the two costs nothing and breaks nothing. So the best placement
of the whole is among those that are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedcore.network.problem import Bools, Floats, Ints, Problem


@dataclass(frozen=True, eq=False)
class Cell:
    """The problem in rounds of at most `round_s` seconds; M owners are left, of A sites some are usable.

    Args:
        round_s: Seconds.
        rows: [M], the owners' indices in the problem, rising.
        cost: [M, A], of each owner's best offer that is quick enough; infinite without one.
        capacity: [A], children of each site.
        usable: [A], of bool: it can have enough children.
        mandatory: [M], of bool.
        open_cost: [A].
        pick, children_min, most_open: As in the problem.
    """

    round_s: float
    rows: Ints
    cost: Floats
    capacity: Ints
    usable: Bools
    mandatory: Bools
    open_cost: Floats
    pick: int
    children_min: int
    most_open: int


def cut(problem: Problem, round_s: float) -> Cell | None:
    """The problem in rounds of at most so many seconds; None when too few owners are that quick."""
    allowed = np.where(problem.seconds <= round_s, problem.cost, np.inf)
    best = per_owner(problem, allowed)
    capacity = problem.capacity(round_s)
    least = problem.children_min
    usable = (capacity >= least) & (np.isfinite(best).sum(axis=0) >= least)
    best[:, ~usable] = np.inf
    reached: Bools = np.asarray(np.isfinite(best).any(axis=1))
    total = int(capacity[usable].sum())
    if reached.sum() < problem.pick or total < problem.pick or not reached[problem.mandatory].all():
        return None
    kept = problem.mandatory.copy()
    if len(kept) <= 2 * problem.pick:
        kept |= reached
    else:
        for site in np.flatnonzero(usable):
            kept |= _cheapest(best[:, site], problem.pick)
    rows = np.flatnonzero(kept)
    most = min(problem.most_open, problem.pick // least)
    return Cell(
        round_s, rows, best[rows], capacity, usable, problem.mandatory[rows],
        problem.open_cost, problem.pick, least, most,
    )  # fmt: skip


def per_owner(problem: Problem, values: Floats) -> Floats:
    """[N, A], the least of each owner's offers [F, A]; several times as quick as a `reduceat` along rows."""
    count = np.diff(np.append(problem.first, len(problem.offers)))
    best: Floats = values[problem.first]
    for step in range(1, int(count.max())):
        more = np.flatnonzero(count > step)
        best[more] = np.minimum(best[more], values[problem.first[more] + step])
    return best


def _cheapest(column: Floats, count: int) -> Bools:
    """The `count` smallest that are finite, of equal ones the first."""
    limit = np.partition(column, count - 1)[count - 1]
    if not np.isfinite(limit):
        finite: Bools = np.isfinite(column)
        return finite
    kept: Bools = column < limit
    equal = np.flatnonzero(column == limit)[: count - int(kept.sum())]
    kept[equal] = True
    return kept


def chosen_offers(problem: Problem, owners: Ints, sites: Ints, round_s: float) -> Ints:
    """The cheapest offer of each owner at its site that is quick enough, of equal ones the first."""
    ends = np.append(problem.first[1:], len(problem.offers))
    found = np.empty(len(owners), dtype=np.int64)
    for index, (owner, site) in enumerate(zip(owners.tolist(), sites.tolist(), strict=True)):
        span = slice(int(problem.first[owner]), int(ends[owner]))
        cost = np.where(problem.seconds[span, site] <= round_s, problem.cost[span, site], np.inf)
        found[index] = problem.first[owner] + int(np.argmin(cost))
    return found
