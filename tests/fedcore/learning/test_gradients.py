"""Gradients of a batch in pieces against those of the whole, and what cannot be taken in pieces."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fedcore.errors import DataError
from fedcore.learning.gradients import Gradients, all_finite
from fedcore.learning.models import mlp
from fedcore.learning.task import Batch, Task

CPU = torch.device("cpu")


class Regression(Task):
    def model(self) -> nn.Module:
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return functional.mse_loss(model(batch.x).squeeze(1), batch.y)

    def metrics(self, model: nn.Module, batches: Any) -> dict[str, float]:
        return {}


class Unlabelled(Regression):
    """Its rows have no target."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        assert len(batch.y) == 0
        return model(batch.x).square().mean()


class _Full(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, room: int) -> torch.Tensor:
        ctx.room = room
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor, None]:
        if len(above[0]) > ctx.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return above[0], None


class Room(nn.Module):
    """A device that holds so many rows at once: more are too many in the forward or only in the backward pass."""

    def __init__(self, inner: nn.Module, room: int, backward: bool = False) -> None:
        super().__init__()
        self.below, self.inner, self.room, self.backward = nn.Linear(3, 3), inner, room, backward
        self.tried: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.tried.append(len(x))
        if not self.backward and len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        # The gradients of what is above are there when the one in the middle fails.
        return self.inner(_Full.apply(self.below(x), self.room))


def gradients_of(model: nn.Module, task: Task | None = None) -> Gradients:
    return Gradients(model, task or Regression(), [p for p in model.parameters() if p.requires_grad], CPU)


def a_batch(rows: int) -> Batch:
    source = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 3, generator=source)
    return Batch(x, x.sum(1))


@given(rows=st.integers(1, 33), room=st.integers(1, 40), backward=st.booleans())
def test_gradients_in_pieces_are_those_of_the_whole_batch(rows: int, room: int, backward: bool) -> None:
    torch.manual_seed(0)
    small = Room(mlp(3, 1, (5,)), room, backward)
    whole = copy.deepcopy(small)
    whole.room = 1000
    batch = a_batch(rows)

    found, expected = gradients_of(small)(batch), gradients_of(whole)(batch)

    assert whole.tried == [rows] and max(small.tried[-1:]) <= room
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(small.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)
    assert not found.requires_grad


def test_rows_without_a_target_are_taken_in_pieces_too() -> None:
    torch.manual_seed(0)
    small = Room(mlp(3, 1), 2)
    whole = copy.deepcopy(small)
    whole.room = 1000
    batch = Batch(a_batch(7).x, torch.empty(0))
    found, expected = gradients_of(small, Unlabelled())(batch), gradients_of(whole, Unlabelled())(batch)
    torch.testing.assert_close(found, expected)


def test_the_size_that_fits_is_kept_for_the_model_from_round_to_round() -> None:
    model = Room(mlp(3, 1), 3)
    gradients_of(model)(a_batch(8))
    assert model.tried == [8, 4, 2, 2, 2, 2]
    model.tried.clear()
    gradients_of(model)(a_batch(5))
    assert model.tried == [2, 2, 1]
    other = Room(mlp(3, 1), 3)
    gradients_of(other)(a_batch(3))
    assert other.tried == [3], "of another model nothing is known"


def test_a_frozen_layer_gets_no_gradient_in_pieces() -> None:
    model = Room(mlp(3, 1), 2)
    model.below.weight.requires_grad_(False)
    gradients_of(model)(a_batch(5))
    assert model.below.weight.grad is None and model.below.bias.grad is not None


def test_a_batch_under_batch_normalisation_is_not_taken_in_pieces_but_refused_with_the_cure() -> None:
    model = Room(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)), 4)
    with pytest.raises(
        DataError, match=r"batch of 6 rows.*needs it whole; lower local.batch_size or .* group norm"
    ):
        gradients_of(model)(a_batch(6))
    gradients_of(model)(a_batch(4))


def test_one_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="one row does not fit into the memory of the device"):
        gradients_of(Room(mlp(3, 1), 0))(a_batch(3))


def test_another_error_of_the_model_is_passed_on() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        gradients_of(mlp(4, 1))(a_batch(3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_seen_among_many(bad: float) -> None:
    tensors = [torch.zeros(3, 4), torch.empty(0), torch.tensor(1e30), torch.zeros(2, dtype=torch.bfloat16)]
    assert all_finite(tensors) and all_finite([])
    tensors[3][1] = bad
    assert not all_finite(tensors) and not all_finite(tensors, order=2)
