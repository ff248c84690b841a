"""Where the parties of a protocol between two, or of a star, work: each on one of its own nodes, chosen exactly.

    seconds(one, other) = max(work) + bytes there / rate there + bytes back / rate back + trips * rtt

In a star every other party meets the leader; a pair is the smallest star. Who leads, and on which of its nodes, is
found by trying each; the length of the longest meeting is branched on as for a round, and what is left is a choice of
one node for each other party, which budgets alone tie together: cut off where it cannot be better. The answer is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedcore.errors import JobError, NoPlacement
from fedcore.network.admission import Rejected, admit_offers, evidence_rank
from fedcore.network.offer import Offer, check_offers
from fedcore.network.policy import Policy
from fedcore.network.topology import Topology


@dataclass(frozen=True)
class Session:
    """What two parties exchange.

    Args:
        there_mb, back_mb: From the first (in a star: the leader) to the other, and back; MB (10^6 bytes).
        trips: Messages that wait for one before them.
        memory_gb: That a node needs.
    """

    there_mb: float
    back_mb: float
    trips: int = 1
    memory_gb: float = 0.0

    def __post_init__(self) -> None:
        for name in ("there_mb", "back_mb", "trips", "memory_gb"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= 1e9):
                raise JobError(f"session: {name} is {value!r}; it must be from 0 to 1,000,000,000")


@dataclass(frozen=True)
class Met:
    """Where the parties of a session work.

    Args:
        leader: Who is at the middle of the star; the first party of a pair.
        offers: The offer of each party.
        seconds: Of the longest meeting.
        grams, money: Of all.
        latency_ms: Mean from the leader to the others, in the policy's metric.
        objective: Weighted, each term divided by its mean over all nodes and meetings that are allowed.
        rejected: Offers that were not admitted.
    """

    leader: str
    offers: Mapping[str, Offer]
    seconds: float
    grams: float
    money: float
    latency_ms: float
    objective: float
    rejected: tuple[Rejected, ...]


def place_pair(
    one: str,
    other: str,
    offers: Sequence[Offer],
    topology: Topology,
    policy: Policy,
    session: Session,
    root: str,
) -> Met:
    """The best node of each of two parties.

    Args:
        one, other: The parties; `one` sends `there_mb`.
        root: Site whose law counts where the policy says `root`.

    Raises:
        NoPlacement: No combination keeps the hard constraints.
        JobError: A party has no admissible offer, or both are the same.
    """
    return place_star((one, other), offers, topology, policy, session, root, leader=one)


def place_star(
    parties: Sequence[str],
    offers: Sequence[Offer],
    topology: Topology,
    policy: Policy,
    session: Session,
    root: str,
    leader: str | None = None,
) -> Met:
    """The leader of a star, and the best node of each party; all meet the leader at the same time.

    Args:
        parties: Two or more.
        leader: When it is given, it is not looked for.

    Raises:
        NoPlacement: No combination keeps the hard constraints.
        JobError: A party has no admissible offer, stands twice, or the leader is no party.
    """
    names = sorted(parties)
    if len(set(names)) < len(names) or len(names) < 2:
        raise JobError(f"a session needs two or more different parties, not {', '.join(parties) or 'none'}")
    if leader is not None and leader not in names:
        raise JobError(f"{leader} is to lead and is none of the parties {', '.join(names)}")
    own, rejected = _own(names, offers, topology, policy, session, root)
    judge = _Judge(topology, policy, session)
    stars = [
        _Star(name, middle, [judge.met(middle, own[party]) for party in names if party != name])
        for name in ([leader] if leader is not None else names)
        for middle in own[name]
    ]
    stars = [star for star in stars if all(star.others)]
    scale = _means(stars, judge)
    best: Met | None = None
    for star in stars:
        found = _best(star, judge, scale, best, rejected)
        best = found if found is not None else best
    if best is None:
        raise NoPlacement("no choice of nodes keeps the hard constraints of the session", step="placement")
    return best


@dataclass(frozen=True)
class _Meeting:
    """One other party's offer and what meeting the leader there takes."""

    offer: Offer
    seconds: float
    grams: float
    money: float
    ms: float


