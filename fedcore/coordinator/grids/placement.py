"""The grid that lets a strategy see the participants of a plan, in its order, and no one else.

Before each round of training it asks for the plan of that round, and when a planned participant is not online, for one
without it. A strategy needs to know nothing of it: whatever samples from `get_node_ids` is placed. What it sends to train
or evaluate carries the plan's version, under which a participant works (`fedcore.participant.mods.leased`); a
participant that the plan does not name is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from fedcore.coordinator.grids.layer import Layer
from fedcore.flower import error_reply
from fedcore.jobs.request import NODES

PLACED = ("train", "evaluate")


class Planner(Protocol):
    """Who takes part, by the plan of a round."""

    def chosen(self, number: int, online: Collection[int]) -> Sequence[int]:
        """Nodes that take part in a round, in the plan's order, all of them online.

        Args:
            number: Of the round, from 1.
            online: Nodes that could.

        Raises:
            FedcoreError: No plan keeps every hard constraint.
        """

    def asked(self, kind: str, nodes: Sequence[int]) -> int | None:
        """Take down whom a strategy asks, `train` or `evaluate`; the plan's version, None where there is no plan."""


class PlacementGrid(Layer):
    """Shows the nodes of the current plan.

    Args:
        grid: The grid below.
        number: Of the round that goes on, as the coordinator counts it.

    Attributes:
        planner: Makes plans; everybody is shown while there is none.
    """

    def __init__(self, grid: Grid, number: Callable[[], int], planner: Planner | None = None) -> None:
        super().__init__(grid)
        self._number, self.planner = number, planner
        self._shown: set[int] = set()

    def get_node_ids(self) -> list[int]:
        """Of the plan of this round."""
        online = list(self.below.get_node_ids())
        if self.planner is None:
            return online
        found = list(self.planner.chosen(self._number(), set(online)))
        self._shown = set(found)
        return found

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """Replies to messages under the plan; an error reply for each that the plan does not name."""
        asked = list(messages)
        kind = asked[0].metadata.message_type.split(".")[0] if asked else ""
        if self.planner is None or kind not in PLACED:
            yield from super().stream(asked, timeout)
            return
        inside = [message for message in asked if message.metadata.dst_node_id in self._shown]
        version = self.planner.asked(kind, [message.metadata.dst_node_id for message in inside])
        for message in asked:
            if message.metadata.dst_node_id not in self._shown:
                yield error_reply(message, "the plan of this round does not name this participant")
            elif version is not None:
                # The same for all, so that a content that serves several messages may be added to.
                message.content[NODES] = ConfigRecord({"version": version})
        yield from super().stream(inside, timeout)
