"""Every parameter on which the security of sums under a joint RLWE key rests, in one table.

A new attack or a better bound is one edit here. `VERSION` stands in every message, so that two sides never
run with different tables.

    ring                                  Z[x] / (x^4096 + 1)
    modulus q                             two primes of 53 bits, q < 2^106
    key shares, encryption randomness     uniform in -1, 0, 1
    errors of the key layer               discrete Gaussian, 3.2, the 8 / sqrt(2 pi) of the standard
    secrets and errors of the payload     discrete Gaussian, 6.4, since their sums are opened (`hinted`)
    smudging                              uniform, derived in `noise`: 2^-40 over the life of a key

For 128 bits at N = 4096 with a ternary secret, q may have 109 bits in table 1 of the Homomorphic Encryption
Standard (Albrecht et al., 2018) and 106 bits in its revision, which allows 108 with a Gaussian secret
(Bossuat et al., "Security Guidelines for Implementing Homomorphic Encryption", eprint 2024/463). q is inside
all of them.

Assumption: decisional RLWE with these distributions, classical attacks; common polynomials are AES-128 of a
hashed public seed, as FrodoKEM makes its matrix, and count as uniform.
"""

from __future__ import annotations

import functools
import math
from decimal import Decimal, localcontext

import numpy as np
import numpy.typing as npt

from crypto.kernels import ntt

VERSION = 1

SIZE = 4096
"""N."""
PRIMES = (9007199254429697, 9007199254364161)
"""The two largest primes below 2^53 that are 1 modulo 2 N."""
PRIME_BITS = 53
Q = PRIMES[0] * PRIMES[1]

LARGEST_LOG_Q = {
    "standard 2018, ternary": 109,
    "guidelines 2024, ternary": 106,
    "guidelines 2024, Gaussian": 108,
}
"""Bits of q that leave 128 bits of security at N = 4096."""

SIGMA = 3.2
"""Standard deviation of errors in the key layer."""
WIDE_SIGMA = 6.4
"""Standard deviation of secrets and errors in the payload."""
KEY_WIDTH = 14
"""Bits of a plaintext coefficient of the key layer: it holds a sum of payload secrets."""

LAMBDA = 40
"""Statistical security, bits: of smudging over the life of a key, and of decoding."""
TAIL = 80
"""A bound on noise is passed with at most 2^-TAIL for one coefficient."""
LARGEST_COHORT = 10_000
"""Participants whose vectors one sum may hold, and holders of key shares."""


@functools.cache
def ring() -> ntt.Tables:
    """The tables of the ring."""
    return ntt.tables(SIZE, PRIMES)


def hinted(sigma: float) -> float:
    """Standard deviation that is left of a secret when another is added to it and the sum opened.

    Opening S = s_1 + s_2 and E = e_1 + e_2 leaves (a, a s_1 + e_1) as hard as RLWE with half of the standard
    deviation, when that is at least `smoothing()`: 1/sigma0^2 = 2 (1/sigma^2 + 1/sigma^2). More honest
    participants only make it harder.

    Source: Kim, Lee, Seo and Song, CRYPTO 2023, eprint 2023/623, theorem 1 (Hint-MLWE).
    """
    return sigma / 2


def smoothing(bits: int = 128) -> float:
    """What `hinted` must reach: sqrt(2) times the smoothing parameter of Z^2N for 2^-bits."""
    eta = math.sqrt((math.log(4 * SIZE) + math.log1p(2.0**bits)) / math.pi)
    return math.sqrt(2) * eta / math.sqrt(2 * math.pi)


@functools.cache
def gaussian_table(sigma: float) -> npt.NDArray[np.int64]:
    """Cumulative probabilities of the absolute value of a discrete Gaussian, times 2^126.

    Number j is the probability of at most j, so that a uniform number of 126 bits gives as many as it is not
    below. The distribution differs from the ideal one by less than 2^-118.

    Args:
        sigma: Standard deviation.

    Returns:
        High and low 63 bits, (2, m) int64.
    """
    with localcontext() as context:
        context.prec = 80
        spread = 2 * Decimal(str(sigma)) ** 2
        weights = [Decimal(1)]
        while weights[-1] > Decimal(2) ** -140:
            weights.append(2 * (-(Decimal(len(weights)) ** 2) / spread).exp())
        whole = sum(weights)
        total = Decimal(0)
        kept = []
        for weight in weights:
            total += weight
            number = int((total / whole * 2**126).to_integral_value())
            if number >= 2**126:
                break
            kept.append((number >> 63, number & (2**63 - 1)))
    return np.array(kept, dtype=np.int64).T.copy()
