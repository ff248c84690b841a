"""Noise is drawn from the distribution that is stated.

Each statistical test fails with probability below 1e-8 when all is right; together they stay below 1e-6.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fedcore.errors import JobError
from fedcore.privacy import mechanisms
from fedcore.privacy.mechanisms import discrete_gaussian, discrete_laplace

RARE = 1e-8
DRAWS = 60_000

Weights = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def gaussian(variance: float) -> Weights:
    return lambda x: -(x.astype(float) ** 2) / (2 * variance)


def laplace(scale: float) -> Weights:
    return lambda x: -np.abs(x) / scale


def mass(log_weights: Weights, reach: int) -> NDArray[np.float64]:
    """The probability of each whole number from -reach to reach."""
    weights = np.exp(log_weights(np.arange(-reach, reach + 1)))
    return weights / math.fsum(weights)


def check(drawn: NDArray[np.int64], log_weights: Weights, reach: int) -> None:
    """Pearson's test against the exact probabilities, over cells that expect 12 or more draws."""
    inside = drawn[np.abs(drawn) <= reach]
    assert len(inside) == len(drawn)
    counts = np.bincount(drawn + reach, minlength=2 * reach + 1)
    expected = mass(log_weights, reach) * len(drawn)
    edges, held = [0], 0.0
    for place, each in enumerate(expected, start=1):
        held += each
        if held >= 12:
            edges.append(place)
            held = 0.0
    if held:
        edges[-1] = len(expected)
    seen = np.add.reduceat(counts, edges[:-1])
    wanted = np.add.reduceat(expected, edges[:-1])
    assert seen.sum() == len(drawn)
    statistic = float(((seen - wanted) ** 2 / wanted).sum())
    assert statistic < stats.chi2.isf(RARE, max(len(wanted) - 1, 1))


# The reach leaves out less than 1e-12 of the probability per draw.
@pytest.mark.parametrize(
    ("variance", "reach"),
    [("1/10", 8), ("1/3", 9), (1, 12), ("2.5", 16), (9, 30), ("123.45", 110), (10_000, 1_000)],
)
def test_the_discrete_gaussian_has_its_probabilities(variance: int | str, reach: int) -> None:
    check(discrete_gaussian(variance, DRAWS), gaussian(float(Fraction(variance))), reach)


@pytest.mark.parametrize(
    ("scale", "reach"), [("1/10", 8), ("2/3", 30), (1, 45), ("10/3", 150), ("7.25", 330), (100, 4_500)]
)
def test_the_discrete_laplace_has_its_probabilities(scale: int | str, reach: int) -> None:
    check(discrete_laplace(scale, DRAWS), laplace(float(Fraction(scale))), reach)


def test_fractions_beyond_64_bits_are_drawn_as_exactly() -> None:
    near_nine = Fraction(9 * 10**40 + 1, 10**40)
    check(discrete_gaussian(near_nine, 20_000), gaussian(9.0), 30)
    check(discrete_laplace(Fraction(10**40 + 1, 3 * 10**39), 20_000), laplace(10 / 3), 150)


def test_wide_noise_has_the_continuous_distribution() -> None:
    # Kolmogorov's statistic of 20,000 draws exceeds 0.0222 with probability 2 exp(-2 n d^2) < 1e-8.
    for variance in (10**8, 10**13):
        drawn = discrete_gaussian(variance, 20_000) / math.sqrt(variance)
        assert stats.kstest(drawn, "norm").statistic < 0.0222
    drawn = discrete_laplace(10**12, 20_000) / 1e12
    assert stats.kstest(drawn, "laplace").statistic < 0.0222


def test_another_implementation_draws_from_the_same_distribution() -> None:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float)
    theirs = np.array(dp.m.make_gaussian(*space, scale=3.0)([0] * 20_000))
    ours = discrete_gaussian(9, 20_000)
    values = range(-9, 10)
    table = np.array([[(np.clip(each, -9, 9) == v).sum() for v in values] for each in (ours, theirs)])
    assert stats.chi2_contingency(table).pvalue > RARE
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l1_distance(T=int)
    theirs = np.array(dp.m.make_laplace(*space, scale=2.0)([0] * 20_000))
    ours = discrete_laplace(2, 20_000)
    table = np.array([[(np.clip(each, -9, 9) == v).sum() for v in values] for each in (ours, theirs)])
    assert stats.chi2_contingency(table).pvalue > RARE


@pytest.mark.parametrize(("above", "below"), [(0, 1), (1, 3), (1, 1), (5, 2), (7, 2), (2**70, 2**69 + 1)])
def test_events_have_the_probability_of_a_negative_exponential(above: int, below: int) -> None:
    kind: type = object if below > mechanisms._WORD else np.int64
    happened = mechanisms._exp_minus(np.array([above] * 40_000, dtype=kind), below).sum()
    wanted = math.exp(-above / below)
    assert stats.binomtest(int(happened), 40_000, wanted).pvalue > RARE


@pytest.mark.parametrize("bound", [1, 2, 3, 7, 2**30 + 1, 2**62, 2**62 + 1, 3 * 2**70])
def test_uniform_numbers_are_uniform_below_their_bound(bound: int) -> None:
    drawn = mechanisms._below(bound, 7_000)
    assert min(drawn) >= 0 and max(drawn) < bound
    seen = np.bincount([int(7 * int(each) // bound) for each in drawn], minlength=7)
    wanted = (
        np.array([-(-(k + 1) * bound // 7) - -(-k * bound // 7) for k in range(7)], float) / bound * 7_000
    )
    assert all(seen[wanted == 0] == 0)
    statistic = ((seen - wanted)[wanted > 0] ** 2 / wanted[wanted > 0]).sum()
    assert statistic < stats.chi2.isf(RARE, 6)


def test_the_bits_are_the_operating_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(count: int) -> bytes:
        asked.append(count)
        return bits(count)

    bits = secrets.token_bytes
    monkeypatch.setattr(secrets, "token_bytes", counted)
    state = np.random.get_state()[1].tobytes()  # noqa: NPY002
    discrete_gaussian(10, 1_000)
    assert sum(asked) > 1_000
    assert np.random.get_state()[1].tobytes() == state  # noqa: NPY002


def test_no_numbers_are_no_numbers_and_many_are_as_many() -> None:
    for count in (0, 1, 2, 70_001):
        drawn = discrete_gaussian(4, count)
        assert drawn.shape == (count,) and drawn.dtype == np.int64
        assert discrete_laplace(4, count).shape == (count,)


@pytest.mark.parametrize(
    "wrong", [0, -1, "0", float("nan"), float("inf"), float("-inf"), "x", None, True, "1/0"]
)
def test_a_scale_that_is_no_positive_finite_number_is_refused(wrong: object) -> None:
    with pytest.raises(JobError, match=r"variance is .*allowed: a finite number"):
        discrete_gaussian(wrong, 3)  # type: ignore[arg-type]
    with pytest.raises(JobError, match=r"scale is .*allowed: a finite number"):
        discrete_laplace(wrong, 3)  # type: ignore[arg-type]


def test_noise_that_does_not_fit_into_64_bits_is_refused() -> None:
    with pytest.raises(JobError, match=r"at most 2\^48"):
        discrete_laplace(2**48 + 1, 1)
    with pytest.raises(JobError, match=r"at most 2\^96"):
        discrete_gaussian((2**48 + 1) ** 2, 1)
    for count in (-1, 1.5, True):
        with pytest.raises(JobError, match=r"whole number, 0 or more"):
            discrete_gaussian(1, count)  # type: ignore[arg-type]
