"""Disclosure: no suppressed cell follows from the published table, its totals and what a reader knows."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Hashable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from fedcore.analytics.disclosure import (
    ALL,
    SUPPRESSED,
    checked_minimum,
    from_json,
    refuse_identifying,
    suppressed_bins,
    to_json,
    to_suppress,
    with_totals,
)
from fedcore.errors import JobError, PolicyRefused

Key = tuple[Hashable, ...]
SMALL = st.one_of(st.integers(0, 9), st.integers(0, 200))
ONE_KEY = st.dictionaries(st.tuples(st.integers(0, 7)), SMALL, min_size=1, max_size=8)
TWO_KEYS = st.dictionaries(st.tuples(st.integers(0, 4), st.integers(0, 4)), SMALL, min_size=1, max_size=20)
TABLES = st.one_of(ONE_KEY, TWO_KEYS)
MINIMA = st.integers(3, 10)


def equations(cells: dict[Key, int]) -> tuple[list[Key], np.ndarray]:
    """Every total as an equation over cells and totals, written out independently of the code under test."""
    rows = []
    table = [key for key in cells if ALL not in key]
    totals = [key for key in cells if ALL in key]
    names = table + totals
    for total in totals:
        row = np.zeros(len(names))
        row[names.index(total)] = -1
        for key in table:
            if all(want is ALL or want == have for want, have in zip(total, key, strict=True)):
                row[names.index(key)] = 1
        rows.append(row)
    return names, np.array(rows)


def intervals(cells: dict[Key, int], hidden: frozenset[Key]) -> dict[Key, tuple[float, float]]:
    """What a reader can find of each suppressed value, by linear programming."""
    names, matrix = equations(cells)
    bounds = [(1, None) if key in hidden else (cells[key], cells[key]) for key in names]
    found = {}
    for key in hidden:
        cost = np.array([1.0 if name == key else 0.0 for name in names])
        low = linprog(cost, A_eq=matrix, b_eq=np.zeros(len(matrix)), bounds=bounds)
        high = linprog(-cost, A_eq=matrix, b_eq=np.zeros(len(matrix)), bounds=bounds)
        found[key] = (low.fun, np.inf if high.status == 3 else -high.fun)
    return found


@settings(deadline=None, max_examples=60)
@given(TABLES, MINIMA)
def test_each_suppressed_value_keeps_as_many_possible_values_as_the_minimum(
    cells: dict[Key, int], minimum: int
) -> None:
    hidden = to_suppress(cells, minimum)
    full = {key: count for key, count in with_totals(cells).items() if count}
    for low, high in intervals(full, hidden & full.keys()).values():
        assert high - low >= minimum - 1 - 1e-6


@settings(deadline=None, max_examples=100)
@given(TABLES, MINIMA)
def test_no_suppressed_value_is_a_combination_of_published_ones(cells: dict[Key, int], minimum: int) -> None:
    full = {key: count for key, count in with_totals(cells).items() if count}
    hidden = to_suppress(cells, minimum)
    names, matrix = equations(full)
    unknown = [i for i, key in enumerate(names) if key in hidden]
    rank = np.linalg.matrix_rank(matrix[:, unknown]) if unknown else 0
    for at in range(len(unknown)):
        unit = np.eye(len(unknown))[at]
        assert np.linalg.matrix_rank(np.vstack([matrix[:, unknown], unit])) == rank + 1


@settings(deadline=None)
@given(TABLES, MINIMA, st.booleans())
def test_every_small_cell_is_suppressed_and_no_zero_is(
    cells: dict[Key, int], minimum: int, margins: bool
) -> None:
    hidden = to_suppress(cells, minimum, margins=margins)
    full = with_totals(cells) if margins else cells
    assert {key for key, count in full.items() if 0 < count < minimum} <= hidden
    assert not any(full[key] == 0 for key in hidden)
    assert margins or all(0 < cells[key] < minimum for key in hidden)


@given(TABLES, MINIMA)
def test_a_table_without_small_cells_is_published_whole(cells: dict[Key, int], minimum: int) -> None:
    assert to_suppress({key: count + minimum for key, count in cells.items()}, minimum) == frozenset()


def test_a_small_cell_takes_the_next_smallest_with_it() -> None:
    cells: dict[Key, int] = {("a",): 3, ("b",): 40, ("c",): 20, ("d",): 100}
    assert to_suppress(cells) == {("a",), ("c",)}


def test_a_bridge_between_two_blocks_of_suppressed_cells_is_not_told() -> None:
    # Each row and column has two suppressed cells or more, and still the cell that joins two blocks would follow.
    cells: dict[Key, int] = {(row, column): 50 for row in range(4) for column in range(4)}
    for key in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3), (3, 2), (3, 3), (1, 2)]:
        cells[key] = 4
    hidden = to_suppress(cells)
    low, high = intervals(with_totals(cells), hidden)[(1, 2)]
    assert high - low >= 4


@settings(deadline=None, max_examples=60)
@given(TWO_KEYS, st.data())
def test_totals_over_cells_that_a_site_did_not_tell_are_not_told(
    cells: dict[Key, int], data: st.DataObject
) -> None:
    unknown = data.draw(st.sets(st.sampled_from(sorted(cells)), min_size=1))
    hidden = to_suppress(cells, 5, unknown=unknown)
    for row, column in unknown:
        assert {(row, column), (row, ALL), (ALL, column), (ALL, ALL)} <= hidden


def test_all_cells_suppressed_takes_the_totals_that_would_tell_them() -> None:
    cells: dict[Key, int] = {("a",): 2, ("b",): 1}
    assert to_suppress(cells) == {("a",), ("b",), (ALL,)}


def test_one_cell_that_is_small_takes_its_total_with_it() -> None:
    assert to_suppress({("a",): 4}) == {("a",), (ALL,)}


@given(st.lists(SMALL, min_size=1, max_size=12), MINIMA)
def test_bins_of_a_histogram_add_up_to_a_total_that_tells_none(counts: list[int], minimum: int) -> None:
    shown = suppressed_bins(counts, minimum)
    hidden = [count for count, value in zip(counts, shown, strict=True) if value is SUPPRESSED]
    assert all(value is SUPPRESSED or value in (0, *range(minimum, 201)) for value in shown)
    assert not hidden or len(hidden) > 1 or sum(counts) < minimum or len(counts) == 1


def test_suppressed_is_a_value_of_its_own() -> None:
    assert str(SUPPRESSED) == "suppressed" and f"{SUPPRESSED}" == "suppressed"
    for other in (0, None, float("nan"), False, "", "suppressed", Exception()):
        assert other != SUPPRESSED and from_json(to_json(other)) is not SUPPRESSED
    assert copy.deepcopy(SUPPRESSED) is SUPPRESSED and pickle.loads(pickle.dumps(SUPPRESSED)) is SUPPRESSED
    assert from_json(json.loads(json.dumps(to_json(SUPPRESSED)))) is SUPPRESSED


def test_suppressed_cannot_be_reckoned_with() -> None:
    with pytest.raises(TypeError):
        sum([1, SUPPRESSED])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="neither true nor false"):
        bool(SUPPRESSED)
    with pytest.raises(TypeError):
        float(SUPPRESSED)  # type: ignore[arg-type]


@pytest.mark.parametrize("minimum", [2, 1, 0, -5, True, 4.5])
def test_nobody_lowers_the_minimum_below_three(minimum: int) -> None:
    with pytest.raises(JobError, match="3 or more"):
        checked_minimum(minimum)
    with pytest.raises(JobError, match="3 or more"):
        to_suppress({("a",): 7}, minimum)


def test_a_key_that_names_single_persons_is_refused() -> None:
    with pytest.raises(PolicyRefused, match="patient has almost as many values"):
        refuse_identifying("patient", 100, 100)
    with pytest.raises(PolicyRefused, match="too many values"):
        refuse_identifying("postcode", 60, 100)
    with pytest.raises(PolicyRefused):
        refuse_identifying("patient", 6, 6)
    refuse_identifying("sex", 2, 6)
    refuse_identifying("region", 12, 100)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(JobError, match="0 or more"):
        to_suppress({("a",): -1})
