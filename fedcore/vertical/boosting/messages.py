"""What the parties of boosted trees say to each other while trees grow, besides encrypted sums.

    hello           both ways         settings and rows, which must be the same at both
    boost.classes   uint8             label holder, partner   trees of a round
    boost.key       public key        label holder, partner
  each round that is not the label holder's own
    boost.chosen    n bits            label holder, partner   rows that GOSS chose; only with GOSS
  each level
    boost.counts    uint32 [pairs]    partner, label holder   places of each pair
    boost.places    int32, uint8      partner, label holder   of each place: that at the parent, and where it can be chosen
    boost.sums      ciphertexts       both ways               sums of the smaller of each pair (crypto.bfv.sums)
    boost.choice    int32 [nodes]     label holder, partner   what becomes of each node
    boost.told      bits              label holder, partner   sides of the rows of nodes that the label holder splits
    boost.split     8 bytes and bits  partner, label holder   name and sides of nodes that this partner splits
    boost.relay     bits              label holder, partner   sides of nodes that another partner splits

A message that would be empty is not sent. Sides are one bit for each row of the node, 1 = left, filled up with zeros
to whole bytes for each node.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel, recv_array
from crypto.errors import ProtocolError
from fedcore.jobs.vertical import Boosting
from fedcore.peer.handshake import Hello, shake_hands
from fedcore.vertical.boosting.candidates import IN_LARGE, IN_SMALL, Candidates
from fedcore.vertical.boosting.histograms import Flags
from fedcore.vertical.boosting.nodes import Node, Pair

VERSION = 1
LEAF, TOLD, RELAYED = -1, -2, -3
"""What becomes of a node, in `boost.choice`; a number from 0 is the place by which this partner splits it."""
MOST_PLACES = 1 << 20
"""Places of one pair."""
NAME = 8
"""Bytes of a split's name."""

_CURES = {
    "rows": "both sides need the same training rows in the same order: match them again",
    **dict.fromkeys(
        (name for name in Boosting.model_fields if name != "use"),
        "both sides take the model's settings from one job: start both from the same",
    ),
}


def agree(channel: Channel, role: str, settings: Boosting, rows: int) -> None:
    """Shake hands on the settings.

    Args:
        channel: To the other side.
        role: Of this side, `label holder` or `partner`.
        settings: Of the job.
        rows: Training rows of this side.

    Raises:
        ProtocolError: The sides differ; what, both values and the cure are named.
    """
    told = settings.model_dump(exclude={"use"})
    options = {name: value if isinstance(value, str | int) else repr(value) for name, value in told.items()}
    other = "partner" if role == "label holder" else "label holder"
    mine = Hello("boosted trees", VERSION, "none", "boosting", role, {**options, "rows": rows})
    shake_hands(channel, mine, peer_role=other, cures=_CURES)


def send_chosen(channel: Channel, chosen: Flags) -> None:
    """Tell which rows sums are over."""
    channel.send("boost.chosen", np.packbits(chosen))


def recv_chosen(channel: Channel, rows: int, expected: int) -> Flags:
    """Which rows sums are over.

    Args:
        channel: To the label holder.
        rows: Training rows.
        expected: How many must be chosen.

    Raises:
        ProtocolError: It is another number.
    """
    step = "boost.chosen"
    chosen = recv_sides(channel, step, [rows])[0]
    if int(chosen.sum()) != expected:
        raise ProtocolError(
            f"{int(chosen.sum())} rows are chosen where the job's goss gives {expected}; run both sides from one job",
            step=step,
        )
    return chosen


def check_padding(bits: npt.NDArray[np.uint8], rows: int, step: str) -> None:
    """Refuse packed bits, (..., bytes), that go on beyond the last row.

    Raises:
        ProtocolError: They do.
    """
    spare = -rows % 8
    if spare and bits.size and (bits[..., -1] & ((1 << spare) - 1)).any():
        raise ProtocolError(
            "bits beyond the last row are set; the message is damaged, run it again", step=step
        )


def send_sides(channel: Channel, step: str, sides: Sequence[Flags]) -> None:
    """Sides of the rows of several nodes, at least one."""
    channel.send(step, b"".join(np.packbits(left).tobytes() for left in sides))


