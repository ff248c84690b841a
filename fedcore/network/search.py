"""Search for the best placement: branch on the length of the round, inside it exact flows and moves of aggregators.

For one length of the round `aggregators` finds the best set of open sites. The lengths are swept densely, then refined
around the best, and at last the slowest participants are peeled off one by one. Everything is in the order of names
and nothing is drawn, so that the same problem has the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from fedcore.network.aggregators import place_aggregators
from fedcore.network.cell import Cell, chosen_offers, cut
from fedcore.network.flow import Assignment, assign
from fedcore.network.problem import Ints, Problem
from fedcore.network.reference import round_seconds

SWEEP = 28
"""Lengths of the round of the first sweep of a small problem; a large one has fewer."""


@dataclass(frozen=True, eq=False)
class Found:
    """A placement in indices.

    Args:
        objective: Of the problem, with the round as long as it is.
        round_s: Seconds.
        owners, offers, sites: [pick], by owner.
        price: Of a gram and of a unit of money, at which the budgets were kept; for the bound.
    """

    objective: float
    round_s: float
    owners: Ints
    offers: Ints
    sites: Ints
    price: tuple[float, float] = (0.0, 0.0)

    @property
    def opened(self) -> tuple[int, ...]:
        """The open sites, rising."""
        return tuple(np.unique(self.sites).tolist())


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
    if found is None or not problem.budgets or _within(problem, found):
        return found
    return _within_budgets(problem, effort, found)


def score(problem: Problem, owners: Ints, offers: Ints, sites: Ints) -> Found:
    """A placement with its objective, as the problem's arrays have it."""
    length = round_seconds(problem, offers, sites)
    parts = [*problem.cost[offers, sites].tolist(), *problem.open_cost[np.unique(sites)].tolist()]
    return Found(problem.time_weight * length + math.fsum(parts), length, owners, offers, sites)


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


def _within(problem: Problem, found: Found) -> bool:
    grams, money = problem.terms.of(found.offers, found.sites)
    return grams <= problem.grams_most * (1 + 1e-12) and money <= problem.money_most * (1 + 1e-12)


def _within_budgets(problem: Problem, effort: Effort, dear: Found) -> Found | None:
    """The best within the budgets that prices on grams and money lead to: each price is raised until its budget holds."""
    less = replace(effort, sweep=max(6, effort.sweep // 2), refine=max(2, effort.refine // 2))
    best: Found | None = None

    def tried(grams_price: float, money_price: float) -> Found | None:
        nonlocal best
        found = _Sweep(problem.priced(grams_price, money_price), less).run(None)
        if found is None:
            return None
        told = score(problem, found.owners, found.offers, found.sites)
        if _within(problem, told) and (best is None or told.objective < best.objective):
            best = replace(told, price=(grams_price, money_price))
        return told

    unit = abs(dear.objective) + 1e-9
    grams, money = problem.terms.of(dear.offers, dear.sites)
    price = [0.0, 0.0]
    most = (problem.grams_most, problem.money_most)
    for _ in range(2):
        for which, used in ((0, grams), (1, money)):
            if not math.isfinite(most[which]):
                continue
            low, high = 0.0, unit / max(used, 1e-12) / 8

            def spent(value: float, which: int = which) -> float:
                price[which] = value
                found = tried(price[0], price[1])
                return math.inf if found is None else problem.terms.of(found.offers, found.sites)[which]

            if spent(low) <= most[which]:
                continue
            for _ in range(14):
                if spent(high) <= most[which]:
                    break
                low, high = high, high * 4
            for _ in range(10):
                middle = (low + high) / 2
                low, high = (low, middle) if spent(middle) <= most[which] else (middle, high)
            price[which] = high
    return best
