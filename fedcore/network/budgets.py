"""Budgets: grams and money are charged for in the objective until what is chosen keeps them.

Each price leads to the best placement at that price, so the least price that keeps the budgets leads near the best
placement that does; it also proves a bound (Everett 1963, generalized Lagrange multipliers). The price is halved in
between around the best length of the round, then more finely with the length and the open sites held.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedcore.network.cell import chosen_offers, cut
from fedcore.network.flow import assign
from fedcore.network.found import Found, score
from fedcore.network.problem import Problem

Solve = Callable[[Problem, Found | None], Found | None]
"""The best placement of a problem without budgets, near another one or anywhere."""

COARSE, FINE, HELD = 7, 12, 3
"""Halvings near a placement, with length and sites held, and how many of those are tried."""


def within(problem: Problem, found: Found) -> bool:
    """Whether a placement keeps the budgets."""
    grams, money = problem.terms.of(found.offers, found.sites)
    return grams <= problem.grams_most * (1 + 1e-12) and money <= problem.money_most * (1 + 1e-12)


def within_budgets(problem: Problem, dear: Found, solve: Solve) -> Found | None:
    """The best placement that keeps the budgets; None when none is found.

    Args:
        dear: The best one without budgets.
        solve: Searches near a placement, or anywhere when it is given none.
    """
    search = _Prices(problem, solve)
    direction, current = (0.0, 0.0), dear
    for _ in range(2):
        grams, money = problem.terms.of(current.offers, current.sites)
        direction = (
            direction[0] or (1 / problem.grams_most if grams > problem.grams_most else 0.0),
            direction[1] or (1 / problem.money_most if money > problem.money_most else 0.0),
        )
        cheap = search.coarse(direction, dear)
        if cheap is None:
            return None
        current = cheap
        if search.best is not None:
            break
    search.fine(direction)
    return search.best


class _Prices:
    def __init__(self, problem: Problem, solve: Solve) -> None:
        self.problem, self.solve = problem, solve
        self.best: Found | None = None
        self.seen: dict[tuple[float, tuple[int, ...]], float] = {}
        self.high = 0.0

    def note(self, found: Found, price: tuple[float, float]) -> Found:
        """The placement at its own objective; kept when it is the best that keeps both budgets."""
        told = replace(score(self.problem, found.owners, found.offers, found.sites), price=price)
        if within(self.problem, told) and (self.best is None or told.objective < self.best.objective):
            self.best = told
        return told

    def keeps(self, found: Found, direction: tuple[float, float]) -> bool:
        """Whether it keeps the budgets that are charged for."""
        grams, money = self.problem.terms.of(found.offers, found.sites)
        return not (direction[0] and grams > self.problem.grams_most) and not (
            direction[1] and money > self.problem.money_most
        )

    def coarse(self, direction: tuple[float, float], dear: Found) -> Found | None:
        """The placement at about the least price that keeps what is charged for."""
        low, high = 0.0, abs(dear.objective) / 4 + 1e-9
        start, kept = dear, None
        for step in range(14):
            found = self._at(high, direction, start if step < 8 else None)
            if found is not None and self.keeps(found, direction):
                kept = found
                break
            start = found or start
            low, high = high, high * 4
        if kept is None:
            return None
        for _ in range(COARSE):
            middle = (low + high) / 2
            found = self._at(middle, direction, kept)
            if found is not None and self.keeps(found, direction):
                kept, high = found, middle
            else:
                low = middle
        self.high = high
        return kept

    def _at(self, price: float, direction: tuple[float, float], start: Found | None) -> Found | None:
        charged = (price * direction[0], price * direction[1])
        found = self.solve(self.problem.priced(*charged), start)
        if found is None:
            return None
        told = self.note(found, charged)
        self.seen[told.round_s, told.opened] = told.objective
        return told

    def fine(self, direction: tuple[float, float]) -> None:
        """Halve the price again with the length and the open sites of the most promising placements held."""
        ranked = sorted(self.seen, key=lambda key: (abs(self.seen[key] - self._aim()), key))
        for length, opened in ranked[:HELD]:
            low, high = 0.0, 8 * self.high
            for _ in range(FINE):
                middle = (low + high) / 2
                charged = (middle * direction[0], middle * direction[1])
                found = self._held(charged, length, opened)
                if found is None:
                    break
                low, high = (low, middle) if self.keeps(found, direction) else (middle, high)

    def _aim(self) -> float:
        return self.best.objective if self.best is not None else -math.inf

    def _held(self, charged: tuple[float, float], length: float, opened: tuple[int, ...]) -> Found | None:
        priced = self.problem.priced(*charged)
        cell = cut(priced, length * (1 + 1e-12))
        assigned = None if cell is None else assign(cell, opened)
        if cell is None or assigned is None:
            return None
        at = np.flatnonzero(assigned.site >= 0)
        owners, sites = cell.rows[at], assigned.site[at]
        return self.note(
            score(priced, owners, chosen_offers(priced, owners, sites, cell.round_s), sites), charged
        )
