"""The grid that knows who takes part: names, the request that travels, the wait for enough of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from fedcore.coordinator.grids.layer import Layer
from fedcore.errors import RunInterrupted
from fedcore.flower import through_outage
from fedcore.jobs.request import RECORD, Request

CHECK = 0.5  # seconds between looks at who is online


class CohortGrid(Layer):
    """Shows a strategy the run's participants, in the order of their names, and no one else.

    The order is the same on every engine whatever ids its nodes have, so that a seeded sample of the cohort
    picks the same institutions everywhere.

    Args:
        grid: The grid below.
        members: Node id to participant name.
        minimum: Fewer online, and the run waits, at most `patience` seconds, then stops.
        patience: Seconds.
    """

    def __init__(self, grid: Grid, members: Mapping[int, str], minimum: int, patience: float) -> None:
        super().__init__(grid)
        self.members = dict(members)
        self.minimum = minimum
        self.patience = patience
        self.request: Request | None = None

    def get_node_ids(self) -> list[int]:
        """Members that are online, by name.

        Raises:
            RunInterrupted: Too few of them for `patience` seconds.
        """
        end = time.monotonic() + self.patience
        while True:
            online = set(through_outage(self.below.get_node_ids))
            here = sorted((node for node in self.members if node in online), key=lambda n: self.members[n])
            if len(here) >= self.minimum:
                return here
            if time.monotonic() >= end:
                gone = sorted(name for node, name in self.members.items() if node not in online)
                raise RunInterrupted(
                    f"{len(here)} of at least {self.minimum} participants are online after "
                    f"{self.patience:g} s; missing: {', '.join(gone)}. Bring them back and resume the run"
                )
            time.sleep(CHECK)

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """Adds the request to each message and lets it expire with the wait for its reply."""
        life = self.patience if timeout is None else timeout
        request = None if self.request is None else self.request.to_json()
        return super().stream((self._address(message, request, life) for message in messages), timeout)

    def _address(self, message: Message, request: str | None, life: float) -> Message:
        if request is not None:
            message.content[RECORD] = ConfigRecord({"request": request})
        message.metadata.ttl = max(life, 1.0)
        return message
