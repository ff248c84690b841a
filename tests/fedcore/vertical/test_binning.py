"""Bins of a column: quantiles, ties, categories, special and missing values, labels, JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import DataError, JobError
from fedcore.jobs.vertical import Bin
from fedcore.vertical.binning import Bins, prebins

FINE = Bin(min_rows=5, prebins=4)


def texts(*groups: tuple[str | None, int]) -> np.ndarray:
    """A column of categories, each so many times."""
    return np.array([each for each, number in groups for _ in range(number)], dtype=object)


def counts(bins: Bins, column: np.ndarray) -> list[int]:
    return np.bincount(bins.codes(column), minlength=bins.size).tolist()


def test_quantile_bins_hold_equal_shares_and_lower_edges_belong_to_them() -> None:
    column = np.arange(100.0)
    bins = prebins(column, FINE)
    assert bins.edges == (25.0, 50.0, 75.0)
    assert counts(bins, column) == [25, 25, 25, 25, 0]
    assert bins.codes(np.array([24.9, 25.0, -1e9, 1e9, np.nan])).tolist() == [0, 1, 0, 3, 4]


def test_a_value_that_is_many_quantiles_has_a_bin_of_its_own() -> None:
    column = np.concatenate([np.arange(-20.0, 0), np.zeros(60), np.arange(1.0, 21)])
    bins = prebins(column, FINE)
    assert bins.edges == (0.0, 1.0)
    assert counts(bins, column) == [20, 60, 20, 0]


def test_a_value_that_is_two_quantiles_is_not_mixed_with_the_next() -> None:
    column = np.concatenate([np.arange(-24.0, 0), np.zeros(28), np.arange(1.0, 49)])
    assert counts(prebins(column, FINE), column) == [24, 28, 23, 25, 0]


def test_few_distinct_values_have_one_bin_each() -> None:
    column = np.repeat([3.0, 1.0, 2.0], 10)
    assert prebins(column, FINE).edges == (2.0, 3.0)


def test_a_constant_column_has_one_bin_and_one_without_values_an_empty_one() -> None:
    constant, empty = np.full(30, 7.0), np.full(30, np.nan)
    assert prebins(constant, FINE).labels == ("any", "missing")
    assert counts(prebins(constant, FINE), constant) == [30, 0]
    assert counts(prebins(empty, FINE), empty) == [0, 30]
    nothing = texts((None, 30))
    assert counts(prebins(nothing, FINE), nothing) == [0, 30]


def test_infinite_values_are_refused_with_the_column_and_their_number() -> None:
    column = np.array([1.0, np.inf, -np.inf, *range(20)])
    with pytest.raises(DataError, match=r"column 'income': 2 infinite values; make them missing"):
        prebins(column, FINE, name="income")
    with pytest.raises(DataError, match=r"column 'income': 1 infinite value;"):
        prebins(np.arange(20.0), FINE).codes(np.array([np.inf]), name="income")


def test_categories_with_few_rows_are_one_group_to_which_unseen_ones_go() -> None:
    column = texts(("town", 30), ("sea", 20), *((f"rare-{i}", 1) for i in range(9)))
    bins = prebins(column, FINE)
    assert bins.groups == (("town",), ("sea",), ())
    assert bins.labels == ("town", "sea", "other", "missing")
    assert bins.codes(np.array(["sea", "rare-3", "never seen", None], dtype=object)).tolist() == [1, 2, 2, 3]


def test_a_category_that_was_not_seen_is_missing_where_there_is_no_group_of_others() -> None:
    bins = prebins(texts(("town", 30), ("sea", 20)), FINE)
    assert bins.codes(np.array(["never seen"], dtype=object)).tolist() == [2]


def test_too_few_rare_categories_join_the_smallest_group() -> None:
    bins = prebins(texts(("town", 30), ("sea", 20), ("rare", 2)), FINE)
    assert bins.labels == ("town", "sea, other", "missing")


def test_a_column_with_a_category_for_each_row_is_one_group() -> None:
    column = np.array([f"id-{i}" for i in range(1000)], dtype=object)
    assert counts(prebins(column, FINE), column) == [1000, 0]


def test_no_more_categories_stay_than_there_may_be_bins() -> None:
    column = texts(*((f"c{i}", 10) for i in range(9)))
    bins = prebins(column, FINE)
    assert bins.groups == (("c0",), ("c1",), ("c2",), ()) and counts(bins, column) == [10, 10, 10, 60, 0]


def test_categories_may_be_other_things_than_texts() -> None:
    column = np.array([True, False, 3, float("nan")] * 10, dtype=object)
    bins = prebins(column, FINE)
    assert bins.groups == (("3",), ("False",), ("True",))
    assert bins.codes(np.array([float("nan"), None, True], dtype=object)).tolist() == [3, 3, 2]


def test_special_values_have_bins_of_their_own_before_the_missing_one() -> None:
    column = np.concatenate([np.arange(40.0), np.full(10, -9.0), np.full(8, -1.0), np.full(7, np.nan)])
    bins = prebins(column, FINE, (-9, -1))
    assert bins.edges == (10.0, 20.0, 30.0)
    assert counts(bins, column) == [10, 10, 10, 10, 10, 8, 7]
    assert bins.labels == ("< 10", "[10, 20)", "[20, 30)", ">= 30", "-9", "-1", "missing")
    words = texts(("a", 20), ("unknown", 9))
    assert counts(prebins(words, FINE, ("unknown",)), words) == [20, 9, 0]


def test_few_special_values_share_the_bin_of_missing_ones() -> None:
    column = np.concatenate([np.arange(40.0), np.full(10, -9.0), np.full(3, -1.0), np.full(7, np.nan)])
    bins = prebins(column, FINE, (-9, -1))
    assert bins.special == (-9.0,) and bins.labels[-1] == "missing or -1"
    assert counts(bins, column) == [10, 10, 10, 10, 10, 10]


def test_few_missing_values_join_the_largest_bin_and_the_last_code_stays() -> None:
    column = np.concatenate([np.zeros(10), np.ones(20), [np.nan] * 3])
    bins = prebins(column, FINE)
    assert counts(bins, column) == [10, 23, 0]
    assert bins.labels == ("< 1", ">= 1 or missing", "missing")


def test_few_values_among_missing_or_special_ones_are_one_bin_with_them() -> None:
    column = np.concatenate([np.arange(3.0), np.full(30, np.nan)])
    assert counts(prebins(column, FINE), column) == [33, 0]
    column = np.concatenate([np.arange(3.0), np.full(30, -9.0), np.full(40, -1.0)])
    assert counts(prebins(column, FINE, (-9, -1)), column) == [33, 40, 0]
    column = np.concatenate([np.full(2, np.nan), np.full(30, -9.0), np.full(40, -1.0)])
    assert counts(prebins(column, FINE, (-9, -1)), column) == [0, 40, 32]


def test_a_special_value_that_no_row_has_keeps_an_empty_bin() -> None:
    column = np.arange(40.0)
    assert counts(prebins(column, FINE, (-9,)), column) == [10, 10, 10, 10, 0, 0]


def test_a_text_as_special_value_of_numbers_is_refused() -> None:
    with pytest.raises(JobError, match=r"bin\.special: 'none' is no number, and column 'age' has numbers"):
        prebins(np.arange(40.0), FINE, ("none",), name="age")


def test_fewer_rows_than_a_bin_must_have_are_refused() -> None:
    with pytest.raises(DataError, match=r"column 'age': 4 training rows, and a bin has 5 at least"):
        prebins(np.arange(4.0), FINE, name="age")


def test_texts_in_a_column_of_numbers_are_refused_when_bins_are_looked_up() -> None:
    with pytest.raises(DataError, match="column 'age': has values that are not numbers"):
        prebins(np.arange(40.0), FINE).codes(np.array(["x"], dtype=object), name="age")


def test_quantile_bins_are_no_more_than_asked_for_and_have_their_share() -> None:
    column = np.arange(100.0)
    bins = prebins(column, Bin(method="quantile", max_bins=5, min_rows=5))
    assert counts(bins, column) == [20] * 5 + [0]
    bins = prebins(column, Bin(method="quantile", max_bins=5, min_share=0.3, min_rows=5))
    assert min(counts(bins, column)[:-1]) >= 30


def test_labels_read_like_numbers_and_stay_apart() -> None:
    assert Bins(True, edges=(20_000.0, 50_000.0)).labels[1] == "[20,000, 50,000)"
    assert Bins(True, edges=(0.25, 1.5)).labels == ("< 0.25", "[0.25, 1.5)", ">= 1.5", "missing")
    assert len(set(Bins(True, edges=(0.12345678, 0.12345679)).labels)) == 4
    many = Bins(False, groups=(tuple("abcdef"),))
    assert many.labels[0] == "a, b, c, d, 2 more"


def test_merged_bins_are_the_union_of_theirs() -> None:
    column = np.concatenate([np.arange(40.0), [np.nan] * 3])
    bins = prebins(column, FINE)
    merged = bins.merged([[0, 1], [2], [3]])
    assert merged.edges == (20.0, 30.0) and merged.missing_to == 0
    joined = np.array([0, 0, 1, 2, 3])[bins.codes(column)]
    assert merged.codes(column).tolist() == joined.tolist()
    words = prebins(texts(("a", 9), ("b", 8), ("c", 7), ("d", 1), ("e", 4)), FINE)
    merged = words.merged([[2], [3, 0], [1]])
    assert merged.groups == (("c",), ("a",), ("b",)) and merged.other == 1


@pytest.mark.parametrize(
    "groups", [[[0], [1]], [[0, 2], [1]], [[0, 1], [1, 2]], [[1, 2], [0]], [[0, 1, 2], []]]
)
def test_groups_that_are_no_partition_are_refused(groups: list[list[int]]) -> None:
    with pytest.raises(DataError, match="each of the 3 bins once, in order"):
        Bins(True, edges=(1.0, 2.0)).merged(groups)


@pytest.mark.parametrize(
    "change",
    [
        {"edges": [2.0, 1.0]},
        {"edges": [1.0, float("nan")]},
        {"numeric": False, "groups": [["a"], ["a"]]},
        {"other": 7},
        {"edges": "x"},
        {"special": None},
    ],
)
def test_what_is_no_partition_cannot_be_read(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match="bins:"):
        Bins.from_dict({**Bins(True, edges=(1.0,)).as_dict(), **change})


def test_bins_with_a_field_too_few_cannot_be_read() -> None:
    found = Bins(True, edges=(1.0,)).as_dict()
    del found["groups"]
    with pytest.raises(DataError, match="bins: cannot be read"):
        Bins.from_dict(found)


@given(
    st.lists(
        st.one_of(st.just(float("nan")), st.just(-9.0), st.integers(-5, 5).map(float), st.floats(-1e6, 1e6)),
        min_size=5,
        max_size=200,
    ),
    st.booleans(),
)
def test_no_bin_has_fewer_rows_than_it_must_and_json_keeps_them(column: list[float], as_text: bool) -> None:
    values = np.array(column)
    if as_text:
        values = np.array([None if each != each else str(each) for each in column], dtype=object)
    bins = prebins(values, FINE, ("-9.0",) if as_text else (-9,))
    found = counts(bins, values)
    assert sum(found) == len(column) and len(found) == bins.size == len(bins.labels)
    assert all(each == 0 or each >= 5 for each in found)
    assert bins.regular <= FINE.prebins
    again = Bins.from_dict(json.loads(json.dumps(bins.as_dict())))
    assert again == bins and again.codes(values).tolist() == bins.codes(values).tolist()
