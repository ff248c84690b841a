"""The numbers of one placement: what every offer would take at every aggregator, and what may be chosen.

    seconds(o, a) = down(root, a) + down(a, o) + work(o) + up(o, a) + trips * rtt(o, a) + merge(a) + up(a, root) + trips * rtt(a, root)
    round         = max over the chosen of seconds, and over open a of children(a) * intake(a) / share
    J             = w_time * round / T0 + w_carbon * g / g0 + w_cost * price / c0 + w_latency * mean ms / l0
                    + w_security * mean (1 - trust) / s0 - w_utility * utility / u0

An aggregator adds an update up while the next one comes in, so that one addition is left after the last; what all
of them take must fit into its share of the round, which bounds its children once the round's length is given.
Owners, offers and sites are sorted by name, so that the order in which they come changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from fedcore.errors import JobError
from fedcore.network.admission import Rejected, admit_offers, admit_sites, evidence_rank
from fedcore.network.offer import Offer, check_offers
from fedcore.network.policy import Policy
from fedcore.network.reference import Scale, random_scale
from fedcore.network.topology import Topology

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Work:
    """What travels in a round, for each participant.

    Args:
        down_mb: The model, MB (10^6 bytes).
        up_mb: The update, MB.
        trips: Messages that wait for one before them, beside the transfer: one round trip each.
        memory_gb: That a node needs.
    """

    down_mb: float
    up_mb: float
    trips: int = 1
    memory_gb: float = 0.0

    def __post_init__(self) -> None:
        for name in ("down_mb", "up_mb", "memory_gb", "trips"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= 1e7):
                raise JobError(f"work: {name} is {value!r}; it must be from 0 to 10,000,000")


@dataclass(frozen=True, eq=False)
class Problem:
    """One placement in numbers; N owners, F offers, A sites that can aggregate.

    Args:
        owners: [N], those who may be chosen.
        offers: [F], admissible, an owner's together.
        owner_of: [F], index of each offer's owner.
        first: [N], each owner's first offer.
        sites: [A].
        seconds: [F, A]; infinite where the pair is not allowed.
        cost: [F, A], the objective without time.
        open_cost: [A], the objective of opening a site.
        intake_s: [A], seconds of a round that one child needs at least: children <= round / intake_s.
        mandatory: [N], of bool.
        pick: Owners of a round.
        fewest: Owners that it may shrink to when `pick` cannot be had.
        children_min: Of an open site.
        most_open: Sites, those kept ready not counted.
        deadline: Seconds; infinite without one.
        grams_most, money_most: Budgets; infinite without one.
        time_weight: Objective per second.
        scale: Of the terms.
        rejected: Offers, owners and sites that were left out before, and why.
    """

    owners: tuple[str, ...]
    offers: tuple[Offer, ...]
    owner_of: Ints
    first: Ints
    sites: tuple[str, ...]
    seconds: Floats
    cost: Floats
    open_cost: Floats
    intake_s: Floats
    mandatory: Bools
    pick: int
    fewest: int
    children_min: int
    most_open: int
    deadline: float
    grams_most: float
    money_most: float
    time_weight: float
    scale: Scale
    rejected: tuple[Rejected, ...]
    terms: Terms

    @property
    def budgets(self) -> bool:
        """Whether a budget bounds the sum over the chosen."""
        return math.isfinite(self.grams_most) or math.isfinite(self.money_most)

    def capacity(self, round_s: float) -> Ints:
        """[A], children that each site can have in a round of so many seconds."""
        return np.minimum(np.floor(round_s / self.intake_s + 1e-9), len(self.owners)).astype(np.int64)

    def priced(self, grams_price: float, money_price: float) -> Problem:
        """The same without budgets, each gram and each unit of money charged in the objective."""
        extra = np.zeros_like(self.cost)
        opening = self.open_cost.copy()
        if grams_price:
            extra += grams_price * self.terms.all_grams()
            opening += grams_price * self.terms.open_grams
        if money_price:
            extra += money_price * self.terms.all_money()
            opening += money_price * self.terms.open_money
        changes = {
            "cost": self.cost + extra,
            "open_cost": opening,
            "grams_most": np.inf,
            "money_most": np.inf,
        }
        return Problem(**{**self.__dict__, **changes})


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of the objective in their own units, kept apart as a part of the offer and one of the two sites.

    Args:
        site_of: [F], row of each offer in the [S, A] arrays.
        grams, money: [F], of the offer.
        path_grams, path_money, path_ms: [S, A].
        open_grams, open_money: [A].
        distrust, utility: [F].
    """

    site_of: Ints
    grams: Floats
    money: Floats
    distrust: Floats
    utility: Floats
    path_grams: Floats
    path_money: Floats
    path_ms: Floats
    open_grams: Floats
    open_money: Floats

    def all_grams(self) -> Floats:
        """[F, A]."""
        return self.grams[:, None] + self.path_grams[self.site_of]

    def all_money(self) -> Floats:
        """[F, A]."""
        return self.money[:, None] + self.path_money[self.site_of]

    def of(self, offers: Ints, sites: Ints) -> tuple[float, float]:
        """Grams and money of chosen pairs and of the sites that they open."""
        at, opened = (self.site_of[offers], sites), np.unique(sites)
        grams = self.grams[offers].sum() + self.path_grams[at].sum() + self.open_grams[opened].sum()
        money = self.money[offers].sum() + self.path_money[at].sum() + self.open_money[opened].sum()
        return float(grams), float(money)


