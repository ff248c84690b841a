"""The secret key that participants share, and what the coordinator gets in its place.

    secret    "FCKS" || ring || identifier, 16 || coefficients, 8 each (16 KiB at N = 2048)
    public    "FCKP" || ring || identifier, 16
    ring      degree, 2 || bits of the primes, 1 each, four of them, 0 for none || bits of the special prime, 1

One participant makes the key; the others get it through enrolment, over a channel that the coordinator cannot
read. There is no public key: whoever encrypts can decrypt. The coordinator's context has the ring and the
identifier and nothing else; it has no room for a key, and a secret key given in its place is refused.

The identifier is SHA-256 of ring and secret coefficients, so a ciphertext tells which key it is under. It
tells nothing about the key, whose coefficients are random among 3^N.

Assumption: ring learning with errors with ternary secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crypto.ckks.parameters import RINGS, Ring
from crypto.ckks.seal import Engine, Scratch, engine, library
from crypto.errors import ProtocolError

_HEAD = struct.Struct("<4sH4BB16s")
_SECRET, _PUBLIC = b"FCKS", b"FCKP"
_LABEL = b"fedcore ckks key 1"


@dataclass(frozen=True)
class PublicContext:
    """What the coordinator adds with.

    Args:
        ring: Of the key.
        identifier: Of the key, 16 bytes.
    """

    ring: Ring
    identifier: bytes

    def to_bytes(self) -> bytes:
        """For the coordinator; `public_from` reads it."""
        return _head(_PUBLIC, self.ring, self.identifier)


@dataclass(frozen=True)
class SecretKey:
    """What participants encrypt and decrypt with. It shows in no `repr`.

    Args:
        ring: Of the key.
        identifier: Of the key, 16 bytes.
        coefficients: As SEAL holds them, 8 bytes each.
    """

    ring: Ring
    identifier: bytes
    coefficients: bytes = field(repr=False)

    @property
    def public(self) -> PublicContext:
        """For the coordinator."""
        return PublicContext(self.ring, self.identifier)

    def to_bytes(self) -> bytes:
        """For the other participants, to be kept secret; `secret_from` reads it."""
        return _head(_SECRET, self.ring, self.identifier) + self.coefficients

    def loaded(self, made: Engine) -> Any:
        """As SEAL's object, for an engine of the same ring."""
        secret = library().SecretKey()
        with Scratch() as scratch:
            scratch.load(secret, made.context, made.key.stream(self.coefficients, b""))
        return secret


def new_key(ring: Ring) -> SecretKey:
    """A fresh secret key.

    Args:
        ring: One of RINGS, `Parameters.ring` of the sums it is for.
    """
    made = engine(ring, 1)
    with Scratch() as scratch:
        stream = scratch.save(library().KeyGenerator(made.context).secret_key())
    coefficients, _ = made.key.take(stream)
    return SecretKey(ring, _identifier(ring, coefficients), coefficients)


def secret_from(data: bytes | memoryview, step: str) -> SecretKey:
    """A key out of the bytes of `SecretKey.to_bytes`.

    Raises:
        ProtocolError: They are no such key, or were changed.
    """
    given = bytes(data)
    ring, identifier = _read(given, _SECRET, "a secret key", step)
    coefficients = given[_HEAD.size :]
    if len(coefficients) != 8 * ring.degree * len(ring.chain):
        raise ProtocolError(f"a secret key of {len(coefficients)} bytes is none of its ring", step=step)
    if not hmac.compare_digest(_identifier(ring, coefficients), identifier):
        raise ProtocolError("the secret key is not the one its identifier names: it was changed", step=step)
    words = np.frombuffer(coefficients, dtype="<u8").reshape(len(ring.chain), ring.degree)
    if (words >= engine(ring, 1).all_primes[:, None]).any():
        raise ProtocolError("a coefficient of the secret key is not below its prime", step=step)
    return SecretKey(ring, identifier, coefficients)


def public_from(data: bytes | memoryview, step: str) -> PublicContext:
    """The coordinator's context out of the bytes of `PublicContext.to_bytes`.

    Raises:
        ProtocolError: They are none, or hold a secret key.
    """
    given = bytes(data)
    if given[:4] == _SECRET:
        raise ProtocolError(
            "this is the participants' secret key, which the coordinator must not have: delete it, make a new key "
            "and give the coordinator its public context",
            step=step,
        )
    ring, identifier = _read(given, _PUBLIC, "a public context", step)
    if len(given) != _HEAD.size:
        raise ProtocolError(
            f"a public context has {_HEAD.size} bytes, not {len(given)}; what stands behind it was not taken",
            step=step,
        )
    return PublicContext(ring, identifier)


def _head(magic: bytes, ring: Ring, identifier: bytes) -> bytes:
    primes = (*ring.primes, 0, 0, 0, 0)[:4]
    return _HEAD.pack(magic, ring.degree, *primes, ring.special, identifier)


def _read(given: bytes, magic: bytes, name: str, step: str) -> tuple[Ring, bytes]:
    if len(given) < _HEAD.size or given[:4] != magic:
        raise ProtocolError(f"the {len(given)} bytes are not {name} of CKKS", step=step)
    _, degree, *primes, special, identifier = _HEAD.unpack(given[: _HEAD.size])
    ring = Ring(degree, tuple(bits for bits in primes if bits), special)
    if ring not in RINGS:
        raise ProtocolError(f"{name} of a ring that is not in the table: {ring}", step=step)
    return ring, identifier


def _identifier(ring: Ring, coefficients: bytes) -> bytes:
    return hashlib.sha256(_LABEL + _head(_SECRET, ring, bytes(16)) + coefficients).digest()[:16]
