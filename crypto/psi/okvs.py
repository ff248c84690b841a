"""Oblivious key-value store: a vector P with Decode(P, key) = value for every pair put in, linear in P.

With random values the store hides which keys it holds: it is uniform among the solutions, and a key outside gets
what looks random. Both sides compute the `Shape` from the number of pairs alone; the encoder draws the seed AFTER its
set is fixed, so that no one can choose keys to fit it, and sends it with the store.

Keys fall into bins by a hash, each bin a linear system of its own: three random sparse columns with coefficient 1 and
a few dense columns with coefficients h, h^2, ... in GF(2^128). Rows are peeled off by columns that they have to
themselves; what peeling leaves, most often nothing, is solved by elimination. No free column is left at zero: each
holds fresh secret randomness. The first byte of the hash that chooses the bin is the key's own, so keys are hashes
themselves: keys chosen to share that byte overfill bins under every seed, which is noticed as any overflow is.

Failure is detected, never passed over, and retried with a new seed. Over the whole store it has probability at most
2^-LAMBDA: in each of B bins, overflow and an unsolvable system at most 2^-ssp each, ssp = LAMBDA + 1 + log2 B. The
bound on a bin is the binomial tail; the bound on a system is the published fit to experiments, which is no theorem.

Cost: 16 bytes for each place of the store, 1.31 to 1.32 places a pair from a million pairs on (`okvs_shape`); one
message; no public-key operation. One core (AMD Zen 4) takes 15 ns a pair to hash and sort, 30 to encode, 21 to decode.

Source: Raghuraman and Rindal, "Blazing Fast PSI", CCS 2022 (eprint 2022/320), section 3; parameters of the 3-hash
store as in the authors' code (volepsi, `PaxosParam::init`). Differences: h has 64 bits, which makes its products
cheaper (two distinct rows of a bin with the same columns meet with probability about 2^-60 then, not 2^-128, far
below the bound), and what peeling leaves is solved over all of its columns, which fails less often than over the
dense ones alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from crypto.kernels import okvs_kernels as kernels
from crypto.kernels.aes import expand_key, fill
from crypto.kernels.blocks import add_scaled, scale
from crypto.psi.okvs_shape import Shape, shape_for

__all__ = [
    "SEED_BYTES", "EncodingFailed", "Partition", "Shape", "decode", "decode_bins", "encode", "encode_bins",
    "encode_with_fresh_seed", "partition", "refuse_duplicates", "shape_for",
]  # fmt: skip

Blocks = npt.NDArray[np.uint64]

SEED_BYTES = 16
CORE_ROWS = 512
"""More rows than this left by peeling are refused, not solved: elimination takes cubic time, a second for so many.

