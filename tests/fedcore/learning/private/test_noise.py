"""Noise and coins: their distributions, and that they are never the same twice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fedcore.errors import JobError
from fedcore.learning.private import noise
from fedcore.learning.private.noise import grid, random_words, released, standard_normal
from fedcore.learning.private.sampling import physical_batches, poisson_batch

CHANCE = 1e-9
"""Of a test that fails without a fault."""


def test_noise_is_normal_in_its_middle_and_its_tails() -> None:
    drawn = standard_normal(1_000_001).double().numpy()

    assert stats.kstest(drawn, "norm").pvalue > CHANCE
    for beyond in (2.0, 3.0, 4.0):
        expected = 2 * len(drawn) * stats.norm.sf(beyond)
        assert stats.poisson.ppf(CHANCE, expected) <= (np.abs(drawn) > beyond).sum()
        assert (np.abs(drawn) > beyond).sum() <= stats.poisson.isf(CHANCE, expected)


def test_the_variance_of_a_release_is_the_stated_one_by_chi_square() -> None:
    values, deviation = torch.linspace(-5, 5, 200_000), 3.7
    squares = float(((released([values], deviation)[0] - values).double() / deviation).square().sum())

    assert stats.chi2.ppf(CHANCE, len(values)) < squares < stats.chi2.isf(CHANCE, len(values))


def test_numbers_are_independent_of_their_neighbours() -> None:
    drawn = standard_normal(400_000).double()
    for apart in (1, noise._AT_A_TIME // 2, noise._AT_A_TIME):
        together = float((drawn[apart:] * drawn[:-apart]).mean()) * math.sqrt(len(drawn) - apart)
        assert abs(together) < 6.5


def test_a_small_word_gives_the_far_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    words = torch.tensor([0, 1, 2**7 - 1, 2**7, 2**31 - 1], dtype=torch.int32)
    expected = torch.sqrt(-2 * torch.log((words.double() + 0.5) / 2**31)).float()
    monkeypatch.setattr(noise, "random_words", lambda count: torch.full((count,), 2**62))

    torch.testing.assert_close(noise._radius(words), expected, rtol=1e-5, atol=1e-4)
    monkeypatch.setattr(noise, "random_words", lambda count: torch.zeros(count, dtype=torch.int64))

    assert float(noise._radius(words)[0]) > 11


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("deviation", [1e-6, 0.3, 1.0, 40.0])
def test_what_is_released_is_on_the_grid(dtype: torch.dtype, deviation: float) -> None:
    values = torch.rand(2_000, dtype=dtype)
    steps = released([values], deviation)[0].double() / grid(deviation)

    assert torch.equal(steps, steps.round())
    assert 2.0**-13 < grid(deviation) / deviation <= 2.0**-12


def test_two_draws_differ_and_sizes_are_kept() -> None:
    assert not torch.equal(standard_normal(8), standard_normal(8))
    for count in (0, 1, 2, 3, noise._AT_A_TIME - 1, noise._AT_A_TIME, noise._AT_A_TIME + 1):
        drawn = standard_normal(count)
        assert drawn.shape == (count,)
        assert len(torch.unique(drawn)) >= 0.99 * count
    assert released([torch.zeros(0, 3)], 1.0)[0].shape == (0, 3)


def test_seeds_of_torch_and_numpy_have_no_say() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        drawn.append((standard_normal(8), poisson_batch(1000, 0.5)))

    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert not torch.equal(drawn[0][1], drawn[1][1])


@pytest.mark.parametrize("deviation", [0.0, -1.0, math.nan, math.inf])
def test_a_deviation_out_of_range_is_told(deviation: float) -> None:
    with pytest.raises(JobError, match="standard deviation"):
        released([torch.zeros(2)], deviation)


def test_words_are_uniform() -> None:
    words = random_words(100_000)

    assert int(words.min()) >= 0
    cells = np.bincount((words >> 58).numpy(), minlength=32)
    assert stats.chisquare(cells).pvalue > CHANCE


def test_each_row_is_drawn_by_its_own_coin() -> None:
    rows, rate, draws = 40, 0.15, 4_000
    inside = np.zeros((draws, rows))
    for each in inside:
        each[poisson_batch(rows, rate).numpy()] = 1
    sizes = np.bincount(inside.sum(1).astype(int), minlength=rows + 1)
    expected = stats.binom.pmf(np.arange(rows + 1), rows, rate) * draws
    many = expected >= 5
    seen = [*sizes[many], sizes[~many].sum()]
    planned = [*expected[many], expected[~many].sum()]

    assert stats.chisquare(seen, planned).pvalue > CHANCE
    assert stats.chisquare(inside.sum(0), np.full(rows, inside.sum() / rows)).pvalue > CHANCE
    # No two rows together: correlations are those of 780 independent pairs.
    apart = np.corrcoef(inside.T)[np.triu_indices(rows, 1)] * math.sqrt(draws)
    assert np.abs(apart).max() < 7


def test_batches_may_be_empty_or_all() -> None:
    assert len(poisson_batch(3, 1e-12)) == 0
    assert poisson_batch(0, 0.5).tolist() == []
    assert poisson_batch(4, 1).tolist() == [0, 1, 2, 3]


def test_physical_batches_hold_each_row_once() -> None:
    chosen = torch.arange(0, 22, 2)

    found = list(physical_batches(chosen, 4))

    assert [len(each) for each in found] == [4, 4, 3]
    assert torch.equal(torch.cat(found), chosen)
    assert list(physical_batches(chosen[:0], 4)) == []


def test_bad_numbers_are_told() -> None:
    for rate in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(JobError, match="rate"):
            poisson_batch(3, rate)
    for rows in (-1, True, 2.0):
        with pytest.raises(JobError, match="rows"):
            poisson_batch(rows, 0.5)  # type: ignore[arg-type]
    with pytest.raises(JobError, match="physical"):
        list(physical_batches(torch.arange(3), 0))
