"""Accountants: against closed forms, against each other, and with every number that must be refused."""

from __future__ import annotations

import logging
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from fedcore.errors import FedcoreError, JobError
from fedcore.privacy import accounting
from fedcore.privacy.accounting import (
    Concentrated,
    DiscreteGaussian,
    DiscreteLaplace,
    Epsilons,
    Gaussian,
    Laplace,
    epsilon,
    noise_for,
)
from fedcore.privacy.budget import epsilon_cost, epsilon_of, rho_cost

DELTA, ROWS = 1e-5, 1_000


def gaussian_epsilon(noise: float, delta: float) -> float:
    """The exact epsilon of one Gaussian release (Balle and Wang, ICML 2018, theorem 8)."""
    mu = 1 / noise

    def left(eps: float) -> float:
        return float(norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu)) - delta

    return float(brentq(left, 0, 300, xtol=1e-12))


@pytest.mark.parametrize(("noise", "times"), [(0.5, 1), (1, 1), (5, 1), (10, 100), (30, 10)])
def test_gaussian_releases_cost_what_the_closed_form_says(noise: float, times: int) -> None:
    found = epsilon([Gaussian(noise, times)], DELTA, ROWS)
    wanted = gaussian_epsilon(noise / math.sqrt(times), DELTA)
    assert wanted * (1 - 1e-6) <= found.value == found.pld < wanted * 1.001
    assert found.fourier == pytest.approx(wanted, rel=1e-4)
    assert wanted < found.rdp < wanted * 1.2


@pytest.mark.parametrize(
    "releases",
    [
        [Gaussian(1, 1_000, 0.01)],
        [Gaussian(0.8, 60, 0.05)],
        [Gaussian(1.1, 200, 0.1)],
        [Gaussian(3, 10_000, 0.001)],
        [Laplace(10, 20)],
        [Gaussian(4, 10), Laplace(5, 3), Gaussian(2, 100, 0.02)],
    ],
    ids=str,
)
def test_two_accountants_agree_to_one_percent_and_the_third_bounds_them(releases) -> None:
    found = epsilon(releases, DELTA, ROWS)
    assert found.apart is not None and found.apart < 0.01
    assert found.pld is not None and found.pld <= found.rdp * 1.001
    assert found.value == min(found.pld, found.rdp)


def test_one_laplace_release_costs_its_epsilon() -> None:
    assert epsilon([Laplace(2)], 1e-12, 10).value == pytest.approx(0.5, rel=1e-3)
    assert epsilon([DiscreteLaplace(Fraction(2))], 1e-12, 10).value == pytest.approx(0.5, rel=1e-3)


def test_discrete_noise_costs_as_much_as_continuous() -> None:
    one = epsilon([DiscreteGaussian(Fraction(100), 2, 3)], DELTA, ROWS)
    assert one.value == pytest.approx(epsilon([Gaussian(5, 3)], DELTA, ROWS).value, rel=0.01)
    many = epsilon([DiscreteLaplace(Fraction(20), 2, 5)], DELTA, ROWS)
    assert many.value == pytest.approx(epsilon([Laplace(10, 5)], DELTA, ROWS).value, rel=0.01)
    assert one.fourier is None and one.apart is None


def test_noise_in_shares_is_accounted_by_renyi_alone_and_below_the_simple_formula() -> None:
    found = epsilon([Concentrated(rho_cost("0.01"), 10)], DELTA, ROWS)
    assert found.pld is None and found.value == found.rdp
    assert 0.8 * epsilon_of(Fraction(1, 10), DELTA) < found.rdp < epsilon_of(Fraction(1, 10), DELTA)
    assert found.rdp == pytest.approx(epsilon([Gaussian(math.sqrt(50), 10)], DELTA, ROWS).rdp, rel=1e-6)


def test_the_noise_for_an_epsilon_is_enough_and_hardly_more() -> None:
    for wanted in (0.1, 8):
        noise = noise_for(wanted, DELTA, ROWS, tolerance=0.01)
        assert wanted * 0.98 < gaussian_epsilon(noise, DELTA) <= wanted * (1 + 1e-9)

    def rounds(noise: float) -> list[Gaussian]:
        return [Gaussian(noise, 50, 0.2)]

    noise = noise_for(8, DELTA, ROWS, rounds, tolerance=0.02)
    assert 7.6 < epsilon(rounds(noise), DELTA, ROWS).value <= 8
    shares = noise_for(2, DELTA, ROWS, lambda s: [Concentrated(rho_cost(1 / (2 * s * s)), 5)], tolerance=0.01)
    assert epsilon([Gaussian(shares, 5)], DELTA, ROWS).rdp == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize(
    ("rows", "batch", "steps", "wanted", "delta"),
    [
        pytest.param(12_127, 3, 1, 0.6734, 1.03e-6, marks=pytest.mark.slow),
        pytest.param(60_000, 64, 938, 1.0, 1e-5, marks=pytest.mark.slow),
        pytest.param(1_182, 9, 1, 0.3306, 7.6e-4, marks=pytest.mark.slow),
        pytest.param(2_000, 64, 300, 8.0, 1e-5, marks=pytest.mark.slow),
        (50_000, 500, 2_000, 0.05, 1e-7),
        (100, 100, 20, 3.0, 1e-3),
    ],
)
def test_the_noise_of_training_is_never_too_little_and_hardly_too_much(
    rows: int, batch: int, steps: int, wanted: float, delta: float
) -> None:
    def rounds(noise: float) -> list[Gaussian]:
        return [Gaussian(noise, steps, batch / rows)]

    def fine(noise: float) -> float:
        found = accounting._pld(rounds(noise), delta, accounting._grid(rounds(noise))[0] / 3)
        assert found is not None
        return found

    noise = noise_for(wanted, delta, rows, rounds)
    assert fine(noise) <= wanted * (1 + 1e-6) < fine(noise * (1 - 3e-3)) * (1 + 1e-6)
    found = epsilon(rounds(noise), delta, rows)
    assert found.value <= wanted * (1 + 1e-6) and found.apart is not None and found.apart < 0.002


