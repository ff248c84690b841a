"""A simulated clock: what the rounds of a placement would take, with machines that vary, fail and come back.

Nothing here is measured. The clock takes the figures of the offers, which come from the nodes' descriptors, and plays
each round through: the model goes down, is trained on, goes up, waits for the aggregator's line, is added up, and the
sum goes to the root. Seconds, energy, carbon and cost are simulated; what is learned is not its business, so that a
real model can be trained beside it (`fedcore.network.course`).

Assumptions, all in `Weather`, none measured:

- Computing takes the offer's seconds times a lognormal factor of mean 1, drawn anew in each round; transfers likewise.
- A node is up or down, a Markov chain of two states in continuous time. An outage lasts `outage_s` on average; how
  often it fails follows from the offer's `available`, which is the mean over a day. The share of time in which nodes
  are up swings about it, highest at `best_hour`.
- A node that fails in the middle of a round is noticed after `noticed_s`; its update is lost, what it used is counted.
- Grid factors do not change over the day.

Without weather (`CALM`) and with room at the aggregators a round takes what the plan's prediction says, worked out
here by playing it rather than by the plan's formula. All draws depend on the seed, the node and the round alone, so
that two policies meet the same weather.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.errors import DataError, JobError
from fedcore.network.evaluate import Placed
from fedcore.network.offer import Offer, check_offers
from fedcore.network.policy import Policy
from fedcore.network.problem import Work
from fedcore.network.topology import Topology

DAY = 86_400.0
_STEP = 900.0
"""Seconds over which the daily cycle is taken as constant."""
_COMPUTE, _LINK, _FAIL, _STATE = range(4)
"""What a draw is for."""


@dataclass(frozen=True)
class Weather:
    """What varies. Every value is an assumption.

    Args:
        compute: Sigma of the lognormal factor of a node's seconds of computing.
        link: Sigma of that of a transfer.
        outage_s: Seconds that a node stays down, on average.
        swing: Of the daily cycle, 0 to 1: at 1, a node that is up 80 % of the time is always up at the best hour.
        best_hour: Of the day, at which most nodes are up.
        noticed_s: Seconds until a failed node counts as lost: two heartbeats of 10 s by default.
    """

    compute: float = 0.15
    link: float = 0.1
    outage_s: float = 1800.0
    swing: float = 0.5
    best_hour: float = 3.0
    noticed_s: float = 20.0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("compute", 0.0, 3.0),
            ("link", 0.0, 3.0),
            ("outage_s", 1.0, 1e7),
            ("swing", 0.0, 1.0),
            ("best_hour", 0.0, 24.0),
            ("noticed_s", 0.0, 1e5),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and least <= value <= most):
                raise JobError(f"clock: {name} is {value!r}; it must be from {least:g} to {most:g}")


CALM = Weather(compute=0.0, link=0.0, swing=0.0)
"""Nothing varies; nodes whose offers say so still fail."""


@dataclass(frozen=True)
class Took:
    """A participant's part of a simulated round, in seconds.

    Args:
        down, compute, up: Until the model is there; training; until the update is at its aggregator.
        lost: It failed before that; the figures are those until then.
    """

    down: float
    compute: float
    up: float
    lost: bool = False


@dataclass(frozen=True)
class SimulatedRound:
    """What a round took, by the simulated clock.

    Args:
        number: From 1.
        began: Seconds since the clock's start.
        seconds: Until the aggregate is at the root.
        kwh: Of computing, traffic and aggregators.
        gco2_location, gco2_market: Grams.
        cost: In the policy's currency.
        done: Owners whose update is in the aggregate.
        lost: Owners that failed in the round.
        parts: By owner.
    """

    number: int
    began: float
    seconds: float
    kwh: float
    gco2_location: float
    gco2_market: float
    cost: float
    done: tuple[str, ...]
    lost: tuple[str, ...]
    parts: dict[str, Took]


class Clock:
    """Plays rounds, one after the other.

    Args:
        offers: Of all owners.
        topology, policy, work, root: As the plans have them.
        seed: Of all draws.
        weather: What varies.
        hour: Of the day at which it starts.

    Attributes:
        now: Seconds since the start.
        number: Rounds played.

    Raises:
        DataError: An offer is impossible.
    """

    def __init__(
        self,
        offers: Sequence[Offer],
        topology: Topology,
        policy: Policy,
        work: Work,
        root: str,
        *,
        seed: int = 0,
        weather: Weather | None = None,
        hour: float = 9.0,
    ) -> None:
        check_offers(offers)
        topology.index(root)
        self._offers = {offer.id: offer for offer in sorted(offers, key=lambda one: one.id)}
        self._topology, self._policy, self._work, self._root = topology, policy, work, root
        self._seed, self._weather, self._start = seed, weather or Weather(), hour * 3600
        self._up: dict[str, tuple[float, bool, int]] = {}
        self.now, self.number = 0.0, 0

    # ---- who is up --------------------------------------------------------------------------------------------

    def online(self) -> list[Offer]:
        """Offers of the nodes that are up now, by id."""
        return [offer for offer in self._offers.values() if self._is_up(offer)]

    def wait(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            JobError: The time is not positive.
        """
        if not (math.isfinite(seconds) and seconds > 0):
            raise JobError(f"clock: a wait of {seconds!r} s; it must be above 0")
        self.now += seconds

    def share_up(self, available: float, at: float) -> float:
        """The probability that a node of such an availability is up at a moment."""
        room = min(available, 1 - available)
        angle = 2 * math.pi * ((self._start + at) / DAY - self._weather.best_hour / 24)
        return available + self._weather.swing * room * math.cos(angle)

    def _is_up(self, offer: Offer) -> bool:
        node = f"{offer.owner}/{offer.node}"
        known = self._up.get(node)
        if known is None:
            chance, count = self.share_up(offer.available, self.now), 0
        else:
            since, up, count = known
            if since >= self.now:
                return up
            chance = self._later(offer.available, float(up), since)
        found = bool(self._draw(_STATE, node, count).random() < chance)
        self._up[node] = (self.now, found, count + 1)
        return found

    def _note(self, offer: Offer, at: float, up: bool) -> None:
        """What a round showed of a node, from which its chain goes on."""
        node = f"{offer.owner}/{offer.node}"
        self._up[node] = (at, up, self._up[node][2] + 1)

    def _later(self, available: float, chance: float, since: float) -> float:
        """The probability to be up now, from that of a moment ago."""
        while since < self.now:
            step = min(_STEP, self.now - since)
            share = self.share_up(available, since + step / 2)
            # Recovers at 1 / outage and fails at (1 - share) / share of that, so that it is up for this share.
            kept = math.exp(-step / (self._weather.outage_s * share)) if share > 0 else 0.0
            chance = share + (chance - share) * kept
            since += step
        return chance

    def _fails_after(self, offer: Offer) -> float:
        """Seconds from now until the node fails."""
        share = self.share_up(offer.available, self.now)
        if share >= 1:
            return math.inf
        mean = self._weather.outage_s * share / (1 - share)
        return float(
            self._draw(_FAIL, f"{offer.owner}/{offer.node}", self.number).exponential(max(mean, 1e-9))
        )

    def _draw(self, what: int, node: str, count: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, what, zlib.crc32(node.encode()), count])

    def _factor(self, what: int, sigma: float, offer: Offer, size: int) -> list[float]:
        """Lognormal factors of mean 1 for a node in this round."""
        if sigma == 0:
            return [1.0] * size
        draw = self._draw(what, f"{offer.owner}/{offer.node}", self.number)
        return [float(value) for value in draw.lognormal(-(sigma**2) / 2, sigma, size)]

    # ---- a round ----------------------------------------------------------------------------------------------

    def round(self, placed: Sequence[Placed]) -> SimulatedRound:
        """Play a round; the clock stands at its end afterwards.

        Args:
            placed: Of a plan; a node that is down already gives nothing and is noticed like one that fails.

        Raises:
            DataError: A placed offer or site is not there, or has no path.
        """
        self.number += 1
        by_site: dict[str, list[tuple[Took, float]]] = {}
        bill = _Bill(self._policy.carbon.network_kwh_per_gb, self._topology)
        parts: dict[str, Took] = {}
        for one in placed:
            offer = self._offers.get(one.offer)
            if offer is None or offer.owner != one.owner or one.owner in parts:
                raise DataError(
                    f"{one.owner} is placed twice or its offer {one.offer} is not there", step="clock"
                )
            took, end = self._part(offer, one.aggregator, bill)
            parts[one.owner] = took
            by_site.setdefault(one.aggregator, []).append((took, end))
        ends = [0.0]
        for site, children in sorted(by_site.items()):
            ends.append(self._gather(site, [(end, took) for took, end in children], bill))
        found = SimulatedRound(
            self.number, self.now, max(ends), bill.kwh, bill.location, bill.market, bill.money,
            tuple(owner for owner, took in parts.items() if not took.lost),
            tuple(owner for owner, took in parts.items() if took.lost),
            parts,
        )  # fmt: skip
        self.now += found.seconds
        return found

    def _part(self, offer: Offer, site: str, bill: _Bill) -> tuple[Took, float]:
        """What a participant takes, and when its update is at the aggregator or its loss is noticed."""
        link_down, link_up = self._factor(_LINK, self._weather.link, offer, 2)
        (speed,) = self._factor(_COMPUTE, self._weather.compute, offer, 1)
        work = self._work
        before = self._leg(self._root, site, work.down_mb) if site != self._root else 0.0
        down = self._leg(site, offer.site, work.down_mb, offer.down_mbit_s) * link_down
        compute = offer.work_s * speed
        up = self._leg(offer.site, site, work.up_mb, offer.up_mbit_s) * link_up
        end = before + down + compute + up
        fails = self._fails_after(offer) if self._is_up(offer) else 0.0
        self._note(offer, self.now + min(fails, end), up=fails >= end)
        if fails >= end:
            bill.compute(offer, compute / offer.work_s)
            bill.traffic(offer.site, site, work.down_mb, self._topology.sites[site].egress_price)
            bill.traffic(offer.site, site, work.up_mb, offer.egress_price)
            return Took(before + down, compute, up), end
        trained = min(max(0.0, fails - before - down), compute)
        bill.compute(offer, trained / offer.work_s)
        if fails > before + down:
            bill.traffic(offer.site, site, work.down_mb, self._topology.sites[site].egress_price)
        told = Took(min(fails, before + down), trained, max(0.0, fails - before - down - compute), lost=True)
        return told, fails + self._weather.noticed_s

    def _gather(self, site: str, children: Sequence[tuple[float, Took]], bill: _Bill) -> float:
        """When the sum of an aggregator is at the root: updates queue for its line, then for its adder."""
        role = self._topology.sites[site].aggregator
        if role is None:
            raise DataError(f"{site} cannot aggregate", step="clock")
        intake = self._work.up_mb * 8 / role.ingress_mbit_s
        taken = added = noticed = 0.0
        for end, took in sorted(children, key=lambda child: child[0]):
            if took.lost:
                noticed = max(noticed, end)
                continue
            taken = max(end, max(taken, end - took.up) + intake)
            added = max(added, taken) + self._work.up_mb / role.merge_mb_s
        bill.aggregator(site)
        if not added:
            return noticed
        end = max(added, noticed)
        if site != self._root:
            end += self._leg(site, self._root, self._work.up_mb)
            sites = self._topology.sites
            bill.traffic(site, self._root, self._work.up_mb, sites[site].egress_price)
            bill.traffic(site, self._root, self._work.down_mb, sites[self._root].egress_price)
        return end

    def _leg(self, start: str, end: str, mb: float, access: float = math.inf) -> float:
        """Seconds of a transfer one way, with its share of the round trips."""
        there = (self._topology.index(start), self._topology.index(end))
        rate = min(float(self._topology.mbit_s[there]), access)
        if rate <= 0:
            raise DataError(f"there is no path from {start} to {end}", step="clock")
        return mb * 8 / rate + self._work.trips * float(self._topology.one_way_ms[there]) / 1e3


