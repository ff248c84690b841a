"""Every parameter on which the security of encrypted sums and products rests, in one table.

A new attack or a better bound is one edit here. `VERSION` stands in every message, so that two sides never
run with different tables.

    ring        N       q                         used for
    SMALL       4096    2 primes, q < 2^106       sums
    LARGE       8192    4 primes, q < 2^212       products
    secrets, encryption randomness                uniform in -1, 0, 1
    errors                                        discrete Gaussian, 3.2, the 8 / sqrt(2 pi) of the standard
    smudging of answers                           uniform, 2^-40 (`noise`)

For 128 bits with a ternary secret, q may have 109 bits at N = 4096 and 218 at N = 8192 in table 1 of the
Homomorphic Encryption Standard (Albrecht et al., 2018), 106 and 214 in its revision (Bossuat et al.,
"Security Guidelines for Implementing Homomorphic Encryption", eprint 2024/463). Both moduli are inside all
of them.

Assumption: decisional RLWE with these distributions, classical attacks; public uniform polynomials are
AES-128 of a seed, as FrodoKEM makes its matrix, and count as uniform.
"""

from __future__ import annotations

VERSION = 1

SMALL_SIZE = 4096
SMALL_PRIMES = (9007199254429697, 9007199254364161)
"""The two largest primes below 2^53 that are 1 modulo 2 N."""
LARGE_SIZE = 8192
LARGE_PRIMES = (9007199254429697, 9007199254364161, 9007199254331393, 9007199253921793)
"""The four largest primes below 2^53 that are 1 modulo 2 N."""
PRIME_BITS = 53

LARGEST_LOG_Q = {
    SMALL_SIZE: {"standard 2018, ternary": 109, "guidelines 2024, ternary": 106},
    LARGE_SIZE: {"standard 2018, ternary": 218, "guidelines 2024, ternary": 214},
}
"""Bits of q that leave 128 bits of security."""

SIGMA = 3.2
"""Standard deviation of errors."""
LAMBDA = 40
"""Statistical security of the smudging of what is sent together, bits: the answers of one group, or one product."""
TAIL = 80
"""A bound on noise is passed with at most 2^-TAIL for one coefficient."""
LARGEST_ODD_BITS = 61
"""Bits of an odd plaintext modulus at most; a power of two may be 2^64."""