def build(
    offers: Sequence[Offer],
    topology: Topology,
    policy: Policy,
    work: Work,
    root: str,
    *,
    seed: int = 0,
    scale: Scale | None = None,
    forced: Collection[str] = (),
    barred: Collection[str] = (),
    pick: int | None = None,
) -> Problem:
    """The problem of placing one round.

    Args:
        offers: Of all owners.
        root: The site at which the aggregate ends.
        seed: Of the random placements that scale the terms.
        scale: What to divide the terms by instead, such as that of the plan that is being repaired.
        forced: Owners whom fairness needs in this round.
        barred: Owners whom fairness keeps out of it.
        pick: Owners of the round instead of the policy's `pick`.

    Raises:
        DataError: An offer is impossible, or its site is unknown.
        JobError: No offer or no aggregator is left, or a mandatory owner has none; with the reasons.
    """
    check_offers(offers)
    topology.index(root)
    for site in sorted({offer.site for offer in offers}):
        topology.index(site)
    ordered = sorted(offers, key=lambda offer: (offer.owner, offer.id))
    candidates, rejected = admit_sites(topology, policy, root)
    kept, more = admit_offers(ordered, topology, policy, work.memory_gb, root, frozenset(barred))
    rejected += more
    if not candidates:
        raise JobError(f"no site can aggregate: {_told(rejected)}", step="placement")
    if len(candidates) <= policy.aggregators.standby:
        raise JobError(
            f"{len(candidates)} sites can aggregate and {policy.aggregators.standby} are to stand by; set aggregators."
            f"standby to at most {len(candidates) - 1}: {_told(rejected)}",
            step="placement",
        )
    where = [topology.index(name) for name in candidates]
    seconds, terms, opening = _matrices(kept, topology, policy, work, where, topology.index(root))
    reach: Bools = np.asarray(np.isfinite(seconds).any(axis=1))
    rejected += [
        Rejected(
            "offer", offer.id, offer.owner, "no aggregator in its circle with a link of the evidence needed"
        )
        for offer, ok in zip(kept, reach, strict=True)
        if not ok
    ]
    kept = [offer for offer, ok in zip(kept, reach, strict=True) if ok]
    seconds, terms = seconds[reach], _only(terms, reach)
    owners = tuple(dict.fromkeys(offer.owner for offer in kept))
    place = {name: index for index, name in enumerate(owners)}
    needed = {*policy.participants.mandatory, *forced}
    if needed - set(owners):
        lost = ", ".join(sorted(needed - set(owners)))
        raise JobError(
            f"needed in this round but without an admissible offer: {lost}: {_told(rejected)}",
            step="placement",
        )
    if not owners:
        raise JobError(f"no offer is left: {_told(rejected)}", step="placement")
    owner_of = np.array([place[offer.owner] for offer in kept], dtype=np.int64)
    mandatory = np.zeros(len(owners), dtype=np.bool_)
    mandatory[[place[name] for name in needed]] = True
    count = pick if pick is not None else policy.participants.pick or len(owners)
    if policy.hard.round_deadline is not None:
        seconds = np.where(seconds <= policy.hard.round_deadline, seconds, np.inf)
    draft = Problem(
        owners=owners,
        offers=tuple(kept),
        owner_of=owner_of,
        first=np.searchsorted(owner_of, np.arange(len(owners))),
        sites=candidates,
        seconds=seconds,
        cost=np.zeros_like(seconds),
        open_cost=np.zeros(len(candidates)),
        intake_s=opening / policy.aggregators.ingress_share,
        mandatory=mandatory,
        pick=count,
        fewest=min(
            count, policy.participants.min or policy.participants.pick or policy.aggregators.children_min
        ),
        children_min=policy.aggregators.children_min,
        most_open=min(
            policy.aggregators.most or len(candidates), len(candidates) - policy.aggregators.standby
        ),
        deadline=policy.hard.round_deadline or math.inf,
        grams_most=policy.hard.carbon_per_round_g or math.inf,
        money_most=policy.hard.cost_per_round or math.inf,
        time_weight=0.0,
        scale=Scale(),
        rejected=tuple(rejected),
        terms=terms,
    )
    found = scale or random_scale(draft, policy.reference.samples, np.random.default_rng(seed))
    return _weighted(draft, policy, found)


