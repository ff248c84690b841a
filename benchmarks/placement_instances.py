"""Random instances of placing one round: owners with nodes of unequal hardware on a map of a real network.

All parameters are assumptions, none was measured; a seed gives the same instance again.

- Sites: those of `chinanet` with a carbon factor; an owner stands at one of them, one in five has a second site.
- Tiers: of an owner's nodes 50 % are `end` (median 90 s of work for the round, 60 W), 35 % `edge` (40 s, 150 W), 15 %
  `cloud` (15 s, 400 W); seconds and watts are lognormal with sigma 0.5 and 0.3. One to three nodes an owner.
- Access links are lognormal with sigma 0.7 around 100 (end), 500 (edge) and 2,000 (cloud) Mbit/s down, a third of it up.
- Energy is watts times seconds times PUE (1.1 to 1.6); carbon is energy times the province's factor (source in the map).
  Four in ten owners hold contracts for 0 to 100 % of their electricity, which lowers the market figure alone.
- Prices: 0.2, 0.6 and 3 CNY for an hour of a node of each tier, lognormal with sigma 0.4, and 0.005 CNY for each round;
  0.05 to 0.5 CNY for a GB out.
- Trust is Beta(8, 2), security 2 to 5, half of the nodes are attested, one in fifty is outside the law of the root.
- An aggregator takes in so much that a quarter of the participants fill it in a round of 40 s, so that room is scarce.
- Utility is lognormal with sigma 0.5; it is used only where the policy gives it a weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.common import ROOT
from fedcore.network.offer import Offer
from fedcore.network.policy import Aggregators, Hard, LatencyLimit, Participants, Policy, Weights
from fedcore.network.problem import Work
from fedcore.network.topology import Topology, load_topology, topology_from

TIERS = {
    "end": (90.0, 60.0, 100.0, 0.2),
    "edge": (40.0, 150.0, 500.0, 0.6),
    "cloud": (15.0, 400.0, 2000.0, 3.0),
}
SHARES = (0.5, 0.35, 0.15)
UPDATE_MB = 50.0
INGRESS_SHARE = 0.5


@dataclass(frozen=True)
class Instance:
    """What is placed.

    Args:
        seed: It was drawn with.
    """

    seed: int
    offers: tuple[Offer, ...]
    topology: Topology
    policy: Policy
    work: Work
    root: str


def policy_for(pick: int) -> Policy:
    """What the benchmark asks for: everything counts, and every kind of hard constraint is on."""
    return Policy(
        name="benchmark",
        weights=Weights(time=0.4, carbon=0.2, cost=0.2, latency=0.1, security=0.1),
        hard=Hard(
            jurisdiction=("CN",),
            security_level=2,
            attestation_any=(),
            latency=LatencyLimit(circle="national", metric="one_way"),
            round_deadline=900.0,
        ),
        participants=Participants(pick=pick, min=pick),
        aggregators=Aggregators(children_min=3, ingress_share=INGRESS_SHARE, standby=1),
    )


def _map(pick: int) -> Topology:
    file = load_topology(ROOT / "configs" / "networks" / "chinanet.yaml").file
    ingress = UPDATE_MB * 8 / INGRESS_SHARE * max(4, pick / 4) / 40.0
    sites = {
        name: site.model_copy(
            update={
                "aggregator": site.aggregator.model_copy(
                    update={"ingress_mbit_s": ingress, "merge_mb_s": 1e5}
                )
            }
        )
        if site.aggregator is not None
        else site
        for name, site in file.sites.items()
    }
    return topology_from(file.model_copy(update={"sites": sites}))


def instance(nodes: int, pick: int, seed: int, policy: Policy | None = None) -> Instance:
    """Draw one.

    Args:
        nodes: Owners.
        pick: Of them, for the round.
    """
    topology = _map(pick)
    draw = np.random.default_rng(seed)
    names = np.array([name for name in topology.names if topology.sites[name].carbon_g_per_kwh is not None])
    factor = {name: topology.sites[name].carbon_g_per_kwh or 0.0 for name in names.tolist()}
    count = draw.integers(1, 4, nodes)
    owner = np.repeat(np.arange(nodes), count)
    size = len(owner)
    home, second = draw.integers(0, len(names), (2, nodes))
    elsewhere = (draw.random(nodes) < 0.2)[owner] & (draw.random(size) < 0.5)
    site = names[np.where(elsewhere, second[owner], home[owner])]
    tier = draw.choice(3, size, p=SHARES)
    work_s, watts, rate, price = (np.array([TIERS[name][k] for name in TIERS])[tier] for k in range(4))
    work_s = work_s * draw.lognormal(0.0, 0.5, size)
    watts = watts * draw.lognormal(0.0, 0.3, size)
    down = rate * draw.lognormal(0.0, 0.7, size)
    kwh = watts * work_s / 3.6e6 * draw.uniform(1.1, 1.6, size)
    cost = 0.005 + price * draw.lognormal(0.0, 0.4, size) * work_s / 3600
    green = np.where(draw.random(nodes) < 0.4, draw.random(nodes), 0.0)[owner]
    trust, egress = draw.beta(8, 2, size), draw.uniform(0.05, 0.5, size)
    level, attested = draw.integers(2, 6, size), draw.random(size) < 0.5
    utility, up_time = draw.lognormal(0.0, 0.5, nodes)[owner], draw.beta(30, 1, size)
    abroad = draw.random(size) < 0.02
    width = len(str(nodes))
    offers = tuple(
        Offer(
            id=f"o{i:07d}",
            owner=f"owner-{owner[i]:0{width}d}",
            node=f"node-{i}",
            site=str(site[i]),
            work_s=float(work_s[i]),
            kwh=float(kwh[i]),
            gco2_location=float(kwh[i] * factor[str(site[i])]),
            gco2_market=float(kwh[i] * factor[str(site[i])] * (1 - green[i])),
            cost=float(cost[i]),
            security=int(level[i]),
            attested=("measured_boot",) if attested[i] else (),
            trust=float(trust[i]),
            utility=float(utility[i]),
            up_mbit_s=float(down[i] / 3),
            down_mbit_s=float(down[i]),
            egress_price=float(egress[i]),
            jurisdiction="HK" if abroad[i] else "CN",
            memory_gb=16.0,
            available=float(up_time[i]),
        )
        for i in range(size)
    )
    return Instance(
        seed,
        offers,
        topology,
        policy or policy_for(pick),
        Work(down_mb=UPDATE_MB, up_mb=UPDATE_MB, trips=2),
        "beijing",
    )
