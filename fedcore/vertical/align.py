"""Rows that all parties have, in one order, and which of them validate; nobody chooses either.

After the label holder's intersections with each partner (`fedcore.participant.vertical_align`):

    label holder          partner
      common       ──▶               with several partners: which of the pair's matches all parties have, a bit each
      commitment   ◀──▶ commitment   SHA-256 of 32 random bytes of each party, passed on by the label holder
      random bytes ◀──▶ random bytes which are opened when all commitments are known
      late         ──▶               which rows are out of time, a bit each, where the job asks for it
      order        ◀──▶ order        digest of the agreed order and parts, which must be equal

All random bytes together are the key of BLAKE2b over the item of each row, the 16 bytes that stand for its key in the
intersection and are the same at all parties. Rows are ordered by one such value and validate when another is below the
share that the job names, so that both are random, and no party can aim at rows. A label holder that passes on other bytes
than it got gets parties with different orders, which is noticed at the end.

Who learns what. Label holder and each partner: which of their rows match, as in an intersection of two; so the label
holder learns each pair's matches, of which with several partners only the common ones are used. Partners: which of
their matches are common to all, and which are out of time. Nobody but the label holder sees a label here, and therefore the
split cannot be stratified by it.

Assumption: BLAKE2b and SHA-256 random oracles; honest-but-curious parties, except that nobody can steer the split.
Cost: 64 bytes per party, and 2 or 3 bits per row.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel
from crypto.errors import ProtocolError
from fedcore.vertical.table import OUT_OF_TIME, TEST, TRAIN

NONCE = 32
DIGEST = 32

Bits = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Blocks = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Order:
    """What was agreed.

    Args:
        rows: (n,) int64, of each row the number of the item it was given as.
        part: (n,) int8, 0 train, 1 test.
        marks: (n, 16) uint8, what the rows were ordered by.
    """

    rows: Int64
    part: npt.NDArray[np.int8]
    marks: npt.NDArray[np.uint8]


# ---- which rows -----------------------------------------------------------------------------------------------------


def tell_common(channels: Sequence[Channel], matches: Sequence[Int64]) -> Int64:
    """The label holder's half: find the rows that matched with every partner, and tell each which these are.

    Args:
        channels: To the partners.
        matches: For each partner: (m,) int64, the own row of each match.

    Returns:
        The own rows that all have, in no order that means anything.
    """
    common = matches[0]
    for other in matches[1:]:
        common = np.intersect1d(common, other, assume_unique=True)
    if len(channels) > 1:
        for channel, rows in zip(channels, matches, strict=True):
            channel.send("align.common", np.packbits(np.isin(rows, common)))
    return np.sort(common)


def hear_common(channel: Channel, matches: Int64, partners: int) -> Int64:
    """A partner's half.

    Args:
        channel: To the label holder.
        matches: (m,) int64, the own row of each match.
        partners: How many there are.

    Returns:
        The own rows that all have.

    Raises:
        ProtocolError: The answer is not of this length.
    """
    if partners == 1:
        return np.sort(matches)
    told = _bits(channel, "align.common", len(matches))
    return np.sort(matches[told])


# ---- a key that nobody chose ----------------------------------------------------------------------------------------


def key_of_holder(channels: Sequence[Channel]) -> bytes:
    """The label holder's half of the common key.

    Raises:
        ProtocolError: What a partner opened is not what it was bound to.
    """
    own = secrets.token_bytes(NONCE)
    commitments = [_commitment(own), *(bytes(each.recv("align.bind", size=DIGEST)) for each in channels)]
    for channel in channels:
        channel.send("align.bound", b"".join(commitments))
    opened = [own, *(bytes(each.recv("align.open", size=NONCE)) for each in channels)]
    _check_opened(opened, commitments)
    for channel in channels:
        channel.send("align.opened", b"".join(opened))
    return _key(opened)


def key_of_partner(channel: Channel, place: int, partners: int) -> bytes:
    """A partner's half.

    Args:
        channel: To the label holder.
        place: Of this partner among the partners, from 0.
        partners: How many there are.

    Raises:
        ProtocolError: What was opened is not what was bound, or the own part is not in it.
    """
    own = secrets.token_bytes(NONCE)
    channel.send("align.bind", _commitment(own))
    bound = _split(channel.recv("align.bound", size=DIGEST * (partners + 1)))
    if bound[place + 1] != _commitment(own):
        raise ProtocolError(
            "the own commitment is not among those that the label holder passed on", step="align.bound"
        )
    channel.send("align.open", own)
    opened = _split(channel.recv("align.opened", size=NONCE * (partners + 1)))
    _check_opened(opened, bound)
    return _key(opened)


def _commitment(nonce: bytes) -> bytes:
    return hashlib.sha256(b"fedcore align" + nonce).digest()


def _check_opened(opened: Sequence[bytes], bound: Sequence[bytes]) -> None:
    for place, (nonce, commitment) in enumerate(zip(opened, bound, strict=True)):
        if not hmac.compare_digest(_commitment(nonce), commitment):
            who = "the label holder" if place == 0 else f"partner {place}"
            raise ProtocolError(
                f"what {who} opened is not what it was bound to; the split is not agreed", step="align.opened"
            )


def _key(opened: Sequence[bytes]) -> bytes:
    return hashlib.sha256(b"fedcore split" + b"".join(opened)).digest()


def _split(data: memoryview) -> list[bytes]:
    whole = bytes(data)
    return [whole[at : at + NONCE] for at in range(0, len(whole), NONCE)]


# ---- order and parts ------------------------------------------------------------------------------------------------


def order_of(items: Blocks, key: bytes, test: float) -> Order:
    """Rows in the order that their items and the key give, and which of them validate.

    Args:
        items: (n, 2) uint64, each row's item.
        key: 32 bytes, of all parties.
        test: Share of rows that validate, in (0, 1).
    """
    raw = np.ascontiguousarray(items).tobytes()
    place, draw = (
        hashlib.blake2b(key=key, digest_size=16, person=b"order"),
        hashlib.blake2b(key=key, digest_size=8, person=b"split"),
    )
    marks, drawn = bytearray(), bytearray()
    for at in range(0, len(raw), 16):
        for start, out in ((place, marks), (draw, drawn)):
            hashed = start.copy()
            hashed.update(raw[at : at + 16])
            out += hashed.digest()
    by_place = np.frombuffer(bytes(marks), dtype=np.uint8).reshape(-1, 16)
    # As text of fixed length, so that they sort as bytes; a zero at the end counts as well, for all have 16.
    order = np.lexsort(by_place.T[::-1])
    least = np.frombuffer(bytes(drawn), dtype="<u8")
    part = np.where(least < np.uint64(int(test * 2**64)), TEST, TRAIN).astype(np.int8)
    return Order(order.astype(np.int64), part[order], by_place[order])


def tell_late(channels: Sequence[Channel], late: Bits) -> None:
    """Tell the partners which rows are out of time.

    Args:
        channels: To the partners.
        late: (n,) bool, in the agreed order.
    """
    for channel in channels:
        channel.send("align.late", np.packbits(late))


def hear_late(channel: Channel, rows: int) -> Bits:
    """What `tell_late` told.

    Raises:
        ProtocolError: It is not of this many rows.
    """
    return _bits(channel, "align.late", rows)


def parted(part: npt.NDArray[np.int8], late: Bits | None) -> npt.NDArray[np.int8]:
    """Parts with those of a later time apart."""
    return part if late is None else np.where(late, OUT_OF_TIME, part).astype(np.int8)


def digest_of(order: Order, part: npt.NDArray[np.int8], key: bytes) -> str:
    """What all parties must have the same of: SHA-256 over order and parts, hex; of no use to others without the key."""
    found = hashlib.sha256(key)
    found.update(len(part).to_bytes(8, "little"))
    found.update(order.marks.tobytes())
    found.update(part.tobytes())
    return found.hexdigest()


def compare(channels: Mapping[str, Channel], digest: str) -> None:
    """Check that all have the same order and parts.

    Raises:
        ProtocolError: Another party's digest differs.
    """
    own = bytes.fromhex(digest)
    for channel in channels.values():
        channel.send("align.order", own)
    for name, channel in channels.items():
        if bytes(channel.recv("align.order", size=DIGEST)) != own:
            raise ProtocolError(
                f"{name} has other rows or another order than this party; nothing is done with them. Run it again, and "
                "report it when it happens again",
                step="align.order",
            )


def _bits(channel: Channel, step: str, count: int) -> Bits:
    packed = np.frombuffer(channel.recv(step, size=(count + 7) // 8), dtype=np.uint8)
    return np.unpackbits(packed, count=count).astype(np.bool_)
