"""The independent judge of a placement: its figures and every hard constraint that it breaks.

It starts from the offers, the links, the policy and the work as they were given, in plain Python, and shares no code
with what searches: paths, times, sums and limits are worked out a second time here. Whatever a solver claims, this
is what a placement is worth.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fedcore.network.offer import Offer
from fedcore.network.policy import Policy
from fedcore.network.problem import Work
from fedcore.network.reference import Scale
from fedcore.network.topology import Topology

SLACK = 1e-9
"""Relative: sums of the same numbers in another order differ by less."""


@dataclass(frozen=True)
class Placed:
    """One participant's part of a placement: which of its offers is taken, and which site adds its update up."""

    owner: str
    offer: str
    aggregator: str


@dataclass(frozen=True)
class Part:
    """What one participant takes in a round.

    Args:
        seconds: From the start of the round until its update is in the aggregate at the root.
        kwh, gco2_location, gco2_market: Of its computing and its traffic.
        cost: Of its computing and its traffic.
        latency_ms: To its aggregator, in the policy's metric.
    """

    seconds: float
    kwh: float
    gco2_location: float
    gco2_market: float
    cost: float
    latency_ms: float


@dataclass(frozen=True)
class Score:
    """What a placement is worth.

    Args:
        objective: The weighted sum that is minimised; infinite when a figure is.
        round_s: Seconds.
        kwh: Of computing, traffic and aggregators.
        gco2_location, gco2_market: Grams of a round.
        cost: In the policy's currency.
        latency_ms, distrust, utility: Means over the participants.
        terms: Each term's share of the objective.
        parts: By owner.
        violations: Every hard constraint that is broken, as a sentence.
    """

    objective: float
    round_s: float
    kwh: float
    gco2_location: float
    gco2_market: float
    cost: float
    latency_ms: float
    distrust: float
    utility: float
    terms: Mapping[str, float]
    parts: Mapping[str, Part]
    violations: tuple[str, ...]


def evaluate(
    placed: Sequence[Placed],
    offers: Sequence[Offer],
    topology: Topology,
    policy: Policy,
    work: Work,
    root: str,
    scale: Scale,
    *,
    standby: Sequence[str] = (),
    forced: Collection[str] = (),
    barred: Collection[str] = (),
) -> Score:
    """Score a placement and check it.

    Args:
        placed: One for each participant of the round.
        scale: What each term is divided by.
        standby: Sites that are kept ready to aggregate.
        forced: Owners whom fairness needs in this round.
        barred: Owners whom fairness keeps out of it.
    """
    wrong: list[str] = []
    by_id = {offer.id: offer for offer in offers}
    ways = _Ways(topology)
    metric = policy.hard.latency.metric if policy.hard.latency else topology.file.circles.metric
    opened: dict[str, list[Placed]] = {}
    parts: dict[str, Part] = {}
    distrust, utility, slowest = [], [], 0.0
    for one in placed:
        offer = by_id.get(one.offer)
        if offer is None:
            wrong.append(f"{one.owner}: there is no offer {one.offer}")
            continue
        if one.owner in parts:
            wrong.append(f"{one.owner} is placed twice")
        if offer.owner != one.owner:
            wrong.append(f"{one.owner}: its data would be worked on by a node of {offer.owner}")
        if one.aggregator not in topology.sites:
            wrong.append(f"{one.owner}: there is no site {one.aggregator}")
            continue
        wrong += [f"{one.owner}: {text}" for text in _admissible(offer, topology, policy, work, root)]
        part = _part(offer, one.aggregator, topology, policy, work, root, ways, metric)
        wrong += [f"{one.owner}: {text}" for text in _near(offer, one, part, topology, policy, ways)]
        opened.setdefault(one.aggregator, []).append(one)
        parts[one.owner] = part
        distrust.append(1 - offer.trust)
        utility.append(offer.utility)
        slowest = max(slowest, part.seconds)
    extra = [_opening(site, topology, policy, work, root, ways) for site in sorted(opened)]
    kwh = math.fsum(part.kwh for part in parts.values()) + math.fsum(row[0] for row in extra)
    location = math.fsum(part.gco2_location for part in parts.values()) + math.fsum(row[1] for row in extra)
    market = math.fsum(part.gco2_market for part in parts.values()) + math.fsum(row[1] for row in extra)
    money = math.fsum(part.cost for part in parts.values()) + math.fsum(row[2] for row in extra)
    round_s = max(
        [slowest] + [len(these) * _intake(site, topology, policy, work) for site, these in opened.items()]
    )
    count = max(1, len(parts))
    latency_ms = math.fsum(part.latency_ms for part in parts.values()) / count
    mean_distrust, mean_utility = math.fsum(distrust) / count, math.fsum(utility) / count
    grams = market if policy.carbon.basis == "market" else location
    terms = {
        "time": policy.weights.time * round_s / scale.round_s,
        "carbon": policy.weights.carbon * grams / scale.grams,
        "cost": policy.weights.cost * money / scale.money,
        "latency": policy.weights.latency * latency_ms / scale.latency_ms,
        "security": policy.weights.security * mean_distrust / scale.distrust,
        "utility": -policy.participants.utility.weight * mean_utility / scale.utility,
    }
    wrong += _together(placed, opened, policy, topology, root, standby, ways, forced, barred)
    limits = (
        ("the round takes", round_s, policy.hard.round_deadline, "s"),
        ("the round emits", grams, policy.hard.carbon_per_round_g, "g"),
        ("the round costs", money, policy.hard.cost_per_round, policy.currency),
    )
    for what, value, most, unit in limits:
        if most is not None and value > most * (1 + SLACK):
            wrong.append(f"{what} {value:.6g} {unit}, the policy allows {most:g}")
    return Score(
        math.fsum(terms.values()), round_s, kwh, location, market, money,
        latency_ms, mean_distrust, mean_utility, terms, parts, tuple(wrong),
    )  # fmt: skip