class _Bill:
    """Energy, carbon and money of a round."""

    def __init__(self, kwh_per_gb: float, topology: Topology) -> None:
        self._per_gb, self._topology = kwh_per_gb, topology
        self.kwh = self.location = self.market = self.money = 0.0

    def compute(self, offer: Offer, share: float) -> None:
        """So many times of what the offer says for a round."""
        self.kwh += offer.kwh * share
        self.location += offer.gco2_location * share
        self.market += offer.gco2_market * share
        self.money += offer.cost * share

    def traffic(self, one: str, other: str, mb: float, price: float) -> None:
        """At the mean of the two ends' factors."""
        kwh = self._per_gb * mb / 1000
        factors = [self._topology.sites[name].carbon_g_per_kwh for name in (one, other)]
        known = [factor for factor in factors if factor is not None]
        grams = kwh * (sum(known) / len(known) if known else 0.0)
        self.kwh, self.location, self.market = self.kwh + kwh, self.location + grams, self.market + grams
        self.money += price * mb / 1000

    def aggregator(self, site: str) -> None:
        """Kept for a round."""
        role = self._topology.sites[site].aggregator
        if role is not None:
            grams = role.kwh * (self._topology.sites[site].carbon_g_per_kwh or 0.0)
            self.kwh, self.location, self.market = (
                self.kwh + role.kwh,
                self.location + grams,
                self.market + grams,
            )
            self.money += role.cost
