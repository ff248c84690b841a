"""A partner has no place for a candidate that would show sums over few rows, and its places tell no order."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.vertical.boosting.candidates import (
    IN_LARGE,
    IN_SMALL,
    Candidates,
    candidates,
    places_by_candidate,
)

WIDTH, MIN_BIN, MIN_LEAF = 9, 5, 12
EVERYWHERE = np.where(np.arange(WIDTH) < WIDTH - 1, 0, -1).astype(np.int32)
rows_of_codes = st.lists(st.integers(0, 14), min_size=WIDTH, max_size=WIDTH)


def kept(found: Candidates, column: int) -> list[int]:
    return sorted(code for at, code in found.places.tolist() if at == column)


def made(small: Any, large: Any, parent: Any = None) -> Candidates:
    counts = [np.atleast_2d(np.array(each, dtype=np.int64)) for each in (small, large)]
    above = np.tile(EVERYWHERE, (len(counts[0]), 1)) if parent is None else parent
    return candidates(counts[0], counts[1], above, MIN_BIN, MIN_LEAF)


@given(rows_of_codes, rows_of_codes)
def test_between_candidates_and_outside_each_sibling_has_no_row_or_at_least_min_bin(
    small: list[int], large: list[int]
) -> None:
    codes = kept(made(small, large), 0)
    for counts in (small, large):
        ends = [0, *(code + 1 for code in codes), WIDTH]
        between = [sum(counts[first:last]) for first, last in itertools.pairwise(ends)]
        if codes:
            assert all(rows == 0 or rows >= MIN_BIN for rows in between)
        totals = [(sum(counts[: code + 1]), sum(counts[code + 1 :])) for code in codes]
        assert all(rows == 0 or rows >= MIN_BIN for pair in totals for rows in pair)


@given(rows_of_codes, rows_of_codes)
def test_a_candidate_can_be_chosen_only_where_both_sides_have_min_leaf_rows(
    small: list[int], large: list[int]
) -> None:
    found = made(small, large)
    for (_, code), use in zip(found.places.tolist(), found.usable.tolist(), strict=True):
        for counts, bit in ((small, IN_SMALL), (large, IN_LARGE)):
            if use & bit:
                assert min(sum(counts[: code + 1]), sum(counts[code + 1 :])) >= MIN_LEAF


def test_with_enough_rows_everywhere_every_candidate_has_a_place() -> None:
    found = made([20] * WIDTH, [30] * WIDTH)
    assert kept(found, 0) == list(range(WIDTH - 1))
    assert (found.usable == (IN_SMALL | IN_LARGE)).all()


def test_a_constant_column_has_no_place() -> None:
    assert len(made([0, 0, 90, 0, 0, 0, 0, 0, 0], [0] * WIDTH)) == 0


def test_what_the_parent_had_no_place_for_the_children_have_none_for() -> None:
    parent = made([40, 1, 40, 1, 40, 40, 40, 40, 40], [0] * WIDTH)
    assert kept(parent, 0) == [0, 2, 4, 5, 6, 7]
    table = places_by_candidate(parent)
    child = made([20] * WIDTH, [20] * WIDTH, table)
    assert kept(child, 0) == [0, 2, 4, 5, 6, 7]
    for (column, code), origin in zip(child.places.tolist(), child.origin.tolist(), strict=True):
        assert parent.places[origin].tolist() == [column, code]


@pytest.mark.parametrize("columns", [8])
def test_places_are_shuffled_afresh_for_each_pair(columns: int) -> None:
    counts = np.full((columns, WIDTH), 50)
    shuffled = [made(counts, counts) for _ in range(4)]
    orders = {each.places.tobytes() for each in shuffled}
    assert len(orders) == 4
    assert len({tuple(sorted(map(tuple, each.places.tolist()))) for each in shuffled}) == 1


def test_places_are_uniformly_shuffled() -> None:
    counts = np.full((1, 4), 50)
    above = np.array([[0, 0, 0, -1]], dtype=np.int32)
    seen: dict[tuple[int, ...], int] = {}
    for _ in range(1200):
        order = tuple(candidates(counts, counts, above, 5, 5).places[:, 1].tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 6
    # A count off by 6 standard deviations happens less than once in a hundred million runs.
    assert all(abs(count - 200) < 6 * np.sqrt(1200 / 6 * 5 / 6) for count in seen.values())


def test_what_is_printed_of_places_names_no_column() -> None:
    assert repr(made([50] * WIDTH, [0] * WIDTH)) == "Candidates(8 places)"
