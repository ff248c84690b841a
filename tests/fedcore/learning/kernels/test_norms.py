"""Norms of the kernels against gradients made in float64: odd sizes, strides, half precision, and never too small."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.learning.kernels import norms, triton_norms
from fedcore.learning.private import parts

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WAYS = {
    "ghost": triton_norms.ghost,
    "made": triton_norms.made,
    "kept": lambda a, d: triton_norms.kept(a, d)[0],
    "plain": norms.squared_norms_plain,
}


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def exact(a: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    return (d.double().mT @ a.double()).square().sum((1, 2))


def worst_slack(a: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """What may be added at most: some units of the last place of what the norm could be without cancellation."""
    bound = a.double().square().sum((1, 2)) * d.double().square().sum((1, 2))
    return (triton_norms.GHOST_SLACK + 3 * triton_norms.MADE_SLACK) * 2.0**-23 * bound


def assert_right(found: torch.Tensor, a: torch.Tensor, d: torch.Tensor) -> None:
    wanted = exact(a, d)
    assert found.dtype == torch.float64 and found.shape == wanted.shape
    assert bool((found >= wanted * (1 - 1e-6)).all()), "a norm is too small"
    assert bool((found <= wanted * (1 + 1e-5) + worst_slack(a, d)).all())


@settings(max_examples=12)
@given(
    n=st.integers(1, 3),
    t=st.integers(1, 70),
    k=st.integers(1, 70),
    o=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    way=st.sampled_from(sorted(WAYS)),
)
def test_norms_are_those_of_the_gradients(
    n: int, t: int, k: int, o: int, dtype: torch.dtype, way: str
) -> None:
    a, d = random(n, t, k, dtype=dtype), random(n, t, o, dtype=dtype, seed=2)

    assert_right(WAYS[way](a, d), a, d)


@pytest.mark.parametrize("way", sorted(WAYS))
def test_sizes_of_no_block_and_of_several_blocks(way: str) -> None:
    for shape in ((1, 1, 1, 1), (1, 129, 65, 17), (2, 64, 64, 64)):
        n, t, k, o = shape
        a, d = random(n, t, k), random(n, t, o, seed=2)
        assert_right(WAYS[way](a, d), a, d)


@pytest.mark.parametrize("way", sorted(WAYS))
def test_strides_do_not_matter(way: str) -> None:
    whole = random(3, 20, 2, 18)
    a, d = whole[:, :, 1, ::2], random(3, 7, 40, seed=2).mT[:, ::2]
    assert not a.is_contiguous() and not d.is_contiguous()

    assert_right(WAYS[way](a, d), a, d)
    # One position and one row for all, without copies.
    a, d = a[:, :1].expand(3, 20, 9), d[:1].expand(3, 20, 7)
    assert_right(WAYS[way](a, d), a, d)


@pytest.mark.parametrize("way", ["ghost", "made", "plain"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_norm_is_too_small_where_positions_cancel(way: str, dtype: torch.dtype) -> None:
    a, d = random(4, 24, 16, dtype=dtype), random(4, 24, 8, dtype=dtype, seed=2)
    a[:, 1::2], d[:, 1::2] = a[:, ::2], -d[:, ::2]
    a[1:3, -1] *= 1.01
    # What is left is 1e-3 of what was there; the ghost way alone would find it with an error of its own size.
    found, wanted = WAYS[way](a, d), exact(a, d)

    assert bool((found.double() >= wanted * (1 - 1e-6)).all())
    assert bool((found.double() <= wanted * (1 + 1e-5) + worst_slack(a, d)).all())


def test_norms_kept_are_those_of_the_gradients_kept() -> None:
    a, d = random(3, 33, 20), random(3, 33, 70, seed=2)
    found, made = norms.norms_and_gradients(a, d)

    torch.testing.assert_close(made, d.mT @ a, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, made.double().square().sum((1, 2)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_nothing_has_the_norm_zero(shape: tuple[int, int, int, int]) -> None:
    n, t, k, o = shape
    a, d = torch.ones(n, t, k), torch.ones(n, t, o)

    nothing = torch.zeros(n).double()
    torch.testing.assert_close(norms.squared_norms(a, d), nothing, rtol=0, atol=1e-30)
    found, made = norms.norms_and_gradients(a, d)
    torch.testing.assert_close(found, nothing, rtol=0, atol=1e-30)
    assert torch.equal(made, torch.zeros(n, o, k))


def test_float64_stays_float64() -> None:
    a, d = random(2, 5, 3).double(), random(2, 5, 4, seed=2).double()

    found = norms.squared_norms(a, d)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, exact(a, d), rtol=1e-12, atol=0)


@pytest.mark.parametrize("way", ["ghost", "made"])
def test_sums_of_half_precision_do_not_overflow(way: str) -> None:
    a, d = (
        torch.full((1, 40, 8), 200.0, dtype=torch.float16),
        torch.full((1, 40, 8), 30.0, dtype=torch.float16),
    )

    assert_right(WAYS[way](a, d), a, d)


@pytest.mark.parametrize("way", ["ghost", "made", "kept"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_row_that_is_no_number_has_no_finite_norm_and_others_have(way: str, value: float) -> None:
    a, d = random(3, 20, 9), random(3, 20, 7, seed=2)
    a[1, 19, 8] = value

    assert torch.isfinite(WAYS[way](a, d)).tolist() == [True, False, True]


def test_types_may_differ() -> None:
    a, d = random(2, 20, 9), random(2, 20, 7, dtype=torch.bfloat16, seed=2)

    for way in WAYS.values():
        assert_right(way(a, d), a, d)


def test_the_way_is_the_one_of_less_work() -> None:
    assert norms.ghost_is_less(16, 512, 512) and not norms.ghost_is_less(1024, 27, 64)


def test_no_kernel_takes_a_row_that_it_cannot_count_in() -> None:
    far = torch.zeros(1).as_strided((1, 2, 2), (0, 0, 0))
    assert norms.served(far, far)
    assert not norms.served(far.new_empty(0).as_strided((1, 0, 2), (1, 1, 1)), far)
    huge = torch.empty(2**31 + 2, device="meta").as_strided((1, 2, 2), (1, 2**30, 1))
    assert not norms.served(huge, huge)


def test_the_floor_counts_each_number_once_and_the_cheaper_way() -> None:
    moved, flops = norms.floor(10, 4, 100, 50)
    assert moved == 10 * 4 * 150 * 4 + 40
    assert flops == 10 * 10 * 2 * 151
    assert norms.floor(1, 1000, 4, 3, size=2) == (1000 * 7 * 2 + 4, 12 * 2 * 1001)


def test_plain_torch_takes_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    a, d = random(7, 5, 6), random(7, 5, 4, seed=2)
    whole = norms.squared_norms_plain(a, d)
    monkeypatch.setattr(norms, "AT_A_TIME", 2 * parts.Outer(a[:, None], d[:, None], (4, 6)).each()[0].numel())

    torch.testing.assert_close(norms.squared_norms_plain(a, d), whole)


@pytest.mark.parametrize("way", ["ghost", "made", "plain"])
def test_no_norm_is_too_small_where_its_factors_are_small_or_inputs_are_many(way: str) -> None:
    a, d = torch.full((1, 2, 4608), 0.383), torch.full((1, 2, 16), 0.37)
    a[0, 1] *= 1.001
    d[0, 1] *= -1
    assert float(WAYS[way](a, d)) >= float(exact(a, d)) * (1 - 1e-5)
    a, d = torch.full((1, 20, 32), 6e-25), torch.full((1, 20, 32), 3e17)
    assert float(WAYS[way](a, d)) >= float(exact(a, d)) > 0
