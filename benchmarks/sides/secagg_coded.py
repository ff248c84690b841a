"""LightSecAgg: masks coded to all participants, so that the coordinator decodes the sum of the masks at once.

Participant i hides x_i by one uniform mask z_i over a prime field. It cuts z_i into U - T pieces, puts T uniform
pieces behind them, takes these U as coefficients of a polynomial in each column and sends to participant j its value
at a_j, encrypted. Any T values say nothing of z_i. Of the survivors S, U send the sum over S of the values they hold;
from U values of a polynomial of degree below U the coordinator has the sum of the masks, whatever S is.

Points are roots of unity, so coding is a number-theoretic transform, which costs less than the product with a matrix
of the paper; decoding, from whichever points are left, is such a product. The protocol holds against a coordinator
that follows it: one that asks for two sets of survivors learns the difference of their sums.

Source: So, He, Yang, Li, Yu, Ali, Guler, Avestimehr, "LightSecAgg", MLSys 2022 (arXiv 2109.14236), section 4.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.sides.secagg_cohort import CLIP, LARGEST_WEIGHT, Round, Spent
from crypto.kernels.keystream import NONCE, Streams
from crypto.quantisation import FixedPoint, quantise

PRIME = 15 * 2**27 + 1
"""Just below 2^31, with roots of unity of order 2^27."""
_ROOT = 31
BLOCK = 512
"""Columns that are worked on at once."""

Words = npt.NDArray[np.uint32]
u64 = np.uint64
_P = u64(PRIME)
_LOW = u64(0xFFFFFFFF)
_njit = numba.njit(cache=True, boundscheck=False)


@dataclass(frozen=True)
class Code:
    """What all agree on.

    Args:
        participants: N.
        colluding: T, with the coordinator.
        needed: U, that answer at the end.
    """

    participants: int
    colluding: int
    needed: int

    @property
    def order(self) -> int:
        """Points of the transform."""
        return 1 << (self.participants - 1).bit_length()

    def columns(self, count: int) -> int:
        """Elements of a piece of a mask that long."""
        return -(-count // (self.needed - self.colluding))

    def points(self) -> list[int]:
        """a_j of each participant: the transform leaves its values in bit-reversed order."""
        bits, root = self.order.bit_length() - 1, pow(_ROOT, (PRIME - 1) // self.order, PRIME)
        return [pow(root, int(f"{j:0{bits}b}"[::-1], 2), PRIME) for j in range(self.participants)]


@_njit
def _to_field(words: Any, out: Any) -> None:
    """Words of 64 bits as field elements, uniform to 2^-33: `words P / 2^64`, rounded down."""
    for i in range(out.size):
        low = ((words[i] & _LOW) * _P) >> u64(32)
        out[i] = np.uint32(((words[i] >> u64(32)) * _P + low) >> u64(32))


@_njit
def _transform(rows: Any, twiddles: Any, quotients: Any, out: Any) -> None:
    """Values of the polynomials whose coefficients are `rows`, (U, columns), at all points, (order, columns)."""
    order, columns = out.shape
    room = np.empty((order, BLOCK), np.uint32)
    for first in range(0, columns, BLOCK):
        count = min(BLOCK, columns - first)
        for k in range(order):
            for c in range(count):
                room[k, c] = rows[k, first + c] if k < rows.shape[0] else np.uint32(0)
        half = order >> 1
        while half:
            step = order // (2 * half)
            for start in range(0, order, 2 * half):
                for k in range(half):
                    w, ratio = twiddles[k * step], quotients[k * step]
                    a, b = room[start + k], room[start + k + half]
                    for c in range(BLOCK):
                        x, y = u64(a[c]), u64(b[c])
                        total = x + y
                        a[c] = np.uint32(min(total, total - _P))
                        apart = x + _P - y
                        # Shoup's product with a constant: off by one modulus at most.
                        less = w * apart - ((ratio * apart) >> u64(32)) * _P
                        b[c] = np.uint32(min(less, less - _P))
            half >>= 1
        for k in range(order):
            out[k, first : first + count] = room[k, :count]


@_njit
def _add(one: Any, other: Any) -> None:
    """`one + other`, to the first."""
    for i in range(one.size):
        total = u64(one[i]) + u64(other[i])
        one[i] = np.uint32(min(total, total - _P))


@_njit
def _subtract(one: Any, other: Any) -> None:
    """`one - other`, to the first."""
    for i in range(one.size):
        apart = u64(one[i]) + _P - u64(other[i])
        one[i] = np.uint32(min(apart, apart - _P))


@_njit
def _from_whole(words: Any) -> None:
    """Two's complement to field elements, in place."""
    for i in range(words.size):
        words[i] = np.uint32((np.int64(np.int32(words[i])) + np.int64(PRIME)) % np.int64(PRIME))


