"""Messages arrive whole, once and in order, in bounded memory; anything else is refused with the step's name."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.channel import recv_array
from crypto.errors import ProtocolError
from fedcore.errors import PeerLost
from fedcore.peer.link import Ended, FrameQueue, Settings
from fedcore.peer.memory import MemoryChannel
from tests.fedcore.peer.parties import both, frame_of, in_thread, is_told, raw


def pair(**changed):
    return MemoryChannel.pair(
        names=("anna", "bert"), settings=Settings(**{"part": 1000, "window": 2, **changed})
    )


# ---- messages --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    messages=st.lists(st.binary(max_size=400), max_size=8),
    part=st.integers(1, 100),
    window=st.integers(1, 3),
)
def test_messages_arrive_whole_once_and_in_order(messages, part, window) -> None:
    one, other = pair(part=part, window=window)

    def send() -> None:
        for number, message in enumerate(messages):
            one.send(f"step.{number}", message)

    _, came = both(
        send,
        lambda: [bytes(other.recv(f"step.{n}", size=len(m))) for n, m in enumerate(messages)],
    )
    assert came == messages
    assert one.counters.sent.bytes == other.counters.received.bytes == sum(map(len, messages))
    assert one.counters.sent.messages == other.counters.received.messages == len(messages)
    assert one.counters.sent.frame_bytes == other.counters.received.frame_bytes
    assert one.link.outgoing.highest <= window


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 999, 1000, 1001, 2000, 4095])
def test_a_message_of_any_length_arrives(length) -> None:
    one, other = pair(window=8)
    message = bytes(i % 251 for i in range(length))
    one.send("x", message)
    assert bytes(other.recv("x", limit=length)) == message


@pytest.mark.parametrize(
    "array",
    [
        np.arange(600, dtype=np.uint64).reshape(300, 2),
        np.empty((0, 2), dtype=np.uint64),
        np.arange(5, dtype=">u4"),
        np.zeros(3, dtype=[("a", "u1"), ("b", "u8")]),
        np.array(7, dtype=np.int32),
    ],
    ids=["two columns", "empty", "swapped", "structured", "one number"],
)
def test_arrays_arrive_as_they_are(array) -> None:
    one, other = pair(window=8)
    one.send("x", array)
    came = recv_array(other, "x", array.dtype, *array.shape)
    assert came.tobytes() == array.tobytes() and came.shape == array.shape
    assert came.flags.aligned or array.dtype.names


@pytest.mark.parametrize(
    "data", [bytearray(b"abc"), memoryview(b"abc"), memoryview(np.arange(3, dtype="u1"))]
)
def test_any_contiguous_bytes_can_be_sent(data) -> None:
    one, other = pair()
    one.send("x", data)
    assert bytes(other.recv("x", size=3)) == bytes(data)


@pytest.mark.parametrize("data", [np.zeros((4, 4))[:, 1], memoryview(b"abcdef")[::2]])
def test_what_is_not_contiguous_is_refused(data) -> None:
    with pytest.raises(ValueError, match="contiguous"):
        pair()[0].send("x", data)


def test_a_sender_may_reuse_its_memory_at_once() -> None:
    one, other = pair(window=8)
    data = np.ones(1500, dtype=np.uint8)
    one.send("x", data)
    data[:] = 2
    assert set(other.recv("x", size=1500)) == {1}


# ---- bounds ----------------------------------------------------------------------------------------------------


def test_a_message_much_larger_than_the_window_passes_in_bounded_memory() -> None:
    one, other = pair(part=1000, window=2)
    message = np.arange(500_000, dtype=np.uint64)
    _, came = both(lambda: one.send("x", message), lambda: recv_array(other, "x", np.uint64, 500_000))
    assert np.array_equal(came, message)
    assert one.link.outgoing.highest == 2
    assert one.counters.sent.waited > 0


def test_a_sender_waits_until_the_other_takes_its_frames() -> None:
    one, other = pair(part=10, window=2)
    sending = in_thread(lambda: one.send("x", bytes(100)))
    sending.join(0.2)
    assert sending.is_alive() and one.counters.sent.messages == 0
    other.recv("x", size=100)
    sending.join(10)
    assert one.counters.sent.messages == 1


@pytest.mark.parametrize("bound", [{"size": 7}, {"limit": 7}])
def test_a_length_that_is_not_allowed_is_refused_before_memory_is_taken(bound, monkeypatch) -> None:
    one, other = pair()
    raw(one, frame_of(one, "x", b"12345678", total=2**60, last=False))
    monkeypatch.setattr(np, "empty", lambda *_, **__: pytest.fail("memory was taken"))
    with pytest.raises(ProtocolError, match=str(2**60)) as caught:
        other.recv("x", **bound)
    assert caught.value.step == "x"


@pytest.mark.parametrize("bounds", [{}, {"size": 1, "limit": 1}])
def test_a_receiver_gives_one_bound(bounds) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        pair()[0].recv("x", **bounds)


# ---- frames that do not fit ------------------------------------------------------------------------------------


def wrong_frames(channel) -> dict[str, list[bytes]]:
    fine = frame_of(channel, "x", b"1234")
    begun = frame_of(channel, "x", b"12", total=4, last=False)

    def second(part: bytes, step: str = "x", **changed):
        return frame_of(channel, step, part, **{"number": channel._next_out + 1, "total": 4, **changed})

    return {
        "one was lost": [frame_of(channel, "x", b"1234", number=channel._next_out + 1)],
        "repeated": [begun, begun],
        "overtaken": [second(b"34"), begun],
        "another session": [frame_of(channel, "x", b"1234", session=bytes(16))],
        "a message for y came": [frame_of(channel, "y", b"1234")],
        "for y": [begun, second(b"34", step="y")],
        "and then with 5": [begun, second(b"34", total=5)],
        "its last frame is there": [begun, second(b"3")],
        "its last frame is to come": [begun, second(b"34", last=False)],
        "5 bytes of a message of 4": [begun, second(b"345")],
        "no frame": [b"\xff" * len(fine)],
        "should have": [fine[:-1]],
        "cut off": [fine[:10]],
    }


@pytest.mark.parametrize("says", list(wrong_frames(MemoryChannel.pair()[0])))
def test_a_frame_that_does_not_fit_is_refused_and_ends_the_channel(says) -> None:
    one, other = pair(window=4)
    one.send("before", b"!")
    other.recv("before", size=1)
    for frame in wrong_frames(one)[says]:
        raw(one, frame)
    with pytest.raises(ProtocolError, match=says) as caught:
        other.recv("x", size=4)
    assert caught.value.step == "x"
    with pytest.raises(PeerLost, match="wrong frame"):
        other.recv("x", size=4)
    with pytest.raises(PeerLost):
        one.send("z", b"")


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_random_frames_never_pass_for_a_message(data) -> None:
    one, other = pair(window=8, silence=0.05)
    fine = frame_of(one, "x", b"1234")
    at = data.draw(st.integers(0, len(fine) - 5))
    spoilt = bytearray(fine)
    spoilt[at] ^= data.draw(st.integers(1, 255))
    raw(one, bytes(spoilt))
    with pytest.raises((ProtocolError, PeerLost)) as caught:
        other.recv("x", size=4)
    assert caught.value.step == "x"


# ---- the end ---------------------------------------------------------------------------------------------------


def test_what_was_sent_before_a_close_still_arrives_and_then_the_party_is_lost() -> None:
    one, other = pair()
    with one:
        one.send("x", b"last words")
    assert bytes(other.recv("x", size=10)) == b"last words"
    with pytest.raises(PeerLost, match="closed") as caught:
        other.recv("y", size=1)
    assert (caught.value.party, caught.value.step) == ("anna", "y")
    with pytest.raises(PeerLost):
        other.send("y", b"")


def test_an_error_of_one_side_ends_the_other() -> None:
    one, other = pair()

    def fail() -> None:
        with one:
            one.send("x", b"!")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(PeerLost, match="its own error says why") as caught:
        other.recv("x", size=1)
    assert caught.value.party == "anna"


def test_a_sender_that_waits_learns_that_the_other_is_gone() -> None:
    one, other = pair(part=1, window=1)
    sending = in_thread(is_told(lambda: one.send("x", bytes(100))))
    other.close()
    sending.join(10)
    assert not sending.is_alive()


def test_a_deadline_names_the_party_and_the_step() -> None:
    one, _ = pair()
    with pytest.raises(PeerLost, match="deadline") as caught:
        one.recv("vole.trees", size=1, deadline=0.05)
    assert (caught.value.party, caught.value.step) == ("bert", "vole.trees")


def test_a_deadline_is_for_the_whole_message() -> None:
    one, other = pair()
    raw(one, frame_of(one, "x", b"1", total=2, last=False))
    with pytest.raises(PeerLost, match="deadline"):
        other.recv("x", size=2, deadline=0.05)


def test_a_party_that_is_silent_for_too_long_is_lost_both_ways() -> None:
    one, other = pair(part=1, window=1, silence=0.05)
    with pytest.raises(PeerLost, match="in time"):
        one.recv("x", size=1)
    one, other = pair(part=1, window=1, silence=0.05)
    with pytest.raises(PeerLost, match="it may be sending too"):
        one.send("x", b"123")
    assert other.link.incoming.highest == 1


def test_one_that_takes_nothing_is_lost_though_it_may_be_silent_for_long() -> None:
    one, other = pair(part=1, window=1, silence=60, room=0.05)
    with pytest.raises(PeerLost, match=r"took nothing of what was sent for 0\.05 s"):
        one.send("x", b"123")
    with pytest.raises(PeerLost):
        other.recv("y", size=1)


def test_pieces_arrive_as_one_message() -> None:
    one, other = pair(part=3, window=8)
    one.send_pieces("x", [b"12", np.arange(2, dtype="<u2"), b"", memoryview(b"567")])
    one.send_pieces("x", [])
    assert bytes(other.recv("x", size=9)) == b"12\x00\x00\x01\x00567"
    assert bytes(other.recv("x", size=0)) == b""
    sent = one.counters.sent
    assert (sent.messages, sent.bytes) == (2, 9) and sent.frame_bytes == other.counters.received.frame_bytes


def test_a_queue_that_ended_gives_what_it_holds_and_then_the_first_reason() -> None:
    queue = FrameQueue(2)
    queue.put(b"1", None)
    queue.end(Ended("first"))
    queue.end(Ended("second"))
    assert queue.get(None) == b"1"
    for use in (lambda: queue.get(None), lambda: queue.put(b"2", None)):
        with pytest.raises(Ended, match="first"):
            use()
    assert queue.get_waited == 0.0
    with pytest.raises(TimeoutError):
        FrameQueue(1).get(time.monotonic())


def test_a_party_can_see_that_the_other_is_gone_without_waiting_for_it() -> None:
    one, other = pair()
    assert one.gone is None and other.gone is None
    one.send("x", b"1")
    one.abort()
    assert one.gone == "it was stopped here"
    assert other.gone is not None and "in the middle" in other.gone


def test_a_queue_says_whether_it_has_ended() -> None:
    queue = FrameQueue(2)
    assert queue.ended is None
    queue.end(Ended("gone home"))
    assert queue.ended == "gone home"
