"""The frames that a message travels in.

    bytes   content (numbers are unsigned, most significant byte first)
    4       "FCPF"
    1       version of this format, 1
    1       flags: 1 for the last frame of a message, else 0
    1       length of the step's name, 1 to 64
    1       zero
    16      session, as `session_id` makes it
    8       number of the frame in its direction, from 0
    8       bytes of the whole message
    4       bytes of the message in this frame
    ...     the step's name: ASCII, no space and no control character
    ...     that part of the message

A frame has at most 4 MiB. Every message has at least one frame; only the one frame of an empty message holds no
part of it. There is one way to write a frame, and `parse` refuses any other.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from crypto.errors import ProtocolError

MAGIC = b"FCPF"
VERSION = 1
MAX_FRAME = 4 * 2**20
MAX_STEP = 64
SESSION_BYTES = 16

_HEADER = struct.Struct(">4sBBBB16sQQI")
MAX_HEADER = _HEADER.size + MAX_STEP
_LAST = 1
_STEP = re.compile(r"[!-~]{1,64}\Z")
_SESSION = re.compile(r"[!-~](?:[ -~]{0,198}[!-~])?\Z")


class Frame(NamedTuple):
    """What a frame says.

    Args:
        session: 16 bytes.
        step: Of the protocol.
        number: Of the frame in its direction, from 0.
        total: Bytes of the whole message.
        last: Whether the message ends here.
        part: Of the message; a view of the frame's own bytes.
    """

    session: bytes
    step: str
    number: int
    total: int
    last: bool
    part: memoryview


def session_id(session: str) -> bytes:
    """The 16 bytes that stand for a session's name in every frame.

    Args:
        session: Printable ASCII, 1 to 200 characters, the same at both parties.

    Raises:
        ValueError: It is no such name.
    """
    if not _SESSION.match(session):
        raise ValueError(
            f"{session[:40]!r} is no name for a session; allowed: 1 to 200 printable ASCII characters"
        )
    return hashlib.sha256(b"fedcore peer session\x00" + session.encode("ascii")).digest()[:SESSION_BYTES]


def check_step(step: str) -> None:
    """Refuse a step's name that a frame cannot hold.

    Raises:
        ValueError: It is not 1 to 64 ASCII characters without spaces.
    """
    if not _STEP.match(step):
        raise ValueError(
            f"{step[:80]!r} cannot name a step; allowed: 1 to {MAX_STEP} ASCII characters, no space"
        )


def header(session: bytes, step: str, number: int, total: int, part: int, *, last: bool) -> bytes:
    """What stands before a part of a message; the arguments as in `Frame`, `part` in bytes."""
    name = step.encode("ascii")
    flags = _LAST if last else 0
    return _HEADER.pack(MAGIC, VERSION, flags, len(name), 0, session, number, total, part) + name


def split(
    session: bytes, step: str, first: int, message: Sequence[memoryview], size: int
) -> Iterator[tuple[bytes, list[memoryview]]]:
    """The frames of a message, each as its header and its part, without a copy of the message.

    Args:
        session: 16 bytes.
        step: A name that `check_step` lets pass.
        first: Number of the first of them.
        message: Contiguous bytes, in one piece or in several that follow one another.
        size: Bytes of the message in each frame but the last.
    """
    left = total = sum(piece.nbytes for piece in message)
    part: list[memoryview] = []
    room, number = size, first
    for piece in message:
        rest = piece
        while rest.nbytes:
            part.append(rest[:room])
            rest, room = rest[room:], room - part[-1].nbytes
            if room == 0:
                left -= size
                yield header(session, step, number, total, size, last=left == 0), part
                part, room, number = [], size, number + 1
    if part or not total:
        yield header(session, step, number, total, size - room, last=True), part


def parse(raw: bytes | memoryview, step: str) -> Frame:
    """Read a frame that came from the other party.

    Args:
        raw: The whole frame.
        step: That this side is at; it stands in the error.

    Raises:
        ProtocolError: It is not a frame, of another version, or its lengths do not agree.
    """
    view = memoryview(raw)
    if view.nbytes > MAX_FRAME:
        raise ProtocolError(f"a frame of {view.nbytes} bytes came; allowed are {MAX_FRAME}", step=step)
    if view.nbytes < _HEADER.size:
        raise ProtocolError(
            f"a frame of {view.nbytes} bytes came; its head alone has {_HEADER.size}: it was cut off",
            step=step,
        )
    magic, version, flags, named, zero, session, number, total, part = _HEADER.unpack_from(view)
    if magic != MAGIC:
        raise ProtocolError(
            "what came is no frame; the other side must be a fedcore party of the same kind", step=step
        )
    if version != VERSION:
        raise ProtocolError(
            f"the frame has version {version}, this side speaks version {VERSION}; "
            "install the same version of fedcore at both parties",
            step=step,
        )
    if flags not in (0, _LAST) or zero:
        raise ProtocolError(
            f"a frame with flags {flags} and {zero} came; allowed are 0 and 1, and 0", step=step
        )
    start = _HEADER.size + named
    if view.nbytes != start + part:
        raise ProtocolError(
            f"a frame of {view.nbytes} bytes came; by its head it should have {start + part}", step=step
        )
    name = bytes(view[_HEADER.size : start]).decode("latin-1")
    if not _STEP.match(name):
        raise ProtocolError("a frame came whose step has no proper name", step=step)
    if part > total or (part == 0 and total > 0) or (total == 0 and not flags):
        raise ProtocolError(f"a frame with {part} bytes of a message of {total} came", step=step)
    return Frame(session, name, number, total, bool(flags), view[start:])
