"""Oblivious key-value store of words: `okvs` with values of 64 bits, half as long.

Shape, rows, bins and peeling are those of `okvs`; the values are words, and the dense columns have the coefficients
h, h^2, ... in GF(2^64). A store of blocks, whose two words are each multiplied by these coefficients, is decoded
alike: so are the vectors of VOLE that belong to it. Failure is detected and retried with a new seed, as in `okvs`;
that two distinct rows meet in all coefficients, or that a small core happens to be singular, has probability about
2^-60 a bin here too, since h has 64 bits in both.

Cost: 8 bytes for each place of the store.

Source: as `okvs`; a store over the subfield is section 4 of eprint 2022/320.
"""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt

from crypto.kernels import okvs64_kernels as kernels
from crypto.kernels.aes import expand_key, fill
from crypto.kernels.okvs_kernels import peel
from crypto.psi.okvs import CORE_ROWS, EncodingFailed, Partition, refuse_duplicates
from crypto.psi.okvs_shape import Shape

Words = npt.NDArray[np.uint64]
Blocks = npt.NDArray[np.uint64]


def encode_bins(parts: Partition, first: int, last: int, values: Words) -> Words:
    """The part of the store that holds bins `first` to `last` - 1, ((last - first) * shape.width,) uint64.

    A caller that sends parts before all are encoded must, when a later one fails, start over with a new seed and
    fresh masks.

    Args:
        parts: Of the encoder's keys.
        first, last: Bins.
        values: Of the rows of these bins in their order, (rows,) uint64.

    Raises:
        EncodingFailed: These pairs have no store under this seed.
        ValueError: A key stands twice, or an array has another form.
    """
    shape, start = parts.shape, _start(parts, first, last)
    _check("values", values, (int(start[-1] - start[0]),))
    sizes = np.diff(start)
    for full in np.flatnonzero(sizes > shape.capacity).tolist():
        refuse_duplicates(parts.rows[start[full] : start[full + 1]])
        raise EncodingFailed(
            f"okvs.encode: a bin has {sizes[full]} pairs, at most {shape.capacity} are allowed: take another seed"
        )
    randomness = expand_key(secrets.token_bytes(16))
    blocks = -(-shape.width // 2)
    out = np.empty((last - first, 2 * blocks), dtype=np.uint64)
    room = _Room(int(sizes.max(initial=0)), shape.sparse)
    for b, store in enumerate(out):
        # Every place is random; the pivots are then set to what the values need.
        fill(randomness, np.uint64(b * blocks), store.reshape(blocks, 2))
        _encode_bin(
            parts.rows[start[b] : start[b + 1]],
            values[start[b] - start[0] : start[b + 1] - start[0]],
            shape,
            room,
            store[: shape.width],
        )
    return np.ascontiguousarray(out[:, : shape.width]).reshape(-1)


class _Room:
    """Memory that the bins use one after another."""

    def __init__(self, rows: int, sparse: int) -> None:
        self.packed = np.empty(rows, dtype=np.uint64)
        self.column = np.empty(sparse, dtype=np.uint64)
        self.order = np.empty(rows, dtype=np.uint32)
        self.pivots = np.empty(sparse + 1, dtype=np.uint32)
        self.residues = np.empty(rows, dtype=np.uint64)


def _encode_bin(rows: Blocks, values: Words, shape: Shape, room: _Room, store: Words) -> None:
    sparse, dense = np.uint64(shape.sparse), np.uint64(shape.dense)
    gone = int(peel(rows, sparse, room.packed, room.column, room.order, room.pivots))
    order, pivots = room.order[:gone], room.pivots[:gone]
    if gone < len(rows):
        left = np.ones(len(rows), dtype=bool)
        left[order] = False
        _solve_core(rows[left], values[left], shape, store)
    kernels.residues(rows, values, store, sparse, dense, room.residues)
    kernels.substitute(room.residues, room.packed, order, pivots, store)


def _solve_core(rows: Blocks, values: Words, shape: Shape, store: Words) -> None:
    """Correct the store so that the rows which peeling has left are right: elimination over all of their columns.

    Only pivots are changed, so that the free columns stay random.
    """
    refuse_duplicates(rows)
    if len(rows) > CORE_ROWS:
        raise EncodingFailed(
            f"okvs.encode: peeling left {len(rows)} pairs of a bin, at most {CORE_ROWS} are solved: take another seed"
        )
    places = np.empty((len(rows), 3), dtype=np.int64)
    powers = np.empty((len(rows), shape.dense), dtype=np.uint64)
    kernels.expand(rows, np.uint64(shape.sparse), places, powers)
    columns = np.concatenate([np.unique(places), np.arange(shape.sparse, shape.width)])
    # A row of the system: its coefficient in each column, then what is missing.
    system = np.zeros((len(rows), len(columns) + 1), dtype=np.uint64)
    for j in range(3):
        system[np.arange(len(rows)), np.searchsorted(columns, places[:, j])] = 1
    system[:, len(columns) - shape.dense : -1] = powers
    now = np.empty_like(values)
    kernels.read_words(rows, store, np.uint64(shape.sparse), np.uint64(shape.dense), now)
    system[:, -1] = values ^ now
    pivots = []
    for i in range(len(system)):
        nonzero = np.flatnonzero(system[i, :-1])
        if not len(nonzero):
            raise EncodingFailed("okvs.encode: two or more pairs are linearly dependent: take another seed")
        pivot = nonzero[0]
        scaled = np.zeros_like(system[i])
        kernels.add_times(scaled, system[i], np.uint64(kernels.inverse(system[i, pivot])))
        system[i] = scaled
        for k, other in enumerate(system):
            if k != i and other[pivot]:
                kernels.add_times(other, scaled, other[pivot])
        pivots.append(columns[pivot])
    store[pivots] ^= system[:, -1]


def decode_bins(parts: Partition, first: int, last: int, store: Blocks) -> Blocks:
    """What a part of a store of blocks gives for the rows of bins `first` to `last` - 1, in their order.

    Args:
        parts: Of the decoder's keys.
        first, last: Bins.
        store: Their part of the store, ((last - first) * shape.width, 2) uint64.

    Returns:
        (rows, 2) uint64. Row i is of key `parts.order[parts.start[first] + i]`.

    Raises:
        ValueError: An array has another form.
    """
    shape, start = parts.shape, _start(parts, first, last)
    _check("store", store, ((last - first) * shape.width, 2))
    rows = parts.rows[start[0] : start[-1]]
    out = np.empty((len(rows), 2), dtype=np.uint64)
    kernels.read(rows, start, store, np.uint64(shape.sparse), np.uint64(shape.dense), out)
    return out


def _start(parts: Partition, first: int, last: int) -> npt.NDArray[np.int64]:
    if not 0 <= first <= last <= len(parts.start) - 1:
        raise ValueError(f"bins {first} to {last} of a partition of {len(parts.start) - 1}")
    return parts.start[first : last + 1]


def _check(name: str, array: Words, shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != np.uint64 or not array.flags.c_contiguous:
        raise ValueError(
            f"{name}: a contiguous {shape} uint64 array is needed, not {array.shape} {array.dtype}"
        )
