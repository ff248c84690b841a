"""After a loss: the round goes on with what is left, moved as little as can be; and when a better plan is worth a change.

Whoever stands at an aggregator that is still there stays. The children of a lost aggregator and the stand-ins of lost
participants are placed by one exact flow into the room that is left, with and without the standby and, where that is
not enough, with each other site; the round becomes longer only when it must. Partial sums are known by round, plan
and child, so that one that arrives twice counts once, and by the plan's version nobody listens to an older plan.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedcore.errors import DataError, NoPlacement
from fedcore.network.cell import Cell, chosen_offers, per_owner
from fedcore.network.evaluate import evaluate
from fedcore.network.flow import assign
from fedcore.network.found import Found, score
from fedcore.network.offer import Offer, offers_digest
from fedcore.network.place import make_plan, placed_of, stand_by, uses
from fedcore.network.plan import Participant, Plan, Quality, predict
from fedcore.network.policy import Policy
from fedcore.network.problem import Problem, build
from fedcore.network.topology import Topology, without

STRETCH = (1.0, 1.02, 1.05, 1.1, 1.2, 1.35, 1.6, 2.0, 3.0, 5.0, 10.0)
"""Times the round's length; the first at which there is an answer is taken."""


@dataclass(frozen=True)
class Loss:
    """What is gone.

    Args:
        nodes: Nodes, as (owner, node).
        sites: Sites whose aggregator is gone.
        dark: Sites that pass nothing on any more either; their nodes are gone too.
        links: Pairs of sites.
    """

    nodes: Collection[tuple[str, str]] = ()
    sites: Collection[str] = ()
    dark: Collection[str] = ()
    links: Collection[tuple[str, str]] = ()

    def __str__(self) -> str:
        told = [f"{owner}/{node} lost" for owner, node in sorted(self.nodes)[:5]]
        told += [f"{len(self.nodes) - 5} more nodes lost"] if len(self.nodes) > 5 else []
        told += [f"aggregator {site} lost" for site in sorted(self.sites)]
        told += [f"site {site} lost" for site in sorted(self.dark)]
        told += [f"link {one} - {other} lost" for one, other in sorted(self.links)]
        return ", ".join(told) or "nothing lost"


@dataclass(frozen=True, eq=False)
class Repaired:
    """The new plan and what it is of.

    Args:
        plan: One version above the broken one.
        offers, topology: What is left; the plan's digests are theirs.
        moved: Owners that were in the old plan and now have another aggregator or offer.
        joined: Owners that were not.
        left: Owners that no longer take part.
    """

    plan: Plan
    offers: tuple[Offer, ...]
    topology: Topology
    moved: tuple[str, ...]
    joined: tuple[str, ...]
    left: tuple[str, ...]


