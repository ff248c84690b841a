"""Replies as they come, from any Flower grid: late ones, lost ones, ones the SuperLink did not take."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import Message
from flwr.serverapp import Grid

from fedcore.coordinator.grids import layer
from fedcore.coordinator.grids.layer import Layer, stream
from fedcore.flower import empty_run, error_reply, stamp
from tests.messages import message, reply_to


class Slow(Grid):
    """Flower's public surface only. A message's reply is there after as many pulls as its node's number."""

    def __init__(self) -> None:
        self.sent: dict[str, Message] = {}
        self.pulls = 0
        self.refused: set[int] = set()
        self.too_large = False
        self.extra: list[Message] = []
        self._run = empty_run(5)

    def set_run(self, run: Any) -> None:
        self._run = run

    @property
    def run(self) -> Any:
        return self._run

    def create_message(self, *arguments: Any, **more: Any) -> Any:
        return ("made", arguments, more)

    def get_node_ids(self) -> list[int]:
        return [3, 1]

    def push_messages(self, messages: Iterable[Message]) -> list[Any]:
        if self.too_large:
            return []
        ids: list[Any] = []
        for one in messages:
            if one.metadata.dst_node_id in self.refused:
                ids.append(None)
                continue
            ids.append(stamp(one))
            self.sent[ids[-1]] = one
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.pulls += 1
        wanted = [self.sent[i] for i in message_ids]
        ready = [one for one in wanted if one.metadata.dst_node_id <= self.pulls]
        return [self._answer(one) for one in ready] + self.extra

    def _answer(self, asked: Message) -> Message:
        return reply_to(asked, None, asked.metadata.dst_node_id)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        raise AssertionError("Flower's own loop sleeps three seconds between pulls")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(layer, "FIRST_POLL", 0.001)
    monkeypatch.setattr(layer, "LAST_POLL", 0.002)


def asked(*nodes: int) -> list[Message]:
    return [message(node=node) for node in nodes]


def sources(replies: Iterable[Message]) -> list[int]:
    return [reply.metadata.src_node_id for reply in replies]


def test_each_reply_comes_when_it_is_there() -> None:
    grid, when = Slow(), []
    for reply in stream(grid, asked(3, 1, 2), 10):
        when.append((reply.metadata.src_node_id, grid.pulls))
    assert when == [(1, 1), (2, 2), (3, 3)]


def test_without_a_deadline_it_waits_for_all() -> None:
    assert sources(stream(Slow(), asked(9, 1), None)) == [1, 9]


def test_one_that_does_not_come_in_time_is_an_error_reply_in_its_name() -> None:
    replies = list(stream(Slow(), asked(1, 10**9), 0.05))
    assert [reply.has_error() for reply in replies] == [False, True]
    assert sources(replies) == [1, 10**9]
    assert replies[1].error.reason == "no reply within 0.05 s"


def test_a_reply_that_is_ready_when_the_time_is_up_still_counts() -> None:
    assert [reply.has_error() for reply in stream(Slow(), asked(1), 0.0)] == [False]


def test_a_message_that_the_superlink_does_not_take_is_an_error_reply_and_the_others_run() -> None:
    grid = Slow()
    grid.refused = {2}
    replies = {reply.metadata.src_node_id: reply for reply in stream(grid, asked(1, 2, 3), 10)}
    assert [replies[node].has_error() for node in (1, 2, 3)] == [False, True, False]
    assert "did not take the message" in replies[2].error.reason


def test_messages_that_are_too_large_as_a_whole_are_error_replies() -> None:
    grid = Slow()
    grid.too_large = True
    replies = list(stream(grid, asked(1, 2), 10))
    assert sources(replies) == [1, 2] and all(reply.has_error() for reply in replies)


def test_a_reply_that_nobody_waits_for_is_dropped_and_none_is_given_twice() -> None:
    grid = Slow()
    (first,) = stream(grid, asked(1), 10)
    stranger = asked(1)
    grid.push_messages(stranger)
    grid.pulls, grid.extra = 0, [first, reply_to(stranger[0])]
    assert sources(stream(grid, asked(1, 2), 10)) == [1, 2]


def test_an_answer_of_the_superlink_in_a_node_s_stead_is_an_error_in_the_node_s_name() -> None:
    grid = Slow()

    def instead(one: Message) -> Message:
        reply = error_reply(one, "the node is unavailable")
        reply.metadata.__dict__["_src_node_id"] = 1
        return reply

    grid._answer = instead  # type: ignore[method-assign]
    (reply,) = stream(grid, asked(7), 10)
    assert reply.has_error() and sources([reply]) == [7] and "unavailable" in reply.error.reason


def test_an_answer_of_another_node_is_not_taken_for_the_one_that_was_asked() -> None:
    grid = Slow()

    def another(one: Message) -> Message:
        reply = reply_to(one)
        reply.metadata.__dict__["_src_node_id"] = 8
        return reply

    grid._answer = another  # type: ignore[method-assign]
    (reply,) = stream(grid, asked(7), 10)
    assert reply.has_error() and sources([reply]) == [7] and "another node" in reply.error.reason


def test_nothing_to_send_is_nothing_to_wait_for() -> None:
    assert list(stream(Slow(), [], 10)) == []


def test_a_layer_passes_everything_on() -> None:
    grid = Slow()
    top = Layer(Layer(grid))
    run = empty_run(9)
    top.set_run(run)
    assert top.run is run and grid._run is run
    assert list(top.get_node_ids()) == [3, 1]
    assert top.create_message("c", "t", 1, "g", ttl=3.0) == ("made", ("c", "t", 1, "g", 3.0), {})
    ids = list(top.push_messages(asked(1)))
    assert sources(top.pull_messages(ids)) == [1]
    assert sorted(sources(top.send_and_receive(asked(1, 2), timeout=10))) == [1, 2]


def test_a_layer_asks_the_stream_of_the_one_below() -> None:
    class Below(Layer):
        def stream(self, messages: Any, timeout: float | None) -> Any:
            yield from [json.dumps([len(list(messages)), timeout])]

    assert list(Layer(Below(Slow())).send_and_receive(asked(1, 2), timeout=7)) == ["[2, 7]"]
