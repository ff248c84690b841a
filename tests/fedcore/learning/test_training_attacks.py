"""Local training where somebody, or chance, does the worst: what should hold and does not yet."""

from __future__ import annotations

import contextlib
import gc
import math
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torch.nn import functional

from fedcore.engines.embedded import EmbeddedGrid, Node
from fedcore.errors import JobError
from fedcore.learning import compiled, gradients, rendezvous
from fedcore.learning.device import device_lost
from fedcore.learning.gradients import Gradients
from fedcore.learning.kernels import accumulate, dispatch, norms
from fedcore.learning.members import Member, Seat, Together
from fedcore.learning.memory import out_of_memory
from fedcore.learning.private.clipping import ClippedSums
from fedcore.learning.rendezvous import NEVER, Rendezvous, trained_together
from fedcore.learning.task import Batch, Schema, Task
from fedcore.learning.training import release_resident, resident_model, take_arrays, train
from tests.fedcore.learning.test_cohort import RowWise, both, model_of, rows_of, seed_of, small
from tests.messages import local

CPU = torch.device("cpu")
WAIT = 1.0


# ---- clips that are too weak -------------------------------------------------------------------------------------


ALMOST = [(0.06 * step + 0.023, apart) for step in range(1, 20) for apart in (1e-3, 3e-3, 5e-3)]
"""Inputs, and how much those of the second position are larger: roundings differ from machine to machine."""


