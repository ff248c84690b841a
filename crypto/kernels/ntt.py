"""Polynomials modulo x^N + 1 and a few primes: number-theoretic transform, products, sums.

A polynomial is one row of residues for each prime, (primes, N) uint64, every residue below its prime.
`forward` gives its values at the odd powers of a 2N-th root of unity, in bit-reversed order; products are
then taken place by place. A prime has at most 61 bits and is 1 modulo 2N.

`moduli` is (primes, 4) uint64: the prime p, -1/p modulo 2^64, 2^64 modulo p and 2^128 modulo p (for
Montgomery's products, R = 2^64). The tables of roots are (primes, N): a root and floor(root 2^64 / p)
(Shoup). `tables` makes them all.

Source: Longa and Naehrig, CANS 2016, eprint 2016/504, algorithms 1 and 2; the lazy butterflies are Harvey's
(Journal of Symbolic Computation 60, 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.kernels.compiled import intrinsic, kernel, types

Words = npt.NDArray[np.uint64]
u64 = np.uint64


@intrinsic
def wide(typing: Any, a: Any, b: Any) -> Any:
    """The product of two words: (low, high)."""
    kind = types.UniTuple(types.uint64, 2)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        long, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(*(builder.zext(each, long) for each in arguments))
        high = builder.lshr(product, ir.Constant(long, 64))
        parts = [builder.trunc(product, word), builder.trunc(high, word)]
        return context.make_tuple(builder, kind, parts)

    return kind(types.uint64, types.uint64), code


@kernel(inline="always")
def montgomery(a: Any, b: Any, p: Any, negative: Any) -> Any:
    """a b / 2^64 modulo p, below p, for a b below 2^64 p."""
    low, high = wide(a, b)
    _, carried = wide(low * negative, p)
    made = high + carried + u64(low != u64(0))
    return made - p if made >= p else made


@kernel(inline="always")
def plus(a: Any, b: Any, p: Any) -> Any:
    """a + b modulo p."""
    made = a + b
    return made - p if made >= p else made


@kernel(inline="always")
def minus(a: Any, b: Any, p: Any) -> Any:
    """a - b modulo p."""
    return a - b if a >= b else a + p - b


@kernel
def forward_row(row: Any, p: Any, roots: Any, shoup: Any) -> None:
    """The transform of one row, in place; inside it values stay below 4 p."""
    twice = p + p
    length = row.shape[0] >> 1
    blocks = 1
    while length >= 1:
        for block in range(blocks):
            root, quotient = roots[blocks + block], shoup[blocks + block]
            first = row[2 * block * length : (2 * block + 1) * length]
            second = row[(2 * block + 1) * length : (2 * block + 2) * length]
            for j in range(length):
                x, y = first[j], second[j]
                x = x - twice if x >= twice else x
                _, estimate = wide(quotient, y)
                t = root * y - estimate * p
                first[j] = x + t
                second[j] = x - t + twice
        length >>= 1
        blocks <<= 1
    for j in range(row.shape[0]):
        x = row[j]
        x = x - twice if x >= twice else x
        row[j] = x - p if x >= p else x


@kernel
def inverse_row(row: Any, p: Any, roots: Any, shoup: Any, last: Any) -> None:
    """`forward_row` undone; `last` is 1/N and its quotient, (2,)."""
    twice = p + p
    length = 1
    blocks = row.shape[0] >> 1
    while blocks >= 1:
        for block in range(blocks):
            root, quotient = roots[blocks + block], shoup[blocks + block]
            first = row[2 * block * length : (2 * block + 1) * length]
            second = row[(2 * block + 1) * length : (2 * block + 2) * length]
            for j in range(length):
                x, y = first[j], second[j]
                total = x + y
                first[j] = total - twice if total >= twice else total
                apart = x - y + twice
                _, estimate = wide(quotient, apart)
                second[j] = root * apart - estimate * p
        length <<= 1
        blocks >>= 1
    for j in range(row.shape[0]):
        _, estimate = wide(last[1], row[j])
        x = last[0] * row[j] - estimate * p
        row[j] = x - p if x >= p else x


@kernel
def forward(polynomials: Any, moduli: Any, roots: Any, shoup: Any) -> None:
    """Transform in place: (n, primes, N)."""
    for i in range(polynomials.shape[0]):
        for k in range(polynomials.shape[1]):
            forward_row(polynomials[i, k], moduli[k, 0], roots[k], shoup[k])


@kernel
def inverse(polynomials: Any, moduli: Any, roots: Any, shoup: Any, last: Any) -> None:
    """`forward` undone in place: (n, primes, N); `last` (primes, 2)."""
    for i in range(polynomials.shape[0]):
        for k in range(polynomials.shape[1]):
            inverse_row(polynomials[i, k], moduli[k, 0], roots[k], shoup[k], last[k])


@kernel
def multiply(a: Any, b: Any, moduli: Any, out: Any) -> None:
    """Products place by place, (primes, N) all; `out` may be `a` or `b`."""
    for k in range(a.shape[0]):
        p, negative, square = moduli[k, 0], moduli[k, 1], moduli[k, 3]
        for j in range(a.shape[1]):
            out[k, j] = montgomery(montgomery(a[k, j], b[k, j], p, negative), square, p, negative)


@kernel
def scale(a: Any, by: Any, moduli: Any, out: Any) -> None:
    """Products with one number for each prime: (primes, N), (primes,)."""
    for k in range(a.shape[0]):
        p, negative = moduli[k, 0], moduli[k, 1]
        factor = montgomery(by[k], moduli[k, 3], p, negative)
        for j in range(a.shape[1]):
            out[k, j] = montgomery(a[k, j], factor, p, negative)


@kernel
def add_to(total: Any, more: Any, moduli: Any) -> None:
    """`total += more`, (n, primes, N) both."""
    for i in range(total.shape[0]):
        for k in range(total.shape[1]):
            p = moduli[k, 0]
            for j in range(total.shape[2]):
                total[i, k, j] = plus(total[i, k, j], more[i, k, j], p)


@kernel
def take_from(total: Any, less: Any, moduli: Any) -> None:
    """`total -= less`, (n, primes, N) both."""
    for i in range(total.shape[0]):
        for k in range(total.shape[1]):
            p = moduli[k, 0]
            for j in range(total.shape[2]):
                total[i, k, j] = minus(total[i, k, j], less[i, k, j], p)


@kernel
def evaluate(coefficients: Any, points: Any, moduli: Any, out: Any) -> None:
    """Polynomials over the ring at numbers, by Horner's rule: Shamir's shares.

    Args:
        coefficients: Of the sharing polynomial, lowest first, (t, primes, N).
        points: (n,) uint64, below the primes.
        moduli: (primes, 4).
        out: (n, primes, N).
    """
    top = coefficients.shape[0] - 1
    for i in range(points.shape[0]):
        for k in range(coefficients.shape[1]):
            p, negative = moduli[k, 0], moduli[k, 1]
            point = montgomery(points[i], moduli[k, 3], p, negative)
            row = out[i, k]
            row[:] = coefficients[top, k]
            for degree in range(top - 1, -1, -1):
                more = coefficients[degree, k]
                for j in range(row.shape[0]):
                    row[j] = plus(montgomery(row[j], point, p, negative), more[j], p)


@dataclass(frozen=True, eq=False)
class Tables:
    """What the kernels need to know of a ring; the fields are as in this file's head.

    Args:
        size: N.
        primes: The primes.
        moduli: (primes, 4).
        roots, shoup: Of the forward transform, (primes, N).
        inverse_roots, inverse_shoup: Of the inverse one.
        last: 1/N modulo each prime and its quotient, (primes, 2).
    """

    size: int
    primes: tuple[int, ...]
    moduli: Words
    roots: Words
    shoup: Words
    inverse_roots: Words
    inverse_shoup: Words
    last: Words


def tables(size: int, primes: tuple[int, ...]) -> Tables:
    """The tables of a ring.

    Args:
        size: N, a power of two.
        primes: Each 1 modulo 2N and below 2^61.

    Raises:
        ValueError: A prime has no transform of this size.
    """
    for p in primes:
        if p >> 61 or p % (2 * size) != 1:
            raise ValueError(
                f"{p} has no transform of size {size}: below 2^61 and 1 modulo {2 * size} is needed"
            )
    bits = size.bit_length() - 1
    order = [int(f"{i:0{bits}b}"[::-1], 2) if bits else 0 for i in range(size)]
    kept: list[tuple[list[int], list[int]]] = []
    for p in primes:
        root = _root(size, p)
        powers = [1] * (2 * size)
        for i in range(1, 2 * size):
            powers[i] = powers[i - 1] * root % p
        kept.append(([powers[i] for i in order], [powers[-i % (2 * size)] for i in order]))
    pairs = list(zip(primes, kept, strict=True))

    def array(rows: list[list[int]]) -> Words:
        return np.array(rows, dtype=np.uint64)

    return Tables(
        size=size,
        primes=primes,
        moduli=array([[p, -pow(p, -1, 2**64) % 2**64, 2**64 % p, 2**128 % p] for p in primes]),
        roots=array([there for _, (there, _) in pairs]),
        shoup=array([[(value << 64) // p for value in there] for p, (there, _) in pairs]),
        inverse_roots=array([back for _, (_, back) in pairs]),
        inverse_shoup=array([[(value << 64) // p for value in back] for p, (_, back) in pairs]),
        last=array([[pow(size, -1, p), (pow(size, -1, p) << 64) // p] for p in primes]),
    )


def _root(size: int, p: int) -> int:
    """A number of order 2N modulo p: the smallest base that gives one."""
    for base in range(2, 1000):
        root = pow(base, (p - 1) // (2 * size), p)
        if pow(root, size, p) == p - 1:
            return root
    raise ValueError(f"{p} is no prime")
