"""Which of the offers that came may be planned with: signed, in time, true to their node's descriptor.

Trust is the coordinator's judgement and is filled in here; whatever an owner writes there is dropped. Place, level,
attestations and memory must be those of the signed descriptor, and an offer that promises to be much faster than its
descriptor is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from fedcore.errors import DataError, FedcoreError
from fedcore.network.admission import Rejected, evidence_rank
from fedcore.network.descriptor import Descriptor, check_descriptor
from fedcore.network.offer import MOST_PER_OWNER, Offer
from fedcore.network.policy import Needed
from fedcore.network.signed_offer import Evidence, SignedOffer, check_signed_offer
from fedcore.network.work import Request, predict

BEST_CASE = 0.5
"""Share of the predicted time below which an offer promises too much."""


def take_offers(
    signed: Iterable[SignedOffer],
    request: Request,
    descriptors: Iterable[Descriptor],
    pins: Mapping[str, str],
    *,
    needed: Needed | None = None,
    trust: Mapping[tuple[str, str], float] | None = None,
    at: datetime | None = None,
) -> tuple[list[Offer], list[Rejected]]:
    """The offers that may be planned with, and the others with a reason: a bad offer is an event, no error.

    Args:
        signed: As they came.
        request: That was sent.
        descriptors: Of the nodes, as they came; each is checked.
        pins: Name to public key line of everybody who is enrolled.
        needed: What figures must at least rest on.
        trust: By owner and node; 0 for others.
        at: The moment of which it is asked; now by default.
    """
    now = at or datetime.now(UTC)
    known = {(each.owner, each.node): each for each in descriptors}
    kept: dict[str, Offer] = {}
    rejected: list[Rejected] = []
    count: dict[str, int] = {}
    checked: dict[str, set[str]] = {}
    for each in signed:
        offer = each.offer
        try:
            check_signed_offer(each, request, pins, at=now)
            node = known.get((offer.owner, offer.node))
            if node is None:
                raise DataError(f"no descriptor of {offer.node} came")
            if node.node not in checked.setdefault(node.owner, set()):
                check_descriptor(node, pins, at=now)
                checked[node.owner].add(node.node)
            reason = _contradiction(each, request, node) or _weak(each.evidence, needed or Needed())
            if reason is None and offer.id in kept:
                reason = "an offer of this id came already"
            if reason is None and count.get(offer.owner, 0) >= MOST_PER_OWNER:
                reason = f"more than {MOST_PER_OWNER} offers of one owner"
        except FedcoreError as error:
            reason = error.message
        if reason is not None:
            rejected.append(Rejected("offer", offer.id, offer.owner, reason))
            continue
        count[offer.owner] = count.get(offer.owner, 0) + 1
        kept[offer.id] = replace(offer, trust=(trust or {}).get((offer.owner, offer.node), 0.0))
    return list(kept.values()), rejected


def _contradiction(signed: SignedOffer, request: Request, node: Descriptor) -> str | None:
    """What an offer says that its node's descriptor does not."""
    offer = signed.offer
    level = node.get("security.level")
    for name, said, known in (
        ("site", offer.site, node.site),
        ("jurisdiction", offer.jurisdiction, node.jurisdiction),
        ("security level", offer.security, int(level.value) if level else None),
    ):
        if known is not None and said != known:
            return f"says {name} {said}, its descriptor says {known}"
    more = set(offer.attested) - {each.kind for each in node.attestations}
    if more:
        return f"says {', '.join(sorted(more))} was attested, its descriptor does not"
    if node.exposure != "L0":
        return None
    room = [each.value for name in ("memory.cpu", "memory.cuda") if (each := node.get(name))]
    if room and offer.memory_gb > max(room) * 1.01:
        return f"says {offer.memory_gb:g} GB of memory, its descriptor says {max(room):g}"
    times = []
    for device in ("cpu", "cuda"):
        try:
            rate, crypto_s = predict(request, node, device)
        except DataError:
            continue
        times.append(request.samples * request.epochs / rate.value + crypto_s)
    if times and offer.work_s < BEST_CASE * min(times):
        return f"promises the work in {offer.work_s:.3g} s, its descriptor gives {min(times):.3g} s"
    return None


def _weak(evidence: Evidence, needed: Needed) -> str | None:
    for name in ("compute", "link", "carbon"):
        told, least = getattr(evidence, name), getattr(needed, name)
        try:
            enough = evidence_rank(told) >= evidence_rank(least)
        except KeyError:
            return f"its {name} rests on {told!r}, which is no kind of evidence"
        if not enough:
            return f"its {name} is {told}; the policy asks for {least}"
    return None
