"""Rounds through regions: the same mean and the same protected sum, whoever is lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from fedcore.coordinator.grids.hierarchy import HierarchyGrid, Region
from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.mean import MeanGrid
from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.engines.embedded import FIRST_NODE, EmbeddedGrid
from fedcore.flower import NODE_UNAVAILABLE, error_reply, ndarrays
from fedcore.participant.region import RegionSum, apart
from tests.fedcore.coordinator.grids.secure_apps import (
    Seen,
    engine,
    messages,
    one,
    plain_mean,
    trained,
)

WEST = Region(FIRST_NODE, (FIRST_NODE, FIRST_NODE + 1, FIRST_NODE + 2))
EAST = Region(FIRST_NODE + 4, (FIRST_NODE + 3, FIRST_NODE + 4))


def arranged(below: Any, *regions: Region) -> HierarchyGrid:
    grid = HierarchyGrid(below)
    grid.arrange(regions or (WEST, EAST))
    return grid


def close_to(reply: Message | None, indices: Iterable[int], slack: float) -> None:
    assert reply is not None
    arrays, loss = plain_mean(indices)
    for name, value in ndarrays(reply.content["arrays"]).items():  # type: ignore[arg-type]
        np.testing.assert_allclose(value, arrays[name], rtol=1e-5, atol=slack)
    assert reply.content["metrics"]["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("serialize", [False, True])
@pytest.mark.parametrize(
    "regions", [(WEST, EAST), (WEST,), (Region(FIRST_NODE, (FIRST_NODE, FIRST_NODE + 4)),)]
)
def test_the_mean_is_that_of_all_participants(serialize: bool, regions: tuple[Region, ...]) -> None:
    grid = MeanGrid(arranged(engine(5, mods=(), serialize=serialize, workers=2), *regions))
    (reply,) = grid.send_and_receive(messages(), timeout=20)
    close_to(reply, range(5), 1e-6)
    assert reply.content["metrics"]["num-examples"] == 150


def test_a_protected_sum_goes_through_regions_and_stays_exact() -> None:
    below = Seen(engine(5))
    star, tree = SecureAggregationGrid(engine(5)), SecureAggregationGrid(arranged(below))
    close_to(one(star, messages()), range(5), star.account.error_bound)
    close_to(one(tree, messages()), range(5), tree.account.error_bound)
    assert tree.account.summed == 5 and not tree.account.dropped and not tree.account.blamed


@pytest.mark.parametrize("stage", ["masked", "confirm", "reveal"])
def test_a_participant_lost_in_a_region_is_not_in_the_sum_or_no_matter(stage: str) -> None:
    below = Seen(engine(5), [(stage, 1, FIRST_NODE + 1)])
    grid = SecureAggregationGrid(arranged(below))
    reply = one(grid, messages())
    close_to(reply, [0, 2, 3, 4] if stage == "masked" else range(5), grid.account.error_bound)
    assert grid.account.dropped == {str(FIRST_NODE + 1): stage}


def test_a_whole_region_lost_leaves_the_others() -> None:
    below = Seen(engine(5, mods=()), [("plain", 1, node) for node in WEST.children])
    (reply,) = MeanGrid(arranged(below)).send_and_receive(messages(), timeout=20)
    close_to(reply, [3, 4], 1e-6)


def test_other_messages_go_straight_through() -> None:
    grid = arranged(engine(5))
    replies = list(grid.send_and_receive(messages("query.ask"), timeout=20))
    assert len(replies) == 5 and all("region" not in reply.content for reply in replies)


def test_a_participant_in_two_regions_is_refused() -> None:
    with pytest.raises(ValueError, match="two regions"):
        HierarchyGrid(engine(5)).arrange([WEST, Region(FIRST_NODE + 4, (FIRST_NODE + 2, FIRST_NODE + 4))])


# ---- aggregators on other machines --------------------------------------------------------------------------------


class Elsewhere(Layer):
    """Below the hierarchy: does what an aggregator does for each message that is one to it, or loses it."""

    def __init__(self, grid: EmbeddedGrid, lost: Iterable[int] = (), wrong: Iterable[int] = ()) -> None:
        super().__init__(grid)
        self.engine, self.lost, self.wrong = grid, set(lost), set(wrong)
        self.inner: dict[int, dict[int, Message]] = {}
        self.begun: list[tuple[Region, ...]] = []
        self.asked: list[list[int]] = []

    def meet(self, regions: Sequence[Region], request: Any, send: Any) -> None:
        self.begun.append(tuple(regions))

    def wrap(self, region: Region, asked: Mapping[int, Message], timeout: float | None) -> Any:
        self.inner[region.aggregator] = dict(asked)
        return Message(RecordDict({}), region.aggregator, "query.aggregate"), set(asked)

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        told = list(messages)
        self.asked.append([message.metadata.dst_node_id for message in told])
        for message in told:
            node = message.metadata.dst_node_id
            if message.metadata.message_type != "query.aggregate":
                yield from self.engine.stream([message], timeout)
                continue
            if node in self.lost:
                yield error_reply(message, "gone", NODE_UNAVAILABLE)
                continue
            total = RegionSum()
            for reply in self.engine.stream(self.inner[node].values(), timeout):
                total.add(reply)
            content = total.content()
            if node in self.wrong:
                del content["region"]
            yield Message(content, reply_to=message)


def through(below: Elsewhere) -> HierarchyGrid:
    grid = HierarchyGrid(below, below)
    grid.arrange((WEST, EAST))
    return grid


def test_aggregators_get_one_message_for_their_region() -> None:
    below = Elsewhere(engine(5, mods=()))
    grid = through(below)
    (reply,) = MeanGrid(grid).send_and_receive(messages(), timeout=20)
    close_to(reply, range(5), 1e-6)
    assert below.asked == [[WEST.aggregator, EAST.aggregator]] and below.begun == [(WEST, EAST)]
    assert grid.direct == []


@pytest.mark.parametrize("how", ["lost", "wrong"])
def test_the_region_of_a_lost_aggregator_is_asked_directly_and_the_round_is_not_lost(how: str) -> None:
    below = Elsewhere(engine(5, mods=()), **{how: [WEST.aggregator]})  # type: ignore[arg-type]
    grid = through(below)
    (reply,) = MeanGrid(grid).send_and_receive(messages(), timeout=20)
    close_to(reply, range(5), 1e-6)
    assert sorted(grid.direct) == list(WEST.children)


def test_a_region_with_one_participant_left_needs_no_aggregator() -> None:
    below = Elsewhere(engine(5, mods=()))
    asked = [m for m in messages() if m.metadata.dst_node_id not in WEST.children[1:]]
    (reply,) = MeanGrid(through(below)).send_and_receive(asked, timeout=20)
    close_to(reply, [0, 3, 4], 1e-6)
    assert sorted(below.asked[0]) == [WEST.children[0], EAST.aggregator]


# ---- what a region cannot add up -----------------------------------------------------------------------------------


def replies(**options: Any) -> list[Message]:
    return list(engine(3, mods=(), **options).stream(messages(nodes=3), 20))


def test_a_reply_that_does_not_fit_is_an_error_of_its_participant() -> None:
    def strange(message: Message, context: Context) -> RecordDict:
        told = trained(message, context)
        if context.node_config["partition-id"] == 1:
            del told["metrics"]
        return told

    total = RegionSum()
    for reply in engine(3, strange, mods=()).stream(messages(nodes=3), 20):
        total.add(reply)
    assert total.added == [FIRST_NODE, FIRST_NODE + 2] and list(total.errors) == [FIRST_NODE + 1]


def test_content_of_other_children_than_were_asked_is_refused() -> None:
    total = RegionSum()
    for reply in replies():
        total.add(reply)
    asked = {message.metadata.dst_node_id: message for message in messages(nodes=2)}
    with pytest.raises(ValueError, match="other children"):
        list(apart(total.content(), asked))
    with pytest.raises(ValueError, match="no reply of a region"):
        list(apart(RecordDict({}), asked))
