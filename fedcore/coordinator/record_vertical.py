"""The steps of a vertical job as typed records of `result.json`, read with the tolerance of `record`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedcore.coordinator.record import count, finite


@dataclass(frozen=True)
class Share:
    """What one party's receipt of a step says.

    Args:
        name, role: Who, as what.
        rows, items: Rows, and distinct keys.
        matched: Rows that all parties have, where the label holder's policy lets the coordinator know.
        seconds: In the step.
        sent, received: Bytes to and from the other parties.
        memory: Bytes at its peak.
        folder: Of its results, below its own folder of results.
        commitment: SHA-256 over a salt of its own and the step's files.
    """

    name: str
    role: str
    rows: int | None
    items: int | None
    matched: int | None
    seconds: float | None
    sent: float | None
    received: float | None
    memory: float | None
    folder: str
    commitment: str


@dataclass(frozen=True)
class Step:
    """A finished step: its name, seconds from the request to the last receipt, and what each party told."""

    name: str
    seconds: float | None
    shares: tuple[Share, ...]

    @property
    def sent(self) -> float:
        """Bytes between the parties."""
        return math.fsum(each.sent for each in self.shares if each.sent is not None)


def steps_in(result: Mapping[str, Any]) -> tuple[Step, ...]:
    """The finished steps of a `result.json` object, in their order."""
    found = result.get("steps")
    if not isinstance(found, Sequence) or isinstance(found, str):
        return ()
    return tuple(_step(each) for each in found if isinstance(each, Mapping))


def planned(job: Mapping[str, Any]) -> int | None:
    """How many steps the job has; None where it cannot be told."""
    from fedcore.errors import FedcoreError
    from fedcore.jobs.vertical import VerticalJob
    from fedcore.vertical.steps import steps_of

    try:
        return len(steps_of(VerticalJob.model_validate(dict(job))))
    except (ValueError, FedcoreError):
        return None


def _step(value: Mapping[str, Any]) -> Step:
    receipts = value.get("receipts")
    shares = receipts.items() if isinstance(receipts, Mapping) else ()
    return Step(
        name=str(value.get("step") or ""),
        seconds=finite(value.get("seconds")),
        shares=tuple(_share(str(name), told) for name, told in shares if isinstance(told, Mapping)),
    )


def _share(name: str, told: Mapping[str, Any]) -> Share:
    traffic = told.get("bytes")
    traffic = traffic if isinstance(traffic, Mapping) else {}
    return Share(
        name=name,
        role=str(told.get("role") or ""),
        rows=count(told.get("rows")),
        items=count(told.get("items")),
        matched=count(told.get("matched")),
        seconds=finite(told.get("seconds")),
        sent=finite(traffic.get("sent")),
        received=finite(traffic.get("received")),
        memory=finite(told.get("peak_memory_bytes")),
        folder=str(told.get("folder") or ""),
        commitment=str(told.get("commitment") or ""),
    )
