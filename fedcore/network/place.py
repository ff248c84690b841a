"""From signed offers to a plan: admit, search, prove, choose who stands by, judge, write down what was not chosen."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import numpy as np

from fedcore.errors import JobError, NoPlacement
from fedcore.network.admission import Rejected
from fedcore.network.bound import prove
from fedcore.network.cell import Cell, cut
from fedcore.network.evaluate import Placed, evaluate
from fedcore.network.fairness import due_and_barred
from fedcore.network.flow import assign
from fedcore.network.found import Found, score
from fedcore.network.offer import Offer, offers_digest
from fedcore.network.plan import AggregatorUse, Participant, Plan, Quality, predict
from fedcore.network.policy import Policy
from fedcore.network.problem import Problem, Work, build, offers_of
from fedcore.network.reference import Scale, random_choice
from fedcore.network.search import search
from fedcore.network.topology import Topology

TOLD = 200
"""Rejected alternatives that a plan names; of the others it tells how many there are."""

LOOKED_AT = 8
"""Aggregators whose loss is worked out when planning, the busiest first."""


def make_plan(
    offers: Sequence[Offer],
    topology: Topology,
    policy: Policy,
    work: Work,
    root: str,
    *,
    job: str = "job",
    version: int = 1,
    seed: int = 0,
    history: Sequence[Collection[str]] = (),
    scale: Scale | None = None,
    gap: float | None = None,
    seconds: float = 60.0,
    cause: str = "first",
) -> Plan:
    """Place a round.

    Args:
        offers: Of all owners, their signatures checked.
        work: What travels.
        root: The site at which the aggregate ends.
        job: Its name.
        version: Above that of every plan of the job so far.
        seed: Of the random placements that scale the terms.
        history: Who took part in the rounds so far, the oldest first.
        scale: Instead of random placements.
        gap: Prove the plan to this share of (random - bound); nothing is proven when it is left out.
        seconds: Of proving, at most.
        cause: Why a plan is made.

    Raises:
        NoPlacement: No placement keeps every hard constraint.
        JobError: Nothing is left to place, and why.
        DataError: An offer is impossible.
    """
    began = time.perf_counter()
    names = sorted({offer.owner for offer in offers})
    always = set(policy.participants.mandatory)
    places = (policy.participants.pick or len(names)) - len(always)
    forced, barred = due_and_barred(
        history, [name for name in names if name not in always], policy.fairness, places
    )

    def problem_of(count: int | None) -> Problem:
        return build(
            offers, topology, policy, work, root,
            seed=seed, scale=scale, forced=forced, barred=barred, pick=count,
        )  # fmt: skip

    problem, found = _most(problem_of(None), problem_of)
    if found is None:
        raise NoPlacement(
            f"no placement of {problem.fewest} of {len(names)} participants keeps every hard constraint of policy "
            f"{policy.name}; `fedcore network plan` names the fewest constraints to relax",
            step="placement",
        )
    standby = stand_by(problem, found, policy.aggregators.standby)
    searched = time.perf_counter()
    random = random_objective(problem, policy.reference.samples, seed)
    proof = None if gap is None else prove(problem, found, gap * (random - found.objective), seconds)
    proved = time.perf_counter()
    if proof is not None and proof.found is not None and proof.found.objective < found.objective:
        found = proof.found
        standby = stand_by(problem, found, policy.aggregators.standby)
    placed = placed_of(problem, found)
    told = evaluate(
        placed,
        offers,
        topology,
        policy,
        work,
        root,
        problem.scale,
        standby=standby,
        forced=forced,
        barred=barred,
    )
    if told.violations:
        raise JobError(f"the search broke a hard constraint, which is a fault in it: {told.violations[0]}")
    by_id = {offer.id: offer for offer in offers}
    bound = None if proof is None else proof.bound
    rejected, counted = alternatives(problem, found)
    return Plan(
        version=version,
        job=job,
        root=root,
        seed=seed,
        policy=policy.digest(),
        offers=offers_digest(offers),
        topology=topology.digest(),
        work=work,
        scale=problem.scale,
        participants=tuple(
            Participant(one.owner, one.offer, by_id[one.offer].node, by_id[one.offer].site, one.aggregator, told.parts[one.owner])
            for one in placed
        ),
        aggregators=uses(problem, found, standby),
        standby=standby,
        prediction=predict(told, placed, by_id, topology),
        quality=Quality(
            objective=told.objective,
            bound=bound,
            random=random,
            gap=None if bound is None else max(0.0, told.objective - bound) / max(random - bound, 1e-12),
            solver="deadline sweep, exact flows" + ("" if proof is None else f"; bound: {proof.method}"),
            seconds=searched - began,
            proof_seconds=proved - searched,
        ),
        rejected=rejected,
        rejected_count=counted,
        forced=tuple(sorted(forced)),
        barred=tuple(sorted(barred)),
        cause=cause,
    )  # fmt: skip


def _most(problem: Problem, problem_of: Callable[[int | None], Problem]) -> tuple[Problem, Found | None]:
    """The placement of as many as can be, from `pick` down to `fewest`."""
    found = search(problem)
    if found is not None or problem.fewest == problem.pick:
        return problem, found
    low, high = problem.fewest, min(problem.pick, len(problem.owners))
    best: tuple[Problem, Found | None] = (problem, None)
    while low <= high:
        middle = (low + high + 1) // 2 if best[1] is not None else low
        trial = problem_of(middle)
        found = search(trial)
        if found is None:
            high = middle - 1
            if best[1] is None:
                break
        else:
            best, low = (trial, found), middle + 1
    return best


def placed_of(problem: Problem, found: Found) -> list[Placed]:
    """A placement by names."""
    rows = zip(found.owners.tolist(), found.offers.tolist(), found.sites.tolist(), strict=True)
    return [
        Placed(problem.owners[owner], problem.offers[offer].id, problem.sites[site])
        for owner, offer, site in rows
    ]


def random_objective(problem: Problem, samples: int, seed: int) -> float:
    """Mean objective of random placements in which everybody can reach its aggregator."""
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(samples):
        offers, sites = random_choice(problem, generator)
        told = score(problem, problem.owner_of[offers], offers, sites).objective
        if np.isfinite(told):
            values.append(told)
    return float(np.mean(values)) if values else float("inf")


def stand_by(problem: Problem, found: Found, count: int) -> tuple[str, ...]:
    """Sites to keep ready: closed ones that could take over the most children, of equal ones the cheapest to open."""
    if count == 0:
        return ()
    seconds = problem.seconds[found.offers]
    reach = (seconds <= found.round_s).sum(axis=0)
    near = np.isfinite(seconds).sum(axis=0)
    room = np.minimum(reach, problem.capacity(found.round_s))
    closed = [site for site in range(len(problem.sites)) if site not in found.opened]
    ranked = sorted(
        closed, key=lambda site: (-int(room[site]), -int(near[site]), problem.open_cost[site], site)
    )
    return tuple(sorted(problem.sites[site] for site in ranked[:count]))


def uses(
    problem: Problem, found: Found, standby: Sequence[str], most: int = LOOKED_AT
) -> tuple[AggregatorUse, ...]:
    """The aggregators of a placement, and what the loss of each would mean."""
    children = np.bincount(found.sites, minlength=len(problem.sites))
    room = problem.capacity(found.round_s)
    busiest = sorted(found.opened, key=lambda site: (-children[site], site))[:most]
    ready = [problem.sites.index(name) for name in standby]
    return tuple(
        AggregatorUse(
            problem.sites[site], int(children[site]), int(room[site]),
            _without(problem, found, site, ready) if site in busiest else None,
        )
        for site in found.opened
    )  # fmt: skip


def _without(problem: Problem, found: Found, lost: int, ready: Sequence[int]) -> float | None:
    """Seconds of a round without one aggregator: the shortest of a few lengths in which the others have room."""
    opened = tuple(sorted({*found.opened, *ready} - {lost}))
    offers = found.offers
    for factor in (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0):
        length = min(found.round_s * factor, problem.deadline)
        seconds = problem.seconds[offers][:, list(opened)]
        cell = Cell(
            length, np.arange(len(offers)), _narrow(problem, offers, length), problem.capacity(length),
            problem.capacity(length) >= 1, np.ones(len(offers), dtype=np.bool_), problem.open_cost,
            len(offers), 1, len(problem.sites),
        )  # fmt: skip
        if (seconds <= length).any(axis=1).all() and assign(cell, opened) is not None:
            return float(length)
    return None


def _narrow(problem: Problem, offers: np.ndarray, length: float) -> np.ndarray:
    """[K, A], the cost of chosen offers where they are quick enough."""
    return np.where(problem.seconds[offers] <= length, problem.cost[offers], np.inf)


def alternatives(problem: Problem, found: Found) -> tuple[tuple[Rejected, ...], dict[str, int]]:
    """What was not chosen, with reasons: sites, other offers of those who are in, owners who are not, and the refused."""
    told: list[Rejected] = []
    counted: dict[str, int] = {}
    for one in problem.rejected:
        key = f"{one.what}: {one.reason}"
        counted[key] = counted.get(key, 0) + 1
    told += _sites(problem, found)
    chosen = dict(
        zip(found.owners.tolist(), zip(found.offers.tolist(), found.sites.tolist(), strict=True), strict=True)
    )
    for owner, (offer, site) in chosen.items():
        for other in offers_of(problem, owner):
            if other != offer:
                told.append(
                    Rejected(
                        "offer",
                        problem.offers[other].id,
                        problem.owners[owner],
                        _slower(problem, found, other, offer, site),
                    )
                )
    cell = cut(problem, found.round_s)
    late = _late(problem, found)
    counted["owner: too slow for the round"] = int(late.sum())
    if cell is not None:
        best = cell.cost[:, list(found.opened)].min(axis=1)
        inside = set(found.owners.tolist())
        ranked = sorted(
            (float(best[i]), int(row)) for i, row in enumerate(cell.rows) if int(row) not in inside
        )
        dearest = float(problem.cost[found.offers, found.sites].max())
        for value, row in ranked[:TOLD]:
            if np.isfinite(value):
                reason = f"costs {value:.4g} of the objective, the dearest that is in costs {dearest:.4g}"
                told.append(Rejected("owner", problem.owners[row], "", reason))
    counted["owner: dearer than those that are in"] = len(problem.owners) - len(chosen) - int(late.sum())
    return (*problem.rejected[:TOLD], *told[: 2 * TOLD]), counted


def _late(problem: Problem, found: Found) -> np.ndarray:
    """[N], owners that no offer brings into a round of this length."""
    quickest = problem.seconds[:, list(found.opened)].min(axis=1)
    late = np.minimum.reduceat(quickest, problem.first) > found.round_s
    late[found.owners] = False
    return np.asarray(late)


def _sites(problem: Problem, found: Found) -> list[Rejected]:
    """Closed sites: what opening each would change at best."""
    here = problem.cost[found.offers, found.sites]
    told = []
    for site in range(len(problem.sites)):
        if site in found.opened:
            continue
        quick = problem.seconds[found.offers, site] <= found.round_s
        gain = np.maximum(0.0, here - np.where(quick, problem.cost[found.offers, site], np.inf)).sum()
        reason = (
            f"would save at most {gain:.4g} of the objective and costs {problem.open_cost[site]:.4g} to open"
        )
        if int(quick.sum()) < problem.children_min:
            reason = f"only {int(quick.sum())} participants reach it within the round"
        told.append(Rejected("site", problem.sites[site], "", reason))
    return told


def _slower(problem: Problem, found: Found, other: int, offer: int, site: int) -> str:
    seconds = float(problem.seconds[other, site])
    if seconds > found.round_s:
        return (
            f"takes {seconds:.4g} s, the round {found.round_s:.4g} s"
            if np.isfinite(seconds)
            else "not allowed there"
        )
    more = float(problem.cost[other, site] - problem.cost[offer, site])
    return f"costs {more:.4g} more of the objective"
