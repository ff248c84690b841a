"""Streams of AES in counter mode, against another implementation: any length, words, signs, threads, and the portable path."""

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

from crypto.kernels.aes import expand_key_reference
from crypto.kernels.compiled import PORTABLE
from crypto.kernels.keystream import LANES, PIECE, VECTORS, Streams, check_words, keystream_reference

ROOT = Path(__file__).parents[3]
KEY = st.binary(min_size=28, max_size=28)
WORDS = st.sampled_from(["uint32", "uint64"])


def words_of(key: bytes, length: int, dtype: str) -> Any:
    return np.frombuffer(keystream_reference(key, length * np.dtype(dtype).itemsize), dtype=dtype)


@settings(deadline=None)
@given(st.lists(st.tuples(KEY, st.booleans()), min_size=1, max_size=4), st.integers(0, 3000), WORDS)
def test_a_vector_gets_the_sum_of_all_streams_with_their_signs(
    streams: list[tuple[bytes, bool]], length: int, dtype: str
) -> None:
    start = np.arange(length, dtype=dtype) * 7
    expected = start.copy()
    for key, minus in streams:
        expected = (
            expected - words_of(key, length, dtype) if minus else expected + words_of(key, length, dtype)
        )
    vector = start.copy()
    Streams([key for key, _ in streams]).add(vector, np.array([minus for _, minus in streams]))
    assert np.array_equal(vector, expected)


STRIPE = VECTORS * LANES * 16


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
@pytest.mark.parametrize(
    "size", [0, 16, STRIPE, STRIPE + 16, PIECE, 2 * PIECE, 2 * PIECE + 24, 2**20 + 2**16 + 8]
)
def test_streams_go_on_over_stripes_pieces_and_carries_of_the_counter(size: int, dtype: str) -> None:
    key = bytes(range(28))
    for length in range(max(0, size // np.dtype(dtype).itemsize - 1), size // np.dtype(dtype).itemsize + 2):
        vector = np.zeros(length, dtype=dtype)
        Streams([key]).add(vector)
        assert np.array_equal(vector, words_of(key, length, dtype))


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_change_nothing(threads: int) -> None:
    streams = Streams([bytes([number] * 28) for number in range(3)])
    one, many = np.zeros(5 * PIECE + 3, dtype=np.uint32), np.zeros(5 * PIECE + 3, dtype=np.uint32)
    streams.add(one)
    streams.add(many, threads=threads)
    assert np.array_equal(one, many)


def test_a_vector_need_not_begin_at_a_round_address() -> None:
    room = np.zeros(1003, dtype=np.uint32)
    Streams([bytes(28)]).add(room[3:])
    assert not room[:3].any() and np.array_equal(room[3:], words_of(bytes(28), 1000, "uint32"))


def test_nothing_beside_the_vector_changes() -> None:
    room = np.zeros(STRIPE + 9, dtype=np.uint32)
    Streams([bytes(28)]).add(room[4:-5])
    assert not room[:4].any() and not room[-5:].any() and room[4:-5].all()


@settings(deadline=None)
@given(st.lists(st.binary(min_size=16, max_size=16), max_size=5))
def test_round_keys_are_those_of_the_standard(keys: list[bytes]) -> None:
    made = Streams([key + bytes(12) for key in keys]).keys
    assert all(np.array_equal(one, expand_key_reference(key)) for one, key in zip(made, keys, strict=True))


def test_keys_show_in_no_repr() -> None:
    assert repr(Streams([b"k" * 28])) == "Streams(1, keys=<hidden>)"


@pytest.mark.parametrize("size", [0, 16, 27, 29, 32])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"28 bytes of key and nonce, not {size}"):
        Streams([bytes(size)])


@pytest.mark.parametrize(
    "vector",
    [np.zeros(4, np.int32), np.zeros(4, np.uint16), np.zeros((2, 2), np.uint32), np.zeros(8, np.uint32)[::2]],
)
def test_a_vector_of_another_form_is_refused(vector: Any) -> None:
    with pytest.raises(ValueError, match="contiguous vectors of uint32 or uint64"):
        Streams([bytes(28)]).add(vector)


def test_a_vector_longer_than_a_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="a stream has 68719476736"):
        check_words(np.lib.stride_tricks.as_strided(np.zeros(1, np.uint64), (0,), (8,)).view(_Long))


class _Long(np.ndarray[Any, Any]):
    """As long as no test's memory is."""

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        return 2**40


def test_signs_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="for 2 streams"):
        Streams([bytes(28)] * 2).add(np.zeros(3, np.uint32), np.array([True]))


SAME = """
import hashlib, numpy as np
from crypto.kernels.compiled import native
from crypto.kernels.keystream import Streams
from crypto.quantisation import FixedPoint, quantise, weighted_mean
from crypto.secagg.shamir import combine, split
state = hashlib.sha256()
for dtype in ("uint32", "uint64"):
    vector = np.arange(9001, dtype=dtype)
    Streams([bytes([n] * 28) for n in range(3)]).add(vector, np.array([False, True, False]))
    state.update(vector)
form = FixedPoint(1.0, 10, 7)
vector, clipped = quantise(np.linspace(-2, 2, 5001).astype("f4"), form, weight=3, seed=bytes(28))
state.update(vector); state.update(weighted_mean(vector, form)[0]); state.update(bytes([clipped % 256]))
shares = split([bytes(range(32))], range(9), 5, bytes(28))[0]
state.update(b"".join(shares)); state.update(combine(dict(enumerate(shares)), 5))
print(native(), state.hexdigest())
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
    assert told[1][0] == "False"
    assert told[0][1] == told[1][1]
