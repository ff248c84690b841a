"""Elements of the rings as lists of Python's integers, and what a holder of the secret could look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crypto.bfv.keys import SecretKey
from crypto.bfv.ring import Element, Ring


def lifted(ring: Ring, residues: Element) -> list[int]:
    """Coefficients from their residues, (primes, m), around zero."""
    total = [0] * residues.shape[1]
    for p, row in zip(ring.primes, residues.tolist(), strict=False):
        rest = ring.q // p
        factor = rest * pow(rest, -1, p)
        total = [whole + factor * residue for whole, residue in zip(total, row, strict=True)]
    return [(whole + ring.q // 2) % ring.q - ring.q // 2 for whole in total]


def residues_of(ring: Ring, numbers: list[int]) -> Element:
    """Coefficients modulo each prime, (primes, n)."""
    return np.array([[number % p for number in numbers] for p in ring.primes], dtype=np.uint64)


def phase(secret: SecretKey, pair: Element) -> list[int]:
    """c0 + c1 s of a transformed pair, (2, primes, N), around zero."""
    ring = secret.ring
    opened = pair[:1].copy()
    ring.multiply_add(opened, pair[1:].copy(), secret.factor)
    ring.inverse(opened)
    return lifted(ring, opened[0])


def secret_of(secret: SecretKey) -> list[int]:
    """The coefficients of s."""
    ring = secret.ring
    out = secret.factor[None].copy()
    ring.inverse(out)
    undo = pow(2**64, -1, ring.q)
    return [(value * undo + ring.q // 2) % ring.q - ring.q // 2 for value in lifted(ring, out[0])]


def product(ring: Ring, a: npt.NDArray[np.int64], b: list[int]) -> list[int]:
    """a b modulo x^N + 1 over the integers; a has few coefficients that are not zero."""
    out = [0] * ring.size
    for at in np.nonzero(a)[0].tolist():
        by = int(a[at])
        for j, value in enumerate(b):
            place = at + j
            if place < ring.size:
                out[place] += by * value
            else:
                out[place - ring.size] -= by * value
    return out
