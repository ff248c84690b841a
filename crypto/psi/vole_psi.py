"""Set intersection from VOLE and an oblivious key-value store: the default protocol.

    receiver X   seed r; store P with Decode(P, x) = H(x) for its items, in bins by r
    VOLE         sender: D, b; receiver: a, c with c = b + D a; as long as the store
    X <-> Y      whether a side overfills a bin under r: then another r, and mixed keys
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

Cost at a million items a side: 33 bytes an item in all (21 for the store, 10 for tags, 2 for VOLE). 5 messages after
one another, then one stream each way. Memory does not grow with the sets: a few bins are under way at a time, and the sets themselves
may lie on disk (`crypto.psi.key_store`).

Source: Rindal and Schoppmann, EUROCRYPT 2021 (eprint 2021/266), figure 8; Raghuraman and Rindal, CCS 2022 (eprint
2022/320), figure 11. Differences: tags go bin by bin with padding rather than all shuffled together.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel, recv_array
from crypto.errors import ProtocolError
from crypto.psi import okvs, wide
from crypto.psi.bins import KeySet, Layout, of_array
from crypto.psi.comparing import Comparing, Matched
from crypto.psi.sizes import Sizes
from crypto.psi.vole import Receiver, Sender
from crypto.psi.vole_field import Field

Blocks = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.uint32]
Reveal = Literal["receiver", "both"]
Progress = Callable[[str, int, int], None]
"""Told a phase, what is done of it and what there is in all."""

CHUNK = 8
"""Bins in a message: about 6 MB of the store."""
LAG = 4
"""Messages that the receiver is ahead of what it has compared, at most."""
MOST_ITEMS = 2**32 - 1
TRIES = 3
_GO_ON, _START_OVER = b"\x00", b"\x01"


class Sink(Protocol):
    """Takes the result a part at a time; a list is one."""

    def append(self, names: Numbers, /) -> object:
        """Names of items that are in the intersection, (k,) uint32, none of them told before."""

    def clear(self) -> object:
        """Forget what was told: the run starts over."""


class Steps(Protocol):
    """What `wide` and `compact` do in their own ways."""

    FIELD: Field
    WORDS: int

    def check_sizes(self, receiver: int, sender: int) -> Sizes:
        """See `wide.check_sizes`."""

    def store_of(self, parts: okvs.Partition, first: int, last: int, a: Blocks) -> Blocks:
        """See `wide.store_of`."""

    def receiver_tags(self, parts: okvs.Partition, first: int, last: int, c: Blocks, bits: int) -> Blocks:
        """See `wide.receiver_tags`."""

    def unpack_bin(self, code: npt.NDArray[np.uint8], sizes: Sizes) -> Blocks | None:
        """See `wide.unpack_bin`."""

    def sender_tags(
        self,
        parts: okvs.Partition,
        first: int,
        last: int,
        masked: Blocks,
        b: Blocks,
        delta: Blocks,
        bits: int,
    ) -> Blocks:
        """See `wide.sender_tags`."""

    def pack_bin(self, tags: Blocks, sizes: Sizes) -> tuple[npt.NDArray[np.uint8], Numbers]:
        """See `wide.pack_bin`."""


def _chunks(sizes: Sizes) -> list[tuple[int, int]]:
    """First bin and the one behind the last of each message."""
    bins = sizes.shape.bins
    return [(low, min(low + CHUNK, bins)) for low in range(0, bins, CHUNK)]


def _quiet(phase: str, done: int, of: int) -> None:
    """Tell nobody."""


def receive(
    channel: Channel,
    items: Blocks,
    *,
    reveal: Reveal = "receiver",
    progress: Progress = _quiet,
    steps: Steps = wide,
) -> Positions:
    """The side that learns the result.

    Args:
        channel: To `send`. One thread sends while another receives.
        items: (n, 2) uint64, distinct, hashes of 128 bits; any n below 2^32.
        reveal: Who learns the result, the same on both sides.
        progress: Told how far it is.
        steps: `wide`, or `compact` for fewer bytes; the same on both sides.

    Returns:
        Positions in `items` that are in the intersection, (k,) int64: ascending, or for "both" in an order shared
        with `send`, so that row i here belongs to row i there.

    Raises:
        ValueError: An item stands in the set twice, or the array has another form.
        ProtocolError: The other side sent what the protocol does not allow.
    """
    found: list[Numbers] = []
    receive_set(channel, of_array(_blocks(items)), found, reveal=reveal, progress=progress, steps=steps)
    positions = _positions(found)
    return np.sort(positions) if reveal == "receiver" else positions


def send(
    channel: Channel,
    items: Blocks,
    *,
    reveal: Reveal = "receiver",
    progress: Progress = _quiet,
    steps: Steps = wide,
) -> Positions | None:
    """The other side.

    Args:
        channel, items, reveal, progress, steps: As in `receive`.

    Returns:
        None, or for "both" the positions in `items` of the intersection in the order shared with `receive`.

    Raises:
        ValueError: The array has another form. (An item that stands in it twice is found once.)
        ProtocolError: As in `receive`.
    """
    found: list[Numbers] = []
    send_set(channel, of_array(_blocks(items)), found, reveal=reveal, progress=progress, steps=steps)
    return _positions(found) if reveal == "both" else None


def receive_set(
    channel: Channel,
    items: KeySet,
    found: Sink,
    *,
    reveal: Reveal = "receiver",
    progress: Progress = _quiet,
    steps: Steps = wide,
) -> None:
    """`receive` for a set that need not be in memory, whose result goes where `found` takes it.

    Args:
        channel, reveal, progress, steps: As in `receive`.
        items: The set.
        found: Gets the names of the items in the intersection, for "both" in the order shared with `send_set`.

    Raises:
        ValueError, ProtocolError: As in `receive`.
        OSError: The set or the result is on a disk that fails.
    """
    sizes = _agree(channel, len(items), steps, first=True)
    if sizes is None:
        return
    for number in range(TRIES):
        seed = secrets.token_bytes(okvs.SEED_BYTES)
        channel.send("psi.seed", seed)
        layout = Layout(items.mixed(seed) if number else items, seed, sizes.shape)
        if _starts_over(channel, layout.most > sizes.shape.capacity):
            _refuse_duplicates(layout, sizes)
            continue
        progress("vole", 0, sizes.shape.length)
        vole = Receiver(channel, sizes.shape.length, steps.FIELD)
        if _exchange(channel, layout, vole, sizes, found, reveal, progress, steps):
            return
        found.clear()
    raise ProtocolError(f"no store for these items after {TRIES} seeds; run it again", step="psi.store")


def send_set(
    channel: Channel,
    items: KeySet,
    found: Sink,
    *,
    reveal: Reveal = "receiver",
    progress: Progress = _quiet,
    steps: Steps = wide,
) -> None:
    """`send` for a set that need not be in memory; arguments and errors as in `receive_set`."""
    sizes = _agree(channel, len(items), steps, first=False)
    if sizes is None:
        return
    for number in range(TRIES):
        seed = bytes(channel.recv("psi.seed", size=okvs.SEED_BYTES))
        layout = Layout(items.mixed(seed) if number else items, seed, sizes.shape)
        if _starts_over(channel, layout.most > sizes.room):
            continue
        progress("vole", 0, sizes.shape.length)
        vole = Sender(channel, sizes.shape.length, steps.FIELD)
        if _answer(channel, layout, vole, sizes, found, reveal, progress, steps):
            return
        found.clear()
    raise ProtocolError(f"no store was found in {TRIES} tries; run it again", step="psi.store")


def _blocks(items: Blocks) -> Blocks:
    if items.ndim != 2 or items.shape[1] != 2 or items.dtype != np.uint64:
        raise ValueError(f"items: an (n, 2) uint64 array is needed, not {items.shape} {items.dtype}")
    if len(items) > MOST_ITEMS:
        raise ValueError(f"{len(items)} items; at most {MOST_ITEMS} can be intersected in one run")
    return np.ascontiguousarray(items)


def _positions(found: list[Numbers]) -> Positions:
    return np.concatenate(found).astype(np.int64) if found else np.empty(0, dtype=np.int64)


def _agree(channel: Channel, own: int, steps: Steps, *, first: bool) -> Sizes | None:
    """The sizes; None where a side is empty."""
    if own > MOST_ITEMS:
        raise ValueError(f"{own} items; at most {MOST_ITEMS} can be intersected in one run")
    channel.send("psi.sizes", np.array([own], dtype="<u8"))
    other = int(recv_array(channel, "psi.sizes", "<u8", 1)[0])
    if other > MOST_ITEMS:
        raise ProtocolError(
            f"the other side says {other} items, at most {MOST_ITEMS} are allowed", step="psi.sizes"
        )
    receiver, sender = (own, other) if first else (other, own)
    return steps.check_sizes(receiver, sender) if receiver and sender else None


def _starts_over(channel: Channel, own: bool) -> bool:
    """Whether either side's set overfills a bin under this seed, which both tell before anything is sent."""
    channel.send("psi.fits", _START_OVER if own else _GO_ON)
    other = _state(channel, "psi.fits")
    return own or other == _START_OVER


