"""No neighbour changes a release by more than is stated, and some change it by as much."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import JobError
from fedcore.privacy.sensitivity import (
    RELATIONS,
    Contribution,
    Neighbours,
    Sensitivity,
    clipped,
    count,
    histogram,
    mean,
    neighbours,
    total,
    totals,
)

ADD, REPLACE = Neighbours(), Neighbours("row", "replace")
PERSON = Neighbours("person")
OTHER_PERSON = Neighbours("person", "replace")


def units(values: list[int], cells: int, bound: Contribution) -> Iterator[list[int]]:
    """All that one unit can add: to at most `groups` cells, up to `rows` values each."""
    one_cell = {
        sum(chosen)
        for rows in range(bound.rows + 1)
        for chosen in itertools.combinations_with_replacement(values, rows)
    }
    for added in itertools.product(sorted(one_cell), repeat=cells):
        if sum(each != 0 for each in added) <= bound.groups:
            yield list(added)


def worst(found: list[list[int]], change: str) -> tuple[int, int]:
    pairs = [(each, [0] * len(each)) for each in found]
    if change == "replace":
        pairs = list(itertools.product(found, found))
    apart = [[a - b for a, b in zip(*pair, strict=True)] for pair in pairs]
    return max(sum(map(abs, each)) for each in apart), max(sum(d * d for d in each) for each in apart)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(-3, 3), st.integers(-3, 3)).map(sorted).filter(lambda pair: pair != [0, 0]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 3),
    st.sampled_from(["add-remove", "replace"]),
)
def test_sums_by_group_are_bounded_tightly(bounds, cells, rows, groups, change) -> None:
    low, high = bounds
    bound = Contribution(rows, groups)
    found = totals(low, high, cells, Neighbours("person", change), bound)
    # Of all whole values between the bounds, the ends are the worst; a row that is filtered out adds nothing.
    l1, l2 = worst(list(units([low, high], cells, bound)), change)
    assert (found.l1, found.l2_squared) == (l1, l2)


@pytest.mark.parametrize("change", ["add-remove", "replace"])
@pytest.mark.parametrize(("cells", "rows", "groups"), [(1, 1, 1), (1, 3, 2), (3, 2, 1), (3, 1, 2), (4, 2, 2)])
def test_histograms_are_bounded_tightly(change: str, cells: int, rows: int, groups: int) -> None:
    bound = Contribution(rows, groups)
    found = histogram(cells, Neighbours("person", change), bound)
    assert (found.l1, found.l2_squared) == worst(list(units([1], cells, bound)), change)


def test_what_one_row_changes() -> None:
    assert (count(ADD).l1, count(REPLACE).l1) == (1, 1)
    assert (histogram(10, ADD).l1, histogram(10, REPLACE).l1) == (1, 2)
    assert (histogram(10, ADD).l2_squared, histogram(10, REPLACE).l2_squared) == (1, 2)
    assert total(0, 120, ADD).l1 == total(0, 120, REPLACE).l1 == 120
    assert (total(-5, 10, ADD).l1, total(-5, 10, REPLACE).l1) == (10, 15)
    assert total("0.1", "0.3", ADD).l1 == Fraction(3, 10)


def test_a_person_counts_with_all_of_the_rows_that_the_bound_leaves() -> None:
    bound = Contribution(rows=3, groups=4)
    assert count(PERSON, bound).l1 == 12
    assert total(0, 10, PERSON, bound).l1 == 120
    assert histogram(100, PERSON, bound).l1 == 12
    assert histogram(100, PERSON, bound).l2_squared == 36
    assert histogram(100, OTHER_PERSON, bound).l2_squared == 72


def test_a_mean_is_a_centred_sum_and_a_count() -> None:
    found = mean(20, 80, ADD)
    assert (found.centre, found.total.l1, found.count.l1) == (50, 30, 1)
    assert mean(20, 80, REPLACE).total.l1 == 60
    assert mean(20, 80, PERSON, Contribution(2)).total.l1 == 60


@pytest.mark.parametrize("unit", ["person", "client"])
def test_without_a_bound_nothing_is_promised_for_people_and_clients(unit: str) -> None:
    for release in (lambda r: count(r), lambda r: total(0, 1, r), lambda r: histogram(2, r)):
        with pytest.raises(
            JobError, match=rf"nothing bounds how many rows one {unit} has. Cure: a contribution"
        ):
            release(Neighbours(unit))
    with pytest.raises(JobError, match=r"a row is one row in one group.*Cure: neighbours add-remove-person"):
        count(ADD, Contribution(3))
    assert count(ADD, Contribution()) == count(ADD)


def test_vectors_change_by_their_clip_and_by_twice_that_when_replaced() -> None:
    client = clipped("1.5", 4, Neighbours("client"))
    assert client.l2_squared == Fraction(9, 4) and float(client.l1) == pytest.approx(3)
    assert clipped("1.5", 4, Neighbours("client", "replace")).l2_squared == 9


def test_a_sensitivity_in_steps_is_exact() -> None:
    found = total("0.1", "0.3", ADD).in_steps("0.05")
    assert found == Sensitivity(Fraction(6), Fraction(36), ADD, found.what)


def test_relations_have_words_and_names() -> None:
    assert [str(RELATIONS[word]) for word in ("add-remove-row", "replace-client")] == [
        "add or remove one row",
        "replace one client",
    ]
    assert all(neighbours(word).word == word for word in RELATIONS) and len(RELATIONS) == 6
    with pytest.raises(JobError, match='did you mean "replace-person"'):
        neighbours("replace-persn")
    with pytest.raises(JobError, match='unit "patient"'):
        Neighbours("patient")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bounds",
    [(1, 0), (0, 0), (0, math.inf), (-math.inf, 0), (math.nan, 1), (0, math.nan), ("a", 1), (None, 1)],
)
def test_bounds_that_bound_nothing_are_refused(bounds) -> None:
    with pytest.raises(JobError, match=r"allowed"):
        total(*bounds, ADD)
    with pytest.raises(JobError, match=r"allowed"):
        mean(*bounds, ADD)


def test_other_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(JobError, match=r"lower below upper"):
        mean(2, 2, ADD)
    for wrong in (0, -1, 1.0, True):
        with pytest.raises(JobError, match=r"whole number, 1 or more"):
            histogram(wrong, ADD)  # type: ignore[arg-type]
        with pytest.raises(JobError, match=r"whole number, 1 or more"):
            clipped(1, wrong, ADD)  # type: ignore[arg-type]
        with pytest.raises(JobError, match=r"whole number, 1 or more"):
            Contribution(wrong)  # type: ignore[arg-type]
    for clip in (0, -1, math.inf, math.nan):
        with pytest.raises(JobError, match=r"clip is"):
            clipped(clip, 3, ADD)
