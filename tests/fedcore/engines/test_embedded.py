"""The in-process grid: order, bounded memory, deadlines, errors, the wire."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedcore.engines.embedded import EmbeddedGrid, Node
from fedcore.flower import array_record


def grid_of(
    handler: Callable[[Message, Context], RecordDict], nodes: int = 4, **options: object
) -> EmbeddedGrid:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(handler(message, context), reply_to=message)

    @app.query("ask")
    def ask(message: Message, context: Context) -> Message:
        return Message(handler(message, context), reply_to=message)

    return EmbeddedGrid(app, [Node({"partition-id": i}, {}) for i in range(nodes)], **options)  # type: ignore[arg-type]


def plus_index(message: Message, context: Context) -> RecordDict:
    shift = int(context.node_config["partition-id"])
    arrays = {name: array.numpy() + shift for name, array in message.content["arrays"].items()}
    return RecordDict(
        {"arrays": array_record(arrays), "metrics": MetricRecord({"num-examples": 1, "i": shift})}
    )


def asks(grid: EmbeddedGrid, content: RecordDict | None = None) -> list[Message]:
    return [Message(content or RecordDict(), node, "query.ask") for node in grid.get_node_ids()]


@pytest.mark.parametrize("serialize", [False, True])
def test_flower_fedavg_runs_unchanged_and_averages(serialize: bool) -> None:
    grid = grid_of(plus_index, serialize=serialize, workers=2)
    result = FedAvg(min_available_nodes=4).start(grid, ArrayRecord([np.zeros(3, np.float32)]), num_rounds=2)
    # Each round adds the mean of 0, 1, 2, 3.
    assert result.arrays.to_numpy_ndarrays()[0] == pytest.approx(np.full(3, 3.0))


def test_replies_come_in_the_order_of_the_messages_whatever_finishes_first() -> None:
    last_done = threading.Event()

    def slow_first(message: Message, context: Context) -> RecordDict:
        if context.node_config["partition-id"] == 0:
            last_done.wait(5)
        else:
            last_done.set()
        return RecordDict({"m": MetricRecord({"i": int(context.node_config["partition-id"])})})

    grid = grid_of(slow_first, workers=2)
    assert [reply.content["m"]["i"] for reply in grid.stream(asks(grid), 10)] == [0, 1, 2, 3]


def test_a_task_that_exits_is_an_error_reply_and_its_thread_works_on() -> None:
    def exits(message: Message, context: Context) -> RecordDict:
        if context.node_config["partition-id"] < 2:
            raise SystemExit(1)
        return RecordDict()

    grid = grid_of(exits, workers=1)
    assert [reply.has_error() for reply in grid.stream(asks(grid), 10)] == [True, True, False, False]


def test_only_a_few_messages_are_in_work_beyond_those_taken() -> None:
    started: list[int] = []

    def note(message: Message, context: Context) -> RecordDict:
        started.append(1)
        return RecordDict()

    grid = grid_of(note, nodes=50, workers=2)
    replies: Iterator[Message] = grid.stream(asks(grid), None)
    next(replies)
    for _ in range(100):
        threading.Event().wait(0.01)
    assert len(started) <= 2 + 2 + 1
    assert len(list(replies)) == 49


def test_a_participant_that_hangs_costs_its_deadline_and_the_next_phase_runs() -> None:
    release = threading.Event()

    def hang(message: Message, context: Context) -> RecordDict:
        if context.node_config["partition-id"] == 1 and "hang" in message.content:
            release.wait(60)
        return RecordDict({"m": MetricRecord({"ok": 1})})

    grid = grid_of(hang, workers=2)
    hanging = RecordDict({"hang": ConfigRecord({"x": 1})})
    replies = list(grid.stream(asks(grid, hanging), 0.5))
    assert [reply.has_error() for reply in replies] == [False, True, False, False]
    assert "no reply within 0.5 s" in str(replies[1].error.reason)
    assert not any(reply.has_error() for reply in grid.stream(asks(grid), 10))
    release.set()


def test_what_the_app_raises_becomes_an_error_reply_without_its_text() -> None:
    def boom(message: Message, context: Context) -> RecordDict:
        raise ValueError("patient 4711 has a value of 3.2")

    grid = grid_of(boom, nodes=1)
    (reply,) = grid.stream(asks(grid), 5)
    assert reply.has_error() and "ValueError" in str(reply.error.reason)
    assert "4711" not in str(reply.error.reason)


def test_a_node_that_is_down_is_not_listed_and_answers_with_an_error() -> None:
    grid = grid_of(plus_index)
    messages = asks(grid)
    grid.down.add(messages[0].metadata.dst_node_id)
    assert len(grid.get_node_ids()) == 3
    assert next(grid.stream(messages[:1], 5)).has_error()


def test_one_participant_cannot_change_what_another_receives() -> None:
    seen: list[object] = []

    def spoil(message: Message, context: Context) -> RecordDict:
        seen.append(message.content["config"].get("note"))
        message.content["config"]["note"] = "spoilt"
        array = message.content["arrays"]["0"].numpy()
        with pytest.raises(ValueError, match="read-only"):
            array += 1
        return RecordDict()

    grid = grid_of(spoil, workers=1)
    content = RecordDict({"arrays": ArrayRecord([np.zeros(2)]), "config": ConfigRecord({"note": "clean"})})
    assert not any(reply.has_error() for reply in grid.stream(asks(grid, content), 5))
    assert seen == ["clean"] * 4


def test_push_and_pull_give_each_reply_once() -> None:
    grid = grid_of(lambda m, c: RecordDict({"m": MetricRecord({"ok": 1})}))
    ids = list(grid.push_messages(asks(grid)))
    got: list[Message] = []
    while len(got) < 4:
        got += grid.pull_messages(ids)
    assert sorted(m.metadata.reply_to_message_id for m in got) == sorted(ids)
    assert list(grid.pull_messages(ids)) == []


def test_no_idle_worker_outlives_the_grid() -> None:
    before = set(threading.enumerate())
    grid = grid_of(lambda *_: RecordDict({"m": MetricRecord({"ok": 1})}), workers=3)
    list(grid.stream(asks(grid), 10))
    mine = set(threading.enumerate()) - before

    grid.close()

    assert len(mine) == 3
    assert not any(thread.is_alive() for thread in mine)


def test_closing_does_not_wait_for_a_worker_that_hangs() -> None:
    release = threading.Event()

    def hang(message: Message, context: Context) -> RecordDict:
        release.wait(60)
        return RecordDict()

    grid = grid_of(hang, nodes=1, workers=1)
    list(grid.stream(asks(grid), 0.1))
    closing = threading.Thread(target=grid.close)
    closing.start()
    closing.join(5)

    assert not closing.is_alive()
    release.set()
