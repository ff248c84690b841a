"""The steps of `vole-compact`, set intersection in two thirds of the bytes: sizes, values, store, tags.

As `wide`, with two differences. The store holds words of 64 bits, and VOLE has its a in GF(2^64) and b, c and D
in the field of 2^128 elements over it: half the bytes of the store. And the tags of a bin travel in ascending order,
coded by `kernels.elias_fano`: their order is worth 1.6 bytes a tag. Sorting tells no more than a secret shuffle does,
since the sorted list follows from the set of tags alone, and a bin's code has one length whatever is in it.

What 64 bits are enough for. Let e(y) = Decode(P, y) + H(y). The tag of an item y of the sender is
T(Decode(c, y) + D e(y)). For y in X e is 0. For another y it is a word that is uniform for the receiver: H(y) is
drawn independently of P. Where e(y) is not 0, D e(y) has 127 unknown bits and the tag looks random. Where it is 0,
the receiver could tell y from its tag if it tried y: that is with probability 2^-64 for each item of the sender and
whatever the number of the receiver's items, n_y 2^-64 in all. A wrong match needs equal tags: 2^-bits for each pair
that is compared, since equal arguments of T need 2^-127 of D or 2^-128 of c. `tag_bits` keeps the sum of the two
at 2^-40 or less, which no number of bits does for 2^24 items of the sender: `check_sizes` refuses more than
`MOST_SENDER_ITEMS`. The receiver's items are not limited by it.

The published condition is stronger: |B| at least 2^(40 + log2(n_x n_y)) (eprint 2022/320, section 4), 80 bits for a
million items a side. It counts pairs with H(x) = H(y), which "leak some information about Y" or match wrongly. In
this protocol such a pair does neither, because y is decoded under its own row, not under that of x; the count above
is exact for semi-honest parties whose sets are fixed before the seed is drawn. It is an argument made here, not a
theorem of the paper, and holds for no others: a party that chooses its set or the seed by what it has seen is not
covered. Whoever wants the published bound takes `vole`.

Cost: 20.5 bytes an item in all at 2^20 items a side (10.5 for the store, 8.2 for tags, 1.8 for VOLE), 19.5 at 10^7.

Source: Raghuraman and Rindal, CCS 2022 (eprint 2022/320), figure 4, over a subfield; ordered tags are this module's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crypto.kernels import elias_fano, masks, masks64
from crypto.kernels.blocks import random_blocks
from crypto.kernels.gf64 import add_word_times
from crypto.psi import okvs64
from crypto.psi.okvs import Partition
from crypto.psi.okvs_shape import overflow_bound, shape_for
from crypto.psi.parameters import LAMBDA
from crypto.psi.sizes import Sizes
from crypto.psi.vole_field import TOWER

Blocks = npt.NDArray[np.uint64]
Words = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.uint32]

FIELD = TOWER
WORDS = 1
"""Of a place of the store."""
_BITS = 64
"""Of B."""
MOST_SENDER_ITEMS = 15 << (_BITS - LAMBDA - 4)
"""15,728,640: a sixteenth of the error at least is left for wrong matches."""


# ---- sizes ----------------------------------------------------------------------------------------------------------


def check_sizes(receiver: int, sender: int) -> Sizes:
    """The sizes of a run, the same on both sides.

    Args:
        receiver, sender: Items, at least 1 each.

    Raises:
        ValueError: The sender has more items than 64 bits hide.
    """
    if sender > MOST_SENDER_ITEMS:
        raise ValueError(
            f"the sender has {sender} items; vole-compact hides at most {MOST_SENDER_ITEMS}, because each is exposed "
            f"with probability 2^-{_BITS} and a run may err with 2^-{LAMBDA}: take the protocol vole"
        )
    shape = shape_for(receiver)
    room = overflow_bound(sender, shape.bins)
    bits = tag_bits(receiver, sender, room)
    return Sizes(receiver, sender, shape, room, bits, elias_fano.code_bytes(room, bits))


def tag_bits(receiver: int, sender: int, compared: int) -> int:
    """The fewest bits of a tag with which a run errs with probability at most 2^-LAMBDA.

    That is receiver * compared * 2^-bits, of wrong matches, plus sender * 2^-64, of exposed items.

    Args:
        receiver: Items of the receiver.
        sender: Items of the sender, at most `MOST_SENDER_ITEMS`.
        compared: Tags that each of the receiver's items is compared with: those of its bin.
    """
    left = (1 << (_BITS - LAMBDA)) - sender  # in units of 2^-64
    return (-(-(receiver * compared << _BITS) // left) - 1).bit_length()


# ---- receiver ---------------------------------------------------------------------------------------------------------


def store_of(parts: Partition, first: int, last: int, a: Blocks) -> Words:
    """A = P + a of bins `first` to `last` - 1, as it is sent: (places, 1) uint64.

    Args:
        parts: Of the receiver's items.
        first, last: Bins.
        a: Of VOLE, (places, 2) uint64; second words are zero.

    Raises:
        EncodingFailed: There is no store under this seed; start over with another and fresh VOLE.
        ValueError: An item stands twice.
    """
    rows = parts.rows[parts.start[first] : parts.start[last]]
    values = np.empty(len(rows), dtype=np.uint64)
    masks64.values(rows, values)
    store = okvs64.encode_bins(parts, first, last, values)
    return np.bitwise_xor(store, a[:, 0], out=store).reshape(-1, 1)


def receiver_tags(parts: Partition, first: int, last: int, c: Blocks, bits: int) -> Blocks:
    """The tags of the receiver's rows in these bins, (rows, 2) uint64.

    Args:
        parts, first, last: As in `store_of`.
        c: Of VOLE, (places, 2) uint64.
        bits: Of a tag.
    """
    tags = okvs64.decode_bins(parts, first, last, c)
    masks.receiver_tags(tags)
    masks64.cut(tags, bits)
    return tags


def unpack_bin(code: npt.NDArray[np.uint8], sizes: Sizes) -> Blocks | None:
    """The tags of a bin, ascending, (room, 2) uint64; None where the message is not the code of any.

    Args:
        code: (sizes.code,) uint8.
        sizes: Of the run.
    """
    return elias_fano.decode(code, sizes.room, sizes.bits)


# ---- sender -----------------------------------------------------------------------------------------------------------


def sender_tags(
    parts: Partition, first: int, last: int, masked: Words, b: Blocks, delta: Blocks, bits: int
) -> Blocks:
    """The tags of the sender's rows in bins `first` to `last` - 1, (rows, 2) uint64.

    Args:
        parts: Of the sender's items, under the receiver's seed and shape.
        first, last: Bins.
        masked: A, (places, 1) uint64.
        b: Of VOLE, (places, 2) uint64; becomes K = b + D A.
        delta: D, (1, 2) uint64.
        bits: Of a tag.
    """
    add_word_times(b, masked.reshape(-1), delta)
    tags = okvs64.decode_bins(parts, first, last, b)
    masks64.sender_tags(parts.rows[parts.start[first] : parts.start[last]], delta, tags)
    masks64.cut(tags, bits)
    return tags


def pack_bin(tags: Blocks, sizes: Sizes) -> tuple[npt.NDArray[np.uint8], Numbers]:
    """One bin's tags and random padding, in ascending order.

    Args:
        tags: Of the bin, (n, 2) uint64, n at most `sizes.room`.
        sizes: Of the run.

    Returns:
        Their code, (sizes.code,) uint8; and which tag stands where, (room,) uint32; n and above is padding.
    """
    padded = np.empty((sizes.room, 2), dtype=np.uint64)
    padded[: len(tags)] = tags
    padding = random_blocks(sizes.room - len(tags))
    masks64.cut(padding, sizes.bits)
    padded[len(tags) :] = padding
    ascending, order = elias_fano.ordered(padded, sizes.bits)
    return elias_fano.encode(ascending, sizes.bits), order