@dataclass(frozen=True)
class _Star:
    leader: str
    middle: Offer
    others: list[list[_Meeting]]


@dataclass(frozen=True)
class _Means:
    """Of every meeting and every leader's offer that is allowed."""

    seconds: float
    grams: float
    money: float
    ms: float
    distrust: float


class _Judge:
    def __init__(self, topology: Topology, policy: Policy, session: Session) -> None:
        self.topology, self.policy, self.session = topology, policy, session
        self.metric = policy.hard.latency.metric if policy.hard.latency else topology.file.circles.metric

    def met(self, middle: Offer, others: Sequence[Offer]) -> list[_Meeting]:
        """The meetings that are allowed, by the offer's id."""
        found = [self.meeting(middle, other) for other in others]
        return [one for one in found if one is not None]

    def meeting(self, one: Offer, other: Offer) -> _Meeting | None:
        """None when the two may not or cannot meet."""
        topology, session, hard = self.topology, self.session, self.policy.hard
        here, there = topology.index(one.site), topology.index(other.site)
        ms = float((topology.rtt_ms if self.metric == "rtt" else topology.one_way_ms)[here, there])
        out = min(float(topology.mbit_s[here, there]), one.up_mbit_s, other.down_mbit_s)
        back = min(float(topology.mbit_s[there, here]), other.up_mbit_s, one.down_mbit_s)
        rank = min(evidence_rank(str(topology.source[pair])) for pair in ((here, there), (there, here)))
        if min(out, back) <= 0 or rank < evidence_rank(hard.evidence.link):
            return None
        if hard.latency is not None and ms > topology.limit(hard.latency.circle):
            return None
        seconds = max(one.work_s, other.work_s) + session.there_mb * 8 / out + session.back_mb * 8 / back
        seconds += session.trips * float(topology.rtt_ms[here, there]) / 1e3
        if hard.round_deadline is not None and seconds > hard.round_deadline:
            return None
        traffic = self.policy.carbon.network_kwh_per_gb * (session.there_mb + session.back_mb) / 1e3
        grams = self.grams(other) + traffic * self._factor(one.site, other.site)
        money = (
            other.cost
            + other.egress_price * session.back_mb / 1e3
            + one.egress_price * session.there_mb / 1e3
        )
        return _Meeting(other, seconds, grams, money, ms)

    def grams(self, offer: Offer) -> float:
        """On the policy's basis."""
        return offer.gco2_market if self.policy.carbon.basis == "market" else offer.gco2_location

    def _factor(self, one: str, other: str) -> float:
        sites = self.topology.sites
        known = [f for f in (sites[one].carbon_g_per_kwh, sites[other].carbon_g_per_kwh) if f is not None]
        return sum(known) / len(known) if known else 0.0


def _own(
    parties: Sequence[str],
    offers: Sequence[Offer],
    topology: Topology,
    policy: Policy,
    session: Session,
    root: str,
) -> tuple[dict[str, list[Offer]], tuple[Rejected, ...]]:
    """Each party's own admissible offers; nobody else's exist for it."""
    theirs = sorted((offer for offer in offers if offer.owner in parties), key=lambda offer: offer.id)
    check_offers(theirs)
    for offer in theirs:
        topology.index(offer.site)
    kept, rejected = admit_offers(theirs, topology, policy, session.memory_gb, root)
    own = {party: [offer for offer in kept if offer.owner == party] for party in parties}
    for party, these in own.items():
        if not these:
            reasons = sorted({one.reason for one in rejected if one.owner == party}) or ["it made none"]
            raise JobError(f"{party} has no admissible offer: {'; '.join(reasons)}", step="placement")
    return own, tuple(rejected)


