"""Every parameter on which the security of set intersection rests, in one table.

A new attack on learning parity with noise (LPN), or a better bound, is one edit here. `VERSION` is exchanged in
the handshake and stands in every receipt, so that two sides never run with different tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

VERSION = 1

KAPPA = 128
"""Computational security, bits."""
LAMBDA = 40
"""Statistical security, bits: of a run as a whole, whatever its size."""


@dataclass(frozen=True)
class Lpn:
    """Primal LPN with regular noise and a local code.

    Assumption: with A of `rows` x `k` with `weight` entries a row (public, pseudo-random) and a noise vector of
    `trees` blocks with one entry each, s A + e looks uniform.

    Args:
        name: In receipts.
        trees: Noise blocks, t.
        k: Length of the secret s.
        depth: A block has 2^depth places.
        weight: Entries in a row of the code, d.
    """

    name: str
    trees: int
    k: int
    depth: int
    weight: int = 10

    @property
    def rows(self) -> int:
        """Length of the output, N = t 2^depth."""
        return self.trees << self.depth

    def first(self, rows: int) -> Lpn:
        """As many of the trees as make so many rows, one at least.

        Whoever attacks it sees a part of what the whole set would show: trees are independent of one another.
        """
        return replace(self, trees=max(1, min(self.trees, -(-rows // (1 << self.depth)))))

    @property
    def base(self) -> int:
        """Field correlations that a round over the field starts from: the secret, and a value for each tree."""
        return self.k + self.trees

    @property
    def bit_base(self) -> int:
        """Bit correlations that a round over bits starts from: the secret, and one for each level of each tree."""
        return self.k + self.trees * self.depth


LPN = {
    "b10": Lpn("b10", trees=850, k=2**16, depth=10),
    "b11": Lpn("b11", trees=1170, k=2**17, depth=11),
    "b12": Lpn("b12", trees=1520, k=2**18, depth=12),
    "b13": Lpn("b13", trees=1900, k=2**19, depth=13),
}
"""About 128 bits against Gauss, statistical decoding, information-set decoding, hybrid and algebraic attacks.

Source: emp-ot, `tuning.h`, 2026, which replaced the sets of Ferret (Yang, Weng, Lan, Zhang, Wang, CCS 2020,
eprint 2020/924) after the algebraic attacks of eprint 2025/1476. The sets are for noise and code over GF(2). Over
GF(2^n), n = 128 or 64, the code's entries here are powers of x: with entries of 0 and 1 each of the n components
would be an instance over GF(2) of its own, with the same noise places but only about half of the noise left in it
(Liu, Wang, Yang, Yu, EUROCRYPT 2024, eprint 2022/712).

No linear map takes the field instance to a smaller one with the same code: it would have to commute with x, its
kernel would be closed under x and so an ideal of GF(2)[x] modulo the irreducible polynomial of x, which is 0 or all.
Projecting onto m components costs more too, since x^0 to x^9 bring min(n, m + 9) components of the secret with them:
Gauss then guesses min(n, m + 9) / m times as many noise-free rows as over the whole field, at (1 - 2^-m) of the
noise, and the product is at least 1 for every m. This is an argument about those attacks; nobody has published
an estimate for this code over a large field, and that the numbers made for GF(2) hold there is an assumption.
"""


def mask_bytes(items: int, compared: int) -> int:
    """Bytes of a mask: false matches stay below 2^-LAMBDA over all pairs that are compared in a whole run.

    Args:
        items: Distinct items of one side, in all of the run and not in one of its parts.
        compared: Items of the other side that each is compared with: all, or those of its bin.
    """
    pairs = math.log2(max(1, items)) + math.log2(max(1, compared))
    return math.ceil((LAMBDA + pairs) / 8)