def _state(channel: Channel, step: str) -> bytes:
    state = bytes(channel.recv(step, size=1))
    if state not in (_GO_ON, _START_OVER):
        raise ProtocolError("an unknown state came; install the same version at both", step=step)
    return state


def _refuse_duplicates(layout: Layout, sizes: Sizes) -> None:
    """Raise ValueError where it is keys standing twice that overfill a bin."""
    if layout.most <= sizes.shape.capacity:
        return
    for _ in range(sizes.shape.bins):
        rows = layout.take(1).rows
        if len(rows) > sizes.shape.capacity:
            okvs.refuse_duplicates(rows)


# ---- receiver -----------------------------------------------------------------------------------------------------


def _exchange(
    channel: Channel,
    layout: Layout,
    vole: Receiver,
    sizes: Sizes,
    found: Sink,
    reveal: Reveal,
    progress: Progress,
    steps: Steps,
) -> bool:
    """Send the masked store and compare the tags that come back; False where there is no store under this seed."""

    def tell(matched: Matched) -> None:
        found.append(matched.names(shared=reveal == "both"))
        if reveal == "both":
            channel.send("psi.matches", matched.marks(sizes.room))

    with Comparing(channel, sizes, steps.unpack_bin, LAG) as comparing:
        for low, high in _chunks(sizes):
            part = layout.take(high - low)
            a, c = vole.take((high - low) * sizes.shape.width)
            try:
                store = steps.store_of(part, 0, high - low, a)
            except okvs.EncodingFailed:
                channel.send("psi.state", _START_OVER)
                comparing.drain()
                return False
            channel.send("psi.state", _GO_ON)
            channel.send("psi.store", store)
            own = steps.receiver_tags(part, 0, high - low, np.ascontiguousarray(c), sizes.bits)
            for matched in comparing.give(own, part):
                tell(matched)
            progress("exchange", high, sizes.shape.bins)
        for matched in comparing.rest():
            tell(matched)
    return True


