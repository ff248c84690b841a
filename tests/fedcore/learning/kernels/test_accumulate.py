"""Sums of weighted and of clipped gradients against sums made in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.learning.kernels import accumulate, triton_accumulate

# A gradient of zero: compiled, the division gives infinity without a word.
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def wanted(a: torch.Tensor, d: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return torch.einsum("n,nto,ntk->ok", weights.double(), d.double(), a.double())


def assert_right(found: torch.Tensor, a: torch.Tensor, d: torch.Tensor, weights: torch.Tensor) -> None:
    right = wanted(a, d, weights)
    assert found.dtype == torch.float32 and found.shape == right.shape
    assert float((found - right).norm()) <= 1e-6 * float(right.norm())


@settings(max_examples=12)
@given(
    n=st.integers(1, 5),
    t=st.integers(1, 70),
    k=st.integers(1, 70),
    o=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
)
def test_sums_are_those_of_the_gradients(n: int, t: int, k: int, o: int, dtype: torch.dtype) -> None:
    a, d = random(n, t, k, dtype=dtype), random(n, t, o, dtype=dtype, seed=2)
    weights = random(n, seed=3).abs() + 0.1

    assert_right(accumulate.weighted_sum(a, d, weights), a, d, weights)
    assert_right(accumulate.weighted_sum_plain(a, d, weights), a, d, weights)


@pytest.mark.parametrize("t", [1, 31, 32, 33, 64, 65])
def test_rows_of_few_and_of_many_positions(t: int) -> None:
    a, d, weights = random(9, t, 5), random(9, t, 3, seed=2), random(9, seed=3)

    assert_right(accumulate.weighted_sum(a, d, weights), a, d, weights)


def test_sums_of_several_tiles_and_of_several_splits() -> None:
    a, d, weights = random(10, 33, 130), random(10, 33, 70, seed=2), random(10, seed=3)

    assert_right(accumulate.weighted_sum(a, d, weights), a, d, weights)


def test_strides_and_types_do_not_matter() -> None:
    a, d = random(4, 40, 2, 6)[:, :, 1, ::2], random(4, 7, 80, seed=2).mT[:, ::2]
    weights = random(8, seed=3)[::2]

    assert_right(accumulate.weighted_sum(a, d, weights), a, d, weights)
    assert_right(accumulate.weighted_sum(a.bfloat16(), d, weights), a.bfloat16(), d, weights)
    assert_right(
        accumulate.weighted_sum(a[:, :5], d[:, :5].half(), weights), a[:, :5], d[:, :5].half(), weights
    )


@settings(max_examples=8)
@given(
    t=st.integers(1, 40), clip=st.floats(0.01, 100), dtype=st.sampled_from(DTYPES), broken=st.integers(0, 3)
)
def test_no_row_counts_for_more_than_the_clip(t: int, clip: float, dtype: torch.dtype, broken: int) -> None:
    a, d = random(4, t, 9, dtype=dtype), random(4, t, 6, dtype=dtype, seed=2)
    squared = (d.double().mT @ a.double()).square().sum((1, 2))
    for row in range(4):
        found = accumulate.clipped_sum(a[row : row + 1], d[row : row + 1], squared[row : row + 1], clip)
        assert float(found.double().norm()) <= min(clip, float(squared[row].sqrt())) * (1 + 2e-6)
    weights = (clip / squared.sqrt()).clamp(max=1)
    assert_right(accumulate.clipped_sum(a, d, squared, clip), a, d, weights)

    a, squared = a.clone(), squared.clone()
    a[broken], squared[broken], weights[broken] = float("nan"), float("inf"), 0
    for sum_of in (accumulate.clipped_sum, accumulate.clipped_sum_plain):
        found = sum_of(a, d, squared, clip)
        assert_right(found, a.nan_to_num(), d, weights)


def test_a_gradient_of_zero_is_not_divided_by() -> None:
    a, d = random(3, 4, 5), random(3, 4, 2, seed=2)
    d[1] = 0
    squared = (d.mT @ a).square().sum((1, 2))

    for sum_of in (accumulate.clipped_sum, accumulate.clipped_sum_plain):
        assert_right(sum_of(a, d, squared, 1.0), a, d, (1 / squared.sqrt()).clamp(max=1))


@pytest.mark.parametrize("t", [3, 40])
def test_rows_that_are_all_no_numbers_sum_to_zero(t: int) -> None:
    a, d = torch.full((2, t, 5), float("nan")), torch.ones(2, t, 4)

    for sum_of in (accumulate.clipped_sum, accumulate.clipped_sum_plain):
        assert torch.equal(sum_of(a, d, torch.full((2,), float("nan")), 1.0), torch.zeros(4, 5))


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_nothing_sums_to_zero(shape: tuple[int, int, int, int]) -> None:
    n, t, k, o = shape
    a, d = torch.ones(n, t, k), torch.ones(n, t, o)

    assert torch.equal(accumulate.weighted_sum(a, d, torch.ones(n)), torch.zeros(o, k))
    assert torch.equal(accumulate.clipped_sum(a, d, torch.ones(n), 1.0), torch.zeros(o, k))


def test_small_weights_of_half_precision_are_not_lost() -> None:
    a, d = torch.ones(1, 40, 4, dtype=torch.float16), torch.full((1, 40, 3), 1e-4, dtype=torch.float16)
    weights = torch.full((1,), 1e-6)

    assert_right(accumulate.weighted_sum(a, d, weights), a, d, weights)
    assert_right(accumulate.weighted_sum(a[:, :3], d[:, :3], weights), a[:, :3], d[:, :3], weights)


def test_float64_stays_float64() -> None:
    a, d, weights = random(2, 3, 4).double(), random(2, 3, 5, seed=2).double(), random(2, seed=3)
    found = accumulate.weighted_sum(a, d, weights)

    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted(a, d, weights), rtol=1e-12, atol=1e-12)


def test_the_same_input_gives_the_same_output() -> None:
    a, d, weights = random(20, 33, 20), random(20, 33, 7, seed=2), random(20, seed=3)

    assert torch.equal(accumulate.weighted_sum(a, d, weights), accumulate.weighted_sum(a, d, weights))


def test_programs_write_no_more_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    a, d, weights = random(20, 33, 20), random(20, 33, 7, seed=2), random(20, seed=3)
    monkeypatch.setattr(triton_accumulate, "AT_A_TIME", 1)

    assert_right(accumulate.weighted_sum(a, d, weights), a, d, weights)


def test_the_floor_counts_each_number_once() -> None:
    moved, flops = accumulate.floor(10, 4, 100, 50, size=2)
    assert moved == 10 * 4 * 150 * 2 + 40 + 4 * 5000
    assert flops == 2 * 10 * 4 * 5000 + 2000
