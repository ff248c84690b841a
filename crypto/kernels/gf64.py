"""GF(2^64), held as a word, and blocks of two words as the field of 2^128 elements over it, multiplied by words.

A word is a polynomial modulo x^64 + x^4 + x^3 + x + 1, bit i the coefficient of x^i. A block (low, high) is
low + high Y in the tower GF(2^64)[Y] / (Y^2 + Y + beta), beta = x^61, which has no root in GF(2^64) because its
trace is 1. A word times a block is a product in each of its halves, so that beta never enters a kernel: only the
plain reference below multiplies blocks by one another.

Source: Lidl and Niederreiter, Finite Fields, theorem 2.25 and corollary 3.79 (Y^2 + Y + beta is irreducible over
GF(2^n) where the trace of beta is 1).
"""

from __future__ import annotations

from typing import Any

from crypto.kernels.blocks import clmul, u64
from crypto.kernels.compiled import kernel

MODULUS = (1 << 64) | 0x1B
"""x^64 + x^4 + x^3 + x + 1."""
BETA = 1 << 61


@kernel(inline="always")
def gf64_reduce(low: Any, high: Any) -> Any:
    """The product of two words, 127 bits wide, as a word."""
    # What x^4 + x^3 + x + 1 pushes above bit 63 once more has three bits.
    over = (high >> u64(63)) ^ (high >> u64(61)) ^ (high >> u64(60))
    high ^= over
    return low ^ high ^ (high << u64(1)) ^ (high << u64(3)) ^ (high << u64(4))


@kernel(inline="always")
def gf64_mul(a: Any, b: Any) -> Any:
    """The product of two words."""
    low, high = clmul(a, b)
    return gf64_reduce(low, high)


@kernel(inline="always")
def gf64_double(a: Any) -> Any:
    """The product with x."""
    return (a << u64(1)) ^ ((u64(0) - (a >> u64(63))) & u64(0x1B))


@kernel
def add_word_times(total: Any, values: Any, by: Any) -> None:
    """`total[i] += values[i] * by[0]`, words times a block: (n, 2), (n,) and (1, 2), uint64."""
    b0, b1 = by[0, 0], by[0, 1]
    for i in range(values.shape[0]):
        total[i, 0] ^= gf64_mul(values[i], b0)
        total[i, 1] ^= gf64_mul(values[i], b1)


def gf64_mul_reference(a: int, b: int) -> int:
    """The product of two words as integers, by shift and add."""
    product = 0
    for i in range(64):
        if b >> i & 1:
            product ^= a << i
    for i in range(126, 63, -1):
        if product >> i & 1:
            product ^= MODULUS << (i - 64)
    return product


def gf64_inverse_reference(a: int) -> int:
    """a^(2^64 - 2): the inverse, and 0 for 0."""
    power, result = a, 1
    for _ in range(63):
        power = gf64_mul_reference(power, power)
        result = gf64_mul_reference(result, power)
    return result


def tower_mul_reference(a: int, b: int) -> int:
    """The product of two blocks as integers, the word that stands with Y above the other."""
    mask = (1 << 64) - 1
    a0, a1, b0, b1 = a & mask, a >> 64, b & mask, b >> 64
    square = gf64_mul_reference(a1, b1)
    low = gf64_mul_reference(a0, b0) ^ gf64_mul_reference(square, BETA)
    high = gf64_mul_reference(a0, b1) ^ gf64_mul_reference(a1, b0) ^ square
    return low | high << 64
