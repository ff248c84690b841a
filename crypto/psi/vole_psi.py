"""Set intersection from VOLE and an oblivious key-value store: the default protocol.

    receiver X   seed r; store P with Decode(P, x) = H(x) for its items, in bins by r
    VOLE         sender: D, b; receiver: a, c with c = b + D a; as long as the store
    X -> Y       r, then bin after bin A = P + a                       sender: K = b + D A
    Y -> X       for each bin, in random order, the tags T(Decode(K, y) + D H(y)) of its items, padded
    result       items with a tag T(Decode(c, x)) among them: Decode(K, x) + D H(x) = Decode(c, x)

Who learns what. The receiver learns which of its items the sender has, and nothing of the sender's other items; the
sender learns nothing (`reveal="receiver"`) or the same of its own items (`"both"`). Both learn both sizes. Every bin
of tags is padded with random ones to the bound that no bin exceeds, so that the sizes of bins, which are a histogram
of the sender's hashed items, are not seen; within a bin a secret random order hides the order of rows.

Semi-honest parties. A side may put items into its set that it does not have, and learn whether the other has them:
sizes should be plausible, and runs counted. Runs over sets that differ by one item show whether that item is shared.

Assumption: primal LPN with the parameters of `parameters.LPN`, Diffie-Hellman for 128 base transfers, AES with a fixed
key an ideal permutation. A false match has probability at most 2^-40 over all pairs of a run; a failed store is
noticed by the receiver, which starts over with a new seed and fresh VOLE. (Pairs are those in one bin: no others are
compared.)

Cost at a million items a side: 33 bytes an item in all (21 for the store, 10 for tags, 2 for VOLE). 4 rounds, then
one stream each way.

Source: Rindal and Schoppmann, EUROCRYPT 2021 (eprint 2021/266), figure 8; Raghuraman and Rindal, CCS 2022 (eprint
2022/320), figure 11. Differences: tags go bin by bin with padding rather than all shuffled together.
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel, recv_array
from crypto.errors import ProtocolError
from crypto.kernels import masks
from crypto.kernels.blocks import add_scaled, random_blocks
from crypto.psi import okvs
from crypto.psi.okvs_shape import Shape, overflow_bound, shape_for
from crypto.psi.parameters import mask_bytes
from crypto.psi.shuffle import new_seed, permutation
from crypto.psi.vole import Receiver, Sender

Blocks = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]
Reveal = Literal["receiver", "both"]
Progress = Callable[[str, int, int], None]
"""Told a phase, what is done of it and what there is in all."""

CHUNK = 8
"""Bins in a message: about 6 MB of the store."""
MOST_ITEMS = 2**32 - 1
TRIES = 3
_GO_ON, _START_OVER = b"\x00", b"\x01"


@dataclass(frozen=True)
class _Sizes:
    """What both sides know of the sizes.

    Args:
        receiver, sender: Items.
        shape: Of the receiver's store.
        room: Tags in a bin, padding included.
        tag: Bytes of a tag.
    """

    receiver: int
    sender: int
    shape: Shape
    room: int
    tag: int

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """First bin and the one behind the last of each message."""
        bins = self.shape.bins
        return [(low, min(low + CHUNK, bins)) for low in range(0, bins, CHUNK)]


def _quiet(phase: str, done: int, of: int) -> None:
    """Tell nobody."""


def receive(
    channel: Channel, items: Blocks, *, reveal: Reveal = "receiver", progress: Progress = _quiet
) -> Positions:
    """The side that learns the result.

    Args:
        channel: To `send`. One thread sends while another receives.
        items: (n, 2) uint64, distinct, hashes of 128 bits; any n below 2^32.
        reveal: Who learns the result, the same on both sides.
        progress: Told how far it is.

    Returns:
        Positions in `items` that are in the intersection, (k,) int64: ascending, or for "both" in an order shared
        with `send`, so that row i here belongs to row i there.

    Raises:
        ValueError: An item stands in the set twice, or the array has another form.
        ProtocolError: The other side sent what the protocol does not allow.
    """
    items = _blocks(items)
    sizes = _agree(channel, len(items), first=True)
    if not sizes.receiver or not sizes.sender:
        return np.empty(0, dtype=np.int64)
    for number in range(TRIES):
        seed = secrets.token_bytes(okvs.SEED_BYTES)
        parts = okvs.partition(items, seed, sizes.shape)
        channel.send("psi.seed", seed)
        progress("vole", 0, sizes.shape.length)
        vole = Receiver(channel, sizes.shape.length)
        try:
            mine, theirs = _exchange(channel, parts, vole, sizes, progress, last=number == TRIES - 1)
        except okvs.EncodingFailed:
            continue
        return _told(channel, parts, sizes, mine, theirs, reveal)
    raise ProtocolError(f"no store for these items after {TRIES} seeds; run it again", step="psi.store")


def send(
    channel: Channel, items: Blocks, *, reveal: Reveal = "receiver", progress: Progress = _quiet
) -> Positions | None:
    """The other side.

    Args:
        channel, items, reveal, progress: As in `receive`.

    Returns:
        None, or for "both" the positions in `items` of the intersection in the order shared with `receive`.

    Raises:
        ValueError: The array has another form. (An item that stands in it twice is found once.)
        ProtocolError: As in `receive`.
    """
    items = _blocks(items)
    sizes = _agree(channel, len(items), first=False)
    if not sizes.receiver or not sizes.sender:
        return np.empty(0, dtype=np.int64) if reveal == "both" else None
    for _ in range(TRIES):
        seed = bytes(channel.recv("psi.seed", size=okvs.SEED_BYTES))
        parts = okvs.partition(items, seed, sizes.shape)
        if int(np.diff(parts.start).max()) > sizes.room:
            raise ProtocolError(
                "a bin has more items than the bound, which happens once in 2^40 runs; run it again",
                step="psi.tags",
            )
        progress("vole", 0, sizes.shape.length)
        vole = Sender(channel, sizes.shape.length)
        orders = _answer(channel, parts, vole, sizes, progress)
        if orders is None:
            continue
        return _heard(channel, parts, sizes, orders) if reveal == "both" else None
    raise ProtocolError(f"the receiver found no store in {TRIES} tries; run it again", step="psi.store")


def _blocks(items: Blocks) -> Blocks:
    if items.ndim != 2 or items.shape[1] != 2 or items.dtype != np.uint64:
        raise ValueError(f"items: an (n, 2) uint64 array is needed, not {items.shape} {items.dtype}")
    return np.ascontiguousarray(items)


def _agree(channel: Channel, own: int, *, first: bool) -> _Sizes:
    if own > MOST_ITEMS:
        raise ValueError(f"{own} items; at most {MOST_ITEMS} can be intersected in one run")
    channel.send("psi.sizes", np.array([own], dtype="<u8"))
    other = int(recv_array(channel, "psi.sizes", "<u8", 1)[0])
    if other > MOST_ITEMS:
        raise ProtocolError(
            f"the other side says {other} items, at most {MOST_ITEMS} are allowed", step="psi.sizes"
        )
    receiver, sender = (own, other) if first else (other, own)
    shape = shape_for(receiver)
    room = overflow_bound(sender, shape.bins)
    # Each of the receiver's items is compared with the tags of its bin: these are all pairs there are.
    return _Sizes(receiver, sender, shape, room, mask_bytes(receiver, room))


# ---- receiver -----------------------------------------------------------------------------------------------------


def _exchange(
    channel: Channel, parts: okvs.Partition, vole: Receiver, sizes: _Sizes, progress: Progress, *, last: bool
) -> tuple[list[Positions], list[Positions]]:
    """For each bin: which of its rows match, and where they stand among the sender's tags."""
    ready: queue.Queue[list[Blocks] | None] = queue.Queue()
    mine: list[Positions] = []
    theirs: list[Positions] = []
    failed: list[BaseException] = []

    def compare() -> None:
        try:
            for low, high in sizes.chunks:
                own = ready.get()
                if own is None:
                    return
                for tags, told in zip(own, _tags(channel, high - low, sizes), strict=True):
                    rows, places = _match(tags, told)
                    mine.append(rows)
                    theirs.append(places)
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=compare, name="psi-compare", daemon=True)
    thread.start()
    try:
        for tags in _store(channel, parts, vole, sizes, progress, last=last):
            ready.put(tags)
            if failed:
                break
    except BaseException:
        # Tags of what was sent are still on their way, and nobody else may receive until they are here.
        ready.put(None)
        thread.join()
        if failed:
            # A channel whose receiver has failed is over for its sender too; the cause is what came first.
            raise failed[0] from None
        raise
    thread.join()
    if failed:
        raise failed[0]
    return mine, theirs


