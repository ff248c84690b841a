"""Frequent texts over sites are those that counting all rows in one place finds."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.analytics.heavy_hitters import (
    HeavyHitters,
    combine_prefixes,
    partial_prefixes,
    search,
)
from fedcore.analytics.rows import Missing
from fedcore.analytics.sums import form
from fedcore.errors import DataError, JobError
from tests.fedcore.analytics.over_sites import Site, total


def column(values: list[Any]) -> Site:
    return {"drug": np.array(values, dtype=object)}


def find(sites: list[list[Any]], state: HeavyHitters, missing: Missing = "refuse") -> HeavyHitters:
    while not state.done:
        parts = [partial_prefixes(column(site), state, missing=missing) for site in sites]
        assert len({str(form(part)) for part in parts}) == 1
        state = combine_prefixes(total(parts), state)
    return state


def pooled(sites: list[list[Any]], least: int, most: int = 100) -> list[tuple[str, int]]:
    counts = Counter(value for site in sites for value in site)
    frequent = [(value, count) for value, count in counts.items() if count >= least]
    return sorted(frequent, key=lambda each: (-each[1], each[0]))[:most]


DRUGS = [
    ["aspirin"] * 4 + ["aspirin plus"] * 3 + ["asp"] * 2 + ["ibuprofen"],
    [],
    ["asp"] * 2 + ["ibuprofen"] * 3 + ["Ibuprofen"] + [""] * 3,
    ["naïve", "日本", "日本", "日木", "🧬", "🧬", "🧬", ""] + ["\0\0"] * 3,
]


def test_texts_that_begin_alike_empty_ones_and_those_beyond_ascii_are_told_apart() -> None:
    found = find(DRUGS, search("drug", 3))
    assert list(found.found) == pooled(DRUGS, 3)
    assert {"asp", "aspirin", "aspirin plus", "", "🧬", "\0\0"} <= dict(found.found).keys()
    assert found.rows == 30 and found.crowded == found.longer == 0
    # "aspirin plus" has 12 bytes; the end takes a round of its own.
    assert found.rounds == 13


def test_a_value_that_only_all_sites_together_have_often_is_found() -> None:
    sites = [["rare", f"own {at}"] for at in range(5)]
    assert find(sites, search("drug", 5)).found == (("rare", 5),)


def test_nothing_is_shown_when_nothing_is_frequent_and_the_search_ends_at_once() -> None:
    found = find([["a", "b"], ["c"]], search("drug", 3))
    assert found.found == () and found.rounds == 1 and found.done
    assert found.table().rows == ()
    assert find([[], []], search("drug", 3)).rows == 0


def test_a_table_says_what_it_does_not_show() -> None:
    sites = [["x"] * 9 + ["y" * 8] * 4 + [None, math.nan]]
    found = find(sites, search("drug", 3, longest=5), "leave out")
    table = found.table()
    assert table.heads == ("value", "count") and table.rows == (("x", 9),)
    assert found.left_out == 2 and found.rows == 13 and found.longer == 4
    assert any("4 rows begin alike and are longer than 5 bytes" in note for note in table.notes)
    assert any("2" in note for note in table.notes[2:])
    assert "fewer than 3 rows" in table.notes[0]


def test_a_value_of_exactly_the_longest_is_found() -> None:
    found = find([["y" * 8] * 4], search("drug", 3, longest=8))
    assert found.found == (("y" * 8, 4),) and found.longer == 0


def test_the_most_frequent_are_found_when_there_are_more_and_crowding_is_told() -> None:
    sites = [[letter for at, letter in enumerate("abcdefgh") for _ in range(at + 3)]]
    found = find(sites, search("drug", 3, most=8))
    assert list(found.found) == pooled(sites, 3) and not found.crowded
    few = find(sites, search("drug", 3, most=2))
    assert list(few.found) == pooled(sites, 3, 2)
    assert few.crowded == 6 and "6 prefixes found no room" in " ".join(few.table().notes)


def test_prefixes_that_cannot_reach_the_most_frequent_are_not_asked_for() -> None:
    state = search("drug", 3, most=1)
    sites = [["a"] * 9 + ["bc"] * 5]
    for _ in range(2):
        state = combine_prefixes(total([partial_prefixes(column(site), state) for site in sites]), state)
    assert state.done and state.found == (("a", 9),)


def test_each_row_is_counted_once_a_round() -> None:
    state = search("drug", 3)
    while not state.done:
        part = partial_prefixes(column([drug for site in DRUGS for drug in site]), state)
        assert part["counts"].min() >= 0 and part["counts"].sum() <= part["rows"] == 30
        assert part["counts"].shape == (len(state.held), 257)
        one = partial_prefixes(column(["aspirin"]), state)
        assert one["counts"].sum() == (b"aspirin"[: state.rounds] in state.held)
        state = combine_prefixes(part, state)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.lists(
            st.one_of(st.text(max_size=4), st.text("ab", max_size=6), st.sampled_from(["é", "è", "\ud800"]))
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(3, 5),
)
def test_what_is_found_is_what_counting_finds(sites: list[list[str]], least: int) -> None:
    found = find(sites, search("drug", least))
    assert list(found.found) == pooled(sites, least)
    assert found.rows == sum(map(len, sites)) and not found.crowded


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.text("abc", min_size=1, max_size=3), max_size=80),
    st.integers(1, 4),
)
def test_with_little_room_nothing_false_is_found_and_losses_are_told(values: list[str], most: int) -> None:
    found = find([values], search("drug", 3, most=most))
    counts = Counter(values)
    assert all(counts[value] == count >= 3 for value, count in found.found)
    assert len(found.found) <= most
    if not found.crowded:
        # Of values with the count of the last one, any may stand there.
        assert [count for _, count in found.found] == [count for _, count in pooled([values], 3, most)]


@pytest.mark.parametrize(
    ("values", "missing", "said"),
    [
        (["a", None], "refuse", 'misses values and the rule is "refuse"'),
        ([[], "a"], "refuse", "has a value that is no text"),
        (["a", 3], "refuse", "has a value that is no text"),
        ([1.0, 2.0], "refuse", "has a value that is no text"),
        (["a"], "leave_out", 'did you mean "leave out"'),
    ],
)
def test_what_is_no_text_is_refused_without_telling_it(values: list[Any], missing: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        partial_prefixes(column(values), search("drug"), missing=missing)


def test_other_columns_and_masked_values() -> None:
    state = search("drug")
    with pytest.raises(DataError, match=r'no column "drug"; did you mean "drugs"'):
        partial_prefixes({"drugs": ["a"]}, state)
    with pytest.raises(DataError, match=r"float64 of 1 dimensions"):
        partial_prefixes({"drug": np.ones(3)}, state)
    masked = np.ma.MaskedArray(np.array(["a", "b"]), [False, True])
    part = partial_prefixes({"drug": masked}, state, missing="leave out")
    assert part["rows"] == 1 and part["left_out"] == 1


@pytest.mark.parametrize("wrong", [0, -1, 2.0, True])
def test_sizes_that_make_no_sense_are_refused(wrong: Any) -> None:
    with pytest.raises(DataError, match="most is"):
        search("drug", most=wrong)
    with pytest.raises(DataError, match="longest is"):
        search("drug", longest=wrong)
    with pytest.raises(JobError, match="minimum cell"):
        search("drug", wrong)


def test_bytes_that_are_no_text_are_shown_as_such_and_sums_may_be_of_doubles() -> None:
    counts = np.zeros((1, 257))
    counts[0, 0xFF] = 6.0
    sums = {"rows": np.array(6.0), "left_out": np.array(0.0), "counts": counts}
    state = combine_prefixes(sums, search("drug"))
    assert state.held == (b"\xff",)
    counts = np.zeros((1, 257))
    counts[0, 256] = 6.0
    assert combine_prefixes({**sums, "counts": counts}, state).found == (("\\xff", 6),)


def test_sums_of_another_round_are_refused() -> None:
    state = search("drug", 3)
    part = partial_prefixes(column(["a"] * 3 + ["b"] * 3), state)
    later = combine_prefixes(part, state)
    with pytest.raises(DataError, match=r"shape \(1, 257\); allowed: \(2, 257\)"):
        combine_prefixes(part, later)
