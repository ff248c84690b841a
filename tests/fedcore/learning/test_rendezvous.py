"""Participants in threads that meet to be trained together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedcore.errors import DataError, JobError
from fedcore.learning import rendezvous
from fedcore.learning.members import Seat, Together
from fedcore.learning.models import mlp
from fedcore.learning.rendezvous import NEVER, Rendezvous, serves, trained_together
from fedcore.learning.task import Batch, Task
from fedcore.learning.training import load_arrays, take_arrays, train
from strategies.fedprox import FedProxClient
from strategies.scaffold import ScaffoldClient
from tests.fedcore.learning.test_cohort import RowWise, model_of, rows_of, seed_of, small
from tests.messages import local

WAIT = 20.0


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were trained at once, each time."""
    seen: list[int] = []
    real = rendezvous.train_cohort

    def noted(model: nn.Module, task: Task, state: Any, rows: Any, *rest: Any, **options: Any) -> Any:
        seen.append(len(rows))
        return real(model, task, state, rows, *rest, **options)

    monkeypatch.setattr(rendezvous, "train_cohort", noted)
    return seen


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rendezvous]:
    """For four, two of whom work at a time."""
    monkeypatch.setattr(rendezvous, "QUIET", WAIT)  # a busy machine must not split them
    made = Rendezvous(4, 2)
    yield made
    made.close(WAIT)


class Crowd:
    """Threads that each do something at a seat; what they got, or what was raised."""

    def __init__(self, meeting: Rendezvous, works: list[Callable[[Seat], Any]], last: bool = True) -> None:
        self.got: dict[int, Any] = {}
        self.unwanted: set[int] = set()
        self.threads = []
        for number, work in enumerate(works):
            meeting.entered()
            self.threads.append(threading.Thread(target=self._run, args=(meeting, number, work), daemon=True))
        if last:
            meeting.until(NEVER)
        for thread in self.threads:
            thread.start()

    def _run(self, meeting: Rendezvous, number: int, work: Callable[[Seat], Any]) -> None:
        with Seat(meeting, lambda: number not in self.unwanted) as seat:
            try:
                self.got[number] = work(seat)
            except Exception as error:  # noqa: BLE001 - looked at by the test
                self.got[number] = error

    def join(self) -> list[Any]:
        for thread in self.threads:
            thread.join(WAIT)
        return [self.got.get(number) for number in range(len(self.threads))]


def joining(task: Task, number: int, rows: Any, **changes: Any) -> Callable[[Seat], Any]:
    arguments = {
        "arrays": take_arrays(model_of(task)),
        "seed": seed_of(number),
        "local": local(epochs=2),
        **changes,
    }

    def work(seat: Seat) -> Any:
        return trained_together(task, rows, arguments.pop("local"), arguments.pop("arrays"), **arguments)

    return work


def alone(task: Task, number: int, rows: Any) -> tuple[dict[str, Any], Any]:
    model = model_of(task)
    done = train(model, task, rows, local(epochs=2), seed=seed_of(number))
    return take_arrays(model), done


def assert_alone(task: Task, number: int, rows: Any, got: Any) -> None:
    assert isinstance(got, Together), got
    arrays, done = alone(task, number, rows)
    for name, value in arrays.items():
        np.testing.assert_allclose(got.arrays[name], value, rtol=0, atol=1e-6)
    assert (got.done.steps, got.done.rows, got.done.epochs) == (done.steps, done.rows, done.epochs)
    assert got.done.loss == pytest.approx(done.loss, rel=1e-5)


def test_those_who_meet_get_what_each_gets_alone(meeting: Rendezvous, sizes: list[int]) -> None:
    task, rows = RowWise(small), rows_of((17, 8, 3, 40))
    got = Crowd(meeting, [joining(task, i, each) for i, each in enumerate(rows)]).join()
    for i, each in enumerate(rows):
        assert_alone(task, i, each, got[i])
    assert sizes == [4]


def test_who_fails_on_the_way_is_not_waited_for(meeting: Rendezvous, sizes: list[int]) -> None:
    task, rows = RowWise(small), rows_of((9, 9, 9))

    def fails(seat: Seat) -> None:
        raise DataError("no such file")

    got = Crowd(meeting, [fails, *(joining(task, i, each) for i, each in enumerate(rows))]).join()
    assert isinstance(got[0], DataError) and sizes == [3]
    for i, each in enumerate(rows):
        assert_alone(task, i, each, got[i + 1])


def test_who_hangs_costs_the_others_a_short_while(
    meeting: Rendezvous, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "QUIET", 0.2)
    release, task, rows = threading.Event(), RowWise(small), rows_of((9, 9))
    crowd = Crowd(
        meeting, [lambda seat: release.wait(WAIT), *(joining(task, i, each) for i, each in enumerate(rows))]
    )
    for thread in crowd.threads[1:]:
        thread.join(WAIT)
    assert 0 not in crowd.got and sum(sizes) == 2
    assert_alone(task, 0, rows[0], crowd.got[1])
    release.set()
    crowd.join()


