"""Participants of the embedded engine trained as one batched model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from pydantic import ValidationError
from safetensors.numpy import load_file
from torch import nn

from fedcore.engines.embedded import EmbeddedGrid, Node
from fedcore.engines.local import _together
from fedcore.errors import DataError
from fedcore.jobs.federation import Federation
from fedcore.learning import rendezvous
from fedcore.learning.rendezvous import trained_together
from fedcore.learning.training import take_arrays
from fedcore.participant import work
from tests.fedcore.learning.test_cohort import RowWise, model_of, rows_of, seed_of, small
from tests.messages import a_job, local
from tests.sites import Study, blobs, write_federation, write_job

SITES = 5


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were trained at once, each time."""
    monkeypatch.setattr(rendezvous, "QUIET", 20.0)  # a busy machine must not split them
    seen: list[int] = []
    real = rendezvous.train_cohort

    def noted(model: Any, task: Any, state: Any, rows: Any, *rest: Any, **options: Any) -> Any:
        seen.append(len(rows))
        return real(model, task, state, rows, *rest, **options)

    monkeypatch.setattr(rendezvous, "train_cohort", noted)
    return seen


def models_of(study: Study, how: str = "", **job: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The models of a run one by one and of one together, sites of different sizes."""
    found = []
    for name, options in (("alone", ""), ("together", f"embedded: {{together: {SITES}, workers: 2{how}}}\n")):
        write_federation(study.folder, study.names, extra=options)
        write_job(study.folder, rounds=2, **job)
        run = study.run(folder=study.folder / name)
        found.append(load_file(run.folder / "model.safetensors"))
    return found[0], found[1]


@pytest.fixture
def study(tmp_path: Any) -> Study:
    return Study(tmp_path, SITES, lambda i: blobs(30 + 9 * i, i))


def assert_near(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "job",
    [
        {"local": "{lr: 0.05, batch_size: 8, epochs: 2, momentum: 0.9}"},
        {"strategy": "{use: fedprox, mu: 0.1}", "participants": "{min: 2, fraction: 0.8}"},
    ],
)
def test_a_run_together_gives_the_model_of_a_run_one_by_one(
    study: Study, sizes: list[int], job: dict[str, str]
) -> None:
    assert_near(*models_of(study, **job))
    assert sizes == ([4, 4] if "participants" in job else [5, 5])


def test_the_release_gate_stays_each_participants_own(study: Study, sizes: list[int]) -> None:
    alone, together = models_of(
        study, ", serialize: true", protection="{secure_aggregation: secagg+}", evaluation="{every: 2}"
    )
    for name, value in alone.items():
        # What is summed is rounded at random.
        np.testing.assert_allclose(together[name], value, rtol=0, atol=1e-3)
    assert sizes == [5, 5]


def test_a_participant_that_fails_does_not_take_the_others_down(
    study: Study, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = work.ready_site

    def fails(participant: Any, request: Any, device: Any) -> Any:
        if participant.name == "site-3":
            raise DataError("the disk is gone")
        return real(participant, request, device)

    monkeypatch.setattr(work, "ready_site", fails)
    assert_near(*models_of(study))
    assert sizes == [4, 4]


# ---- the grid --------------------------------------------------------------------------------------------------


def grid_of(task: RowWise, nodes: int, **options: Any) -> tuple[EmbeddedGrid, set[int], threading.Event]:
    """A grid whose participants train on rows of their own; the threads that did, and what lets number 1 go on."""
    app, threads, free = ClientApp(), set(), threading.Event()
    rows, arrays = rows_of([9 + i for i in range(nodes)]), take_arrays(model_of(task))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        threads.add(threading.get_ident())
        if number == 1 and not free.wait(20):
            raise RuntimeError("nobody let it go on")
        met = trained_together(task, rows[number], local(), arrays, seed=seed_of(number))
        steps = met.done.steps if met else -1
        return Message(RecordDict({"m": MetricRecord({"i": number, "steps": steps})}), reply_to=message)

    grid = EmbeddedGrid(app, [Node({"partition-id": i}, {}) for i in range(nodes)], **options)
    free.set()
    return grid, threads, free


def asks(grid: EmbeddedGrid) -> list[Message]:
    return [Message(RecordDict(), node, "train") for node in grid.get_node_ids()]


@pytest.fixture
def closing() -> Iterator[list[EmbeddedGrid]]:
    """Grids to close."""
    grids: list[EmbeddedGrid] = []
    yield grids
    for grid in grids:
        grid.close()


def test_a_cohort_larger_than_the_seats_is_trained_in_full_groups(
    sizes: list[int], closing: list[EmbeddedGrid]
) -> None:
    grid, _, _ = grid_of(RowWise(small), 10, workers=2, together=4)
    closing.append(grid)
    replies = list(grid.stream(asks(grid), 30))
    assert [reply.content["m"]["i"] for reply in replies] == list(range(10))
    assert sizes == [4, 4, 2]
    ids = grid.push_messages(asks(grid)[:3])
    got: list[Message] = []
    while len(got) < 3:
        got += grid.pull_messages(ids)
    assert sum(sizes) == 13


def test_one_that_hangs_costs_its_deadline_and_the_others_are_trained(
    closing: list[EmbeddedGrid], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "QUIET", 0.1)
    grid, _, free = grid_of(RowWise(small), 5, workers=2, together=5)
    closing.append(grid)
    free.clear()
    replies = list(grid.stream(asks(grid), 1.5))
    assert [reply.has_error() for reply in replies] == [False, True, False, False, False]
    free.set()
    assert not any(reply.has_error() for reply in grid.stream(asks(grid), 30))


class Hanging(RowWise):
    """Training hangs once."""

    def __init__(self, make: Any) -> None:
        super().__init__(make)
        self.hangs, self.free = True, threading.Event()

    def losses(self, outputs: Any, y: Any) -> Any:
        if self.hangs:
            self.hangs = False
            self.free.wait(30)
        return super().losses(outputs, y)


def test_training_that_hangs_costs_its_deadline_and_the_next_round_is_trained(
    closing: list[EmbeddedGrid], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "QUIET", 0.1)
    task = Hanging(small)
    grid, _, _ = grid_of(task, 4, workers=2, together=4)
    closing.append(grid)
    assert all(reply.has_error() for reply in grid.stream(asks(grid), 1.0))
    assert [reply.content["m"]["steps"] for reply in grid.stream(asks(grid), 30)] == [2, 2, 2, 2]
    task.free.set()


def test_once_it_is_known_that_they_cannot_be_the_few_workers_train_them(
    closing: list[EmbeddedGrid],
) -> None:
    task = RowWise(lambda: nn.Sequential(small(), nn.BatchNorm1d(3)))
    grid, threads, _ = grid_of(task, 6, workers=2, together=6)
    closing.append(grid)
    # The rendezvous trains them one by one itself when it finds out; a last batch of one row joins the one before.
    assert [reply.content["m"]["steps"] for reply in grid.stream(asks(grid), 30)] == [1, 2, 2, 2, 2, 2]
    threads.clear()
    assert {reply.content["m"]["steps"] for reply in grid.stream(asks(grid), 30)} == {-1}
    assert len(threads) <= 2


def test_no_thread_outlives_the_grid() -> None:
    before = set(threading.enumerate())
    grid, _, _ = grid_of(RowWise(small), 4, workers=1, together=4)
    assert len(list(grid.stream(asks(grid), 30))) == 4
    mine = set(threading.enumerate()) - before
    grid.close()
    assert len(mine) == 1 + 4 + 1
    assert not any(thread.is_alive() for thread in mine)


# ---- the key ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"strategy": {"use": "scaffold"}}, "strategy scaffold"),
        ({"local": {"patience": 2}}, "patience"),
        (
            {
                "protection": {
                    "differential_privacy": {
                        "level": "record",
                        "epsilon": 1,
                        "delta": 1e-5,
                        "clip": 1,
                        "classes": [0, 1],
                    }
                },
                "evaluation": {"federated": False},
                "local": {"validation": 0},
            },
            "record",
        ),
    ],
)
def test_what_the_job_rules_out_is_said_and_left_out(
    changes: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fedcore.engines"):
        assert _together(a_job(**changes), 64, 100) == 0
    assert why in caplog.text
    assert (
        _together(a_job(), 64, 100) == 64 and _together(a_job(), 64, 3) == 3 and _together(a_job(), 0, 3) == 0
    )


def test_the_key_asks_for_two_at_least() -> None:
    spec = {"name": "f", "participants": ["a.yaml"]}
    assert Federation.model_validate(spec).embedded.together is None
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        Federation.model_validate({**spec, "embedded": {"together": 1}})
