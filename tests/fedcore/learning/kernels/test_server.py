"""The server's mean and steps against the strategies' own numbers in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import JobError
from fedcore.learning.kernels import server, triton_server
from strategies.registry import build
from tests.strategies.toy_messages import one_round

KINDS = ("adam", "yogi", "adagrad")
NUMBERS = {"beta1": 0.8, "beta2": 0.9}


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mean(updates: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return weights.double() / weights.double().sum() @ updates.double()


@settings(max_examples=6)
@given(
    m=st.integers(1, 5),
    p=st.sampled_from([1, 7, 1023, 1025]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_the_mean_is_weighted_by_rows(m: int, p: int, dtype: torch.dtype) -> None:
    updates, weights = random(m, p).to(dtype), torch.arange(1, m + 1)
    found = server.fedavg(updates, weights)

    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), mean(updates, weights), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["interpret", "torch"])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_the_strategy(kind: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDCORE_KERNELS", way)
    rows, size = (10, 30, 5), 7
    parameters = {"server_lr": 0.3, "tau": 0.01} | (NUMBERS if kind != "adagrad" else {})
    strategy = build(f"fed{kind}", parameters)
    start = random(size)
    theirs, model, first, second = start.double().numpy(), start.clone(), torch.zeros(size), torch.zeros(size)
    for number in range(1, 5):
        updates = random(3, size, seed=10 + number) / number
        replies = [
            (many, {"w": theirs + update.double().numpy()}, 1.0)
            for many, update in zip(rows, updates, strict=True)
        ]
        told = one_round(strategy, {"w": theirs}, replies, number)
        assert told is not None
        theirs = told["w"]
        server.fedadam(
            updates, torch.tensor(rows), model, first, second, server_round=number, learning_rate=0.3, tau=0.01,
            kind=kind, **NUMBERS,
        )  # fmt: skip

        np.testing.assert_allclose(model.numpy(), theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_float64_takes_the_same_step_to_its_own_precision(kind: Any) -> None:
    updates, weights = random(3, 50), torch.rand(3)
    narrow = [random(50), random(50, seed=2), random(50, seed=3).abs()]
    wide = [each.double() for each in narrow]
    server.fedadam(updates, weights, *narrow, server_round=3, kind=kind)
    server.fedadam(updates.double(), weights.double(), *wide, server_round=3, kind=kind)

    for one, other in zip(narrow, wide, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)


def test_a_mean_of_zeros_moves_nothing_and_divides_by_no_zero() -> None:
    model, first, second = random(9), torch.zeros(9), torch.zeros(9)
    before = model.clone()
    for kind in KINDS:
        server.fedadam(torch.zeros(2, 9), torch.ones(2), model, first, second, server_round=1, kind=kind)

    assert torch.equal(model, before) and not first.any() and not second.any()


def test_rows_apart_are_taken_and_entries_apart_go_to_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    updates, weights = random(4, 30), torch.ones(2)
    torch.testing.assert_close(server.fedavg(updates[::2], weights), updates[::2].mean(0))

    monkeypatch.setattr(triton_server, "mean", lambda *_: pytest.fail("the kernel was taken"))
    torch.testing.assert_close(server.fedavg(updates[::2, ::3], weights), updates[::2, ::3].mean(0))
    assert server.fedavg(torch.zeros(2, 0), weights).shape == (0,)


@pytest.mark.parametrize(
    "weights", [[0.0, 0.0], [1.0, -1.0], [float("nan"), 1.0], [float("inf"), 1.0], [1.0]]
)
def test_weights_without_a_mean_are_refused(weights: list[float]) -> None:
    with pytest.raises(JobError, match="allowed"):
        server.fedavg(torch.ones(2, 3), torch.tensor(weights))


def test_no_updates_are_refused() -> None:
    with pytest.raises(JobError, match="m of 1 or more"):
        server.fedavg(torch.ones(0, 3), torch.ones(0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"server_round": 0},
        {"learning_rate": 0.0},
        {"tau": 0.0},
        {"beta1": 1.0},
        {"beta2": -0.1},
        {"kind": "sgd"},
    ],
)
def test_numbers_out_of_range_are_refused_and_nothing_moves(wrong: dict[str, Any]) -> None:
    states = [torch.zeros(3) for _ in range(3)]
    with pytest.raises(JobError, match="allowed"):
        server.fedadam(torch.ones(2, 3), torch.ones(2), *states, **({"server_round": 1} | wrong))
    assert not any(bool(state.any()) for state in states)


def test_states_that_do_not_go_with_the_updates_are_refused() -> None:
    for state in (torch.zeros(4), torch.zeros(3).double(), torch.zeros(6)[::2]):
        with pytest.raises(JobError, match="contiguous"):
            server.fedadam(
                torch.ones(2, 3), torch.ones(2), torch.zeros(3), state, torch.zeros(3), server_round=1
            )


def test_the_floor_counts_each_number_once() -> None:
    assert server.floor(5, 100) == (2400, 1000)
    assert server.floor(5, 100, step=True, size=2) == (1000 + 2400, 1000 + 1300)