def test_another_model_no_rows_and_numbers_that_are_none_are_each_ones_own_trouble(
    meeting: Rendezvous, sizes: list[int]
) -> None:
    task, rows = RowWise(small), rows_of((9, 0, 9, 9))
    rows[3].x[:] = torch.nan
    other = take_arrays(mlp(4, 3, (7,)))
    works = [
        joining(task, 0, rows[0]),
        joining(task, 1, rows[1]),
        joining(task, 2, rows[2], arrays=other),
        joining(task, 3, rows[3]),
    ]
    got = Crowd(meeting, works).join()
    assert_alone(task, 0, rows[0], got[0])
    assert isinstance(got[1], DataError) and "no rows to train on" in str(got[1])
    assert isinstance(got[2], JobError) and "has shape" in str(got[2])
    assert isinstance(got[3], DataError) and "not finite" in str(got[3])
    assert sizes == [2] and meeting.refused is None


class Unsteady(RowWise):
    """A loss that asks for a number, which `vmap` cannot give."""

    def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return super().losses(outputs, y) * (1.0 if float(outputs.detach().sum()) < 1e9 else 2.0)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (RowWise(lambda: nn.Sequential(small(), nn.BatchNorm1d(3))), "normalises over the rows"),
        (Unsteady(small), "RuntimeError"),
    ],
)
def test_what_cannot_be_trained_together_is_trained_one_by_one_and_said_once(
    task: RowWise, why: str, meeting: Rendezvous, caplog: pytest.LogCaptureFixture
) -> None:
    rows = rows_of((9, 8, 16))
    with caplog.at_level(logging.WARNING, "fedcore.learning"):
        got = Crowd(meeting, [joining(task, i, each) for i, each in enumerate(rows)]).join()
        # Nobody waits any more.
        later = Crowd(meeting, [joining(task, i, each) for i, each in enumerate(rows)], last=False).join()
    for i, each in enumerate(rows):
        assert_alone(task, i, each, got[i])
    assert later == [None] * 3
    assert why in str(meeting.refused)
    assert len([each for each in caplog.messages if "one by one" in each]) == 1


class Wary(RowWise):
    """Raises for labels it does not know, with the label in its words."""

    def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nn.functional.embedding(y, torch.ones(3, 1))
        return super().losses(outputs, y)


def test_the_one_whose_rows_are_wrong_is_found_and_the_others_are_trained_together(
    meeting: Rendezvous, sizes: list[int]
) -> None:
    task, rows = Wary(small), rows_of((9, 9, 9, 9))
    rows[2].y[5] = 70
    got = Crowd(meeting, [joining(task, i, each) for i, each in enumerate(rows)]).join()
    for i in (0, 1, 3):
        assert_alone(task, i, rows[i], got[i])
    assert isinstance(got[2], IndexError)
    assert sizes == [4, 2, 2, 1, 1] and meeting.refused is None


class Says(RowWise):
    """A mistake that only shows together, told with what is in the rows."""

    def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if torch._C._functorch.is_batchedtensor(outputs):
            raise ValueError("patient 4711 has no label")
        return super().losses(outputs, y)


def test_words_that_may_quote_rows_are_not_logged(
    meeting: Rendezvous, caplog: pytest.LogCaptureFixture
) -> None:
    task, rows = Says(small), rows_of((9, 8))
    got = Crowd(meeting, [joining(task, i, each) for i, each in enumerate(rows)]).join()
    assert_alone(task, 0, rows[0], got[0])
    assert meeting.refused == "ValueError" and "4711" not in caplog.text


def test_a_trainer_that_comes_back_finds_its_successor_and_ends(
    meeting: Rendezvous, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, release, real, tasks = (
        threading.Event(),
        threading.Event(),
        rendezvous.train_cohort,
        RowWise(small),
    )

    def hangs(*given: Any, **options: Any) -> Any:
        monkeypatch.setattr(rendezvous, "train_cohort", real)
        began.set()
        assert release.wait(WAIT)
        return real(*given, **options)

    monkeypatch.setattr(rendezvous, "train_cohort", hangs)
    seats: list[Seat] = []
    rows = rows_of((9, 8))

    def joined(number: int) -> Callable[[Seat], Any]:
        def work(seat: Seat) -> Any:
            seats.append(seat)
            return joining(tasks, number, rows[number])(seat)

        return work

    first = Crowd(meeting, [joined(0), joined(1)])
    assert began.wait(WAIT)
    hung = meeting._trainer
    seats[0].leave()
    assert meeting._trainer is hung  # somebody waits for it still
    seats[1].leave()
    assert all(isinstance(each, JobError) for each in first.join())  # the threads do not hang with it
    got = Crowd(meeting, [joining(tasks, i, each) for i, each in enumerate(rows)]).join()
    for i, each in enumerate(rows):
        assert_alone(tasks, i, each, got[i])
    release.set()
    assert hung is not None
    hung.join(WAIT)
    assert not hung.is_alive() and meeting._trainer is not hung


class Mean(Task):
    """A loss of the batch alone."""

    def model(self) -> nn.Module:
        return small()

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch.x), batch.y)

    def metrics(self, model: nn.Module, batches: Any) -> dict[str, float]:
        return {}


