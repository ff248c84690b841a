"""Vectors of exact sums: what goes in comes out summed, and nothing that is no sum is taken for one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import DataError, JobError
from fedcore.participant.sums import MOST_VALUES, SumForm, SumLayout, pack_sums, unpack_sums

FORM = SumForm(5)


def total_of(people: list[dict[str, Any]], form: SumForm = FORM) -> tuple[dict[str, Any], int]:
    packed = [pack_sums(one, form) for one in people]
    return unpack_sums(sum(vector for vector, _ in packed), packed[0][1], form)


@given(st.lists(st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=3), min_size=1, max_size=5))
def test_sums_are_those_of_fsum_by_name_and_shape(rows: list[list[float]]) -> None:
    # Steps of 2^-64: what is smaller than any digit of a measurement is cut off.
    rows = [[math.ldexp(round(math.ldexp(value, 30)), -30) for value in row] for row in rows]
    sums, count = total_of([{"n": np.array(row[0]), "x": np.array([row[1:]])} for row in rows])
    assert count == len(rows) and sums["x"].shape == (1, 2) and sums["n"].shape == ()
    expected = [math.fsum(column) for column in zip(*rows, strict=True)]
    np.testing.assert_array_equal([sums["n"], *sums["x"][0]], expected)


def test_nothing_to_sum_counts_the_participants() -> None:
    assert total_of([{}, {}]) == ({}, 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, 2.0**97])
def test_a_value_that_cannot_be_summed_is_refused_without_being_told(value: float) -> None:
    with pytest.raises(DataError) as caught:
        pack_sums({"x": np.array([1.0, value])}, FORM)
    assert caught.value.message.startswith("1 ")


def test_what_is_no_sum_is_refused() -> None:
    vector, layout = pack_sums({"x": np.ones(2)}, FORM)
    for wrong in (vector[:-1], np.zeros_like(vector), vector * vector.dtype.type(6)):
        with pytest.raises(ValueError, match="no sum of vectors"):
            unpack_sums(wrong, layout, FORM)


@pytest.mark.parametrize("text", ['{"sums": 3}', '{"sums": {"cohort": 0}}', '{"sums": {"size": 3}}', "["])
def test_a_form_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(JobError, match="form of exact sums"):
        SumForm.from_json(text)


def test_another_form_is_not_taken_for_one() -> None:
    assert SumForm.from_json('{"clip": 8.0}') is None
    assert SumForm.from_json(FORM.to_json()) == FORM


@pytest.mark.parametrize(
    "text", ["{}x", "[1]", '[["x", [-1]]]', f'[["x", [{MOST_VALUES + 1}]]]', '[["x", 3]]']
)
def test_a_layout_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"layout of sums|sums of"):
        SumLayout.from_json(text)
