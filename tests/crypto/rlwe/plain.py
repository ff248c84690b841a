"""Elements of the ring as lists of Python's integers: what tests compare arrays with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crypto.rlwe.parameters import PRIMES, Q


def kronecker(a: list[int], b: list[int], p: int) -> list[int]:
    """The product modulo x^N + 1 and p through one product of large integers: fast enough for the whole ring."""
    size, room = len(a), 2 * p.bit_length() + 16
    left = sum(x << (room * i) for i, x in enumerate(a))
    right = sum(x << (room * i) for i, x in enumerate(b))
    product, mask = left * right, (1 << room) - 1
    made = [product >> (room * i) & mask for i in range(2 * size)]
    return [(made[i] - made[i + size]) % p for i in range(size)]


def lifted(residues: npt.NDArray[np.uint64]) -> list[int]:
    """Coefficients from their residues, around zero."""
    p, r = PRIMES
    factor = pow(p, -1, r)
    made = [x + p * ((y - x) * factor % r) for x, y in zip(*residues.tolist(), strict=True)]
    return [value - Q if value > Q // 2 else value for value in made]


def residues_of(numbers: list[int]) -> npt.NDArray[np.uint64]:
    """Coefficients modulo each prime, (2, n)."""
    return np.array([[number % p for number in numbers] for p in PRIMES], dtype=np.uint64)