Peeling leaves a few rows or about four tenths of them. For a few hundred rows that happens more often than the fit of
`okvs_shape` says (at 256 rows three times in place of one); there elimination takes all that is left.
"""


class EncodingFailed(Exception):
    """The pairs have no store under this seed. Draw another: `encode_with_fresh_seed`."""


# ---- rows in bins ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Partition:
    """The rows of a set of keys, sorted by bin.

    Args:
        shape: Of the store.
        rows: AES-128 of the keys under the seed, (n, 2) uint64. For one seed a row stands for its key.
        order: Which key each row is of, (n,) uint32.
        start: Rows of bin b are `start[b]` to `start[b + 1]`, (bins + 1,) int64. A stretch of bins (see
            `crypto.psi.bins`) is a partition too, whose bins are numbered from 0.
    """

    shape: Shape
    rows: Blocks = field(repr=False)
    order: npt.NDArray[np.uint32] = field(repr=False)
    start: npt.NDArray[np.int64] = field(repr=False)


def partition(keys: Blocks, seed: bytes, shape: Shape) -> Partition:
    """Hash keys under the seed and sort them by bin, in two passes. 20 bytes a key.

    Args:
        keys: Distinct, collision-resistant hashes of the items, (n, 2) uint64; of either side, any number below 2^32.
        seed: 16 bytes, public.
        shape: Of the store.

    Raises:
        ValueError: Keys or seed of another form.
    """
    _check("keys", keys, None)
    if len(keys) >= 2**32:
        raise ValueError(f"{len(keys)} keys; fewer than 2^32 can be sorted at once: split the set")
    round_keys = expand_key(seed)
    bins = np.uint64(shape.bins)
    start = np.zeros(shape.bins + 1, dtype=np.int64)
    kernels.count(keys, round_keys, bins, start[1:])
    np.cumsum(start, out=start)
    rows = np.empty((len(keys), 2), dtype=np.uint64)
    order = np.empty(len(keys), dtype=np.uint32)
    numbers = np.arange(len(keys), dtype=np.uint32)
    kernels.place(keys, numbers, round_keys, bins, np.uint64(0), start[:-1].copy(), rows, order)
    return Partition(shape, rows, order, start)


def _start(parts: Partition, first: int, last: int) -> npt.NDArray[np.int64]:
    if not 0 <= first <= last <= parts.shape.bins:
        raise ValueError(f"bins {first} to {last} of a store of {parts.shape.bins}")
    return parts.start[first : last + 1]


def _check(name: str, array: Blocks, length: int | None) -> None:
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype != np.uint64 or not array.flags.c_contiguous:
        raise ValueError(
            f"{name}: a contiguous (n, 2) uint64 array is needed, not {array.shape} {array.dtype}"
        )
    if length is not None and len(array) != length:
        raise ValueError(f"{name}: {length} blocks are needed, not {len(array)}")


def _output(out: Blocks | None, length: int) -> Blocks:
    if out is None:
        return np.empty((length, 2), dtype=np.uint64)
    _check("out", out, length)
    return out


# ---- encode -----------------------------------------------------------------------------------------------------------


def encode_bins(parts: Partition, first: int, last: int, values: Blocks, out: Blocks | None = None) -> Blocks:
    """The part of the store that holds bins `first` to `last` - 1.

    A caller that sends parts before all are encoded must, when a later one fails, start over with a new seed and
    fresh masks.

    Args:
        parts: Of the encoder's keys.
        first, last: Bins.
        values: Of the rows of these bins in their order, (rows, 2) uint64.
        out: To write to, ((last - first) * shape.width, 2) uint64; made where not given.

    Returns:
        `out`.

    Raises:
        EncodingFailed: These pairs have no store under this seed.
        ValueError: A key stands twice, or an array has another form.
    """
    shape, start = parts.shape, _start(parts, first, last)
    _check("values", values, int(start[-1] - start[0]))
    out = _output(out, (last - first) * shape.width)
    most = int(np.diff(start).max(initial=0))
    if most > shape.capacity:
        for full in np.flatnonzero(np.diff(start) > shape.capacity).tolist():
            refuse_duplicates(parts.rows[start[full] : start[full + 1]])
        raise EncodingFailed(
            f"okvs.encode: a bin has {most} pairs, at most {shape.capacity} are allowed: take another seed"
        )
    randomness = expand_key(secrets.token_bytes(16))
    room = _Room(most, shape.sparse)
    for b in range(last - first):
        rows = parts.rows[start[b] : start[b + 1]]
        store = out[b * shape.width : (b + 1) * shape.width]
        # Every place is random; the pivots are then set to what the values need.
        fill(randomness, np.uint64(b * shape.width), store)
        _encode_bin(rows, values[start[b] - start[0] : start[b + 1] - start[0]], shape, room, store)
    return out


class _Room:
    """Memory that the bins use one after another."""

    def __init__(self, rows: int, sparse: int) -> None:
        self.packed = np.empty(rows, dtype=np.uint64)
        self.column = np.empty(sparse, dtype=np.uint64)
        self.order = np.empty(rows, dtype=np.uint32)
        self.pivots = np.empty(sparse + 1, dtype=np.uint32)
        self.residues = np.empty((rows, 2), dtype=np.uint64)


def _encode_bin(rows: Blocks, values: Blocks, shape: Shape, room: _Room, store: Blocks) -> None:
    sparse, dense = np.uint64(shape.sparse), np.uint64(shape.dense)
    gone = int(kernels.peel(rows, sparse, room.packed, room.column, room.order, room.pivots))
    order, pivots = room.order[:gone], room.pivots[:gone]
    if gone < len(rows):
        left = np.ones(len(rows), dtype=bool)
        left[order] = False
        _solve_core(rows[left], values[left], shape, store)
    kernels.residues(rows, values, store, sparse, dense, room.residues)
    kernels.substitute(room.residues, room.packed, order, pivots, store)


def _solve_core(rows: Blocks, values: Blocks, shape: Shape, store: Blocks) -> None:
    """Correct the store so that the rows which peeling has left are right: elimination over all of their columns.

    Only pivots are changed, so that the free columns stay random.
    """
    refuse_duplicates(rows)
    if len(rows) > CORE_ROWS:
        raise EncodingFailed(
            f"okvs.encode: peeling left {len(rows)} pairs of a bin, at most {CORE_ROWS} are solved: take another seed"
        )
    places = np.empty((len(rows), 3), dtype=np.int64)
    powers = np.empty((len(rows), shape.dense, 2), dtype=np.uint64)
    kernels.expand(rows, np.uint64(shape.sparse), places, powers)
    columns = np.concatenate([np.unique(places), np.arange(shape.sparse, shape.width)])
    # A row of the system: its coefficient in each column, then what is missing.
    system = np.zeros((len(rows), len(columns) + 1, 2), dtype=np.uint64)
    for j in range(3):
        system[np.arange(len(rows)), np.searchsorted(columns, places[:, j]), 0] = 1
    system[:, len(columns) - shape.dense : -1] = powers
    now = np.empty_like(values)
    kernels.read(rows, np.array([0, len(rows)]), store, np.uint64(shape.sparse), np.uint64(shape.dense), now)
    system[:, -1] = values ^ now
    pivots = []
    for i, row in enumerate(system):
        nonzero = np.flatnonzero(row[:-1].any(axis=1))
        if not len(nonzero):
            raise EncodingFailed("okvs.encode: two or more pairs are linearly dependent: take another seed")
        pivot = nonzero[0]
        scale(row, _inverse(row[pivot : pivot + 1]), row)
        for k, other in enumerate(system):
            if k != i and other[pivot].any():
                add_scaled(other, row, other[pivot : pivot + 1].copy())
        pivots.append(columns[pivot])
    store[pivots] ^= system[:, -1]


def refuse_duplicates(rows: Blocks) -> None:
    """Raise ValueError where a key stands twice: equal keys have equal rows.

    In a bin that is not overfull they never have a column to themselves, so they are among those that peeling leaves.
    """
    if len(np.unique(rows, axis=0)) < len(rows):
        raise ValueError("okvs.encode: a key stands twice, each may once: take duplicates out first")


def _inverse(a: Blocks) -> Blocks:
    """a^(2^128 - 2), of one block (1, 2) uint64."""
    power = a.copy()
    result = np.array([[1, 0]], dtype=np.uint64)
    for _ in range(127):
        scale(power, power.copy(), power)
        scale(result, power, result)
    return result


def encode(keys: Blocks, values: Blocks, seed: bytes, shape: Shape, *, threads: int = 1) -> Blocks:
    """The whole store, (shape.length, 2) uint64.

    Args:
        keys, values: The pairs, (n, 2) uint64 each; at most `shape.items`.
        seed: 16 bytes, drawn after the keys were fixed.
        shape: `shape_for` the number of pairs that both sides know.
        threads: Bins encoded at once.

    Raises:
        EncodingFailed: These pairs have no store under this seed.
        ValueError: A key stands twice, there are too many, or an array has another form.
    """
    if len(keys) > shape.items:
        raise ValueError(f"okvs.encode: {len(keys)} pairs, the store is made for {shape.items}")
    _check("values", values, len(keys))
    parts = partition(keys, seed, shape)
    ordered = values[parts.order]
    store = np.empty((shape.length, 2), dtype=np.uint64)

    def work(first: int, last: int) -> None:
        some = ordered[parts.start[first] : parts.start[last]]
        encode_bins(parts, first, last, some, store[first * shape.width : last * shape.width])

    _over_bins(work, shape.bins, threads)
    return store


def encode_with_fresh_seed(
    keys: Blocks,
    values_of: Callable[[bytes], Blocks],
    shape: Shape,
    *,
    attempts: int = 5,
    threads: int = 1,
) -> tuple[bytes, Blocks]:
    """Draw a seed and encode; again with another seed where that fails.

    Args:
        keys, shape, threads: As in `encode`.
        values_of: The values under a seed, (n, 2) uint64 in the order of the keys.
        attempts: Seeds that are tried, at least 1.

    Returns:
        The seed, and the store.

    Raises:
        EncodingFailed: No seed worked, which for distinct keys does not happen by chance.
        ValueError: As in `encode`.
    """
    for _ in range(attempts):
        seed = secrets.token_bytes(SEED_BYTES)
        try:
            return seed, encode(keys, values_of(seed), seed, shape, threads=threads)
        except EncodingFailed as failed:
            last = failed
    raise EncodingFailed(f"{last}; {attempts} seeds were tried") from last


# ---- decode -----------------------------------------------------------------------------------------------------------


def decode_bins(parts: Partition, first: int, last: int, store: Blocks, out: Blocks | None = None) -> Blocks:
    """What a part of a store gives for the rows of bins `first` to `last` - 1, in their order.

    Args:
        parts: Of the decoder's keys.
        first, last: Bins.
        store: Their part of the store, ((last - first) * shape.width, 2) uint64.
        out: To write to, (rows, 2) uint64; made where not given.

    Returns:
        `out`. Row i is of key `parts.order[parts.start[first] + i]`.

    Raises:
        ValueError: An array has another form.
    """
    shape, start = parts.shape, _start(parts, first, last)
    _check("store", store, (last - first) * shape.width)
    out = _output(out, int(start[-1] - start[0]))
    rows = parts.rows[start[0] : start[-1]]
    kernels.read(rows, start, store, np.uint64(shape.sparse), np.uint64(shape.dense), out)
    return out


def decode(
    keys: Blocks, store: Blocks, seed: bytes, shape: Shape, out: Blocks | None = None, *, threads: int = 1
) -> Blocks:
    """The value of each key, (n, 2) uint64; of a key that the store does not hold, what looks random.

    Args:
        keys: (n, 2) uint64, any number below 2^32.
        store: (shape.length, 2) uint64.
        seed, shape: Of the store.
        out: To write to, (n, 2) uint64; made where not given.
        threads: Bins decoded at once.

    Raises:
        ValueError: An array has another form.
    """
    _check("store", store, shape.length)
    out = _output(out, len(keys))
    parts = partition(keys, seed, shape)

    def work(first: int, last: int) -> None:
        some = decode_bins(parts, first, last, store[first * shape.width : last * shape.width])
        out[parts.order[parts.start[first] : parts.start[last]]] = some

    _over_bins(work, shape.bins, threads)
    return out


def _over_bins(work: Callable[[int, int], None], bins: int, threads: int) -> None:
    """Call `work(first, last)` for consecutive ranges of bins, one for each thread."""
    if threads <= 1 or bins == 1:
        work(0, bins)
        return
    marks = [bins * t // threads for t in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, marks[:-1], marks[1:]))
