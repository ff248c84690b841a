"""What an owner answers to a request: at most eight signed offers, none of which another beats.

The coordinator learns what a node would take, not what stands in the owner's halls. An owner offers its own nodes
only, so its data never leave its domain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from fedcore.errors import DataError
from fedcore.network.admission import evidence_rank
from fedcore.network.descriptor import Descriptor
from fedcore.network.offer import MOST_PER_OWNER, Offer
from fedcore.network.quantity import Quantity, iso
from fedcore.network.signed import sign
from fedcore.network.signed_offer import KIND, Evidence, SignedOffer
from fedcore.network.work import Request, predict
from fedcore.trust.identity import Identity

LIFE_SECONDS = 900.0
"""That an offer holds by default."""
UNSEEN = 0.5
"""Availability of a node of which no heartbeat was seen: the mean of a flat prior."""


@dataclass(frozen=True)
class Made:
    """An owner's answer.

    Args:
        offers: At most eight, signed; none is beaten by another.
        left_out: Why a node makes no offer, by its name.
    """

    offers: tuple[SignedOffer, ...]
    left_out: dict[str, str]


def make_offers(
    request: Request,
    nodes: Sequence[Descriptor],
    identity: Identity,
    *,
    queue_s: Mapping[str, float] | None = None,
    idle_is_shared: bool = False,
    utility: float = 0.0,
    life: float = LIFE_SECONDS,
    at: datetime | None = None,
) -> Made:
    """What an owner answers to a request.

    Args:
        request: The work.
        nodes: The owner's own, with all their quantities (L0).
        identity: The owner's key.
        queue_s: Seconds until a node is free, by its name; 0 for others.
        idle_is_shared: Whether the machines would be on anyway, so that only what they draw above idle counts.
        utility: What the owner's data are worth to the model; already noised, where it is told at all.
        life: Seconds that the offers hold.
        at: When; now by default.
    """
    begins = at or datetime.now(UTC)
    found: list[tuple[Offer, Evidence]] = []
    left_out: dict[str, str] = {}
    for node in nodes:
        if node.owner != identity.name:
            left_out[node.node] = f"belongs to {node.owner}; an owner offers its own nodes only"
            continue
        try:
            found += _options(request, node, (queue_s or {}).get(node.node, 0.0), idle_is_shared, utility)
        except DataError as error:
            left_out[node.node] = error.message
    best = choose([offer for offer, _ in found])
    rests = {offer.id: evidence for offer, evidence in found}
    signed = [
        SignedOffer(
            offer,
            request.digest,
            request.currency,
            rests[offer.id],
            iso(begins),
            iso(begins + timedelta(seconds=life)),
        )
        for offer in best
    ]
    return Made(
        tuple(replace(each, signature=sign(identity, KIND, each.payload())) for each in signed), left_out
    )


def choose(offers: Iterable[Offer], most: int = MOST_PER_OWNER) -> list[Offer]:
    """The offers that no other beats; where they are too many, those that lie farthest apart.

    First the best of each figure, then, one by one, the offer whose nearest chosen one is farthest away, figures
    scaled to their range. The same offers in any order give the same choice.

    Args:
        offers: Of one owner.
        most: To keep.
    """
    ordered = sorted(offers, key=lambda offer: offer.id)
    front = [one for one in ordered if not any(beats(other, one) for other in ordered)]
    if len(front) <= most:
        return front
    rows = [_figures(offer) for offer in front]
    low = [min(column) for column in zip(*rows, strict=True)]
    span = [
        max(max(column) - least, 1e-12) for column, least in zip(zip(*rows, strict=True), low, strict=True)
    ]
    scaled = [
        [(value - least) / wide for value, least, wide in zip(row, low, span, strict=True)] for row in rows
    ]
    chosen: list[int] = []
    for axis in range(len(low)):
        best = min(range(len(front)), key=lambda i: (scaled[i][axis], i))
        if best not in chosen and len(chosen) < most:
            chosen.append(best)
    while len(chosen) < most:
        rest = [i for i in range(len(front)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: (min(math.dist(scaled[i], scaled[j]) for j in chosen), -i)))
    return [front[i] for i in sorted(chosen)]


def beats(one: Offer, other: Offer) -> bool:
    """Whether an offer is at least as good in every figure and better in one, at the same site."""
    if (one.site, one.jurisdiction) != (other.site, other.jurisdiction) or one is other:
        return False
    if not set(one.attested) >= set(other.attested):
        return False
    mine, theirs = _figures(one), _figures(other)
    if any(a > b for a, b in zip(mine, theirs, strict=True)):
        return False
    # Of two that are equal in all, the first by name stands for both.
    return mine != theirs or set(one.attested) > set(other.attested) or one.id < other.id


def _figures(offer: Offer) -> tuple[float, ...]:
    """What makes one offer better than another, less being better. Trust is not the owner's to say."""
    return (
        offer.work_s,
        offer.cost,
        offer.gco2_location,
        offer.gco2_market,
        offer.kwh,
        -offer.security,
        -offer.available,
        -offer.up_mbit_s,
        -offer.down_mbit_s,
        offer.egress_price,
        -offer.memory_gb,
    )


