"""Products of one party's matrix with the other's vector, as shares modulo one prime.

    vector's holder    Enc(v), a few polynomials
    matrix's holder    Enc(M v) + zero + r, where a coefficient is a result; only these and the a-part are sent
    shares             M v + r at the holder of the vector, -r at the holder of the matrix, r uniform modulo p

`product_*` is M v and `transposed_*` M^T v, with integers of M in coefficients. With s columns in a polynomial,

    product       v: v_k x^k, k < s             M: M_ik x^(i s + s - 1 - k)       result i at i s + s - 1
    transposed    v: v_i x^i, i < c = N // s    M: M_ik x^((k + 1) c - 1 - i)     result k at (k + 1) c - 1

and s is chosen so that bytes are fewest. `rows_*` is sum_k u_ik v_ik for each row i: slots, values at roots of unity
modulo p, one polynomial for each k and N rows.

Shares are modulo the prime `MODULUS` and not a power of two, so that one sharing serves coefficients and slots.

Who learns what: neither party anything; shapes are known to both. Assumption: as in `encryption`; both parties follow
the protocol. The matrix's holder refuses products whose noise smudging would not hide (`noise.check`).

Cost for (n, d) = (24000, 18): 2.3 MB for M v, 2.0 MB for M^T v; `rows`: 27 bytes for each u_ik, 27 for each row back.

Source: packing, Huang, Lu, Hong and Ding, "Cheetah", USENIX Security 2022, section 3.1; slots, Smart and Vercauteren,
Designs, Codes and Cryptography 71, 2014; conversion to shares, Chen, Zhou, Wang et al., "CAESAR", KDD 2021.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.bfv.encryption import (
    add_numbers,
    answer_bytes,
    encrypt,
    open_answers,
    read_vector,
    uniform_numbers,
    vector_bytes,
    write_answers,
    zeros,
)
from crypto.bfv.keys import PublicKey, SecretKey
from crypto.bfv.noise import check, product_bound
from crypto.bfv.ring import LARGE, Element
from crypto.channel import Channel
from crypto.kernels import ntt

MODULUS = 2305843009213317121
"""p: the largest prime below 2^61 that is 1 modulo 2 N, so that it has slots."""
MATRICES = LARGE.fewer(3)
"""The ring for `product` and `transposed`."""
ROWS = LARGE
"""The ring for `rows`: slots make factors as large as the modulus."""

Residues = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]


def product_columns(n: int, d: int) -> int:
    """Columns in one polynomial of `product`, with the fewest bytes."""

    def cost(s: int) -> int:
        rows = MATRICES.size // s
        down = answer_bytes(MATRICES, MODULUS, -(-n // rows), rows)
        return vector_bytes(MATRICES, -(-d // s)) + down

    return min(range(1, min(d, 64) + 1), key=cost)


def transposed_columns(n: int, d: int) -> int:
    """Columns in one polynomial of `transposed`, with the fewest bytes."""

    def cost(s: int) -> int:
        rows = MATRICES.size // s
        return vector_bytes(MATRICES, -(-n // rows)) + answer_bytes(MATRICES, MODULUS, -(-d // s), s)

    return min(range(1, min(d, 64) + 1), key=cost)


@dataclass(frozen=True, eq=False)
class Matrix:
    """An evaluator's integers, made ready once.

    Args:
        shape: (n, d).
        forward: For `product`, (row blocks, column blocks, primes, N).
        backward: For `transposed`, (column blocks, row blocks, primes, N).
        bounds: Of the noise of either.
    """

    shape: tuple[int, int]
    forward: Element = field(repr=False)
    backward: Element = field(repr=False)
    bounds: tuple[float, float]


def prepared(numbers: Integers, *, forward: bool = True, backward: bool = True) -> Matrix:
    """A matrix as factors.

    Args:
        numbers: (n, d) int64, n and d at least 1.
        forward: Whether `product` is wanted.
        backward: Whether `transposed` is wanted.

    Raises:
        ValueError: The matrix is empty, or its entries are too large for the noise to be hidden.
    """
    n, d = numbers.shape
    if n < 1 or d < 1:
        raise ValueError(f"a matrix of shape {numbers.shape}; at least one row and one column are needed")
    size = MATRICES.size
    there, back = MATRICES.empty(0, 0), MATRICES.empty(0, 0)
    bounds = [0.0, 0.0]
    if forward:
        s = product_columns(n, d)
        c = size // s
        at = np.arange(c)[:, None] * s + s - 1 - np.arange(s)
        there = MATRICES.empty(-(-n // c), -(-d // s))
        bounds[0] = _filled(numbers, c, s, at, there)
    if backward:
        s = transposed_columns(n, d)
        c = size // s
        at = (np.arange(s) + 1) * c - 1 - np.arange(c)[:, None]
        made = MATRICES.empty(-(-n // c), -(-d // s))
        _filled(numbers, c, s, at, made)
        back = np.ascontiguousarray(made.swapaxes(0, 1))
        columns = -(-d // s)
        parts = [numbers[:, j * s : (j + 1) * s].astype(float) for j in range(columns)]
        bounds[1] = max(
            product_bound(float((part**2).sum()), float(np.abs(part).sum()), wraps=True) for part in parts
        )
    return Matrix((n, d), there, back, (bounds[0], bounds[1]))


def _filled(numbers: Integers, c: int, s: int, at: Integers, out: Element) -> float:
    """Write blocks of c rows and s columns as factors; returns the noise of one block row's sum."""
    worst = 0.0
    for i in range(out.shape[0]):
        squares = absolute = 0.0
        for j in range(out.shape[1]):
            block = numbers[i * c : (i + 1) * c, j * s : (j + 1) * s]
            polynomial = np.zeros(MATRICES.size, dtype=np.int64)
            polynomial[at[: block.shape[0], : block.shape[1]]] = block
            out[i, j] = MATRICES.factor(polynomial)
            real = block.astype(float)
            squares, absolute = squares + float((real**2).sum()), absolute + float(np.abs(real).sum())
        worst = max(worst, product_bound(squares, absolute, wraps=True))
    return worst


