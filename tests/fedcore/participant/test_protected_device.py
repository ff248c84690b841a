"""Vectors rounded and masked on a device: the words of the CPU, bit for bit, also where the device fails half-way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from crypto.kernels.chacha import Streams
from fedcore.errors import DataError
from fedcore.learning.kernels import dispatch
from fedcore.learning.kernels.masking import masked
from fedcore.participant import protected_device
from fedcore.participant.protected import Form, Prepared, prepared
from fedcore.participant.protected_device import DeviceMasks, DeviceRounding, fits, masking_device

CPU = torch.device("cpu")
KEYS, MINUS = [bytes([i] * 44) for i in range(3)], np.array([False, True, False])
SEED = bytes(range(44))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of a test are worth the way, and several pieces long."""
    monkeypatch.setattr(protected_device, "LEAST", 1)
    monkeypatch.setattr(protected_device, "PIECE", 256)


def made(bits: int = 32, *, values: Any = None, dtype: str = "float32", checks: int = 8) -> Prepared:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"w": (31, 20), "b": (7,), "bn.running_var": (5,), "empty": (0,)}
    after = {name: (rng.normal(size=shape) * 3).astype(dtype) for name, shape in shapes.items()}
    before = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    if values is not None:
        after["w"].flat[3] = values
    form = Form(2.0, 10, 1000, bits, metrics=("loss",), checks=checks)
    return prepared(after, before, {"loss": 0.5, "num-examples": 77}, form)


def on_the_cpu(vector: Prepared) -> Any:
    vector.round("chacha20", SEED)
    Streams(KEYS).add(vector.vector, MINUS)
    return vector.vector


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("checks", [0, 1, 8, 13])
def test_words_are_those_of_the_cpu(bits: int, checks: int) -> None:
    expected, vector = on_the_cpu(made(bits, checks=checks)), made(bits, checks=checks)
    DeviceRounding(CPU, vector, SEED)(KEYS, MINUS, vector.vector)
    assert np.array_equal(vector.vector, expected)


def test_a_vector_of_whole_words_is_masked_as_on_the_cpu() -> None:
    for dtype in (np.uint32, np.uint64):
        vector = np.arange(1001, dtype=dtype)
        expected = vector.copy()
        Streams(KEYS).add(expected, MINUS)
        DeviceMasks(CPU)(KEYS, MINUS, vector)
        assert np.array_equal(vector, expected)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_the_cpu_makes_the_same_words_where_the_device_fails(
    after: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    works, calls = masked, []

    def lost(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return works(*arguments, **options)

    monkeypatch.setattr(protected_device, "masked", lost)
    expected, vector = on_the_cpu(made()), made()
    DeviceRounding(CPU, vector, SEED)(KEYS, MINUS, vector.vector)
    assert np.array_equal(vector.vector, expected)
    assert len(calls) == after + 1 and "masks are made on the CPU" in caplog.text


def test_the_cpu_takes_masks_away_where_the_device_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert")

    monkeypatch.setattr(protected_device, "unmasked", lost)
    vector = np.arange(1001, dtype=np.uint32)
    expected = vector.copy()
    Streams(KEYS).add(expected, MINUS)
    DeviceMasks(CPU)(KEYS, MINUS, vector)
    assert np.array_equal(vector, expected)


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_told_and_nothing_leaves(strange: float) -> None:
    vector = made(values=strange)
    with pytest.raises(DataError, match=r"NaN or infinite values \(1 of 635\)"):
        DeviceRounding(CPU, vector, SEED)(KEYS, MINUS, vector.vector)


def test_short_vectors_and_those_of_doubles_stay_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fits(made()) and not fits(made(dtype="float64"))
    monkeypatch.setattr(protected_device, "LEAST", 10_000)
    assert not fits(made())
    vector = np.arange(1001, dtype=np.uint32)
    expected = vector.copy()
    Streams(KEYS).add(expected, MINUS)
    monkeypatch.setattr(protected_device, "unmasked", None)
    DeviceMasks(CPU)(KEYS, MINUS, vector)
    assert np.array_equal(vector, expected)


def test_there_is_no_device_without_kernels_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDCORE_KERNELS", "auto")
    assert masking_device("cpu") is None
    assert masking_device("auto", allowed=False) is None
    monkeypatch.setattr(dispatch, "usable", lambda *_: True)
    assert masking_device("cpu") == CPU


def test_keys_and_values_show_in_no_repr() -> None:
    shown = repr(DeviceRounding(CPU, made(), SEED)) + repr(DeviceMasks(CPU))
    assert SEED.hex() not in shown and "seed" not in shown and "vector" not in shown