class _Ways:
    """Paths of least delay, the widest among equals, found when they are asked for."""

    def __init__(self, topology: Topology) -> None:
        self._inside = topology.file.inside
        self._links: dict[str, list[tuple[str, int, float, str]]] = {}
        for link in topology.file.links:
            one, two = link.ends
            self._links.setdefault(one, []).append(
                (two, round(link.delay_ms * 1e6), link.mbit_s, link.source)
            )
            if not link.one_direction:
                self._links.setdefault(two, []).append(
                    (one, round(link.back_ms * 1e6), link.mbit_s, link.source)
                )
        self._from: dict[str, dict[str, tuple[float, float, str]]] = {}

    def __call__(self, start: str, end: str) -> tuple[float, float, str]:
        """Milliseconds one way, Mbit/s, and what that rests on."""
        if start not in self._from:
            self._from[start] = self._search(start)
        return self._from[start].get(end, (math.inf, 0.0, "none"))

    def there_and_back(self, start: str, end: str) -> float:
        """Milliseconds."""
        return self(start, end)[0] + self(end, start)[0]

    def _search(self, start: str) -> dict[str, tuple[float, float, str]]:
        reached: dict[str, tuple[int, float, int, str]] = {}
        heap: list[tuple[int, float, int, str, str]] = [(0, -math.inf, 0, start, "")]
        while heap:
            delay, minus_width, steps, site, source = heapq.heappop(heap)
            if site in reached:
                continue
            reached[site] = (delay, -minus_width, steps, source)
            for neighbour, ns, width, kind in self._links.get(site, []):
                heapq.heappush(
                    heap, (delay + ns, -min(-minus_width, width), steps + 1, neighbour, source or kind)
                )
        found = {
            site: (delay / 1e6, width, source if steps == 1 else "derived")
            for site, (delay, width, steps, source) in reached.items()
        }
        found[start] = (self._inside.one_way_ms, self._inside.mbit_s, "declared")
        return found


