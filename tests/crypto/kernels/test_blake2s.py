"""BLAKE2s against hashlib."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels import blake2s
from crypto.psi.spans import fixed

PERSON = b"fc-psi-1"


def digests(pieces: list[bytes], head: int = -1, before: bytes = b"", person: bytes = PERSON) -> list[bytes]:
    """What the kernel makes of pieces that lie one behind the other in one buffer, behind `before`."""
    data = np.frombuffer(before + b"".join(pieces), dtype=np.uint8)
    ends = np.cumsum([len(before), *map(len, pieces)], dtype=np.int64)
    out = np.empty((len(pieces), 2), dtype=np.uint64)
    blake2s.hash_spans(
        fixed(blake2s.start(16, person)), head, fixed(data), fixed(ends[:-1]), fixed(ends[1:]), out
    )
    return [row.astype("<u8").tobytes() for row in out]


def expected(message: bytes, person: bytes = PERSON) -> bytes:
    return hashlib.blake2s(message, digest_size=16, person=person).digest()


def framed(head: int, piece: bytes) -> bytes:
    return head.to_bytes(2, "little") + len(piece).to_bytes(4, "little") + piece


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 31, 32, 33, 100])
def test_any_number_of_messages_fills_the_lanes(count: int) -> None:
    pieces = [f"message {i}".encode() for i in range(count)]
    assert digests(pieces) == [expected(piece) for piece in pieces]


@pytest.mark.parametrize("before", [b"", b"1", b"1234567", b"12345678"])
def test_every_length_about_the_blocks_bounds_is_hashed_rightly(before: bytes) -> None:
    pieces = [bytes((7 * i + length) % 256 for i in range(length)) for length in range(200)]
    assert digests(pieces, before=before) == [expected(piece) for piece in pieces]
    assert digests(pieces, 0x7301, before) == [expected(framed(0x7301, piece)) for piece in pieces]


@settings(deadline=None)
@given(pieces=st.lists(st.binary(max_size=300), max_size=40), head=st.integers(-1, 2**16 - 1))
def test_messages_of_mixed_lengths_equal_hashlib(pieces: list[bytes], head: int) -> None:
    messages = pieces if head < 0 else [framed(head, piece) for piece in pieces]
    assert digests(pieces, head) == [expected(message) for message in messages]


def test_a_long_message_among_short_ones_changes_none_of_them() -> None:
    pieces = [b"short"] * 20 + [b"x" * 100_000] + [b"", b"end"]
    assert digests(pieces) == [expected(piece) for piece in pieces]


def test_spans_may_overlap_and_lie_in_any_order() -> None:
    data = np.arange(256, dtype=np.uint8)
    starts = np.array([200, 0, 100, 0, 255], dtype=np.int64)
    ends = np.array([256, 256, 101, 0, 256], dtype=np.int64)
    out = np.empty((5, 2), dtype=np.uint64)
    blake2s.hash_spans(fixed(blake2s.start(16, b"")), -1, fixed(data), fixed(starts), fixed(ends), out)
    assert [row.tobytes() for row in out] == [
        expected(data[start:end].tobytes(), b"") for start, end in zip(starts, ends, strict=True)
    ]


@given(person=st.binary(max_size=8))
@settings(deadline=None, max_examples=20)
def test_personalisation_of_fewer_than_eight_bytes_is_filled_with_zeros(person: bytes) -> None:
    assert digests([b"abc"], person=person) == [expected(b"abc", person)]


def test_published_digest_of_abc_begins_with_these_words() -> None:
    # RFC 7693, appendix B: the first 16 of its 32 bytes, which a start for 32 bytes gives.
    data = np.frombuffer(b"abc", dtype=np.uint8)
    out = np.empty((1, 2), dtype=np.uint64)
    blake2s.hash_spans(
        fixed(blake2s.start(32, b"")), -1, fixed(data), fixed(np.array([0])), fixed(np.array([3])), out
    )
    assert out.tobytes().hex() == "508c5e8c327c14e2e1a72ba34eeb452f"


@pytest.mark.parametrize(("size", "person"), [(0, b""), (33, b""), (16, b"nine byte")])
def test_parameters_that_blake2s_has_not_are_refused(size: int, person: bytes) -> None:
    with pytest.raises(ValueError, match="BLAKE2s"):
        blake2s.start(size, person)
