"""Sorted lists of numbers: what is coded comes back, in a length that is known before, and nothing else is a code."""

from __future__ import annotations

import math
import secrets
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels import elias_fano
from crypto.kernels.blocks import blocks_from, numbers_from

COUNTS = [1, 2, 3, 4, 5, 127, 128, 129, 4095]
WIDTHS = [41, 63, 64, 65, 76, 80, 127]


def drawn(count: int, width: int) -> Any:
    return blocks_from([secrets.randbits(width) for _ in range(count)]).reshape(-1, 2)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("width", WIDTHS)
def test_numbers_come_back_in_order_and_the_reference_writes_the_same(count: int, width: int) -> None:
    numbers = drawn(count, width)
    ascending, order = elias_fano.ordered(numbers, width)
    assert numbers_from(ascending) == sorted(numbers_from(numbers))
    assert np.array_equal(numbers[order], ascending)
    code = elias_fano.encode(ascending, width)
    assert code.dtype == np.uint8 and code.shape == (elias_fano.code_bytes(count, width),)
    assert code.tobytes() == elias_fano.encode_reference(numbers_from(ascending), width)
    got = elias_fano.decode(code, count, width)
    assert got is not None and np.array_equal(got, ascending)


@settings(deadline=None)
@given(st.integers(9, 127), st.data())
def test_any_list_comes_back_equal_and_extreme_numbers_too(width: int, data: st.DataObject) -> None:
    number = st.integers(0, 2**width - 1) | st.sampled_from([0, 1, 2**width - 1])
    numbers = data.draw(st.lists(number, min_size=1, max_size=200))
    ascending, order = elias_fano.ordered(blocks_from(numbers), width)
    # Equal numbers keep their order.
    assert order.tolist() == sorted(range(len(numbers)), key=lambda i: numbers[i])
    got = elias_fano.decode(elias_fano.encode(ascending, width), len(numbers), width)
    assert got is not None and numbers_from(got) == sorted(numbers)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(7, 90), st.data())
def test_what_is_decoded_is_the_one_list_with_that_code(count: int, width: int, data: st.DataObject) -> None:
    # A list has one code and a code one list: whatever is changed in a code, it is refused or is another list's.
    ascending, _ = elias_fano.ordered(drawn(count, width), width)
    code = elias_fano.encode(ascending, width).copy()
    for place in data.draw(st.lists(st.integers(0, 8 * len(code) - 1), min_size=1, max_size=4, unique=True)):
        code[place // 8] ^= 1 << (place % 8)
    got = elias_fano.decode(code, count, width)
    if got is not None:
        assert not np.array_equal(got, ascending) and numbers_from(got) == sorted(numbers_from(got))
        assert elias_fano.encode(got, width).tobytes() == code.tobytes()


@settings(deadline=None)
@given(st.binary(max_size=80), st.integers(1, 12), st.integers(5, 60))
def test_random_bytes_are_refused_or_are_a_list_in_order(raw: bytes, count: int, width: int) -> None:
    got = elias_fano.decode(np.frombuffer(raw, dtype=np.uint8), count, width)
    if got is not None:
        assert len(raw) == elias_fano.code_bytes(count, width)
        assert numbers_from(got) == sorted(numbers_from(got)) and max(numbers_from(got)) < 2**width


@pytest.mark.parametrize("width", [41, 76])
def test_numbers_of_one_bucket_that_stand_in_the_wrong_order_are_refused(width: int) -> None:
    descending = blocks_from([9, 5, 1 << (width - 2), 1 << (width - 1)])
    assert elias_fano.decode(elias_fano.encode(descending, width), 4, width) is None
    equal = blocks_from([5, 5, 1 << (width - 2), 1 << (width - 1)])
    assert elias_fano.decode(elias_fano.encode(equal, width), 4, width) is not None


def test_the_length_is_what_order_leaves_and_half_a_bit() -> None:
    count, width = 34_132, 76
    left = width - (math.lgamma(count + 1) / math.log(2)) / count
    assert left < elias_fano.code_bits(count, width) / count < left + 0.6


@pytest.mark.parametrize(("count", "width"), [(2, 1), (1024, 10), (1, 128), (1, 0), (2**31, 64), (-1, 64)])
def test_lists_that_have_no_code_are_refused(count: int, width: int) -> None:
    with pytest.raises(ValueError, match="have no such code"):
        elias_fano.code_bytes(count, width)