def _store(
    channel: Channel, parts: okvs.Partition, vole: Receiver, sizes: _Sizes, progress: Progress, *, last: bool
) -> Iterator[list[Blocks]]:
    """Send the masked store; for each message the own tags of its bins."""
    for low, high in sizes.chunks:
        first, end = int(parts.start[low]), int(parts.start[high])
        rows = parts.rows[first:end]
        values = np.empty_like(rows)
        masks.values(rows, values)
        try:
            store = okvs.encode_bins(parts, low, high, values)
        except okvs.EncodingFailed:
            channel.send("psi.state", _START_OVER)
            if last:
                raise ProtocolError("no store for these items; run it again", step="psi.store") from None
            raise
        channel.send("psi.state", _GO_ON)
        a, c = vole.take(len(store))
        np.bitwise_xor(store, a, out=store)
        channel.send("psi.store", store)
        own = okvs.decode_bins(parts, low, high, np.ascontiguousarray(c))
        masks.receiver_tags(own)
        _cut(own, sizes.tag)
        progress("exchange", high, sizes.shape.bins)
        starts = parts.start[low : high + 1] - first
        yield [own[starts[b] : starts[b + 1]] for b in range(high - low)]


def _tags(channel: Channel, bins: int, sizes: _Sizes) -> Iterator[Blocks]:
    packed = recv_array(channel, "psi.tags", np.uint8, bins, sizes.room, sizes.tag)
    for each in packed:
        tags = np.empty((sizes.room, 2), dtype=np.uint64)
        masks.unpack(each, sizes.tag, tags)
        yield tags