@_njit
def _product(matrix: Any, values: Any, out: Any) -> None:
    """`matrix @ values` over the field; the inner size is a multiple of four."""
    columns = values.shape[1]
    low, high = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
    for first in range(0, columns, BLOCK):
        count = min(BLOCK, columns - first)
        for r in range(matrix.shape[0]):
            low[:] = u64(0)
            high[:] = u64(0)
            for j in range(0, matrix.shape[1], 4):
                m0, m1, m2, m3 = matrix[r, j], matrix[r, j + 1], matrix[r, j + 2], matrix[r, j + 3]
                v0, v1 = values[j, first : first + count], values[j + 1, first : first + count]
                v2, v3 = values[j + 2, first : first + count], values[j + 3, first : first + count]
                for c in range(count):
                    # Four products below 2^62 are below 2^64.
                    four = m0 * u64(v0[c]) + m1 * u64(v1[c]) + m2 * u64(v2[c]) + m3 * u64(v3[c])
                    low[c] += four & _LOW
                    high[c] += four >> u64(32)
            for c in range(count):
                out[r, first + c] = np.uint32(((high[c] % _P) * (u64(2**32) % _P) % _P + low[c] % _P) % _P)


@_njit
def _power(base: Any, exponent: Any) -> Any:
    made = u64(1)
    while exponent:
        if exponent & u64(1):
            made = made * base % _P
        base = base * base % _P
        exponent >>= u64(1)
    return made


