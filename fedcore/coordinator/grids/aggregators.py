"""How a coordinator reaches the aggregators of regions: participants of the run, over its sessions.

Source: of the messages, `fedcore.participant.aggregator`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from flwr.app import ConfigRecord, Message, RecordDict

from fedcore.coordinator.grids.hierarchy import Region
from fedcore.flower import arrays_in
from fedcore.jobs.request import AGGREGATE, RECORD, REGION, SECURE
from fedcore.participant.aggregator import new_id

log = logging.getLogger("fedcore.coordinator")

MEET_WITHIN = 60.0
"""Seconds for the aggregators to listen, and for their participants to join."""

Send = Callable[[list[Message], float | None], Iterator[Message]]


class SessionAggregators:
    """Aggregators among the run's participants.

    Args:
        names: Participant by node.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = dict(names)
        self._met: dict[int, tuple[str, frozenset[int]]] = {}

    def meet(self, regions: Sequence[Region], request: ConfigRecord | None, send: Send) -> None:
        """As `Aggregators.meet`."""
        self._met = {}
        ids = {region.aggregator: new_id() for region in regions}
        opening = [
            _asked(
                region.aggregator,
                "query.region",
                {
                    "id": ids[region.aggregator],
                    "children": {str(node): self._names[node] for node in region.children},
                },
                request,
            )
            for region in regions
        ]
        halls = self._answers(send, opening, "is no aggregator")
        joining = []
        for region in regions:
            hall = halls.get(region.aggregator)
            if hall is None:
                continue
            for node, session in hall["sessions"].items():
                told = {
                    "aggregator": self._names[region.aggregator],
                    "address": hall["address"],
                    "session": session,
                }
                joining.append(_asked(int(node), "query.join", told, request))
        joined = {
            reply.metadata.src_node_id
            for reply in send(joining, MEET_WITHIN)
            if not self._failed(reply, "does not join its aggregator")
        }
        for region in regions:
            if region.aggregator in halls:
                there = {node for node in region.children if node in joined or node == region.aggregator}
                self._met[region.aggregator] = ids[region.aggregator], frozenset(there)

    def wrap(
        self, region: Region, asked: Mapping[int, Message], timeout: float | None
    ) -> tuple[Message, set[int]] | None:
        """As `Aggregators.wrap`."""
        met = self._met.get(region.aggregator)
        inner = {node: message for node, message in asked.items() if met is not None and node in met[1]}
        if met is None or len(inner) < 2:
            return None
        first = next(iter(inner.values()))
        # One copy of the model goes to the aggregator, so all must be sent the same.
        if any(
            [*map(id, arrays_in(each.content))] != [*map(id, arrays_in(first.content))]
            for each in inner.values()
        ):
            return None
        content = RecordDict({name: record for name, record in first.content.items() if name != SECURE})
        for node, message in inner.items():
            own = message.content.get(SECURE)
            if isinstance(own, ConfigRecord):
                content[f"{SECURE} {node}"] = own
        about = {
            "id": met[0],
            "type": first.metadata.message_type,
            "timeout": timeout,
            "numbers": {str(node): message.metadata.message_id for node, message in inner.items()},
        }
        content[REGION] = ConfigRecord({"about": json.dumps(about)})
        outer = Message(content, region.aggregator, AGGREGATE)
        outer.metadata.ttl = first.metadata.ttl
        return outer, set(inner)

    def _answers(
        self, send: Send, messages: list[Message], what: str
    ) -> dict[int, dict[str, dict[str, str]]]:
        found = {}
        for reply in send(messages, MEET_WITHIN):
            if self._failed(reply, what):
                continue
            record = reply.content.get(REGION)
            if isinstance(record, ConfigRecord):
                found[reply.metadata.src_node_id] = json.loads(str(record["about"]))
        return found

    def _failed(self, reply: Message, what: str) -> bool:
        if reply.has_error():
            name = self._names.get(reply.metadata.src_node_id, str(reply.metadata.src_node_id))
            log.warning("%s %s and is asked directly: %s", name, what, reply.error.reason)
        return reply.has_error()


def _asked(node: int, kind: str, about: Mapping[str, object], request: ConfigRecord | None) -> Message:
    content = RecordDict({REGION: ConfigRecord({"about": json.dumps(about)})})
    if request is not None:
        content[RECORD] = request
    return Message(content, node, kind)
