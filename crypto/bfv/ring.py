"""Two rings, and their elements as arrays: sampling, transform, products.

An element is (primes, N) uint64 and, but where a name says otherwise, transformed (see `crypto.kernels.ntt`).
Several elements are (n, primes, N). A *factor* is an element in Montgomery's form, times 2^64: what others are
multiplied with. Secrets come from an `Entropy`, the system's randomness unless a test gives another, stretched by
AES-128 in counter mode under a key that is used for one element, or for the errors of one vector.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crypto.bfv.parameters import (
    LARGE_PRIMES,
    LARGE_SIZE,
    PRIME_BITS,
    SIGMA,
    SMALL_PRIMES,
    SMALL_SIZE,
)
from crypto.kernels import bfv_kernels, ntt, rlwe_kernels
from crypto.kernels.aes import expand_key
from crypto.rlwe.parameters import gaussian_table
from crypto.rlwe.ring import Element, Entropy, Numbers, hashed, system

__all__ = ["LARGE", "RINGS", "SMALL", "Element", "Entropy", "Numbers", "Ring", "hashed", "system"]

RADIX = 2**64
BITS = np.uint64(PRIME_BITS)


@dataclass(frozen=True)
class Ring:
    """Z[x] / (x^N + 1) modulo q.

    Args:
        size: N.
        primes: Of q, each 1 modulo 2N, of 53 bits.
    """

    size: int
    primes: tuple[int, ...]

    @functools.cached_property
    def q(self) -> int:
        """The modulus."""
        return math.prod(self.primes)

    @property
    def tables(self) -> ntt.Tables:
        """What the kernels need to know."""
        return _tables(self)

    @property
    def moduli(self) -> npt.NDArray[np.uint64]:
        """(primes, 4), see `crypto.kernels.ntt`."""
        return self.tables.moduli

    def fewer(self, primes: int) -> Ring:
        """The ring modulo the first primes only."""
        return RINGS_OF_FEWER[self.size, primes]

    # ---- sampling ---------------------------------------------------------------------------------------------------

    def uniform(self, seed: bytes, count: int, first: int = 0) -> Element:
        """Elements number `first` and on of a public seed of 16 bytes, (count, primes, N)."""
        out = self.empty(count)
        rlwe_kernels.uniform(expand_key(seed), np.uint64(first), self.moduli, BITS, out)
        return out

    def ternary(self, entropy: Entropy) -> Numbers:
        """Coefficients uniform in -1, 0, 1, (N,) int64. Secret."""
        numbers = np.empty(self.size, dtype=np.int64)
        rlwe_kernels.ternary(expand_key(entropy(16)), numbers)
        return numbers

    def gaussian(self, entropy: Entropy) -> Numbers:
        """Coefficients of an error, (N,) int64. Secret."""
        numbers, room = np.empty(self.size, dtype=np.int64), np.empty((2, self.size), dtype=np.int64)
        rlwe_kernels.gaussian(expand_key(entropy(16)), np.uint64(0), gaussian_table(SIGMA), room, numbers)
        return numbers

    # ---- transform --------------------------------------------------------------------------------------------------

    def transformed(self, numbers: Numbers, by: int = 1) -> Element:
        """An element from coefficients of any int64, (N,), times an integer."""
        out = np.zeros((1, len(self.primes), self.size), dtype=np.uint64)
        bfv_kernels.residues(numbers, self.montgomery(by), self.moduli, out[0])
        self.forward(out)
        made: Element = out[0]
        return made

    def factor(self, numbers: Numbers) -> Element:
        """As `transformed`, to multiply with: in Montgomery's form."""
        return self.transformed(numbers, RADIX)

    def forward(self, elements: Element) -> None:
        """Coefficients modulo each prime, (n, primes, N), to elements, in place."""
        tables = self.tables
        ntt.forward(elements, tables.moduli, tables.roots, tables.shoup)

    def inverse(self, elements: Element) -> None:
        """`forward` undone, in place."""
        tables = self.tables
        ntt.inverse(elements, tables.moduli, tables.inverse_roots, tables.inverse_shoup, tables.last)

    # ---- arithmetic -------------------------------------------------------------------------------------------------

    def product(self, a: Element, b: Element) -> Element:
        """a b."""
        out = np.empty_like(a)
        ntt.multiply(a, b, self.moduli, out)
        return out

    def multiply_add(self, total: Element, elements: Element, factor: Element) -> None:
        """`total += elements factor`, (n, primes, N) twice and a factor."""
        bfv_kernels.multiply_add(total, elements, factor, self.moduli)

    def add(self, total: Element, more: Element) -> None:
        """`total += more`, (n, primes, N) both, transformed both or neither."""
        ntt.add_to(total, more, self.moduli)

    def empty(self, *count: int) -> Element:
        """Room for elements, (*count, primes, N)."""
        return np.empty((*count, len(self.primes), self.size), dtype=np.uint64)

    def zeros(self, *count: int) -> Element:
        """Zero elements, (*count, primes, N)."""
        return np.zeros((*count, len(self.primes), self.size), dtype=np.uint64)

    def below(self, elements: Element) -> bool:
        """Whether every residue of (n, primes, N) is below its prime."""
        return bool(rlwe_kernels.below(elements, self.moduli))

    def residues(self, number: int) -> npt.NDArray[np.uint64]:
        """An integer modulo each prime, (primes,)."""
        return np.array([number % p for p in self.primes], dtype=np.uint64)

    def montgomery(self, number: int) -> npt.NDArray[np.uint64]:
        """An integer in Montgomery's form, modulo each prime, (primes,)."""
        return self.residues(number * RADIX)


SMALL = Ring(SMALL_SIZE, SMALL_PRIMES)
"""For sums: few bytes, plaintexts of up to about 35 bits."""
LARGE = Ring(LARGE_SIZE, LARGE_PRIMES)
"""For products: plaintexts modulo 2^64 or a prime of 61 bits."""
RINGS = (SMALL, LARGE)
"""A ring's place here is its number in messages."""
RINGS_OF_FEWER = {
    (each.size, count): Ring(each.size, each.primes[:count])
    for each in RINGS
    for count in range(1, len(each.primes) + 1)
}


@functools.cache
def _tables(ring: Ring) -> ntt.Tables:
    return ntt.tables(ring.size, ring.primes)
