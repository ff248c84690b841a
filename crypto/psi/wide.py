"""The steps of `vole`: a store of elements of GF(2^128), and tags of whole bytes in a secret random order."""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt

from crypto.kernels import masks
from crypto.kernels.blocks import add_scaled, random_blocks
from crypto.psi import okvs
from crypto.psi.okvs import Partition
from crypto.psi.okvs_shape import overflow_bound, shape_for
from crypto.psi.parameters import mask_bytes
from crypto.psi.shuffle import permutation
from crypto.psi.sizes import Sizes
from crypto.psi.tags import cut
from crypto.psi.vole_field import GF128

Blocks = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.uint32]

FIELD = GF128
WORDS = 2
"""Of a place of the store."""


def check_sizes(receiver: int, sender: int) -> Sizes:
    """The sizes of a run, the same on both sides.

    Args:
        receiver, sender: Items, at least 1 each.
    """
    shape = shape_for(receiver)
    room = overflow_bound(sender, shape.bins)
    # Each of the receiver's items is compared with the tags of its bin: these are all pairs there are.
    tag = mask_bytes(receiver, room)
    return Sizes(receiver, sender, shape, room, 8 * tag, room * tag)


# ---- receiver ---------------------------------------------------------------------------------------------------------


def store_of(parts: Partition, first: int, last: int, a: Blocks) -> Blocks:
    """A = P + a of bins `first` to `last` - 1, as it is sent: (places, 2) uint64.

    Args:
        parts: Of the receiver's items.
        first, last: Bins.
        a: Of VOLE, (places, 2) uint64.

    Raises:
        EncodingFailed: There is no store under this seed; start over with another and fresh VOLE.
        ValueError: An item stands twice.
    """
    rows = parts.rows[parts.start[first] : parts.start[last]]
    values = np.empty_like(rows)
    masks.values(rows, values)
    store = okvs.encode_bins(parts, first, last, values)
    return np.bitwise_xor(store, a, out=store)


def receiver_tags(parts: Partition, first: int, last: int, c: Blocks, bits: int) -> Blocks:
    """The tags of the receiver's rows in these bins, (rows, 2) uint64.

    Args:
        parts, first, last: As in `store_of`.
        c: Of VOLE, (places, 2) uint64.
        bits: Of a tag.
    """
    tags = okvs.decode_bins(parts, first, last, c)
    masks.receiver_tags(tags)
    cut(tags, bits // 8)
    return tags


def unpack_bin(code: npt.NDArray[np.uint8], sizes: Sizes) -> Blocks | None:
    """The tags of a bin, (room, 2) uint64: any bytes are some."""
    tags = np.empty((sizes.room, 2), dtype=np.uint64)
    masks.unpack(code.reshape(sizes.room, sizes.bits // 8), sizes.bits // 8, tags)
    return tags


# ---- sender -----------------------------------------------------------------------------------------------------------


def sender_tags(
    parts: Partition, first: int, last: int, masked: Blocks, b: Blocks, delta: Blocks, bits: int
) -> Blocks:
    """The tags of the sender's rows in bins `first` to `last` - 1, (rows, 2) uint64.

    Args:
        parts: Of the sender's items, under the receiver's seed and shape.
        first, last: Bins.
        masked: A, (places, 2) uint64.
        b: Of VOLE, (places, 2) uint64; becomes K = b + D A.
        delta: D, (1, 2) uint64.
        bits: Of a tag; they are cut when they are packed.
    """
    add_scaled(b, masked, delta)
    tags = okvs.decode_bins(parts, first, last, b)
    masks.sender_tags(parts.rows[parts.start[first] : parts.start[last]], delta, tags)
    return tags


def pack_bin(tags: Blocks, sizes: Sizes) -> tuple[npt.NDArray[np.uint8], Numbers]:
    """One bin's tags and random padding, in a secret random order.

    Args:
        tags: Of the bin, (n, 2) uint64, n at most `sizes.room`.
        sizes: Of the run.

    Returns:
        As they are sent, (sizes.code,) uint8; and which tag stands where, (room,) uint32; n and above is padding.
    """
    padded = np.empty((sizes.room, 2), dtype=np.uint64)
    padded[: len(tags)] = tags
    padded[len(tags) :] = random_blocks(sizes.room - len(tags))
    order = permutation(sizes.room, secrets.token_bytes(16))
    out = np.empty((sizes.room, sizes.bits // 8), dtype=np.uint8)
    masks.pack(padded[order], sizes.bits // 8, out)
    return out.reshape(-1), order.astype(np.uint32)
