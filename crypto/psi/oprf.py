"""An oblivious pseudo-random function (OPRF): one side has items and gets F of them, the other has F itself.

    receiver X   seed r; store P with Decode(P, x) = H(x) for its items
    VOLE         sender: D, b; receiver: a, c with c = b + D a; as long as the store
    X -> Y       number of items, r; A = P + a                          sender: K = b + D A
    result       sender: F(y) = T(Decode(K, y) + D H(y)) for any y;     receiver: F(x) = T(Decode(c, x))

Who learns what. The receiver learns F of its own items and nothing of F elsewhere: there F looks random to it. The
sender learns the number of the receiver's items and nothing of them. F is a new function in every run.

Semi-honest parties. A receiver that builds its store by other rules than these may learn F of more items than it said;
no claim is made against that.

Assumption: primal LPN with the parameters of `parameters.LPN`, Diffie-Hellman for 128 base transfers, AES with a fixed
key an ideal permutation. Where the items have no store under a seed, which is so with probability 2^-40, the receiver
draws another before anything is sent: what was sent never has to be taken back.

Cost at a million items: 21 bytes an item for the store and 2 for VOLE. 4 rounds, then one stream. Both hold 16 bytes
for each place of the store, 1.3 places an item; the receiver twice that while it sends.

Source: Rindal and Schoppmann, EUROCRYPT 2021 (eprint 2021/266), section 3 (semi-honest: without w); T hides
what would show D, as in Raghuraman and Rindal, CCS 2022 (eprint 2022/320), figure 11. Differences: H and T are made of
a fixed permutation, as in two-party intersection (`kernels.masks`), and T does not take the item.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel, recv_array
from crypto.errors import ProtocolError
from crypto.kernels import masks
from crypto.kernels.blocks import add_scaled
from crypto.psi import okvs
from crypto.psi.okvs_shape import Shape, shape_for
from crypto.psi.vole import Receiver, Sender

Blocks = npt.NDArray[np.uint64]

MOST_ITEMS = 2**32 - 1
PIECE = 2**18
"""Places of the store in a message: 4 MB."""
_HEAD = struct.Struct("<Q16s")


def receive(channel: Channel, items: Blocks, *, threads: int = 1) -> Blocks:
    """F of the own items.

    Args:
        channel: To `send`.
        items: (n, 2) uint64, distinct, hashes of 128 bits; any n below 2^32.
        threads: Bins of the store that are worked on at once.

    Returns:
        F(x) for each x, (n, 2) uint64.

    Raises:
        ValueError: An item stands there twice, or the array has another form.
        ProtocolError: The other side sent what the protocol does not allow.
    """
    items = check_blocks("items", items)
    shape = shape_for(len(items))
    seed, store = _encode(items, shape, threads)
    channel.send("oprf.items", _HEAD.pack(len(items), seed))
    vole = Receiver(channel, shape.length)
    c = np.empty_like(store)
    for low in range(0, shape.length, PIECE):
        piece = store[low : low + PIECE]
        a, c[low : low + PIECE] = vole.take(len(piece))
        piece ^= a
        channel.send("oprf.store", piece)
    del store
    out = okvs.decode(items, c, seed, shape, threads=threads)
    masks.receiver_tags(out)
    return out


def _encode(items: Blocks, shape: Shape, threads: int) -> tuple[bytes, Blocks]:
    values = np.empty_like(items)
    masks.values(items, values)
    try:
        return okvs.encode_with_fresh_seed(items, lambda seed: values, shape, threads=threads)
    except okvs.EncodingFailed as error:
        raise ProtocolError(f"no store for these items ({error}); run it again", step="oprf.store") from None


@dataclass(frozen=True, eq=False)
class Function:
    """F, at the side that may evaluate it anywhere. Shows in no `repr`.

    Args:
        asked: Items that the receiver has F of.
        shape: Of the store.
        seed: Of the store, 16 bytes.
        store: K, (shape.length, 2) uint64.
        delta: D, (1, 2) uint64.
    """

    asked: int
    shape: Shape = field(repr=False)
    seed: bytes = field(repr=False)
    store: Blocks = field(repr=False)
    delta: Blocks = field(repr=False)

    def evaluate(self, blocks: Blocks, *, threads: int = 1) -> Blocks:
        """F of any blocks.

        Args:
            blocks: (n, 2) uint64, distinct or not.
            threads: Bins of the store that are read at once.

        Returns:
            (n, 2) uint64.

        Raises:
            ValueError: The array has another form.
        """
        blocks = check_blocks("blocks", blocks)
        out = okvs.decode(blocks, self.store, self.seed, self.shape, threads=threads)
        masks.sender_tags(blocks, self.delta, out)
        return out


def send(channel: Channel, *, asked: int | None = None) -> Function:
    """F itself.

    Args:
        channel: To `receive`.
        asked: Items that the receiver has to ask for, where it was agreed; else any number below 2^32.

    Raises:
        ProtocolError: It asks for another number, or sent what the protocol does not allow.
    """
    count, seed = _HEAD.unpack(channel.recv("oprf.items", size=_HEAD.size))
    if count > MOST_ITEMS or asked not in (None, count):
        raise ProtocolError(
            f"the other side asks for {count} items, allowed are "
            f"{f'at most {MOST_ITEMS}' if asked is None else f'the {asked} that were agreed'}",
            step="oprf.items",
        )
    shape = shape_for(count)
    vole = Sender(channel, shape.length)
    store = np.empty((shape.length, 2), dtype=np.uint64)
    for low in range(0, shape.length, PIECE):
        piece = store[low : low + PIECE]
        piece[:] = vole.take(len(piece))
        add_scaled(piece, recv_array(channel, "oprf.store", np.uint64, len(piece), 2), vole.delta)
    return Function(count, shape, seed, store, vole.delta)


def check_blocks(name: str, blocks: Blocks) -> Blocks:
    """The array, contiguous.

    Raises:
        ValueError: It has another form.
    """
    if blocks.ndim != 2 or blocks.shape[1] != 2 or blocks.dtype != np.uint64:
        raise ValueError(f"{name}: an (n, 2) uint64 array is needed, not {blocks.shape} {blocks.dtype}")
    return np.ascontiguousarray(blocks)
