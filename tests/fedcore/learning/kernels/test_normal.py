"""Gaussian noise on a device: its distribution and far tail, the kernel beside plain torch, never the same twice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from crypto.kernels.chacha import keystream_reference
from fedcore.errors import JobError
from fedcore.learning.kernels import chacha, normal
from fedcore.learning.kernels.normal import floor, standard_normal
from tests.fedcore.learning.kernels.ahead import Build, compiled

CHANCE = 1e-9
"""Of a test that fails without a fault."""
KEY = bytes(range(32))


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDCORE_KERNELS", "torch")


@pytest.mark.usefixtures("plain")
def test_noise_is_normal_in_its_middle_and_its_tails() -> None:
    drawn = standard_normal(1_000_001, "cpu").double().numpy()
    assert stats.kstest(drawn, "norm").pvalue > CHANCE
    squares = float(np.square(drawn).sum())
    assert stats.chi2.ppf(CHANCE, len(drawn)) < squares < stats.chi2.isf(CHANCE, len(drawn))
    for beyond in (2.0, 3.0, 4.0):
        expected = 2 * len(drawn) * stats.norm.sf(beyond)
        found = (np.abs(drawn) > beyond).sum()
        assert stats.poisson.ppf(CHANCE, expected) <= found <= stats.poisson.isf(CHANCE, expected)


@pytest.mark.usefixtures("plain")
def test_numbers_are_independent_of_their_neighbours() -> None:
    drawn = standard_normal(400_000, "cpu").double()
    for apart in (1, 8, 16, 2048):
        for one in (drawn, drawn.square() - 1):
            together = float((one[apart:] * one[:-apart]).mean()) * math.sqrt(len(one) - apart)
            assert abs(together) < 6.5 * float(one.square().mean())


@pytest.mark.usefixtures("plain")
def test_numbers_follow_from_the_key_and_their_place() -> None:
    drawn = standard_normal(3000, "cpu", key=KEY).double().numpy()
    words = np.frombuffer(keystream_reference(KEY + bytes(12), 4 * 3008), "<u4").reshape(-1, 16)
    radius = np.sqrt(-2 * np.log(((words[:, :8] & 0x7FFFFFFF) + 0.5) / 2**31))
    angle = words[:, 8:].view(np.int32) * (np.pi / 2**31)
    expected = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()[:3000]
    assert (words[:, :8] & 0x7FFFFFFF).min() >= normal.SMALL
    np.testing.assert_allclose(drawn, expected, atol=2e-6)
    for count in (0, 1, 8, 9, 16, 17, 2999):
        assert np.array_equal(
            standard_normal(count, "cpu", key=KEY).numpy(), drawn[:count].astype(np.float32)
        )


@pytest.mark.parametrize(("count", "small"), [(1, 2**26), (17, 2**7), (2049, 2**26)])
def test_the_kernel_makes_the_same_numbers(count: int, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # With a large limit many words take more bits.
    monkeypatch.setattr(normal, "SMALL", small)
    found = standard_normal(count, "cpu", key=KEY)
    monkeypatch.setenv("FEDCORE_KERNELS", "torch")
    torch.testing.assert_close(found, standard_normal(count, "cpu", key=KEY), rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("plain")
def test_a_small_word_gives_the_far_tail() -> None:
    more = torch.zeros(16, dtype=torch.int32)
    words = torch.tensor([[0, 1, 2**7 - 1, 2**7, 2**31 - 1, 5, 6, 7]], dtype=torch.int32)
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(chacha, "words", lambda *_: torch.zeros(1, 16, dtype=torch.int32))
        lowest = normal._radius(words, more, 0)
        changed.setattr(chacha, "words", lambda *_: torch.full((1, 16), -1, dtype=torch.int32))
        highest = normal._radius(words, more, 0)
    assert float(lowest[0, 0]) > 11
    middle = torch.sqrt(-2 * torch.log((words.double() + 0.5) / 2**31)).float()
    assert torch.equal(lowest[0, 3:5], middle[0, 3:5]) and torch.equal(highest[0, 3:5], middle[0, 3:5])
    # The lowest of a word is the highest of the one above it.
    torch.testing.assert_close(highest[0, 0], lowest[0, 1])
    torch.testing.assert_close(highest[0, 5:7], lowest[0, 6:8])


def test_two_draws_differ_and_sizes_are_kept() -> None:
    for count in (0, 1, 17):
        drawn = standard_normal(count, "cpu")
        assert drawn.shape == (count,) and drawn.dtype == torch.float32
    assert not torch.equal(standard_normal(8, "cpu"), standard_normal(8, "cpu"))


@pytest.mark.usefixtures("plain")
def test_seeds_of_torch_and_numpy_have_no_say() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        drawn.append(standard_normal(8, "cpu"))
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("size", [0, 16, 44])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(JobError, match=f"a key of {size} bytes"):
        standard_normal(3, "cpu", key=bytes(size))


def test_the_floor_is_one_block_for_sixteen_numbers() -> None:
    assert floor(1600) == (6400, 100 * 976)


@pytest.mark.slow
def test_the_kernel_compiles_for_gpus_without_spills() -> None:
    types = {"out": "*fp32", "states": "*i32", "count": "i32:16"}
    found = compiled(
        "fedcore.learning.kernels.triton_normal",
        [Build("_normal", types, {"SMALL": 128, "LANES": 128}, {"num_warps": 4})],
    )
    assert len(found) == 2
    assert all(each.spills == 0 and each.registers <= 128 and each.shared <= 2**14 for each in found)