@_njit
def _interpolation(points: Any, rows: Any) -> Any:
    """The matrix that takes values at the points to the first coefficients, (rows, points)."""
    size = points.size
    whole = np.zeros(size + 1, np.uint64)
    whole[0] = u64(1)
    for i in range(size):
        for k in range(i + 1, 0, -1):
            whole[k] = (whole[k - 1] + (_P - points[i]) * whole[k]) % _P
        whole[0] = (_P - points[i]) * whole[0] % _P
    matrix = np.zeros((rows, -(-size // 4) * 4), np.uint64)
    part = np.empty(size, np.uint64)
    for j in range(size):
        # What is left of the product of all (x - a) without (x - a_j), and its value there.
        part[size - 1] = whole[size]
        for k in range(size - 2, -1, -1):
            part[k] = (whole[k + 1] + points[j] * part[k + 1]) % _P
        value = u64(0)
        for k in range(size - 1, -1, -1):
            value = (value * points[j] + part[k]) % _P
        inverse = _power(value, _P - u64(2))
        for k in range(rows):
            matrix[k, j] = part[k] * inverse % _P
    return matrix


def _twiddles(order: int) -> tuple[Any, Any]:
    root = pow(_ROOT, (PRIME - 1) // order, PRIME)
    powers = [pow(root, k, PRIME) for k in range(max(order // 2, 1))]
    return np.array(powers, np.uint64), np.array([(w << 32) // PRIME for w in powers], np.uint64)


class Client:
    """One participant; keys of pairs are agreed already.

    Args:
        code: Of the run.
        count: Elements of a vector.
    """

    def __init__(self, code: Code, count: int) -> None:
        self.code, self.count = code, count
        self.mask: Words = np.empty(0, np.uint32)
        self.held: Words = np.zeros(code.columns(count), np.uint32)
        self._points = _twiddles(code.order)

    def share(self, keys: list[AESGCM]) -> list[bytes]:
        """The coded mask, one row for each participant, encrypted."""
        columns = self.code.columns(self.count)
        words = np.zeros(self.code.needed * columns, np.uint64)
        Streams([os.urandom(16 + NONCE)]).add(words)
        pieces = np.empty((self.code.needed, columns), np.uint32)
        _to_field(words, pieces.reshape(-1))
        self.mask = pieces.reshape(-1)[: self.count].copy()
        coded = np.empty((self.code.order, columns), np.uint32)
        _transform(pieces, *self._points, coded)
        return [key.encrypt(bytes(12), coded[j].view(np.uint8), None) for j, key in enumerate(keys)]

    def take(self, key: AESGCM, sealed: bytes) -> None:
        """Add what another one sent that has not dropped out."""
        _add(self.held, np.frombuffer(key.decrypt(bytes(12), sealed, None), np.uint32))

    def hide(self, values: npt.NDArray[np.float32], form: FixedPoint, weight: int, out: Words) -> None:
        """The masked vector, to `out`."""
        quantise(values, form, weight=weight, out=out)
        _from_whole(out)
        _add(out, self.mask)


def decode(code: Code, total: Words, held: dict[int, Words]) -> None:
    """Take the sum of the masks from the sum of the vectors, in place."""
    points = code.points()
    chosen = sorted(held)[: code.needed]
    at = np.array([points[j] for j in chosen], np.uint64)
    matrix = _interpolation(at, code.needed - code.colluding)
    columns = code.columns(len(total))
    values = np.zeros((matrix.shape[1], columns), np.uint32)
    for row, j in enumerate(chosen):
        values[row] = held[j]
    masks = np.empty((len(matrix), columns), np.uint32)
    _product(matrix, values, masks)
    _subtract(total, masks.reshape(-1)[: len(total)])


def one_round(code: Code, dropped: int, values: npt.NDArray[np.float32]) -> Round:
    """A round in which the first so many give no vector after they have sent their coded masks."""
    size, spent = code.participants, Spent()
    # One bit less than a word holds, since the field has less than 31.
    form = FixedPoint(CLIP * 2, size, LARGEST_WEIGHT)
    keys = [AESGCM(os.urandom(16)) for _ in range(size)]
    clients = [Client(code, len(values) + 1) for _ in range(size)]
    alive = range(dropped, size)
    up = down = 0
    for i, each in enumerate(clients):
        # In truth each pair has a key of its own; the work is the same.
        sealed = spent.client(str(i), each.share, keys)
        if i not in alive:
            continue
        up = sum(map(len, sealed))
        for j in alive:
            spent.client(str(j), clients[j].take, keys[j], sealed[j])
    down = up
    plain = np.zeros(len(values) + 1, np.int64)
    total, vector = np.zeros(len(values) + 1, np.uint32), np.empty(len(values) + 1, np.uint32)
    weights = np.random.default_rng(size).integers(1, LARGEST_WEIGHT + 1, size).tolist()
    for i in alive:
        spent.client(str(i), clients[i].hide, values, form, weights[i], vector)
        unmasked = vector.copy()
        _subtract(unmasked, clients[i].mask)
        plain += unmasked
        spent.serve(_add, total, vector)
    spent.serve(decode, code, total, {i: clients[i].held for i in alive})
    names = [str(i) for i in alive]
    sent = up + vector.nbytes + clients[0].held.nbytes
    return Round(spent.of(names), spent.server, sent, down, bool(np.array_equal(total, plain % PRIME)))
