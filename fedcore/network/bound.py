"""How good a placement is at least: a bound below every placement, from a sweep over the length of the round.

Of all rounds between a and b seconds, none is worth less than time_weight * a plus the least that the rest can be with
everything allowed that b seconds allow. From the longest round downwards each interval is made just as long as its
bound allows: first by prices alone, where these do not reach by HiGHS on what the prices leave over.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from fedcore.network.aggregators import place_aggregators
from fedcore.network.cell import Cell, chosen_offers, cut
from fedcore.network.dual import Dual, ascend, from_flow, worthwhile
from fedcore.network.flow import assign
from fedcore.network.found import Found, score
from fedcore.network.milp import solve_cell
from fedcore.network.problem import Floats, Problem
from fedcore.network.search import longest, shortest

MOST_PAIRS = 30_000
"""Pairs of owner and site up to which HiGHS is asked."""


@dataclass(frozen=True, eq=False)
class Proof:
    """A bound and how it came about.

    Args:
        bound: Below the objective of every placement.
        method: `prices`, or `prices and HiGHS`.
        cells: Intervals of the round's length.
        programs: Of them, those that went to HiGHS.
        found: A better placement that turned up on the way; none as a rule.
    """

    bound: float
    method: str
    cells: int
    programs: int
    found: Found | None = None


def prove(problem: Problem, found: Found, tolerance: float, seconds: float = 60.0) -> Proof:
    """A bound that is `tolerance` below the placement if the time allows, and as good as it gets if not.

    Args:
        found: A placement, which the bound is to be close to.
        tolerance: In the objective.
        seconds: At most, roughly: the last program may take a little longer.
    """
    free = problem.priced(*found.price) if problem.budgets else problem
    given = found.price[0] * _finite(problem.grams_most) + found.price[1] * _finite(problem.money_most)
    # Charging for the budgets moves the objective; the same placement is compared with itself.
    best = score(free, found.owners, found.offers, found.sites) if problem.budgets else found
    sweep = _Descent(free, best, max(tolerance * 0.95, 1e-9), time.perf_counter() + seconds)
    told = sweep.run()
    better = None
    if not problem.budgets and sweep.best.objective < found.objective:
        better = sweep.best
    return Proof(told - given, sweep.method, sweep.cells, sweep.programs, better)


def _finite(budget: float) -> float:
    return budget if math.isfinite(budget) else 0.0


@dataclass
class _Descent:
    problem: Problem
    best: Found
    tolerance: float
    until: float
    cells: int = 0
    programs: int = 0

    @property
    def method(self) -> str:
        return "prices and HiGHS" if self.programs else "prices"

    def run(self) -> float:
        low = shortest(self.problem)
        if low is None:
            return self.best.objective
        if self.problem.time_weight == 0:
            return min(self.best.objective, self._below(longest(self.problem), math.inf))
        high = longest(self.problem)
        proven = math.inf
        while True:
            goal = self.best.objective - self.tolerance
            # With everything that `high` seconds allow, reaching this would close the interval down to `low`.
            wanted = goal - self.problem.time_weight * low
            value = self._below(high, wanted)
            reach = (goal - value) / self.problem.time_weight
            if reach <= low:
                return min(proven, self.best.objective, self.problem.time_weight * low + value)
            step = max(self.tolerance / self.problem.time_weight, 1e-4 * high)
            if reach >= high - step / 4:
                reach = max(low, high - step)
            proven = min(proven, self.problem.time_weight * reach + value)
            if reach <= low:
                return min(proven, self.best.objective)
            high = math.nextafter(reach, 0)
            if time.perf_counter() > self.until:
                return min(proven, self.problem.time_weight * low + self._quick(high))

    def _quick(self, length: float) -> float:
        """A bound for what the time did not suffice for: the prices where they begin, without another step."""
        cell = cut(self.problem, length)
        if cell is None:
            return math.inf
        start = self._start(cell)
        return ascend(cell, start[0], start[1], math.inf, steps=30).bound

    def _start(self, cell: Cell) -> tuple[Floats, float]:
        usable = tuple(site for site in self.best.opened if cell.usable[site])
        found = assign(cell, usable) or place_aggregators(cell)
        if found is None:
            finite = cell.cost[np.isfinite(cell.cost)]
            return np.zeros(len(cell.rows)), float(np.median(finite))
        if self.cells % 4 == 0 or cell.cost.size <= 100_000:
            found = place_aggregators(cell, found.opened) or found
        self._note(cell, found.site)
        return from_flow(cell, found)

    def _note(self, cell: Cell, site: np.ndarray) -> None:
        at = np.flatnonzero(site >= 0)
        owners, sites = cell.rows[at], site[at]
        told = score(self.problem, owners, chosen_offers(self.problem, owners, sites, cell.round_s), sites)
        if told.objective < self.best.objective - 1e-12:
            self.best = told

    def _below(self, length: float, wanted: float) -> float:
        """A bound below the objective without time in rounds of at most this length."""
        cell = cut(self.problem, length)
        self.cells += 1
        if cell is None:
            return math.inf
        owner, worth = self._start(cell)
        # Enough is what makes the next interval a good deal longer than the tolerance; more is not looked for.
        enough = self.best.objective - self.problem.time_weight * length
        goal = min(wanted, enough - 0.2 * self.tolerance) if math.isfinite(wanted) else enough
        dual = ascend(cell, owner, worth, min(wanted, enough) if self.problem.time_weight else enough)
        if dual.bound >= goal or cell.cost.size > MOST_PAIRS:
            return dual.bound
        return max(dual.bound, self._program(cell, dual, wanted))

    def _program(self, cell: Cell, dual: Dual, wanted: float) -> float:
        left = self.until - time.perf_counter()
        if left <= 0:
            return dual.bound
        limit = self.best.objective - self.problem.time_weight * max(0.0, cell.round_s - 3 * self._step())
        limit = max(min(limit, wanted), dual.bound)
        pairs, must = worthwhile(cell, dual, limit)
        self.programs += 1
        solved = solve_cell(cell, pairs, must, min(left, 20.0), gap=self._relative(limit))
        if solved.opened:
            found = assign(cell, solved.opened)
            if found is not None:
                self._note(cell, found.site)
        return min(limit, solved.bound)

    def _step(self) -> float:
        return self.tolerance / self.problem.time_weight if self.problem.time_weight else 0.0

    def _relative(self, limit: float) -> float:
        return min(0.01, 0.1 * self.tolerance / max(abs(limit), 1e-9))
