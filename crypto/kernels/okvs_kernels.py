"""Inner loops of the oblivious key-value store (`crypto.psi.okvs`): hash and sort into bins, peel, substitute, read.

A row is the AES-128 encryption of a key under the store's seed. The upper bits of its four 32-bit quarters choose
the bin and three sparse columns; all quarters together make the coefficient h of the dense columns, a polynomial of
degree below 64 in GF(2^128), which the lower bits leave open. A bin of the store is `sparse` blocks, then `dense`.

The first byte that chooses the bin is the key's own top byte, not the row's: keys that lie sorted by that byte, in
`PIECES` pieces, fall into bins in the order of the pieces, whatever the seed, and need no second sorting.
"""

from __future__ import annotations

from typing import Any

from crypto.kernels.aes import encrypt
from crypto.kernels.blocks import gf_mul, instruction, u64, words
from crypto.kernels.compiled import intrinsic, kernel, native, types

PLACE_BITS = 21
"""A column's number has at most this many bits: three of them are packed into a word."""
_LOW = u64(0xFFFFFFFF)
_HALF = u64(32)
_PLACE = u64((1 << PLACE_BITS) - 1)
_SECOND = u64(PLACE_BITS)
_THIRD = u64(2 * PLACE_BITS)
_ONE = u64(1 << 32)
_TOP, _REST, _FORTY = u64(56), u64(24), u64(40)
PIECES = 256
"""Pieces of a set of keys, by their top byte."""


# ---- rows -------------------------------------------------------------------------------------------------------


@kernel(inline="always")
def _columns(low: Any, high: Any, sparse: Any) -> Any:
    """Three distinct columns below `sparse`, each ordered choice equally likely: drawn from ever fewer places."""
    a = ((low & _LOW) * sparse) >> _HALF
    b = ((high & _LOW) * (sparse - u64(1))) >> _HALF
    c = ((high >> _HALF) * (sparse - u64(2))) >> _HALF
    b += u64(b >= a)
    first, last = min(a, b), max(a, b)
    c += u64(c >= first)
    c += u64(c >= last)
    return a, b, c


@kernel(inline="always")
def coefficient(low: Any, high: Any) -> Any:
    """h of a row: a turn by 16 brings the open lower bits of one word beside those of the other."""
    return low ^ ((high >> u64(16)) | (high << u64(48)))


@kernel(inline="always")
def _bin(key: Any, low: Any, bins: Any) -> Any:
    """Bin of a key with this upper word whose row has this lower word."""
    return ((((key >> _TOP) << _REST) | (low >> _FORTY)) * bins) >> _HALF


def bins_of_piece(piece: int, bins: int) -> tuple[int, int]:
    """The first and the last bin that a key of a piece can fall into."""
    return (piece << 24) * bins >> 32, ((piece + 1 << 24) - 1) * bins >> 32


@kernel
def encrypt_keys(keys: Any, round_keys: Any, out: Any) -> None:
    """AES-128 of each key, a bijection: (n, 2) uint64 both, which may be the same array."""
    for i in range(keys.shape[0]):
        out[i, 0], out[i, 1] = encrypt(round_keys, keys[i, 0], keys[i, 1])


@kernel
def count(keys: Any, round_keys: Any, bins: Any, counts: Any) -> None:
    """Add to `counts[b]` the keys that fall into bin b.

    Args:
        keys: (n, 2) uint64.
        round_keys: Of the seed, (11, 2) uint64.
        bins: uint64, below 2^32.
        counts: (bins,) int64, changed in place.
    """
    for i in range(keys.shape[0]):
        low, _ = encrypt(round_keys, keys[i, 0], keys[i, 1])
        counts[_bin(keys[i, 1], low, bins)] += 1


