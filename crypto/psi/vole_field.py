"""The fields that VOLE is made over: B, in which a is, inside F, in which b, c and D are.

Everything is a block of 128 bits that is added bit by bit; the fields differ in how a block is multiplied by an
element of B, and VOLE multiplies by x alone. An entry of a is a block too: over the tower its second word is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from crypto.kernels.blocks import gf_double, u64
from crypto.kernels.compiled import kernel
from crypto.kernels.gf64 import gf64_double
from crypto.psi import lpn


@kernel
def _pack_128(bits: Any, out: Any) -> None:
    """`out[i] = sum_j x^j bits[128 i + j]`: (128 n, 2) to (n, 2)."""
    for i in range(out.shape[0]):
        a = bits[128 * i + 127, 0]
        b = bits[128 * i + 127, 1]
        for j in range(126, -1, -1):
            a, b = gf_double(a, b)
            a ^= bits[128 * i + j, 0]
            b ^= bits[128 * i + j, 1]
        out[i, 0] = a
        out[i, 1] = b


@kernel
def _pack_64(bits: Any, out: Any) -> None:
    """`out[i] = sum_j x^j bits[64 i + j]`, word by word: (64 n, 2) to (n, 2)."""
    for i in range(out.shape[0]):
        a = bits[64 * i + 63, 0]
        b = bits[64 * i + 63, 1]
        for j in range(62, -1, -1):
            a = gf64_double(a) ^ bits[64 * i + j, 0]
            b = gf64_double(b) ^ bits[64 * i + j, 1]
        out[i, 0] = a
        out[i, 1] = b


@kernel
def pack_choices(bits: Any, degree: Any, out: Any) -> None:
    """`out[i] = sum_j x^j r_j` for `degree` (64 or 128) bits r, the lowest of each block: (degree n, 2) to (n, 2)."""
    for i in range(out.shape[0]):
        out[i, 1] = u64(0)
        for half in range(degree // 64):
            word = u64(0)
            for j in range(64):
                word |= (bits[degree * i + 64 * half + j, 0] & u64(1)) << u64(j)
            out[i, half] = word


@dataclass(frozen=True)
class Field:
    """B inside F.

    Args:
        name: For people.
        degree: Of B over GF(2), and so the bit correlations that make one correlation over B and F.
        pack: `out[i] = sum_j x^j bits[degree i + j]`.
        add: The code, over F (`lpn.add_field`).
        add_pairs: The code, over two vectors side by side.
    """

    name: str
    degree: int
    pack: Callable[[Any, Any], None] = field(repr=False)
    add: Callable[[Any, Any, Any, Any], None] = field(repr=False)
    add_pairs: Callable[[Any, Any, Any, Any], None] = field(repr=False)


GF128 = Field("gf128", 128, _pack_128, lpn.add_field, lpn.add_field_pairs)
"""B = F = GF(2^128)."""
TOWER = Field("tower", 64, _pack_64, lpn.add_words, lpn.add_words_pairs)
"""B = GF(2^64) inside F = B[Y] / (Y^2 + Y + beta): a block is a word of B and one times Y (`kernels.gf64`)."""
