"""Shares of zero for every item at once: each party can compute its share of any item, and all shares XOR to zero.

Every two parties i, j agree on a key k_ij. The share of party i for an item x is the XOR of AES(k_ij, x) over all j:
each term stands in two shares and falls out of the sum of all. Shares of fewer parties than all look random to whoever
lacks one of the keys between those and the rest.

Keys: Diffie-Hellman over X25519 with a fresh pair of each party. The public keys pass through somebody else (`star`:
the leader), who learns no key by reading. Who changes them learns keys, unless the parties sign them: with an
`Authenticator`, which holds the identities that the parties have pinned, a public key that its party did not sign for
this very run is refused.

    party -> all      X25519 public key, 32 bytes; signature over
                      "fedcore psi star key 1" || run || length of name in 2 bytes || name || public key
    k_ij              HKDF-SHA-256(secret = X25519, salt = run, info = "fedcore psi star zero share 1" || of the party
                      whose name is the smaller as bytes: length of name, name, public key; then of the other, 16 bytes)

`run` is a digest of who takes part and of the session.

Assumption: gap Diffie-Hellman over X25519, HKDF a random oracle, AES-128 a pseudo-random permutation (and so a
pseudo-random function, but for n^2 2^-129 with n items).

Source: Kolesnikov, Matania, Pinkas, Rosulek, Trieu, CCS 2017 (eprint 2017/799), unconditional zero-sharing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.errors import ProtocolError
from crypto.kernels.aes import encrypt, expand_key
from crypto.kernels.compiled import kernel
from crypto.signatures import MOST_SIGNATURE, Authenticator

Blocks = npt.NDArray[np.uint64]

STEP = "star.keys"
PUBLIC = 32
_SIGNED = b"fedcore psi star key 1"
_DERIVED = b"fedcore psi star zero share 1"


@dataclass(frozen=True)
class OwnKey:
    """This party's pair of keys for one run. The private half shows in no `repr`.

    Args:
        name: This party.
        run: Digest of who takes part and of the session, 32 bytes.
        private: Drawn for this run.
        authenticator: Of the pinned identities; None where those that forward the keys are trusted not to change them.
    """

    name: str
    run: bytes
    private: X25519PrivateKey = field(repr=False)
    authenticator: Authenticator | None = field(default=None, repr=False)

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self.private.public_key().public_bytes_raw()

    def message(self) -> bytes:
        """What the other parties have to get: the public key, and behind it the signature if there is one."""
        if self.authenticator is None:
            return self.public
        signature = self.authenticator.sign(signed_bytes(self.run, self.name, self.public))
        if not 0 < len(signature) <= MOST_SIGNATURE:
            raise ValueError(f"a signature has 1 to {MOST_SIGNATURE} bytes, this one {len(signature)}")
        return self.public + signature

    def shared(self, name: str, message: bytes) -> bytes:
        """The key with another party, 16 bytes.

        Args:
            name: The other party.
            message: What came as its `message`.

        Raises:
            ProtocolError: It is no public key, or is not signed as it has to be.
        """
        check_message(name, message, signed=self.authenticator is not None)
        public, signature = message[:PUBLIC], message[PUBLIC:]
        if self.authenticator is not None and not self.authenticator.verify(
            name, signed_bytes(self.run, name, public), signature
        ):
            raise ProtocolError(
                f"the key that came for {name} was not signed for this run by the identity pinned to it: somebody "
                f"in between put another in its place, or the pinned key is an old one. Compare the fingerprint of "
                f"its identity with {name} over another channel",
                step=STEP,
            )
        try:
            secret = self.private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise ProtocolError(f"the key that came for {name} is no proper public key", step=STEP) from None
        pair = sorted([(self.name.encode(), self.public), (name.encode(), public)])
        info = _DERIVED + b"".join(_named(*each) for each in pair)
        return HKDF(hashes.SHA256(), 16, self.run, info).derive(secret)


def new_key(name: str, run: bytes, authenticator: Authenticator | None = None) -> OwnKey:
    """A fresh pair of keys.

    Args:
        name, run, authenticator: As in `OwnKey`.
    """
    return OwnKey(name, run, X25519PrivateKey.generate(), authenticator)


def check_message(name: str, message: bytes, *, signed: bool) -> None:
    """Refuse what cannot be a party's `OwnKey.message`, by its length.

    Raises:
        ProtocolError: It is too short or too long, or has a signature where there is to be none, or the reverse.
    """
    over = len(message) - PUBLIC
    if over < 0 or over > MOST_SIGNATURE:
        raise ProtocolError(
            f"a key of {len(message)} bytes came for {name}; allowed are {PUBLIC} to {PUBLIC + MOST_SIGNATURE}",
            step=STEP,
        )
    if signed != bool(over):
        raise ProtocolError(
            f"the key that came for {name} is {'not ' if signed else ''}signed, and this side "
            f"{'checks' if signed else 'does not check'} signatures: give all parties an authenticator, or none",
            step=STEP,
        )


def signed_bytes(run: bytes, name: str, public: bytes) -> bytes:
    """What a party signs."""
    return _SIGNED + run + _named(name.encode(), public)


def _named(name: bytes, public: bytes) -> bytes:
    return len(name).to_bytes(2, "big") + name + public


class Shares:
    """Computes one party's shares.

    Args:
        keys: With each other party, 16 bytes; without any, all shares are zero.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        expanded = [expand_key(key) for key in keys.values()]
        self._keys = np.stack(expanded) if expanded else np.empty((0, 11, 2), dtype=np.uint64)

    def __repr__(self) -> str:
        return f"Shares({len(self._keys)} other parties, keys=<hidden>)"

    def add(self, items: Blocks, total: Blocks) -> None:
        """XOR the share of each item to what stands in its row of `total`; arrays (n, 2) uint64."""
        _add(self._keys, items, total)


@kernel
def _add(keys: Any, items: Any, total: Any) -> None:
    for i in range(items.shape[0]):
        for j in range(keys.shape[0]):
            low, high = encrypt(keys[j], items[i, 0], items[i, 1])
            total[i, 0] ^= low
            total[i, 1] ^= high
