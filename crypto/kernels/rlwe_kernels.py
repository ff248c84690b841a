"""Sampling of polynomials from AES in counter mode, integers in their coefficients, residues as bytes.

Signed numbers are int64; polynomials are as in `ntt`. A seed is used for one call: its counter starts at
zero. The Gaussian and the wide noise take the same steps for every value, without tables indexed by a secret.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crypto.kernels.aes import encrypt
from crypto.kernels.compiled import kernel
from crypto.kernels.ntt import forward_row, inverse_row, minus, montgomery, plus, wide

u64 = np.uint64
_AT_ONCE = 256


@kernel
def uniform_row(keys: Any, first: Any, p: Any, width: Any, row: Any) -> None:
    """Uniform residues by rejection, from the blocks whose high word is `first`; for public values.

    Args:
        keys: Round keys of the seed, (11, 2) uint64.
        first: uint64.
        p: Prime.
        width: Its bits.
        row: Out, (N,) uint64.
    """
    shift = u64(64) - width
    done = 0
    counter = u64(0)
    while done < row.shape[0]:
        low, high = encrypt(keys, counter, first)
        counter += u64(1)
        low >>= shift
        high >>= shift
        if low < p:
            row[done] = low
            done += 1
        if high < p and done < row.shape[0]:
            row[done] = high
            done += 1


@kernel
def uniform(keys: Any, start: Any, moduli: Any, width: Any, out: Any) -> None:
    """Uniform polynomials: number i, prime k of (n, primes, N) is stream `(start + i) primes + k`."""
    primes = u64(out.shape[1])
    for i in range(out.shape[0]):
        for k in range(out.shape[1]):
            uniform_row(keys, (start + u64(i)) * primes + u64(k), moduli[k, 0], width, out[i, k])


@kernel
def gaussian(keys: Any, start: Any, table: Any, room: Any, out: Any) -> None:
    """Discrete Gaussian numbers, one for each block of the seed's stream.

    The absolute value is how many entries of the table a number of 126 bits is not below. Its low half
    decides only where the high half equals that of an entry, once in 2^57 numbers.

    Args:
        keys: Round keys of the seed.
        start: Number of the first block, uint64.
        table: Cumulative probabilities of the absolute value, times 2^126: rows (high 63 bits, low 63 bits),
            (2, m) int64, rising.
        room: (2, n) int64.
        out: (n,) int64.
    """
    upper, lower = room[0], room[1]
    for i in range(out.shape[0]):
        low, high = encrypt(keys, start + u64(i), u64(0))
        upper[i] = np.int64(high >> u64(1))
        lower[i] = np.int64(low)
        out[i] = 0
    count_below(table, upper, lower, out)
    for i in range(out.shape[0]):
        sign = lower[i] & np.int64(1)
        out[i] = (out[i] ^ -sign) + sign


@kernel
def count_below(table: Any, upper: Any, lower: Any, out: Any) -> None:
    """Add to `out` how many entries of the table are at most (upper, lower / 2), all (n,) int64."""
    last = table.shape[1] - 1
    ties = np.int64(0)
    for first in range(0, out.shape[0], _AT_ONCE):
        number, count = upper[first : first + _AT_ONCE], out[first : first + _AT_ONCE]
        for j in range(table.shape[1]):
            entry = table[0, j]
            for i in range(count.shape[0]):
                count[i] += np.int64(number[i] > entry)
                ties |= np.int64(number[i] == entry)
            if entry == table[0, last]:
                break  # the rest have the same high half
    if ties != 0:
        for i in range(out.shape[0]):
            half = np.int64(u64(lower[i]) >> u64(1))
            for j in range(table.shape[1]):
                out[i] += np.int64((upper[i] == table[0, j]) & (half >= table[1, j]))


@kernel
def ternary(keys: Any, out: Any) -> None:
    """Uniform numbers of -1, 0 and 1 from 64 bits each: a bias of 2^-63."""
    for i in range(0, out.shape[0], 2):
        low, high = encrypt(keys, u64(i >> 1), u64(0))
        _, number = wide(low, u64(3))
        out[i] = np.int64(number) - np.int64(1)
        if i + 1 < out.shape[0]:
            _, number = wide(high, u64(3))
            out[i + 1] = np.int64(number) - np.int64(1)


@kernel
def residues(numbers: Any, factor: Any, moduli: Any, out: Any) -> None:
    """`out = factor numbers`: numbers below the primes in size, (N,) int64; `factor` (primes,) uint64."""
    for k in range(out.shape[0]):
        p, negative = moduli[k, 0], moduli[k, 1]
        by = montgomery(factor[k], moduli[k, 3], p, negative)
        for j in range(numbers.shape[0]):
            number = numbers[j]
            lifted = u64(number) + (p & u64(number >> 63))
            out[k, j] = montgomery(lifted, by, p, negative)


@kernel
def wide_noise(keys: Any, bits: Any, factor: Any, moduli: Any, out: Any) -> None:
    """`out = factor w`, each coefficient of w uniform in [-2^bits, 2^bits), one block of the stream for each.

    Args:
        keys: Round keys of the seed.
        bits: From 64 to 126, uint64.
        factor: (primes,) uint64.
        moduli: (primes, 4).
        out: (primes, N) uint64.
    """
    mask = (u64(1) << (bits - u64(63))) - u64(1)
    half = u64(1) << (bits - u64(64))
    for j in range(out.shape[1]):
        low, high = encrypt(keys, u64(j), u64(0))
        high &= mask
        for k in range(out.shape[0]):
            p, negative = moduli[k, 0], moduli[k, 1]
            made = _residue(low, high, moduli[k])
            below = p - _residue(u64(0), half, moduli[k])
            by = montgomery(factor[k], moduli[k, 3], p, negative)
            out[k, j] = montgomery(plus(made, below, p), by, p, negative)


@kernel(inline="always")
def _residue(low: Any, high: Any, modulus: Any) -> Any:
    """low + 2^64 high modulo p."""
    p, negative = modulus[0], modulus[1]
    lower = montgomery(low, modulus[2], p, negative)
    return plus(lower, montgomery(high, modulus[3], p, negative), p)


@kernel
def encode(values: Any, width: Any, fields: Any, signed: Any, moduli: Any, out: Any) -> None:
    """Integers side by side in the coefficients of one polynomial, onto what stands there.

    `out[j] += v[f j] + v[f j + 1] 2^width + ...`: a sum of signed numbers, so that a negative one borrows of
    the next, which reading undoes.

    Args:
        values: At most N `fields`, (m,) int64; those missing are zero.
        width: Bits of a field, uint64, at most 64.
        fields: Numbers in a coefficient, f; `width fields` is at most 126.
        signed: True for int64, False where the words are uint64 in an int64 array.
        moduli: (primes, 4).
        out: (primes, N) uint64.
    """
    count = values.shape[0]
    for j in range(out.shape[1]):
        low, high = u64(0), u64(0)
        for at in range(fields - 1, -1, -1):
            place = j * fields + at
            word = values[place] if place < count else np.int64(0)
            if width == u64(64):
                high, low = low, u64(0)
            else:
                high = (high << width) | (low >> (u64(64) - width))
                low = low << width
            made = low + u64(word)
            high += u64(made < low)
            if signed:
                high += u64(word >> 63)
            low = made
        top = np.int64(high)
        for k in range(out.shape[0]):
            p, negative = moduli[k, 0], moduli[k, 1]
            lower = montgomery(low, moduli[k, 2], p, negative)
            upper = montgomery(high + (p & u64(top >> 63)), moduli[k, 3], p, negative)
            out[k, j] = plus(out[k, j], plus(lower, upper, p), p)


@kernel
def decode(residue: Any, width: Any, fields: Any, signed: Any, lift: Any, limit: Any, values: Any) -> Any:
    """`encode` undone, under noise that is a multiple of 2^(width fields).

    Args:
        residue: (2, N) uint64, coefficients modulo two primes, p1 < p0 < 2 p1.
        width, fields: As in `encode`.
        signed: Whether a field is in two's complement.
        lift: p0, p1, -1/p1 modulo 2^64, 2^64/p0 modulo p1 (to divide by p0), then low and high word of
            (p0 p1 - 1) / 2 and of p0 p1, (8,) uint64.
        limit: The largest noise allowed, in size: low and high word, (2,) uint64.
        values: Out, (m,) int64; fields behind its end must be zero.

    Returns:
        True when every coefficient decodes.
    """
    p0, p1, negative, inverse = lift[0], lift[1], lift[2], lift[3]
    count = values.shape[0]
    good = True
    half = u64(1) << (width - u64(1))
    mask = ~u64(0) if width == u64(64) else (u64(1) << width) - u64(1)
    for j in range(residue.shape[1]):
        first = residue[0, j]
        reduced = first - p1 if first >= p1 else first
        apart = residue[1, j] - reduced if residue[1, j] >= reduced else residue[1, j] + p1 - reduced
        steps = montgomery(apart, inverse, p1, negative)
        low, high = wide(steps, p0)
        made = low + first
        high += u64(made < low)
        low = made
        if high > lift[5] or (high == lift[5] and low > lift[4]):
            high -= lift[7] + u64(low < lift[6])
            low -= lift[6]
        for at in range(fields):
            word = low & mask
            negated = u64(0)
            if signed and word >= half:
                negated = u64(1)
                word |= ~mask
            place = j * fields + at
            if place < count:
                values[place] = np.int64(word)
            elif word != u64(0):
                good = False
            if width == u64(64):
                low = high
                high = u64(np.int64(high) >> 63)
            else:
                low = (low >> width) | (high << (u64(64) - width))
                high = u64(np.int64(high) >> np.int64(width))
            low += negated
            high += u64(negated == u64(1) and low == u64(0))
        if np.int64(high) < 0:
            low = u64(0) - low
            high = ~high + u64(low == u64(0))
        if high > limit[1] or (high == limit[1] and low > limit[0]):
            good = False
    return good


@kernel
def encrypt_rows(
    values: Any,
    width: Any,
    fields: Any,
    signed: Any,
    public: Any,
    secret: Any,
    keys: Any,
    table: Any,
    factor: Any,
    moduli: Any,
    bits: Any,
    roots: Any,
    shoup: Any,
    room: Any,
    out: Any,
) -> None:
    """`out[i] = a[i] s + transform(factor e[i] + values of polynomial i)`, for all polynomials of a vector.

    Args:
        values, width, fields, signed: As in `encode`, for all polynomials.
        public: Round keys of the public seed that gives a.
        secret: s 2^64, transformed, (primes, N).
        keys: Round keys of the seed of e.
        table: As in `gaussian`.
        factor: 2^(width fields) modulo each prime, (primes,).
        moduli, roots, shoup: As in `ntt`.
        bits: Of a prime.
        room: (4, N) int64.
        out: (n, primes, N) uint64.
    """
    size = out.shape[2]
    noise, row = room[2], room[3].view(np.uint64)
    for i in range(out.shape[0]):
        gaussian(keys, u64(i * size), table, room[:2], noise)
        residues(noise, factor, moduli, out[i])
        encode(values[i * size * fields : (i + 1) * size * fields], width, fields, signed, moduli, out[i])
        for k in range(out.shape[1]):
            p, negative = moduli[k, 0], moduli[k, 1]
            forward_row(out[i, k], p, roots[k], shoup[k])
            uniform_row(public, u64(i * out.shape[1] + k), p, bits, row)
            for j in range(size):
                out[i, k, j] = plus(out[i, k, j], montgomery(row[j], secret[k, j], p, negative), p)


@kernel
def decrypt_rows(
    payload: Any,
    public: Any,
    secret: Any,
    moduli: Any,
    bits: Any,
    roots: Any,
    shoup: Any,
    last: Any,
    width: Any,
    fields: Any,
    signed: Any,
    lift: Any,
    limit: Any,
    room: Any,
    values: Any,
) -> Any:
    """`encrypt_rows` undone for a sum of vectors and the sum of their secrets; whether all of it decodes.

    Args:
        payload: (n, primes, N) uint64, two primes.
        public, secret, moduli, bits: As in `encrypt_rows`.
        roots, shoup, last: Of the inverse transform.
        width, fields, signed, lift, limit: As in `decode`.
        room: (primes + 1, N) uint64.
        values: Out, (count,) int64.
    """
    size = payload.shape[2]
    row, opened = room[0], room[1:]
    good = True
    for i in range(payload.shape[0]):
        for k in range(payload.shape[1]):
            p, negative = moduli[k, 0], moduli[k, 1]
            uniform_row(public, u64(i * payload.shape[1] + k), p, bits, row)
            for j in range(size):
                opened[k, j] = minus(payload[i, k, j], montgomery(row[j], secret[k, j], p, negative), p)
            inverse_row(opened[k], p, roots[k], shoup[k], last[k])
        part = values[i * size * fields : (i + 1) * size * fields]
        good &= decode(opened, width, fields, signed, lift, limit, part)
    return good


@kernel
def pack(values: Any, width: Any, out: Any) -> None:
    """Numbers of `width` bits one behind the other, lowest bit first.

    Args:
        values: (m,) uint64, below 2^width; `m width` is a multiple of 64.
        width: Below 64, uint64.
        out: (m width / 64,) uint64.
    """
    held, filled, at = u64(0), u64(0), 0
    for i in range(values.shape[0]):
        word = values[i]
        held |= word << filled
        filled += width
        if filled >= u64(64):
            out[at] = held
            at += 1
            filled -= u64(64)
            held = word >> (width - filled)


@kernel
def unpack(packed: Any, width: Any, values: Any) -> None:
    """`pack` undone."""
    mask = (u64(1) << width) - u64(1)
    at = u64(0)
    for i in range(values.shape[0]):
        place, shift = at >> u64(6), at & u64(63)
        word = packed[place] >> shift
        if shift + width > u64(64):
            word |= packed[place + u64(1)] << (u64(64) - shift)
        values[i] = word & mask
        at += width


@kernel
def below(values: Any, moduli: Any) -> Any:
    """Whether every residue of (n, primes, N) is below its prime."""
    good = True
    for i in range(values.shape[0]):
        for k in range(values.shape[1]):
            for j in range(values.shape[2]):
                good &= values[i, k, j] < moduli[k, 0]
    return good
