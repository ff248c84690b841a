"""Which sites aggregate, for one length of the round: adding, dropping and swapping them, each set solved exactly.

Each neighbour of a set of open sites has a lower bound from the duals of the last flow; only those whose bound
promises something are solved.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fedcore.network.cell import Cell
from fedcore.network.flow import Assignment, assign, prices
from fedcore.network.problem import Bools, Floats

Solve = Callable[[tuple[int, ...]], Assignment | None]
"""The exact assignment of an open set."""

BEST_OF = 8
"""Neighbours of one step that are solved exactly."""

MOST_SETS = 300
"""Small sets that are tried when adding site by site leads nowhere."""

SWAPPED = 6
"""Open sites that are given up in turn when sites are swapped."""


def place_aggregators(cell: Cell, start: tuple[int, ...] = ()) -> Assignment | None:
    """The best open set that adding, dropping and swapping reaches, with its exact assignment.

    Args:
        start: Open sites to begin with, such as those of a round that is a little longer.
    """
    known: dict[tuple[int, ...], Assignment | None] = {}

    def solved(opened: tuple[int, ...], hint: Floats | None = None) -> Assignment | None:
        if opened not in known:
            known[opened] = assign(cell, opened, hint)
        return known[opened]

    current = solved(tuple(site for site in start if cell.usable[site])) or _first(cell, solved)
    if current is None:
        return None
    while True:
        _, hint = prices(cell, current)
        step = current
        for moves in (_neighbours(cell, current, hint), _swaps(cell, current, hint)):
            promising = sorted((bound, opened) for bound, opened in moves if bound < current.value)
            for bound, opened in promising[:BEST_OF]:
                if bound >= step.value:
                    break
                other = solved(opened, hint)
                if other is not None and other.value < step.value:
                    step = other
            if step is not current:
                break
        if step.value >= current.value - 1e-12 * abs(current.value):
            return current
        current = step


def _first(cell: Cell, solved: Solve) -> Assignment | None:
    """An open set that has an assignment: sites are added by what they save, a missing place counting most."""
    finite = cell.cost[np.isfinite(cell.cost)]
    if not finite.size:
        return None
    missing = 10.0 * (float(np.abs(finite).max()) + float(np.abs(cell.open_cost).max()) + 1e-9)
    cost = np.where(np.isfinite(cell.cost), cell.cost, missing)
    opened: tuple[int, ...] = ()
    best = np.full(len(cost), missing)
    tried: Assignment | None = None
    while len(opened) < cell.most_open:
        left = [site for site in np.flatnonzero(cell.usable).tolist() if site not in opened]
        if not left:
            break
        sums = (
            _cheapest_sum(np.minimum(best[:, None], cost[:, left]), cell.mandatory, cell.pick)
            + cell.open_cost[left]
        )
        room = cell.capacity[list(opened)].sum() if opened else 0
        short = np.maximum(0, cell.pick - room - cell.capacity[left])
        site = left[int(np.argmin(sums + short * missing))]
        opened = tuple(sorted((*opened, site)))
        best = np.minimum(best, cost[:, site])
        tried = solved(opened)
        if tried is not None:
            return tried
    # What saves most need not fit together; of few sites every small set is tried.
    usable = np.flatnonzero(cell.usable).tolist()
    sets = itertools.chain.from_iterable(itertools.combinations(usable, size) for size in (1, 2, 3))
    for few in itertools.islice(sets, MOST_SETS):
        tried = solved(few)
        if tried is not None:
            return tried
    return None


def _cheapest_sum(cost: Floats, mandatory: Bools, count: int) -> Floats:
    """Of each column: the mandatory rows and the cheapest others, `count` in all."""
    forced = cost[mandatory].sum(axis=0)
    rest, more = cost[~mandatory], count - int(mandatory.sum())
    if more <= 0:
        return np.asarray(forced)
    if more < len(rest):
        rest = np.partition(rest, more - 1, axis=0)[:more]
    return np.asarray(forced + rest.sum(axis=0))


_Move = tuple[float, tuple[int, ...]]


def _neighbours(cell: Cell, current: Assignment, room: Floats) -> Iterator[_Move]:
    """One site more or one less, each set with a bound below its value (of the owners that are near)."""
    near = _near(cell, current, room)
    here = list(current.opened)
    yield from near.added(here)
    for gone in here:
        kept = [site for site in here if site != gone]
        if kept and cell.capacity[kept].sum() >= cell.pick:
            yield near.bound(kept), tuple(kept)


def _swaps(cell: Cell, current: Assignment, room: Floats) -> Iterator[_Move]:
    """One site for another; of many open ones only those that are missed least are given up."""
    near = _near(cell, current, room)
    here = list(current.opened)
    kept = [[site for site in here if site != gone] for gone in here]
    ranked = sorted((near.bound(sites) if sites else math.inf, sites) for sites in kept)
    for _, sites in ranked[:SWAPPED]:
        yield from near.added(sites)


def _near(cell: Cell, current: Assignment, room: Floats) -> _Near:
    """Owners that may be chosen after one move: far more than are needed, and all where there are few."""
    paid = np.maximum(room, 0.0)
    rows = np.arange(len(cell.rows))
    if len(rows) > 3 * cell.pick and len(rows) > 1000:
        best = cell.cost.min(axis=1)
        chosen = cell.mandatory | (current.site >= 0)
        best[chosen] = -np.inf
        rows = np.sort(np.argpartition(best, 2 * cell.pick)[: 2 * cell.pick])
    return _Near(cell, cell.cost[rows], cell.mandatory[rows], paid)


@dataclass(frozen=True, eq=False)
class _Near:
    cell: Cell
    cost: Floats
    mandatory: Bools
    paid: Floats

    def fixed(self, sites: list[int]) -> float:
        """Of opening the sites, less what their room is worth."""
        return float(self.cell.open_cost[sites].sum() - (self.paid[sites] * self.cell.capacity[sites]).sum())

    def bound(self, sites: list[int]) -> float:
        """Below the value of these open sites."""
        base = (self.cost[:, sites] + self.paid[sites]).min(axis=1)
        return float(_cheapest_sum(base[:, None], self.mandatory, self.cell.pick)[0]) + self.fixed(sites)

    def added(self, sites: list[int]) -> Iterator[_Move]:
        """These sites and one more."""
        cell = self.cell
        more = [site for site in np.flatnonzero(cell.usable).tolist() if site not in sites]
        if len(sites) >= cell.most_open or not more:
            return
        base = (
            (self.cost[:, sites] + self.paid[sites]).min(axis=1) if sites else np.full(len(self.cost), np.inf)
        )
        sums = _cheapest_sum(np.minimum(base[:, None], self.cost[:, more]), self.mandatory, cell.pick)
        bounds = sums + cell.open_cost[more] + self.fixed(sites)
        space = cell.capacity[sites].sum() if sites else 0
        for site, bound in zip(more, bounds.tolist(), strict=True):
            if space + cell.capacity[site] >= cell.pick and math.isfinite(bound):
                yield bound, tuple(sorted((*sites, site)))
