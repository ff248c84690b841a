"""Polynomials over GF(2^128): values at small points, and the value at zero from values elsewhere.

No branch and no place in memory depends on coefficients or values; they do on the points, which are public.
"""

from __future__ import annotations

from typing import Any

from crypto.kernels.blocks import clmul, gf_mul, u64
from crypto.kernels.compiled import kernel


@kernel(inline="always")
def _times_small(a0: Any, a1: Any, x: Any) -> Any:
    """The product with a polynomial of degree below 32: (low, high)."""
    l0, l1 = clmul(a0, x)
    h0, h1 = clmul(a1, x)
    return l0 ^ h1 ^ (h1 << u64(1)) ^ (h1 << u64(2)) ^ (h1 << u64(7)), l1 ^ h0


@kernel
def evaluate(constants: Any, coefficients: Any, points: Any, out: Any) -> None:
    """Values of several polynomials of one degree at the same points.

    Args:
        constants: Of x^0, (m, 2) uint64.
        coefficients: Of x^1 and up, (degree, m, 2) uint64.
        points: Below 2^32, (k,) uint64.
        out: (k, m, 2) uint64.
    """
    for i in range(points.shape[0]):
        x = points[i]
        for j in range(constants.shape[0]):
            low, high = u64(0), u64(0)
            for c in range(coefficients.shape[0] - 1, -1, -1):
                low, high = _times_small(low ^ coefficients[c, j, 0], high ^ coefficients[c, j, 1], x)
            out[i, j, 0] = low ^ constants[j, 0]
            out[i, j, 1] = high ^ constants[j, 1]


@kernel
def _inverse(a0: Any, a1: Any) -> Any:
    """a^(2^128 - 2): the product of a^2, a^4, ..., a^(2^127)."""
    r0, r1 = u64(1), u64(0)
    for _ in range(127):
        a0, a1 = gf_mul(a0, a1, a0, a1)
        r0, r1 = gf_mul(r0, r1, a0, a1)
    return r0, r1


@kernel
def at_zero(points: Any, values: Any, room: Any, out: Any) -> None:
    """Values at zero of the polynomials of least degree that take given values.

    Args:
        points: Distinct, 1 to 2^32 - 1, (t,) uint64.
        values: (t, m, 2) uint64.
        room: (2, t + 1, 2) uint64.
        out: (m, 2) uint64.
    """
    t = points.shape[0]
    # Of Lagrange's factor of point i: its divisor x_i prod (x_i - x_j), and the product of the divisors up to i.
    divisors, products = room[0], room[1]
    products[0, 0], products[0, 1] = u64(1), u64(0)
    p0, p1 = u64(1), u64(0)
    for i in range(t):
        d0, d1 = points[i], u64(0)
        for j in range(t):
            d0, d1 = _times_small(d0, d1, u64(1) if j == i else points[i] ^ points[j])
        divisors[i, 0], divisors[i, 1] = d0, d1
        products[i + 1, 0], products[i + 1, 1] = gf_mul(products[i, 0], products[i, 1], d0, d1)
        p0, p1 = _times_small(p0, p1, points[i])
    out[:] = u64(0)
    i0, i1 = _inverse(products[t, 0], products[t, 1])
    for i in range(t - 1, -1, -1):
        f0, f1 = gf_mul(i0, i1, products[i, 0], products[i, 1])
        f0, f1 = gf_mul(f0, f1, p0, p1)
        for j in range(out.shape[0]):
            low, high = gf_mul(values[i, j, 0], values[i, j, 1], f0, f1)
            out[j, 0] ^= low
            out[j, 1] ^= high
        i0, i1 = gf_mul(i0, i1, divisors[i, 0], divisors[i, 1])
