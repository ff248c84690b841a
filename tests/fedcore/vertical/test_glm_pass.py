"""Predictor, residual and gradient of a pass are what they are in the clear, and each party's share of them is uniform."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crypto.bfv.products import MODULUS
from fedcore.vertical.glm_curvature import first_moments, holder_moments, preconditioner, start, steps_of
from fedcore.vertical.glm_pass import (
    COLUMN_BITS,
    EXTRA,
    GRADIENT_BITS,
    WAVE_BITS,
    WEIGHT_BITS,
    Z_BITS,
    block_of,
    first_gradient,
    first_predictor,
    first_residual,
    holder_gradient,
    holder_predictor,
    holder_residual,
)
from fedcore.vertical.glm_setup import agreed, first_setup, holder_setup
from fedcore.vertical.links import LOGISTIC, PERIOD, logistic, mean_series
from fedcore.vertical.sharing import fixed, minus, plus, residues, signed
from tests.crypto.memory_channel import both
from tests.fedcore.vertical.glm_parties import job

ROWS = 1500
DRAW = np.random.default_rng(5)
MINE, THEIRS = (np.rint(DRAW.normal(size=(ROWS, d)) * 2**COLUMN_BITS).astype(np.int64) for d in (3, 2))
W = np.array([0.5, -1.0, 0.25, 2.0, 0.75])
FIRST = DRAW.integers(0, MODULUS, 5).astype(np.uint64)
SECOND = minus(residues(fixed(W, WEIGHT_BITS)), FIRST)
Y = (DRAW.random(ROWS) < 0.3).astype(np.float64)
X = np.concatenate([MINE, THEIRS], axis=1) / 2.0**COLUMN_BITS


@pytest.fixture(scope="module")
def sides() -> Any:
    same = agreed(job(), ROWS)
    return both(
        lambda channel: holder_setup([channel], same, 2), lambda channel: first_setup(channel, [], same, 2)
    )


def beside(sides: Any, holder: Any, first: Any) -> tuple[Any, Any]:
    """Both roles of a step."""
    return both(lambda _: holder(sides[0]), lambda _: first(sides[1]))


def uniform(share: Any) -> bool:
    counts = np.bincount((share // np.uint64(MODULUS // 16 + 1)).astype(int), minlength=16)
    return bool(((counts - len(share) / 16) ** 2 / (len(share) / 16)).sum() < 70)


@pytest.fixture(scope="module")
def z(sides: Any) -> Any:
    return beside(
        sides,
        lambda side: holder_predictor(side, block_of(MINE), FIRST),
        lambda side: first_predictor(side, block_of(THEIRS), SECOND),
    )


def test_the_predictor_is_the_sum_of_all_columns_times_their_weights(z: Any) -> None:
    assert np.abs(signed(plus(*z)) / 2.0**Z_BITS - X @ W).max() < 1e-5
    assert uniform(z[0]) and uniform(z[1])


def test_the_residual_is_mean_minus_label_with_noise_that_averages_out(sides: Any, z: Any) -> None:
    weights = np.where(Y == 1, 2.0, 0.5)
    series = mean_series(LOGISTIC, PERIOD)
    e = beside(
        sides,
        lambda side: holder_residual(side, z[0], series, Y, weights, 1.0),
        lambda side: first_residual(side, z[1], series),
    )
    apart = signed(plus(*e)) / 2.0**EXTRA - weights * (logistic(X @ W) - Y)
    assert apart.std() < 2e-3
    assert abs(apart.mean()) < 6 * apart.std() / np.sqrt(ROWS) + 1e-4
    # Shares are truncated, each a function of a uniform one that its holder has.
    cut = np.uint64(2 * WAVE_BITS - EXTRA)
    assert uniform(e[0] << cut) and uniform((np.uint64(MODULUS) - e[1]) << cut)


def test_the_gradient_is_the_columns_times_the_residual(sides: Any) -> None:
    residual = np.rint(DRAW.normal(size=ROWS) * 2**EXTRA).astype(np.int64)
    mask = DRAW.integers(0, MODULUS, ROWS).astype(np.uint64)
    other = minus(residues(residual), mask)
    g = beside(
        sides,
        lambda side: holder_gradient(side, block_of(MINE), mask),
        lambda side: first_gradient(side, block_of(THEIRS), other),
    )
    assert np.abs(signed(plus(*g)) / 2.0**GRADIENT_BITS - X.T @ (residual / 2**EXTRA)).max() < 1e-6


def test_second_moments_are_those_of_all_columns(sides: Any) -> None:
    gram, _ = beside(
        sides,
        lambda side: holder_moments(side, [block_of(MINE)]),
        lambda side: first_moments(side, [block_of(THEIRS)]),
    )
    assert np.abs(gram - X.T @ X).max() < 1e-6


def test_a_step_on_shares_is_the_step_in_the_clear() -> None:
    gram, ridge = X.T @ X, np.array([0.0, 1, 1, 1, 1])
    held = np.array([False, False, True, False, False])
    steps = steps_of(preconditioner(gram, 0.17, ridge, held), ridge)
    g = np.array([100.0, -50, 30, 7, 1])
    shares = [start(5, -1.5, first=True), start(5, 0.0, first=False)]
    clear, before = np.array([-1.5, 0, 0, 0, 0]), np.array([-1.5, 0, 0, 0, 0])
    for _ in range(3):
        first = DRAW.integers(0, MODULUS, 5).astype(np.uint64)
        parts = [first, minus(residues(fixed(g, GRADIENT_BITS)), first)]
        shares = [s.stepped(steps, part, 0.5, 1.0, 1.0) for s, part in zip(shares, parts, strict=True)]
        ahead = clear + 0.5 * (clear - before)
        free = np.flatnonzero(~held)
        moved = np.zeros(5)
        moved[free] = np.linalg.solve(
            (0.17 * gram + np.diag(ridge))[np.ix_(free, free)], (g + ridge * ahead)[free]
        )
        before, clear = clear, ahead - moved
    got = (shares[0].now + shares[1].now) / 2.0 ** (64 + GRADIENT_BITS)
    assert np.abs(got.astype(float) - clear).max() < 1e-9
    assert clear[2] == 0 == got[2]
