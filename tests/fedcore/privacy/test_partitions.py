"""Private group keys: a key of one unit is told as rarely as was promised, and keys of many units are told.

Probabilities are computed here in plain floats and sums; a test with chance in it says how rarely it fails.
"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedcore.errors import DataError, JobError
from fedcore.privacy.budget import Cost
from fedcore.privacy.partitions import Selection, distinct_units, plan, plan_gaussian, select
from fedcore.privacy.sensitivity import Contribution, Neighbours

ONE = Contribution()
REPLACE = Neighbours("person", "replace")


def laplace_tail(scale: float, least: int) -> float:
    """By its sum over 100,000 places to each side."""
    x = np.arange(-100_000, 100_001)
    weights = np.exp(-np.abs(x) / scale)
    return math.fsum(weights[x >= least]) / math.fsum(weights)


def gaussian_tail(variance: float, least: int) -> float:
    x = np.arange(-5_000, 5_001).astype(float)
    weights = np.exp(-(x**2) / (2 * variance))
    return math.fsum(weights[x >= least]) / math.fsum(weights)


PLANS = [
    (epsilon, delta, groups)
    for epsilon in ("0.1", "1", "3")
    for delta in ("1e-3", "1e-6", "1e-9")
    for groups in (1, 4, 20)
]


@pytest.mark.parametrize(("epsilon", "delta", "groups"), PLANS)
def test_the_keys_of_a_unit_alone_are_told_with_probability_delta_at_most_and_no_lower_threshold_would_do(
    epsilon: str, delta: str, groups: int
) -> None:
    found = plan(epsilon, delta, Contribution(7, groups))
    assert found.cost == Cost("epsilon", Fraction(epsilon), Fraction(delta))
    assert found.scale == groups / Fraction(epsilon) and found.groups == groups
    scale = float(found.scale)
    assert groups * laplace_tail(scale, found.threshold - 1) <= float(delta) * (1 + 1e-9)
    assert groups * laplace_tail(scale, found.threshold - 2) > float(delta)


@pytest.mark.parametrize(("rho", "delta", "groups"), PLANS)
def test_the_same_with_gaussian_noise(rho: str, delta: str, groups: int) -> None:
    found = plan_gaussian(rho, delta, Contribution(1, groups))
    assert found.cost == Cost("rho", Fraction(rho), Fraction(delta))
    assert found.variance == groups / (2 * Fraction(rho))
    variance = float(found.variance)
    assert groups * gaussian_tail(variance, found.threshold - 1) <= float(delta) * (1 + 1e-9)
    assert groups * gaussian_tail(variance, found.threshold - 2) > float(delta)


@pytest.mark.parametrize("found", [plan(1, "1e-6", Contribution(1, 2)), plan_gaussian("0.2", "1e-6", ONE)])
def test_how_likely_a_key_is_told_is_the_tail_of_the_noise(found: Selection) -> None:
    for units in (1, 2, found.threshold - 1, found.threshold, found.threshold + 1, found.threshold + 40):
        least = found.threshold - units
        wanted = (
            gaussian_tail(float(found.variance), least)
            if found.variance is not None
            else laplace_tail(float(found.scale or 0), least)
        )
        assert found.told(units) == pytest.approx(wanted, rel=1e-9, abs=1e-15)
    assert found.told(0) == 0
    assert found.told(1) <= 1e-6 / found.groups
    assert found.told(found.threshold) > 0.5


def outcomes(counts: dict[str, int], found: Selection) -> dict[frozenset[str], float]:
    """The probability of each set of keys that may be told."""
    keys = sorted(counts)
    sets = chain.from_iterable(combinations(keys, size) for size in range(len(keys) + 1))
    return {
        frozenset(told): math.prod(
            found.told(counts[key]) if key in told else 1 - found.told(counts[key]) for key in keys
        )
        for told in sets
    }


def apart(one: dict[str, int], other: dict[str, int], found: Selection, epsilon: float) -> float:
    """The least delta at which the first is within epsilon of the other."""
    p, q = outcomes(one, found), outcomes(other, found)
    return math.fsum(max(0.0, each - math.exp(epsilon) * q.get(told, 0.0)) for told, each in p.items())


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
@pytest.mark.parametrize("counted", [1, 3, 5, 8])
def test_what_is_told_differs_between_neighbours_by_no_more_than_the_cost(
    epsilon: float, counted: int
) -> None:
    # All sets of keys, with and without a person who has three of them: one or all alone.
    found = plan(str(epsilon), "1e-3", Contribution(1, 3))
    for mine in ("a", "ab", "abc"):
        without = {key: counted + at for at, key in enumerate("bcd")}
        with_ = dict(without)
        for key in mine:
            with_[key] = with_.get(key, 0) + 1
        assert apart(with_, without, found, epsilon) <= 1e-3
        assert apart(without, with_, found, epsilon) <= 1e-3
    alone = {"a": 1, "b": 1, "c": 1}
    assert 1e-4 < apart(alone, {}, found, epsilon) <= 1e-3


@pytest.mark.parametrize(("epsilon", "fewer"), [(0.1, 25), (1.0, 2), (3.0, 2)])
def test_no_key_is_told_more_often_than_the_best_selection_may_and_by_how_much_it_is_behind(
    epsilon: float, fewer: int
) -> None:
    # Desfontaines and others: the most that (epsilon, delta) allows, from one unit to the next.
    found, delta, best = plan(str(epsilon), "1e-6", ONE), 1e-6, [0.0]
    while best[-1] < 0.5:
        now = best[-1]
        best.append(min(math.exp(epsilon) * now + delta, 1 - math.exp(-epsilon) * (1 - now - delta), 1.0))
    assert all(found.told(units) <= most * (1 + 1e-9) for units, most in enumerate(best))
    assert len(best) - 1 <= found.threshold <= len(best) - 1 + fewer


def test_a_unit_that_is_replaced_is_hidden_as_well() -> None:
    found = plan(1, "1e-3", Contribution(1, 2), REPLACE)
    assert found.scale == 4
    shared = {"x": 4, "y": 9}
    for one, other in (("ab", "cd"), ("ax", "xy"), ("xy", "ab"), ("ax", "cy")):
        a, b = Counter(shared), Counter(shared)
        a.update(one)
        b.update(other)
        assert apart(dict(a), dict(b), found, 1.0) <= 1e-3
    assert found.threshold > plan(1, "1e-3", Contribution(1, 2)).threshold


def test_keys_of_many_units_are_told_and_of_one_unit_are_not_and_those_of_none_never() -> None:
    # Wrong with probability below 1e-9 a key, 600 keys.
    found = plan(1, "1e-9", ONE)
    many = found.threshold + 25
    counts = (
        {f"many {at:03}": many for at in range(300)} | {f"one {at}": 1 for at in range(300)} | {"none": 0}
    )
    assert select(counts, found) == sorted(key for key in counts if key.startswith("many"))
    gaussian = plan_gaussian("0.5", "1e-9", ONE)
    assert select(counts, gaussian) == sorted(key for key in counts if key.startswith("many"))


@pytest.mark.parametrize("found", [plan("0.5", "0.01", ONE), plan_gaussian("0.05", "0.01", ONE)])
def test_keys_are_told_as_often_as_was_computed(found: Selection) -> None:
    # Each of the six tests fails with probability 1e-8.
    for units in (2, found.threshold - 1, found.threshold + 2):
        told = len(select(dict.fromkeys(range(20_000), units), found))
        assert stats.binomtest(told, 20_000, found.told(units)).pvalue > 1e-8


def test_the_order_tells_nothing_and_takes_keys_of_any_kind() -> None:
    found = plan(5, "1e-3", ONE)
    keys = [("b", 2), ("a", 3), (None, 1), ("a", None), ("a", 2.5), (3, "x"), (True, "x")]
    wanted = [(None, 1), (True, "x"), (3, "x"), ("a", None), ("a", 2.5), ("a", 3), ("b", 2)]
    for order in (keys, keys[::-1]):
        assert select(dict.fromkeys(order, 1_000), found) == wanted
    assert select({}, found) == []


@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from("abcdef")), max_size=60),
    st.integers(1, 6),
)
def test_units_count_once_in_a_key_and_in_no_more_keys_than_allowed(
    rows: list[tuple[int, str]], groups: int
) -> None:
    counts = distinct_units(rows, Contribution(9, groups))
    whole = Counter(key for _, key in set(rows))
    of_unit = Counter(unit for unit, _ in set(rows))
    assert all(0 < count <= whole[key] for key, count in counts.items())
    assert sum(counts.values()) == sum(min(each, groups) for each in of_unit.values())
    if groups >= max(of_unit.values(), default=0):
        assert counts == dict(whole)


def test_which_keys_of_a_unit_are_kept_is_chance() -> None:
    # 4,000 units with three keys each keep one; a key is kept by a third. Fails with probability below 3e-8.
    counts = distinct_units([(unit, key) for unit in range(4_000) for key in "abc"], ONE)
    assert sum(counts.values()) == 4_000
    assert stats.chisquare(list(counts.values())).pvalue > 1e-8


@pytest.mark.parametrize("wrong", [0, -1, math.inf, math.nan, "x", None])
def test_a_budget_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(JobError, match="epsilon is"):
        plan(wrong, "1e-6", ONE)  # type: ignore[arg-type]
    with pytest.raises(JobError, match="rho is"):
        plan_gaussian(wrong, "1e-6", ONE)  # type: ignore[arg-type]
    for make in (plan, plan_gaussian):
        with pytest.raises(JobError, match="delta is"):
            make(1, wrong, ONE)  # type: ignore[arg-type]


def test_a_delta_of_one_and_noise_beyond_all_counts_are_refused() -> None:
    for wrong in (1, 2, "1e-101"):
        with pytest.raises(JobError, match=r"delta is .*; allowed: 1e-100 or more, below 1"):
            plan(1, wrong, ONE)
    with pytest.raises(JobError, match=r"larger rho, or fewer groups"):
        plan_gaussian("1e-9", "1e-6", ONE)
    with pytest.raises(JobError, match="contribution bound"):
        plan(1, "1e-6", Contribution(1, 2), Neighbours())


@pytest.mark.parametrize("wrong", [-1, 1.5, True])
def test_counts_that_are_none_are_refused_without_telling_them(wrong: object) -> None:
    with pytest.raises(DataError) as caught:
        select({"secret": wrong}, plan(1, "1e-6", ONE))  # type: ignore[dict-item]
    assert "secret" not in str(caught.value) and str(wrong) not in str(caught.value)


def test_the_smallest_delta_and_wide_noise_are_computed_without_loss() -> None:
    # ln(1e100) / 0.01 = 23,026 steps.
    assert plan("0.01", "1e-100", ONE).threshold == pytest.approx(100 * math.log(1e100 / 2), rel=1e-3)
    wide = plan_gaussian("1e-5", "1e-6", ONE)
    assert wide.variance == 50_000
    assert wide.threshold == pytest.approx(1 + stats.norm.isf(1e-6, scale=math.sqrt(50_000)), abs=1.5)
