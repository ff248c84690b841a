"""When no placement keeps every hard constraint: the fewest of them whose relaxing suffices, and how far.

Constraints are taken in groups, as they stand in the policy. All sets of one group are tried, then of two, and so on,
until one suffices; every set of that size which does is named, with the value of each number that would do. That
data are worked on by their owner and that an aggregator has three children or more is never among them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedcore.errors import JobError
from fedcore.network.offer import Offer
from fedcore.network.policy import Hard, Policy
from fedcore.network.problem import Problem, Work, build
from fedcore.network.reference import Scale
from fedcore.network.search import Effort, search, shortest
from fedcore.network.topology import CIRCLES, Topology

MOST_AT_ONCE = 4
"""Constraints of the largest sets that are tried one by one."""

_ONE = Scale()


@dataclass(frozen=True)
class Relaxation:
    """A smallest set of constraints whose relaxing gives a placement.

    Args:
        constraints: Their keys in the policy, such as `hard.round_deadline`.
        enough: For one constraint alone: a value that suffices; absent where there is none between it and nothing.
    """

    constraints: tuple[str, ...]
    enough: Mapping[str, Any]

    def __str__(self) -> str:
        return " and ".join(
            f"{name} to {self.enough[name]}" if name in self.enough else name for name in self.constraints
        )


def relaxations(
    offers: Sequence[Offer],
    topology: Topology,
    policy: Policy,
    work: Work,
    root: str,
    *,
    forced: Collection[str] = (),
    barred: Collection[str] = (),
) -> tuple[Relaxation, ...]:
    """The smallest sets of constraints to relax, the least painful first; none when a placement keeps them all.

    Args:
        forced, barred: Owners whom fairness needs and keeps out.

    Raises:
        JobError: Nothing would help: there are too few owners that can reach an aggregator at all.
    """

    def works(rules: Policy, needed: Collection[str], kept_out: Collection[str]) -> bool:
        try:
            problem = build(offers, topology, rules, work, root, forced=needed, barred=kept_out, scale=_ONE)
        except JobError:
            return False
        return feasible(problem)

    def with_these(groups: Sequence[_Group]) -> bool:
        rules, needed, kept_out = policy, forced, barred
        for group in groups:
            rules = group.without(rules)
            if group.key == "fairness":
                needed, kept_out = (), ()
        return works(rules, needed, kept_out)

    active = [
        group for group in _GROUPS if group.active(policy) or (group.key == "fairness" and (forced or barred))
    ]
    if with_these(()):
        return ()
    if not with_these(active):
        owners = len({offer.owner for offer in offers})
        raise JobError(
            f"no placement even without any constraint that may be relaxed: {owners} owners made offers, and too few of "
            "them reach an aggregator with three children; check the links and aggregators of the topology",
            step="placement",
        )
    for size in range(1, min(len(active), MOST_AT_ONCE) + 1):
        found = [groups for groups in itertools.combinations(active, size) if with_these(groups)]
        if found:
            return tuple(
                Relaxation(
                    tuple(group.key for group in groups),
                    _enough(groups[0], policy, lambda rules: works(rules, forced, barred))
                    if size == 1
                    else {},
                )
                for groups in found
            )
    return (Relaxation(tuple(group.key for group in active), {}),)


def feasible(problem: Problem) -> bool:
    """Whether a placement that keeps everything is found; the objective plays no part."""
    if problem.pick > len(problem.owners):
        if problem.fewest > len(problem.owners):
            return False
        problem = replace(problem, pick=len(problem.owners))
    for count in dict.fromkeys((problem.pick, problem.fewest)):
        trial = replace(problem, pick=count)
        if shortest(trial) is None:
            continue
        if any(_keeps(trial, share) for share in (_SHARES if trial.budgets else (0.0,))):
            return True
    return False


_SHARES = (1.0, 0.0, 0.5, 0.25, 0.75)


def _keeps(problem: Problem, share: float) -> bool:
    """Whether the placement with the least of both budgets, mixed in one way, is within both."""
    least = _least(problem, share)
    return least is not None and least[0] <= problem.grams_most and least[1] <= problem.money_most


def _least(problem: Problem, share: float) -> tuple[float, float] | None:
    """Grams and money of the placement with the least of them: `share` of grams, the rest of money."""
    terms = problem.terms
    grams = share / (problem.grams_most if math.isfinite(problem.grams_most) else 1.0)
    money = (1 - share) / (problem.money_most if math.isfinite(problem.money_most) else 1.0)
    cost = np.where(
        np.isfinite(problem.seconds), grams * terms.all_grams() + money * terms.all_money(), np.inf
    )
    plain = replace(
        problem,
        cost=cost,
        open_cost=grams * terms.open_grams + money * terms.open_money,
        time_weight=0.0,
        grams_most=math.inf,
        money_most=math.inf,
    )
    found = search(plain, Effort(sweep=1, refine=0, peel=0))
    return None if found is None else terms.of(found.offers, found.sites)


@dataclass(frozen=True)
class _Group:
    """One constraint of a policy.

    Args:
        key: Where it stands.
        active: Whether the policy has it.
        without: The policy without it.
        milder: Policies with less of it, the strictest first, and the value of each.
    """

    key: str
    active: Callable[[Policy], bool]
    without: Callable[[Policy], Policy]
    milder: Callable[[Policy], Iterator[tuple[Any, Policy]]] | None = None


def _hard(policy: Policy, **values: Any) -> Policy:
    return policy.model_copy(update={"hard": policy.hard.model_copy(update=values)})


def _part(policy: Policy, part: str, **values: Any) -> Policy:
    return policy.model_copy(update={part: getattr(policy, part).model_copy(update=values)})


def _circles(policy: Policy) -> Iterator[tuple[Any, Policy]]:
    limit = policy.hard.latency
    if limit is not None:
        for circle in CIRCLES[CIRCLES.index(limit.circle) + 1 :]:
            yield circle, _hard(policy, latency=limit.model_copy(update={"circle": circle}))


def _levels(policy: Policy) -> Iterator[tuple[Any, Policy]]:
    for level in range(policy.hard.security_level - 1, 0, -1):
        yield level, _hard(policy, security_level=level)


def _fewer(policy: Policy) -> Iterator[tuple[Any, Policy]]:
    asked = policy.participants.min or policy.participants.pick or 0
    for count in range(asked - 1, 2, -1):
        yield count, _part(policy, "participants", min=count)


def _fewest(policy: Policy) -> Policy:
    return _part(policy, "participants", min=3)


def _growing(name: str) -> Callable[[Policy], Iterator[tuple[Any, Policy]]]:
    """Limits that grow by a twentieth, to two digits."""

    def milder(policy: Policy) -> Iterator[tuple[Any, Policy]]:
        value = float(getattr(policy.hard, name))
        for step in range(1, 300):
            more = value * 1.05**step
            unit = 10.0 ** (math.floor(math.log10(more)) - 1)
            more = float(f"{math.ceil(more / unit) * unit:.6g}")
            yield more, _hard(policy, **{name: more})

    return milder


_PLAIN = Hard()
_GROUPS = (
    _Group("hard.round_deadline", lambda p: p.hard.round_deadline is not None, lambda p: _hard(p, round_deadline=None), _growing("round_deadline")),
    _Group("hard.cost_per_round", lambda p: p.hard.cost_per_round is not None, lambda p: _hard(p, cost_per_round=None), _growing("cost_per_round")),
    _Group("hard.carbon_per_round_g", lambda p: p.hard.carbon_per_round_g is not None, lambda p: _hard(p, carbon_per_round_g=None), _growing("carbon_per_round_g")),
    _Group("hard.latency", lambda p: p.hard.latency is not None, lambda p: _hard(p, latency=None), _circles),
    _Group("participants.min", lambda p: (p.participants.min or p.participants.pick or 0) > 3, _fewest, _fewer),
    _Group("participants.mandatory", lambda p: bool(p.participants.mandatory), lambda p: _part(p, "participants", mandatory=())),
    _Group("fairness", lambda p: False, lambda p: p),
    _Group("aggregators.standby", lambda p: p.aggregators.standby > 0, lambda p: _part(p, "aggregators", standby=0)),
    _Group("aggregators.most", lambda p: p.aggregators.most is not None, lambda p: _part(p, "aggregators", most=None)),
    _Group("aggregators.owners", lambda p: len(p.aggregators.owners) < 2, lambda p: _part(p, "aggregators", owners=("neutral", "participant"))),
    _Group("hard.evidence", lambda p: p.hard.evidence.link != "derived", lambda p: _hard(p, evidence=_PLAIN.evidence)),
    _Group("hard.trust", lambda p: p.hard.trust > 0, lambda p: _hard(p, trust=0.0)),
    _Group("hard.security_level", lambda p: p.hard.security_level > 1, lambda p: _hard(p, security_level=1), _levels),
    _Group("hard.attestation_any", lambda p: bool(p.hard.attestation_any), lambda p: _hard(p, attestation_any=())),
    _Group("hard.jurisdiction", lambda p: p.hard.jurisdiction != "any", lambda p: _hard(p, jurisdiction="any")),
)  # fmt: skip
"""The least painful first."""


def _enough(group: _Group, policy: Policy, works: Callable[[Policy], bool]) -> dict[str, Any]:
    """The strictest milder value that works: by halving, for what works with one value works with milder ones."""
    if group.milder is None:
        return {}
    milder = list(group.milder(policy))
    low, high = 0, len(milder) - 1
    if not milder or not works(milder[high][1]):
        return {}
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if works(milder[middle][1]) else (middle + 1, high)
    return {group.key: milder[low][0]}
