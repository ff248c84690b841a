"""Small placements whose best answer can be found by trying everything."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from fedcore.network.evaluate import Placed, Score, evaluate
from fedcore.network.offer import Offer
from fedcore.network.policy import Aggregators, Hard, Participants, Policy, Weights
from fedcore.network.problem import Problem, Work, build
from fedcore.network.topology import Aggregator, Link, Site, Topology, TopologyFile, topology_from

WORK = Work(down_mb=20, up_mb=20, trips=2)


def offer(number: int, owner: str, site: str, **values: object) -> Offer:
    """A plain offer."""
    plain: dict[str, object] = {
        "work_s": 10.0, "kwh": 0.002, "gco2_location": 1.0, "gco2_market": 0.5, "cost": 0.02, "security": 3,
        "attested": ("tee_quote",), "trust": 0.9, "utility": 1.0, "up_mbit_s": 100.0, "down_mbit_s": 300.0,
        "egress_price": 0.1, "jurisdiction": "CN", "memory_gb": 8.0, "available": 0.99,
    }  # fmt: skip
    return Offer(id=f"o{number:04d}", owner=owner, node=f"n{number}", site=site, **{**plain, **values})  # type: ignore[arg-type]


def network(sites: int = 3, ingress: float = 200.0, **aggregator: object) -> Topology:
    """Sites in a row, 400 km apart; all can aggregate."""
    names = [f"s{index}" for index in range(sites)]
    return topology_from(
        TopologyFile(
            name="row",
            sites={
                name: Site(
                    tier="cloud",
                    jurisdiction="CN",
                    carbon_g_per_kwh=200.0 + 150 * index,
                    egress_price=0.05,
                    aggregator=Aggregator(
                        **{
                            "ingress_mbit_s": ingress,
                            "cost": 0.01,
                            "kwh": 0.001,
                            "attested": ("tee_quote",),
                            **aggregator,
                        }
                    ),
                )
                for index, name in enumerate(names)
            },
            links=tuple(Link(ends=(one, two), km=400, mbit_s=1000) for one, two in itertools.pairwise(names)),
        )
    )


def random_offers(seed: int, owners: int, sites: int = 3, most: int = 2) -> list[Offer]:
    """Offers of unequal nodes."""
    draw = np.random.default_rng(seed)
    made = []
    for owner in range(owners):
        for _ in range(int(draw.integers(1, most + 1))):
            made.append(
                offer(
                    len(made),
                    f"p{owner:03d}",
                    f"s{int(draw.integers(sites))}",
                    work_s=float(draw.lognormal(2.5, 0.6)),
                    gco2_location=float(draw.lognormal(0, 0.5)),
                    cost=float(draw.lognormal(-4, 0.5)),
                    trust=float(draw.uniform(0.5, 1)),
                    up_mbit_s=float(draw.lognormal(4.5, 0.5)),
                )
            )
    return made


def policy(pick: int | None = 4, *, standby: int = 0, hard: Hard | None = None, **more: object) -> Policy:
    """Everything counts alike."""
    rules = {"children_min": 3, "standby": standby, **more}
    return Policy(
        weights=Weights(time=0.2, carbon=0.2, cost=0.2, latency=0.2, security=0.2),
        hard=hard or Hard(),
        participants=Participants(pick=pick),
        aggregators=Aggregators(**rules),  # type: ignore[arg-type]
    )


def problem(offers: list[Offer], topology: Topology, rules: Policy, **more: object) -> Problem:
    """Of the root s0."""
    return build(offers, topology, rules, WORK, "s0", **more)  # type: ignore[arg-type]


def every_placement(offers: list[Offer], topology: Topology, pick: int) -> Iterator[list[Placed]]:
    """All ways to place `pick` owners: every choice of owners, of their offers and of sites."""
    own: dict[str, list[str]] = {}
    for one in offers:
        own.setdefault(one.owner, []).append(one.id)
    for owners in itertools.combinations(sorted(own), pick):
        for chosen in itertools.product(*(own[name] for name in owners)):
            for sites in itertools.product(topology.names, repeat=pick):
                yield [Placed(*row) for row in zip(owners, chosen, sites, strict=True)]


def brute_force(offers: list[Offer], topology: Topology, rules: Policy, of: Problem) -> Score | None:
    """The best placement of all that break nothing."""
    best: Score | None = None
    for placed in every_placement(offers, topology, of.pick):
        sizes = {site: sum(one.aggregator == site for one in placed) for site in topology.names}
        if any(0 < size < rules.aggregators.children_min for size in sizes.values()):
            continue
        told = evaluate(placed, offers, topology, rules, WORK, "s0", of.scale)
        if not told.violations and (best is None or told.objective < best.objective):
            best = told
    return best if best is None or math.isfinite(best.objective) else None
