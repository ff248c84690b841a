"""The key of a party that encrypts: secret s, and a public key with which another party makes its answers.

    s      uniform in -1, 0, 1
    p1     uniform, of a public seed
    p0     -(p1 s + e)

Assumption: RLWE with a ternary secret. Cost: 54 kB for a public key of the small ring, 217 kB of the large one.

Source: Brakerski, CRYPTO 2012; Fan and Vercauteren, eprint 2012/144, section 3.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from crypto.bfv import packing
from crypto.bfv.ring import Element, Entropy, Ring, hashed, system
from crypto.errors import ProtocolError
from crypto.kernels import ntt

SEED = 16
DIGEST = 16


@dataclass(frozen=True, eq=False)
class PublicKey:
    """What the other party has.

    Args:
        ring: Of the key.
        seed: 16 bytes that stand for p1.
        value: p0, (primes, N).
    """

    ring: Ring
    seed: bytes
    value: Element = field(repr=False)

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that stand for the key, in every message under it."""
        return hashed("bfv public key", self.seed, self.value.tobytes())

    @cached_property
    def factors(self) -> Element:
        """p0 and p1 in Montgomery's form, (2, primes, N)."""
        both = np.stack([self.value, self.ring.uniform(self.seed, 1)[0]])
        out = np.empty_like(both)
        for i in range(2):
            ntt.scale(both[i], self.ring.montgomery(1), self.ring.moduli, out[i])
        return out

    def to_bytes(self) -> bytes:
        """The key as a message."""
        return packing.write("public key", self.ring, self.seed, [self.value[None]])


@dataclass(frozen=True, eq=False)
class SecretKey:
    """What the party that encrypts keeps. Secret.

    Args:
        public: Its other half.
        factor: s in Montgomery's form, (primes, N).
    """

    public: PublicKey
    factor: Element = field(repr=False)

    @property
    def ring(self) -> Ring:
        """Of the key."""
        return self.public.ring


def new_keys(ring: Ring, entropy: Entropy = system) -> SecretKey:
    """A key pair; `public` of it is what the other party gets.

    Args:
        ring: `ring.SMALL` for sums, `ring.LARGE` for products.
        entropy: Secret randomness.
    """
    seed = entropy(SEED)
    secret = ring.factor(ring.ternary(entropy))
    total = ring.transformed(ring.gaussian(entropy))[None]
    ring.multiply_add(total, ring.uniform(seed, 1), secret)
    value = ring.zeros(1)
    ntt.take_from(value, total, ring.moduli)
    return SecretKey(PublicKey(ring, seed, value[0]), secret)


def public_key_bytes(ring: Ring) -> int:
    """Bytes of a public key as a message."""
    return packing.size(ring, SEED, 1)


def read_public_key(data: packing.Data, ring: Ring) -> PublicKey:
    """A public key of this ring.

    Raises:
        ProtocolError: The bytes are none.
    """
    seed, elements = packing.read("public key", data, ring, SEED, 1)
    return PublicKey(ring, seed, elements[0])


def same_key(theirs: bytes, key: PublicKey, step: str) -> None:
    """Refuse what was made under another key.

    Raises:
        ProtocolError: The digest in a message is not this key's.
    """
    if not hmac.compare_digest(theirs, key.digest):
        raise ProtocolError(
            "a ciphertext under another key came; both parties must use the key pair of this session",
            step=step,
        )
