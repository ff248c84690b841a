"""Budgets are exact: as they are read, added, turned into each other and written."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import JobError
from fedcore.privacy.budget import (
    Cost,
    epsilon_cost,
    epsilon_of,
    gaussian_cost,
    gaussian_variance,
    laplace_cost,
    laplace_scale,
    rho_cost,
)
from fedcore.privacy.exact import check_delta, exact, positive, root_above, rounded, shown, text
from fedcore.privacy.sensitivity import Neighbours, total

SUM = total(0, 3, Neighbours())
FRACTIONS = st.fractions(min_value=0, max_value=10**6)


@pytest.mark.parametrize("value", [0.1, "0.1", "1/10", Decimal("0.1"), Fraction(1, 10), " 0.10 ", "1e-1"])
def test_every_way_of_writing_a_tenth_is_a_tenth(value) -> None:
    assert exact(value, "x") == Fraction(1, 10)


@given(FRACTIONS)
def test_text_is_read_back_as_the_same_number(value: Fraction) -> None:
    assert exact(text(value), "x") == value


@given(FRACTIONS.filter(bool), st.booleans())
def test_what_is_shown_is_on_the_safe_side(value: Fraction, up: bool) -> None:
    found = exact(shown(value, up=up), "x")
    assert found >= value if up else found <= value
    assert abs(found - value) <= value / 10**4


@given(FRACTIONS)
def test_a_root_is_rounded_up_by_little(value: Fraction) -> None:
    root = root_above(value)
    assert root**2 >= value and (root == 0 or max(root - Fraction(1, 2**62), 0) ** 2 <= value)


@pytest.mark.parametrize(
    "wrong", [0, -1, "-0.5", math.nan, math.inf, -math.inf, "inf", "NaN", "", "one", None, True]
)
def test_an_epsilon_that_is_no_positive_finite_number_is_refused(wrong) -> None:
    for cost in (epsilon_cost, rho_cost):
        with pytest.raises(JobError, match=r"(epsilon|rho) is .*; allowed: a finite number"):
            cost(wrong)
    with pytest.raises(JobError, match=r"epsilon is"):
        laplace_scale(SUM, wrong)
    with pytest.raises(JobError, match=r"rho is"):
        gaussian_variance(SUM, wrong)


def test_a_delta_above_one_over_n_is_refused() -> None:
    assert check_delta("1e-3", 1_000) == Fraction(1, 1_000)
    with pytest.raises(
        JobError,
        match=r"delta is 0.00101 with 1000 rows; allowed: at most 1/1000 = 0.001.*Cure: delta 0.0001",
    ):
        check_delta("0.00101", 1_000)
    for wrong in (0, -1e-5, math.nan, math.inf):
        with pytest.raises(JobError, match=r"delta is"):
            check_delta(wrong, 10)
    for rows in (0, -1, 2.5, True):
        with pytest.raises(JobError, match=r"whole number, 1 or more"):
            check_delta(1e-5, rows)


def test_ten_tenths_are_one() -> None:
    spent = Cost("epsilon", Fraction(0))
    for _ in range(10):
        spent += epsilon_cost(0.1)
    assert spent == epsilon_cost(1) and spent.within(epsilon_cost(1))


def test_noise_costs_what_the_theorems_say() -> None:
    assert laplace_cost(SUM, 6) == epsilon_cost("1/2")
    assert gaussian_cost(SUM, 9) == rho_cost("1/2")
    assert laplace_cost(SUM, laplace_scale(SUM, "0.3")).amount == Fraction(3, 10)
    assert gaussian_cost(SUM, gaussian_variance(SUM, "0.3")).amount == Fraction(3, 10)


def test_epsilon_becomes_rho_and_not_the_other_way() -> None:
    assert epsilon_cost("0.5", "1e-9").in_measure("rho") == rho_cost("1/8", "1e-9")
    assert rho_cost(1).in_measure("rho") == rho_cost(1)
    with pytest.raises(JobError, match=r"without choosing a delta"):
        rho_cost(1).in_measure("epsilon")
    with pytest.raises(JobError, match=r"cannot be added"):
        rho_cost(1) + epsilon_cost(1)


def test_rho_means_an_epsilon_at_a_delta() -> None:
    wanted = 0.5 + 2 * math.sqrt(0.5 * math.log(1e6))
    assert wanted <= epsilon_of(Fraction(1, 2), 1e-6) < wanted * (1 + 1e-9)
    assert epsilon_of(Fraction(0), 1e-6) == 0
    assert epsilon_of(Fraction(1, 2), "2e-6", Fraction(1, 10**6)) == epsilon_of(Fraction(1, 2), 1e-6)
    with pytest.raises(JobError, match=r"of which 0.000001 is spent"):
        epsilon_of(Fraction(1, 2), 1e-6, Fraction(1, 10**6))


def test_costs_out_of_range_are_refused() -> None:
    for wrong in (("epsilon", -1), ("epsilon", 1, 1), ("epsilon", 1, -1)):
        with pytest.raises(JobError, match=r"a cost of epsilon"):
            Cost(wrong[0], *map(Fraction, wrong[1:]))
    with pytest.raises(JobError, match='did you mean "epsilon"'):
        Cost("epsilom", Fraction(1))  # type: ignore[arg-type]


def test_rounding_names_its_direction() -> None:
    third = Fraction(1, 3)
    assert (str(rounded(third, up=True, digits=3)), shown(third, digits=3)) == ("0.334", "0.333")
    assert positive("1/3", "x") == third and text(third) == "1/3" and text(Fraction(5, 4)) == "1.25"
    assert shown(Fraction(1, 10**30), up=True) == "1e-30"