def _admissible(offer: Offer, topology: Topology, policy: Policy, work: Work, root: str) -> list[str]:
    hard, wrong = policy.hard, []
    allowed = {topology.sites[root].jurisdiction} if hard.jurisdiction == "root" else set(hard.jurisdiction)
    place = topology.sites[offer.site].jurisdiction
    if hard.jurisdiction != "any" and not {offer.jurisdiction, place} <= allowed:
        wrong.append(f"its node is under the law of {offer.jurisdiction}")
    if offer.jurisdiction != place:
        wrong.append(f"its offer says {offer.jurisdiction}, the site is in {place}")
    if offer.security < hard.security_level:
        wrong.append(f"its node has security level {offer.security}, below {hard.security_level}")
    if hard.attestation_any and not any(kind in offer.attested for kind in hard.attestation_any):
        wrong.append("its node is not attested as the policy asks")
    if offer.trust < hard.trust:
        wrong.append(f"its node has trust {offer.trust:g}, below {hard.trust:g}")
    if offer.memory_gb < work.memory_gb:
        wrong.append(f"its node has {offer.memory_gb:g} GB, below {work.memory_gb:g}")
    return wrong


def _part(
    offer: Offer,
    site: str,
    topology: Topology,
    policy: Policy,
    work: Work,
    root: str,
    ways: _Ways,
    metric: str,
) -> Part:
    down_rate = min(ways(site, offer.site)[1], offer.down_mbit_s)
    up_rate = min(ways(offer.site, site)[1], offer.up_mbit_s)
    if min(down_rate, up_rate) <= 0 or topology.sites[site].aggregator is None:
        return Part(math.inf, math.inf, math.inf, math.inf, math.inf, math.inf)
    round_trip = ways.there_and_back(offer.site, site) / 1000
    seconds = offer.work_s + work.down_mb * 8 / down_rate + work.up_mb * 8 / up_rate + work.trips * round_trip
    seconds += _beyond(site, topology, work, root, ways)
    kwh = policy.carbon.network_kwh_per_gb * (work.up_mb + work.down_mb) / 1000
    grams = kwh * _factor(topology, offer.site, site)
    money = (
        offer.cost
        + offer.egress_price * work.up_mb / 1000
        + topology.sites[site].egress_price * work.down_mb / 1000
    )
    ms = ways.there_and_back(offer.site, site) if metric == "rtt" else ways(offer.site, site)[0]
    return Part(seconds, offer.kwh + kwh, offer.gco2_location + grams, offer.gco2_market + grams, money, ms)


def _beyond(site: str, topology: Topology, work: Work, root: str, ways: _Ways) -> float:
    """Seconds between root and aggregator, and of its last addition."""
    role = topology.sites[site].aggregator
    last = work.up_mb / role.merge_mb_s if role is not None else math.inf
    if site == root:
        return last
    there, back = ways(root, site)[1], ways(site, root)[1]
    if min(there, back) <= 0:
        return math.inf
    trips = work.trips * ways.there_and_back(root, site) / 1000
    return last + work.down_mb * 8 / there + work.up_mb * 8 / back + trips


def _intake(site: str, topology: Topology, policy: Policy, work: Work) -> float:
    role = topology.sites[site].aggregator
    if role is None:
        return math.inf
    return (
        max(work.up_mb * 8 / role.ingress_mbit_s, work.up_mb / role.merge_mb_s)
        / policy.aggregators.ingress_share
    )


def _factor(topology: Topology, one: str, other: str) -> float:
    """Grams per kWh of traffic between two sites: the mean of those that are known."""
    known = [
        f
        for f in (topology.sites[one].carbon_g_per_kwh, topology.sites[other].carbon_g_per_kwh)
        if f is not None
    ]
    return sum(known) / len(known) if known else 0.0


def _opening(
    site: str, topology: Topology, policy: Policy, work: Work, root: str, ways: _Ways
) -> tuple[float, float, float]:
    """kWh, grams and money of keeping an aggregator for a round."""
    role = topology.sites[site].aggregator
    if role is None:
        return math.inf, math.inf, math.inf
    kwh, grams, money = role.kwh, role.kwh * (topology.sites[site].carbon_g_per_kwh or 0.0), role.cost
    if site != root:
        traffic = policy.carbon.network_kwh_per_gb * (work.up_mb + work.down_mb) / 1000
        kwh, grams = kwh + traffic, grams + traffic * _factor(topology, site, root)
        money += topology.sites[site].egress_price * work.up_mb / 1000
        money += topology.sites[root].egress_price * work.down_mb / 1000
    return kwh, grams, money