def recv_sides(channel: Channel, step: str, sizes: Sequence[int]) -> list[Flags]:
    """Sides of the rows of several nodes.

    Args:
        channel: To the other side.
        step: Of the message.
        sizes: Rows of each node.

    Raises:
        ProtocolError: The length is another one, or a bit beyond a node's last row is set.
    """
    raw = recv_array(channel, step, np.uint8, sum(-(-size // 8) for size in sizes))
    return unpacked(raw, step, sizes)


def unpacked(raw: npt.NDArray[np.uint8], step: str, sizes: Sequence[int]) -> list[Flags]:
    """Bits of several nodes that follow one another; as `recv_sides`."""
    found, at = [], 0
    for size in sizes:
        part = raw[at : at + -(-size // 8)]
        check_padding(part, size, step)
        found.append(np.unpackbits(part, count=size).view(np.bool_))
        at += len(part)
    return found


def send_splits(channel: Channel, names: Sequence[bytes], sides: Sequence[Flags]) -> None:
    """Names and sides of the nodes that this partner splits, at least one."""
    packed = b"".join(np.packbits(left).tobytes() for left in sides)
    channel.send("boost.split", b"".join(names) + packed)


def recv_splits(channel: Channel, sizes: Sequence[int]) -> list[tuple[str, Flags]]:
    """Names and sides of nodes of the given numbers of rows.

    Raises:
        ProtocolError: As `recv_sides`.
    """
    step, heads = "boost.split", NAME * len(sizes)
    raw = recv_array(channel, step, np.uint8, heads + sum(-(-size // 8) for size in sizes))
    names = [raw[NAME * at : NAME * (at + 1)].tobytes().hex() for at in range(len(sizes))]
    return list(zip(names, unpacked(raw[heads:], step, sizes), strict=True))


def send_places(channel: Channel, found: Sequence[Candidates]) -> None:
    """What the label holder may know of a level's places."""
    channel.send("boost.counts", np.array([len(each) for each in found], dtype="<u4"))
    if any(len(each) for each in found):
        origin = b"".join(each.origin.astype("<i4").tobytes() for each in found)
        channel.send("boost.places", origin + b"".join(each.usable.tobytes() for each in found))


def recv_places(
    channel: Channel, pairs: Sequence[Pair], above: Sequence[int]
) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]]:
    """Of each pair's places, that at the parent and where it can be chosen.

    Args:
        channel: To the partner.
        pairs: Of the level.
        above: Places of each node of the level above.

    Raises:
        ProtocolError: There are more places than the parent had, one stands twice, or a byte is not allowed.
    """
    step = "boost.counts"
    counts = recv_array(channel, step, "<u4", len(pairs)).astype(np.int64)
    for pair, count in zip(pairs, counts, strict=True):
        most = MOST_PLACES if pair.large is None else above[pair.parent]
        if count > most:
            raise ProtocolError(f"{count} places came for a node; at most {most} are allowed", step=step)
    total = int(counts.sum())
    if total == 0:
        return [(np.empty(0, np.int32), np.empty(0, np.uint8)) for _ in pairs]
    step = "boost.places"
    raw = recv_array(channel, step, np.uint8, 5 * total)
    origins = raw[: 4 * total].view("<i4")
    usable = raw[4 * total :]
    found, at = [], 0
    for pair, count in zip(pairs, counts.tolist(), strict=True):
        origin, use = origins[at : at + count], usable[at : at + count]
        at += count
        allowed = IN_SMALL if pair.large is None else IN_SMALL | IN_LARGE
        if (use & ~np.uint8(allowed)).any():
            raise ProtocolError(f"a place can be chosen in none but {allowed}; another byte came", step=step)
        if pair.large is not None and count:
            if origin.min() < 0 or origin.max() >= above[pair.parent]:
                raise ProtocolError("a place is told to be one that the parent did not have", step=step)
            if len(np.unique(origin)) != count:
                raise ProtocolError("two places are told to be the same one at the parent", step=step)
        found.append((origin.astype(np.int32), use))
    return found


def send_choice(channel: Channel, choice: npt.NDArray[np.int32]) -> None:
    """What becomes of each node of a level."""
    channel.send("boost.choice", choice.astype("<i4"))


def recv_choice(
    channel: Channel, nodes: Sequence[Node], usable: Sequence[npt.NDArray[np.bool_]]
) -> npt.NDArray[np.int32]:
    """What becomes of each node of a level.

    Args:
        channel: To the label holder.
        nodes: Of the level.
        usable: Of each node: which places can be chosen there.

    Raises:
        ProtocolError: A place is asked for that cannot be chosen in that node.
    """
    step = "boost.choice"
    choice = recv_array(channel, step, "<i4", len(nodes)).astype(np.int32)
    for place, here in zip(choice.tolist(), usable, strict=True):
        if place < RELAYED or place >= len(here) or (place >= 0 and not here[place]):
            raise ProtocolError(
                f"a split by place {place} is asked for, which has too few rows on a side or is none; it is refused",
                step=step,
            )
    return choice
