"""Elements of the ring as arrays: sampling, transform, products.

An element is (primes, N) uint64 and, but where a name says otherwise, transformed (see `crypto.kernels.ntt`).
Secrets come from an `Entropy`, the system's randomness unless a test gives another, stretched by AES-128 in
counter mode under a key that is used for one element, or for the errors of one vector.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from crypto.kernels import ntt, rlwe_kernels
from crypto.kernels.aes import expand_key
from crypto.rlwe.parameters import (
    KEY_WIDTH,
    PRIME_BITS,
    PRIMES,
    SIGMA,
    SIZE,
    WIDE_SIGMA,
    gaussian_table,
    ring,
)

Element = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
Entropy = Callable[[int], bytes]
"""Gives so many secret random bytes, as `secrets.token_bytes` does."""

system: Entropy = secrets.token_bytes
DIGEST = 16


def hashed(name: str, *parts: bytes) -> bytes:
    """16 bytes that stand for these parts: BLAKE2b with a name, each part behind its length."""
    state = hashlib.blake2b(digest_size=DIGEST, person=name.encode()[:16])
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def common_polynomial(seed: bytes) -> Element:
    """The uniform element that a public seed stands for; nobody can choose it.

    Args:
        seed: Public, at least 16 bytes.

    Raises:
        ValueError: The seed is shorter.
    """
    if len(seed) < 16:
        raise ValueError(f"a common seed has at least 16 bytes, this one {len(seed)}")
    made: Element = uniform(hashed("rlwe common", seed), 1)[0]
    return made


def uniform(seed: bytes, count: int) -> Element:
    """Uniform elements from a seed of 16 bytes, (count, primes, N)."""
    out = np.empty((count, len(PRIMES), SIZE), dtype=np.uint64)
    rlwe_kernels.uniform(expand_key(seed), np.uint64(0), ring().moduli, np.uint64(PRIME_BITS), out)
    return out


def ternary(entropy: Entropy) -> Element:
    """A secret with coefficients uniform in -1, 0, 1."""
    numbers = np.empty(SIZE, dtype=np.int64)
    rlwe_kernels.ternary(expand_key(entropy(16)), numbers)
    return transformed(numbers)


def wide_secret(entropy: Entropy) -> Numbers:
    """Coefficients of a payload secret, (N,) int64."""
    return gaussian(WIDE_SIGMA, entropy(16), SIZE)


def error(entropy: Entropy) -> Element:
    """An error of the key layer, times its plaintext modulus."""
    return transformed(gaussian(SIGMA, entropy(16), SIZE), 1 << KEY_WIDTH)


def gaussian(sigma: float, seed: bytes, count: int) -> Numbers:
    """Discrete Gaussian numbers from a seed of 16 bytes that is used for nothing else, (count,) int64."""
    numbers, room = np.empty(count, dtype=np.int64), np.empty((2, count), dtype=np.int64)
    rlwe_kernels.gaussian(expand_key(seed), np.uint64(0), gaussian_table(sigma), room, numbers)
    return numbers


def smudging(bits: int, entropy: Entropy) -> Element:
    """Coefficients uniform in [-2^bits, 2^bits), times the plaintext modulus of the key layer."""
    out = np.empty((1, len(PRIMES), SIZE), dtype=np.uint64)
    factor = factors(1 << KEY_WIDTH)
    rlwe_kernels.wide_noise(expand_key(entropy(16)), np.uint64(bits), factor, ring().moduli, out[0])
    _forward(out)
    made: Element = out[0]
    return made


def factors(number: int) -> Element:
    """An integer modulo each prime, (primes,)."""
    return np.array([number % p for p in PRIMES], dtype=np.uint64)


def transformed(numbers: Numbers, factor: int = 1) -> Element:
    """An element from small signed coefficients, (N,) int64, times a factor."""
    out = np.empty((1, len(PRIMES), SIZE), dtype=np.uint64)
    rlwe_kernels.residues(numbers, factors(factor), ring().moduli, out[0])
    _forward(out)
    made: Element = out[0]
    return made


def coefficients(element: Element) -> Element:
    """The residues of an element's coefficients, (primes, N)."""
    out = element[None].copy()
    tables = ring()
    ntt.inverse(out, tables.moduli, tables.inverse_roots, tables.inverse_shoup, tables.last)
    made: Element = out[0]
    return made


def product(a: Element, b: Element) -> Element:
    """a b."""
    out = np.empty_like(a)
    ntt.multiply(a, b, ring().moduli, out)
    return out


def scaled(a: Element, by: Element) -> Element:
    """a times an integer, given modulo each prime."""
    out = np.empty_like(a)
    ntt.scale(a, by, ring().moduli, out)
    return out


def total(*elements: Element) -> Element:
    """The sum of elements."""
    out = elements[0][None].copy()
    for element in elements[1:]:
        ntt.add_to(out, element[None], ring().moduli)
    made: Element = out[0]
    return made


def negated(a: Element) -> Element:
    """-a."""
    out = np.zeros_like(a)[None]
    ntt.take_from(out, a[None], ring().moduli)
    made: Element = out[0]
    return made


def _forward(elements: Element) -> None:
    tables = ring()
    ntt.forward(elements, tables.moduli, tables.roots, tables.shoup)
