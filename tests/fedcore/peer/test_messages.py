"""Flower messages over a channel: what arrives is what Flower's own wire format would bring, and nothing else passes."""

from __future__ import annotations

import copy
import json
from functools import reduce
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, Metadata, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from crypto.errors import ProtocolError
from fedcore.errors import PeerLost
from fedcore.flower import array_record, message_of, through_the_wire
from fedcore.peer import messages
from fedcore.peer.memory import MemoryChannel
from tests.fedcore.peer.parties import SMALL, both, direct, vectors

VECTORS = vectors("messages")
METADATA = VECTORS["metadata"]
NAMED = {"good": {one["name"]: one for one in VECTORS["good"]}}


def head_of(one: dict[str, Any]) -> dict[str, Any]:
    """A good vector's head; most share their metadata."""
    return {**one["head"], "metadata": dict(one["head"]["metadata"] or METADATA)}


def read(raw: bytes, body: bytes) -> Message:
    """As `receive` would, once both have come."""
    head = messages.parse(raw)
    return messages.decode(head, memoryview(bytearray(body)))


def message(content: RecordDict | None = None, error: Error | None = None) -> Message:
    return message_of(Metadata(**METADATA), content=content, error=error)


def same(one: Message, other: Message) -> None:
    """Equal to the last bit, NaN included, in the same order."""
    for name in METADATA:
        assert getattr(one.metadata, name) == getattr(other.metadata, name), name
    assert one.has_error() == other.has_error()
    if one.has_error():
        assert (one.error.code, one.error.reason or "") == (other.error.code, other.error.reason or "")
        return
    assert list(one.content) == list(other.content)
    for name, record in one.content.items():
        twin = other.content[name]
        assert type(record) is type(twin) and list(record) == list(twin)
        for key, value in record.items():
            if isinstance(value, Array):
                same_array(value, twin[key])
            else:
                assert repr(value) == repr(twin[key])


def same_array(one: Array, other: Array) -> None:
    assert (one.dtype, tuple(one.shape), one.stype) == (other.dtype, tuple(other.shape), other.stype)
    if one.stype != "numpy.ndarray":
        assert one.data == other.data
        return
    left, right = one.numpy(), other.numpy()
    assert left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


# ---- vectors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", VECTORS["good"], ids=lambda one: one["name"])
def test_a_good_vector_is_read_and_written_again_as_it_was(one) -> None:
    head, body = head_of(one), bytes.fromhex(one["body"])
    again, parts = messages.encode(read(json.dumps(head).encode(), body))
    # As text: NaN is not equal to itself.
    assert repr(json.loads(again)) == repr(
        {key: head[key] for key in ("version", "metadata", "error", "body", "content")}
    )
    assert b"".join(parts) == body


@pytest.mark.parametrize("one", VECTORS["bad"], ids=lambda one: one["name"])
def test_a_bad_vector_is_refused_with_the_step_and_the_reason(one) -> None:
    if "raw" in one:
        raw, body = one["raw"].encode(errors="surrogateescape"), b""
    else:
        good = NAMED["good"][one["of"]]
        head = copy.deepcopy(head_of(good))
        for path, *value in one.get("changes", []):
            holder = reduce(lambda found, key: found[key], path[:-1], head)
            if value:
                holder[path[-1]] = value[0]
            else:
                del holder[path[-1]]
        raw, body = json.dumps(head).encode(), bytes.fromhex(one.get("body", good["body"]))
    with pytest.raises(ProtocolError, match=one["says"]) as caught:
        read(raw, body)
    assert caught.value.step == messages.STEP
    # Flower's own errors quote what is wrong; a log of the other side must not.
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"version": 1' + b"0" * 5000 + b"}", b"\xff\xfe"])
def test_a_head_that_no_reader_should_try_is_refused(raw) -> None:
    with pytest.raises(ProtocolError, match="not the head"):
        messages.parse(raw)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_random_bytes_are_no_head(raw) -> None:
    with pytest.raises(ProtocolError):
        messages.parse(raw)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_head_with_one_value_replaced_is_refused_or_reads_as_a_message(data) -> None:
    one = data.draw(st.sampled_from(VECTORS["good"]))
    head = copy.deepcopy(head_of(one))
    holder: Any = head
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(holder[key], dict | list) or not holder[key] or data.draw(st.booleans()):
            break
        holder = holder[key]
    holder[key] = data.draw(
        st.sampled_from(
            [None, True, -1, 0, 2**70, 0.5, "", "O", [], [[]], {}, {"bytes": [0, 1]}, [-1], "torch"]
        )
    )
    try:
        found = read(json.dumps(head).encode(), bytes.fromhex(one["body"]))
    except ProtocolError:
        return
    messages.encode(found)


# ---- against Flower's own wire ----------------------------------------------------------------------------------