def _weighted(draft: Problem, policy: Policy, scale: Scale) -> Problem:
    """The problem with its objective."""
    weights, terms, count = policy.weights, draft.terms, draft.pick
    per_g, per_money = weights.carbon / scale.grams, weights.cost / scale.money
    own = (
        per_g * terms.grams
        + per_money * terms.money
        + weights.security / scale.distrust / count * terms.distrust
    )
    own = own - policy.participants.utility.weight / scale.utility / count * terms.utility
    path = per_g * terms.path_grams + per_money * terms.path_money
    path = path + weights.latency / scale.latency_ms / count * np.where(
        np.isfinite(terms.path_ms), terms.path_ms, 0.0
    )
    changes = {
        "cost": np.where(np.isfinite(draft.seconds), own[:, None] + path[terms.site_of], np.inf),
        "open_cost": per_g * terms.open_grams + per_money * terms.open_money,
        "time_weight": weights.time / scale.round_s,
        "scale": scale,
    }
    return Problem(**{**draft.__dict__, **changes})


def _matrices(
    offers: Sequence[Offer], topology: Topology, policy: Policy, work: Work, where: list[int], root: int
) -> tuple[Floats, Terms, Floats]:
    """Seconds [F, A], the terms, and seconds of intake of one child [A]."""
    sites = [topology.sites[name] for name in topology.names]
    place = {name: index for index, name in enumerate(topology.names)}
    roles = [sites[index].aggregator for index in where]
    metric = policy.hard.latency.metric if policy.hard.latency else topology.file.circles.metric
    ms = (topology.rtt_ms if metric == "rtt" else topology.one_way_ms)[:, where]
    rtt, to, back = topology.rtt_ms[:, where], topology.mbit_s[:, where], topology.mbit_s[where].T
    rank = np.vectorize(evidence_rank, otypes=[int])(topology.source[:, where])
    allowed = (to > 0) & (back > 0) & (rank >= evidence_rank(policy.hard.evidence.link))
    if policy.hard.latency is not None:
        allowed &= ms <= topology.limit(policy.hard.latency.circle)
    apart = np.array([index != root for index in where])
    with np.errstate(divide="ignore", invalid="ignore"):
        merge = np.array([work.up_mb / role.merge_mb_s for role in roles if role is not None])
        intake = np.array([work.up_mb * 8 / role.ingress_mbit_s for role in roles if role is not None])
        trunk = (
            work.down_mb * 8 / topology.mbit_s[root, where] + work.up_mb * 8 / topology.mbit_s[where, root]
        )
        trunk = np.where(apart, trunk + work.trips * rtt[root] / 1e3, 0.0)
        site_of = np.array([place[offer.site] for offer in offers], dtype=np.int64)
        column = _columns(offers)
        up = np.maximum((work.up_mb * 8 / column["up_mbit_s"])[:, None], (work.up_mb * 8 / to)[site_of])
        down = np.maximum(
            (work.down_mb * 8 / column["down_mbit_s"])[:, None], (work.down_mb * 8 / back)[site_of]
        )
        path = np.where(allowed, work.trips * rtt / 1e3, np.inf) + (merge + trunk)
        seconds = up + down
        seconds += path[site_of]
        seconds += column["work_s"][:, None]
    seconds[np.isnan(seconds)] = np.inf
    up_gb, down_gb = work.up_mb / 1e3, work.down_mb / 1e3
    factor = np.array([np.nan if site.carbon_g_per_kwh is None else site.carbon_g_per_kwh for site in sites])
    egress = np.array([site.egress_price for site in sites])
    here = factor[where]
    between = np.where(np.isnan(factor)[:, None], here, (factor[:, None] + here) / 2)
    network = policy.carbon.network_kwh_per_gb * (up_gb + down_gb) * between
    own_kwh = np.array([role.kwh for role in roles if role is not None])
    own_cost = np.array([role.cost for role in roles if role is not None])
    market = policy.carbon.basis == "market"
    terms = Terms(
        site_of=site_of,
        grams=column["gco2_market" if market else "gco2_location"],
        money=column["cost"] + column["egress_price"] * up_gb,
        distrust=1.0 - column["trust"],
        utility=column["utility"],
        path_grams=network,
        path_money=np.broadcast_to(egress[where] * down_gb, network.shape),
        path_ms=ms,
        open_grams=own_kwh * here + np.where(apart, network[root], 0.0),
        open_money=own_cost + np.where(apart, egress[where] * up_gb + egress[root] * down_gb, 0.0),
    )
    return seconds, terms, np.maximum(np.maximum(intake, merge), 1e-12)