@kernel
def place(
    keys: Any, numbers: Any, round_keys: Any, bins: Any, first: Any, free: Any, rows: Any, order: Any
) -> None:
    """Put each key's row, and the key's number, at the next free place of its bin. Equal rows keep their order.

    The rows are made a second time: that costs less than to keep them between the two passes.

    Args:
        keys: (n, 2) uint64.
        numbers: Of the keys, (n,) uint32.
        round_keys, bins: As in `count`.
        first: Bin that `free` begins with, uint64; no key may fall into an earlier one.
        free: First free place of each bin, int64, changed in place.
        rows: (n, 2) uint64, out.
        order: (n,) uint32, out.
    """
    for i in range(keys.shape[0]):
        low, high = encrypt(round_keys, keys[i, 0], keys[i, 1])
        b = _bin(keys[i, 1], low, bins) - first
        at = free[b]
        free[b] = at + 1
        rows[at, 0] = low
        rows[at, 1] = high
        order[at] = numbers[i]


# ---- encode -----------------------------------------------------------------------------------------------------


@kernel
def peel(rows: Any, sparse: Any, packed: Any, column: Any, order: Any, pivots: Any) -> Any:
    """Take away, as long as there is one, a row that has a column to itself.

    Args:
        rows: Of one bin, (n, 2) uint64.
        sparse: Columns, uint64, from 3 to 2^PLACE_BITS.
        packed: Scratch, uint64, at least n long; holds each row's columns afterwards.
        column: Scratch, uint64, at least `sparse` long; afterwards its upper half holds how many of the rows that
            are left have the column.
        order: Out, uint32, at least n long: the rows in the order in which they went.
        pivots: Out, uint32, at least `sparse` + 1 long: their columns.

    Returns:
        How many rows went.
    """
    n = rows.shape[0]
    for c in range(sparse):
        column[c] = u64(0)
    # Of each column: how many rows have it, above the exclusive or of their numbers.
    for r in range(n):
        a, b, c = _columns(rows[r, 0], rows[r, 1], sparse)
        packed[r] = a | (b << _SECOND) | (c << _THIRD)
        number = u64(r)
        column[a] = (column[a] + _ONE) ^ number
        column[b] = (column[b] + _ONE) ^ number
        column[c] = (column[c] + _ONE) ^ number
    # The columns that have come down to one row wait in `pivots`, behind those that are done. First in, first out:
    # consecutive rows hang on one another less than with a stack, and the processor overlaps them. A column comes
    # down to one row once at most. Writing first and counting then spares the processor a guess.
    last = u64(0)
    for c in range(sparse):
        pivots[last] = c
        last += u64(column[c] >> _HALF == u64(1))
    done = u64(0)
    at = u64(0)
    while at < last:
        pivot = u64(pivots[at])
        at += u64(1)
        if column[pivot] >> _HALF != u64(1):
            continue  # its row went by another column
        r = column[pivot] & _LOW
        order[done] = r
        pivots[done] = pivot
        done += u64(1)
        word = packed[r]
        a, b, c = word & _PLACE, (word >> _SECOND) & _PLACE, word >> _THIRD
        x = (column[a] - _ONE) ^ r
        y = (column[b] - _ONE) ^ r
        z = (column[c] - _ONE) ^ r
        column[a], column[b], column[c] = x, y, z
        pivots[last] = a
        last += u64(x >> _HALF == u64(1))
        pivots[last] = b
        last += u64(y >> _HALF == u64(1))
        pivots[last] = c
        last += u64(z >> _HALF == u64(1))
    return done


@kernel
def expand(rows: Any, sparse: Any, places: Any, powers: Any) -> None:
    """The coefficients of rows: their three columns, and h, h^2, ...

    Args:
        rows: (n, 2) uint64.
        sparse: uint64.
        places: Out, (n, 3) int64.
        powers: Out, (n, dense, 2) uint64.
    """
    for i in range(rows.shape[0]):
        places[i, 0], places[i, 1], places[i, 2] = _columns(rows[i, 0], rows[i, 1], sparse)
        h = coefficient(rows[i, 0], rows[i, 1])
        x, y = u64(1), u64(0)
        for j in range(powers.shape[1]):
            x, y = gf_mul(x, y, h, u64(0))
            powers[i, j, 0] = x
            powers[i, j, 1] = y


@kernel(inline="always")
def _dense_portable(store: Any, first: Any, dense: Any, h: Any) -> Any:
    x, y = u64(0), u64(0)
    for j in range(first + dense - u64(1), first - u64(1), -1):
        x, y = gf_mul(x ^ store[j, 0], y ^ store[j, 1], h, u64(0))
    return x, y


