"""The grid that sends rounds through regional aggregators, and gives the grid above what it would have had without.

A train or evaluate exchange goes to each region's aggregator, which asks the region's participants, adds their replies
up and sends one sum to the coordinator (`fedcore.participant.region`). Every other message, among them the stages of a
secure sum that carry no model, goes straight to its participant.

Where all participants run on one machine there is nobody to travel to: the coordinator adds each region up in the
aggregator's place, with the same code and the same rounding. Over a deployment's sessions the aggregator is a participant
of the run (`fedcore.participant.aggregator`).

A region whose aggregator is lost is asked directly, in the same exchange: a participant that had answered already answers
again without work, so that the round is not lost.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from fedcore.coordinator.grids.layer import Layer
from fedcore.jobs.request import RECORD, SECURE
from fedcore.participant.protected import MASKED
from fedcore.participant.region import RegionSum, apart

log = logging.getLogger("fedcore.coordinator")

CARRIED = ("train", "evaluate")


@dataclass(frozen=True)
class Region:
    """Participants whose replies are added up before they reach the coordinator.

    Args:
        aggregator: Node that adds them up; may be one of the children.
        children: Nodes, two or more.
    """

    aggregator: int
    children: tuple[int, ...]


class Aggregators(Protocol):
    """How aggregators of other machines are reached."""

    def meet(
        self,
        regions: Sequence[Region],
        request: ConfigRecord | None,
        send: Callable[[list[Message], float | None], Iterator[Message]],
    ) -> None:
        """Have the aggregators listen and their children join them; who does not is asked directly.

        Args:
            regions: All of them.
            request: What the run asks for, by which sites decide.
            send: Sends messages straight to their nodes.
        """

    def wrap(
        self, region: Region, asked: Mapping[int, Message], timeout: float | None
    ) -> tuple[Message, set[int]] | None:
        """The message to the aggregator that carries those to its children, and to which of them; None without any."""


class HierarchyGrid(Layer):
    """Sends rounds through the aggregators of regions.

    Args:
        grid: Any Flower grid.
        aggregators: Of other machines; regions are added up here when None.

    Attributes:
        direct: Children that were asked directly in the last exchange because their aggregator was lost.
        failed: Nodes of aggregators that were lost; whoever plans empties it.
    """

    def __init__(self, grid: Grid, aggregators: Aggregators | None = None) -> None:
        super().__init__(grid)
        self._aggregators = aggregators
        self._regions: tuple[Region, ...] = ()
        self._met = False
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self.direct: list[int] = []
        self.failed: list[int] = []

    @property
    def regions(self) -> tuple[Region, ...]:
        """As they are now; none is a star."""
        return self._regions

    def arrange(self, regions: Sequence[Region]) -> None:
        """Use these regions from the next exchange on.

        Raises:
            ValueError: A participant stands in two of them.
        """
        children = [child for region in regions for child in region.children]
        if len(set(children)) != len(children):
            raise ValueError("a participant stands in two regions")
        if tuple(regions) == self._regions:
            return
        self._regions, self._met = tuple(regions), False

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """Replies as the grid above expects them, each region's when it is complete."""
        asked = {message.metadata.dst_node_id: message for message in messages}
        self.direct = []
        if not self._regions or not all(map(_carries, asked.values())):
            yield from super().stream(asked.values(), timeout)
        elif self._aggregators is None:
            yield from self._here(asked, timeout)
        else:
            yield from self._through(self._aggregators, asked, timeout)

    def _here(self, asked: Mapping[int, Message], timeout: float | None) -> Iterator[Message]:
        """Add each region up as its replies come."""
        of = {child: number for number, region in enumerate(self._regions) for child in region.children}
        sums: dict[int, RegionSum] = {}
        left = dict.fromkeys(of.values(), 0)
        for node in asked:
            if node in of:
                left[of[node]] += 1
        for reply in super().stream(asked.values(), timeout):
            number = of.get(reply.metadata.src_node_id)
            if number is None:
                yield reply
                continue
            sums.setdefault(number, RegionSum()).add(reply)
            left[number] -= 1
            if left[number] == 0:
                yield from apart(sums.pop(number).content(), asked)
        for rest in sums.values():
            yield from apart(rest.content(), asked)

    def _through(
        self, aggregators: Aggregators, asked: Mapping[int, Message], timeout: float | None
    ) -> Iterator[Message]:
        """Send one message to each aggregator, and straight to whom has none."""
        end = None if timeout is None else time.monotonic() + timeout
        outer: dict[int, tuple[Region, dict[int, Message]]] = {}
        messages: list[Message] = []
        covered: set[int] = set()
        for message in asked.values():
            # So that a participant knows a message again that comes to it another way.
            message.metadata.__dict__["_message_id"] = f"h{self._prefix}-{next(self._numbers)}"
        if not self._met:
            request = next(iter(asked.values())).content.get(RECORD)
            aggregators.meet(
                self._regions, request if isinstance(request, ConfigRecord) else None, super().stream
            )
            self._met = True
        for region in self._regions:
            inner = {child: asked[child] for child in region.children if child in asked}
            around = aggregators.wrap(region, inner, timeout) if len(inner) > 1 else None
            if around is not None:
                outer[region.aggregator] = region, {node: inner[node] for node in around[1]}
                messages.append(around[0])
                covered |= around[1]
        straight = [message for node, message in asked.items() if node not in covered]
        lost: list[Message] = []
        for reply in super().stream([*messages, *straight], timeout):
            node = reply.metadata.src_node_id
            told = outer.get(node)
            if told is None or reply.metadata.message_type.split(".")[0] in CARRIED:
                yield reply
                continue
            try:
                if reply.has_error():
                    raise ValueError(reply.error.reason or "no reason given")
                yield from list(apart(reply.content, told[1]))
            except ValueError as error:
                log.warning("aggregator %s is lost (%s); its region is asked directly", node, error)
                self.failed.append(node)
                lost += told[1].values()
        if lost:
            self.direct = [message.metadata.dst_node_id for message in lost]
            yield from super().stream(lost, None if end is None else max(0.0, end - time.monotonic()))


def _carries(message: Message) -> bool:
    """Whether a message asks for what is worth adding up on its way."""
    record = message.content.get(SECURE)
    if isinstance(record, ConfigRecord) and record.get("stage") != MASKED:
        return False
    return message.metadata.message_type.split(".")[0] in CARRIED