@given(
    noise=st.floats(1e-3, 1e6),
    sampling=st.floats(1e-9, 1),
    times=st.integers(1, accounting.MOST_TIMES),
)
def test_no_grid_of_losses_fills_the_memory(noise: float, sampling: float, times: int) -> None:
    step, loose = accounting._grid([Gaussian(noise, times, sampling)])
    assert step > 0 and loose >= 0
    assert 0.5 / noise**2 + 10 / noise + math.log(sampling) <= step * 2**19 * (1 + 1e-9)
    # The loss of all rounds that are not sampled is the largest, and known.
    step, _ = accounting._grid([Gaussian(noise, times)])
    assert times / noise**2 <= step * 2**22 * (1 + 1e-9)


def test_noise_so_small_that_its_losses_are_huge_has_a_figure() -> None:
    found = epsilon([Gaussian(0.01, 3, 0.001)], DELTA, ROWS)
    assert found.fourier == pytest.approx(found.pld, rel=0.01) and found.value > 1e3
    assert noise_for(1e6, DELTA, ROWS) == pytest.approx(accounting.LEAST_NOISE, rel=1e-3)


def test_what_it_costs_goes_to_the_ledger_rounded_up() -> None:
    found = Epsilons(1e-5, 0.12345678901, 0.1234, 0.2)
    assert found.cost() == epsilon_cost("0.123456790", "1e-5")


def test_accountants_that_contradict_each_other_give_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "_fourier", lambda releases, delta: 0.70)
    with pytest.raises(FedcoreError, match=r"accountants contradict each other: PLD 0.72"):
        epsilon([Gaussian(5)], DELTA, ROWS)
    monkeypatch.setattr(accounting, "_fourier", lambda releases, delta: None)
    monkeypatch.setattr(accounting, "_rdp", lambda releases, delta: 0.5)
    with pytest.raises(FedcoreError, match=r"contradict"):
        epsilon([Gaussian(5)], DELTA, ROWS)


def test_nothing_is_said_on_the_way(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        epsilon([Gaussian(0.8, 60, 0.05)], DELTA, ROWS)
    assert caplog.records == []


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_positive_and_finite_are_refused(wrong: float) -> None:
    with pytest.raises(JobError, match=r"epsilon is"):
        noise_for(wrong, DELTA, ROWS)
    with pytest.raises(JobError, match=r"delta is"):
        noise_for(1, wrong, ROWS)
    with pytest.raises(JobError, match=r"delta is"):
        epsilon([Gaussian(1)], wrong, ROWS)
    for release in (Gaussian(wrong), Laplace(wrong), Gaussian(1, 1, wrong)):
        with pytest.raises(JobError, match=r"allowed"):
            epsilon([release], DELTA, ROWS)


@pytest.mark.parametrize(
    ("release", "said"),
    [
        (Gaussian(1, 0), "happens 0 times"),
        (Gaussian(1, True), "happens True times"),
        (Gaussian(1, 10**7 + 1), "happens 10000001 times; allowed: at most 10000000. Cure: fewer rounds"),
        (Gaussian(1, 1, 1.5), "sampling is 1.5"),
        (DiscreteGaussian(Fraction(0)), "variance is 0"),
        (DiscreteLaplace(Fraction(1), 0), "sensitivity is 0 steps"),
        (Concentrated(epsilon_cost(1)), "a cost in rho without delta"),
    ],
)
def test_releases_out_of_range_are_refused(release: accounting.Release, said: str) -> None:
    with pytest.raises(JobError, match=said):
        epsilon([release], DELTA, ROWS)


def test_a_delta_above_one_over_n_nothing_at_all_and_an_epsilon_out_of_reach_are_refused() -> None:
    with pytest.raises(JobError, match=r"at most 1/1000"):
        epsilon([Gaussian(1)], 0.002, ROWS)
    with pytest.raises(JobError, match=r"at most 1/1000"):
        noise_for(1, 0.002, ROWS)
    with pytest.raises(JobError, match=r"no releases"):
        epsilon([], DELTA, ROWS)
    with pytest.raises(JobError, match=r"no noise up to 10\^6"):
        noise_for(1, DELTA, ROWS, lambda noise: [Concentrated(rho_cost(1))])


def test_without_the_extra_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "dp_accounting.dp_event", None)
    with pytest.raises(JobError, match=r"fedcore\[privacy\]"):
        accounting._rdp([Gaussian(1)], DELTA)
