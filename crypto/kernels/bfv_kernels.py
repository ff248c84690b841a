"""Integers modulo t in the ring modulo q and back, encryption, smudging, products that add up, fewer primes.

Polynomials are as in `ntt`; factors "in Montgomery's form" are multiplied by 2^64. A modulus t is a power of
two up to 2^64 or odd and below 2^61; it is given as (5,) uint64: t (0 for 2^64), -1/t modulo 2^64 (odd t,
else 0), t - 1 where t is a power of two (else 0), q modulo t (in Montgomery's form where t is odd),
floor(t / 2).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crypto.kernels.aes import encrypt
from crypto.kernels.compiled import kernel
from crypto.kernels.ntt import forward_row, inverse_row, minus, montgomery, plus, wide
from crypto.kernels.rlwe_kernels import gaussian, uniform_row

u64 = np.uint64


@kernel
def encode(numbers: Any, modulus: Any, encoding: Any, moduli: Any, out: Any) -> None:
    """`out += round(q m / t)` for every number m: (q m + h - r) / t with h = floor(t / 2), r = (q m + h) mod t.

    Args:
        numbers: Below t, (N,) uint64.
        modulus: t, (5,).
        encoding: 1/t in Montgomery's form and h / t, modulo each prime, (primes, 2) uint64.
        moduli: (primes, 4).
        out: (primes, N) uint64.
    """
    t, negative, mask, whole, half = modulus[0], modulus[1], modulus[2], modulus[3], modulus[4]
    for j in range(numbers.shape[0]):
        if negative == u64(0):
            rest = (numbers[j] * whole + half) & mask
        else:
            rest = plus(montgomery(numbers[j], whole, t, negative), half, t)
        for k in range(out.shape[0]):
            p = moduli[k, 0]
            made = minus(encoding[k, 1], montgomery(rest, encoding[k, 0], p, moduli[k, 1]), p)
            out[k, j] = plus(out[k, j], made, p)


@kernel
def residues(numbers: Any, factor: Any, moduli: Any, out: Any) -> None:
    """`out += factor numbers`: any int64, (N,); `factor` (primes,), in Montgomery's form; `out` (primes, N)."""
    for k in range(out.shape[0]):
        p, negative, by = moduli[k, 0], moduli[k, 1], factor[k]
        for j in range(numbers.shape[0]):
            number = numbers[j]
            sign = u64(number >> 63)
            made = montgomery((u64(number) ^ sign) - sign, by, p, negative)
            below = made != u64(0) and sign != u64(0)
            out[k, j] = plus(out[k, j], p - made if below else made, p)


@kernel
def add_small(numbers: Any, moduli: Any, out: Any) -> None:
    """`out += numbers`: int64 below the primes in size, (N,), to (primes, N)."""
    for k in range(out.shape[0]):
        p = moduli[k, 0]
        for j in range(numbers.shape[0]):
            number = numbers[j]
            out[k, j] = plus(out[k, j], u64(number) + (p & u64(number >> 63)), p)


@kernel
def decode(residue: Any, t: Any, decoding: Any, moduli: Any, out: Any) -> Any:
    """`out = round(t x / q) mod t`, by the fraction x / q in 128 bits: sum of y_k / p_k, y_k = x p_k / q mod p_k.

    Args:
        residue: x modulo each prime, (primes, N) uint64.
        t: uint64, 0 for 2^64.
        decoding: (p_k / q) modulo p_k in Montgomery's form, then high and low word of 2^128 / p_k, (primes, 3).
        moduli: (primes, 4).
        out: (N,) uint64.

    Returns:
        The largest distance of t x / q from an integer, times 2^64, uint64.
    """
    worst = u64(0)
    for j in range(out.shape[0]):
        low, high = u64(0), u64(0)
        for k in range(residue.shape[0]):
            y = montgomery(residue[k, j], decoding[k, 0], moduli[k, 0], moduli[k, 1])
            below, above = wide(y, decoding[k, 2])
            low += below
            high += above + y * decoding[k, 1] + u64(low < below)
        if t != u64(0):
            first, top = wide(high, t)
            _, carried = wide(low, t)
            low = first + carried
            high = top + u64(low < first)
        up = low >> u64(63)
        made = high + up
        out[j] = u64(0) if t != u64(0) and made == t else made
        apart = u64(0) - low if up != u64(0) else low
        worst = apart if apart > worst else worst
    return worst


