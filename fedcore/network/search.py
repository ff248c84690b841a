"""Search for the best placement: branch on the length of the round, inside it exact flows and moves of aggregators.

For one length of the round `aggregators` finds the best set of open sites. The lengths are swept densely, then refined
around the best, and at last the slowest participants are peeled off one by one. Everything is in the order of names
and nothing is drawn, so that the same problem has the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from fedcore.network.aggregators import place_aggregators
from fedcore.network.budgets import within, within_budgets
from fedcore.network.cell import Cell, chosen_offers, cut
from fedcore.network.flow import Assignment, assign
from fedcore.network.found import Found, score
from fedcore.network.problem import Problem

NEAR = (1.0, 1.1, 0.92, 1.3, 0.8)
"""Lengths around that of a placement, as its multiples."""

SWEEP = 28
"""Lengths of the round of the first sweep of a small problem; a large one has fewer."""


@dataclass
class Effort:
    """How much is tried.

    Args:
        sweep: Lengths of the first sweep.
        refine: Halvings of the step around the best.
        peel: Participants that are peeled off the slow end, at most.
    """

    sweep: int = SWEEP
    refine: int = 6
    peel: int = 40

    @classmethod
    def of(cls, problem: Problem) -> Effort:
        """What the size allows."""
        size = problem.cost.size
        if size <= 20_000:
            return cls()
        if size <= 200_000:
            return cls(16, 4, 12)
        return cls(14, 4, 8) if size <= 2_000_000 else cls(10, 3, 4)


def search(problem: Problem, effort: Effort | None = None, start: Found | None = None) -> Found | None:
    """The best placement that is found; None when none is.

    Args:
        problem: With or without budgets.
        effort: How much to try; by the size when it is left out.
        start: A placement to begin from, such as the one that is running.
    """
    effort = effort or Effort.of(problem)
    found = _Sweep(problem.priced(0.0, 0.0) if problem.budgets else problem, effort).run(start)
    if found is None or not problem.budgets or within(problem, found):
        return found

    def solve(priced: Problem, near: Found | None) -> Found | None:
        return _Sweep(priced, effort).run(near) if near is None else _Sweep(priced, effort).near(near)

    return within_budgets(problem, found, solve)


@dataclass
class _Sweep:
    problem: Problem
    effort: Effort
    best: Found | None = None
    opened: dict[float, tuple[int, ...]] = field(default_factory=dict)
    tried: dict[float, float] = field(default_factory=dict)
    loosest: float = math.inf
    low: float = 0.0

    def run(self, start: Found | None) -> Found | None:
        low, high = shortest(self.problem), longest(self.problem)
        if low is None or high < low:
            return None
        self.low = low
        loosest = cut(self.problem, high)
        if loosest is None:
            return None
        self.loosest = lower(loosest)
        if start is not None:
            self.opened[start.round_s] = start.opened
            self._try(max(low, min(high, start.round_s)))
        self._try(high)
        for length in np.geomspace(low, high, self.effort.sweep)[::-1].tolist():
            self._try(length)
        for _ in range(self.effort.refine):
            before = None if self.best is None else self.best.objective
            for length in self._around():
                self._try(length)
            if (
                self.best is not None
                and before is not None
                and before - self.best.objective < 1e-7 * abs(before)
            ):
                break
        self._peel()
        return self.best

    def near(self, start: Found) -> Found | None:
        """The best of a few lengths around that of a placement."""
        low, high = shortest(self.problem), longest(self.problem)
        if low is None or high < low:
            return None
        self.low, self.loosest = low, -math.inf
        self.opened[start.round_s] = start.opened
        for factor in NEAR:
            self._try(max(low, min(high, start.round_s * factor)))
        return self.best

    def _around(self) -> Iterator[float]:
        """Lengths half-way from those with the best values to the next that were tried."""
        ranked = sorted(self.tried, key=lambda length: (self.tried[length], length))[:2]
        lengths = sorted(self.tried)
        for best in ranked:
            at = lengths.index(best)
            for other in lengths[max(0, at - 1) : at + 2]:
                middle = math.sqrt(best * other)
                if other != best and abs(other / best - 1) > 2e-4 and middle not in self.tried:
                    yield middle

    def _try(self, length: float) -> None:
        if self.best is not None and self.problem.time_weight * length + self.loosest >= self.best.objective:
            self.tried.setdefault(length, math.inf)
            return
        if length in self.tried:
            return
        self.tried[length] = math.inf
        cell = cut(self.problem, length)
        if cell is None:
            return
        if self.best is not None and self.problem.time_weight * self.low + lower(cell) >= self.best.objective:
            return
        nearest = min(self.opened, key=lambda other: (abs(math.log(other / length)), other), default=None)
        found = place_aggregators(cell, () if nearest is None else self.opened[nearest])
        if found is not None:
            self.opened[length] = found.opened
            self.tried[length] = self._note(cell, found)

    def _note(self, cell: Cell, found: Assignment) -> float:
        at = np.flatnonzero(found.site >= 0)
        owners, sites = cell.rows[at], found.site[at]
        offers = chosen_offers(self.problem, owners, sites, cell.round_s)
        told = score(self.problem, owners, offers, sites)
        if self.best is None or told.objective < self.best.objective:
            self.best = told
        return told.objective

    def _peel(self) -> None:
        """Ask for a round that is just shorter than the best one, as long as that pays."""
        current = self.best
        for _ in range(self.effort.peel):
            if current is None:
                return
            cell = cut(self.problem, math.nextafter(current.round_s, 0) * (1 - 1e-12))
            found = None if cell is None else assign(cell, current.opened)
            if cell is None or found is None:
                return
            at = np.flatnonzero(found.site >= 0)
            owners, sites = cell.rows[at], found.site[at]
            told = score(
                self.problem, owners, chosen_offers(self.problem, owners, sites, cell.round_s), sites
            )
            better = self.best is None or told.objective < self.best.objective
            if (
                not better
                and self.best is not None
                and told.objective > self.best.objective * (1 + 1e-3) + 1e-12
            ):
                return
            if better:
                self.best = told
            current = told


def shortest(problem: Problem) -> float | None:
    """Seconds below which no placement can be: enough owners must be in time and have room; None without any."""
    quickest = np.minimum.reduceat(problem.seconds.min(axis=1), problem.first)
    finite = np.sort(quickest[np.isfinite(quickest)])
    if len(finite) < problem.pick or not np.isfinite(quickest[problem.mandatory]).all():
        return None
    low = float(max(finite[problem.pick - 1], quickest[problem.mandatory].max(initial=0.0)))
    steps = (
        np.unique(np.outer(np.arange(1, problem.pick + 1), problem.intake_s)) if problem.pick <= 200 else None
    )
    if problem.capacity(low).sum() >= problem.pick:
        return low
    if steps is not None:
        return next(
            (float(step) for step in steps if step > low and problem.capacity(step).sum() >= problem.pick),
            None,
        )
    high = float(problem.pick * problem.intake_s.min())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if problem.capacity(middle).sum() >= problem.pick else (middle, high)
    return high


def longest(problem: Problem) -> float:
    """Seconds beyond which a longer round allows nothing more."""
    finite = problem.seconds[np.isfinite(problem.seconds)]
    slowest = max(float(finite.max(initial=0.0)), float(problem.pick * problem.intake_s.max(initial=0.0)))
    return min(problem.deadline, slowest)


def lower(cell: Cell) -> float:
    """A bound below the objective without time: everybody at the cheapest site, without limits of room."""
    best = cell.cost.min(axis=1)
    forced = math.fsum(best[cell.mandatory])
    rest = np.sort(best[~cell.mandatory & np.isfinite(best)])[: cell.pick - int(cell.mandatory.sum())]
    return float(forced + rest.sum() + np.sort(cell.open_cost[cell.usable])[:1].sum())
