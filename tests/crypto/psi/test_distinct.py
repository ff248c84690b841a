"""Distinct keys against Python's dictionaries and sorting."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels.blocks import blocks_from, numbers_from
from crypto.psi.distinct import Distinct, collapse

Blocks = npt.NDArray[np.uint64]


def checked(blocks: Blocks, rows: npt.NDArray[np.int64]) -> Distinct:
    """`collapse`, compared with a dictionary."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for number, row in zip(numbers_from(blocks), rows.tolist(), strict=True):
        groups[number].append(row)
    before = blocks.copy(), rows.copy()
    found = collapse(blocks, rows)
    assert np.array_equal(blocks, before[0]) and np.array_equal(rows, before[1])
    ordered = [groups[number] for number in sorted(groups)]
    assert numbers_from(found.blocks) == sorted(groups)
    assert found.duplicates == len(rows) - len(groups)
    assert found.rows.tolist() == [row for each in ordered for row in each]
    every = np.arange(len(groups), dtype=np.int64)
    for keys in (every, every[::-1].copy(), every[::3], every[:0]):
        got, places = found.rows_of(keys)
        wanted = [(row, i) for i, k in enumerate(keys) for row in ordered[k]]
        assert list(zip(got.tolist(), places.tolist(), strict=True)) == wanted
    return found


@settings(deadline=None)
@given(
    numbers=st.lists(
        st.integers(0, 2**128 - 1) | st.integers(0, 5) | st.sampled_from([2**64, 2**127]), max_size=80
    )
)
def test_distinct_keys_are_sorted_numbers_with_all_their_rows(numbers: list[int]) -> None:
    checked(blocks_from(numbers), np.arange(len(numbers), dtype=np.int64) + 10)


@settings(deadline=None)
@given(numbers=st.lists(st.integers(0, 300), min_size=1, max_size=80), seed=st.integers(0, 2**32 - 1))
def test_order_of_the_input_does_not_change_the_keys(numbers: list[int], seed: int) -> None:
    blocks = blocks_from([number << 70 for number in numbers])
    rows = np.arange(len(numbers), dtype=np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(numbers))
    first, second = collapse(blocks, rows), collapse(blocks[shuffled], rows[shuffled])
    assert np.array_equal(first.blocks, second.blocks)
    assert first.rows_of(np.array([0]))[0].tolist() == sorted(second.rows_of(np.array([0]))[0].tolist())


@pytest.mark.parametrize("count", [0, 1, 2, 48, 49, 127, 128, 129, 4095, 2**14 - 1, 2**14, 2**16, 100_001])
def test_hashes_of_any_number(count: int) -> None:
    blocks = np.random.default_rng(count).integers(0, 2**64, (count, 2), dtype=np.uint64)
    assert checked(blocks, np.arange(count, dtype=np.int64)).starts is None


@pytest.mark.parametrize("keys", [1, 2, 100, 10_000])
def test_many_rows_of_few_keys(keys: int) -> None:
    random = np.random.default_rng(keys)
    blocks = random.integers(0, 2**64, (keys, 2), dtype=np.uint64)[random.integers(0, keys, 40_000)]
    assert checked(blocks, random.permutation(40_000)).duplicates >= 30_000


@pytest.mark.parametrize("word", [0, 1])
@pytest.mark.parametrize("top", [2, 3000, 2**20])
def test_keys_that_are_no_hashes_are_sorted_rightly_too(word: int, top: int) -> None:
    blocks = np.full((30_000, 2), 9, dtype=np.uint64)
    blocks[:, word] = np.random.default_rng(top).integers(0, top, 30_000)
    checked(blocks, np.arange(30_000))


def test_places_that_are_not_there_are_refused() -> None:
    found = collapse(blocks_from([5, 6, 5]), np.arange(3))
    assert repr(found) == "Distinct(2 keys, duplicates=1)"
    for wrong in ([2], [-1], [0, 7]):
        with pytest.raises(IndexError, match="places 0 to 1"):
            found.rows_of(np.array(wrong))


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"blocks of shape \(2, 2\) for 3 rows"):
        collapse(blocks_from([1, 2]), np.arange(3))
