"""What is signed here, and how: canonical JSON under a name that says what it is.

The same values are always the same bytes (keys sorted, no spaces, UTF-8, numbers as Python writes them), and the
name of the kind goes in front, so that a signature under an offer is worth nothing under a lease.

Source: RFC 8785 for the idea; numbers here are written and read by Python alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from fedcore.errors import IdentityError, did_you_mean
from fedcore.network.quantity import iso, moment
from fedcore.trust.identity import Identity
from fedcore.trust.signing import authenticator

_FEW = 64
_CLOCK_SKEW = 300.0
"""Seconds by which two institutions' clocks may differ."""


def canonical(data: Any) -> bytes:
    """JSON values as the bytes that are signed and hashed.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(data: Any) -> str:
    """SHA-256 of JSON values, hex."""
    return hashlib.sha256(canonical(data)).hexdigest()


def unsigned(record: Any) -> dict[str, Any]:
    """What is signed of a dataclass: all its fields but the signature."""
    found = asdict(record)
    del found["signature"]
    return found


def sign(identity: Identity, kind: str, data: Any) -> str:
    """A signature by a long-term key, base64.

    Args:
        identity: Who signs.
        kind: What is signed, as `node descriptor`.
        data: JSON values.
    """
    return base64.b64encode(authenticator(identity, {}).sign(_message(kind, data))).decode()


def check_signature(kind: str, data: Any, signature: str, signer: str, pins: Mapping[str, str]) -> None:
    """Refuse what the named party has not signed.

    Args:
        kind, data: As they were signed.
        signature: Base64.
        signer: Who must have signed it.
        pins: Name to public key line of everybody who is enrolled.

    Raises:
        IdentityError: There is no signature, the signer is not enrolled, or it is not the signer's.
    """
    if signer not in pins:
        raise IdentityError(
            f"this {kind} is signed as {signer}, who is not in the roster; {did_you_mean(signer, pins)}",
            party=signer,
            step=kind,
        )
    if not signature:
        raise IdentityError(
            f"this {kind} is not signed. Cure: let {signer} sign it with its key", party=signer, step=kind
        )
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    message = _message(kind, data)
    if authenticator(None, {signer: pins[signer]}).verify(signer, message, raw):
        return
    # Whose it is helps a person; of very many it takes too long to find out.
    rest = {name: line for name, line in pins.items() if name != signer} if len(pins) <= _FEW else {}
    check = authenticator(None, rest)
    others = [name for name in rest if check.verify(name, message, raw)]
    why = (
        f"{others[0]} signed it, who may speak for itself only"
        if others
        else "it was changed, or another key signed it"
    )
    raise IdentityError(
        f"this {kind} is not signed by {signer}, for whom it speaks: {why}. Cure: ask {signer} for it again",
        party=signer,
        step=kind,
    )


def check_time(
    kind: str, issued: str, expires: str, signer: str, at: datetime, *, longest: float | None = None
) -> None:
    """Refuse what is not valid at a moment.

    Args:
        kind, signer: What, and whose.
        issued, expires: UTC in ISO 8601.
        at: The moment.
        longest: Seconds that it may hold in all.

    Raises:
        IdentityError: It has expired, is from the future, holds too long, or its times are none.
    """
    try:
        first, last = moment(issued), moment(expires)
    except ValueError as exc:
        raise IdentityError(f"this {kind} has no usable time: {exc}", party=signer, step=kind) from exc
    if last <= first:
        raise IdentityError(
            f"this {kind} ends at {expires} and begins at {issued}; it must end later",
            party=signer,
            step=kind,
        )
    if longest is not None and (last - first).total_seconds() > longest:
        raise IdentityError(
            f"this {kind} holds from {issued} to {expires}; allowed: {longest:.0f} s. Cure: ask {signer} for one that ends "
            "earlier",
            party=signer,
            step=kind,
        )
    if (first - at).total_seconds() > _CLOCK_SKEW:
        raise IdentityError(
            f"this {kind} is of {issued}, and it is {iso(at)}; allowed: a clock that is at most {_CLOCK_SKEW:g} s "
            "ahead. Cure: set the clocks",
            party=signer,
            step=kind,
        )
    if at >= last:
        raise IdentityError(
            f"this {kind} expired at {expires}, and it is {iso(at)}. Cure: ask {signer} for a fresh one",
            party=signer,
            step=kind,
        )


def _message(kind: str, data: Any) -> bytes:
    return b"fedcore network 1 " + kind.encode() + b"\n" + canonical(data)
