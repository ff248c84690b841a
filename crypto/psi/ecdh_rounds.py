"""What the protocols on doubly masked elements share: the greeting, and the exchange of masked sets in batches.

Each side has a secret scalar. An item travels as its element times the owner's scalar; the other side multiplies by
its own. Both then have, for the same item, the same element, whose hash is the item's tag.

The exchange goes in rounds, in which never both sides send at once, and in which both compute at once: after a round
each masks its next batch and works on the one that came.

    round k   first -> second   its batch k; where asked for, tags of the second's batch k - 1
              second -> first   its batch k; where asked for, tags of the first's batch k - 1

Memory: a batch, and 16 bytes for each item of either side.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel, recv_array
from crypto.errors import ProtocolError
from crypto.psi import parameters
from crypto.psi.group import POINT, Points, as_bytes, mask_items, multiply, new_scalar, tags

Blocks = npt.NDArray[np.uint64]

BATCH = 1 << 14
"""Items in a message, 512 KiB of elements."""
MOST = 1 << 40
"""Items a side may have."""
FORMAT = 1
"""Of the messages; a change that an older side cannot read takes the next number."""
_GREETING = struct.Struct("<8sHH16sQII")
_MAGIC = b"fc-ecdh\0"


@dataclass(frozen=True)
class Meeting:
    """What both sides know after the greeting.

    Args:
        mine, theirs: Items of each side.
        width: Bytes of a tag that travels.
        batch: Items in a message.
    """

    mine: int
    theirs: int
    width: int
    batch: int


def greet(
    channel: Channel, mode: str, mine: int, *, first: bool, batch: int = BATCH, threshold: int = 0
) -> Meeting:
    """Tell each other the sizes, and make sure that both run the same protocol.

    Args:
        channel: To the other side.
        mode: Short ASCII name of the protocol and of what it reveals; the same on both sides.
        mine: Items of this side.
        first: Whether this side sends first; one of the two does.
        batch: Items in a message; the same on both sides.
        threshold: Of what the run shows, the same on both sides; 0 where there is none.

    Raises:
        ValueError: The threshold or the batch is out of range.
        ProtocolError: The other side is at another version, protocol, batch or threshold, or has too many items.
    """
    if not 0 <= threshold < 2**32:
        raise ValueError(f"a threshold is between 0 and 2^32 - 1, not {threshold}")
    if not 1 <= batch < 2**32:
        raise ValueError(f"a message has between 1 and 2^32 - 1 items, not {batch}")
    step = "ecdh.greeting"
    own = _GREETING.pack(_MAGIC, FORMAT, parameters.VERSION, mode.encode(), mine, batch, threshold)
    if first:
        channel.send(step, own)
    told = channel.recv(step, size=_GREETING.size)
    if not first:
        channel.send(step, own)
    magic, form, version, name, theirs, other_batch, other_threshold = _GREETING.unpack(told)
    if magic != _MAGIC:
        raise ProtocolError("what came is no greeting of this protocol", step=step)
    theirs_mode = name.rstrip(b"\0").decode("ascii", "backslashreplace")
    for what, ours, other in (
        ("version of the messages", FORMAT, form),
        ("version of the parameters", parameters.VERSION, version),
        ("protocol", mode, theirs_mode),
        ("items in a message", batch, other_batch),
        ("threshold", threshold, other_threshold),
    ):
        if ours != other:
            raise ProtocolError(
                f"{what}: this side has {ours}, the other {other}; both must have the same", step=step
            )
    if theirs > MOST:
        raise ProtocolError(f"the other side names {theirs} items, {MOST} are allowed", step=step)
    return Meeting(mine, theirs, parameters.mask_bytes(mine, theirs), batch)


def truncate(values: Blocks, width: int) -> Points:
    """The first `width` bytes of each tag, (n, width) uint8, as they travel."""
    return np.ascontiguousarray(as_bytes(values)[:, :width])


def widen(sent: npt.NDArray[np.uint8]) -> Blocks:
    """Tags of `width` bytes as blocks, (n, 2) uint64, the rest zero."""
    out = np.zeros((sent.shape[0], 16), dtype=np.uint8)
    out[:, : sent.shape[1]] = sent
    return out.view("<u8")


@dataclass(frozen=True)
class Exchanged:
    """What a side has after the exchange.

    Args:
        theirs: Tags of the other side's items, in the order they came; (m, 2) uint64, cut to their width.
        mine: Tags of this side's items, in the order they went; None where they did not come back.
    """

    theirs: Blocks
    mine: Blocks | None


def exchange(
    channel: Channel,
    meeting: Meeting,
    items: Blocks,
    *,
    first: bool,
    give: bool,
    get: bool,
    threads: int | None = None,
) -> Exchanged:
    """Exchange the masked sets.

    Args:
        channel: To the other side.
        meeting: From `greet`.
        items: (n, 2) uint64, in the secret order in which they shall go.
        first: Whether this side sends first.
        give: Whether the other side gets the tags of its items in the order it sent them.
        get: Whether this side gets those of its own.
        threads: As in `group.mask_items`.

    Raises:
        ProtocolError: What came is not of the group, or has not the length agreed on.
    """
    scalar = new_scalar()
    size, width = meeting.batch, meeting.width
    label = b"ecdh tag"
    theirs = np.empty((meeting.theirs, 2), dtype=np.uint64)
    mine = np.empty((meeting.mine, 2), dtype=np.uint64) if get else None
    longest = max(-(-meeting.mine // size), -(-meeting.theirs // size))

    def batch(number: int, count: int) -> slice:
        return slice(min(count, max(0, number * size)), min(count, max(0, (number + 1) * size)))

    def send(number: int, masked: Points) -> None:
        if masked.shape[0]:
            channel.send("ecdh.points", masked)
        before = batch(number - 1, meeting.theirs)
        if give and before.stop > before.start:
            channel.send("ecdh.tags", truncate(theirs[before], width))

    def receive(number: int) -> Points | None:
        now, before = batch(number, meeting.theirs), batch(number - 1, meeting.mine)
        came = None
        if now.stop > now.start:
            came = recv_array(channel, "ecdh.points", np.uint8, now.stop - now.start, POINT)
        if mine is not None and before.stop > before.start:
            mine[before] = widen(
                recv_array(channel, "ecdh.tags", np.uint8, before.stop - before.start, width)
            )
        return came

    masked = mask_items(items[batch(0, meeting.mine)], scalar, threads=threads)
    for number in range(longest + 1):
        if first:
            send(number, masked)
        came = receive(number)
        if not first:
            send(number, masked)
        masked = mask_items(items[batch(number + 1, meeting.mine)], scalar, threads=threads)
        if came is not None:
            doubly = multiply(came, scalar, "ecdh.points", threads=threads)
            theirs[batch(number, meeting.theirs)] = widen(
                truncate(tags(doubly, label, threads=threads), width)
            )
    return Exchanged(theirs, mine)


def send_tags(channel: Channel, values: Blocks, meeting: Meeting) -> None:
    """Send tags of the other side's items, in the order given, in batches."""
    for low in range(0, values.shape[0], meeting.batch):
        channel.send("ecdh.shuffled", truncate(values[low : low + meeting.batch], meeting.width))


def recv_tags(channel: Channel, count: int, meeting: Meeting) -> Blocks:
    """The other end of `send_tags`.

    Raises:
        ProtocolError: A message has not the length agreed on.
    """
    out = np.empty((count, 2), dtype=np.uint64)
    for low in range(0, count, meeting.batch):
        some = min(count - low, meeting.batch)
        out[low : low + some] = widen(recv_array(channel, "ecdh.shuffled", np.uint8, some, meeting.width))
    return out
