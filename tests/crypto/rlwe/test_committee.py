"""Who holds the key: quorums meet in an honest holder, whatever the cohort, and enough are left when some drop out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.rlwe.committee import committee, drawn
from crypto.secagg.graph import Assumptions, NoParameters


def tail(population: int, marked: int, drawn_: int, more_than: int) -> float:
    """Probability that more than so many of those drawn are marked, counted out."""
    ways = sum(
        math.comb(marked, count) * math.comb(population - marked, drawn_ - count)
        for count in range(more_than + 1, min(marked, drawn_) + 1)
        if drawn_ - count <= population - marked
    )
    return ways / math.comb(population, drawn_)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 400),
    st.sampled_from([0.0, 0.05, 0.1, 0.2]),
    st.sampled_from([0.0, 0.1, 0.2]),
    st.sampled_from(["curious", "active"]),
)
def test_a_committee_holds_what_is_assumed(
    cohort: int, corrupt: float, dropout: float, adversary: str
) -> None:
    assumed = Assumptions(corrupt=corrupt, dropout=dropout, adversary=adversary, least_cohort=2)  # type: ignore[arg-type]
    try:
        found = committee(cohort, assumed)
    except NoParameters:
        return
    h, t = found.holders, found.threshold
    assert 2 <= t <= h <= cohort and found.least > cohort / 2
    colluding = math.ceil(corrupt * cohort - 1e-9) if cohort > 2 else 0
    dropped = math.floor(dropout * cohort + 1e-9)
    # The most that may collude among the holders, so that the rules still hold.
    most = t - 1 if adversary == "curious" else 2 * t - h - 1
    if h == cohort:
        assert colluding <= most and dropped <= h - t
    else:
        assert tail(cohort, colluding, h, most) <= 2.0**-41
        assert tail(cohort, math.ceil(dropout * cohort - 1e-9), h, h - t) <= 2.0**-40


@pytest.mark.parametrize(
    ("cohort", "adversary", "holders", "threshold"),
    [
        (3, "active", 3, 3),
        (5, "active", 5, 4),
        (10, "active", 10, 6),
        (5, "curious", 5, 2),
        (32, "active", 32, 18),
    ],
)
def test_all_of_a_small_cohort_hold_the_key(
    cohort: int, adversary: str, holders: int, threshold: int
) -> None:
    found = committee(cohort, Assumptions(adversary=adversary))  # type: ignore[arg-type]
    assert (found.holders, found.threshold) == (holders, threshold)


def test_a_committee_of_a_large_cohort_is_small() -> None:
    assert committee(1000, Assumptions(adversary="curious")).holders < 60
    assert committee(1000, Assumptions()).holders < 120


def test_too_few_participants_and_assumptions_that_nobody_can_hold_are_refused() -> None:
    with pytest.raises(NoParameters, match="least_cohort"):
        committee(2, Assumptions())
    with pytest.raises(NoParameters, match="lower corrupt or dropout"):
        committee(10, Assumptions(corrupt=0.5, dropout=0.4))


def test_those_that_are_not_in_the_cohort_may_collude_too() -> None:
    few, many = (committee(10, Assumptions(corrupt=0.1, enrolled=n)).threshold for n in (0, 40))
    assert many > few


def test_a_committee_is_drawn_by_the_seed() -> None:
    names = [f"p{i}" for i in range(40)]
    one, again, other = (drawn(names, 8, seed) for seed in (b"one", b"one", b"other"))
    assert one == again and set(one) <= set(names) and len(set(one)) == 8
    assert set(one) != set(other)
    assert drawn(list(reversed(names)), 8, b"one") == one
    counts = dict.fromkeys(names, 0)
    for i in range(400):
        for name in drawn(names, 8, str(i).encode()):
            counts[name] += 1
    # Each 80 times on average; further off than 40 with probability below 1e-5.
    assert all(40 < count < 120 for count in counts.values())
