"""The noise of a question: exact on its grid, as large as its bounds ask for, and never larger in cost than the promise."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedcore.errors import DataError, JobError
from fedcore.privacy.answers import (
    MOST_ROWS,
    Entries,
    add_noise,
    largest_rho,
    plan_answers,
    statement,
    variance_of,
)
from fedcore.privacy.contribution import bounded_rows
from fedcore.privacy.distributed import distributed_cost
from fedcore.privacy.sensitivity import RELATIONS, Neighbours

ROW, PERSON = Neighbours(), Neighbours("person")
COUNT, SUM = Entries((), 0, 1, whole=True), Entries((3,), -20, 100)


def test_all_rounds_of_all_arrays_together_cost_no_more_than_the_promise() -> None:
    for mode, epsilon in (("central", 1), ("local", 1), ("central", "0.01"), ("central", 10)):
        plan = plan_answers(
            {"n": COUNT, "s": SUM},
            ROW,
            epsilon=epsilon,
            delta="1e-6",
            rounds=3,
            mode=mode,  # type: ignore[arg-type]
            participants=10,
            lost=2,
        )
        paid = sum(
            distributed_cost(each.sensitivity, math.prod(each.shape), each.shares).amount * 3
            for each in plan.arrays.values()
        )
        assert plan.rho * Fraction(998, 1000) < paid <= plan.rho == largest_rho(epsilon, "1e-6")


@pytest.mark.parametrize(("epsilon", "delta"), [(1, 1e-6), (8, 1e-5), (0.1, 1e-6), (0.5, 1e-9), (20, 1e-5)])
def test_the_rho_of_a_promise_is_that_of_another_accountant(epsilon: float, delta: float) -> None:
    from dp_accounting import dp_event, rdp

    orders = [1 + x / 100 for x in range(1, 900)] + [10 + x / 10 for x in range(1, 10_000)]
    accountant = rdp.RdpAccountant(orders)
    accountant.compose(dp_event.ZCDpEvent(float(largest_rho(epsilon, delta))))
    # Its orders are few, and so its epsilon is a little larger.
    assert epsilon * (1 - 1e-6) <= accountant.get_epsilon(delta) <= epsilon * 1.0001


def test_more_epsilon_and_more_delta_are_more_rho_and_never_less_than_the_plain_conversion() -> None:
    found = [largest_rho(epsilon, 1e-6) for epsilon in (1e-4, 1e-3, 0.1, 1, 5, 50, 500)]
    assert found == sorted(found) and found[0] > 0
    assert largest_rho(1, 1e-9) < largest_rho(1, 1e-6) < largest_rho(1, 1e-3)
    logs = math.log(1e6)
    for epsilon, rho in zip((1e-4, 1e-3, 0.1, 1, 5, 50), found, strict=False):
        assert float(rho) > (math.sqrt(logs + epsilon) - math.sqrt(logs)) ** 2


def _row_sets(low: int, high: int, cells: int, rows: int) -> list[tuple[tuple[int, float], ...]]:
    """All that one person may add, with the bounds, the middle and nothing; a set of pairs of cell and value."""
    one = [(cell, value) for cell in range(cells) for value in (low, (low + high) / 2, high)]
    return [
        chosen for many in range(rows + 1) for chosen in itertools.combinations_with_replacement(one, many)
    ]


@pytest.mark.parametrize("word", ["add-remove-row", "replace-row", "add-remove-person", "replace-person"])
@pytest.mark.parametrize(("low", "high", "cells"), [(0, 1, 1), (0, 1, 3), (-2, 5, 2), (3, 5, 1), (-4, -1, 2)])
def test_no_neighbour_changes_the_rounded_sums_by_more_than_the_sensitivity(
    word: str, low: int, high: int, cells: int
) -> None:
    relation = RELATIONS[word]
    rows = 2 if relation.unit == "person" else 1
    whole = (low, high) == (0, 1)
    entries = Entries((cells,), low, high, whole)
    plan = plan_answers({"a": entries}, relation, epsilon=1, delta=1e-6, rows=rows, mode="local").arrays["a"]
    step = float(plan.step)
    # With many rows beside them, of values that are no multiples of the step.
    others = np.full(cells, 7.0 if whole else math.pi)
    mine = _row_sets(low, high, cells, rows)
    if whole:
        mine = [each for each in mine if all(value in (low, high) for _, value in each)]

    def released(added: tuple[tuple[int, float], ...]) -> np.ndarray:
        sums = others.copy()
        for cell, value in added:
            sums[cell] += value
        return np.rint(sums / step)

    made = [released(each) for each in mine]
    pairs = (
        [(one, released(())) for one in made]
        if relation.change == "add-remove"
        else list(itertools.product(made, made))
    )
    most_l2 = max(float(((one - other) ** 2).sum()) for one, other in pairs)
    most_l1 = max(float(np.abs(one - other).sum()) for one, other in pairs)
    assert most_l2 <= plan.sensitivity.l2_squared and most_l1 <= plan.sensitivity.l1
    # And hardly more is paid for than is needed; for counts exactly that.
    assert float(plan.sensitivity.l2_squared) <= most_l2 * (1 if whole else 1.04)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-100, 100, allow_nan=False), min_size=3, max_size=3),
    st.sampled_from([0.01, 1.0, 30.0]),
    st.sampled_from(["central", "local"]),
)
def test_noisy_sums_are_whole_numbers_of_steps_and_add_up_exactly(
    values: list[float], epsilon: float, mode: str
) -> None:
    plan = plan_answers({"s": SUM}, ROW, epsilon=epsilon, delta=1e-6, mode=mode, participants=4, lost=1)  # type: ignore[arg-type]
    step = plan.arrays["s"].step
    parts = [add_noise({"s": np.array(values)}, plan, rows=1)["s"] for _ in range(4)]
    for part in parts:
        assert all((Fraction(value) / step).denominator == 1 for value in part.tolist())
    exactly = [sum(Fraction(part[at].item()) for part in parts) for at in range(3)]
    assert [Fraction(value) for value in np.sum(parts, axis=0).tolist()] == exactly
    # A step is far below the noise.
    assert float(step) < math.sqrt(variance_of(plan, 4)["s"]) / 2.9


def test_rounding_moves_a_sum_by_half_a_step_at_most() -> None:
    plan = plan_answers({"s": SUM}, ROW, epsilon=1, delta=1e-6, mode="local")
    step = float(plan.arrays["s"].step)
    values = np.array([0.5, 1.5, math.pi * 1e6 / step]) * step
    moved = np.rint(values / step) * step - values
    assert np.abs(moved).max() <= step / 2 and np.array_equal(np.rint(values / step)[:2], [0, 2])


def test_the_shares_of_a_cohort_add_up_to_the_noise_that_is_stated() -> None:
    # 10,000 sums over 5 participants. A chi-square test at 1e-7, and a mean and a variance that are off by six deviations
    # with probability below 1e-8 each.
    draws, present = 10_000, 5
    plan = plan_answers(
        {"n": Entries((draws,), 0, 1, whole=True)}, ROW, epsilon=6, delta=1e-5, participants=6, lost=1
    )
    zero = {"n": np.zeros(draws, np.int64)}
    total = sum((add_noise(zero, plan, rows=1)["n"] for _ in range(present)), np.zeros(draws))
    noise = plan.arrays["n"]
    steps = total / float(noise.step)
    variance = float(noise.shares.total(present))
    assert variance_of(plan, present)["n"] == pytest.approx(variance * float(noise.step) ** 2, rel=1e-12)
    assert abs(steps.mean()) < 6 * math.sqrt(variance / draws)
    assert abs(steps.var() / variance - 1) < 6 * math.sqrt(2 / draws)
    x = np.arange(-400, 401)
    likely = np.exp(-(x**2) / (2 * variance))
    likely /= likely.sum()
    edges = [-400, *(x[np.searchsorted(np.cumsum(likely), q)] for q in np.arange(0.025, 1, 0.025)), 401]
    edges = sorted(set(edges))
    seen = np.histogram(steps, edges)[0]
    wanted = np.array([likely[(x >= a) & (x < b)].sum() for a, b in itertools.pairwise(edges)]) * draws
    assert stats.chisquare(seen, wanted * draws / wanted.sum()).pvalue > 1e-7


def test_fewer_than_planned_have_too_little_noise_and_no_variance() -> None:
    plan = plan_answers({"n": COUNT}, ROW, epsilon=1, delta=1e-6, participants=10, lost=3)
    found = [variance_of(plan, n)["n"] for n in (7, 8, 10)]
    assert found[0] == pytest.approx(1 / (2 * float(plan.rho)), rel=2e-3)
    assert [each / found[0] for each in found] == pytest.approx([1, 8 / 7, 10 / 7])
    with pytest.raises(JobError, match=r"6 of 10 participants are left; allowed: at least 7"):
        variance_of(plan, 6)
    local = plan_answers({"n": COUNT}, ROW, epsilon=1, delta=1e-6, participants=10, mode="local")
    assert variance_of(local, 4)["n"] == pytest.approx(4 / (2 * float(plan.rho)), rel=2e-3)
    with pytest.raises(JobError, match="11 of 10"):
        variance_of(local, 11)


def test_counts_have_a_finer_step_where_a_whole_one_would_be_more_than_the_noise() -> None:
    plans = [
        plan_answers({"n": COUNT}, ROW, epsilon=epsilon, delta=1e-6, participants=100, lost=10).arrays["n"]
        for epsilon in (0.1, 1, 10, 100)
    ]
    assert [each.exponent for each in plans] == sorted((each.exponent for each in plans), reverse=True)
    assert plans[0].exponent == 0 and all(each.shares.share >= 9 for each in plans)
    assert all(each.sensitivity.l2_squared == 4**-each.exponent for each in plans)


def test_the_statement_says_what_is_promised() -> None:
    told = statement(
        plan_answers(
            {"n": COUNT, "s": SUM},
            Neighbours("person", "replace"),
            epsilon=0.5,
            delta=1e-6,
            rounds=2,
            participants=5,
            rows=4,
            groups=2,
        )
    )
    assert (told["neighbours"], told["epsilon"], told["delta"]) == ("replace-person", 0.5, 1e-6)
    assert told["contribution"] == {"rows": 4, "groups": 2}
    # One cell: four rows are there or not; their values change by the width 1 each.
    assert told["arrays"]["n"]["sensitivity"] == 4
    rho = float(largest_rho(0.5, 1e-6)) / 4
    assert told["arrays"]["n"]["scale"] == pytest.approx(4 / math.sqrt(2 * rho), rel=1e-3)
    import json

    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    ("arrays", "given", "said"),
    [
        ({"n": COUNT}, {"epsilon": 0}, "epsilon is 0"),
        ({"n": COUNT}, {"epsilon": -1}, "epsilon is -1"),
        ({"n": COUNT}, {"epsilon": math.inf}, "epsilon is Infinity"),
        ({"n": COUNT}, {"epsilon": math.nan}, "epsilon is NaN"),
        ({"n": COUNT}, {"delta": 0}, "delta is 0"),
        ({"n": COUNT}, {"delta": 1}, "delta is 1; allowed"),
        ({"n": COUNT}, {"rounds": 0}, "0 rounds"),
        ({"n": COUNT}, {"mode": "centrall"}, 'did you mean "central"'),
        ({"n": COUNT}, {"participants": 3, "lost": 3}, "3 of 3 participants may be lost"),
        ({"n": COUNT}, {"rows": 2}, "a row is hidden"),
        ({"n": Entries((), 0, 0.5, whole=True)}, {}, "allowed: whole numbers"),
        ({"n": Entries((), 0, 0)}, {}, "not both 0"),
        ({"n": Entries((), 2, 1)}, {}, "lower not above upper"),
        ({"n": Entries((), 0, math.inf)}, {}, "finite"),
        ({"n": Entries((), 0, 1e-18)}, {}, r"a step of 2\^-8\d.*another unit"),
        ({"n": Entries((), 0, 1e25)}, {}, r"a step of 2\^63.*another unit"),
        ({"n": Entries((0,), 0, 1)}, {}, "no array"),
        ({}, {}, "no array"),
    ],
)
def test_a_plan_that_cannot_hold_is_refused(
    arrays: dict[str, Entries], given: dict[str, object], said: str
) -> None:
    asked = {"epsilon": 1, "delta": 1e-6, **given}
    with pytest.raises(JobError, match=said):
        plan_answers(arrays, ROW, **asked)  # type: ignore[arg-type]


def test_a_client_is_not_hidden_in_answers() -> None:
    with pytest.raises(JobError, match="neighbours: person"):
        plan_answers({"n": COUNT}, Neighbours("client"), epsilon=1, delta=1e-6)


def test_sums_that_do_not_fit_the_plan_are_refused() -> None:
    plan = plan_answers({"s": SUM, "none": Entries((0, 2), 0, 1)}, ROW, epsilon=1, delta=1e-6)
    none = np.zeros((0, 2))
    assert add_noise({"s": np.zeros(3), "none": none}, plan, rows=1)["none"].shape == (0, 2)
    with pytest.raises(JobError, match="the plan of noise is of"):
        add_noise({"s": np.zeros(4)}, plan, rows=1)
    with pytest.raises(DataError, match="not finite"):
        add_noise({"s": np.array([1, math.nan, 0])}, plan, rows=1)
    with pytest.raises(JobError, match=r"more than 2\^52 steps"):
        add_noise({"s": np.array([1, 1e13, 0])}, plan, rows=1)
    with pytest.raises(DataError, match="more than 4194304 rows"):
        add_noise({"s": np.zeros(3)}, plan, rows=MOST_ROWS + 1)
    # The largest sum that the most rows can have fits.
    add_noise({"s": np.array([MOST_ROWS * 100.0, 0, 0])}, plan, rows=MOST_ROWS)


ids = st.lists(st.integers(0, 4), min_size=0, max_size=30)


@given(ids, st.integers(1, 4), st.integers(1, 3), st.integers(0, 4), st.randoms(use_true_random=False))
def test_each_person_keeps_the_first_rows_in_few_groups_whoever_else_is_there(
    who: list[int], rows: int, groups: int, gone: int, chance: object
) -> None:
    keys = [(person * 7 + at * 3) % 4 for at, person in enumerate(who)]
    kept = bounded_rows(np.array(who, int), np.array(keys, int), rows, groups)
    count: dict[int, int] = {}
    held: dict[int, list[int]] = {}
    for at, (person, key) in enumerate(zip(who, keys, strict=True)):
        mine = held.setdefault(person, [])
        if key not in mine and len(mine) < groups:
            mine.append(key)
        wanted = key in mine and count.get(person, 0) < rows
        assert kept[at] == wanted
        count[person] = count.get(person, 0) + wanted
    left = [at for at, person in enumerate(who) if person != gone]
    without = bounded_rows(np.array(who, int)[left], np.array(keys, int)[left], rows, groups)
    assert np.array_equal(without, kept[left])


def test_rows_of_nobody_are_refused_and_text_and_days_name_people() -> None:
    named = np.array(["a", "b", "a", "a"], dtype=object)
    assert bounded_rows(named, rows=2).tolist() == [True, True, True, False]
    days = np.array(["2024-01-01", "2024-01-02", "2024-01-01"], dtype="datetime64[D]")
    assert bounded_rows(days).tolist() == [True, True, False]
    for missing in (
        np.array(["a", None], object),
        np.array([1, math.nan]),
        np.array(["NaT"], "datetime64[D]"),
    ):
        with pytest.raises(DataError, match="without a value in the column that names the person"):
            bounded_rows(missing)
    with pytest.raises(JobError, match="rows is 0"):
        bounded_rows(named, rows=0)
    with pytest.raises(JobError, match="one per row"):
        bounded_rows(named, np.zeros(3))
    assert PERSON.unit == "person"


@pytest.mark.parametrize(("low", "high", "cells"), [(-20, 100, 5), (0, 1e-3, 1), (5, 6, 1000)])
def test_what_rounding_and_sums_of_doubles_add_is_in_the_sensitivity(
    low: float, high: float, cells: int
) -> None:
    noise = plan_answers(
        {"s": Entries((cells,), low, high)}, ROW, epsilon=1, delta=1e-6, mode="local"
    ).arrays["s"]
    steps = high / float(noise.step)
    doubles = 2 * MOST_ROWS**2 * 2.0**-53 * steps
    assert math.sqrt(noise.sensitivity.l2_squared) == pytest.approx(
        steps + doubles + math.sqrt(cells), abs=0.01
    )
    assert noise.sensitivity.l1 == pytest.approx(steps + doubles + cells, abs=0.01)
    # A step is fine enough that one in each entry is little.
    assert 2**19 < steps <= 2**21


def test_a_sum_of_doubles_is_off_by_less_than_is_counted_in_any_order() -> None:
    many, most = 2**18, 1.0
    values = np.random.default_rng(1).uniform(0, most, many)
    exact = sum(map(Fraction, values.tolist()))
    for order in (values, np.sort(values), np.sort(values)[::-1]):
        one_by_one = float(np.cumsum(order)[-1])
        off = abs(Fraction(one_by_one) - exact)
        assert 0 < off < Fraction(many) ** 2 / 2**53