@kernel
def encrypt_rows(
    numbers: Any,
    wraps: Any,
    modulus: Any,
    encoding: Any,
    factor: Any,
    public: Any,
    secret: Any,
    keys: Any,
    table: Any,
    moduli: Any,
    bits: Any,
    roots: Any,
    shoup: Any,
    room: Any,
    out: Any,
) -> None:
    """`out[i] = transform(e[i] + message i) - a[i] s`, for all polynomials of a vector.

    Args:
        numbers: (n, N) int64; where they wrap, their bits are those of uint64 below t.
        wraps: Whether a message is round(q m / t), for sums modulo t, or m floor(q / t), for sums that never
            reach t / 2 in size.
        modulus, encoding: As in `encode`.
        factor: floor(q / t) in Montgomery's form, modulo each prime, (primes,).
        public: Round keys of the public seed that gives a.
        secret: s in Montgomery's form, transformed, (primes, N).
        keys: Round keys of the seed of e.
        table: As in `rlwe_kernels.gaussian`.
        moduli, roots, shoup: As in `ntt`.
        bits: Of a prime.
        room: (4, N) int64.
        out: (n, primes, N) uint64.
    """
    size = out.shape[2]
    noise, row = room[2], room[3].view(np.uint64)
    for i in range(out.shape[0]):
        gaussian(keys, u64(i * size), table, room[:2], noise)
        out[i] = u64(0)
        add_small(noise, moduli, out[i])
        if wraps:
            encode(numbers[i].view(np.uint64), modulus, encoding, moduli, out[i])
        else:
            residues(numbers[i], factor, moduli, out[i])
        for k in range(out.shape[1]):
            p, negative = moduli[k, 0], moduli[k, 1]
            forward_row(out[i, k], p, roots[k], shoup[k])
            uniform_row(public, u64(i * out.shape[1] + k), p, bits, row)
            for j in range(size):
                out[i, k, j] = minus(out[i, k, j], montgomery(row[j], secret[k, j], p, negative), p)


@kernel
def zero_rows(keys: Any, factors: Any, moduli: Any, roots: Any, shoup: Any, room: Any, out: Any) -> None:
    """`out[i] = factors u[i]`, u[i] uniform in -1, 0, 1.

    Args:
        keys: Round keys of the seed of all u.
        factors: (2, primes, N) in Montgomery's form, transformed.
        moduli, roots, shoup: As in `ntt`.
        room: (2, N) uint64.
        out: (n, 2, primes, N) uint64, transformed.
    """
    numbers, row = room[0], room[1]
    size = numbers.shape[0]
    for i in range(out.shape[0]):
        for j in range(0, size, 2):
            low, high = encrypt(keys, u64((i * size + j) >> 1), u64(0))
            _, numbers[j] = wide(low, u64(3))
            _, numbers[j + 1] = wide(high, u64(3))
        for k in range(out.shape[2]):
            p, negative = moduli[k, 0], moduli[k, 1]
            for j in range(size):
                row[j] = minus(numbers[j], u64(1), p)
            forward_row(row, p, roots[k], shoup[k])
            for part in range(2):
                made, by = out[i, part, k], factors[part, k]
                for j in range(size):
                    made[j] = montgomery(by[j], row[j], p, negative)


