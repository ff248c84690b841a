"""Random placements: what the terms of the objective are divided by, and what a plan is compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fedcore.network.problem import Ints, Problem


@dataclass(frozen=True)
class Scale:
    """What each term is divided by: its mean over random placements.

    Args:
        round_s, grams, money: Of a round.
        latency_ms, distrust, utility: Mean over the participants of a round.
    """

    round_s: float = 1.0
    grams: float = 1.0
    money: float = 1.0
    latency_ms: float = 1.0
    distrust: float = 1.0
    utility: float = 1.0


def random_choice(problem: Problem, generator: np.random.Generator) -> tuple[Ints, Ints]:
    """A placement that nobody thought about: any owners, any offers of theirs, each at the quickest of some sites.

    Budgets, the deadline and the fewest children are not looked at, so that there always is one.

    Returns:
        Offers and sites as indices, [pick] each.
    """
    count = min(problem.pick, len(problem.owners))
    owners = np.sort(generator.choice(len(problem.owners), count, replace=False))
    ends = np.append(problem.first[1:], len(problem.offers))
    offers = (
        problem.first + np.floor(generator.random(len(ends)) * (ends - problem.first)).astype(np.int64)
    )[owners]
    most = max(1, min(len(problem.sites), problem.most_open, count // problem.children_min))
    opened = np.sort(
        generator.choice(len(problem.sites), int(generator.integers(1, most + 1)), replace=False)
    )
    seconds = problem.seconds[offers]
    nearest = opened[np.argmin(seconds[:, opened], axis=1)]
    reached = np.isfinite(seconds[np.arange(count), nearest])
    return offers, np.where(reached, nearest, np.argmin(seconds, axis=1))


def round_seconds(problem: Problem, offers: Ints, sites: Ints) -> float:
    """How long a round of a placement takes."""
    slowest = problem.seconds[offers, sites].max(initial=0.0)
    children = np.bincount(sites, minlength=len(problem.sites))
    return float(max(slowest, (children * problem.intake_s).max(initial=0.0)))


def random_scale(problem: Problem, samples: int, generator: np.random.Generator) -> Scale:
    """The mean of each term over random placements; one where it is zero, infinite or has no meaning."""
    rows = []
    for _ in range(samples):
        offers, sites = random_choice(problem, generator)
        grams, money = problem.terms.of(offers, sites)
        ms = problem.terms.path_ms[problem.terms.site_of[offers], sites]
        finite = np.isfinite(problem.seconds[offers, sites])
        round_s = round_seconds(problem, offers[finite], sites[finite])
        distrust, utility = problem.terms.distrust[offers].mean(), problem.terms.utility[offers].mean()
        near = ms[np.isfinite(ms)]
        rows.append((round_s, grams, money, near.mean() if near.size else 0.0, distrust, utility))
    means = np.mean(rows, axis=0)
    return Scale(*(float(value) if value > 0 and math.isfinite(value) else 1.0 for value in means))