def _means(stars: Sequence[_Star], judge: _Judge) -> _Means:
    meetings = [one for star in stars for these in star.others for one in these]
    people = [star.middle for star in stars] + [one.offer for one in meetings]

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values) if values and math.fsum(values) > 0 else 1.0

    return _Means(
        mean([one.seconds for one in meetings]),
        mean([one.grams for one in meetings] + [judge.grams(star.middle) for star in stars]),
        mean([one.money for one in meetings] + [star.middle.cost for star in stars]),
        mean([one.ms for one in meetings]),
        mean([1 - offer.trust for offer in people]),
    )


def _best(
    star: _Star, judge: _Judge, scale: _Means, above: Met | None, rejected: tuple[Rejected, ...]
) -> Met | None:
    """The best of one leader's offer when it is better than `above`: for each length of the whole, part by part."""
    weights, hard = judge.policy.weights, judge.policy.hard
    size = len(star.others) + 1
    money_most = (
        math.inf if hard.cost_per_round is None else hard.cost_per_round * (1 + 1e-9) - star.middle.cost
    )
    grams_most = math.inf if hard.carbon_per_round_g is None else hard.carbon_per_round_g * (1 + 1e-9)
    grams_most -= judge.grams(star.middle)

    def price(grams: float, money: float, ms: float, trust: float) -> float:
        own = weights.carbon * grams / scale.grams / size + weights.cost * money / scale.money / size
        return (
            own
            + weights.latency * ms / scale.ms / (size - 1)
            + weights.security * (1 - trust) / scale.distrust / size
        )

    fixed = price(judge.grams(star.middle), star.middle.cost, 0.0, star.middle.trust)
    rows = [
        sorted(
            ((price(one.grams, one.money, one.ms, one.offer.trust), one.offer.id, one) for one in these),
            key=lambda row: row[:2],
        )
        for these in star.others
    ]
    limit = math.inf if above is None else above.objective
    best: list[_Meeting] | None = None
    for length in sorted({one.seconds for these in star.others for one in these}):
        base = weights.time * length / scale.seconds + fixed
        quick = [[(cost, one) for cost, _, one in row if one.seconds <= length] for row in rows]
        if not all(quick):
            continue
        found = _cheapest(quick, limit - base, grams_most, money_most)
        if found is not None:
            limit, best = base + found[0], found[1]
    if best is None:
        return None
    seconds = max(one.seconds for one in best)
    chosen = {star.leader: star.middle, **{one.offer.owner: one.offer for one in best}}
    return Met(
        star.leader,
        chosen,
        seconds,
        judge.grams(star.middle) + math.fsum(one.grams for one in best),
        star.middle.cost + math.fsum(one.money for one in best),
        math.fsum(one.ms for one in best) / len(best),
        limit,
        rejected,
    )


def _cheapest(
    rows: list[list[tuple[float, _Meeting]]], limit: float, grams: float, money: float
) -> tuple[float, list[_Meeting]] | None:
    """One meeting of each row, the cheapest below `limit` that keeps both budgets; parts that cannot are cut off."""
    count = len(rows)
    rest = [math.fsum(row[0][0] for row in rows[at:]) for at in range(count + 1)]
    least_grams = [
        math.fsum(min(one.grams for _, one in row) for row in rows[at:]) for at in range(count + 1)
    ]
    least_money = [
        math.fsum(min(one.money for _, one in row) for row in rows[at:]) for at in range(count + 1)
    ]
    best: tuple[float, list[_Meeting]] | None = None

    def go(at: int, cost: float, used: tuple[float, float], chosen: list[_Meeting]) -> None:
        nonlocal best, limit
        if at == count:
            limit, best = cost, (cost, chosen)
            return
        for more, one in rows[at]:
            if cost + more + rest[at + 1] >= limit - 1e-15:
                return
            now = (used[0] + one.grams, used[1] + one.money)
            if now[0] + least_grams[at + 1] <= grams and now[1] + least_money[at + 1] <= money:
                go(at + 1, cost + more, now, [*chosen, one])

    go(0, 0.0, (0.0, 0.0), [])
    return best