def repair(plan: Plan, offers: Sequence[Offer], topology: Topology, policy: Policy, loss: Loss) -> Repaired:
    """Go on without what is lost.

    Args:
        plan: Of these offers and this map.

    Raises:
        NoPlacement: What is left does not suffice.
        JobError: A mandatory participant has no node left.
        DataError: A lost site is not on the map.
    """
    began = time.perf_counter()
    for pair in loss.links:
        for site in pair:
            topology.index(site)
    left = after(topology, loss)
    gone = set(loss.nodes)
    kept = tuple(
        offer for offer in offers if (offer.owner, offer.node) not in gone and offer.site not in loss.dark
    )
    if plan.root in loss.dark:
        raise DataError(
            f"site {plan.root}, at which the aggregate ends, is lost; choose another root and plan again"
        )
    problem = build(
        kept, left, policy, plan.work, plan.root,
        scale=plan.scale, forced=plan.forced, barred=plan.barred, pick=None,
    )  # fmt: skip
    wanted = min(len(plan.participants), len(problem.owners))
    problem = replace(problem, pick=max(wanted, min(problem.fewest, len(problem.owners))))
    found = _patched(problem, plan)
    if found is None:
        fresh = make_plan(
            kept, left, policy, plan.work, plan.root, job=plan.job, version=plan.version + 1, seed=plan.seed,
            scale=plan.scale, cause=str(loss),
        )  # fmt: skip
        return _compared(plan, fresh, kept, left)
    standby = stand_by(problem, found, policy.aggregators.standby)
    placed = placed_of(problem, found)
    told = evaluate(
        placed, kept, left, policy, plan.work, plan.root, plan.scale,
        standby=standby, forced=plan.forced, barred=plan.barred,
    )  # fmt: skip
    if told.violations:
        raise NoPlacement(f"what is left breaks a hard constraint: {told.violations[0]}", step="repair")
    by_id = {offer.id: offer for offer in kept}
    fresh = replace(
        plan,
        version=plan.version + 1,
        offers=offers_digest(kept),
        topology=left.digest(),
        participants=tuple(
            Participant(one.owner, one.offer, by_id[one.offer].node, by_id[one.offer].site, one.aggregator, told.parts[one.owner])
            for one in placed
        ),
        aggregators=uses(problem, found, standby, most=0),
        standby=standby,
        prediction=predict(told, placed, by_id, left),
        quality=Quality(
            told.objective, None, plan.quality.random, None, "repair by one flow",
            time.perf_counter() - began, 0.0,
        ),
        rejected=(),
        rejected_count={},
        cause=str(loss),
    )  # fmt: skip
    return _compared(plan, fresh, kept, left)


def after(topology: Topology, loss: Loss) -> Topology:
    """The map without what is lost."""
    left = without(topology, sorted(loss.dark), sorted(loss.links))
    sites = dict(left.file.sites)
    for name in loss.sites:
        topology.index(name)
        sites[name] = sites[name].model_copy(update={"aggregator": None})
    if not loss.sites:
        return left
    return replace(left, file=left.file.model_copy(update={"sites": sites}))


def _patched(problem: Problem, plan: Plan) -> Found | None:
    """The plan with as few changes as can be; None when nothing fits, whatever the length of the round."""
    before = plan.prediction.round_s
    best: Found | None = None
    for factor in STRETCH:
        length = min(before * factor * (1 + 1e-9), problem.deadline)
        for faithful in (True, False):
            cell, stays = _cell(problem, plan, length, faithful)
            for opened in _open_sets(problem, plan, cell):
                found = _placed(problem, cell, opened, stays)
                if (
                    found is not None
                    and _affordable(problem, found)
                    and (best is None or found.objective < best.objective)
                ):
                    best = found
            if best is not None:
                return best
    return None


