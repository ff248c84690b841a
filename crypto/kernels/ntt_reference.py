"""Polynomials modulo x^N + 1 in plain Python: what the tests compare the transform with."""

from __future__ import annotations


def multiply(a: list[int], b: list[int], modulus: int) -> list[int]:
    """The product modulo x^N + 1 and `modulus`, by the schoolbook."""
    size = len(a)
    out = [0] * size
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            sign = 1 if i + j < size else -1
            out[(i + j) % size] += sign * x * y
    return [value % modulus for value in out]


def transform(a: list[int], root: int, modulus: int) -> list[int]:
    """The values at the odd powers of `root`, of order 2N, in bit-reversed order."""
    size = len(a)
    bits = size.bit_length() - 1
    order = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(size)]
    points = [pow(root, 2 * i + 1, modulus) for i in order]
    return [sum(c * pow(x, k, modulus) for k, c in enumerate(a)) % modulus for x in points]
