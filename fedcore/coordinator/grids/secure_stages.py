"""The messages of one protected exchange: sent stage by stage, counted, and refused by name when they cannot be used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from crypto.errors import ProtocolError
from crypto.secagg.protocol import RoundFailed
from fedcore.coordinator.grids.secure_account import Account
from fedcore.flower import arrays_in, digest_of, payload_bytes
from fedcore.jobs.request import SECURE


@dataclass(frozen=True)
class Stages:
    """How a protocol reaches its participants.

    Args:
        send: Of the grid below: messages and seconds to wait, to replies as they come.
        account: What is counted into.
        name_of: Participant by node id.
        control: Type of the protocol's own messages.
        patience: Seconds to wait in a stage without work.
        refused: Told a participant's name and why when what it sent cannot be used.
        begins: Told the name of each stage before it begins.
    """

    send: Callable[[list[Message], float | None], Iterator[Message]]
    account: Account
    name_of: Callable[[int], str]
    control: str
    patience: float
    refused: Callable[[str, str], None]
    begins: Callable[[str], None]

    def exchange(
        self,
        stage: str,
        run: bytes,
        number: int,
        bodies: Mapping[str, bytes],
        nodes: Mapping[str, int],
        about: str = "",
    ) -> dict[str, RecordDict]:
        """One stage of the protocol without work; what came, by name."""
        messages = [
            Message(RecordDict({SECURE: record(stage, run, number, body, about)}), nodes[name], self.control)
            for name, body in bodies.items()
            if name in nodes
        ]
        return {name: reply.content for name, reply in self.sent(stage, messages, self.patience)}

    def sent(
        self, stage: str, messages: list[Message], timeout: float | None
    ) -> Iterator[tuple[str, Message]]:
        """Send and yield the replies that are no errors; who gave none is dropped."""
        began = time.monotonic()
        keys = ("seconds", "down", "up", "asked", "answered")
        seen = self.account.stages.setdefault(stage, dict.fromkeys(keys, 0))
        seen["asked"] += len(messages)
        seen["down"] += sum(payload_bytes(message.content) for message in messages)
        self.begins(stage)
        silent = {self.name_of(message.metadata.dst_node_id) for message in messages}
        for reply in self.send(messages, timeout):
            name = self.name_of(reply.metadata.src_node_id)
            if reply.has_error():
                continue
            silent.discard(name)
            seen["answered"] += 1
            seen["up"] += payload_bytes(reply.content)
            yield name, reply
        for name in sorted(silent):
            self.account.dropped.setdefault(name, stage)
        seen["seconds"] += time.monotonic() - began

    def using(self, name: str, stage: str) -> Using:
        """A context in which a wrong message of one participant is its dropping out."""
        return Using(self, name, stage)

    def refuse(self, name: str, stage: str, why: str) -> None:
        """Count what a participant sent as not sent."""
        self.account.dropped.setdefault(name, stage)
        self.refused(name, why)


class Using:
    """Turns a wrong message of one participant into its dropping out."""

    def __init__(self, stages: Stages, name: str, stage: str) -> None:
        self._stages, self._name, self._stage = stages, name, stage

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, RoundFailed) or not isinstance(error, ProtocolError | ValueError):
            return False
        self._stages.refuse(self._name, self._stage, str(error))
        return True


def record(stage: str, run: bytes, number: int, body: bytes, about: str) -> ConfigRecord:
    """What a message of secure aggregation carries."""
    return ConfigRecord({"stage": stage, "session": run, "number": number, "message": body, "about": about})


def told_bytes(content: RecordDict, key: str) -> bytes:
    """Bytes in the record of a reply.

    Raises:
        ProtocolError: It has no such record.
    """
    value: bytes = _field(content, key, bytes)
    return value


def told_text(content: RecordDict, key: str) -> str:
    """Text in the record of a reply.

    Raises:
        ProtocolError: It has no such record.
    """
    value: str = _field(content, key, str)
    return value


def _field(content: RecordDict, key: str, kind: type) -> Any:
    found = content.get(SECURE)
    value = found.get(key) if isinstance(found, ConfigRecord) else None
    if not isinstance(value, kind):
        raise ProtocolError(
            "the reply is none of secure aggregation; its participant lacks secure_aggregation_mod", step=key
        )
    return value


def alike(asked: list[Message]) -> bool:
    """Whether all participants are sent the same, so that changes since then can be summed."""
    records = {
        tuple(id(record) for record in arrays_in(message.content)): message.content for message in asked
    }
    arrays = len(records) == 1 or len({digest_of(content) for content in records.values()}) == 1
    first = _settings(asked[0])
    return arrays and all(_settings(message) == first for message in asked)


def _settings(message: Message) -> list[tuple[str, dict[str, Any]]]:
    return sorted(
        (name, dict(record)) for name, record in message.content.items() if isinstance(record, ConfigRecord)
    )
