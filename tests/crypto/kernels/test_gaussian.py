"""Normal numbers against those of float64 from the same words: any size, far tails, and the grid."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels.chacha import Streams
from crypto.kernels.compiled import PORTABLE, kernel
from crypto.kernels.gaussian import FEW, HALF, PIECE, ROOM, _pair, noisy, normal

ROOT = Path(__file__).parents[3]
KEY = bytes(range(44))
WITHIN = 2.0**-21
"""Of the radius."""


def reference(key: bytes, count: int) -> tuple[Any, Any]:
    """Numbers and their radii, float64."""
    words = np.zeros((count // PIECE + 1) * PIECE, dtype=np.uint32)
    Streams([key]).add(words)
    numbers, radii = [np.zeros(0)], [np.zeros(0)]
    for at in range(0, count, PIECE):
        pairs = min(PIECE, count - at) // 2
        radius, angle = words[at : at + pairs], words[at + HALF : at + HALF + pairs]
        r = np.sqrt(-2 * np.log((radius + 0.5) / 2**32))
        t = (angle + 0.5) / 2**32 * 2 * math.pi
        numbers += [r * np.cos(t), r * np.sin(t)]
        radii += [r, r]
    return np.concatenate(numbers), np.concatenate(radii)


def made(key: bytes, count: int) -> Any:
    out = np.empty(count, dtype=np.uint32)
    normal(Streams([key]).states, np.empty(ROOM, dtype=np.uint32), out)
    return out.view(np.float32)


@settings(deadline=None, max_examples=20)
@given(st.binary(min_size=44, max_size=44), st.integers(0, 3 * PIECE))
def test_numbers_are_those_of_the_words_of_the_stream(key: bytes, half: int) -> None:
    numbers, radii = reference(key, 2 * half)

    assert np.all(np.abs(made(key, 2 * half) - numbers) <= WITHIN * radii)


@kernel
def pairs_of(words: Any, out: Any) -> None:
    for i in range(words.shape[0]):
        x, y = _pair(words[i, 0], words[i, 1])
        out[i, 0], out[i, 1] = x, y


def test_words_at_the_ends_of_their_range_and_angles_at_the_axes() -> None:
    ends = [0, 1, 255, 256, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
    ends += [int(2**32 * math.sqrt(0.5)) + i for i in (-1, 0, 1)]
    axes = [k * 2**29 + i for k in range(8) for i in (-1, 0, 1) if 0 <= k * 2**29 + i < 2**32]
    words = np.array([(w, a) for w in ends for a in axes], dtype=np.uint32)
    out = np.empty(words.shape, dtype=np.float32)
    pairs_of(words, out)
    r = np.sqrt(-2 * np.log((words[:, 0] + 0.5) / 2**32))
    t = (words[:, 1] + 0.5) / 2**32 * 2 * math.pi

    assert np.all(np.abs(out[:, 0] - r * np.cos(t)) <= WITHIN * r)
    assert np.all(np.abs(out[:, 1] - r * np.sin(t)) <= WITHIN * r)


def test_pairs_of_the_far_tail_are_told_with_their_words_and_places() -> None:
    count = 5 * PIECE + 700
    words = np.zeros(6 * PIECE, dtype=np.uint32)
    # A key with a small word among so many numbers is one in a thousand; the first that has one.
    key = next(
        key
        for key in (number.to_bytes(44, "little") for number in range(100_000))
        if _smallest(key, words, count) < FEW
    )
    room, out = np.empty(ROOM, dtype=np.uint32), np.empty(count, dtype=np.uint32)
    found = normal(Streams([key]).states, room, out)
    told = room[PIECE:].reshape(-1, 4)[:found].astype(np.int64)

    assert found == int((_radii(words, count) < FEW).sum()) > 0
    for x, y, word, angle in told:
        piece = x // PIECE * PIECE
        pairs = min(PIECE, count - piece) // 2
        assert y == x + pairs
        assert (words[x], words[x + HALF]) == (word, angle)
        assert word < FEW


def _smallest(key: bytes, words: Any, count: int) -> int:
    words[:] = 0
    Streams([key]).add(words)
    return int(_radii(words, count).min())


def _radii(words: Any, count: int) -> Any:
    return np.concatenate([words[at : at + min(PIECE, count - at) // 2] for at in range(0, count, PIECE)])


@pytest.mark.parametrize("count", [0, 2, PIECE, PIECE + 34])
def test_noisy_values_are_values_plus_the_same_numbers_rounded(count: int) -> None:
    values = np.random.default_rng(3).normal(size=count).astype(np.float32)
    factors = np.array([4096, 2048, 2.0**-11 / 3], dtype=np.float32)
    out = np.empty(count, dtype=np.uint32)
    states, room = Streams([KEY]).states, np.empty(ROOM, dtype=np.uint32)
    assert noisy(states, room, values.view(np.uint32), factors.view(np.uint32), out) == 0
    exact = made(KEY, count).astype(np.float64) * 4096 + values.astype(np.float64) * 2048
    steps = out.view(np.float32).astype(np.float64) / factors[2]

    assert np.all(np.abs(steps - np.rint(steps)) < 1e-2)
    assert np.all(np.abs(steps - exact) <= 0.51)


@pytest.mark.slow
def test_a_processor_without_vectors_makes_the_same_numbers_to_rounding() -> None:
    program = (
        "import sys\nsys.path.insert(0, 'tests/crypto/kernels')\nimport test_gaussian as t\n"
        "t.test_words_at_the_ends_of_their_range_and_angles_at_the_axes()\n"
        "numbers, radii = t.reference(t.KEY, 5000)\n"
        "assert (abs(t.made(t.KEY, 5000) - numbers) <= t.WITHIN * radii).all()\n"
    )
    environment = os.environ | {PORTABLE: "1", "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)
