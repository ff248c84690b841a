"""The grid that asks participants what their work took, adds what it saw itself, and writes usage records.

It stands above the evidence grid, whose word for the exchange it takes. A participant's half travels in its reply and is
taken out here, so that no strategy meets it; the records of an exchange are written when the exchange is over, with all
of its bytes. A half that is not its owner's, not of this message, or was there before, makes no record, and the
coordinator's log says why; the work itself counts all the same. What came to nothing, because a reply was lost or
refused, is in no record.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flwr.app import ConfigRecord, Message

from fedcore.coordinator.grids.evidence import EvidenceGrid, Phase
from fedcore.coordinator.grids.layer import Layer
from fedcore.errors import DataError, FedcoreError
from fedcore.flower import payload_bytes
from fedcore.jobs.request import USAGE
from fedcore.network.plan import Plan
from fedcore.network.usage import Said, Seen, UsageRecord, check_said, read_said, record_of
from fedcore.network.usage_log import UsageLog
from fedcore.participant.mods.metering import METERED, kind_of, round_of
from fedcore.trust import evidence
from fedcore.trust.identity import Identity

log = logging.getLogger("fedcore.coordinator")


@dataclass(frozen=True)
class Taken:
    """A half that was accepted, and what the coordinator saw of the same reply."""

    phase: Phase
    said: Said
    signature: str
    seen: Seen


class MeteringGrid(Layer):
    """Has train and evaluate exchanges metered; every other message passes.

    Args:
        grid: The evidence grid.
        usage: Where records go.
        run, job: Of what they must be.
        pins: Public key lines by name.
        signed: Whether halves must be signed.
        identity: Gives the coordinator's key; records are not signed by it where it has none.
    """

    def __init__(
        self,
        grid: EvidenceGrid,
        usage: UsageLog,
        *,
        run: str,
        job: str,
        pins: Mapping[str, str],
        signed: bool,
        identity: Callable[[], Identity | None] = lambda: None,
    ) -> None:
        super().__init__(grid)
        self.evidence, self.usage = grid, usage
        self.run_name, self.job_name = run, job
        self.pins, self.signed, self.identity = pins, signed, identity
        self._plan = ""
        self._nodes: dict[str, str] = {}
        self._taken: list[Taken] = []

    def follow(self, plan: Plan | None) -> None:
        """Name a placement's plan, and the node of each participant, in the exchanges from here on."""
        self._plan = "" if plan is None else f"version {plan.version}"
        self._nodes = {} if plan is None else {each.owner: each.node for each in plan.participants}

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """Replies of the grid below, without the halves."""
        asked = list(messages)
        if not asked or kind_of(asked[0]) not in METERED:
            yield from super().stream(asked, timeout)
            return
        to_node = {message.metadata.dst_node_id: message for message in asked}
        for message in asked:
            # The same for all: one content may serve all messages, and an aggregator passes on one.
            message.content[USAGE] = ConfigRecord({"plan": self._plan} if self._plan else {})
        phase, began, at = self.evidence.phase, time.perf_counter(), datetime.now(UTC)
        for reply in super().stream(asked, timeout):
            if reply.has_content():
                self._take(phase, to_node, reply, at, time.perf_counter() - began)
            yield reply

    def write(self) -> None:
        """Write the records of the exchanges so far."""
        taken, self._taken = sorted(self._taken, key=lambda each: each.said.owner), []
        if not taken:
            return
        identity = self.identity()
        records = [self._record(each, identity) for each in taken]
        for record in records:
            for dispute in record.disputes:
                log.warning("usage of %s in dispute, %s: %s", record.said.owner, record.seen.phase, dispute)
        self.usage.add(*records, durable=self.evidence.digest)

    def _take(
        self, phase: Phase, asked: Mapping[int, Message], reply: Message, at: datetime, seconds: float
    ) -> None:
        """Take the halves out of a reply: its own, or those of the children of a region."""
        whole, own = payload_bytes(reply.content), reply.metadata.src_node_id
        halves = {name: record for name, record in reply.content.items() if name.split(" ")[0] == USAGE}
        for name in halves:
            del reply.content[name]
        up = payload_bytes(reply.content)
        for name, told in halves.items():
            direct = name == USAGE
            node = own if direct else _node(name)
            party = self.evidence.name_of(own if node is None else node)
            try:
                if node is None or node not in asked:
                    raise DataError(f"there is a half {name!r} in the reply of {party}, who was not asked")
                said, signature = _half(told)
                self._check(said, signature, party, asked[node])
            except FedcoreError as error:
                log.warning("no usage record of %s, %s: %s", party, phase.step, error.message)
                refused = {"event": "usage refused", "party": party, "step": phase.step, "why": error.message}
                evidence.append(self.evidence.log, refused, durable=self.evidence.digest)
                continue
            seen = Seen(
                phase=phase.step,
                start=at.isoformat(),
                end=datetime.now(UTC).isoformat(),
                seconds=seconds,
                # Lines, and other participants' work on the same machine, are in it.
                waiting=None,
                bytes_down=payload_bytes(asked[own].content) if direct else None,
                bytes_up=up if direct else None,
                other_up=whole - up if direct else 0,
                result=phase.sites.get(party, {}).get("sha256") if direct else None,
            )
            self._taken.append(Taken(phase, said, signature, seen))

    def _check(self, said: Said, signature: str, party: str, asked: Message) -> None:
        expected = {
            "owner": party,
            "run": self.run_name,
            "job": self.job_name,
            "step": kind_of(asked),
            "round": round_of(asked.content),
            "plan": self._plan or None,
        }
        for name, value in expected.items():
            if getattr(said, name) != value:
                raise DataError(
                    f"it is of {name} {getattr(said, name)!r}, and {value!r} was asked for", party=party
                )
        node = self._nodes.get(party)
        if said.node is not None and node not in (None, said.node):
            raise DataError(f"it is of node {said.node!r}, and the plan names {node!r}", party=party)
        if any((each.phase, each.said.owner) == (self.evidence.phase, party) for each in self._taken):
            raise DataError(
                "this participant sent two halves in one exchange; the first one counts", party=party
            )
        if said.id in self.usage or any(said.id == each.said.id for each in self._taken):
            raise DataError(f"usage record {said.id} was sent before; a record counts once", party=party)
        check_said(said, signature, self.pins, signed=self.signed)

    def _record(self, taken: Taken, identity: Identity | None) -> UsageRecord:
        """The record, with what else the exchange cost this participant in bytes."""
        seen = taken.seen
        if seen.bytes_down is not None and seen.bytes_up is not None:
            total = taken.phase.sites.get(taken.said.owner, {}).get("bytes", {})
            others = {
                "other_down": max(0, int(total.get("down", 0)) - seen.bytes_down),
                "other_up": max(seen.other_up, int(total.get("up", 0)) - seen.bytes_up),
            }
            seen = seen.model_copy(update=others)
        return record_of(taken.said, taken.signature, seen, identity=identity)


def _half(record: Any) -> tuple[Said, str]:
    """The half in a reply's record, and its signature.

    Raises:
        DataError: It is none.
    """
    if not isinstance(record, ConfigRecord):
        raise DataError("the reply's half of a usage record cannot be read", step="usage")
    try:
        told = json.loads(str(record["said"]))
    except (ValueError, KeyError, RecursionError) as error:
        raise DataError("the reply's half of a usage record cannot be read", step="usage") from error
    return read_said(told), str(record.get("signature", ""))


def _node(name: str) -> int | None:
    """The node of a half that came through a region."""
    text = name.removeprefix(USAGE + " ")
    return int(text) if text.isascii() and text.isdigit() else None
