"""Two sides that differ find out in the first message, with both values named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crypto.errors import ProtocolError
from fedcore.peer.handshake import LIMIT, Hello, decode, encode, shake_hands
from fedcore.peer.memory import MemoryChannel
from tests.fedcore.peer.parties import both, vectors

VECTORS = vectors("hello")
MINE = Hello(**VECTORS["mine"])
THEIRS = replace(MINE, role="sender")


def test_two_sides_that_agree_learn_what_the_other_said() -> None:
    one, other = MemoryChannel.pair()
    told = both(
        lambda: shake_hands(one, MINE, peer_role="sender"),
        lambda: shake_hands(other, THEIRS, peer_role="receiver"),
    )
    assert told == (THEIRS, MINE)


def test_the_good_vector_is_written_and_read() -> None:
    assert encode(THEIRS) == VECTORS["good"].encode()
    assert decode(VECTORS["good"].encode(), MINE) == THEIRS


@pytest.mark.parametrize("one", VECTORS["bad"], ids=lambda one: one["name"])
def test_a_bad_vector_is_refused_with_both_values(one) -> None:
    here, there = MemoryChannel.pair()
    there.send("hello", one["text"].encode())
    with pytest.raises(ProtocolError, match=one["says"]) as caught:
        shake_hands(here, MINE, peer_role="sender")
    assert caught.value.step == "hello"


def test_a_long_hello_is_neither_taken_nor_sent() -> None:
    here, there = MemoryChannel.pair()
    there.send("hello", bytes(LIMIT + 1))
    with pytest.raises(ProtocolError, match="at most 16384"):
        shake_hands(here, MINE, peer_role="sender")
    with pytest.raises(ValueError, match="fewer options"):
        encode(replace(MINE, options={"x": "y" * LIMIT}))