DTYPES = ["<f4", "<f8", "<f2", ">f4", ">f8", "<i8", ">i4", "|i1", "|u1", "<u2", "<u8", "|b1", "<c8", ">c16"]
NAMES = st.text(max_size=8).filter(lambda text: text.isprintable())
WHOLE = st.integers(-(2**63), 2**63 - 1)
REAL = st.floats(allow_nan=True, allow_infinity=True)
NUMBERS = WHOLE | REAL | st.lists(WHOLE, max_size=3) | st.lists(REAL, max_size=3)
OTHERS = (st.text(max_size=8), st.booleans(), st.binary(max_size=130))
SETTINGS = NUMBERS | st.one_of(*OTHERS) | st.one_of(*(st.lists(each, max_size=3) for each in OTHERS))
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(np.dtype(dtype), SHAPES))
RECORDS = (
    st.dictionaries(NAMES, ARRAYS, max_size=3).map(array_record)
    | st.dictionaries(NAMES, NUMBERS, max_size=3).map(MetricRecord)
    | st.dictionaries(NAMES, SETTINGS, max_size=3).map(ConfigRecord)
)
CONTENTS = st.dictionaries(NAMES, RECORDS, max_size=4).map(RecordDict)


@settings(deadline=None, max_examples=150)
@given(CONTENTS)
def test_a_message_arrives_as_it_would_over_flowers_own_wire(content) -> None:
    sent = message(content)
    head, parts = messages.encode(sent)
    arrived = read(head, b"".join(parts))
    same(arrived, sent)
    same(arrived, through_the_wire(sent))


@given(st.integers(-(2**31), 2**31 - 1), st.text(max_size=20))
def test_an_error_arrives_as_it_would_over_flowers_own_wire(code, reason) -> None:
    sent = message(error=Error(code, reason))
    head, parts = messages.encode(sent)
    assert parts == []
    same(read(head, b""), through_the_wire(sent))


def test_arrays_of_another_kind_and_numpy_arrays_keep_their_order() -> None:
    record = ArrayRecord()
    record["first"] = Array("bfloat16", (2,), "torch.tensor", b"abcd")
    record["second"] = Array(np.arange(3.0))
    record["third"] = Array("x", (0,), "torch.tensor", b"")
    sent = message(RecordDict({"arrays": record}))
    head, parts = messages.encode(sent)
    same(read(head, b"".join(parts)), sent)


# ---- what is sent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["O", "U4", "S4", "V8", "M8[s]"])
def test_an_array_of_anything_but_numbers_is_not_sent_and_is_named(dtype) -> None:
    content = RecordDict({"arrays": array_record({"names": np.zeros(2, dtype)})})
    with pytest.raises(ValueError, match="'names' has dtype"):
        messages.encode(message(content))


def test_a_message_too_long_is_not_sent(monkeypatch) -> None:
    monkeypatch.setattr(messages, "HEAD_LIMIT", 1000)
    messages.encode(message(RecordDict({"m": MetricRecord({"n": [1] * 200})})))
    with pytest.raises(ValueError, match="allowed are 1000"):
        messages.encode(message(RecordDict({"m": MetricRecord({"n": [1] * 2000})})))
    monkeypatch.setattr(messages, "BODY_LIMIT", 64)
    with pytest.raises(ValueError, match="a body of 128 bytes"):
        messages.encode(message(RecordDict({"a": array_record({"x": np.zeros(9)})})))


def test_arrays_are_sent_from_where_they_lie_and_used_where_they_arrive() -> None:
    here = np.arange(1000.0)
    head, parts = messages.encode(message(RecordDict({"arrays": array_record({"x": here, "y": here[:3]})})))
    assert all(np.shares_memory(np.frombuffer(part, np.uint8), here) for part in parts if part.nbytes > 64)
    body = memoryview(bytearray(b"".join(parts)))
    arrived = messages.decode(messages.parse(head), body).content.array_records["arrays"]
    for array in arrived.values():
        assert np.shares_memory(array.numpy(), np.frombuffer(body, np.uint8))
        assert not array.numpy().flags.writeable


def test_rows_that_do_not_follow_one_another_arrive_in_order() -> None:
    held = np.arange(12).reshape(3, 4)
    content = RecordDict({"arrays": array_record({"turned": held.T, "every other": held[:, ::2]})})
    head, parts = messages.encode(message(content))
    same(read(head, b"".join(parts)), message(content))


# ---- over a channel ----------------------------------------------------------------------------------------------


def test_messages_follow_one_another_over_a_real_connection() -> None:
    anna, bert = direct()
    sent = [
        message(RecordDict({"arrays": array_record({"x": np.random.default_rng(n).normal(size=(n, 7))})}))
        for n in (0, 1, 500)
    ]
    sent.append(message(error=Error(3, "why")))

    def first() -> None:
        with anna:
            for each in sent:
                messages.send(anna, each)

    def second() -> None:
        with bert:
            for each in sent:
                same(messages.receive(bert), each)

    both(first, second)


def test_a_head_too_long_is_refused_before_it_is_read(monkeypatch) -> None:
    monkeypatch.setattr(messages, "HEAD_LIMIT", 100)
    anna, bert = MemoryChannel.pair("s", settings=SMALL)
    anna.send(messages.STEP, bytes(101))
    with pytest.raises(ProtocolError, match="at most 100"):
        messages.receive(bert)
    with pytest.raises(PeerLost):
        anna.recv("x", size=1)


def test_a_body_of_another_length_than_announced_is_refused() -> None:
    anna, bert = MemoryChannel.pair("s", settings=SMALL)
    head, parts = messages.encode(message(RecordDict({"a": array_record({"x": np.zeros(9)})})))
    anna.send(messages.STEP, head)
    anna.send_pieces(messages.STEP, [*parts, memoryview(bytes(64))])
    with pytest.raises(ProtocolError, match="192 bytes was announced where 128"):
        messages.receive(bert)
