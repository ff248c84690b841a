"""The two parties of an intersection as typed records of `result.json`, read with the tolerance of `record`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedcore.coordinator.record import Metrics, count, finite, metrics


@dataclass(frozen=True)
class Party:
    """What a party's receipt says.

    Args:
        name, role: Who, as what.
        rows, items: Rows, and distinct keys.
        seconds: By phase, in order.
        sent, received: Bytes to and from the other party.
        memory: Bytes at its peak.
        compiling: Seconds of it spent compiling kernels.
        folder: Of its result, below its own folder of results.
        commitment: SHA-256 over a salt of its own and its result.
        protocol: Name and version.
    """

    name: str
    role: str
    rows: int | None
    items: int | None
    seconds: Metrics
    sent: float | None
    received: float | None
    memory: float | None
    compiling: float | None
    folder: str
    commitment: str
    protocol: str


def parties_of(result: Mapping[str, Any]) -> tuple[Party, ...]:
    """The parties of a `result.json` object; none where the run did not come to its end."""
    receipts = result.get("receipts")
    if not isinstance(receipts, Mapping):
        return ()
    return tuple(_party(str(name), _mapping(receipt)) for name, receipt in receipts.items())


def _party(name: str, told: Mapping[str, Any]) -> Party:
    protocol, traffic = _mapping(told.get("protocol")), _mapping(told.get("bytes"))
    seconds = {phase: _mapping(taken).get("seconds") for phase, taken in _mapping(told.get("phases")).items()}
    return Party(
        name=name,
        role=str(told.get("role") or ""),
        rows=count(told.get("rows")),
        items=count(told.get("items")),
        seconds=metrics(seconds),
        sent=finite(traffic.get("sent")),
        received=finite(traffic.get("received")),
        memory=finite(told.get("peak_memory_bytes")),
        compiling=finite(told.get("compile_seconds")),
        folder=str(told.get("folder") or ""),
        commitment=str(told.get("commitment") or ""),
        protocol=" ".join(str(protocol[key]) for key in ("name", "version") if protocol.get(key)),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