_READ = (
    "work_s",
    "gco2_location",
    "gco2_market",
    "cost",
    "trust",
    "utility",
    "up_mbit_s",
    "down_mbit_s",
    "egress_price",
)


def _columns(offers: Sequence[Offer]) -> dict[str, Floats]:
    rows = np.array(list(map(attrgetter(*_READ), offers)), dtype=np.float64).reshape(len(offers), len(_READ))
    return dict(zip(_READ, rows.T.copy(), strict=True))


def _only(terms: Terms, kept: Bools) -> Terms:
    of_offers = ("site_of", "grams", "money", "distrust", "utility")
    return Terms(**{**terms.__dict__, **{name: getattr(terms, name)[kept] for name in of_offers}})


def _told(rejected: Sequence[Rejected]) -> str:
    """The reasons, the commonest first."""
    count: dict[str, int] = {}
    for one in rejected:
        count[f"{one.what}: {one.reason}"] = count.get(f"{one.what}: {one.reason}", 0) + 1
    told = sorted(count.items(), key=lambda item: (-item[1], item[0]))[:5]
    return "; ".join(f"{number} x {reason}" for reason, number in told) or "there is none at all"


def offers_of(problem: Problem, owner: int) -> range:
    """Indices of an owner's offers."""
    end = problem.first[owner + 1] if owner + 1 < len(problem.owners) else len(problem.offers)
    return range(int(problem.first[owner]), int(end))
