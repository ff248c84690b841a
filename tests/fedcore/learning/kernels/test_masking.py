"""Rounding and masking on a device: the bytes that the CPU makes, in plain torch and in the kernel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels.chacha import Streams
from crypto.quantisation import FixedPoint, quantise
from fedcore.errors import JobError
from fedcore.learning.kernels import dispatch, masking
from fedcore.learning.kernels.masking import Masked, floor, masked
from tests.fedcore.learning.kernels.ahead import Build, compiled

MODULE = "fedcore.learning.kernels.triton_masking"
SEED = bytes(range(44))


def on_the_cpu(
    values: Any, form: FixedPoint, weight: int, seed: bytes, keys: list[bytes], minus: list[bool]
) -> tuple[bytes, int]:
    vector, clipped = quantise(values, form, weight=weight, seed=seed, cipher="chacha20")
    words = vector[:-1].copy()
    Streams(keys).add(words, np.array(minus, np.bool_))
    return words.tobytes(), clipped


def on_a_device(
    values: Any,
    form: FixedPoint,
    weight: int,
    seed: bytes,
    keys: list[bytes],
    minus: list[bool],
    first: int = 0,
) -> Masked:
    return masked(
        torch.from_numpy(values),
        clip=form.clip,
        scale=weight * form.scale,
        rounding_key=seed,
        mask_keys=keys,
        minus=minus,
        bits=form.bits,
        first=first,
    )


@st.composite
def cases(draw: st.DrawFn, most: int) -> tuple[Any, ...]:
    bits = draw(st.sampled_from([32, 64]))
    clip = draw(st.floats(2.0**-10, 2.0**10))
    form = FixedPoint(clip, draw(st.integers(1, 500)), draw(st.integers(1, 1000)), bits)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = (rng.standard_normal(draw(st.integers(0, most))) * clip).astype(np.float32)
    many = draw(st.integers(0, 2))
    minus = draw(st.lists(st.booleans(), min_size=many, max_size=many))
    weight = draw(st.integers(0, form.largest_weight))
    return values, form, weight, rng.bytes(44), [rng.bytes(44) for _ in range(many)], minus


@settings(deadline=None)
@given(cases(3000))
def test_plain_torch_makes_the_bytes_of_the_cpu(case: tuple[Any, ...]) -> None:
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("FEDCORE_KERNELS", "torch")
        found = on_a_device(*case)
    assert (found.words.numpy().tobytes(), found.clipped) == on_the_cpu(*case) and not found.strange


@settings(deadline=None, max_examples=3)
@given(cases(600))
def test_the_kernel_makes_the_bytes_of_the_cpu(case: tuple[Any, ...]) -> None:
    found = on_a_device(*case)
    assert (found.words.numpy().tobytes(), found.clipped) == on_the_cpu(*case) and not found.strange


@pytest.mark.parametrize(("bits", "length"), [(32, 2049), (64, 1024)])
def test_the_kernel_goes_on_over_programs(bits: int, length: int) -> None:
    values = np.random.default_rng(1).standard_normal(length).astype(np.float32)
    case = values, FixedPoint(1.0, 10, 1000, bits), 777, SEED, [bytes(44)], [True]
    found = on_a_device(*case)
    assert (found.words.numpy().tobytes(), found.clipped) == on_the_cpu(*case)


EDGES = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.0000001,
    2.0**-149,
    -(2.0**-149),
    2.0**-126,
    3.4028235e38,
    -3.4028235e38,
    0.1,
    -0.1,
]


@pytest.mark.parametrize("kernels", ["torch", "interpret"])
@pytest.mark.parametrize("bits", [32, 64])
def test_numbers_at_the_edges_come_out_as_on_the_cpu(
    bits: int, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDCORE_KERNELS", kernels)
    values, form = np.array(EDGES, np.float32), FixedPoint(1.0, 1, 2**20 - 3, bits)
    # Odd factors of the scale, whose products with a number have more digits than a double: a fused sum would differ.
    case = values, form, 2**20 - 3, SEED, [b"\xff" * 44], [False]
    found = on_a_device(*case)
    assert (found.words.numpy().tobytes(), found.clipped) == on_the_cpu(*case)
    assert found.clipped == 3


@pytest.mark.parametrize("kernels", ["torch", "interpret"])
def test_what_is_not_finite_is_counted(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDCORE_KERNELS", kernels)
    values = np.array([math.nan, 0.5, math.inf, -math.inf, 3e38, 2.0], np.float32)
    found = on_a_device(values, FixedPoint(1.0, 3), 1, SEED, [], [])
    assert (found.strange, found.clipped) == (3, 4)
    assert found.words[1] == on_a_device(values[:2] * 0 + 0.5, FixedPoint(1.0, 3), 1, SEED, [], []).words[1]


@pytest.mark.parametrize(("bits", "kernels"), [(32, "torch"), (64, "torch"), (64, "interpret")])
def test_pieces_of_a_vector_are_masked_as_the_whole(
    bits: int, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDCORE_KERNELS", kernels)
    values = np.random.default_rng(2).standard_normal(300).astype(np.float32)
    case = FixedPoint(1.0, 10, 7, bits), 3, SEED, [bytes(44)], [True]
    expected, _ = on_the_cpu(values, *case)
    part = on_a_device(values[144:], *case, first=144)
    assert part.words.numpy().tobytes() == expected[144 * bits // 8 :]


def test_values_that_do_not_lie_side_by_side_are_masked_too() -> None:
    values = np.random.default_rng(3).standard_normal(200).astype(np.float32)
    case = FixedPoint(1.0, 10, 7), 3, SEED, [bytes(44)], [False]
    found = on_a_device(values[::2], *case)
    assert found.words.numpy().tobytes() == on_the_cpu(values[::2].copy(), *case)[0]


def test_plain_torch_takes_over_from_a_kernel_that_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("PassManager::run failed")

    monkeypatch.setattr(masking, "_kernel", broken)
    values = np.ones(20, np.float32)
    case = values, FixedPoint(1.0, 10, 7), 3, SEED, [bytes(44)], [False]
    assert on_a_device(*case).words.numpy().tobytes() == on_the_cpu(*case)[0]
    assert "masking 32" in dispatch._ruled_out


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"values": torch.zeros(3, dtype=torch.float64)}, "float32 vectors"),
        ({"values": torch.zeros(3, 2)}, "float32 vectors"),
        ({"bits": 16}, "bits is 16"),
        ({"clip": 0.0}, "a clip of 0.0"),
        ({"clip": math.inf}, "a clip of inf"),
        ({"scale": math.nan}, "a scale of nan"),
        ({"scale": 2.0**45}, r"at most 2\^44"),
        ({"first": 8}, "multiples of 16"),
        ({"minus": [True]}, "1 signs came for 2 streams"),
        ({"rounding_key": bytes(32)}, "44 bytes of key and nonce"),
        ({"mask_keys": [bytes(44), bytes(28)]}, "44 bytes of key and nonce"),
    ],
)
def test_arguments_that_are_not_allowed_are_refused(change: dict[str, Any], word: str) -> None:
    given_: dict[str, Any] = {"values": torch.zeros(3), "clip": 1.0, "scale": 1.0, "rounding_key": SEED} | {
        "mask_keys": [bytes(44)] * 2,
        "minus": [True, False],
    }
    with pytest.raises(JobError, match=word):
        masked(**(given_ | change))


def test_the_floor_counts_each_number_once() -> None:
    read, work = floor(1600, 3)
    assert read == 1600 * 8
    assert work == 100 * 4 * 976 + 3 * 1600
    assert floor(1600, 0, 64) == (1600 * 12, 100 * 976)


@pytest.mark.slow
def test_kernels_compile_for_gpus_without_spills() -> None:
    builds = []
    for bits in (32, 64):
        words = f"*i{bits}"
        mask = {
            "values": "*fp32",
            "words": words,
            "told": "*i32",
            "bounds": "*fp64",
            "states": "*i32",
            "signs": "*i32",
            "streams": "i32",
            "count": "i32",
            "first": "i32",
        }
        options = {"num_warps": 4, "enable_fp_fusion": False}
        builds.append(Build("_mask", mask, {"BITS": bits, "LANES": 128}, {**options, "maxnreg": 168}))
        for floats in (False, True):
            unmask = {
                "vectors": words,
                "out": "*fp32" if floats else words,
                "factor": "*fp64",
                "states": "*i32",
                "signs": "*i32",
                "streams": "i32",
                "count": "i32",
                "many": "i32",
                "stride": "i32",
            }
            builds.append(Build("_unmask", unmask, {"BITS": bits, "FLOATS": floats, "LANES": 128}, options))
    found = compiled(MODULE, builds)
    assert len(found) == 12
    assert all(each.spills == 0 and each.registers <= 168 and each.shared <= 2**14 for each in found)
