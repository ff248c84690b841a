"""A placement in indices, and what it is worth to the problem's own arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedcore.network.problem import Ints, Problem
from fedcore.network.reference import round_seconds


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


def score(problem: Problem, owners: Ints, offers: Ints, sites: Ints) -> Found:
    """A placement with its objective, as the problem's arrays have it."""
    length = round_seconds(problem, offers, sites)
    parts = [*problem.cost[offers, sites].tolist(), *problem.open_cost[np.unique(sites)].tolist()]
    return Found(problem.time_weight * length + math.fsum(parts), length, owners, offers, sites)
