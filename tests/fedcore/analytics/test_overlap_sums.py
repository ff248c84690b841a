"""Differences of protected sums: the test on summed sizes says what a test on all rows says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.analytics import overlap, overlap_sums
from fedcore.analytics.overlap_sums import earlier, record, refuse_isolating, sizes, united
from fedcore.analytics.sums import add, form
from fedcore.errors import DataError, JobError, PolicyRefused

ANNA = ("anna", "lung")


def bits(*rows: int) -> int:
    return sum(1 << each for each in rows)


def span(start: int, end: int) -> int:
    return bits(*range(start, end))


class Sites:
    """Sites that each hold some rows, and a coordinator that asks them all."""

    def __init__(self, folder: Path, count: int) -> None:
        self.files = [folder / f"site-{at}" / "told.jsonl" for at in range(count)]

    def ask(self, hash_: str, *sets: list[int], minimum: int = 5) -> None:
        """Ask a question whose groups hold `sets[i]` at site i."""
        lists = united(earlier(file, *ANNA) for file in self.files)
        parts = [sizes(f, *ANNA, own, lists) for f, own in zip(self.files, sets, strict=True)]
        assert len({json.dumps(form(part)) for part in parts}) == 1
        refuse_isolating(add(parts), lists, minimum)
        for file, own in zip(self.files, sets, strict=True):
            record(file, *ANNA, hash_, f"question {hash_}", own, compared=lists)


# ---- what is refused ------------------------------------------------------------------------------------------


def test_a_difference_that_is_small_in_the_sum_is_refused_and_the_earlier_question_named(
    tmp_path: Path,
) -> None:
    sites = Sites(tmp_path, 2)
    sites.ask("aaaa", [span(0, 20)], [span(0, 20)])
    with pytest.raises(PolicyRefused, match=r"earlier question aaaa .*fewer than 5 rows"):
        sites.ask("bbbb", [span(0, 22)], [span(0, 22)])


def test_a_difference_of_a_few_rows_at_each_site_is_allowed_where_the_sum_is_enough(tmp_path: Path) -> None:
    sites = Sites(tmp_path, 3)
    sites.ask("aaaa", *[[span(0, 20)]] * 3)
    sites.ask("bbbb", *[[span(0, 22)]] * 3)


def test_groups_within_around_and_all_of_them(tmp_path: Path) -> None:
    sites = Sites(tmp_path, 2)
    halves = [span(0, 10), span(10, 20)]
    sites.ask("halves", halves, halves)
    for sets in (
        [span(1, 10)],  # within a group: two rows apart in the sum
        [span(0, 11)],  # around a group
        [span(1, 19)],  # within all of them, one row of each group: 4 in the sum
        [span(0, 9), span(9, 19)],  # all of it is within all of them
    ):
        with pytest.raises(PolicyRefused, match="halves"):
            sites.ask("new", sets, sets)
    sites.ask("same groups", halves, halves)
    sites.ask("quarters", [span(0, 5), span(5, 10), span(10, 20)], [span(0, 5), span(5, 10), span(10, 20)])
    sites.ask("elsewhere", [span(30, 40)], [span(30, 40)])


def test_a_site_that_had_no_part_in_the_earlier_question_has_no_row_in_it(tmp_path: Path) -> None:
    sites = Sites(tmp_path, 3)
    for file in sites.files[:2]:
        record(file, *ANNA, "early", "", [span(0, 20)])
    # The third site's rows are the difference between the answers.
    with pytest.raises(PolicyRefused, match="early"):
        sites.ask("again", [span(0, 20)], [span(0, 20)], [span(0, 3)])
    sites.ask("again", [span(0, 20)], [span(0, 20)], [span(0, 9)])


def test_groups_that_are_empty_everywhere_hinder_nothing(tmp_path: Path) -> None:
    sites = Sites(tmp_path, 2)
    sites.ask("a", [span(0, 9), 0], [span(0, 9), 0])
    sites.ask("b", [0, span(20, 29)], [0, 0])
    sites.ask("c", [0], [0])


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Two groups of the other within a group, and a third elsewhere.
        ([span(0, 41)], [span(0, 20), span(20, 40), span(60, 80)]),
        # A group within two groups of the other.
        ([span(0, 39)], [span(0, 20), span(20, 40), span(60, 80)]),
        # All of both, of which small groups are suppressed.
        ([span(0, 20), span(20, 23)], [span(0, 10), span(10, 20), span(20, 22)]),
        # All of the told groups of the one.
        ([span(0, 20), span(20, 40), span(90, 93)], [span(0, 13), span(13, 41), span(60, 80)]),
    ],
)
def test_each_way_to_differ_by_a_few_rows(
    tmp_path: Path, one: list[int], other: list[int], swapped: bool
) -> None:
    sites = Sites(tmp_path, 1)
    sites.ask("early", one if swapped else other)
    with pytest.raises(PolicyRefused, match="early"):
        sites.ask("late", other if swapped else one)


MAP = st.lists(st.integers(0, 3), min_size=6, max_size=6)


@settings(deadline=None, max_examples=500)
@given(
    st.lists(st.integers(0, 5), min_size=20, max_size=20),
    MAP,
    MAP,
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 3)), max_size=2),
    st.integers(1, 3),
    st.integers(3, 5),
)
def test_the_sum_says_what_a_test_on_all_rows_says(
    kinds: list[int],
    of_old: list[int],
    of_new: list[int],
    moved: list[tuple[int, int]],
    count: int,
    minimum: int,
) -> None:
    """Groups of both questions are made of the same six kinds of rows, 0 for no group; a few rows are elsewhere."""
    old, new = [of_old[kind] for kind in kinds], [of_new[kind] for kind in kinds]
    for row, group in moved:
        new[row] = group

    def sets(labels: list[int], site: int | None) -> list[int]:
        own = [at for at in range(20) if site is None or at % count == site]
        return [bits(*[at for at in own if labels[at] == group]) for group in (1, 2, 3)]

    parts = []
    for site in range(count):
        here, there = sets(new, site), sets(old, site)
        parts.append(
            {
                "groups": np.array([each.bit_count() for each in here]),
                "earlier 0": np.array([each.bit_count() for each in there]),
                "shared 0": np.array([[(a & b).bit_count() for b in there] for a in here]),
            }
        )
    one, other = (sets(labels, None) for labels in (new, old))
    expected = isolates(one, other, minimum) or isolates(other, one, minimum)
    try:
        refuse_isolating(add(parts), [("old", 3)], minimum)
        found = False
    except PolicyRefused:
        found = True
    assert found == expected
    shown = [[rows for rows in each if rows.bit_count() >= minimum] for each in (one, other)]
    assert found or not (overlap._isolates(*shown, minimum) or overlap._isolates(*shown[::-1], minimum))


def isolates(one: list[int], other: list[int], minimum: int) -> bool:
    """The test in plain words: on rows, not on sizes."""
    shown = [rows for rows in one if rows.bit_count() >= minimum]
    parts = [rows for rows in other if rows.bit_count() >= minimum]
    for rows in (*shown, sum(shown), sum(one)):
        differences = []
        inside = [part for part in parts if part & rows == part]
        meeting = [part for part in parts if part & rows]
        if inside:
            differences.append(rows & ~sum(inside))
        if sum(meeting) & rows == rows:
            differences.append(sum(meeting) & ~rows)
        for part in (*parts, sum(other)):
            if part.bit_count() >= minimum and part & rows in (part, rows):
                differences.append(part ^ rows)
        if rows.bit_count() >= minimum and any(0 < each.bit_count() < minimum for each in differences):
            return True
    return False


# ---- the site's record -----------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_sets(tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    record(file, *ANNA, "h", "text", [bits(1, 2, 3), bits(4)])
    told = sizes(file, *ANNA, [bits(2, 3, 4), bits(9), 0], earlier(file, *ANNA))
    assert told["groups"].tolist() == [3, 1, 0] and told["earlier 0"].tolist() == [3, 1]
    assert told["shared 0"].tolist() == [[2, 1], [0, 0], [0, 0]]
    assert {value.dtype for value in told.values()} == {np.dtype(np.int64)}


def test_a_question_that_the_coordinator_leaves_out_is_missed(tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    record(file, *ANNA, "aaaa", "", [span(0, 9)])
    record(file, *ANNA, "bbbb", "", [span(0, 30)])
    with pytest.raises(
        PolicyRefused, match="question aaaa here, with which the coordinator does not compare"
    ):
        sizes(file, *ANNA, [span(0, 8)], [("bbbb", 1)])
    assert sizes(file, "bert", "lung", [span(0, 8)], []).keys() == {"groups"}
    assert sizes(file, "anna", "other", [span(0, 8)], [])


def test_of_two_at_a_time_the_second_is_found_when_it_is_recorded(tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    record(file, *ANNA, "first", "", [span(0, 9)], compared=[])
    with pytest.raises(PolicyRefused, match="first"):
        record(file, *ANNA, "second", "", [span(0, 8)], compared=[])
    assert earlier(file, *ANNA) == [("first", 1)]


def test_the_same_rows_again_are_nothing_new_and_other_rows_are(tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    for rows in (span(0, 9), span(0, 9), span(0, 20)):
        record(file, *ANNA, "h", "", [rows])
    assert earlier(file, *ANNA) == [("h", 1), ("h+1", 1)]
    told = sizes(file, *ANNA, [span(0, 30)], [("h", 1), ("h+1", 1), ("h+2", 1), ("other", 2)])
    assert [told[f"earlier {at}"].tolist() for at in range(4)] == [[9], [20], [20], [0, 0]]


def test_lists_of_all_sites_are_one_list() -> None:
    assert united([[("b", 2), ("a", 1)], [], [("a", 1), ("c", 3)]]) == [("a", 1), ("b", 2), ("c", 3)]
    with pytest.raises(JobError, match="earlier question a: one site counts 1 groups, another 2"):
        united([[("a", 1)], [("a", 2)]])


@pytest.mark.parametrize(
    "listed", [[("h", 2)], [("h", 1), ("h", 1)], [("h", 1), ("x", -1)], [("h", 1), ("h+x", 1)]]
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, listed: list[tuple[str, int]]) -> None:
    record(tmp_path / "told.jsonl", *ANNA, "h", "", [span(0, 9)])
    with pytest.raises(JobError):
        sizes(tmp_path / "told.jsonl", *ANNA, [span(0, 9)], listed)


def test_groups_that_share_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="share rows"):
        sizes(tmp_path / "told.jsonl", *ANNA, [bits(1, 2), bits(2)], [])
    with pytest.raises(DataError, match="share rows"):
        record(tmp_path / "told.jsonl", *ANNA, "h", "", [bits(1, 2), bits(2)])


def test_a_record_that_was_changed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    record(file, *ANNA, "aaaa", "", [span(0, 9)])
    record(file, *ANNA, "bbbb", "", [span(0, 9)])
    file.write_bytes(file.read_bytes().split(b"\n", 1)[1])
    with pytest.raises(DataError, match="changed"):
        earlier(file, *ANNA)


def test_there_is_an_end_to_what_can_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "told.jsonl"
    monkeypatch.setattr(overlap_sums, "MOST_QUESTIONS", 2)
    record(file, *ANNA, "a", "", [span(0, 9)])
    record(file, *ANNA, "b", "", [span(0, 9)])
    record(file, *ANNA, "a", "", [span(0, 9)])
    with pytest.raises(PolicyRefused, match="2 questions"):
        record(file, *ANNA, "c", "", [span(0, 9)])
    with pytest.raises(PolicyRefused, match="3 questions"):
        sizes(file, *ANNA, [1], [("a", 1), ("b", 1), ("c", 1)])


def test_pairs_beyond_the_bound_are_refused_before_they_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap_sums, "MOST_SIZES", 10)
    with pytest.raises(PolicyRefused, match="allowed: 10"):
        sizes(tmp_path / "told.jsonl", *ANNA, [1, 2], [("a", 3)])


@pytest.mark.parametrize("spoil", ["groups", "earlier 0", "shared 0"])
def test_sizes_of_another_list_are_refused(tmp_path: Path, spoil: str) -> None:
    file = tmp_path / "told.jsonl"
    record(file, *ANNA, "h", "", [span(0, 9)])
    told = sizes(file, *ANNA, [span(0, 9)], [("h", 1)])
    with pytest.raises(JobError):
        refuse_isolating({name: value for name, value in told.items() if name != spoil}, [("h", 1)], 5)
    with pytest.raises(JobError):
        refuse_isolating(told, [("h", 2)], 5)
    with pytest.raises(JobError, match="minimum cell 2"):
        refuse_isolating(told, [("h", 1)], 2)


# ---- bins -------------------------------------------------------------------------------------------------------


def compared(one: list[int], other: list[int], earlier: str, block: int) -> None:
    """Test a question against an earlier one; rows as set bits."""
    shared = [[(a & b).bit_count() for b in other] for a in one]
    told = {
        "groups": np.array([a.bit_count() for a in one]),
        "earlier 0": np.array([b.bit_count() for b in other]),
        "shared 0": np.array(shared).reshape(len(one), len(other)),
    }
    refuse_isolating(told, [(earlier, len(other))], 5, block)


def test_a_small_bin_is_hidden_by_another_from_who_knows_the_number_of_rows() -> None:
    # Bins of 3, 30, 120 and 81 rows, and none missing: the 30 are suppressed with the 3.
    bins = [span(0, 3), span(3, 33), span(33, 153), span(153, 234), 0]
    compared(bins, [span(0, 234)], "all", 5)
    compared([span(0, 234)], bins, "bins-5", 0)
    # Without a block they are groups, of which only the small one is suppressed.
    with pytest.raises(PolicyRefused, match="fewer than 5 rows"):
        compared([span(0, 234)], bins, "groups", 0)


def test_another_histogram_does_not_tell_the_bin_that_hides_a_small_one() -> None:
    one = [span(0, 3), span(3, 33), span(33, 153), span(153, 234), 0]
    # Here the 30 are told, for one of 6 hides the 3.
    other = [span(0, 3), span(33, 39), span(3, 33), span(39, 234), 0]
    for new, old in ((one, other), (other, one)):
        with pytest.raises(PolicyRefused, match="fewer than 5 rows"):
            compared(new, old, "old-5+1", 5)
    compared(one, one, "old-5", 5)


def test_moved_edges_are_refused() -> None:
    one, other = ([0, span(0, middle), span(middle, 200), 0, 0] for middle in (100, 104))
    with pytest.raises(PolicyRefused, match="fewer than 5 rows"):
        compared(other, one, "old-5", 5)
    compared([0, span(0, 105), span(105, 200), 0, 0], one, "old-5", 5)
