"""What of a site's part may be told: few rows, single rows, many parameters, small cells; and nothing of a hidden cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedcore.analytics.question import Part
from fedcore.analytics.sums import Sums, add, form
from fedcore.errors import DataError, PolicyRefused, TaskFailed
from fedcore.jobs.participant import Rule
from fedcore.participant.mods.disclosure import HIDDEN, disclose

COUNTS = np.array([[0, 3, 12], [5, 4, 1]])
SUMS = np.arange(12, dtype=np.float64).reshape(2, 3, 2) + 100
CELLS = {"rows": ("age",)}


def rule(**changes: Any) -> Rule:
    return Rule.model_validate({"jobs": ("analytics",), "data": "lung", **changes})


def part(sums: Sums | None = None, rows: int = 25, **changes: Any) -> Part:
    return Part(sums or {"rows": COUNTS, "age": SUMS}, rows, **{"cells": CELLS, **changes})


def refused(given: Part, by: Rule, **how: bool) -> str:
    with pytest.raises(PolicyRefused) as caught:
        disclose(given, by, **how)
    assert caught.value.step == "disclosure"
    return str(caught.value)


ALONE = {"protected": False, "private": False}
SUMMED = {"protected": True, "private": False}
NOISY = {"protected": True, "private": True}


# ---- small cells ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "small_cells", "hidden"),
    [(ALONE, "in_sums", True), (ALONE, "never", True), (SUMMED, "in_sums", False), (SUMMED, "never", True)],
)
def test_cells_of_few_rows_are_kept_back_where_they_are_seen_or_never_told(how, small_cells, hidden) -> None:
    told = disclose(part(), rule(small_cells=small_cells), **how)
    few = np.array([[False, True, False], [False, True, True]]) & hidden
    assert list(told) == ["rows", "age", "hidden:rows", "hidden:age"]
    np.testing.assert_array_equal(told["rows"], np.where(few, 0, COUNTS))
    np.testing.assert_array_equal(told["age"], np.where(few[..., None], 0, SUMS))
    np.testing.assert_array_equal(told["hidden:rows"], few)
    np.testing.assert_array_equal(told["hidden:age"], np.broadcast_to(few[..., None], SUMS.shape))
    assert told["rows"].dtype == np.int64 and told["hidden:age"].dtype == np.float64


@pytest.mark.parametrize(("least", "kept"), [(3, [1]), (4, [1, 3]), (5, [1, 3, 4]), (13, [1, 3, 4, 5, 12])])
def test_the_site_says_what_is_small_and_no_row_is_no_small_number(least: int, kept: list[int]) -> None:
    told = disclose(part(), rule(min_cell=least), **ALONE)
    assert sorted(COUNTS[told["hidden:rows"] == 1]) == kept


def test_the_form_does_not_follow_the_rows() -> None:
    empty = part({"rows": COUNTS * 0, "age": SUMS * 0}, rows=0)
    parts = [disclose(each, rule(small_cells="never"), **SUMMED) for each in (part(), empty)]
    assert form(parts[0]) == form(parts[1])
    # What is kept back at one site is missing from the sum, and the sum says so.
    assert add(parts)["hidden:rows"][0, 1] == 1 and add(parts)["rows"][0, 1] == 0


def test_a_part_without_cells_is_told_as_it_is() -> None:
    given = {"gradient": np.array([1.5, -2]), "loss": np.array(3.0)}
    told = disclose(part(given, rows=40, cells={}, parameters=2), rule(), **ALONE)
    assert list(told) == ["gradient", "loss"] and told["gradient"] is given["gradient"]


def test_under_noise_nothing_is_kept_back_and_nothing_depends_on_the_rows() -> None:
    given = part(rows=1, alone=False, parameters=9)
    told = disclose(given, rule(small_cells="never", private="required"), protected=False, private=True)
    assert list(told) == ["rows", "age"]
    np.testing.assert_array_equal(told["rows"], COUNTS)


def test_an_array_of_two_kinds_of_cells_is_hidden_with_either() -> None:
    sums = {"n": np.array([9, 2]), "m": np.array([1, 9]), "both": np.array([1.0, 2.0])}
    told = disclose(part(sums, cells={"n": ("both",), "m": ("both",)}), rule(), **ALONE)
    assert told["hidden:both"].tolist() == [1, 1] and told["hidden:n"].tolist() == [0, 1]


def test_a_single_count_is_a_cell_too() -> None:
    told = disclose(part({"rows": np.array(4)}, rows=30, cells={"rows": ()}), rule(), **ALONE)
    assert told["rows"].shape == () and told["rows"] == 0 and told["hidden:rows"] == 1


SECRET = 2.0**40
"""Of the sums behind a cell; no count, flag or other sum is like it."""


@settings(deadline=None, max_examples=200)
@given(
    arrays.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 3)), elements=st.integers(0, 8)),
    st.integers(3, 8),
    st.booleans(),
)
def test_no_value_of_a_hidden_cell_is_anywhere_in_the_result(
    counts: np.ndarray, least: int, protected: bool
) -> None:
    small = (counts > 0) & (counts < least)
    sums = np.where(small, SECRET + counts, 0.5)
    beside = np.repeat(sums[..., None], 2, axis=2)
    given = part({"n": counts, "s": sums, "t": beside}, rows=99, cells={"n": ("s", "t")})
    told = disclose(given, rule(min_cell=least, small_cells="never"), protected=protected, private=False)
    for name in ("n", "s", "t"):
        hidden = told[HIDDEN + name].astype(bool)
        assert np.array_equal(
            hidden, np.broadcast_to(small if name != "t" else small[..., None], hidden.shape)
        )
        assert not told[name][hidden].any()
        assert np.array_equal(told[name][~hidden], given.sums[name][~hidden])
    assert all((value < SECRET).all() for value in told.values())
    # Two sites whose small cells hold other numbers cannot be told apart.
    other = np.where(small, np.where(counts == 1, least - 1, 1), counts)
    again = part(
        {"n": other, "s": np.where(small, 7 * SECRET, 0.5), "t": beside * 3}, cells={"n": ("s", "t")}
    )
    again.sums["t"][~small] = beside[~small]
    same = disclose(again, rule(min_cell=least, small_cells="never"), protected=protected, private=False)
    assert all(np.array_equal(told[name], same[name]) for name in told)


# ---- what is not told at all --------------------------------------------------------------------------------------


def test_few_rows_are_no_answer_by_themselves_and_go_into_a_sum() -> None:
    few = part(rows=6)
    assert "fewer than 7 rows here" in refused(few, rule(min_rows=7), **ALONE)
    assert disclose(few, rule(min_rows=7), **SUMMED)["rows"].sum() == COUNTS.sum()
    assert disclose(few, rule(min_rows=6), **ALONE)


def test_how_many_rows_there_are_is_not_told_with_the_refusal() -> None:
    told = [refused(part(rows=each), rule(min_rows=7), **ALONE) for each in (0, 1, 6)]
    assert len(set(told)) == 1


def test_single_rows_that_stand_out_leave_in_a_sum_only() -> None:
    assert "single rows stand out" in refused(part(alone=False), rule(), **ALONE)
    assert disclose(part(alone=False), rule(), **SUMMED)


@pytest.mark.parametrize(("rows", "goes"), [(29, False), (30, True)])
def test_parameters_need_rows_where_the_answer_is_seen_by_itself(rows: int, goes: bool) -> None:
    given = part({"gradient": np.ones(3)}, rows=rows, cells={}, parameters=3)
    if goes:
        assert disclose(given, rule(rows_per_parameter=10), **ALONE)
    else:
        assert "3 parameters would be estimated" in refused(given, rule(rows_per_parameter=10), **ALONE)
    assert disclose(given, rule(rows_per_parameter=10), **SUMMED)


@pytest.mark.parametrize(("rows", "goes"), [(0, True), (1, False), (4, False), (5, True)])
def test_where_small_cells_are_never_told_a_model_over_few_rows_is_refused(rows: int, goes: bool) -> None:
    given = part({"gradient": np.ones(3)}, rows=rows, cells={})
    if goes:
        assert disclose(given, rule(small_cells="never"), **SUMMED)
    else:
        assert "not all in cells" in refused(given, rule(small_cells="never"), **SUMMED)
    assert disclose(given, rule(), **SUMMED)


def test_where_all_stands_in_cells_few_rows_are_kept_back_and_not_refused() -> None:
    given = part({"rows": np.array([3, 0]), "age": np.array([60.0, 0])}, rows=3)
    told = disclose(given, rule(small_cells="never"), **SUMMED)
    assert told["rows"].tolist() == [0, 0] and told["hidden:age"].tolist() == [1, 0]


def test_a_small_minimum_of_rows_does_not_open_what_is_below_a_cell() -> None:
    given = part({"mean": np.array(60.0)}, rows=2, cells={})
    assert "fewer than 5 rows" in refused(given, rule(min_rows=1), **ALONE)


def test_without_noise_a_rule_that_requires_it_lets_nothing_out() -> None:
    assert "differential privacy only" in refused(part(), rule(private="required"), **SUMMED)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("how", [ALONE, SUMMED, NOISY])
def test_numbers_that_are_not_finite_are_refused_without_being_quoted(value: float, how: Any) -> None:
    spoiled = SUMS.copy()
    spoiled[0, 1, 0] = value
    with pytest.raises(DataError, match="array age of the answer is not finite"):
        disclose(part({"rows": COUNTS, "age": spoiled}), rule(), **how)


@pytest.mark.parametrize(
    ("sums", "cells", "said"),
    [
        ({"rows": COUNTS}, {"rows": ("age",)}, "no array age"),
        (
            {"rows": COUNTS, "age": SUMS[:, :2]},
            CELLS,
            r"shape \(2, 2, 2\) and goes with cells of shape \(2, 3\)",
        ),
        ({"rows": COUNTS, "age": np.array(1.0)}, CELLS, r"shape \(\)"),
        ({"rows": COUNTS + 0.5, "age": SUMS}, CELLS, "no counts"),
        ({"rows": -COUNTS, "age": SUMS}, CELLS, "no counts"),
        ({"rows": COUNTS, "age": SUMS, "hidden:rows": COUNTS}, CELLS, "names that begin with hidden:"),
    ],
)
def test_a_part_that_does_not_go_together_is_a_fault_of_the_question(
    sums: Any, cells: Any, said: str
) -> None:
    with pytest.raises(TaskFailed, match=said):
        disclose(part(sums, cells=cells), rule(), **ALONE)
