"""Paillier's encryption as sums of secret numbers need it: several slots in a plaintext, ciphertexts as bytes.

The keys, decryption and the arithmetic of other parties are those of `phe`. The owner of the key encrypts faster
than a stranger can: (1 + m n) s with s = r^n mod n^2 random is computed modulo p^2 and q^2, where r^n is the p-th
power of a random number below p and the q-th of one below q, which gives the same distribution at a quarter of the
work (an n-th power modulo p^2 depends on r modulo p only).

Assumption: decisional composite residuosity, 128 bits at 3072 bits of n. Cost at 3072 bits: 768 bytes a ciphertext.

Source: Paillier, EUROCRYPT 1999, sections 4 and 7.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, field
from typing import Any

from phe import paillier
from phe.util import invert, mulmod, powmod

from crypto.errors import ProtocolError

BITS = 3072
LEAST_BITS = 2048


@dataclass(frozen=True)
class PublicKey:
    """What everyone may encrypt with.

    Args:
        n: Modulus of exactly `bits` bits.
        bits: Of n.
    """

    n: int
    bits: int

    @property
    def size(self) -> int:
        """Bytes of a ciphertext."""
        return self.bits // 4

    def to_bytes(self) -> bytes:
        """The modulus, little end first, bits / 8 bytes."""
        return self.n.to_bytes(self.bits // 8, "little")

    def encrypt(self, number: int) -> int:
        """A fresh ciphertext of a number below n."""
        return int(paillier.PaillierPublicKey(self.n).raw_encrypt(number % self.n))

    def add(self, a: int, b: int) -> int:
        """A ciphertext of the sum; it is not fresh."""
        return int(mulmod(a, b, self.n * self.n))


@dataclass(frozen=True)
class Owner:
    """What the owner of a key encrypts and decrypts with.

    Args:
        public: To be given away.
        private: Secret.
    """

    public: PublicKey
    private: Any = field(repr=False)

    def encrypt(self, number: int) -> int:
        """A fresh ciphertext of a number below n."""
        n, p, q = self.public.n, self.private.p, self.private.q
        at_p, at_q = p * p, q * q
        noise_p = powmod(1 + secrets.randbelow(p - 1), p, at_p)
        noise_q = powmod(1 + secrets.randbelow(q - 1), q, at_q)
        noise = noise_p + at_p * ((noise_q - noise_p) * invert(at_p, at_q) % at_q)
        return int(mulmod(1 + number % n * n, noise, n * n))

    def decrypt(self, ciphertext: int) -> int:
        """The number below n."""
        return int(self.private.raw_decrypt(ciphertext))


def new_owner(bits: int = BITS) -> Owner:
    """A fresh key.

    Args:
        bits: Of n; a multiple of 8, at least LEAST_BITS.

    Raises:
        ValueError: Other bits.
    """
    _check_bits(bits)
    public, private = paillier.generate_paillier_keypair(n_length=bits)
    return Owner(PublicKey(int(public.n), bits), private)


def public_from(data: bytes | memoryview, bits: int, step: str) -> PublicKey:
    """The other side's key.

    Raises:
        ProtocolError: It has not the bits agreed on, or is even.
    """
    _check_bits(bits)
    n = int.from_bytes(data, "little")
    if n.bit_length() != bits or n % 2 == 0:
        raise ProtocolError(f"the modulus that came is no odd number of {bits} bits", step=step)
    return PublicKey(n, bits)


def ciphertext_from(data: bytes | memoryview, public: PublicKey, step: str) -> int:
    """A ciphertext that came.

    Raises:
        ProtocolError: It is no unit modulo n^2.
    """
    number = int.from_bytes(data, "little")
    if not 0 < number < public.n * public.n or math.gcd(number, public.n) != 1:
        raise ProtocolError("a ciphertext that came is not one of the key's", step=step)
    return number


def _check_bits(bits: int) -> None:
    if bits < LEAST_BITS or bits % 8:
        raise ValueError(f"a key has a multiple of 8 bits, at least {LEAST_BITS}, not {bits}")
