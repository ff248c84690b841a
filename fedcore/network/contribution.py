"""Who contributed how much to a model: Shapley values of rounds, exact for few participants, sampled for many.

A participant's value in a round is its mean marginal gain over all orders in which the round's participants could have
joined. GTG-Shapley samples orders, each participant being first equally often, and leaves out what cannot matter: a round
that changed nothing, and the rest of an order once its utility has come close to that of all.

Needed is the utility of what any subset of participants would have made of the round, so the coordinator must have each
one's update. Under secure aggregation it has not, by design, and contributions cannot be known; `by_usage` then says
what else a gain can be split by.

Source: Liu, Chen, Yu, Liu, Cui, GTG-Shapley, ACM TIST 13(4), 2022, algorithm 1 and section 4; Shapley 1953.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError

Utility = Callable[[frozenset[str]], float]
"""Of a subset of a round's participants; of the empty one: before the round. More is better."""
Arrays = Mapping[str, npt.NDArray[Any]]

MOST_EXACT = 16
"""Participants of whom all subsets are looked at: 65,536."""


@dataclass(frozen=True)
class Sampling:
    """When GTG-Shapley stops and what it leaves out.

    Args:
        between: A round whose utility changes by no more than this gives nothing to anybody.
        within: Once an order's utility is within this of that of all, the rest of the order adds nothing.
        least: Orders at least; 30, or as many as there are participants, when None.
        most: Orders at most.
        last: Means that are compared to tell whether the values have settled.
        settled: Largest mean relative difference of the last means.
    """

    between: float = 1e-3
    within: float = 1e-3
    least: int | None = None
    most: int = 10_000
    last: int = 10
    settled: float = 0.05


@dataclass(frozen=True)
class Contribution:
    """What came out.

    Args:
        values: Per participant, in units of the utility; negative for one that did harm.
        evaluated: Subsets whose utility was computed.
        orders: That were sampled.
        rounds_skipped: Rounds without a gain to split.
        how: `shapley`, `gtg-shapley` or `usage`.
        why: For `usage`, why not otherwise.
    """

    values: dict[str, float]
    evaluated: int = 0
    orders: int = 0
    rounds_skipped: int = 0
    how: str = "gtg-shapley"
    why: str = field(default="")


def exact_shapley(names: Iterable[str], utility: Utility) -> Contribution:
    """Shapley values of one round, from the utility of every subset.

    Args:
        names: Participants, at most 16.
        utility: Of a subset.

    Raises:
        DataError: Too many participants, or a utility that is no number.
    """
    players = _players(names)
    n = len(players)
    if n > MOST_EXACT:
        raise DataError(
            f"{n} participants have {2**n} subsets; allowed: {MOST_EXACT}. Cure: gtg_shapley, which samples",
            step="bill",
        )
    known = _Known(utility)
    values = dict.fromkeys(players, 0.0)
    for player in players:
        rest = [each for each in players if each != player]
        terms = []
        for size in range(n):
            weight = 1.0 / (n * math.comb(n - 1, size))
            for subset in itertools.combinations(rest, size):
                without = frozenset(subset)
                terms.append(weight * (known(without | {player}) - known(without)))
        values[player] = math.fsum(terms)
    return Contribution(values, known.evaluated, how="shapley")


def gtg_shapley(
    rounds: Iterable[tuple[Iterable[str], Utility]],
    rng: np.random.Generator,
    sampling: Sampling = Sampling(),
) -> Contribution:
    """Shapley values summed over the rounds of a run, by guided sampling with truncation.

    Args:
        rounds: Of each round its participants and its utility.
        rng: Orders are drawn from it, the same for the same participants in whatever order they are named.
        sampling: When to stop.

    Raises:
        DataError: A utility is no number.
    """
    values: dict[str, list[float]] = {}
    evaluated = orders = skipped = 0
    for names, utility in rounds:
        players = _players(names)
        found = _one_round(players, utility, rng, sampling)
        for player in players:
            values.setdefault(player, []).append(found.values[player])
        evaluated, orders, skipped = (
            evaluated + found.evaluated,
            orders + found.orders,
            skipped + found.rounds_skipped,
        )
    return Contribution(
        {player: math.fsum(terms) for player, terms in sorted(values.items())}, evaluated, orders, skipped
    )


