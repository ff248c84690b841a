"""Sums on a device: the bytes of the CPU's sum and mean, in plain torch and in the kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels.chacha import Streams
from crypto.quantisation import FixedPoint, weighted_mean
from fedcore.errors import JobError
from fedcore.learning.kernels.unmasking import floor, unmasked, unmasked_mean

KERNELS = pytest.mark.parametrize("kernels", ["torch", "interpret"])


def masked_vectors(
    many: int, length: int, bits: int, masks: int, seed: int
) -> tuple[Any, list[bytes], list[bool]]:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(0, 2**bits - 1, (many, length), dtype=f"uint{bits}", endpoint=True)
    return vectors, [rng.bytes(44) for _ in range(masks)], rng.integers(0, 2, masks).astype(bool).tolist()


def words(vectors: Any) -> torch.Tensor:
    return torch.from_numpy(vectors.view(f"int{8 * vectors.itemsize}"))


def expected_sum(vectors: Any, keys: list[bytes], minus: list[bool]) -> Any:
    total = vectors.sum(0, dtype=vectors.dtype)
    Streams(keys).add(total, np.array(minus, np.bool_))
    return total


@settings(deadline=None)
@given(
    st.integers(0, 4), st.integers(0, 3000), st.sampled_from([32, 64]), st.integers(0, 3), st.integers(0, 99)
)
def test_plain_torch_makes_the_sum_of_the_cpu(
    many: int, length: int, bits: int, masks: int, seed: int
) -> None:
    vectors, keys, minus = masked_vectors(many, length, bits, masks, seed)
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("FEDCORE_KERNELS", "torch")
        found = unmasked(words(vectors), mask_keys=keys, minus=minus)
    assert found.numpy().tobytes() == expected_sum(vectors, keys, minus).tobytes()


@pytest.mark.parametrize(
    ("many", "length", "bits", "masks"),
    [(1, 17, 32, 2), (3, 1, 64, 1), (2, 2049, 32, 1), (4, 1025, 64, 1), (0, 5, 32, 0)],
)
def test_the_kernel_makes_the_sum_of_the_cpu(many: int, length: int, bits: int, masks: int) -> None:
    vectors, keys, minus = masked_vectors(many, length, bits, masks, length)
    found = unmasked(words(vectors), mask_keys=keys, minus=minus)
    assert found.numpy().tobytes() == expected_sum(vectors, keys, minus).tobytes()


@KERNELS
@pytest.mark.parametrize(("bits", "dtype"), [(32, torch.float32), (64, torch.float64)])
def test_the_mean_is_that_of_the_cpu(
    bits: int, dtype: torch.dtype, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDCORE_KERNELS", kernels)
    form = FixedPoint(1.0, 10, 1000, bits)
    vectors, keys, minus = masked_vectors(3, 333, bits, 2, 0)
    total = expected_sum(vectors, keys, minus)
    mean, _ = weighted_mean(
        np.append(total, total.dtype.type(4321)),
        form,
        dtype=np.float32 if dtype == torch.float32 else np.float64,
    )
    factor = 1.0 / (form.scale * 4321)
    found = unmasked_mean(words(vectors), mask_keys=keys, minus=minus, factor=factor, dtype=dtype)
    assert found.dtype == dtype and found.numpy().tobytes() == mean.tobytes()
    one = unmasked_mean(
        words(vectors.sum(0, dtype=vectors.dtype)), mask_keys=keys, minus=minus, factor=factor, dtype=dtype
    )
    assert torch.equal(one, found)


@KERNELS
def test_vectors_that_do_not_lie_side_by_side_are_added_too(
    kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDCORE_KERNELS", kernels)
    vectors, keys, minus = masked_vectors(40, 3, 32, 1, 0)
    found = unmasked(words(vectors).T, mask_keys=keys, minus=minus)
    assert found.numpy().tobytes() == expected_sum(vectors.T.copy(), keys, minus).tobytes()
    rows = unmasked(words(vectors)[::3], mask_keys=keys, minus=minus)
    assert rows.numpy().tobytes() == expected_sum(vectors[::3], keys, minus).tobytes()


def test_vectors_are_not_changed() -> None:
    vectors, keys, minus = masked_vectors(1, 50, 32, 1, 0)
    before = vectors.copy()
    unmasked(words(vectors), mask_keys=keys, minus=minus)
    unmasked(words(vectors[0]), mask_keys=keys, minus=minus)
    assert np.array_equal(vectors, before)


@pytest.mark.parametrize(
    ("vectors", "change", "word"),
    [
        (torch.zeros(3), {}, "int32 or int64 words"),
        (torch.zeros(1, 1, 1, dtype=torch.int32), {}, "int32 or int64 words"),
        (torch.zeros(3, dtype=torch.int32), {"dtype": torch.float16}, "allowed: float32, float64"),
        (torch.zeros(3, dtype=torch.int32), {"minus": []}, "0 signs came for 1 streams"),
        (torch.zeros(3, dtype=torch.int32), {"mask_keys": [bytes(28)]}, "44 bytes of key and nonce"),
    ],
)
def test_arguments_that_are_not_allowed_are_refused(
    vectors: torch.Tensor, change: dict[str, Any], word: str
) -> None:
    given_: dict[str, Any] = {"mask_keys": [bytes(44)], "minus": [True], "factor": 1.0}
    with pytest.raises(JobError, match=word):
        unmasked_mean(vectors, **(given_ | change))


def test_the_floor_counts_each_word_once() -> None:
    assert floor(1600, 10, 5) == (1600 * 44, 5 * 100 * 976 + 15 * 1600)
    assert floor(1600, 1, 0, 64, 8) == (1600 * 16, 3200)