@kernel
def finish_rows(
    errors: Any,
    floods: Any,
    bits: Any,
    half: Any,
    table: Any,
    moduli: Any,
    roots: Any,
    shoup: Any,
    last: Any,
    positions: Any,
    room: Any,
    words: Any,
    answers: Any,
    first: Any,
) -> None:
    """Answers as coefficients, an error added to each of the second part, smudging to those of the first that count.

    Args:
        errors, floods: Round keys of two seeds.
        bits, half: As in `flood`.
        table: As in `rlwe_kernels.gaussian`.
        moduli, roots, shoup, last: Of the inverse transform, as in `ntt`.
        positions: Coefficients of the first part that count, (m,) int64.
        room: (3, N) int64.
        words: (4,) uint64.
        answers: (n, 2, primes, N) uint64, transformed; its second parts are given back as coefficients.
        first: Out, the first parts, (n, primes, m) uint64.
    """
    size, count = answers.shape[3], positions.shape[0]
    noise = room[2]
    for i in range(answers.shape[0]):
        for part in range(2):
            for k in range(answers.shape[2]):
                inverse_row(answers[i, part, k], moduli[k, 0], roots[k], shoup[k], last[k])
        gaussian(errors, u64(i * size), table, room[:2], noise)
        add_small(noise, moduli, answers[i, 1])
        for k in range(answers.shape[2]):
            for j in range(count):
                first[i, k, j] = answers[i, 0, k, positions[j]]
        flood(floods, u64(i * count), bits, half, moduli, words, first[i])


@kernel
def flood(keys: Any, start: Any, bits: Any, half: Any, moduli: Any, words: Any, out: Any) -> None:
    """`out += w`, each number of w uniform in [-2^bits, 2^bits), two blocks of the stream for each.

    Args:
        keys: Round keys of the seed.
        start: Numbers that the stream gave before, uint64.
        bits: From 0 to 254, uint64.
        half: 2^bits modulo each prime, (primes,).
        moduli: (primes, 4).
        words: Room, (4,) uint64.
        out: (primes, m) uint64.
    """
    top = np.int64((bits + u64(1)) >> u64(6))  # words that are uniform in full
    mask = (u64(1) << ((bits + u64(1)) & u64(63))) - u64(1)
    for j in range(out.shape[1]):
        block = u64(2) * (start + u64(j))
        words[0], words[1] = encrypt(keys, block, u64(0))
        words[2], words[3] = encrypt(keys, block + u64(1), u64(0))
        words[top] &= mask
        for k in range(out.shape[0]):
            p, negative = moduli[k, 0], moduli[k, 1]
            made = u64(0)
            for at in range(top, -1, -1):
                made = montgomery(made, moduli[k, 3], p, negative)
                made = plus(made, montgomery(words[at], moduli[k, 2], p, negative), p)
            out[k, j] = plus(out[k, j], minus(made, half[k], p), p)


@kernel
def multiply_add(total: Any, pair: Any, plain: Any, moduli: Any) -> None:
    """`total += pair plain`: (parts, primes, N) twice, (primes, N) in Montgomery's form; all transformed."""
    for i in range(total.shape[0]):
        for k in range(total.shape[1]):
            p, negative = moduli[k, 0], moduli[k, 1]
            for j in range(total.shape[2]):
                total[i, k, j] = plus(total[i, k, j], montgomery(pair[i, k, j], plain[k, j], p, negative), p)


@kernel
def drop_prime(polynomials: Any, moduli: Any, inverses: Any) -> None:
    """`round(x / p)` for the last prime p, in the rows of the other primes, in place; coefficients.

    Args:
        polynomials: (n, primes, N) uint64; the last row is spoilt.
        moduli: (primes, 4).
        inverses: 1/p modulo each other prime, in Montgomery's form, (primes - 1,).
    """
    last = polynomials.shape[1] - 1
    gone = moduli[last, 0]
    half = gone >> u64(1)
    for i in range(polynomials.shape[0]):
        for j in range(polynomials.shape[2]):
            rest = plus(polynomials[i, last, j], half, gone)
            for k in range(last):
                p, negative = moduli[k, 0], moduli[k, 1]
                apart = minus(plus(polynomials[i, k, j], half, p), rest - p if rest >= p else rest, p)
                polynomials[i, k, j] = montgomery(apart, inverses[k], p, negative)


