"""Noise and coins: their distributions, and that they are never the same twice."""

from __future__ import annotations

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from crypto.kernels import gaussian
from fedcore.errors import JobError
from fedcore.learning.kernels import normal
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
    for apart in (1, gaussian.HALF, gaussian.PIECE):
        together = float((drawn[apart:] * drawn[:-apart]).mean()) * math.sqrt(len(drawn) - apart)
        assert abs(together) < 6.5


def told(pairs: list[tuple[int, int, int, int]]) -> Any:
    """Memory of a kernel that tells of these pairs."""
    room = np.zeros(gaussian.ROOM, dtype=np.uint32)
    room[gaussian.PIECE : gaussian.PIECE + 4 * len(pairs)] = np.array(pairs, dtype=np.uint32).reshape(-1)
    return room


def test_a_small_word_gives_the_far_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.array([0, 1, 2**8 - 1])
    room = told([(i, 10 + i, int(word), 0) for i, word in enumerate(words)])
    monkeypatch.setattr(noise, "random_words", lambda count: torch.full((count,), 2**62))
    places, numbers = noise._far(room, 3)

    assert places.tolist() == [0, 1, 2, 10, 11, 12]
    np.testing.assert_allclose(numbers[:3], np.sqrt(-2 * np.log((words + 0.5) / 2**32)), rtol=1e-6)
    monkeypatch.setattr(noise, "random_words", lambda count: torch.zeros(count, dtype=torch.int64))

    assert noise._far(room, 3)[1][0] > 11


def test_what_a_kernel_tells_of_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    far = np.array([7.25, -8.5], dtype=np.float32)
    monkeypatch.setattr(noise, "_far", lambda room, found: (np.array([1, 4]), far))
    for name in ("normal", "noisy"):
        real = getattr(gaussian, name)
        monkeypatch.setattr(gaussian, name, lambda *given, real=real: real(*given) + 1)

    assert standard_normal(6)[[1, 4]].tolist() == far.tolist()
    values = torch.tensor([0.0, 1.0, 0.0, 0.0, 2.0, 0.0])
    assert released([values], 1.0)[0][[1, 4]].tolist() == [8.25, -6.5]


def test_threads_share_no_key_and_no_memory() -> None:
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(standard_normal, [3 * gaussian.PIECE] * 16))

    assert len(torch.unique(torch.cat(drawn))) > 0.99 * 16 * len(drawn[0])


def test_a_stream_gives_so_many_numbers_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_MOST", 64)
    drawn, noisy = standard_normal(333), released([torch.ones(333)], 1e-3)[0]

    assert len(torch.unique(drawn)) == len(drawn) == 333
    assert bool(((noisy - 1).abs() < 1e-2).all())


def test_keys_are_gone_after_the_numbers_are_made() -> None:
    standard_normal(10)
    released([torch.zeros(10)], 1.0)

    assert not noise._rooms().key.any() and not noise._rooms().room.any()
    with noise._stream() as (states, _):
        assert states[0, 4:12].any()
    assert not noise._rooms().key.any() and not noise._rooms().room.any()


def test_noise_of_a_gpu_is_made_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def there(count: int, device: torch.device) -> torch.Tensor:
        asked.append((count, device))
        return torch.ones(count)

    monkeypatch.setattr(normal, "standard_normal", there)

    assert noise._drawn(3, torch.device("cuda", 1)).tolist() == [1, 1, 1]
    assert asked == [(3, torch.device("cuda", 1))]


def test_without_compiled_kernels_noise_is_made_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_kernels", lambda: None)
    values = torch.ones(20_001)
    drawn, steps = standard_normal(20_001), released([values], 0.5)[0]

    assert stats.kstest(drawn.double().numpy(), "norm").pvalue > CHANCE
    assert stats.kstest(((steps - values) / 0.5).double().numpy(), "norm").pvalue > CHANCE
    assert torch.equal(steps / grid(0.5), (steps / grid(0.5)).round())


def test_values_that_are_not_contiguous_are_released() -> None:
    values = torch.arange(12.0).view(3, 4).T

    found = released([values], 1e-6)[0]

    assert found.shape == (4, 3)
    torch.testing.assert_close(found, values, atol=1e-4, rtol=0)


def test_coins_without_a_cipher_are_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("cryptography.hazmat.primitives.ciphers"):
            monkeypatch.setitem(sys.modules, name, None)

    assert len(torch.unique(random_words(1000))) == 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("deviation", [1e-6, 0.3, 1.0, 40.0])
def test_what_is_released_is_on_the_grid(dtype: torch.dtype, deviation: float) -> None:
    values = torch.rand(2_000, dtype=dtype)
    steps = released([values], deviation)[0].double() / grid(deviation)

    assert torch.equal(steps, steps.round())
    assert 2.0**-13 < grid(deviation) / deviation <= 2.0**-12


def test_two_draws_differ_and_sizes_are_kept() -> None:
    assert not torch.equal(standard_normal(8), standard_normal(8))
    for count in (0, 1, 2, 3, gaussian.PIECE - 1, gaussian.PIECE, gaussian.PIECE + 1):
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