@intrinsic
def _dense_native(typing: Any, store: Any, first: Any, dense: Any, h: Any) -> Any:
    """The same in vectors: three carry-less products for a column, the last of which reduces."""
    kind = types.UniTuple(types.uint64, 2)
    takes = [types.Array(types.uint64, 2, "C", readonly=not store.mutable), *[types.uint64] * 3]

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir
        from numba.core import cgutils

        word, byte = ir.IntType(64), ir.IntType(8)
        shape = ir.VectorType(word, 2)
        zero = ir.Constant(shape, [0, 0])
        first, dense, h = arguments[1:]
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        blocks = builder.bitcast(array.data, shape.as_pointer())
        by = builder.insert_element(zero, h, ir.Constant(ir.IntType(32), 0))
        modulus = ir.Constant(shape, [0x87, 0])

        def product(a: Any, b: Any, halves: int) -> Any:
            return instruction(
                builder, "llvm.x86.pclmulqdq", [a, b, ir.Constant(byte, halves)], immediate=True
            )

        total = cgutils.alloca_once_value(builder, zero)
        above = builder.sub(builder.add(first, dense), ir.Constant(word, 1))
        with cgutils.for_range(builder, dense) as loop:
            at = builder.gep(blocks, [builder.sub(above, loop.index)])
            column = builder.load(at)
            column.align = 8
            x = builder.xor(builder.load(total), column)
            lower, upper = product(x, by, 0x00), product(x, by, 0x01)
            shifted = builder.shuffle_vector(
                zero, upper, ir.Constant(ir.VectorType(ir.IntType(32), 2), [0, 2])
            )
            reduced = product(upper, modulus, 0x01)
            builder.store(builder.xor(builder.xor(lower, shifted), reduced), total)
        return words(context, builder, kind, builder.load(total))

    return kind(*takes), code


_dense = _dense_native if native() else _dense_portable
"""(store, first, dense, h) -> `sum_j h^j store[first + j - 1]`, j = 1..dense, by Horner's rule: (low, high)."""


@kernel
def residues(rows: Any, values: Any, store: Any, sparse: Any, dense: Any, out: Any) -> None:
    """What a row's sparse columns have to give: `out[i] = values[i] + (what its dense columns give)`.

    Args:
        rows, values: Of one bin, (n, 2) uint64.
        store: Of the bin, (sparse + dense, 2) uint64.
        sparse, dense: uint64.
        out: At least n long, (.., 2) uint64.
    """
    for i in range(rows.shape[0]):
        x, y = _dense(store, sparse, dense, coefficient(rows[i, 0], rows[i, 1]))
        out[i, 0] = values[i, 0] ^ x
        out[i, 1] = values[i, 1] ^ y


@kernel
def substitute(residue: Any, packed: Any, order: Any, pivots: Any, store: Any) -> None:
    """Set the pivot columns, the last row that was peeled first; every other column keeps what it holds.

    Args:
        residue: Of `residues`.
        packed: Of `peel`.
        order, pivots: Of `peel`, cut to the rows that went.
        store: Of the bin, changed in place.
    """
    for at in range(order.shape[0] - 1, -1, -1):
        r = order[at]
        p = pivots[at]
        word = packed[r]
        a, b, c = word & _PLACE, (word >> _SECOND) & _PLACE, word >> _THIRD
        # The pivot is one of the three: what it held falls out of the sum.
        x = residue[r, 0] ^ store[a, 0] ^ store[b, 0] ^ store[c, 0] ^ store[p, 0]
        y = residue[r, 1] ^ store[a, 1] ^ store[b, 1] ^ store[c, 1] ^ store[p, 1]
        store[p, 0] = x
        store[p, 1] = y


# ---- decode -----------------------------------------------------------------------------------------------------


@kernel
def read(rows: Any, start: Any, store: Any, sparse: Any, dense: Any, out: Any) -> None:
    """What a store gives for rows that are sorted by bin.

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
            x, y = _dense(store, base + sparse, dense, coefficient(low, high))
            p, q, r = base + p, base + q, base + r
            out[i, 0] = x ^ store[p, 0] ^ store[q, 0] ^ store[r, 0]
            out[i, 1] = y ^ store[p, 1] ^ store[q, 1] ^ store[r, 1]
