"""Series are near their functions where they claim it, and terms of two shares add up to them."""

from __future__ import annotations

import numpy as np
import pytest

from crypto.bfv.products import MODULUS
from fedcore.vertical.links import (
    FAR,
    GAP,
    LOGISTIC,
    PERIOD,
    POISSON,
    far_series,
    logistic,
    loss_series,
    mean_series,
    other_terms,
    own_terms,
    slope_series,
    turns,
)
from fedcore.vertical.sharing import minus, residues

BITS = 36
PERIODS = [PERIOD * 2**i for i in range(4)]


def inside(period: float) -> np.ndarray:
    end = period / 2 - GAP
    return np.linspace(-end, end, 2999)


@pytest.mark.parametrize("period", PERIODS)
def test_the_logistic_series_is_within_2e_4(period: float) -> None:
    z = inside(period)
    apart = mean_series(LOGISTIC, period)(z) - 1 / (1 + np.exp(-z))
    assert np.abs(apart).max() < 2e-4
    assert abs(apart.mean()) < 1e-5


@pytest.mark.parametrize("period", PERIODS)
def test_the_slope_series_is_within_1e_3(period: float) -> None:
    z = inside(period)
    mean = 1 / (1 + np.exp(-z))
    assert np.abs(slope_series(LOGISTIC, period)(z) - mean * (1 - mean)).max() < 5e-4


@pytest.mark.parametrize("period", PERIODS[:2])
def test_the_poisson_series_is_within_1e_3_of_its_largest_value(period: float) -> None:
    z = inside(period)
    wanted = np.exp(z + POISSON.centre(period))
    assert np.abs(mean_series(POISSON, period)(z) - wanted).max() < 1e-3 * wanted.max()


def test_the_loss_series_has_the_loss_of_the_other_label_with_reversed_sines() -> None:
    z = np.linspace(-6, 6, 99)
    series = loss_series(PERIOD)
    assert np.abs(series(z) - np.log1p(np.exp(-z))).max() < 5e-3
    angles = 2 * np.pi * z / PERIOD
    other = series.constant + (
        own_terms(angles, series.cosine, -series.sine) * other_terms(0 * z, len(series.sine))
    ).sum(1)
    assert np.abs(other - np.log1p(np.exp(z))).max() < 5e-3


@pytest.mark.parametrize("period", [PERIOD, 384.0])
def test_terms_of_two_shares_add_up_to_the_series_of_the_sum(period: float) -> None:
    draw = np.random.default_rng(0)
    z = draw.uniform(GAP - period / 2, period / 2 - GAP, 500)
    whole = residues(np.rint(z * 2**BITS).astype(np.int64))
    first = draw.integers(0, MODULUS, 500).astype(np.uint64)
    second = minus(whole, first)
    series = mean_series(LOGISTIC, period)
    mine = own_terms(turns(first, period, BITS), series.cosine, series.sine)
    theirs = other_terms(turns(second, period, BITS), len(series.sine))
    # The period is rounded so that it divides the modulus, which moves the angle by up to 1e-5.
    assert np.abs(series.constant + (mine * theirs).sum(axis=1) - series(z)).max() < 1e-4


def test_rows_out_of_range_show_and_rows_in_range_do_not() -> None:
    far = far_series(PERIOD)
    assert far(np.zeros(1))[0] == pytest.approx(0, abs=1e-12)
    assert far(np.random.default_rng(0).normal(0, 1.5, 100_000)).sum() < FAR
    for one in (11.9, -12.0, 14.0, 20.0, -30.0):
        assert far(np.array([one]))[0] > FAR


def test_the_logistic_function_does_not_overflow() -> None:
    assert logistic(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