# ---- sender ---------------------------------------------------------------------------------------------------------


def _answer(
    channel: Channel,
    layout: Layout,
    vole: Sender,
    sizes: Sizes,
    found: Sink,
    reveal: Reveal,
    progress: Progress,
    steps: Steps,
) -> bool:
    """Send the tags; False when the receiver starts over."""
    waiting: list[tuple[okvs.Partition, list[Numbers]]] = []
    for low, high in _chunks(sizes):
        if _state(channel, "psi.state") == _START_OVER:
            return False
        places = (high - low) * sizes.shape.width
        masked = recv_array(channel, "psi.store", np.uint64, places, steps.WORDS)
        part = layout.take(high - low)
        tags = steps.sender_tags(part, 0, high - low, masked, vole.take(places), vole.delta, sizes.bits)
        packed = np.empty((high - low, sizes.code), dtype=np.uint8)
        orders: list[Numbers] = []
        for b in range(high - low):
            packed[b], order = steps.pack_bin(tags[part.start[b] : part.start[b + 1]], sizes)
            orders.append(order)
        channel.send("psi.tags", packed)
        if reveal == "both":
            waiting.append((part, orders))
            if len(waiting) > LAG:
                found.append(_heard(channel, *waiting.pop(0), sizes.room))
        progress("exchange", high, sizes.shape.bins)
    for each in waiting:
        found.append(_heard(channel, *each, sizes.room))
    return True


def _heard(channel: Channel, part: okvs.Partition, orders: list[Numbers], room: int) -> Numbers:
    """Names of the own items of a message whose tags the receiver says to have, in the order of the tags."""
    marks = recv_array(channel, "psi.matches", np.uint8, len(orders), -(-room // 8))
    found = []
    for b, order in enumerate(orders):
        rows = order[np.unpackbits(marks[b], bitorder="little", count=room).astype(bool)]
        if rows.size and int(rows.max()) >= int(part.start[b + 1] - part.start[b]):
            raise ProtocolError(
                "padding is said to match; the other side does not follow the protocol", step="psi.matches"
            )
        found.append(part.order[part.start[b] + rows])
    return np.concatenate(found)
