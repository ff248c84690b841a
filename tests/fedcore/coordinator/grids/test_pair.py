from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from flwr.app import Message, RecordDict

from fedcore.coordinator.grids.layer import Layer, polled
from fedcore.coordinator.grids.pair import PairGrid
from fedcore.flower import NODE_UNAVAILABLE, error_reply
from tests.messages import message


class Scripted:
    """A grid whose nodes answer when their time has come: node to (seconds, whether it fails)."""

    def __init__(self, answers: dict[int, tuple[float, bool]]) -> None:
        self.answers = answers
        self.sent: dict[str, tuple[float, Message]] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        for each in messages:
            self.sent[each.metadata.message_id] = (time.monotonic(), each)
        return list(self.sent)

    def pull_messages(self, numbers: Iterable[str]) -> list[Message]:
        ready = []
        for number in numbers:
            began, asked = self.sent[number]
            seconds, fails = self.answers[asked.metadata.dst_node_id]
            if time.monotonic() - began >= seconds:
                ready.append(error_reply(asked, "failed") if fails else Message(RecordDict(), reply_to=asked))
        return ready


class Streamed(Layer):
    """The same over a stream of its own, as sessions are."""

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        return polled(self.below, messages, timeout)


def replies(answers: dict[int, tuple[float, bool]], timeout: float | None) -> dict[int, Any]:
    found = []
    for below in (Scripted(answers), Streamed(Scripted(answers))):  # type: ignore[arg-type]
        grid = PairGrid(below, last_words=0.3)  # type: ignore[arg-type]
        asked = [message("query.intersect", node=node) for node in answers]
        found.append({reply.metadata.src_node_id: reply for reply in grid.stream(asked, timeout)})
    polled_ones, streamed = found
    told = [
        {node: reply.has_error() and reply.error.reason for node, reply in each.items()} for each in found
    ]
    assert told[0] == told[1], "however they come"
    return polled_ones | streamed


def test_both_are_asked_at_once_and_both_replies_come() -> None:
    found = replies({1: (0.05, False), 2: (0.1, False)}, 30)
    assert all(not reply.has_error() for reply in found.values()) and len(found) == 2


def test_a_silent_party_is_given_up_soon_after_the_other_has_failed() -> None:
    found = replies({1: (0.0, True), 2: (3600.0, False)}, None)
    assert found[1].error.reason == "failed"
    assert found[2].error.code == NODE_UNAVAILABLE
    assert found[2].error.reason == "no reply within 0.3 s of the other's failure"


def test_last_words_of_the_other_are_heard() -> None:
    found = replies({1: (0.0, True), 2: (0.1, True)}, 3600)
    assert found[2].error.reason == "failed"


def test_a_slow_party_is_waited_for_while_nobody_has_failed() -> None:
    found = replies({1: (0.0, False), 2: (0.6, False)}, 30)
    assert not found[2].has_error()


def test_deadline_ends_the_wait_for_both() -> None:
    found = replies({1: (3600.0, False), 2: (3600.0, False)}, 0.1)
    assert {reply.error.reason for reply in found.values()} == {"no reply within 0.1 s"}
