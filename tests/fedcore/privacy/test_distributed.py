"""Shares of noise add up to the noise that was wanted, whoever of the planned number is lost."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from fedcore.errors import JobError
from fedcore.privacy.budget import gaussian_cost
from fedcore.privacy.distributed import distributed_cost, draw_share, noise_shares
from fedcore.privacy.mechanisms import discrete_gaussian
from fedcore.privacy.sensitivity import Neighbours, Sensitivity, clipped, count

ROW = Neighbours()


def test_with_a_tenth_of_100_participants_lost_the_error_is_that_of_the_central_mechanism() -> None:
    # Over 8,000 sums the root mean square error has a relative deviation of 1/sqrt(16,000) = 0.8 %: it is off by 5 %, which
    # is 6.3 deviations, with probability below 1e-9. The mean is off by 6 deviations with probability below 3e-9.
    variance, sums = 400, 8_000
    shares = noise_shares(variance, 100, lost=10)
    noise = np.zeros(sums, np.int64)
    for _ in range(90):
        noise += draw_share(shares, sums)
    error = math.sqrt(float(np.mean(noise.astype(float) ** 2)))
    assert abs(error / math.sqrt(variance) - 1) < 0.05
    assert abs(noise.mean()) < 6 * math.sqrt(variance / sums)
    # Two samples of 8,000 differ by 0.0495 or more with probability below 2 exp(-n d^2) < 1e-8.
    central = discrete_gaussian(variance, sums)
    assert stats.ks_2samp(noise, central).statistic < 0.0495


@pytest.mark.parametrize(("variance", "participants"), [("1/2", 2), ("1/2", 8), ("2/3", 5), (1, 20)])
def test_the_sum_is_as_close_to_one_discrete_gaussian_as_is_stated(
    variance: str | int, participants: int
) -> None:
    # By exact convolution of the probabilities; no chance in it.
    share = float(Fraction(variance))
    shares = noise_shares(Fraction(variance) * participants, participants)
    reach = 200
    x = np.arange(-reach, reach + 1)
    one = np.exp(-(x**2) / (2 * share))
    one /= one.sum()
    summed = one
    for _ in range(participants - 1):
        summed = np.convolve(summed, one, "same")
    whole = np.exp(-(x**2) / (2 * share * participants))
    whole /= whole.sum()
    likely = whole > 1e-9
    apart = np.abs(np.log(summed[likely] / whole[likely])).max()
    assert 1e-9 < apart <= shares.closeness


def test_shares_know_what_they_add_up_to() -> None:
    shares = noise_shares(90, 100, lost=10)
    assert shares.share == 1
    assert [shares.total(n) for n in (90, 95, 100)] == [90, 95, 100]
    with pytest.raises(
        JobError, match=r"89 of 100 participants are left; allowed: at least 90.*do not release"
    ):
        shares.total(89)
    assert noise_shares("0.01", 1).closeness == 0


def test_more_noise_in_a_share_brings_the_sum_closer() -> None:
    found = [noise_shares(n, 100).closeness for n in (25, 50, 100, 400, 10**6)]
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] < 1e-290
    assert noise_shares(900, 100).closeness < 1e-35


def test_noise_in_shares_costs_hardly_more_than_from_one_hand_and_never_less() -> None:
    for variance, dimension in ((1_000, 10), (25, 1_000), (400, 10**6)):
        sensitivity = clipped(5, dimension, Neighbours("client"))
        shares = noise_shares(variance, 100, lost=10)
        central, paid = gaussian_cost(sensitivity, variance), distributed_cost(sensitivity, dimension, shares)
        assert paid.amount > central.amount
    assert float(paid.amount / central.amount) < 1.001
    small = distributed_cost(count(ROW), 1, noise_shares(25, 100, 10))
    assert small.amount > distributed_cost(count(ROW), 1, noise_shares(30, 100, 10)).amount


def test_the_cost_is_that_of_the_formula() -> None:
    shares = noise_shares(40, 40)
    sensitivity = Sensitivity(Fraction(3), Fraction(4), ROW, "")
    tau, v, d = shares.closeness, 40.0, 7
    wanted = (
        min(4 / v + 2 * 3 * tau / math.sqrt(v) + tau**2 * d, (2 / math.sqrt(v) + tau * math.sqrt(d)) ** 2) / 2
    )
    assert float(distributed_cost(sensitivity, d, shares).amount) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0, 3), "variance is 0"),
        ((10, 0), "participants is 0"),
        ((10, 3, -1), "lost is -1"),
        ((10, 3, 3), "3 of 3 participants may be lost; allowed: at most 2"),
        ((10, 100), "noise of variance 0.1; allowed: 1/4 or more.*smaller step"),
        ((10, 2.0), "participants is 2.0"),
    ],
)
def test_a_plan_that_cannot_hold_is_refused(given: tuple[int, ...], said: str) -> None:
    with pytest.raises(JobError, match=said):
        noise_shares(*given)


def test_noise_on_no_numbers_is_refused() -> None:
    with pytest.raises(JobError, match=r"0 numbers are released"):
        distributed_cost(count(ROW), 0, noise_shares(25, 5))