def cancelling(k: int, o: int, value: float, apart: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and output gradients of two positions that all but cancel each other."""
    inputs, outputs = torch.full((1, 2, k), value), torch.full((1, 2, o), 0.37)
    inputs[0, 1] *= 1 + apart
    outputs[0, 1] *= -1
    return inputs, outputs


def exact(inputs: torch.Tensor, outputs: torch.Tensor) -> float:
    return float((outputs.double().mT @ inputs.double()).norm())


@pytest.mark.parametrize(("k", "o"), [(4608, 512), (16384, 64)])
def test_a_norm_is_not_too_small_where_positions_cancel(k: int, o: int) -> None:
    for value, apart in ALMOST:
        inputs, outputs = cancelling(k, o, value, apart)
        found = math.sqrt(float(norms.squared_norms_plain(inputs, outputs)[0]))
        assert found >= exact(inputs, outputs) * (1 - 1e-5)


def test_a_row_adds_no_more_than_the_clip_where_its_positions_cancel() -> None:
    # The gradient of the loss by the model's output is what the row says.
    sums = ClippedSums(nn.Linear(16384, 64), lambda made, y: (made * y).sum((1, 2)), 1.0)
    assert sums.route == "parts"
    for value, apart in ALMOST:
        found = sums(*cancelling(16384, 64, value, apart))
        assert math.sqrt(sum(float(each.double().square().sum()) for each in found)) <= 1 + 1e-3


def test_a_norm_is_not_too_small_where_half_of_many_positions_cancel_the_other() -> None:
    for value, apart in ((0.1, 1e-5), (0.363, 1e-5), (0.863, 1e-5), (1.163, 1e-5), (1.163, 3e-5)):
        inputs, outputs = torch.full((1, 12544, 64), value), torch.full((1, 12544, 64), 0.37)
        outputs[0, 6272:] *= -(1 + apart)
        found = math.sqrt(float(norms.squared_norms_plain(inputs, outputs)[0]))
        assert found >= exact(inputs, outputs) * (1 - 1e-5)


def test_a_norm_is_not_zero_where_only_its_factors_are_small() -> None:
    inputs, outputs = torch.full((1, 256, 1024), 6e-25), torch.full((1, 256, 1024), 3e17)
    assert exact(inputs, outputs) > 0.04
    assert math.sqrt(float(norms.squared_norms_plain(inputs, outputs)[0])) > 0.04


# ---- kernels and devices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "/home/site/.triton"),
        OSError(30, "Read-only file system", "/home/site/.triton"),
        AssertionError("libcuda.so cannot found!"),
        RuntimeError("Could not create or locate cache dir"),
    ],
)
def test_plain_torch_serves_where_triton_has_no_place_to_compile(error: Exception) -> None:
    def kernel() -> str:
        raise error

    dispatch.forget()
    try:
        assert dispatch.guarded("a kernel of this test", kernel, lambda: "plain") == "plain"
    finally:
        dispatch.forget()


def test_a_device_that_a_kernel_of_triton_lost_is_known_to_be_lost() -> None:
    assert device_lost(RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"))


def test_memory_that_a_kernel_of_triton_lacked_is_known_to_be_full() -> None:
    assert out_of_memory(RuntimeError("Triton Error [CUDA]: out of memory"))


def test_a_row_that_weighs_nothing_may_hold_what_is_no_number() -> None:
    inputs, outputs = torch.ones(2, 3, 4), torch.ones(2, 3, 5)
    inputs[1] = math.nan
    assert accumulate.weighted_sum_plain(inputs, outputs, torch.tensor([1.0, 0.0])).isfinite().all()


def test_an_empty_variable_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDCORE_KERNELS", "")
    assert not dispatch.usable(torch.ones(1))


# ---- participants that meet --------------------------------------------------------------------------------------


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rendezvous]:
    monkeypatch.setattr(rendezvous, "QUIET", 0.1)
    made = Rendezvous(2, 2)
    yield made
    made.close(0.1)


class Crowd:
    """Threads with a seat each; what they got."""

    def __init__(self, meeting: Rendezvous, members: list[tuple[Task, int]]) -> None:
        self.got: dict[int, Any] = {}
        self.seats: list[Seat] = []
        self.left: set[int] = set()
        self.threads = []
        rows = rows_of((9,) * len(members))
        for place, (task, number) in enumerate(members):
            meeting.entered()
            seat = Seat(meeting, partial(self._wanted, place))
            self.seats.append(seat)
            work = (seat, place, task, number, rows[place])
            self.threads.append(threading.Thread(target=self._run, args=work, daemon=True))
        meeting.until(NEVER)
        for thread in self.threads:
            thread.start()

    def _run(self, seat: Seat, place: int, task: Task, number: int, rows: Any) -> None:
        with seat, contextlib.suppress(Exception):
            arrays = take_arrays(model_of(task))
            self.got[place] = trained_together(task, rows, local(epochs=1), arrays, seed=seed_of(number))

    def _wanted(self, place: int) -> bool:
        return place not in self.left

    def leave(self) -> None:
        """Nobody waits for them any more."""
        for place, seat in enumerate(self.seats):
            self.left.add(place)
            seat.leave()

    def join(self) -> list[Any]:
        for thread in self.threads:
            thread.join(WAIT)
        return [self.got.get(place) for place in range(len(self.threads))]


class Held(RowWise):
    """A task whose loss hangs."""

    def __init__(self, make: Any) -> None:
        super().__init__(make)
        self.began, self.release = threading.Event(), threading.Event()

    def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.began.set()
        self.release.wait(30)
        return super().losses(outputs, y)


def test_a_cohort_that_hangs_does_not_keep_the_next_one_waiting(meeting: Rendezvous) -> None:
    task = Held(small)
    try:
        first = Crowd(meeting, [(task, 0), (task, 1)])
        assert task.began.wait(WAIT)
        first.leave()
        fine = RowWise(small)
        assert all(isinstance(each, Together) for each in Crowd(meeting, [(fine, 2), (fine, 3)]).join())
    finally:
        task.release.set()


class Exits(RowWise):
    """A task that ends its thread."""

    def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise SystemExit(1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_task_that_exits_does_not_end_training_for_all(meeting: Rendezvous) -> None:
    exits, fine = Exits(small), RowWise(small)
    Crowd(meeting, [(exits, 0), (exits, 1)]).join()
    assert all(isinstance(each, Together) for each in Crowd(meeting, [(fine, 2), (fine, 3)]).join())


def test_nobody_is_left_waiting_where_one_kind_fails(
    meeting: Rendezvous, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(members: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(meeting, "_train_alike", fails)
    members = [member_of(meeting, RowWise(small), i, rows) for i, rows in enumerate(rows_of((9, 9)))]
    with contextlib.suppress(torch.AcceleratorError):  # the thread that trains logs it
        meeting._train(members)
    assert [member.over.is_set() for member in members] == [True, True]


def member_of(meeting: Rendezvous, task: Task, number: int, rows: Any) -> Member:
    """Somebody who waits."""
    seat, arrays = Seat(meeting, lambda: True), take_arrays(model_of(task))
    return Member(seat, task, rows, local(), arrays, seed_of(number), None, {}, 0.0)


class Looks(RowWise):
    """A task that a single participant's rows break."""

    def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        functional.embedding(y.clamp(min=0), torch.ones(3, 1))
        return super().losses(outputs, y)


def test_the_fault_of_one_participant_does_not_turn_training_together_off() -> None:
    made = Rendezvous(2, 2)
    task, rows = Looks(small), rows_of((9, 9))
    rows[1].y[3] = 70
    members = [member_of(made, task, i, each) for i, each in enumerate(rows)]
    made._train(members)
    assert members[0].result is not None and isinstance(members[1].error, IndexError)
    assert made.refused is None


class Ridge(RowWise):
    """Says the losses of rows, and a loss with a penalty besides."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        penalty = sum(each.square().sum() for each in model.parameters())
        return self.losses(model(batch.x), batch.y).mean() + 0.1 * penalty

    def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(outputs, y, reduction="none")


def test_a_penalty_counts_where_participants_are_trained_together(caplog: pytest.LogCaptureFixture) -> None:
    # Rows that fill a batch up have a loss to leave out, a penalty has none: such a task is trained one by one, which is said.
    task, rows = Ridge(small), rows_of((17, 8))
    with pytest.raises(JobError, match="is not the mean of"):
        both(task, rows)
    made = Rendezvous(2, 2)
    for _ in range(2):
        members = [member_of(made, task, i, each) for i, each in enumerate(rows)]
        made._train(members)
    for i, each in enumerate(rows):
        model, result = model_of(task), members[i].result
        train(model, task, each, local(), seed=seed_of(i))
        assert result is not None
        for name, value in take_arrays(model).items():
            np.testing.assert_allclose(result.arrays[name], value, rtol=0, atol=1e-6)
    assert len([each for each in caplog.messages if "Ridge.loss" in each]) == 1


# ---- what is kept, what is done twice ----------------------------------------------------------------------------


def test_who_trains_alone_in_a_crowd_keeps_no_model_for_each_participant() -> None:
    task = RowWise(small)
    made: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def train(message: Message, context: Context) -> Message:
        made.add(resident_model(task, CPU))
        time.sleep(0.05)  # others of the crowd take what is left
        return Message(RecordDict(), reply_to=message)

    app = ClientApp()
    app.train()(train)
    grid = EmbeddedGrid(app, [Node({}, {}) for _ in range(8)], workers=1, together=8)
    try:
        grid.send_and_receive([Message(RecordDict(), node, "train") for node in grid.get_node_ids()])
        gc.collect()
        assert len(made) <= 2
    finally:
        grid.close()


@dataclass
class Options(Task):
    """A task whose author made a dataclass of it; the schema is no field."""

    width: int = 1

    def model(self) -> nn.Module:
        return nn.Linear(len(self.schema.features), self.width)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return torch.mean(model(batch.x))

    def metrics(self, model: nn.Module, batches: Any) -> dict[str, float]:
        return {}


def test_a_model_is_not_kept_for_a_task_that_only_looks_the_same() -> None:
    one, other = Options(), Options()
    one.schema, other.schema = Schema(("a",), (1,)), Schema(("a", "b"), (2,))
    release_resident()
    try:
        assert resident_model(one, CPU).weight.shape == (1, 1)
        assert resident_model(other, CPU).weight.shape == (1, 2)
    finally:
        release_resident()


def test_a_batch_counts_once_where_the_compiled_model_fails_behind_its_forward_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Fails(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.inner(x)
            raise RuntimeError("the compiler's code cannot be loaded")

    monkeypatch.setattr(compiled, "_failed", [])
    monkeypatch.setattr(gradients, "compiled", lambda model, device: Fails(model))
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    task = RowWise(lambda: model)
    made = Gradients(model, task, list(model.parameters()), CPU, compile_at=8)
    made(Batch(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64)))
    assert int(model.state_dict()["0.num_batches_tracked"]) == 1


def test_a_mistake_of_one_participants_rows_does_not_turn_compiling_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiled, "_failed", [])
    monkeypatch.setattr(gradients, "compiled", lambda model, device: model)
    model = nn.Linear(4, 3)
    made = Gradients(model, RowWise(lambda: model), list(model.parameters()), CPU, compile_at=8)
    with pytest.raises(IndexError):
        made(Batch(torch.randn(8, 4), torch.full((8,), 70)))
    assert compiled._failed == []
