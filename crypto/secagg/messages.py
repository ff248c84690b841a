"""Messages of secure aggregation as bytes.

Each begins with a head of 26 bytes: "fcsa", version (1), kind (1), participant (4), round (4), cohort (8: the
first bytes of the binding; zeros where there is none yet), length of the rest (4). Numbers are unsigned,
least significant byte first. A set is a bitmap of the cohort, (n + 7) / 8 bytes, participant i in bit i % 8
of byte i / 8. Lists go by neighbours, ascending.

    1 advert      length of the name (1), name, public key (32), signature (the rest)
    2 roster      participants n (4), leaves (32 each), neighbours m (4), then of each: participant (4), length (4),
                  its advert
    3 shares      hashes of b and u (16 each), then for each neighbour: sealed shares of b and u (80), hashes of
                  both (32); then the sealed seeds (32 for each neighbour, and 16)
    4 start       U, then for each neighbour in U: the shares that it sealed (80)
    5 masked      bits (1), words of the vector (8), then for each neighbour in U: tag (16); beside it the vector
    6 survivors   S, then for each neighbour in S: its tag of U (16)
    7 confirm     for each neighbour in S: tag (16)
    8 request     confirmations m (4), then of each: participant (4), tag (16)
    9 reveal      for each neighbour in U: a share (32)

What is longer or shorter than the cohort and the sets make it is refused before it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from crypto.errors import ProtocolError
from crypto.secagg.keys import DIGEST, MOST_NAME, PUBLIC, TAG, Advert
from crypto.signatures import MOST_SIGNATURE

VERSION = 1
COORDINATOR = 2**32 - 1
MOST_COHORT = 2**20
LEAF = 32
SHARE = 32
SEALED = 2 * SHARE + 16
_MAGIC = b"fcsa"
_HEAD = struct.Struct("<4sBBII8sI")


class Kind(IntEnum):
    """Kinds of messages, as on the wire."""

    ADVERT = 1
    ROSTER = 2
    SHARES = 3
    START = 4
    MASKED = 5
    SURVIVORS = 6
    CONFIRM = 7
    REQUEST = 8
    REVEAL = 9

    @property
    def step(self) -> str:
        """As errors name it."""
        return f"secagg.{self.name.lower()}"


def pack(kind: Kind, sender: int, number: int, binding: bytes, body: bytes) -> bytes:
    """A message.

    Args:
        kind: Of it.
        sender: Index of the participant, or `COORDINATOR`.
        number: Of the round, 0 where there is none.
        binding: Of the cohort; empty where there is none yet.
        body: What stands behind the head.
    """
    return _HEAD.pack(_MAGIC, VERSION, kind, sender, number, binding[:8], len(body)) + body


def unpack(raw: bytes | memoryview, kind: Kind, *, sender: int, number: int | None, binding: bytes) -> Reader:
    """The body of a message.

    Args:
        raw: As it came.
        kind: That it must have.
        sender: That it must name.
        number: Of the round it must be for; any if None.
        binding: Of the cohort it must be for.

    Raises:
        ProtocolError: It is of another kind, version, sender, round or cohort, or longer or shorter than it
            says.
    """
    raw = bytes(raw)
    step = kind.step
    if len(raw) < _HEAD.size or not raw.startswith(_MAGIC):
        raise ProtocolError(f"{len(raw)} bytes came that are no message of secure aggregation", step=step)
    _, version, found, who, round_, cohort, length = _HEAD.unpack_from(raw)
    if version != VERSION:
        raise ProtocolError(
            f"a message of version {version} came; this side has {VERSION}: install the same version everywhere",
            step=step,
        )
    for what, wanted, got in (
        ("kind", int(kind), found),
        ("participant", sender, who),
        ("round", number, round_),
        ("length", len(raw) - _HEAD.size, length),
    ):
        if wanted is not None and wanted != got:
            raise ProtocolError(
                f"a message of {what} {got} came where {what} {wanted} is expected", step=step
            )
    if cohort != binding[:8].ljust(8, b"\0"):
        raise ProtocolError("a message of another run or cohort came", step=step)
    return Reader(raw[_HEAD.size :], step, round_)


@dataclass
class Reader:
    """Takes a body apart, front to back.

    Args:
        raw: What is left.
        step: For errors.
        number: Of the round that the message is for.
    """

    raw: bytes
    step: str
    number: int

    def take(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            ProtocolError: There are fewer.
        """
        if size > len(self.raw):
            raise ProtocolError(f"a message ends {size - len(self.raw)} bytes too early", step=self.step)
        part, self.raw = self.raw[:size], self.raw[size:]
        return part

    def number_of(self, size: int, most: int) -> int:
        """The next number, of `size` bytes.

        Raises:
            ProtocolError: It is larger than `most`.
        """
        found = int.from_bytes(self.take(size), "little")
        if found > most:
            raise ProtocolError(f"a message says {found} where at most {most} is allowed", step=self.step)
        return found

    def pieces(self, count: int, size: int) -> list[bytes]:
        """The next `count` pieces of one size."""
        joined = self.take(count * size)
        return [joined[at : at + size] for at in range(0, len(joined), size)]

    def members(self, cohort: int) -> frozenset[int]:
        """The next set.

        Raises:
            ProtocolError: A bit behind the cohort is set.
        """
        bits = int.from_bytes(self.take(bitmap_size(cohort)), "little")
        if bits >> cohort:
            raise ProtocolError(f"a set names a participant behind the last of {cohort}", step=self.step)
        return frozenset(index for index in range(cohort) if bits >> index & 1)

    def end(self) -> None:
        """Refuse what is left.

        Raises:
            ProtocolError: Something is.
        """
        if self.raw:
            raise ProtocolError(f"a message is {len(self.raw)} bytes too long", step=self.step)


