"""Keys of Paillier's encryption, and single ciphertexts.

    n        p q, p and q primes of half its length, both 3 modulo 4, gcd(p - 1, q - 1) = 2
    Enc(m)   (1 + m n) s modulo n^2, s = r^n, r random

The form of p and q is what `crypto.paillier.noise` asks for; any other Paillier implementation with the
generator n + 1 reads these ciphertexts and keys.

The owner of the key encrypts faster than a stranger can: s is computed modulo p^2 and q^2, where r^n is the
p-th power of a random number below p and the q-th of one below q, which gives the same distribution at less
than half of the work (an n-th power modulo p^2 depends on r modulo p only). Powers whose exponent is secret
take GMP's path of constant time.

Who learns what: whoever has n encrypts and adds, whoever has p and q decrypts every single ciphertext, not
sums alone.

Assumption: decisional composite residuosity; 128 bits at 3072 bits of n (NIST SP 800-57 part 1, table 2), 112
at 2048. Cost at 3072 bits: 768 bytes a ciphertext.

Source: Paillier, EUROCRYPT 1999, sections 4 and 7; Damgård, Jurik, Nielsen, International Journal of
Information Security 9, 2010, for p and q.
"""

from __future__ import annotations

import functools
import importlib
import math
import secrets
from dataclasses import dataclass, field
from types import ModuleType

from crypto.errors import ProtocolError

BITS = 3072
LEAST_BITS = 2048
_ROUNDS = 40
"""Of the test of primes: a composite passes with probability below 2^-80."""


@functools.cache
def integers() -> ModuleType:
    """The package gmpy2.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    try:
        return importlib.import_module("gmpy2")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Paillier's encryption needs the package gmpy2, which is not installed; pip install 'fedcore[paillier]'",
            name="gmpy2",
        ) from None


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
        noise = integers().powmod(_unit(self.n), self.n, self.n * self.n)
        return int((1 + number % self.n * self.n) * noise % (self.n * self.n))

    def add(self, a: int, b: int) -> int:
        """A ciphertext of the sum; it is not fresh."""
        return int(integers().mpz(a) * b % (self.n * self.n))


@dataclass(frozen=True)
class PrivateKey:
    """The factors of n. They show in no `repr`.

    Args:
        p, q: Primes.
    """

    p: int = field(repr=False)
    q: int = field(repr=False)

    @functools.cached_property
    def _halves(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of p and of q: the prime, and what turns L(c^(prime - 1)) into the number modulo the prime."""
        gmpy2, n = integers(), self.p * self.q
        return tuple(  # type: ignore[return-value]
            (prime, gmpy2.invert(-n // prime, prime)) for prime in map(gmpy2.mpz, (self.p, self.q))
        )

    def decrypt(self, ciphertext: int) -> int:
        """The number below n."""
        gmpy2 = integers()
        (p, at_p), (q, at_q) = (
            (prime, (gmpy2.powmod_sec(ciphertext, prime - 1, prime * prime) - 1) // prime * inverse % prime)
            for prime, inverse in self._halves
        )
        return int(at_p + p * ((at_q - at_p) * gmpy2.invert(p, q) % q))


@dataclass(frozen=True)
class Owner:
    """What the owner of a key encrypts and decrypts with.

    Args:
        public: To be given away.
        private: Secret.
    """

    public: PublicKey
    private: PrivateKey = field(repr=False)

    def encrypt(self, number: int) -> int:
        """A fresh ciphertext of a number below n."""
        gmpy2, n = integers(), self.public.n
        p, q = gmpy2.mpz(self.private.p), gmpy2.mpz(self.private.q)
        at_p, at_q = p * p, q * q
        noise_p = gmpy2.powmod_sec(_unit(p), p, at_p)
        noise_q = gmpy2.powmod_sec(_unit(q), q, at_q)
        noise = noise_p + at_p * ((noise_q - noise_p) * gmpy2.invert(at_p, at_q) % at_q)
        return int((1 + number % n * n) * noise % (n * n))

    def decrypt(self, ciphertext: int) -> int:
        """The number below n."""
        return self.private.decrypt(ciphertext)

    def to_bytes(self) -> bytes:
        """The secret factors, to be kept and shared as a secret; `owner_from` reads them, bits / 8 bytes."""
        half = self.public.bits // 16
        return self.private.p.to_bytes(half, "little") + self.private.q.to_bytes(half, "little")


def new_owner(bits: int = BITS) -> Owner:
    """A fresh key.

    Args:
        bits: Of n; a multiple of 16, at least LEAST_BITS.

    Raises:
        ValueError: Other bits.
    """
    _check_bits(bits)
    p = _prime(bits // 2)
    while True:
        q = _prime(bits // 2)
        if _proper(p, q):
            return Owner(PublicKey(p * q, bits), PrivateKey(p, q))


def owner_from(data: bytes | memoryview, bits: int, step: str) -> Owner:
    """A key out of the bytes of `Owner.to_bytes`.

    Raises:
        ProtocolError: They are no key of this many bits.
    """
    _check_bits(bits)
    half = bits // 16
    if len(data) != 2 * half:
        raise ProtocolError(f"a private key of {bits} bits has {2 * half} bytes, not {len(data)}", step=step)
    p, q = (int.from_bytes(part, "little") for part in (data[:half], data[half:]))
    prime = all(integers().is_prime(number, _ROUNDS) for number in (p, q))
    if not prime or not _proper(p, q) or (p * q).bit_length() != bits:
        raise ProtocolError(f"the bytes are no private key of {bits} bits", step=step)
    return Owner(PublicKey(p * q, bits), PrivateKey(p, q))


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
    if bits < LEAST_BITS or bits % 16:
        raise ValueError(f"a key has a multiple of 16 bits, at least {LEAST_BITS}, not {bits}")


def _unit(modulus: int) -> int:
    """A random number between 1 and the modulus; the chance to meet a factor is none."""
    return 1 + secrets.randbelow(int(modulus) - 1)


def _prime(bits: int) -> int:
    """A random prime that is 3 modulo 4; two of them give a product of twice the bits."""
    while True:
        number = secrets.randbits(bits) | 3 << bits - 2 | 3
        if integers().is_prime(number, _ROUNDS):
            return number


def _proper(p: int, q: int) -> bool:
    return p != q and p % 4 == q % 4 == 3 and math.gcd(p - 1, q - 1) == 2