# ---- M v ------------------------------------------------------------------------------------------------------------


def product_receive(channel: Channel, secret: SecretKey, vector: Residues, n: int, step: str) -> Residues:
    """The vector's holder's share of M v.

    Args:
        channel: To the holder of the matrix.
        secret: A key of `MATRICES`.
        vector: (d,) below `MODULUS`.
        n: Rows of the matrix.
        step: Names the messages.

    Returns:
        (n,) uint64 below `MODULUS`.

    Raises:
        ProtocolError: The answer is none.
    """
    d = len(vector)
    s = product_columns(n, d)
    c = MATRICES.size // s
    polynomials = _blocks(vector, s)
    channel.send(step, encrypt(secret, MODULUS, polynomials).to_bytes())
    return _opened(channel, secret, -(-n // c), np.arange(c) * s + s - 1, step).reshape(-1)[:n]


def product_send(channel: Channel, public: PublicKey, matrix: Matrix, step: str) -> Residues:
    """The matrix's holder's share of M v.

    Args:
        channel: To the holder of the vector.
        public: The key of the holder of the vector.
        matrix: With `forward`.
        step: Names the messages.

    Returns:
        (n,) uint64 below `MODULUS`.

    Raises:
        ProtocolError: The vector is none under this key.
        ValueError: The noise would show.
    """
    n, d = matrix.shape
    s = product_columns(n, d)
    c = MATRICES.size // s
    return _answered(channel, public, matrix.forward, matrix.bounds[0], np.arange(c) * s + s - 1, step)[:n]


# ---- M^T v ----------------------------------------------------------------------------------------------------------


def transposed_receive(channel: Channel, secret: SecretKey, vector: Residues, d: int, step: str) -> Residues:
    """The vector's holder's share of M^T v; as `product_receive`, vector (n,), share (d,)."""
    s = transposed_columns(len(vector), d)
    c = MATRICES.size // s
    channel.send(step, encrypt(secret, MODULUS, _blocks(vector, c)).to_bytes())
    return _opened(channel, secret, -(-d // s), (np.arange(s) + 1) * c - 1, step).reshape(-1)[:d]


def transposed_send(channel: Channel, public: PublicKey, matrix: Matrix, step: str) -> Residues:
    """The matrix's holder's share of M^T v; as `product_send`, share (d,)."""
    n, d = matrix.shape
    s = transposed_columns(n, d)
    c = MATRICES.size // s
    return _answered(channel, public, matrix.backward, matrix.bounds[1], (np.arange(s) + 1) * c - 1, step)[:d]


def _blocks(vector: Residues, length: int) -> Residues:
    """A vector cut into pieces, each the first coefficients of a polynomial."""
    count = -(-len(vector) // length)
    padded = np.zeros(count * length, dtype=np.uint64)
    padded[: len(vector)] = vector
    out = np.zeros((count, MATRICES.size), dtype=np.uint64)
    out[:, :length] = padded.reshape(count, length)
    return out


def _opened(channel: Channel, secret: SecretKey, count: int, positions: Integers, step: str) -> Residues:
    data = channel.recv(step, size=answer_bytes(secret.ring, MODULUS, count, len(positions)))
    return open_answers(secret, MODULUS, data, count, positions)


def _answered(
    channel: Channel, public: PublicKey, factors: Element, bound: float, positions: Integers, step: str
) -> Residues:
    """Answers number i: sum_j factors[i, j] ct_j, masked; returns minus the masks, in a row."""
    ring, (count, terms) = public.ring, factors.shape[:2]
    check(ring, MODULUS, bound, count * len(positions))
    data = channel.recv(step, size=vector_bytes(ring, terms))
    pairs = read_vector(data, public, MODULUS, terms).pairs
    answers = zeros(public, count)
    masks = uniform_numbers(MODULUS, (count, len(positions)))
    for i in range(count):
        for j in range(terms):
            ring.multiply_add(answers[i], pairs[j], factors[i, j])
        message = np.zeros(ring.size, dtype=np.uint64)
        message[positions] = masks[i]
        add_numbers(ring, MODULUS, answers[i], message)
    channel.send(step, write_answers(public, MODULUS, answers, positions))
    return _negated(masks.reshape(-1))


# ---- rows -----------------------------------------------------------------------------------------------------------


@functools.cache
def _slots() -> ntt.Tables:
    return ntt.tables(ROWS.size, (MODULUS,))


def _polynomials(numbers: Integers) -> Residues:
    """Polynomials with these values in their slots, (k, N) uint64, from (rows, k) int64, rows at most N."""
    tables = _slots()
    out = np.zeros((numbers.shape[1], 1, ROWS.size), dtype=np.uint64)
    out[:, 0, : len(numbers)] = np.where(numbers < 0, numbers + MODULUS, numbers).T
    ntt.inverse(out, tables.moduli, tables.inverse_roots, tables.inverse_shoup, tables.last)
    made: Residues = out[:, 0]
    return made


def _values(polynomial: Residues) -> Residues:
    """What is in the slots, (N,)."""
    tables = _slots()
    out = polynomial.reshape(1, 1, -1).copy()
    ntt.forward(out, tables.moduli, tables.roots, tables.shoup)
    made: Residues = out.reshape(-1)
    return made


def rows_receive(channel: Channel, secret: SecretKey, u: Integers, step: str) -> Residues:
    """A share of sum_k u_ik v_ik for each row.

    Args:
        channel: To the holder of v.
        secret: A key of `ROWS`.
        u: (n, k) int64, below p / 2 in size.
        step: Names the messages.

    Returns:
        (n,) uint64 below `MODULUS`.

    Raises:
        ProtocolError: The answer is none.
    """
    size = ROWS.size
    blocks = range(0, len(u), size)
    for first in blocks:
        polynomials = _polynomials(u[first : first + size])
        channel.send(step, encrypt(secret, MODULUS, polynomials).to_bytes())
    opened = _opened(channel, secret, len(blocks), np.arange(size), step)
    return np.concatenate([_values(each) for each in opened])[: len(u)]


def rows_send(channel: Channel, public: PublicKey, v: Integers, step: str) -> Residues:
    """The other share of sum_k u_ik v_ik for each row.

    Args:
        channel: To the holder of u.
        public: The key of the holder of u.
        v: (n, k) int64, below p / 2 in size.
        step: Names the messages.

    Returns:
        (n,) uint64 below `MODULUS`.

    Raises:
        ProtocolError: What came is not encrypted under this key.
        ValueError: The noise would show.
    """
    ring, (n, terms) = public.ring, v.shape
    size = ring.size
    half = MODULUS // 2
    reach = float(terms) * size * half
    blocks = range(0, n, size)
    check(ring, MODULUS, product_bound(reach * half, reach, wraps=True), len(blocks) * size)
    answers = zeros(public, len(blocks))
    masks = uniform_numbers(MODULUS, (len(blocks), size))
    for i, first in enumerate(blocks):
        data = channel.recv(step, size=vector_bytes(ring, terms))
        pairs = read_vector(data, public, MODULUS, terms).pairs
        numbers = _polynomials(v[first : first + size]).astype(np.int64)
        numbers[numbers > half] -= MODULUS
        for k in range(terms):
            ring.multiply_add(answers[i], pairs[k], ring.factor(numbers[k]))
        add_numbers(ring, MODULUS, answers[i], masks[i])
    channel.send(step, write_answers(public, MODULUS, answers, np.arange(size)))
    return _negated(np.concatenate([_values(each) for each in masks])[:n])


def _negated(numbers: npt.NDArray[Any]) -> Residues:
    return np.where(numbers == 0, numbers, np.uint64(MODULUS) - numbers)
