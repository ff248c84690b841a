"""Who takes part: by name, in order, with the request, and what happens when too few are there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flwr.app import Message

from fedcore.coordinator.grids import cohort as module
from fedcore.coordinator.grids.cohort import CohortGrid
from fedcore.coordinator.grids.layer import Layer
from fedcore.errors import RunInterrupted
from tests.messages import a_request, message

MEMBERS = {30: "c", 10: "b", 20: "a"}


class Online(Layer):
    """A grid whose nodes come and go, one step per look."""

    def __init__(self, *looks: list[int]) -> None:
        self.looks = list(looks)
        self.sent: list[Message] = []

    def get_node_ids(self) -> list[int]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def stream(self, messages: Any, timeout: float | None) -> Any:
        for one in messages:
            self.sent.append(one)
            yield one


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "CHECK", 0.001)


def test_members_are_shown_by_name_whatever_their_numbers_and_no_one_else() -> None:
    assert CohortGrid(Online([10, 99, 30, 20]), MEMBERS, 2, 1.0).get_node_ids() == [20, 10, 30]


def test_one_that_is_offline_is_not_shown() -> None:
    assert CohortGrid(Online([10, 20]), MEMBERS, 2, 1.0).get_node_ids() == [20, 10]


def test_it_waits_until_enough_are_there() -> None:
    grid = Online([10], [], [10], [10, 30])
    assert CohortGrid(grid, MEMBERS, 2, 30.0).get_node_ids() == [10, 30]


def test_too_few_for_too_long_stops_the_run_and_names_the_missing() -> None:
    words = r"1 of at least 2 participants are online after 0.01 s; missing: a, c. .*resume"
    with pytest.raises(RunInterrupted, match=words):
        CohortGrid(Online([10, 99]), MEMBERS, 2, 0.01).get_node_ids()


@pytest.mark.parametrize(("timeout", "life"), [(7200.0, 7200.0), (None, 600.0), (0.2, 1.0)])
def test_messages_carry_the_request_and_live_as_long_as_their_reply_is_waited_for(timeout, life) -> None:
    below = Online([10])
    cohort = CohortGrid(below, MEMBERS, 2, 600.0)
    cohort.request = a_request(cohort=3)
    list(cohort.send_and_receive([message(node=10), message(node=20, arrays={"w": [1.0]})], timeout=timeout))
    assert len(below.sent) == 2
    for one in below.sent:
        assert json.loads(one.content["fedcore"]["request"]) == json.loads(cohort.request.to_json())
        assert one.metadata.ttl == life
    assert "arrays" in below.sent[1].content


def test_messages_are_made_one_by_one_as_they_are_taken() -> None:
    made = []

    def source() -> Any:
        for node in (10, 20, 30):
            made.append(node)
            yield message(node=node)

    replies = CohortGrid(Online([10]), MEMBERS, 2, 1.0).stream(source(), 1.0)
    next(replies)
    assert made == [10]
