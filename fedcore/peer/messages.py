"""Flower messages over a channel: a head that says what stands where, and a body with the bytes.

The head is JSON:

    {"version": 1, "metadata": {...}, "error": [code, reason] or null, "body": length of the body,
     "content": [[record, kind, [entry, ...]], ...]}

    kind      entry
    arrays    [name, dtype, shape, stype, offset, length]
    metrics   [name, value]     a number or a list of numbers
    config    [name, value]     also text, booleans, lists of them, and bytes as {"bytes": [offset, length]}

What is behind an offset follows on what is behind the one before it, padded to 64 bytes, so that the receiver uses an
array where it came to lie. There is one way to write a message down but for the order of keys and spaces in the head;
what has a key too many or one twice, or a byte in the body that no entry names, is refused. The values of numpy arrays travel as they stand in memory, in row-major order and in the
byte order that their dtype names; an array of another kind (`stype`) as the bytes that Flower would send. Nothing is
pickled, and no array of Python objects is taken.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, Metadata, MetricRecord, RecordDict

from crypto.errors import ProtocolError
from fedcore.flower import array_record, message_of

if TYPE_CHECKING:
    from fedcore.peer.channel import FramedChannel

VERSION = 1
STEP = "message"
HEAD_LIMIT = 64 * 2**20
"""Bytes."""
BODY_LIMIT = 2**36
"""Bytes."""

_ALIGN = 64
_NUMPY = "numpy.ndarray"
_KINDS: dict[str, type] = {"arrays": ArrayRecord, "metrics": MetricRecord, "config": ConfigRecord}
_RECORD = {kind: name for name, kind in _KINDS.items()}
_HEAD = {"version", "metadata", "error", "body", "content"}
# Not all that NumPy would read: a dtype as it names it itself, of numbers or booleans.
_DTYPE = re.compile(r"[<>|][biufc]\d{1,2}")
_WIRE_INTEGERS = range(-(2**63), 2**64)
"""What Flower's own wire format carries."""
_METADATA: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("run_id", "src_node_id", "dst_node_id"), (int,)),
    **dict.fromkeys(("message_id", "reply_to_message_id", "group_id", "message_type"), (str,)),
    **dict.fromkeys(("created_at", "ttl"), (int, float)),
    **dict.fromkeys(("src_task_id", "dst_task_id"), (int, type(None))),
}


def send(channel: FramedChannel, message: Message) -> None:
    """Send a message, of which the arrays may be shared with others; one at a time over one channel.

    Args:
        channel: To whom.
        message: With content or an error.

    Raises:
        PeerLost: The other side is gone.
        ValueError: It holds an array of Python objects, or what is no record of Flower's.
    """
    send_encoded(channel, *encode(message))


def send_encoded(channel: FramedChannel, head: bytes, parts: list[memoryview]) -> None:
    """Send what `encode` gave.

    Args:
        channel: To whom.
        head, parts: As it gave them.

    Raises:
        PeerLost: The other side is gone.
    """
    channel.send(STEP, head)
    channel.send_pieces(STEP, parts)


def receive(channel: FramedChannel) -> Message:
    """The next message.

    Raises:
        PeerLost: The other side is gone.
        ProtocolError: What came is no message.
    """
    head = parse(bytes(channel.recv(STEP, limit=HEAD_LIMIT)))
    return decode(head, channel.recv(STEP, size=head["body"]))


def encode(message: Message) -> tuple[bytes, list[memoryview]]:
    """The head, and the pieces that are the body when they follow one another.

    Args:
        message: As for `send`.

    Raises:
        ValueError: As `send`.
    """
    body = _Body()
    content = []
    if message.has_content():
        for name, record in message.content.items():
            kind = _RECORD.get(type(record))
            if kind is None:
                raise ValueError(f"record {name!r} is a {type(record).__name__}, which does not travel")
            if isinstance(record, ArrayRecord):
                entries = [body.array(key, value) for key, value in record.items()]
            else:
                entries = [[key, body.value(value)] for key, value in record.items()]
            content.append([name, kind, entries])
    error = [message.error.code, message.error.reason or ""] if message.has_error() else None
    told = {
        "version": VERSION,
        "metadata": {name: getattr(message.metadata, name) for name in _METADATA},
        "error": error,
        "body": body.length,
        "content": content,
    }
    head = json.dumps(told, separators=(",", ":")).encode()
    if len(head) > HEAD_LIMIT or body.length > BODY_LIMIT:
        raise ValueError(
            f"the message has a head of {len(head)} and a body of {body.length} bytes; allowed are {HEAD_LIMIT} and "
            f"{BODY_LIMIT}: send long lists of numbers as an array"
        )
    return head, body.parts


