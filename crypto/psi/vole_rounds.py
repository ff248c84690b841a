"""One round of LPN: noise trees and the code, over bits or over GF(2^128), for both sides.

The messages of a round come first, when it is made; its rows are then expanded a few trees at a time, so that a
round of 15 million rows needs no more memory than one slice of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel, recv_array
from crypto.kernels.aes import hash_blocks
from crypto.kernels.blocks import random_blocks, u64
from crypto.psi import ggm, lpn
from crypto.psi.parameters import Lpn

Blocks = npt.NDArray[np.uint64]

SLICE = 1 << 16
"""Rows that are expanded at a time, about."""


class SenderRound:
    """The side that knows the trees whole.

    Args:
        channel: To the receiver.
        shape: Parameters.
        delta: D, (1, 2).
        keys: Bit correlations K, one for each level of each tree. Over bits, the secret follows them.
        base: Over the field: b of the secret, then one for each tree. None over bits.
        number: Of the round, different in each.
    """

    def __init__(
        self, channel: Channel, shape: Lpn, delta: Blocks, keys: Blocks, base: Blocks | None, number: int
    ) -> None:
        self._shape, self._delta, self._field = shape, delta, base is not None
        paid = shape.trees * shape.depth
        self._secret = np.ascontiguousarray((keys[paid:] if base is None else base)[: shape.k])
        self._roots = random_blocks(shape.trees)
        told = self._message(
            keys[:paid].reshape(shape.trees, shape.depth, 2),
            None if base is None else base[shape.k :],
            number,
        )
        seed = secrets.token_bytes(16)
        channel.send("vole.code", seed)
        channel.send("vole.trees", told)
        self._code = lpn.public_seed(seed)

    def __repr__(self) -> str:
        return f"SenderRound({self._shape.name})"

    def _message(self, keys: Blocks, noise: Blocks | None, number: int) -> Blocks:
        shape, last = self._shape, self._shape.depth - 1
        sums = np.empty((shape.trees, shape.depth + 1, 2), dtype=np.uint64)
        for low, high in _slices(shape):
            self._leaves(low, high, sums[low:high])
        if noise is None:
            return np.ascontiguousarray(sums[:, : shape.depth] ^ keys)
        told = np.empty((shape.trees, shape.depth + 2, 2), dtype=np.uint64)
        told[:, :last] = sums[:, :last] ^ keys[:, :last]
        own = np.ascontiguousarray(keys[:, last])
        told[:, last] = sums[:, last] ^ _hashed(own, number)
        told[:, last + 1] = sums[:, last + 1] ^ _hashed(own ^ self._delta, number)
        told[:, last + 2] = sums[:, last] ^ sums[:, last + 1] ^ noise
        return told

    def _leaves(self, low: int, high: int, sums: Blocks) -> Blocks:
        leaves = np.empty(((high - low) << self._shape.depth, 2), dtype=np.uint64)
        ggm.whole(self._roots[low:high], self._delta, self._shape.depth, self._field, leaves, sums)
        return leaves

    def pieces(self) -> Iterator[Blocks]:
        """All rows, b over the field and K over bits, (n, 2) uint64 at a time."""
        for low, high in _slices(self._shape):
            rows = self._leaves(low, high, np.empty((high - low, self._shape.depth + 1, 2), dtype=np.uint64))
            first = u64(low << self._shape.depth)
            if self._field:
                lpn.add_field(self._code, first, self._secret, rows)
            else:
                lpn.add_bits(self._code, first, self._secret, rows)
                rows[:, 0] &= ~u64(1)
            yield rows


class ReceiverRound:
    """The side that lacks one leaf of each tree, at a place that follows from its bits.

    Args:
        channel: To the sender.
        shape: Parameters.
        keys: Bit correlations M, whose lowest bits are r. Over bits, the secret follows them.
        base: Over the field: a and c, (n, 4), of the secret, then one for each tree. None over bits.
        number: Of the round.
    """

    def __init__(self, channel: Channel, shape: Lpn, keys: Blocks, base: Blocks | None, number: int) -> None:
        self._shape, self._field = shape, base is not None
        paid = shape.trees * shape.depth
        self._secret = np.ascontiguousarray((keys[paid:] if base is None else base)[: shape.k])
        self._noise = None if base is None else base[shape.k :]
        keys = keys[:paid].reshape(shape.trees, shape.depth, 2)
        self._sides = (keys[:, :, 0] & u64(1)).astype(np.uint8)
        self._code = lpn.public_seed(bytes(channel.recv("vole.code", size=16)))
        columns = shape.depth + (2 if self._field else 0)
        told = recv_array(channel, "vole.trees", np.uint64, shape.trees, columns, 2)
        self._known = np.ascontiguousarray(told[:, : shape.depth] ^ keys)
        self._totals = told[:, -1]
        if self._field:
            last = shape.depth - 1
            right = self._sides[:, last].astype(bool)[:, None]
            opened = _hashed(np.ascontiguousarray(keys[:, last]), number)
            self._known[:, last] = np.where(right, told[:, last + 1], told[:, last]) ^ opened

    def __repr__(self) -> str:
        return f"ReceiverRound({self._shape.name})"

    def pieces(self) -> Iterator[Blocks]:
        """All rows: a and c over the field, (n, 4) uint64; M over bits, (n, 2), its lowest bit r."""
        depth = self._shape.depth
        for low, high in _slices(self._shape):
            leaves = np.empty(((high - low) << depth, 2), dtype=np.uint64)
            places = np.empty(high - low, dtype=np.int64)
            sums = np.empty((high - low, 2), dtype=np.uint64)
            known, sides = self._known[low:high], self._sides[low:high]
            ggm.punctured(known, sides, depth, self._field, leaves, places)
            ggm.sum_of_trees(leaves, 1 << depth, sums)
            places += np.arange(high - low, dtype=np.int64) << depth
            first = u64(low << depth)
            if self._noise is None:
                leaves[:, 0] &= ~u64(1)
                leaves[places] = sums
                leaves[places, 0] |= u64(1)
                lpn.add_bits(self._code, first, self._secret, leaves)
                yield leaves
                continue
            noise = self._noise[low:high]
            rows = np.zeros((len(leaves), 4), dtype=np.uint64)
            rows[:, 2:] = leaves
            rows[places, :2] = noise[:, :2]
            rows[places, 2:] = sums ^ self._totals[low:high] ^ noise[:, 2:]
            lpn.add_field_pairs(self._code, first, self._secret, rows)
            yield rows


def _slices(shape: Lpn) -> Iterator[tuple[int, int]]:
    """Trees that are expanded together."""
    step = max(1, SLICE >> shape.depth)
    for low in range(0, shape.trees, step):
        yield low, min(shape.trees, low + step)


def _hashed(blocks: Blocks, number: int) -> Blocks:
    out = np.empty_like(blocks)
    hash_blocks(u64(number << 32), blocks, out)
    return out
