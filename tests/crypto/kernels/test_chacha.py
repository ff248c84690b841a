"""Streams of ChaCha20: the standard's vectors, another implementation, any length, words, signs, threads and places."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels.chacha import STRIPE, Streams, keystream_reference
from crypto.kernels.compiled import PORTABLE
from crypto.kernels.keystream import PIECE

ROOT = Path(__file__).parents[3]
KEY = st.binary(min_size=44, max_size=44)
WORDS = st.sampled_from(["uint32", "uint64"])


def words_of(key: bytes, length: int, dtype: str, block: int = 0) -> Any:
    return np.frombuffer(keystream_reference(key, length * np.dtype(dtype).itemsize, block), dtype=dtype)


def stream(key: bytes, size: int, first: int = 0) -> bytes:
    vector = np.zeros(size // 4, dtype=np.uint32)
    Streams([key]).add(vector, first=first)
    return vector.tobytes()


# RFC 8439, section 2.3.2, and the key stream of section 2.4.2.
BLOCK = """
10f1e7e4 d13b5915 500fdd1f a32071c4 c7d1f4c7 33c06803 0422aa9a c3d46c4e
d2826446 079faa09 14c2d705 d98b02a2 b5129cd1 de164eb9 cbd083e8 a2503c4e
"""
SUNSCREEN = """
224f51f3 401bd9e1 2fde276f b8631ded 8c131f82 3d2c06e2 7e4fcaec 9ef3cf78
8a3b0aa3 72600a92 b57974cd ed2b9334 794cba40 c63e34cd ea212c4c f07d41b7
69a6749f 3f630f41 22cafe28 ec4dc47e 26d4346d 70b98c73 f3e9c53a c40c5945
398b6eda 1a832c89 c167eacd 901d7e2b f363
"""


@pytest.mark.parametrize(
    ("nonce", "expected"), [("000000090000004a00000000", BLOCK), ("000000000000004a00000000", SUNSCREEN)]
)
def test_vectors_of_the_standard(nonce: str, expected: str) -> None:
    # Both begin with block 1.
    found = stream(bytes(range(32)) + bytes.fromhex(nonce), 192)[64:]
    assert found.startswith(bytes.fromhex(expected))


def test_the_vector_of_a_key_of_zeros() -> None:
    # RFC 8439, appendix A.1, vectors 1 and 2.
    assert stream(bytes(44), 16).hex() == "76b8e0ada0f13d90405d6ae55386bd28"
    assert stream(bytes(44), 16, 16).hex() == "9f07e7be5551387a98ba977c732d080d"


@settings(deadline=None)
@given(st.lists(st.tuples(KEY, st.booleans()), min_size=1, max_size=4), st.integers(0, 3000), WORDS)
def test_a_vector_gets_the_sum_of_all_streams_with_their_signs(
    streams: list[tuple[bytes, bool]], length: int, dtype: str
) -> None:
    start = np.arange(length, dtype=dtype) * 7
    expected = start.copy()
    for key, minus in streams:
        words = words_of(key, length, dtype)
        expected = expected - words if minus else expected + words
    vector = start.copy()
    Streams([key for key, _ in streams]).add(vector, np.array([minus for _, minus in streams]))
    assert np.array_equal(vector, expected)


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
@pytest.mark.parametrize("size", [0, 64, STRIPE, STRIPE + 64, PIECE, 2 * PIECE, 2 * PIECE + 72, 2**18 + 8])
def test_streams_go_on_over_stripes_and_pieces(size: int, dtype: str) -> None:
    key = bytes(range(44))
    for length in range(max(0, size // np.dtype(dtype).itemsize - 1), size // np.dtype(dtype).itemsize + 2):
        vector = np.zeros(length, dtype=dtype)
        Streams([key]).add(vector)
        assert np.array_equal(vector, words_of(key, length, dtype))


@settings(deadline=None)
@given(st.integers(0, 2**26), st.integers(0, 600), WORDS)
def test_a_part_of_a_stream_is_what_stands_there_in_the_whole(block: int, length: int, dtype: str) -> None:
    key, vector = bytes(range(44)), np.zeros(length, dtype)
    Streams([key]).add(vector, first=block * 64 // vector.itemsize)
    assert np.array_equal(vector, words_of(key, length, dtype, block))


def test_the_last_blocks_of_a_stream_are_made_and_none_behind() -> None:
    key, end = bytes(range(44)), 2**32 * 16
    assert stream(key, 128, end - 32) == keystream_reference(key, 128, 2**32 - 2)
    with pytest.raises(ValueError, match="pass the end of a stream"):
        stream(key, 132, end - 32)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_change_nothing(threads: int) -> None:
    streams = Streams([bytes([number] * 44) for number in range(3)])
    one, many = np.zeros(5 * PIECE + 3, dtype=np.uint32), np.zeros(5 * PIECE + 3, dtype=np.uint32)
    streams.add(one)
    streams.add(many, threads=threads)
    assert np.array_equal(one, many)


def test_nothing_beside_the_vector_changes_and_it_may_begin_anywhere() -> None:
    room = np.zeros(STRIPE + 9, dtype=np.uint32)
    Streams([bytes(44)]).add(room[3:-5])
    assert not room[:3].any() and not room[-5:].any()
    assert np.array_equal(room[3:-5], words_of(bytes(44), STRIPE + 1, "uint32"))


def test_keys_show_in_no_repr() -> None:
    assert repr(Streams([b"k" * 44])) == "Streams(1, keys=<hidden>)"


@pytest.mark.parametrize("size", [0, 28, 32, 43, 45])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"44 bytes of key and nonce, not {size}"):
        Streams([bytes(size)])


@pytest.mark.parametrize(
    "vector",
    [np.zeros(4, np.int32), np.zeros(4, np.uint16), np.zeros((2, 2), np.uint32), np.zeros(8, np.uint32)[::2]],
)
def test_a_vector_of_another_form_is_refused(vector: Any) -> None:
    with pytest.raises(ValueError, match="contiguous vectors of uint32 or uint64"):
        Streams([bytes(44)]).add(vector)


@pytest.mark.parametrize(("dtype", "first"), [("uint32", -16), ("uint32", 8), ("uint64", 4), ("uint64", 1)])
def test_a_vector_that_begins_inside_a_block_is_refused(dtype: str, first: int) -> None:
    with pytest.raises(ValueError, match="allowed are multiples of"):
        Streams([bytes(44)]).add(np.zeros(3, dtype), first=first)


def test_signs_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="for 2 streams"):
        Streams([bytes(44)] * 2).add(np.zeros(3, np.uint32), np.array([True]))


SAME = """
import hashlib, numpy as np
from crypto.kernels.chacha import LANES, Streams
from crypto.quantisation import FixedPoint, quantise
state = hashlib.sha256()
for dtype in ("uint32", "uint64"):
    vector = np.arange(9001, dtype=dtype)
    Streams([bytes([n] * 44) for n in range(3)]).add(vector, np.array([False, True, False]))
    state.update(vector)
form, values = FixedPoint(1.0, 10, 7), np.linspace(-2, 2, 5001).astype("f4")
vector, clipped = quantise(values, form, weight=3, seed=bytes(44), cipher="chacha20")
state.update(vector); state.update(bytes([clipped % 256]))
print(LANES, state.hexdigest())
"""


@pytest.mark.slow
def test_the_portable_path_gives_the_same_bytes() -> None:
    told = []
    for portable in ("0", "1"):
        environment = {**os.environ, PORTABLE: portable, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(
            [sys.executable, "-c", SAME], env=environment, capture_output=True, text=True, check=True
        )
        told.append(ended.stdout.split())
    assert told[1][0] == "4"
    assert told[0][1] == told[1][1]
