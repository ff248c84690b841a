"""Parameters of CKKS for sums: the smallest ring that holds a cohort's sum, times one public factor.

    k        whole numbers, |k| <= 2^precision = limit
    slot     (k, k') as k + i k', times the scale D: two numbers in each of the N / 2 slots
    sum      c_1 k_1 + ... + c_n k_n, n <= cohort, whole factors 1 <= c_j <= weight

Two conditions choose D and q. The noise that a number meets is the real part of sum over j of e_j z^j at a
root z of x^N + 1, e_j the noise of a coefficient. SEAL's e_j is a centred binomial of variance 21/2, encoding
rounds each coefficient by at most 1/2; both are sub-Gaussian with variance proxy 21/2 and 1/4, and the
squares of cos add up to N / 2 at each root. So for t = 12

    B = t sqrt((21/2 + 1/4) (N / 2) cohort weight^2)

is passed with probability below 2 exp(-t^2 / 2) < 2^-102 by one number, below 2^-72 by any of 2^30. D = 4 B
puts noise at a quarter of the distance of two sums at most, so rounding finds the exact sum. And no
coefficient may pass q / 2: a polynomial's coefficients are at most the largest absolute value in its slots,
so sqrt(2) (limit cohort weight + 1) D < q / 2. The transforms are in floats of 53 bits: limit cohort weight
is at most 2^39.

Source: Cheon, Kim, Kim, Song, ASIACRYPT 2017, for the scheme; Homomorphic Encryption Standard (Albrecht and
others, 2018, eprint 2019/939), table 1, ternary secret, classical, for the largest modulus of a ring; Microsoft
SEAL 4, `util/rlwe.cpp`, for the noise. The standard's revision (Bossuat and others, IACR Communications in
Cryptology 1(4), 2024, eprint 2024/463, table 5.2) allows 53 and 106 bits where the standard has 54 and 109; all
rings here are inside both.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

STANDARD = {1024: 27, 2048: 54, 4096: 109, 8192: 218}
"""Bits of the largest modulus at 128 bits of security, of all primes together."""
GUIDELINES = {2048: 53, 4096: 106}
"""The same in the standard's revision of 2024."""


@dataclass(frozen=True)
class Ring:
    """A ring and the primes of its modulus.

    Args:
        degree: N; numbers in a ciphertext.
        primes: Bits of each prime of q, one or more.
        special: Bits of the prime that SEAL keeps back where q has several; 0 where it has one.
    """

    degree: int
    primes: tuple[int, ...]
    special: int = 0

    @property
    def modulus(self) -> int:
        """Bits of q, rounded down."""
        return sum(self.primes)

    @property
    def chain(self) -> tuple[int, ...]:
        """Bits of all primes, as SEAL takes them."""
        return (*self.primes, self.special) if self.special else self.primes

    @property
    def width(self) -> int:
        """Bytes of a coefficient modulo one prime."""
        return -(-max(self.primes) // 8)


RINGS = (
    Ring(2048, (40,)),
    Ring(2048, (48,)),
    Ring(2048, (53,)),
    Ring(4096, (40, 40), 26),
)
"""Smallest ciphertext first: 5, 6, 7 and 10 bytes a number."""

MARGIN = 12
_VARIANCE = 10.75
_FLOAT = 39
MOST_PRECISION = 30


@dataclass(frozen=True)
class Parameters:
    """What a sum is made for; all participants have the same.

    Args:
        cohort: Participants that are added, at most.
        weight: Largest public factor on one of them, a whole number.
        precision: Bits of the largest number.

    Raises:
        ValueError: An argument is out of its range, or no ring holds such a sum.
    """

    cohort: int
    weight: int = 1
    precision: int = 20

    def __post_init__(self) -> None:
        if not 1 <= self.cohort < 2**32 or not 1 <= self.weight < 2**32:
            raise ValueError(f"cohort and weight are between 1 and 2^32, not {self.cohort} and {self.weight}")
        if not 1 <= self.precision <= MOST_PRECISION:
            raise ValueError(f"precision is between 1 and {MOST_PRECISION} bits, not {self.precision}")
        _ = self.ring

    @property
    def limit(self) -> int:
        """Largest absolute number."""
        return 1 << self.precision

    @property
    def capacity(self) -> int:
        """Largest sum of factors."""
        return self.cohort * self.weight

    @functools.cached_property
    def ring(self) -> Ring:
        """The first of RINGS that holds the sum."""
        for ring in RINGS:
            if self.capacity * self.limit <= 1 << _FLOAT and self._needs(ring) < ring.modulus - 0.01:
                return ring
        raise ValueError(
            f"no ring holds the sum of {self.cohort} numbers of {self.precision} bits times {self.weight}: take "
            f"fewer bits of precision, or weights inside the numbers"
        )

    @functools.cached_property
    def scale(self) -> int:
        """D."""
        return self._scale(self.ring)

    def _scale(self, ring: Ring) -> int:
        bound = MARGIN * self.weight * math.sqrt(_VARIANCE * ring.degree / 2 * self.cohort)
        return math.ceil(4 * bound)

    def _needs(self, ring: Ring) -> float:
        """Bits of q below which the sum might wrap."""
        return 1.5 + math.log2(self.capacity * self.limit + 1) + math.log2(self._scale(ring))
