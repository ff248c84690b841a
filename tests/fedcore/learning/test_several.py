"""A batch shared among devices gives the step of the whole batch; replicas on the CPU stand for GPUs."""

from __future__ import annotations

import contextlib
import copy
import threading
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedcore.errors import DataError, JobError
from fedcore.learning import training
from fedcore.learning.examples import Examples
from fedcore.learning.gradients import Gradients
from fedcore.learning.several import SharedGradients, devices_for, release_replicas, replicas
from fedcore.learning.task import Batch
from fedcore.learning.training import train
from strategies.base import ClientHalf
from tests.fedcore.learning.test_training import (
    SEED,
    BadGradients,
    Classes,
    fresh,
    normed,
    poisoned,
    rows_of,
    same,
)
from tests.messages import local

CPU = torch.device("cpu")


def gradients_of(model: nn.Module, task: Any) -> Gradients:
    return Gradients(model, task, [p for p in model.parameters() if p.requires_grad], CPU)


def shared(model: nn.Module, task: Any, others: int) -> SharedGradients:
    return SharedGradients(
        gradients_of(model, task), (CPU,) * others, lambda replica, device: gradients_of(replica, task), 1
    )


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three devices wherever a job asks for several."""
    monkeypatch.setattr(
        training, "devices_for", lambda first, count: (first,) if count == 1 else (first,) * 3
    )


def close(a: nn.Module, b: nn.Module) -> None:
    for ours, theirs in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@given(rows=st.integers(1, 20), others=st.integers(1, 4))
def test_shared_gradients_are_those_of_the_whole_batch_also_with_fewer_rows_than_devices(
    rows, others
) -> None:
    task, model = Classes(), fresh()
    plain, batch = copy.deepcopy(model), next(rows_of(rows).batches(rows))
    with shared(model, task, others) as gradients:
        found = gradients(batch)
    expected = gradients_of(plain, task)(batch)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"optimizer": "adam", "lr": 0.01, "patience": 1}])
def test_a_round_on_three_devices_is_that_on_one(three, settings) -> None:
    model, plain = fresh(), fresh()
    held_out = rows_of(20, 5)
    done = train(
        model, Classes(), rows_of(), local(devices=3, epochs=3, **settings), seed=SEED, validation=held_out
    )
    expected = train(plain, Classes(), rows_of(), local(epochs=3, **settings), seed=SEED, validation=held_out)
    assert (done.steps, done.epochs, done.rows) == (expected.steps, expected.epochs, expected.rows)
    assert done.loss == pytest.approx(expected.loss, rel=1e-5)
    close(model, plain)


def test_the_client_half_acts_once_on_the_gradient_of_the_whole_batch(three) -> None:
    class Half(ClientHalf):
        def begin(self, model: nn.Module, config: Any) -> None:
            self.seen: list[torch.Tensor] = []

        def adjust_gradients(self, model: nn.Module) -> None:
            self.seen += [p.grad.clone() for p in model.parameters()]
            for p in model.parameters():
                p.grad.mul_(0.5)

    halves, models = [Half({}, {}, {}), Half({}, {}, {})], [fresh(), fresh()]
    for half, model, devices in zip(halves, models, (3, 1), strict=True):
        train(model, Classes(), rows_of(), local(devices=devices), seed=SEED, half=half)
    close(*models)
    assert halves[0].steps == halves[1].steps == 5
    for ours, theirs in zip(halves[0].seen, halves[1].seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_a_frozen_layer_stays_and_its_replicas_follow_the_weights_that_are_sent(three) -> None:
    model, plain = fresh(), fresh()
    for each in (model, plain):
        each[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    train(model, Classes(), rows_of(), local(devices=3, weight_decay=0.1), seed=SEED)
    train(plain, Classes(), rows_of(), local(weight_decay=0.1), seed=SEED)
    assert torch.equal(model[0].weight, before)
    close(model, plain)


def test_augmentation_is_drawn_for_the_whole_batch_before_it_is_shared(three) -> None:
    class Jittered(Classes):
        def augmented(self, batch: Batch, source: torch.Generator) -> Batch:
            return Batch(batch.x + torch.randn(batch.x.shape, generator=source), batch.y)

    model, plain = fresh(), fresh()
    train(model, Jittered(), rows_of(), local(devices=3), seed=SEED)
    train(plain, Jittered(), rows_of(), local(), seed=SEED)
    close(model, plain)


def test_a_gradient_that_is_not_finite_on_one_device_skips_the_step_on_all(three) -> None:
    model, plain = fresh(), fresh()
    done = train(model, BadGradients(), poisoned(value=7.0), local(devices=3), seed=SEED)
    train(plain, BadGradients(), poisoned(value=7.0), local(), seed=SEED)
    assert (done.steps, done.skipped) == (4, 1)
    close(model, plain)


def test_the_gradient_scaler_of_float16_works_over_all_devices(three, monkeypatch) -> None:
    monkeypatch.setattr(training, "autocast_of", lambda local, device: (contextlib.nullcontext, True))
    model, plain = fresh(), fresh()
    done = train(model, Classes(), rows_of(), local(devices=3, precision="float16"), seed=SEED)
    train(plain, Classes(), rows_of(), local(precision="float16"), seed=SEED)
    assert done.skipped == 0
    close(model, plain)


def test_a_device_without_room_for_its_share_takes_it_in_pieces(three) -> None:
    class Small(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if threading.current_thread() is not threading.main_thread() and len(x) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    release_replicas()
    model, plain = fresh(lambda: Small(4, 2)), fresh(lambda: nn.Linear(4, 2))
    train(model, Classes(lambda: Small(4, 2)), rows_of(), local(devices=3), seed=SEED)
    train(plain, Classes(), rows_of(), local(), seed=SEED)
    close(model, plain)


@pytest.mark.parametrize("on_main", [True, False])
def test_an_error_on_one_device_ends_the_step_once_the_others_are_done_and_leaves_no_thread(
    three, on_main
) -> None:
    class Fails(Classes):
        def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            if (threading.current_thread() is threading.main_thread()) is on_main:
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            return super().loss(model, batch)

    before = threading.active_count()
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        train(fresh(), Fails(), rows_of(), local(devices=3), seed=SEED)
    assert threading.active_count() == before


def test_dropout_draws_other_numbers_on_each_device_and_the_same_in_each_repetition(three) -> None:
    def dropping() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 2))

    class Sees(Classes):
        def __init__(self) -> None:
            super().__init__(dropping)
            self.kept: list[list[bool]] = []

        def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            self.kept.append((model[1](torch.ones(1, 64)) > 0).flatten().tolist())
            return super().loss(model, batch)

    rows = rows_of(6)
    models, tasks = [fresh(dropping) for _ in range(2)], [Sees(), Sees()]
    for model, task in zip(models, tasks, strict=True):
        train(model, task, rows, local(devices=3), seed=SEED)
    assert same(*models)
    assert sorted(tasks[0].kept) == sorted(tasks[1].kept)
    assert len({tuple(kept) for kept in tasks[0].kept}) == 3


def test_batch_normalisation_is_refused_with_the_cure(three) -> None:
    with pytest.raises(
        JobError, match=r"local.devices is 3 and the model has batch normalisation.*devices: 1 or .*group"
    ):
        train(fresh(normed), Classes(normed), rows_of(), local(devices=3), seed=SEED)


def test_rows_of_no_target_are_shared() -> None:
    class Mean(Classes):
        def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            return model(batch.x).square().mean()

    rows = Examples(rows_of(5).x, torch.empty(0))
    model, plain = fresh(), fresh()
    (batch,) = rows.batches(5)
    with shared(model, Mean(), 2) as gradients:
        found = gradients(batch)
    torch.testing.assert_close(found, gradients_of(plain, Mean())(batch))


def test_a_thread_keeps_its_replicas_from_round_to_round() -> None:
    task = Classes()
    first = replicas(task, (CPU, CPU))
    assert replicas(task, (CPU, CPU)) is first and len(first) == 2
    assert replicas(Classes(), (CPU, CPU)) is not first
    release_replicas()
    assert replicas(task, (CPU, CPU)) is not first


def test_replicas_are_not_kept_for_a_task_that_only_compares_equal() -> None:
    class Equal(Classes):
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 0

    first = replicas(Equal(), (CPU, CPU))
    assert replicas(Equal(), (CPU, CPU)) is not first
    release_replicas()


def test_devices_are_those_from_the_first_on_and_never_more_than_there_are(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert devices_for(CPU, 4) == (CPU,)
    assert devices_for(torch.device("cuda:1"), 1) == (torch.device("cuda:1"),)
    assert devices_for(torch.device("cuda"), 2) == (torch.device("cuda"), torch.device("cuda:1"))
    assert [d.index for d in devices_for(torch.device("cuda:2"), 3)] == [2, 0, 1]
    with pytest.raises(
        JobError, match=r"local.devices is 4 but the site has 3 CUDA devices; use devices: 3 or fewer"
    ):
        devices_for(torch.device("cuda"), 4)


def test_one_row_that_does_not_fit_on_another_device_is_refused(three) -> None:
    class Full(Classes):
        def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            if threading.current_thread() is not threading.main_thread():
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().loss(model, batch)

    with pytest.raises(DataError, match="one row does not fit"):
        train(fresh(), Full(), rows_of(), local(devices=3), seed=SEED)