def parse(raw: bytes) -> dict[str, Any]:
    """The head as it came, with a length of the body that is allowed.

    Raises:
        ProtocolError: It is none.
    """
    try:
        head = json.loads(raw, object_pairs_hook=_once)
        version = head["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ProtocolError("what came is not the head of a message", step=STEP) from None
    if type(version) is not int or version != VERSION:
        raise ProtocolError(
            f"a message of version {str(version)[:20]} came, this side's version is {VERSION}; install the same "
            "version of fedcore at both",
            step=STEP,
        )
    if set(head) != _HEAD:
        raise ProtocolError("what came is not the head of a message: its keys are others", step=STEP)
    length = head["body"]
    if type(length) is not int or not 0 <= length <= BODY_LIMIT:
        raise ProtocolError(
            f"a message's body has 0 to {BODY_LIMIT} bytes, this one's head says otherwise", step=STEP
        )
    return dict(head)


def decode(head: dict[str, Any], body: memoryview) -> Message:
    """The message of a head and a body; its arrays lie in the body's memory.

    Raises:
        ProtocolError: They do not fit together.
    """
    try:
        if set(head["metadata"]) != set(_METADATA):
            raise ValueError
        metadata = {name: _number(_of(head["metadata"][name], *kinds)) for name, kinds in _METADATA.items()}
        taken = _Taken(body)
        content: dict[str, Any] = {}
        for name, kind, entries in map(_list, _list(head["content"])):
            # A name that stands twice would hide a record from whoever looked at the first.
            if name in content:
                raise ValueError
            content[_of(name, str)] = taken.record(kind, entries)
        if taken.at != body.nbytes:
            raise ValueError
        if head["error"] is None:
            return message_of(Metadata(**metadata), content=RecordDict(content))
        code, reason = _list(head["error"])
        if content:
            raise ValueError
        return message_of(Metadata(**metadata), error=Error(_of(code, int), _of(reason, str)))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        # What Flower's records say of a wrong value may quote it.
        raise ProtocolError("a message's head and body do not fit together", step=STEP) from None


class _Body:
    """The bytes of a message's body, in their order."""

    def __init__(self) -> None:
        self.parts: list[memoryview] = []
        self.length = 0

    def put(self, part: memoryview) -> list[int]:
        place = [self.length, part.nbytes]
        self.parts.append(part)
        if rest := -part.nbytes % _ALIGN:
            self.parts.append(memoryview(bytes(rest)))
        self.length += part.nbytes + rest
        return place

    def array(self, name: str, array: Array) -> list[Any]:
        if array.stype != _NUMPY:
            return [name, array.dtype, list(array.shape), array.stype, *self.put(memoryview(array.data))]
        value = np.ascontiguousarray(array.numpy())
        if value.dtype.kind not in "biufc":
            raise ValueError(f"array {name!r} has dtype {value.dtype}, which does not travel")
        # Not `value.shape`: ascontiguousarray makes a scalar an array of one.
        place = self.put(value.reshape(-1).view(np.uint8).data)
        return [name, value.dtype.str, list(array.shape), _NUMPY, *place]

    def value(self, value: Any) -> Any:
        if isinstance(value, bytes):
            return {"bytes": self.put(memoryview(value))}
        if isinstance(value, list):
            return [self.value(each) for each in value]
        return value


class _Taken:
    """A body from which every byte is taken once, in order."""

    def __init__(self, body: memoryview) -> None:
        self.body = body
        self.at = 0

    def take(self, offset: Any, length: Any) -> memoryview:
        if type(offset) is not int or type(length) is not int or offset != self.at or length < 0:
            raise ValueError
        end = offset + length
        self.at += _padded(length)
        if self.at > self.body.nbytes:
            raise ValueError
        return self.body[offset:end]

    def record(self, kind: str, entries: list[list[Any]]) -> Any:
        names = [_of(entry[0], str) for entry in map(_list, _list(entries))]
        if len(set(names)) != len(names):
            raise ValueError
        if kind == "arrays":
            return self.arrays(entries)
        make: Callable[..., Any] = _KINDS[kind]
        return make({key: self.value(value) for key, value in entries})

    def arrays(self, entries: list[list[Any]]) -> ArrayRecord:
        found: dict[str, Any] = {}
        for name, dtype, shape, stype, offset, length in entries:
            raw = self.take(offset, length)
            sizes = tuple(_of(size, int) for size in _list(shape))
            if min(sizes, default=0) < 0:
                raise ValueError
            if _of(stype, str) != _NUMPY:
                found[name] = Array(_of(dtype, str), sizes, stype, bytes(raw))
                continue
            if not _DTYPE.fullmatch(dtype):
                raise ValueError
            kind = np.dtype(dtype)
            if math.prod(sizes) * kind.itemsize != raw.nbytes:
                raise ValueError
            found[name] = np.frombuffer(raw, kind).reshape(sizes)
        record = array_record({name: value for name, value in found.items() if not isinstance(value, Array)})
        if len(record) == len(found):
            return record
        ordered = ArrayRecord()
        for name, value in found.items():
            ordered[name] = value if isinstance(value, Array) else record[name]
        return ordered

    def value(self, value: Any) -> Any:
        return [self.scalar(each) for each in value] if isinstance(value, list) else self.scalar(value)

    def scalar(self, value: Any) -> Any:
        if isinstance(value, dict):
            if set(value) != {"bytes"}:
                raise ValueError
            offset, length = _list(value["bytes"])
            return bytes(self.take(offset, length))
        return _number(value)


def _padded(length: int) -> int:
    return -(-length // _ALIGN) * _ALIGN


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _number(value: Any) -> Any:
    if isinstance(value, int) and value not in _WIRE_INTEGERS:
        raise ValueError
    return value


def _list(value: Any) -> Any:
    # A text or an object could be unpacked too.
    return _of(value, list)


def _of(value: Any, *kinds: type) -> Any:
    # A bool is an int to Python and not to anybody else.
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError
    return value
