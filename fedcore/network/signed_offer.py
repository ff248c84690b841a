"""An offer as it travels: its figures, what they rest on, the request that it answers, and its owner's signature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from fedcore.errors import DataError, IdentityError
from fedcore.network.offer import Offer, check_offer
from fedcore.network.signed import check_signature, check_time, unsigned
from fedcore.network.work import Request

KIND = "offer"
LONGEST_SECONDS = 86400.0
"""That an offer may hold: prices and queues change."""


@dataclass(frozen=True)
class Evidence:
    """What an offer's figures rest on, each `measured`, `attested`, `declared` or `derived`.

    Args:
        compute, link, carbon: The weakest that went into the rate of the work, into those of the line, and into the
            grid's factor.
        gas: `CO2` or `CO2e`: what its grams count.
        doubts: Of the figures, each a sentence.
    """

    compute: str
    link: str
    carbon: str
    gas: str
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class SignedOffer:
    """What travels.

    Args:
        offer: The figures.
        request: Digest of the request it answers.
        currency: Of its prices.
        evidence: What they rest on.
        issued, expires: UTC in ISO 8601.
        signature: The owner's, base64.
    """

    offer: Offer
    request: str
    currency: str
    evidence: Evidence
    issued: str
    expires: str
    signature: str = ""

    def payload(self) -> dict[str, Any]:
        """What is signed, as JSON values."""
        return unsigned(self)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def from_json(data: Any) -> SignedOffer:
    """An offer as it came.

    Raises:
        DataError: A key is missing or too many, or a value has another type.
    """
    whole = _fitting(SignedOffer, data, "offer")
    figures = _fitting(Offer, whole["offer"], "offer.offer")
    figures["attested"] = _words(figures["attested"], "attested")
    rests = _fitting(Evidence, whole["evidence"], "offer.evidence")
    rests["doubts"] = _words(rests["doubts"], "doubts")
    for name, value in (*figures.items(), *rests.items(), *whole.items()):
        if name in _TEXT and not isinstance(value, str):
            raise DataError(f"{name} of an offer is {value!r}; it must be text", step="offers")
    return SignedOffer(**{**whole, "offer": Offer(**figures), "evidence": Evidence(**rests)})


def check_signed_offer(
    signed: SignedOffer, request: Request, pins: Mapping[str, str], *, at: datetime | None = None
) -> None:
    """Refuse an offer that its owner has not made for this request, that is over, or that cannot be true.

    Raises:
        IdentityError: Forged, another party's, for another request, expired or from the future.
        DataError: A figure is impossible, or the currency is another.
    """
    offer = signed.offer
    check_signature(KIND, signed.payload(), signed.signature, offer.owner, pins)
    now = at or datetime.now(UTC)
    check_time(KIND, signed.issued, signed.expires, offer.owner, now, longest=LONGEST_SECONDS)
    if signed.request != request.digest:
        raise IdentityError(
            f"the offer {offer.id} answers another request than {request.id}; allowed: an offer for this one. Cure: ask "
            f"{offer.owner} again",
            party=offer.owner,
            step=KIND,
        )
    wrong = check_offer(offer)
    if signed.currency != request.currency:
        wrong.append(f"currency is {signed.currency}; it must be {request.currency}")
    if wrong:
        raise DataError(f"the offer {offer.id}: {'; '.join(wrong)}", party=offer.owner, step=KIND)


_TEXT = {each.name for kind in (Offer, Evidence, SignedOffer) for each in fields(kind) if each.type == "str"}


def _fitting(kind: type[Any], data: Any, what: str) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    if not isinstance(data, dict) or set(data) != names:
        extra = sorted(set(data) ^ names) if isinstance(data, dict) else []
        raise DataError(
            f"{what} has not the keys it must have: {', '.join(extra) or 'it is no mapping'}", step="offers"
        )
    return dict(data)


def _words(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise DataError(f"{name} of an offer is {value!r}; it must be a list of words", step="offers")
    return tuple(value)