def test_without_losses_of_rows_those_with_as_many_rows_are_trained_together(
    meeting: Rendezvous, sizes: list[int]
) -> None:
    task, rows = Mean(), rows_of((9, 11, 9, 11))
    got = Crowd(meeting, [joining(task, i, each) for i, each in enumerate(rows)]).join()
    for i, each in enumerate(rows):
        assert_alone(task, i, each, got[i])
    assert sizes == [2, 2]


def test_where_memory_runs_out_fewer_are_trained_at_once(
    meeting: Rendezvous, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    real = rendezvous.train_cohort

    def small_device(model: nn.Module, task: Task, state: Any, rows: Any, *rest: Any, **options: Any) -> Any:
        tried.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, task, state, rows, *rest, **options)

    monkeypatch.setattr(rendezvous, "train_cohort", small_device)
    task, rows = RowWise(small), rows_of((9, 17, 8, 3))
    for _ in range(2):
        got = Crowd(meeting, [joining(task, i, each) for i, each in enumerate(rows)]).join()
        for i, each in enumerate(rows):
            assert_alone(task, i, each, got[i])
    assert tried == [4, 2, 2, 2, 2] and meeting.refused is None


def test_a_reply_that_nobody_waits_for_is_not_trained(meeting: Rendezvous, sizes: list[int]) -> None:
    task, rows = RowWise(small), rows_of((9, 9))
    crowd = Crowd(meeting, [joining(task, i, each) for i, each in enumerate(rows)], last=False)
    crowd.unwanted.add(1)
    meeting.until(NEVER)
    got = crowd.join()
    assert sizes == [1] and isinstance(got[1], JobError)
    assert_alone(task, 0, rows[0], got[0])


def test_the_end_of_a_run_sends_those_who_wait_away(meeting: Rendezvous, sizes: list[int]) -> None:
    task, rows = RowWise(small), rows_of((9,))
    entered = threading.Event()

    def late(seat: Seat) -> Any:
        entered.set()
        return joining(task, 0, rows[0])(seat)

    crowd = Crowd(meeting, [late], last=False)
    assert entered.wait(WAIT)
    meeting.close(WAIT)
    (got,) = crowd.join()
    assert isinstance(got, JobError) and sizes == []


def test_only_so_many_work_at_a_time_and_who_waits_hands_its_turn_on(meeting: Rendezvous) -> None:
    task, rows = RowWise(small), rows_of((9, 9, 9, 9))
    lock, at_work, most = threading.Lock(), [0], [0]

    def counted(number: int) -> Callable[[Seat], Any]:
        def work(seat: Seat) -> Any:
            with lock:
                at_work[0] += 1
                most[0] = max(most[0], at_work[0])
            threading.Event().wait(0.02)
            with lock:
                at_work[0] -= 1
            return joining(task, number, rows[number])(seat)

        return work

    got = Crowd(meeting, [counted(i) for i in range(4)]).join()
    assert most[0] <= 2
    assert all(isinstance(each, Together) for each in got)


def test_fedprox_is_served_and_other_client_halves_train_alone(meeting: Rendezvous, sizes: list[int]) -> None:
    task, rows = RowWise(small), rows_of((9, 17, 9))
    config = {"proximal-mu": 0.5}
    works = [
        joining(task, i, each, half=FedProxClient({}, {}, {}), config=config)
        for i, each in enumerate(rows[:2])
    ]
    scaffold = joining(task, 2, rows[2], half=ScaffoldClient({}, {}, {}))
    got = Crowd(meeting, [*works, scaffold]).join()
    for i, each in enumerate(rows[:2]):
        model = model_of(task)
        train(
            model,
            task,
            each,
            local(epochs=2),
            seed=seed_of(i),
            half=FedProxClient({}, {}, {}),
            config=config,
        )
        for name, value in take_arrays(model).items():
            np.testing.assert_allclose(got[i].arrays[name], value, rtol=0, atol=1e-6)
    assert got[2] is None and sizes == [2]
    assert serves(None) and serves(FedProxClient) and not serves(ScaffoldClient)


def test_a_thread_without_a_seat_trains_by_itself() -> None:
    task = RowWise(small)
    model = model_of(task)
    load_arrays(model, take_arrays(model))
    assert trained_together(task, rows_of((3,))[0], local(), take_arrays(model), seed=seed_of(0)) is None