def bitmap_size(cohort: int) -> int:
    """Bytes of a set."""
    return (cohort + 7) // 8


def bitmap(members: Iterable[int], cohort: int) -> bytes:
    """A set as it is sent."""
    bits = bytearray(bitmap_size(cohort))
    for index in members:
        bits[index >> 3] |= 1 << (index & 7)
    return bytes(bits)


def pack_advert(advert: Advert) -> bytes:
    """Message 1."""
    name = advert.name.encode()
    body = bytes([len(name)]) + name + advert.public + advert.signature
    return pack(Kind.ADVERT, 0, 0, b"", body)


def unpack_advert(raw: bytes | memoryview) -> Advert:
    """Message 1.

    Raises:
        ProtocolError: It is none.
    """
    body = unpack(raw, Kind.ADVERT, sender=0, number=0, binding=b"")
    name = body.take(body.number_of(1, MOST_NAME))
    public = body.take(PUBLIC)
    try:
        return Advert(name.decode(), public, body.raw)
    except UnicodeDecodeError:
        raise ProtocolError("a name came that is not UTF-8", step=body.step) from None


@dataclass(frozen=True)
class Roster:
    """Message 2.

    Args:
        leaves: Of the cohort.
        neighbours: Their adverts, by participant.
    """

    leaves: tuple[bytes, ...]
    neighbours: dict[int, Advert]

    def encode(self) -> bytes:
        """As it is sent."""
        body = [
            len(self.leaves).to_bytes(4, "little"),
            *self.leaves,
            len(self.neighbours).to_bytes(4, "little"),
        ]
        for index, advert in sorted(self.neighbours.items()):
            raw = pack_advert(advert)
            body += [struct.pack("<II", index, len(raw)), raw]
        return pack(Kind.ROSTER, COORDINATOR, 0, b"", b"".join(body))

    @staticmethod
    def decode(raw: bytes | memoryview) -> Roster:
        """As it came.

        Raises:
            ProtocolError: It is none.
        """
        body = unpack(raw, Kind.ROSTER, sender=COORDINATOR, number=0, binding=b"")
        leaves = body.pieces(body.number_of(4, MOST_COHORT), LEAF)
        neighbours = {}
        for _ in range(body.number_of(4, len(leaves))):
            index = body.number_of(4, MOST_COHORT)
            neighbours[index] = unpack_advert(body.take(body.number_of(4, _MOST_ADVERT)))
        body.end()
        return Roster(tuple(leaves), neighbours)


_MOST_ADVERT = _HEAD.size + 1 + MOST_NAME + PUBLIC + MOST_SIGNATURE


@dataclass(frozen=True, repr=False)
class Shares:
    """Body of message 3, of one participant, as the coordinator keeps it.

    Args:
        commitments: Hashes of b and u.
        sealed: Shares for each neighbour.
        digests: Hashes of the shares of b and u, for each neighbour.
        box: The sealed seeds of its masks with the neighbours.
    """

    commitments: tuple[bytes, bytes]
    sealed: Sequence[bytes]
    digests: Sequence[tuple[bytes, bytes]]
    box: bytes

    def body(self) -> bytes:
        """As it is sent."""
        lists = (sealed + b + u for sealed, (b, u) in zip(self.sealed, self.digests, strict=True))
        return b"".join(self.commitments) + b"".join(lists) + self.box

    @staticmethod
    def read(body: Reader, neighbours: int) -> Shares:
        """As it came from a participant with so many neighbours.

        Raises:
            ProtocolError: It has another length.
        """
        commitments = body.take(DIGEST), body.take(DIGEST)
        rows = body.pieces(neighbours, SEALED + 2 * DIGEST)
        box = body.take(neighbours * SHARE + 16)
        body.end()
        return Shares(
            commitments,
            [row[:SEALED] for row in rows],
            [(row[SEALED : SEALED + DIGEST], row[SEALED + DIGEST :]) for row in rows],
            box,
        )


def tags(body: Reader, receivers: Sequence[int]) -> dict[int, bytes]:
    """The rest of a message as one tag for each of some participants.

    Raises:
        ProtocolError: It has another length.
    """
    found = body.pieces(len(receivers), TAG)
    body.end()
    return dict(zip(receivers, found, strict=True))
