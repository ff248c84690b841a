"""One round of LPN: noise trees and the code, over bits or over a field, for both sides.

The messages of a round come first, when it is made; its rows are then expanded a few trees at a time, so that a
round of 15 million rows needs no more memory than one slice of it. A round keeps what belongs to its trees (0.4 MB
for the set b12) but not the secret, which is twenty times that: whoever wants rows gives the base again.
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
from crypto.psi.vole_field import GF128, Field

Blocks = npt.NDArray[np.uint64]

SLICE = 1 << 16
"""Rows that are expanded at a time, about."""


class SenderRound:
    """The side that knows the trees whole.

    Args:
        channel: To the receiver.
        shape: Parameters.
        delta: D, (1, 2).
        keys: Bit correlations K, one for each level of each tree. Over bits they are the base, and the secret
            follows them.
        base: Over the field: b of the secret, then one for each tree. None over bits.
        number: Of the round, different in each.
        field: Which one, where it is not over bits.
    """

    def __init__(
        self,
        channel: Channel,
        shape: Lpn,
        delta: Blocks,
        keys: Blocks,
        base: Blocks | None,
        number: int,
        field: Field = GF128,
    ) -> None:
        self._shape, self._delta = shape, delta
        self._field = None if base is None else field
        paid = shape.trees * shape.depth
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
        ggm.whole(
            self._roots[low:high], self._delta, self._shape.depth, self._field is not None, leaves, sums
        )
        return leaves

    def pieces(self, base: Blocks) -> Iterator[Blocks]:
        """All rows, b over the field and K over bits, (n, 2) uint64 at a time; the same ones whenever it is called.

        Args:
            base: That the round was made from: over bits its `keys`.
        """
        secret = _secret(self._shape, base, self._field is not None)
        for low, high in _slices(self._shape):
            rows = self._leaves(low, high, np.empty((high - low, self._shape.depth + 1, 2), dtype=np.uint64))
            first = u64(low << self._shape.depth)
            if self._field is not None:
                self._field.add(self._code, first, secret, rows)
            else:
                lpn.add_bits(self._code, first, secret, rows)
                rows[:, 0] &= ~u64(1)
            yield rows


class ReceiverRound:
    """The side that lacks one leaf of each tree, at a place that follows from its bits.

    Args:
        channel: To the sender.
        shape: Parameters.
        keys: Bit correlations M, whose lowest bits are r. Over bits they are the base, and the secret follows them.
        base: Over the field: a and c, (n, 4), of the secret, then one for each tree. None over bits.
        number: Of the round.
        field: As in `SenderRound`.
    """

    def __init__(
        self,
        channel: Channel,
        shape: Lpn,
        keys: Blocks,
        base: Blocks | None,
        number: int,
        field: Field = GF128,
    ) -> None:
        self._shape = shape
        self._field = None if base is None else field
        paid = shape.trees * shape.depth
        self._noise = None if base is None else base[shape.k :].copy()
        keys = keys[:paid].reshape(shape.trees, shape.depth, 2)
        self._sides = (keys[:, :, 0] & u64(1)).astype(np.uint8)
        self._code = lpn.public_seed(bytes(channel.recv("vole.code", size=16)))
        columns = shape.depth + (2 if self._field is not None else 0)
        told = recv_array(channel, "vole.trees", np.uint64, shape.trees, columns, 2)
        self._known = np.ascontiguousarray(told[:, : shape.depth] ^ keys)
        self._totals = told[:, -1].copy()  # a view would keep the whole message
        if self._field is not None:
            last = shape.depth - 1
            right = self._sides[:, last].astype(bool)[:, None]
            opened = _hashed(np.ascontiguousarray(keys[:, last]), number)
            self._known[:, last] = np.where(right, told[:, last + 1], told[:, last]) ^ opened

    def __repr__(self) -> str:
        return f"ReceiverRound({self._shape.name})"

    def pieces(self, base: Blocks) -> Iterator[Blocks]:
        """All rows: a and c over the field, (n, 4) uint64; M over bits, (n, 2), its lowest bit r. As `SenderRound`.

        Args:
            base: That the round was made from: over bits its `keys`.
        """
        depth = self._shape.depth
        field, noises = self._field, self._noise
        secret = _secret(self._shape, base, field is not None)
        for low, high in _slices(self._shape):
            leaves = np.empty(((high - low) << depth, 2), dtype=np.uint64)
            places = np.empty(high - low, dtype=np.int64)
            sums = np.empty((high - low, 2), dtype=np.uint64)
            known, sides = self._known[low:high], self._sides[low:high]
            ggm.punctured(known, sides, depth, field is not None, leaves, places)
            ggm.sum_of_trees(leaves, 1 << depth, sums)
            places += np.arange(high - low, dtype=np.int64) << depth
            first = u64(low << depth)
            if field is None or noises is None:
                leaves[:, 0] &= ~u64(1)
                leaves[places] = sums
                leaves[places, 0] |= u64(1)
                lpn.add_bits(self._code, first, secret, leaves)
                yield leaves
                continue
            noise = noises[low:high]
            rows = np.zeros((len(leaves), 4), dtype=np.uint64)
            rows[:, 2:] = leaves
            rows[places, :2] = noise[:, :2]
            rows[places, 2:] = sums ^ self._totals[low:high] ^ noise[:, 2:]
            field.add_pairs(self._code, first, secret, rows)
            yield rows


def _secret(shape: Lpn, base: Blocks, field: bool) -> Blocks:
    """Where the secret stands in what a round is made from."""
    first = 0 if field else shape.trees * shape.depth
    return np.ascontiguousarray(base[first : first + shape.k])


def _slices(shape: Lpn) -> Iterator[tuple[int, int]]:
    """Trees that are expanded together."""
    step = max(1, SLICE >> shape.depth)
    for low in range(0, shape.trees, step):
        yield low, min(shape.trees, low + step)


def _hashed(blocks: Blocks, number: int) -> Blocks:
    out = np.empty_like(blocks)
    hash_blocks(u64(number << 32), blocks, out)
    return out