def _cell(problem: Problem, plan: Plan, length: float, faithful: bool) -> tuple[Cell, dict[int, int]]:
    """The cell in which those who can stay must: at their site, with their offer.

    Args:
        faithful: Keep also the children of lost aggregators in the round; else anybody may stand in for them.

    Returns:
        The cell, and the offer of each owner who keeps its own.
    """
    place = {name: index for index, name in enumerate(problem.owners)}
    site_at = {name: index for index, name in enumerate(problem.sites)}
    offer_at = {offer.id: index for index, offer in enumerate(problem.offers)}
    allowed = np.where(problem.seconds <= length, problem.cost, np.inf)
    cost = per_owner(problem, allowed)
    mandatory = problem.mandatory.copy()
    stays: dict[int, int] = {}
    for one in plan.participants:
        owner, offer, site = place.get(one.owner), offer_at.get(one.offer), site_at.get(one.aggregator)
        if owner is None:
            continue
        if offer is not None and site is not None and allowed[offer, site] < np.inf:
            cost[owner] = np.inf
            cost[owner, site] = allowed[offer, site]
            stays[owner] = offer
            mandatory[owner] = True
        elif faithful and np.isfinite(cost[owner]).any():
            mandatory[owner] = True
    capacity = problem.capacity(length)
    least = problem.children_min
    usable = (capacity >= least) & (np.isfinite(cost).sum(axis=0) >= least)
    cell = Cell(
        length, np.arange(len(problem.owners)), cost, capacity, usable, mandatory, problem.open_cost,
        problem.pick, least, min(problem.most_open, problem.pick // least),
    )  # fmt: skip
    return cell, stays


def _open_sets(problem: Problem, plan: Plan, cell: Cell) -> Iterator[tuple[int, ...]]:
    """What is still open, with the standby, with each other site; sites that are left with too few are closed."""
    site_at = {name: index for index, name in enumerate(problem.sites)}
    here = [
        site_at[use.site]
        for use in plan.aggregators
        if use.site in site_at and cell.usable[site_at[use.site]]
    ]
    ready = [site_at[name] for name in plan.standby if name in site_at and cell.usable[site_at[name]]]
    yield tuple(sorted(here))
    if ready:
        yield tuple(sorted({*here, *ready}))
    others = [site for site in np.flatnonzero(cell.usable).tolist() if site not in here and site not in ready]
    gain = np.minimum(cell.cost[:, others], 1e9).sum(axis=0) if others else np.zeros(0)
    for index in np.argsort(gain, kind="stable")[:3].tolist():
        yield tuple(sorted({*here, others[index]}))


def _placed(problem: Problem, cell: Cell, opened: tuple[int, ...], stays: dict[int, int]) -> Found | None:
    found = assign(_narrowed(cell), opened) if opened else None
    if found is None:
        return None
    owners = np.flatnonzero(found.site >= 0)
    sites = found.site[owners]
    offers = chosen_offers(problem, owners, sites, cell.round_s)
    kept = [stays.get(owner, -1) for owner in owners.tolist()]
    return score(problem, owners, np.where(np.array(kept) >= 0, kept, offers), sites)


def _narrowed(cell: Cell) -> Cell:
    """Of those who may come in, only as many as could be needed at each site, the cheapest."""
    free = cell.pick - int(cell.mandatory.sum())
    optional = ~cell.mandatory
    if optional.sum() <= 4 * max(free, 1):
        return cell
    kept = np.zeros(len(cell.rows), dtype=np.bool_)
    if free > 0:
        ranked = np.where(optional[:, None], cell.cost, np.inf)
        for column in ranked.T:
            near = np.argpartition(column, free - 1)[:free]
            kept[near[np.isfinite(column[near])]] = True
    cost = np.where((kept | cell.mandatory)[:, None], cell.cost, np.inf)
    return replace(cell, cost=cost)


def _affordable(problem: Problem, found: Found) -> bool:
    grams, money = problem.terms.of(found.offers, found.sites)
    return grams <= problem.grams_most * (1 + 1e-12) and money <= problem.money_most * (1 + 1e-12)


def _compared(plan: Plan, fresh: Plan, offers: tuple[Offer, ...], topology: Topology) -> Repaired:
    before = {one.owner: (one.offer, one.aggregator) for one in plan.participants}
    now = {one.owner: (one.offer, one.aggregator) for one in fresh.participants}
    return Repaired(
        fresh,
        offers,
        topology,
        tuple(sorted(owner for owner in now if owner in before and now[owner] != before[owner])),
        tuple(sorted(set(now) - set(before))),
        tuple(sorted(set(before) - set(now))),
    )


def worth_changing(running: Plan, fresh: Plan, policy: Policy, rounds_since_change: int) -> bool:
    """Whether a better plan is worth leaving one that works: its gain is large enough, and the last change is long ago.

    Args:
        running: Its objective as it would be judged now.
        rounds_since_change: Completed since the last change for gain.
    """
    if rounds_since_change < policy.replace.cooldown_rounds:
        return False
    gain = running.quality.objective - fresh.quality.objective
    return math.isfinite(gain) and gain > policy.replace.min_gain * abs(running.quality.objective)