@kernel
def reduce(wide_numbers: Any, modulus: Any, out: Any) -> None:
    """Numbers of 128 bits modulo t: (n, 2) uint64 low word first; `modulus` as a row of `moduli` in `ntt`; (n,)."""
    t, negative = modulus[0], modulus[1]
    for i in range(out.shape[0]):
        upper = montgomery(wide_numbers[i, 1], modulus[3], t, negative)
        out[i] = plus(montgomery(wide_numbers[i, 0], modulus[2], t, negative), upper, t)


@kernel
def add_rows(
    codes: Any,
    first: Any,
    last: Any,
    start: Any,
    block: Any,
    places: Any,
    cumulative: Any,
    pairs: Any,
    moduli: Any,
    roots: Any,
    shoup: Any,
    room: Any,
    out: Any,
) -> None:
    """`out[q] += sum_b pairs[b, q] P_b`, P_b the 0/1 polynomial that tells which rows of block b are in which cell.

    Coefficient `i block + block - 1 - r` of P_b is 1 where row r of the block has the code of place i; a block with
    no such row costs nothing. Products are added up in 128 bits and not reduced: at most 2^22 of them.

    Args:
        codes: (features, n) uint16.
        first, last: Rows that count, from and up to, of the blocks that are given.
        start: Row that the first block given begins with.
        block: Rows of a block.
        places: (feature, code) of each place, (m, 2) int32; a feature below 0 is no place. `m block` is at most N.
        cumulative: Whether a row of a lower code is in the cell as well.
        pairs: (blocks, pieces, 2, primes, N) uint64, transformed.
        moduli, roots, shoup: As in `ntt`.
        room: (primes, N) uint64.
        out: (pieces, 2, primes, 2, N) uint64, transformed, low and high words.
    """
    for b in range((first - start) // block, (last - start + block - 1) // block):
        origin = start + b * block
        begin, end = max(first, origin), min(last, origin + block)
        found = False
        row = room[0]
        for j in range(row.shape[0]):
            row[j] = u64(0)
        for i in range(places.shape[0]):
            if places[i, 0] >= 0:
                column, wanted = codes[places[i, 0]], places[i, 1]
                at = i * block + block - 1 + origin
                for r in range(begin, end):
                    inside = column[r] == wanted or (cumulative and column[r] < wanted)
                    row[at - r] = u64(inside)
                    found |= inside
        if found:
            for k in range(1, room.shape[0]):
                room[k] = row
            for k in range(room.shape[0]):
                forward_row(room[k], moduli[k, 0], roots[k], shoup[k])
                for q in range(out.shape[0]):
                    for part in range(2):
                        _add_wide(pairs[b, q, part, k], room[k], out[q, part, k, 0], out[q, part, k, 1])


@kernel
def _add_wide(a: Any, b: Any, lower: Any, upper: Any) -> None:
    """`(lower, upper) += a b`, all (N,) uint64."""
    for j in range(a.shape[0]):
        low, high = wide(a[j], b[j])
        total = lower[j] + low
        lower[j] = total
        upper[j] += high + u64(total < low)


@kernel
def add_reduced(total: Any, sums: Any, moduli: Any) -> None:
    """`total += sums`: (n, primes, N), and (n, primes, 2, N) low and high words."""
    for i in range(total.shape[0]):
        for k in range(total.shape[1]):
            p, negative = moduli[k, 0], moduli[k, 1]
            for j in range(total.shape[2]):
                low = montgomery(sums[i, k, 0, j], moduli[k, 2], p, negative)
                high = montgomery(sums[i, k, 1, j], moduli[k, 3], p, negative)
                total[i, k, j] = plus(total[i, k, j], plus(low, high, p), p)
