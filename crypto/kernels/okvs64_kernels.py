"""Inner loops of the oblivious key-value store of words (`crypto.psi.okvs64`): coefficients and values in GF(2^64).

Rows, bins, columns and peeling are those of `okvs_kernels`; the coefficient h of the dense columns is the same word,
taken as an element of GF(2^64). A store of words is written, and a store of blocks read, whose two words are
multiplied by the same coefficients.
"""

from __future__ import annotations

from typing import Any

from crypto.kernels.blocks import clmul, u64
from crypto.kernels.compiled import kernel
from crypto.kernels.gf64 import gf64_mul, gf64_reduce
from crypto.kernels.okvs_kernels import _PLACE, _SECOND, _THIRD, _columns, coefficient

# ---- encode -----------------------------------------------------------------------------------------------------


@kernel
def expand(rows: Any, sparse: Any, places: Any, powers: Any) -> None:
    """The coefficients of rows: their three columns, and h, h^2, ...

    Args:
        rows: (n, 2) uint64.
        sparse: uint64.
        places: Out, (n, 3) int64.
        powers: Out, (n, dense) uint64.
    """
    for i in range(rows.shape[0]):
        places[i, 0], places[i, 1], places[i, 2] = _columns(rows[i, 0], rows[i, 1], sparse)
        h = coefficient(rows[i, 0], rows[i, 1])
        power = u64(1)
        for j in range(powers.shape[1]):
            power = gf64_mul(power, h)
            powers[i, j] = power


@kernel(inline="always")
def _dense_word(store: Any, first: Any, dense: Any, h: Any) -> Any:
    """`sum_j h^j store[first + j - 1]`, j = 1..dense, by Horner's rule."""
    x = u64(0)
    for j in range(first + dense - u64(1), first - u64(1), -1):
        x = gf64_mul(x ^ store[j], h)
    return x


@kernel
def residues(rows: Any, values: Any, store: Any, sparse: Any, dense: Any, out: Any) -> None:
    """What a row's sparse columns have to give: `out[i] = values[i] + (what its dense columns give)`.

    Args:
        rows: Of one bin, (n, 2) uint64.
        values: (n,) uint64.
        store: Of the bin, (sparse + dense,) uint64.
        sparse, dense: uint64.
        out: At least n long, uint64.
    """
    for i in range(rows.shape[0]):
        out[i] = values[i] ^ _dense_word(store, sparse, dense, coefficient(rows[i, 0], rows[i, 1]))


@kernel
def substitute(residue: Any, packed: Any, order: Any, pivots: Any, store: Any) -> None:
    """Set the pivot columns, the last row that was peeled first; every other column keeps what it holds.

    Args:
        residue: Of `residues`.
        packed: Of `okvs_kernels.peel`.
        order, pivots: Of `peel`, cut to the rows that went.
        store: Of the bin, changed in place.
    """
    for at in range(order.shape[0] - 1, -1, -1):
        r = order[at]
        p = pivots[at]
        word = packed[r]
        a, b, c = word & _PLACE, (word >> _SECOND) & _PLACE, word >> _THIRD
        # The pivot is one of the three: what it held falls out of the sum.
        store[p] = residue[r] ^ store[a] ^ store[b] ^ store[c] ^ store[p]


@kernel
def add_times(total: Any, values: Any, by: Any) -> None:
    """`total[i] += by * values[i]`, words."""
    for i in range(values.shape[0]):
        total[i] ^= gf64_mul(values[i], by)


@kernel
def inverse(a: Any) -> Any:
    """a^(2^64 - 2)."""
    power, result = a, u64(1)
    for _ in range(63):
        power = gf64_mul(power, power)
        result = gf64_mul(result, power)
    return result


# ---- decode -----------------------------------------------------------------------------------------------------


@kernel
def read(rows: Any, start: Any, store: Any, sparse: Any, dense: Any, out: Any) -> None:
    """What a store of blocks gives for rows that are sorted by bin.

    Args:
        rows: (n, 2) uint64; those of bin b are `rows[start[b]:start[b + 1]]`, less `start[0]`.
        start: (bins + 1,) int64.
        store: Of these bins, (bins * (sparse + dense), 2) uint64.
        sparse, dense: uint64.
        out: (n, 2) uint64, in the order of `rows`.
    """
    width = sparse + dense
    for b in range(start.shape[0] - 1):
        base = u64(b) * width
        for i in range(start[b] - start[0], start[b + 1] - start[0]):
            low, high = rows[i, 0], rows[i, 1]
            p, q, r = _columns(low, high, sparse)
            h = coefficient(low, high)
            # Products are added unreduced, and each word is reduced once.
            power = h
            x0 = x1 = y0 = y1 = u64(0)
            for j in range(dense):
                if j:
                    power = gf64_mul(power, h)
                s0, s1 = clmul(store[base + sparse + j, 0], power)
                t0, t1 = clmul(store[base + sparse + j, 1], power)
                x0 ^= s0
                x1 ^= s1
                y0 ^= t0
                y1 ^= t1
            p, q, r = base + p, base + q, base + r
            out[i, 0] = gf64_reduce(x0, x1) ^ store[p, 0] ^ store[q, 0] ^ store[r, 0]
            out[i, 1] = gf64_reduce(y0, y1) ^ store[p, 1] ^ store[q, 1] ^ store[r, 1]


@kernel
def read_words(rows: Any, store: Any, sparse: Any, dense: Any, out: Any) -> None:
    """What one bin of a store of words gives: rows (n, 2), store (sparse + dense,), out (n,)."""
    for i in range(rows.shape[0]):
        p, q, r = _columns(rows[i, 0], rows[i, 1], sparse)
        x = _dense_word(store, sparse, dense, coefficient(rows[i, 0], rows[i, 1]))
        out[i] = x ^ store[p] ^ store[q] ^ store[r]
