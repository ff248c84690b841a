from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.psi.matching import check_items, first_duplicate, members

_small = st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 2**63])), max_size=40)


def _blocks(rows):
    return np.array(rows, dtype=np.uint64).reshape(-1, 2)


@settings(deadline=None)
@given(mine=_small, theirs=_small)
def test_members_are_those_of_pythons_sets(mine, theirs):
    there = set(theirs)
    wanted = [place for place, block in enumerate(mine) if block in there]
    assert members(_blocks(mine), _blocks(theirs)).tolist() == wanted


@settings(deadline=None)
@given(rows=_small)
def test_the_first_block_that_stands_twice_is_found(rows):
    wanted = next((place for place, block in enumerate(rows) if block in rows[:place]), None)
    assert first_duplicate(_blocks(rows)) == wanted


def test_a_set_with_an_item_twice_is_refused_and_its_place_named():
    with pytest.raises(ValueError, match="position 2 stands in the set before"):
        check_items(_blocks([(1, 2), (2, 1), (1, 2)]))


@pytest.mark.parametrize(
    "items", [np.zeros((2, 3), np.uint64), np.zeros(4, np.uint64), np.zeros((2, 2), np.int64)]
)
def test_items_of_another_form_are_refused(items):
    with pytest.raises(ValueError, match="items are"):
        check_items(items)


def test_items_that_lie_apart_in_memory_are_made_contiguous():
    apart = np.arange(12, dtype=np.uint64).reshape(6, 2)[::2]
    assert check_items(apart).flags.c_contiguous
    assert np.array_equal(check_items(apart), apart)
