"""A frame is read in one way only, and nothing else is a frame."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from fedcore.peer.frames import MAX_FRAME, MAX_HEADER, check_step, header, parse, session_id, split
from fedcore.peer.link import MAX_PART, Settings
from tests.fedcore.peer.parties import vectors

VECTORS = vectors("frames")
ID = session_id(VECTORS["session name"])
STEPS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)


@pytest.mark.parametrize("one", VECTORS["good"], ids=lambda one: one["name"])
def test_a_good_vector_is_read_and_written_the_same(one) -> None:
    raw = bytes.fromhex(one["hex"])
    found = parse(raw, "anything")
    assert found.session == ID == bytes.fromhex(one["session"])
    assert (found.step, found.number, found.total) == (one["step"], one["number"], one["total"])
    assert found.last is one["last"] and bytes(found.part) == bytes.fromhex(one["part"])
    part = found.part
    head = header(ID, found.step, found.number, found.total, part.nbytes, last=found.last)
    assert head + bytes(part) == raw


@pytest.mark.parametrize("one", VECTORS["bad"], ids=lambda one: one["name"])
def test_a_bad_vector_is_refused_with_the_step_and_the_reason(one) -> None:
    with pytest.raises(ProtocolError, match=one["says"]) as caught:
        parse(bytes.fromhex(one["hex"]), "vole.trees")
    assert caught.value.step == "vole.trees"


@settings(deadline=None)
@given(
    step=STEPS,
    pieces=st.lists(st.binary(max_size=150), max_size=4),
    size=st.integers(1, 100),
    first=st.integers(0, 2**40),
)
@example(step="x", pieces=[b""], size=1, first=0)
@example(step="x", pieces=[b"1234"], size=2, first=0)
@example(step="x", pieces=[b"123", b"", b"4"], size=2, first=0)
def test_what_was_split_is_the_message(step, pieces, size, first) -> None:
    message = b"".join(pieces)
    views = [memoryview(piece) for piece in pieces]
    frames = [parse(b"".join((head, *part)), step) for head, part in split(ID, step, first, views, size)]
    assert b"".join(bytes(frame.part) for frame in frames) == message
    assert [frame.number for frame in frames] == list(range(first, first + len(frames)))
    assert [frame.last for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert all(frame.total == len(message) and frame.step == step for frame in frames)
    assert len(frames) == max(1, -(-len(message) // size))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes_are_no_frame(data) -> None:
    with pytest.raises(ProtocolError):
        parse(data, "vole.trees")


@settings(deadline=None, max_examples=300)
@given(at=st.integers(0, 57), value=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_reads_differently(at, value) -> None:
    whole = header(ID, "vole.trees", 5, 4, 4, last=True) + b"1234"
    spoilt = whole[:at] + bytes([value]) + whole[at + 1 :]
    if spoilt == whole:
        return
    try:
        found = parse(spoilt, "vole.trees")
    except ProtocolError:
        return
    assert found != parse(whole, "vole.trees")


@settings(deadline=None)
@given(cut=st.integers(0, 57))
def test_a_truncated_frame_is_refused(cut) -> None:
    whole = header(ID, "vole.trees", 5, 4, 4, last=True) + b"1234"
    assert len(whole) == 58
    with pytest.raises(ProtocolError):
        parse(whole[:cut], "vole.trees")


def test_no_frame_is_longer_than_four_mebibytes() -> None:
    largest = header(ID, "s" * 64, 0, MAX_PART, MAX_PART, last=True) + bytes(MAX_PART)
    assert len(largest) == MAX_FRAME - 16 and parse(largest, "s").last
    part = MAX_FRAME + 1 - MAX_HEADER
    with pytest.raises(ProtocolError, match=f"{MAX_FRAME + 1} bytes came; allowed are {MAX_FRAME}"):
        parse(header(ID, "s" * 64, 0, part, part, last=True) + bytes(part), "s")


@pytest.mark.parametrize("name", ["", "a\nb", "ä", " a", "a" * 201])
def test_a_session_without_a_proper_name_is_refused(name) -> None:
    with pytest.raises(ValueError, match="no name for a session"):
        session_id(name)


@pytest.mark.parametrize("name", ["", "a b", "ü", "a\n", "a" * 65])
def test_a_step_without_a_proper_name_is_refused(name) -> None:
    with pytest.raises(ValueError, match="cannot name a step"):
        check_step(name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"part": 0},
        {"part": MAX_PART + 1},
        {"window": 0},
        {"silence": 0.0},
        {"answer": float("nan")},
        {"room": 0.0},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        Settings(**wrong)