def _match(own: Blocks, theirs: Blocks) -> tuple[Positions, Positions]:
    table = np.empty(1 << (2 * len(theirs) - 1).bit_length(), dtype=np.int32)
    found = np.empty(len(own), dtype=np.int64)
    masks.match(theirs, own, table, found)
    rows = np.flatnonzero(found >= 0)
    return rows, found[rows]


def _told(
    channel: Channel,
    parts: okvs.Partition,
    sizes: _Sizes,
    mine: list[Positions],
    theirs: list[Positions],
    reveal: Reveal,
) -> Positions:
    """The result; for "both" the sender is told which of its tags matched."""
    if reveal == "receiver":
        found = np.zeros(len(parts.order), dtype=bool)
        for b, rows in enumerate(mine):
            found[parts.order[parts.start[b] + rows]] = True
        return np.flatnonzero(found)
    ordered = []
    for b, (rows, places) in enumerate(zip(mine, theirs, strict=True)):
        rank = np.argsort(places, kind="stable")
        ordered.append(parts.order[parts.start[b] + rows[rank]].astype(np.int64))
    marks = np.zeros((sizes.shape.bins, -(-sizes.room // 8)), dtype=np.uint8)
    for b, places in enumerate(theirs):
        bits = np.zeros(sizes.room, dtype=bool)
        bits[places] = True
        marks[b] = np.packbits(bits, bitorder="little")
    channel.send("psi.matches", marks)
    return np.concatenate(ordered)


# ---- sender ---------------------------------------------------------------------------------------------------------


def _answer(
    channel: Channel, parts: okvs.Partition, vole: Sender, sizes: _Sizes, progress: Progress
) -> list[npt.NDArray[np.uint32]] | None:
    """Send the tags; for each bin which row stands where. None when the receiver starts over."""
    orders: list[npt.NDArray[np.uint32]] = []
    width = sizes.shape.width
    for low, high in sizes.chunks:
        state = bytes(channel.recv("psi.state", size=1))
        if state == _START_OVER:
            return None
        if state != _GO_ON:
            raise ProtocolError("an unknown state came; install the same version at both", step="psi.state")
        masked = recv_array(channel, "psi.store", np.uint64, (high - low) * width, 2)
        store = vole.take(len(masked))
        add_scaled(store, masked, vole.delta)
        tags = okvs.decode_bins(parts, low, high, store)
        first = int(parts.start[low])
        masks.sender_tags(parts.rows[first : first + len(tags)], vole.delta, tags)
        packed = np.empty((high - low, sizes.room, sizes.tag), dtype=np.uint8)
        starts = parts.start[low : high + 1] - first
        for b in range(high - low):
            orders.append(_fill(tags[starts[b] : starts[b + 1]], sizes, packed[b]))
        channel.send("psi.tags", packed)
        progress("exchange", high, sizes.shape.bins)
    return orders


def _fill(tags: Blocks, sizes: _Sizes, out: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """One bin's tags and padding, in a secret random order; which of them stands where."""
    padded = np.empty((sizes.room, 2), dtype=np.uint64)
    padded[: len(tags)] = tags
    padded[len(tags) :] = random_blocks(sizes.room - len(tags))
    order = permutation(sizes.room, new_seed())
    masks.pack(padded[order], sizes.tag, out)
    return order.astype(np.uint32)


def _heard(
    channel: Channel, parts: okvs.Partition, sizes: _Sizes, orders: list[npt.NDArray[np.uint32]]
) -> Positions:
    marks = recv_array(channel, "psi.matches", np.uint8, sizes.shape.bins, -(-sizes.room // 8))
    found = []
    for b, order in enumerate(orders):
        bits = np.unpackbits(marks[b], bitorder="little", count=sizes.room).astype(bool)
        rows = order[bits].astype(np.int64)
        here = int(parts.start[b + 1] - parts.start[b])
        if rows.size and rows.max() >= here:
            raise ProtocolError(
                "padding is said to match; the other side does not follow the protocol", step="psi.matches"
            )
        found.append(parts.order[parts.start[b] + rows].astype(np.int64))
    return np.concatenate(found)


def _cut(tags: Blocks, size: int) -> None:
    """Keep the first `size` bytes of each tag, in place."""
    if size < 8:
        tags[:, 0] &= np.uint64((1 << 8 * size) - 1)
        tags[:, 1] = 0
    elif size < 16:
        tags[:, 1] &= np.uint64((1 << 8 * (size - 8)) - 1)
