"""Forty invented participants at the eight hubs: their nodes' descriptors, and the offers that follow from them.

No such node exists. Everything drawn here is an assumption, and a seed gives the same network again:

- Hardware: the kinds below, whose figures are round numbers of such machines, times lognormal factors (sigma 0.3 for
  rates, 0.2 for power, 0.4 for lines and prices). One participant in three has a second node at another hub.
- Each participant works on as much data as any other, and kind and data have nothing to do with each other.
- PUE is 1.1 to 1.5, the level of security 2 to 5, the share of time that a node is up 0.85 to 0.99, trust Beta(8, 2).

The hubs' carbon factors are real: their provinces' means, from the map `configs/networks/eight_hubs.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from fedcore.network.acceptance import take_offers
from fedcore.network.descriptor import Descriptor, describe, sign_descriptor
from fedcore.network.node import Carbon, Line, NodeFile, Price, Security, Watts
from fedcore.network.offer import Offer
from fedcore.network.offers import make_offers
from fedcore.network.problem import Work
from fedcore.network.quantity import Quantity, declared
from fedcore.network.topology import Topology, load_topology
from fedcore.network.work import Request
from fedcore.trust.identity import Identity

HERE = Path(__file__).resolve().parent
MAP = HERE.parents[1] / "configs" / "networks" / "eight_hubs.yaml"
ROOT = "guian"
"""The hub at which the aggregate ends."""


@dataclass(frozen=True)
class Kind:
    """A kind of machine.

    Args:
        share: Of all nodes.
        device: `cpu` or `cuda`.
        gflops: Rate of large matrix products in fp32, GFLOP/s.
        cores: Of the processor.
        idle, load: W.
        memory: GB, of the device that computes.
        price: CNY for a TFLOP/s over an hour.
        line: Mbit/s down; half of it up.
    """

    share: float
    device: str
    gflops: float
    cores: int
    idle: float
    load: float
    memory: float
    price: float
    line: float


KINDS = {
    "desktop": Kind(0.35, "cpu", 600.0, 16, 40.0, 180.0, 32.0, 0.6, 200.0),
    "server": Kind(0.30, "cpu", 2_500.0, 64, 150.0, 600.0, 256.0, 0.9, 500.0),
    "small accelerator": Kind(0.25, "cuda", 8_000.0, 16, 60.0, 250.0, 12.0, 1.2, 500.0),
    "large accelerator": Kind(0.10, "cuda", 40_000.0, 64, 120.0, 650.0, 48.0, 1.6, 1_000.0),
}

MOST_PER_CORE = 300.0
"""GFLOP/s; a descriptor that says more is refused as impossible."""
MIDDLE = 2_500.0
"""GFLOP/s."""

REQUEST = Request(
    id="example",
    job="pictures",
    samples=2_000,
    epochs=2,
    model_bytes=100_000_000,
    protocol="none",
    currency="CNY",
    memory_gb=4.0,
    flop_per_sample=12e9,
    efficiency=0.3,
)
"""The job whose time and energy are simulated: 2,000 pictures at each participant, twice in a round, through a network
of 25 million parameters that takes 12 GFLOP for a picture, at 30 % of the rate of large products."""

WORK = Work(down_mb=100.0, up_mb=100.0, trips=2, memory_gb=4.0)


@dataclass(frozen=True)
class Network:
    """What is placed on.

    Args:
        offers: Of all participants, their signatures checked.
        kinds: Of each node, by owner and node.
    """

    topology: Topology
    offers: tuple[Offer, ...]
    descriptors: tuple[Descriptor, ...]
    kinds: dict[tuple[str, str], str]

    @property
    def owners(self) -> tuple[str, ...]:
        """Sorted."""
        return tuple(sorted({offer.owner for offer in self.offers}))


def make_network(seed: int = 7, participants: int = 40, unlike: float = 1.0) -> Network:
    """Draw the participants, sign their descriptors, and ask all of them for offers.

    Args:
        seed: Of all draws but the keys, on which nothing depends.
        participants: How many.
        unlike: How unequal the hardware is: rates are drawn, then each is brought this near to `MIDDLE`, on a
            logarithmic scale; 1 leaves them as they are, at 0 all are equally fast.
    """
    topology = load_topology(MAP)
    draw = np.random.default_rng(seed)
    hubs = [name for name in topology.names if topology.sites[name].tier == "hub"]
    kinds: dict[tuple[str, str], str] = {}
    descriptors, signed, pins = [], [], {}
    trust = {}
    for i in range(participants):
        identity = Identity(f"participant-{i:02d}", HERE, ec.generate_private_key(ec.SECP384R1()))
        pins[identity.name] = identity.public_line
        places = draw.permutation(len(hubs))[: 1 + int(draw.random() < 1 / 3)]
        nodes = []
        for place in places:
            kind = str(draw.choice(list(KINDS), p=[each.share for each in KINDS.values()]))
            file, found = _node(identity.name, hubs[int(place)], kind, topology, unlike, draw)
            kinds[identity.name, file.node] = kind
            trust[identity.name, file.node] = float(draw.beta(8, 2))
            nodes.append(sign_descriptor(describe(file, found), identity))
        descriptors += nodes
        signed += make_offers(REQUEST, nodes, identity).offers
    offers, rejected = take_offers(signed, REQUEST, descriptors, pins, trust=trust)
    if rejected:
        raise RuntimeError(f"{rejected[0].name}: {rejected[0].reason}")
    return Network(topology, tuple(offers), tuple(descriptors), kinds)


def _node(
    owner: str, site: str, kind: str, topology: Topology, unlike: float, draw: np.random.Generator
) -> tuple[NodeFile, dict[str, Quantity]]:
    """What the owner says of a node, and what a probe would have found on it."""
    plain, place = KINDS[kind], topology.sites[site]
    rate = MIDDLE * (plain.gflops * draw.lognormal(0, 0.3) / MIDDLE) ** unlike
    watts, line = draw.lognormal(0, 0.2), plain.line * draw.lognormal(0, 0.4)
    file = NodeFile(
        node=f"{kind.replace(' ', '-')}-{site}",
        owner=owner,
        site=site,
        tier="hub",
        jurisdiction=place.jurisdiction,
        carbon=Carbon(value=place.carbon_g_per_kwh or 0.0, unit="gCO2/kWh", evidence=f"{place.region}, as the map has it"),
        pue=float(draw.uniform(1.1, 1.5)),
        price=Price(
            currency="CNY",
            compute=float(plain.price * draw.lognormal(0, 0.4)),
            egress=float(draw.uniform(0.1, 0.5)),
        ),
        security=Security(level=int(draw.integers(2, 6))),
        power=Watts(idle=plain.idle * watts, load=plain.load * watts),
        line=Line(up=line / 2, down=line),
    )  # fmt: skip
    how = "drawn, not measured"
    found = {
        "cores": declared(plain.cores, "cores", how),
        "memory.cpu": declared(32.0 if plain.device == "cuda" else plain.memory, "GB", how),
        f"gemm.{plain.device}.fp32": declared(_possible(rate, plain), "GFLOP/s", how),
        "availability": declared(float(draw.uniform(0.85, 0.99)), "probability", how),
    }
    if plain.device == "cuda":
        found |= {"memory.cuda": declared(plain.memory, "GB", how)}
        # Its processor is there too, and slower: an owner may offer both.
        found["gemm.cpu.fp32"] = declared(min(rate / 10, MOST_PER_CORE * plain.cores), "GFLOP/s", how)
    return file, found


def _possible(rate: float, kind: Kind) -> float:
    return rate if kind.device == "cuda" else min(rate, MOST_PER_CORE * kind.cores)
