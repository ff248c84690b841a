"""Additive shares of integers modulo one prime, and what two parties do with them without a message.

A number x is held as a + b = x modulo p, p the prime of `crypto.bfv.products`; one of the two shares is uniform,
so neither party learns x. The *first* party is the label holder, the *second* one the first partner.

Truncation and lifting are local and probabilistic: they are right unless the uniform share falls among the |x|
numbers next to zero, so a number fails with probability |x| / p, and the result is then wrong by about p. Weights
are lifted to integers without a modulus, so what the optimiser does with them is exact and cannot fail.

Source: Mohassel and Zhang, "SecureML", IEEE S&P 2017, section 4.1 and theorem 1 (truncation).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.bfv.products import MODULUS

Residues = npt.NDArray[np.uint64]
"""Numbers below the modulus."""
Integers = npt.NDArray[Any]
"""Python's integers, dtype object: shares without a modulus."""
Floats = npt.NDArray[np.float64]
Draw = Callable[[int], bytes]
"""Gives so many random bytes, as `secrets.token_bytes` does."""

P = np.uint64(MODULUS)
LIMB = 21
"""Bits of the pieces that a residue is cut into for a product with a matrix: a sum of 2^20 terms stays below 2^63."""
LARGEST = 1 << 20
"""Bound on the entries of a matrix."""


def residues(numbers: npt.NDArray[Any]) -> Residues:
    """Integers modulo p, any size and sign."""
    return np.asarray(numbers % MODULUS, dtype=np.uint64)


def signed(numbers: Residues) -> npt.NDArray[np.int64]:
    """Residues as the integers nearest to zero, (...,) int64."""
    whole = numbers.astype(np.int64)
    return np.where(whole > MODULUS // 2, whole - MODULUS, whole)


def plus(a: Residues, b: Residues) -> Residues:
    """a + b."""
    made = a + b
    return np.where(made >= P, made - P, made)


def minus(a: Residues, b: Residues) -> Residues:
    """a - b."""
    return np.where(a >= b, a - b, a + (P - b))


def times(matrix: npt.NDArray[np.int64], vector: Residues) -> Residues:
    """A matrix of integers times a vector of residues.

    Args:
        matrix: (n, d) int64, entries within `LARGEST`, d at most 2^20.
        vector: (d,).

    Returns:
        (n,).
    """
    total = np.zeros(len(matrix), dtype=np.uint64)
    for shift in (2 * LIMB, LIMB, 0):
        for _ in range(LIMB):
            total = plus(total, total)
        piece = ((vector >> np.uint64(shift)) & np.uint64((1 << LIMB) - 1)).astype(np.int64)
        total = plus(total, residues(matrix @ piece))
    return total


def fixed(numbers: Floats, bits: int) -> npt.NDArray[np.int64]:
    """Numbers times 2^bits, rounded to the nearest integer."""
    return np.rint(np.ldexp(numbers, bits)).astype(np.int64)


def scattered(numbers: Floats, draw: Draw = secrets.token_bytes) -> npt.NDArray[np.int64]:
    """Rounded up or down at random, so that the expectation is exact: errors of many rows cancel.

    Args:
        numbers: Any shape, in units of the last place.
        draw: Of the random bytes.
    """
    chances = np.frombuffer(draw(4 * numbers.size), dtype=np.uint32).reshape(numbers.shape)
    return np.floor(numbers + chances * 2.0**-32).astype(np.int64)


def truncated(share: Residues, bits: int, *, first: bool) -> Residues:
    """A share of x / 2^bits, rounded to one of the two integers next to it; right but for |x| / p."""
    if first:
        return share >> np.uint64(bits)
    return minus(np.zeros_like(share), (P - share) >> np.uint64(bits))


def lifted(share: Residues, *, first: bool) -> Integers:
    """A share of x over the integers; right but for |x| / p."""
    whole = share.astype(object)
    return whole if first else whole - MODULUS


def lowered(share: Integers, bits: int) -> Residues:
    """A share modulo p of x / 2^bits, from a share over the integers; wrong by one unit at most."""
    return residues(share >> bits)


def scaled(numbers: npt.NDArray[np.int64], share: Residues) -> Residues:
    """Integers within `LARGEST` times residues, one by one."""
    total = np.zeros(len(share), dtype=np.uint64)
    for shift in (2 * LIMB, LIMB, 0):
        for _ in range(LIMB):
            total = plus(total, total)
        piece = ((share >> np.uint64(shift)) & np.uint64((1 << LIMB) - 1)).astype(np.int64)
        total = plus(total, residues(numbers * piece))
    return total