def _one_round(
    players: Sequence[str], utility: Utility, rng: np.random.Generator, sampling: Sampling
) -> Contribution:
    known = _Known(utility)
    nobody, everybody = known(frozenset()), known(frozenset(players))
    nothing = dict.fromkeys(players, 0.0)
    if not players or abs(everybody - nobody) <= sampling.between:
        return Contribution(nothing, known.evaluated, rounds_skipped=1)
    n = len(players)
    least = max(30, n) if sampling.least is None else sampling.least
    total = np.zeros(n)
    means: list[npt.NDArray[np.float64]] = []
    while len(means) < sampling.most:
        # A whole pass, in which each is first once: stopping inside of it would favour those who were.
        for first in range(n):
            rest = [i for i in range(n) if i != first]
            order = [first, *(rest[i] for i in rng.permutation(n - 1))]
            total += _marginals(order, players, known, nobody, everybody, sampling.within)
            means.append(total / (len(means) + 1))
        if len(means) >= max(least, sampling.last) and _settled(means, sampling):
            break
    mean = means[-1]
    return Contribution(
        {player: float(value) for player, value in zip(players, mean, strict=True)},
        known.evaluated,
        len(means),
    )


def _marginals(
    order: Sequence[int],
    players: Sequence[str],
    known: _Known,
    nobody: float,
    everybody: float,
    within: float,
) -> npt.NDArray[np.float64]:
    """What each adds when they join in this order."""
    found = np.zeros(len(players))
    before, joined = nobody, frozenset[str]()
    for i in order:
        joined |= {players[i]}
        if abs(everybody - before) > within:
            after = known(joined)
            found[i] = after - before
            before = after
    return found


def _settled(means: Sequence[npt.NDArray[np.float64]], sampling: Sampling) -> bool:
    last = np.array(means[-sampling.last :])
    errors = np.abs(last - last[-1]) / (np.abs(last[-1]) + 1e-12)
    return bool(errors.mean(axis=1).max() <= sampling.settled)


class _Known:
    """A utility whose values are kept."""

    def __init__(self, utility: Utility) -> None:
        self._utility = utility
        self._values: dict[frozenset[str], float] = {}

    def __call__(self, subset: frozenset[str]) -> float:
        if subset not in self._values:
            value = float(self._utility(subset))
            if not math.isfinite(value):
                listed = ", ".join(sorted(subset)) or "nobody"
                raise DataError(
                    f"the utility of {listed} is {value}; allowed: a finite number. Cure: a metric that is defined for "
                    "every model, such as minus the loss",
                    step="bill",
                )
            self._values[subset] = value
        return self._values[subset]

    @property
    def evaluated(self) -> int:
        return len(self._values)


def update_utility(
    before: Arrays,
    updates: Mapping[str, Arrays],
    weights: Mapping[str, float],
    evaluate: Callable[[dict[str, npt.NDArray[Any]]], float],
) -> Utility:
    """The utility of a round of averaging: what central data say of the mean of a subset's models.

    Args:
        before: The model that the round began with, by name of array.
        updates: Each participant's model after its training, arrays as in `before`.
        weights: Each participant's examples.
        evaluate: Of a model, more is better; on data that the coordinator owns.
    """

    def utility(subset: frozenset[str]) -> float:
        if not subset:
            return evaluate({name: np.array(value) for name, value in before.items()})
        members = sorted(subset)
        whole = math.fsum(weights[each] for each in members)
        mean = {}
        for name, start in before.items():
            total = np.zeros(np.shape(start))
            for each in members:
                total += np.asarray(updates[each][name], np.float64) * (weights[each] / whole)
            mean[name] = total.astype(np.asarray(start).dtype)
        return evaluate(mean)

    return utility


def by_usage(usage: Mapping[str, float], why: str) -> Contribution:
    """A split where contributions cannot be known: in proportion to what was used, and it says so.

    Args:
        usage: Per participant, 0 or more: TFLOP/s.h, seconds or what else was measured of all.
        why: As a person reads it: `updates were summed under secagg+`.
    """
    return Contribution({name: float(usage[name]) for name in sorted(usage)}, how="usage", why=why)


def _players(names: Iterable[str]) -> list[str]:
    """In the order of their names, so that a seed gives the same values in whatever order they are named."""
    listed = list(names)
    if len(set(listed)) != len(listed):
        raise DataError("a participant is named twice in a round", step="bill")
    return sorted(listed)
