"""How others choose the participants of a round, each with aggregators placed as well as ours for what it chose.

A baseline names owners and one offer of each; which sites aggregate for them is then found by fedcore's own search, so
that the comparison is of the choice alone. Whatever a baseline leaves open is tried on a grid and the best objective
on the very instance is taken, which no baseline could know beforehand. The flat star chooses as fedcore does, with
everybody at the root.

- random: any owners, any offer of theirs; five draws, their mean.
- fastest: the quickest offer of each owner, the quickest owners (as TiFL's fastest tier).
- cheapest, carbon: the offer with the lowest price or the fewest grams, the lowest first.
- Oort-like: utility * (T / t)^alpha beyond T, the upper 95 % in a random order by utility, a share of the places for
  exploring (Lai et al. 2021, Oort, algorithm 1). T, alpha, the share and the offer are on the grid, and whether the
  utility counts or is the same for all, for the objective here does not count it.
- FedCS-like: among those in time for a deadline, by the time of the upload (Nishio and Yonetani 2019, FedCS, algorithm
  3). The deadline and the offer are on the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from fedcore.network.found import Found
from fedcore.network.problem import Floats, Ints, Problem, Terms
from fedcore.network.search import Effort, search

QUANTILES = (0.1, 0.25, 0.5, 0.75)
DRAWS = 5
QUICK = Effort(3, 0, 0)


def restricted(problem: Problem, offers: Ints) -> Problem:
    """The problem in which exactly these offers take part."""
    offers = np.sort(offers)
    count = len(offers)
    terms = problem.terms
    rows = ("site_of", "grams", "money", "distrust", "utility")
    return replace(
        problem,
        owners=tuple(problem.owners[i] for i in problem.owner_of[offers]),
        offers=tuple(problem.offers[i] for i in offers),
        owner_of=np.arange(count),
        first=np.arange(count),
        seconds=problem.seconds[offers],
        cost=problem.cost[offers],
        mandatory=np.zeros(count, dtype=np.bool_),
        pick=count,
        terms=Terms(**{**terms.__dict__, **{name: getattr(terms, name)[offers] for name in rows}}),
    )


def placed(problem: Problem, offers: Ints) -> Found | None:
    """A choice of offers with the best aggregators for it."""
    size = len(offers)
    effort = None if size <= 200 else Effort(8, 2, 2)
    return search(restricted(problem, offers), effort)


def lowest(problem: Problem, value: Floats) -> Ints:
    """The offer of each owner with the least value, of equal ones the first; [N]."""
    order = np.lexsort((np.arange(len(value)), value, problem.owner_of))
    return order[problem.first]


def times(problem: Problem) -> Floats:
    """[F], seconds at the quickest aggregator."""
    return problem.seconds.min(axis=1)


def chosen(problem: Problem, value: Floats, allowed: np.ndarray | None = None) -> Ints | None:
    """The `pick` offers with the least value, one of each owner."""
    value = np.where(np.isfinite(times(problem)) & (True if allowed is None else allowed), value, np.inf)
    own = lowest(problem, value)
    own = own[np.isfinite(value[own])]
    if len(own) < problem.pick:
        return None
    return own[np.argsort(value[own], kind="stable")[: problem.pick]]


def random(problem: Problem, seed: int) -> list[Ints]:
    """Five draws."""
    draw = np.random.default_rng(seed)
    return [
        choice
        for _ in range(DRAWS)
        if (choice := chosen(problem, draw.random(len(problem.offers)))) is not None
    ]


def fastest(problem: Problem, seed: int) -> Iterator[Ints | None]:
    """By seconds."""
    yield chosen(problem, times(problem))


def cheapest(problem: Problem, seed: int) -> Iterator[Ints | None]:
    """By price."""
    yield chosen(problem, problem.terms.money)


def carbon(problem: Problem, seed: int) -> Iterator[Ints | None]:
    """By grams."""
    yield chosen(problem, problem.terms.grams)


def oort(problem: Problem, seed: int) -> Iterator[Ints | None]:
    """Over its grid."""
    seconds = times(problem)
    finite = np.isfinite(seconds)
    draw = np.random.default_rng(seed)
    noise = draw.random(len(seconds))
    for by in (seconds, problem.terms.money):
        own = lowest(problem, np.where(finite, by, np.inf))
        own = own[finite[own]]
        if len(own) < problem.pick:
            yield None
            continue
        for quantile in QUANTILES:
            limit = np.quantile(seconds[own], quantile)
            for alpha in (2.0, 5.0):
                slow = np.minimum(1.0, limit / seconds[own]) ** alpha
                for explore, utility in (
                    (0.0, problem.terms.utility[own]),
                    (0.2, problem.terms.utility[own]),
                    (0.0, 1.0),
                ):
                    worth = utility * slow
                    exploited = problem.pick - int(explore * problem.pick)
                    cut = 0.95 * np.sort(worth)[::-1][exploited - 1]
                    pool = np.flatnonzero(worth >= cut)
                    keys = noise[own[pool]] ** (1.0 / worth[pool])
                    first = pool[np.argsort(-keys, kind="stable")[:exploited]]
                    rest = np.setdiff1d(np.arange(len(own)), first)
                    more = rest[np.argsort(seconds[own[rest]], kind="stable")[: problem.pick - exploited]]
                    yield own[np.concatenate([first, more])]


def fedcs(problem: Problem, seed: int) -> Iterator[Ints | None]:
    """Over its grid."""
    seconds = times(problem)
    upload = np.array([50.0 * 8 / offer.up_mbit_s for offer in problem.offers])
    finite = np.sort(seconds[np.isfinite(seconds)])
    low = finite[min(len(finite) - 1, problem.pick - 1)]
    for factor in (1.0, 1.1, 1.25, 1.5, 2.0, 3.0):
        yield chosen(problem, upload, seconds <= low * factor)


CHOICES: dict[str, Callable[[Problem, int], Iterator[Ints | None]]] = {
    "fastest": fastest,
    "cheapest": cheapest,
    "carbon-greedy": carbon,
    "Oort-like": oort,
    "FedCS-like": fedcs,
}


def star(problem: Problem, root: str) -> Found | None:
    """Everybody at the root, chosen as well as can be."""
    if root not in problem.sites:
        return None
    seconds = np.full_like(problem.seconds, np.inf)
    at = problem.sites.index(root)
    seconds[:, at] = problem.seconds[:, at]
    cost = np.where(np.isfinite(seconds), problem.cost, np.inf)
    return search(replace(problem, seconds=seconds, cost=cost))


def _promising(problem: Problem, choices: Iterator[Ints | None]) -> list[Ints]:
    """The three choices of a grid that a short search for aggregators likes best."""
    ranked = []
    for number, choice in enumerate(choices):
        found = None if choice is None else search(restricted(problem, choice), QUICK)
        if choice is not None and found is not None:
            ranked.append((found.objective, number, choice))
    return [choice for _, _, choice in sorted(ranked, key=lambda row: row[:2])[:3]]


def judged(problem: Problem, root: str, seed: int) -> dict[str, tuple[float, Found | None]]:
    """Objective and placement of each baseline; of the random one the mean, and its best draw."""
    draws = [found for choice in random(problem, seed) if (found := placed(problem, choice)) is not None]
    told: dict[str, tuple[float, Found | None]] = {}
    values = [found.objective for found in draws]
    told["random"] = (float(np.mean(values)) if values else float("inf"), None)
    for name, choices in CHOICES.items():
        best = min(
            (
                found
                for choice in _promising(problem, choices(problem, seed))
                if (found := placed(problem, choice)) is not None
            ),
            key=lambda found: found.objective,
            default=None,
        )
        told[name] = (float("inf") if best is None else best.objective, best)
    flat = star(problem, root)
    told["flat star"] = (float("inf") if flat is None else flat.objective, flat)
    return told