def _options(
    request: Request, node: Descriptor, queue_s: float, idle_is_shared: bool, utility: float
) -> list[tuple[Offer, Evidence]]:
    if node.exposure != "L0":
        raise DataError(f"its descriptor shows {node.exposure}; the owner needs its own quantities (L0)")
    if node.currency != request.currency:
        raise DataError(f"its price is in {node.currency}; {request.currency} is wanted")
    made = []
    memory = {"cpu": _needed(node, "memory.cpu"), "cuda": node.get("memory.cuda")}
    for device in ("cpu", "cuda"):
        room = memory[device]
        # A measured rate is of the device on which the job ran, which is the accelerator where there is one.
        if room is None or (device == "cpu" and node.get(f"work.{request.job}") and memory["cuda"]):
            continue
        if room.value < request.memory_gb:
            continue
        rate, crypto_s = predict(request, node, device)
        made.append(_offer(request, node, device, rate, crypto_s + queue_s, room, idle_is_shared, utility))
    if not made:
        raise DataError(f"it has less than the {request.memory_gb:g} GB of memory that the work needs")
    return made


def _offer(
    request: Request,
    node: Descriptor,
    device: str,
    rate: Quantity,
    beside_s: float,
    room: Quantity,
    idle_is_shared: bool,
    utility: float,
) -> tuple[Offer, Evidence]:
    work_s = request.samples * request.epochs / rate.value + beside_s
    idle, load, pue = (_needed(node, name) for name in ("power.idle", "power.load", "pue"))
    location = _needed(node, "carbon.location")
    market = node.get("carbon.market") or location
    kwh = (load.value - idle.value * idle_is_shared) * work_s / 3.6e6 * pue.value
    price = _needed(node, "price.compute").value
    gemm = node.get(f"gemm.{device}.fp32")
    if price and gemm is None:
        raise DataError(f"its price is for TFLOP/s hours, and gemm.{device}.fp32 was not measured")
    up, down = _needed(node, "link.up"), _needed(node, "link.down")
    mtbf, availability = node.get("mtbf"), node.get("availability")
    up_now = availability.value if availability else UNSEEN
    offer = Offer(
        id=f"{node.owner}/{node.node}/{device}",
        owner=node.owner,
        node=node.node,
        site=node.site,
        work_s=work_s,
        kwh=kwh,
        gco2_location=kwh * location.value,
        gco2_market=kwh * market.value,
        cost=price * (gemm.value / 1e3) * work_s / 3600 if gemm else 0.0,
        security=int(_needed(node, "security.level").value),
        attested=tuple(sorted({each.kind for each in node.attestations})),
        trust=0.0,
        utility=utility,
        up_mbit_s=up.value,
        down_mbit_s=down.value,
        egress_price=_needed(node, "price.egress").value,
        jurisdiction=node.jurisdiction,
        memory_gb=room.value,
        available=up_now * (math.exp(-work_s / mtbf.value) if mtbf else 1.0),
    )
    used = {
        "rate": rate,
        "power.load": load,
        "pue": pue,
        "carbon.location": location,
        "link.up": up,
        "link.down": down,
    }
    return offer, Evidence(
        # A derived rate rests on the request's word for the model and on the products that were timed.
        min(("declared", gemm.source), key=evidence_rank)
        if rate.source == "derived" and gemm
        else rate.source,
        min((up.source, down.source), key=evidence_rank),
        location.source,
        location.unit.removeprefix("g").split("/")[0],
        tuple(f"{name}: {each.doubt}" for name, each in used.items() if each.doubt),
    )


def _needed(node: Descriptor, name: str) -> Quantity:
    found = node.get(name)
    if found is None:
        raise DataError(
            f"its descriptor has no {name}. Cure: {_CURES.get(name, 'run `fedcore network probe`')}"
        )
    return found


_CURES = {
    "pue": "give pue in the node's file; 1 for a machine that nobody cools",
    "carbon.location": "give location or carbon in the node's file",
    "link.up": "give line in the node's file, or measure the link",
    "link.down": "give line in the node's file, or measure the link",
}
