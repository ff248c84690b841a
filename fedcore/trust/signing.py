"""Signatures of participants over what a protocol sends, by their long-term keys (ECDSA P-384, SHA-384)."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crypto.signatures import Authenticator
from fedcore.errors import IdentityError
from fedcore.trust.identity import KEY_TYPE, Identity, public_blob


def authenticator(identity: Identity | None, pins: Mapping[str, str]) -> Authenticator:
    """Signs as an identity and checks with pinned keys.

    Args:
        identity: Whose; None for one that only checks.
        pins: Public key lines by name. Nobody else's signature counts, and the identity's own always does.

    Raises:
        IdentityError: A pinned line is no such key.
    """
    lines = {**pins, **({identity.name: identity.public_line} if identity else {})}
    known = {name: _public_key(line) for name, line in lines.items()}

    def sign(message: bytes) -> bytes:
        if identity is None:
            raise IdentityError("there is no key to sign with here; this side only checks signatures")
        return identity.private_key.sign(message, ec.ECDSA(hashes.SHA384()))

    def verify(name: str, message: bytes, signature: bytes) -> bool:
        if name not in known:
            return False
        try:
            known[name].verify(signature, message, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature:
            return False
        return True

    return Authenticator(sign, verify)


def _public_key(line: str) -> ec.EllipticCurvePublicKey:
    blob = base64.b64encode(public_blob(line)).decode()
    key = serialization.load_ssh_public_key(f"{KEY_TYPE} {blob}".encode())
    if not isinstance(key, ec.EllipticCurvePublicKey):  # public_blob has refused every other kind
        raise IdentityError("a pinned key is not ECDSA over P-384")
    return key