_WORTH = {"none": 0, "derived": 1, "declared": 2, "measured": 3, "attested": 4}


def _near(
    offer: Offer, one: Placed, part: Part, topology: Topology, policy: Policy, ways: _Ways
) -> list[str]:
    if not math.isfinite(part.seconds):
        return [f"it cannot reach an aggregator at {one.aggregator}"]
    wrong = []
    limit = policy.hard.latency
    if (
        limit is not None
        and limit.circle != "wide"
        and part.latency_ms > getattr(topology.file.circles, limit.circle)
    ):
        wrong.append(f"{one.aggregator} is {part.latency_ms:.3g} ms away, outside the {limit.circle} circle")
    source = ways(offer.site, one.aggregator)[2]
    if _WORTH[source] < _WORTH[policy.hard.evidence.link]:
        wrong.append(f"its link to {one.aggregator} is {source}, not {policy.hard.evidence.link}")
    return wrong


def _together(
    placed: Sequence[Placed],
    opened: Mapping[str, list[Placed]],
    policy: Policy,
    topology: Topology,
    root: str,
    standby: Sequence[str],
    ways: _Ways,
    forced: Collection[str],
    barred: Collection[str],
) -> list[str]:
    """What concerns the placement as a whole."""
    rules, wrong, here = policy.aggregators, [], {one.owner for one in placed}
    people = policy.participants
    if people.pick is not None and not (people.min or people.pick) <= len(here) <= people.pick:
        wrong.append(
            f"{len(here)} participants; the policy asks for {people.min or people.pick} to {people.pick}"
        )
    if people.pick is None and people.min is not None and len(here) < people.min:
        wrong.append(f"{len(here)} participants; the policy asks for at least {people.min}")
    wrong += [f"{name} is mandatory and not placed" for name in people.mandatory if name not in here]
    wrong += [f"{name} is due in this window and not placed" for name in sorted(forced) if name not in here]
    wrong += [f"{name} has taken part too often in this window" for name in sorted(barred) if name in here]
    for site, these in sorted(opened.items()):
        if len(these) < rules.children_min:
            wrong.append(
                f"the aggregator at {site} has {len(these)} children, fewer than {rules.children_min}"
            )
    if rules.most is not None and len(opened) > rules.most:
        wrong.append(f"{len(opened)} aggregators; the policy allows {rules.most}")
    if len(set(standby)) < rules.standby:
        wrong.append(f"{len(set(standby))} standby sites; the policy asks for {rules.standby}")
    for site in sorted({*opened, *standby}):
        role = topology.sites[site].aggregator if site in topology.sites else None
        if role is None:
            wrong.append(f"{site} cannot aggregate")
            continue
        law = (
            {topology.sites[root].jurisdiction}
            if policy.hard.jurisdiction == "root"
            else policy.hard.jurisdiction
        )
        if policy.hard.jurisdiction != "any" and topology.sites[site].jurisdiction not in law:
            wrong.append(f"the aggregator at {site} is under the law of {topology.sites[site].jurisdiction}")
        if role.security < policy.hard.security_level:
            wrong.append(f"the aggregator at {site} has security level {role.security}")
        if policy.hard.attestation_any and not set(policy.hard.attestation_any) & set(role.attested):
            wrong.append(f"the aggregator at {site} is not attested as the policy asks")
        if ("neutral" if role.owner == "neutral" else "participant") not in rules.owners:
            wrong.append(f"the aggregator at {site} belongs to {role.owner}")
        if topology.sites[site].carbon_g_per_kwh is None:
            wrong.append(f"no carbon factor is known at {site}")
        if min(ways(root, site)[1], ways(site, root)[1]) <= 0:
            wrong.append(f"{site} has no path to {root}")
        if site in standby and site in opened:
            wrong.append(f"{site} is standby and open at once")
    return wrong
