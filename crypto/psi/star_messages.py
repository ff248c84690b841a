"""Messages of the star: who takes part, and the keys that the leader forwards.

    greeting    "fc-star" and a zero byte, version (2 bytes), version of the parameters (2), who learns the result (1: 0
                the leader, 1 all), followers (1), items of the sender of this message (8), length of the session (1),
                session, then for the leader and each follower in ascending order: length of the name (1), name in UTF-8
    keys        for each follower but the one that gets it, in the same order: length (2), what came as its key

Numbers are unsigned, least significant byte first. Nothing in them is secret between the parties; the number of items
is between the leader and the one follower.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from crypto.channel import Channel
from crypto.errors import ProtocolError
from crypto.psi import parameters
from crypto.psi.oprf import MOST_ITEMS

VERSION = 1
MOST_FOLLOWERS = 63
MOST_NAME = 64
MOST_SESSION = 255
_MAGIC = b"fc-star\0"
_VERSIONS = struct.Struct("<8sHH")
_HEAD = struct.Struct("<8sHHBBQB")
LIMIT = _HEAD.size + MOST_SESSION + (1 + MOST_FOLLOWERS) * (1 + MOST_NAME)
STEP = "star.greeting"
_REVEALS = ("leader", "all")


@dataclass(frozen=True)
class Greeting:
    """What one party says before anything else; all but the number of items is the same at all.

    Args:
        leader: Its name.
        followers: 1 to 63 names, ascending.
        reveal: `leader` or `all`.
        session: At most 255 bytes.
        items: Of the party that says it.

    Raises:
        ValueError: A name, their number, the session or `reveal` is not allowed.
    """

    leader: str
    followers: tuple[str, ...]
    reveal: str
    session: bytes
    items: int

    def __post_init__(self) -> None:
        if self.reveal not in _REVEALS:
            raise ValueError(f"reveal is {self.reveal!r}; allowed: {', '.join(_REVEALS)}")
        if not 1 <= len(self.followers) <= MOST_FOLLOWERS:
            raise ValueError(f"{len(self.followers)} followers; allowed are 1 to {MOST_FOLLOWERS}")
        if len(self.session) > MOST_SESSION:
            raise ValueError(f"a session of {len(self.session)} bytes; allowed are {MOST_SESSION}")
        if not 0 <= self.items <= MOST_ITEMS:
            raise ValueError(f"{self.items} items; at most {MOST_ITEMS} can be intersected in one run")
        for name in self.names:
            if not name.isprintable() or not 1 <= len(name.encode()) <= MOST_NAME:
                raise ValueError(f"{name!r} is no name of a party: 1 to {MOST_NAME} bytes of printable text")
        if len(set(self.names)) != len(self.names) or list(self.followers) != sorted(self.followers):
            raise ValueError(f"the parties {', '.join(self.names)} are not each named once, in order")

    @property
    def names(self) -> tuple[str, ...]:
        """All parties, the leader first."""
        return (self.leader, *self.followers)

    def encode(self) -> bytes:
        """As it is sent."""
        head = _HEAD.pack(
            _MAGIC,
            VERSION,
            parameters.VERSION,
            _REVEALS.index(self.reveal),
            len(self.followers),
            self.items,
            len(self.session),
        )
        named = (name.encode() for name in self.names)
        return head + self.session + b"".join(bytes([len(name)]) + name for name in named)

    def digest(self) -> bytes:
        """Of all but the number of items: 32 bytes that are the same at all parties of a run, and of no other."""
        same = Greeting(self.leader, self.followers, self.reveal, self.session, 0)
        return hashlib.sha256(same.encode()).digest()


def decode(raw: bytes | memoryview) -> Greeting:
    """Read a greeting.

    Raises:
        ProtocolError: It is none, or of another version.
    """
    raw = bytes(raw)
    if len(raw) < _VERSIONS.size or not raw.startswith(_MAGIC):
        raise ProtocolError("what came is no greeting of an intersection of several parties", step=STEP)
    _, version, table = _VERSIONS.unpack_from(raw)
    for what, here, there in (("version", VERSION, version), ("parameters", parameters.VERSION, table)):
        if here != there:
            raise ProtocolError(
                f"this side has {what} {here}, the other {there}; install the same version at all parties",
                step=STEP,
            )
    try:
        return _decode(raw)
    except (ValueError, struct.error, IndexError):
        raise ProtocolError("what came is no proper greeting", step=STEP) from None


def _decode(raw: bytes) -> Greeting:
    _, _, _, reveal, followers, items, length = _HEAD.unpack_from(raw)
    at = _HEAD.size + length
    session = raw[_HEAD.size : at]
    names = []
    for _ in range(1 + followers):
        end = at + 1 + raw[at]
        names.append(raw[at + 1 : end].decode())
        at = end
    if at != len(raw):
        raise ValueError("it is longer or shorter than it says")
    return Greeting(names[0], tuple(names[1:]), _REVEALS[reveal], session, items)


def greet(channel: Channel, mine: Greeting) -> int:
    """Tell the other side who takes part, and hear the same; the other's number of items.

    Raises:
        ProtocolError: The two sides differ; both values are named. Or what came is no greeting.
    """
    channel.send(STEP, mine.encode())
    theirs = decode(channel.recv(STEP, limit=LIMIT))
    shown = {
        "parties (the leader first)": (", ".join(mine.names), ", ".join(theirs.names)),
        "reveal": (mine.reveal, theirs.reveal),
        "session": (mine.session.hex(), theirs.session.hex()),
    }
    for what, (here, there) in shown.items():
        if here != there:
            raise ProtocolError(
                f"the two sides differ in {what}: this side has {here!r}, the other {there!a}; give all "
                "parties the same",
                step=STEP,
            )
    return theirs.items


def join_keys(messages: Sequence[bytes]) -> bytes:
    """The keys of several followers in one message."""
    return b"".join(len(each).to_bytes(2, "little") + each for each in messages)


def split_keys(raw: bytes | memoryview, names: Sequence[str]) -> dict[str, bytes]:
    """The keys in a message, by the follower they are of.

    Args:
        raw: As it came.
        names: The followers it has keys of, in their order.

    Raises:
        ProtocolError: It is longer or shorter than it says.
    """
    raw = bytes(raw)
    found = {}
    at = 0
    for name in names:
        length = int.from_bytes(raw[at : at + 2], "little")
        found[name] = raw[at + 2 : at + 2 + length]
        at += 2 + length
    if at != len(raw):
        raise ProtocolError(
            f"{len(raw)} bytes came for the keys of {len(names)} followers, which say that they are {at}",
            step="star.keys",
        )
    return found
