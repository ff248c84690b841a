"""An owner's offer: what one of its nodes would take to do the owner's part of one round."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from operator import attrgetter

import numpy as np

from fedcore.errors import DataError

MOST_PER_OWNER = 8
"""Offers that one owner may answer a request with: its best few, not its inventory."""


@dataclass(frozen=True)
class Offer:
    """What a node would take for its owner's part of one round.

    The data of an owner are worked on by that owner's own nodes only, so an offer of somebody else for the same
    part has no way to be written down.

    Args:
        id: Of this offer, unique within a request.
        owner: The participant whose data the work needs and whose node this is.
        node: The node's name at its owner.
        site: The site of the topology at which the node stands.
        work_s: Seconds of computing of one round: training, cryptography, queue.
        kwh: Energy of that in kWh: of the machines, times the site's PUE.
        gco2_location: Grams of CO2 of that energy by the local grid's factor.
        gco2_market: Grams of CO2 by the contracts that the owner holds.
        cost: Price of the computing, in the policy's currency; traffic is charged beside it.
        security: Level, from 1 to 5.
        attested: Kinds of attestation that were verified, such as `tee_quote`.
        trust: From 0 to 1.
        utility: What the owner's part is worth to the model; 0 when it is not used.
        up_mbit_s: Rate of the node's access link towards the network, Mbit/s.
        down_mbit_s: Rate from the network, Mbit/s.
        egress_price: Price of traffic out of the site, in the policy's currency per GB (10^9 bytes).
        jurisdiction: Whose law holds at the site, as the policy spells it.
        memory_gb: Memory for the work, GB.
        available: Probability that the node is up for a whole round.
    """

    id: str
    owner: str
    node: str
    site: str
    work_s: float
    kwh: float
    gco2_location: float
    gco2_market: float
    cost: float
    security: int
    attested: tuple[str, ...]
    trust: float
    utility: float
    up_mbit_s: float
    down_mbit_s: float
    egress_price: float
    jurisdiction: str
    memory_gb: float
    available: float


_LIMITS: dict[str, tuple[float, float]] = {
    "work_s": (1e-6, 30 * 86400.0),
    "kwh": (0.0, 1e6),
    "gco2_location": (0.0, 2e9),
    "gco2_market": (0.0, 2e9),
    "cost": (0.0, 1e9),
    "security": (1, 5),
    "trust": (0.0, 1.0),
    "utility": (0.0, 1e9),
    "up_mbit_s": (1e-3, 1e7),
    "down_mbit_s": (1e-3, 1e7),
    "egress_price": (0.0, 1e6),
    "memory_gb": (1e-3, 1e6),
    "available": (0.0, 1.0),
}
"""What a value may be at least and at most. 2,000 g/kWh is above the dirtiest grid, 10 Tbit/s above any access link."""

_WORDS = ("id", "owner", "node", "site", "jurisdiction")


def check_offer(offer: Offer) -> list[str]:
    """What is wrong with an offer's values, each as a sentence; none for a plausible offer."""
    wrong = [
        f"{name} is empty"
        for name in ("id", "owner", "node", "site", "jurisdiction")
        if not getattr(offer, name)
    ]
    for name, (least, most) in _LIMITS.items():
        value = getattr(offer, name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not least <= value <= most:
            wrong.append(f"{name} is {value!r}; it must be from {least:g} to {most:g}")
    if not isinstance(offer.security, int):
        wrong.append(f"security is {offer.security!r}; it must be a whole number from 1 to 5")
    return wrong


def check_offers(offers: Sequence[Offer]) -> None:
    """Refuse a set of offers that cannot be planned with.

    Raises:
        DataError: An offer's value is impossible, an id stands twice, or an owner has more than `MOST_PER_OWNER`.
    """
    if not _plausible(offers):
        for offer in offers:
            wrong = check_offer(offer)
            if wrong:
                raise DataError(f"offer {offer.id!r}: {'; '.join(wrong)}", party=offer.owner, step="offers")
    for name, count in Counter(offer.id for offer in offers).most_common(1):
        if count > 1:
            raise DataError(f"offer {name!r} stands {count} times; ids must differ", step="offers")
    for owner, count in Counter(offer.owner for offer in offers).most_common(1):
        if count > MOST_PER_OWNER:
            raise DataError(
                f"{count} offers in one request; send the best {MOST_PER_OWNER}", party=owner, step="offers"
            )


def _plausible(offers: Sequence[Offer]) -> bool:
    """Whether no offer has anything wrong with it; the quick way for many of them."""
    rows = list(map(attrgetter(*_LIMITS), offers))
    if not rows:
        return True
    kinds = set(map(type, chain.from_iterable(rows)))
    if not kinds <= {int, float} or set(map(type, map(attrgetter("security"), offers))) != {int}:
        return False
    values, limits = np.array(rows, dtype=np.float64), np.array(list(_LIMITS.values()))
    within = ((values >= limits[:, 0]) & (values <= limits[:, 1])).all()
    return bool(within) and all(all(words) for words in map(attrgetter(*_WORDS), offers))


def offers_digest(offers: Sequence[Offer]) -> str:
    """SHA-256 over the offers as canonical JSON, whatever their order; hex."""
    names = [one.name for one in fields(Offer)]
    rows = sorted(map(attrgetter(*names), offers))
    text = json.dumps([names, *rows], separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
