"""The grid that writes down what was sent to whom, what came back, and refuses updates that cannot be used."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fedcore.coordinator.grids.layer import Layer
from fedcore.flower import arrays_in, digest_of, error_reply, metrics_in, payload_bytes
from fedcore.jobs.request import REGION, SECURE
from fedcore.trust import evidence

EXTRA = "extra/"
_WITHOUT_EXAMPLES = ("prepare", "intersect", "placement", "totals")
"""Exchanges whose replies carry no metrics to be averaged; so do those of `OF_PARTIES` and `QUESTION`."""
OF_PARTIES = "step "
"""What the names of exchanges begin with in which parties do a step of a job with each other."""
QUESTION = "question "
"""What the names of exchanges begin with in which a question of an analytics job is asked."""


@dataclass(frozen=True)
class Lost:
    """A participant that gave nothing usable in a phase.

    Args:
        party, step: Who and where.
        kind: Name of the error's class, `NoReply` when there was no answer.
        reason: For a person.
    """

    party: str
    step: str
    kind: str
    reason: str


@dataclass
class Phase:
    """One exchange with the cohort.

    Args:
        name: `prepare`, `train`, `evaluate`, `local baseline`, `intersect`, `step NAME` or `question NAME`.
        number: The round.
        seconds: From the first message to the last reply.
        sites: Per participant: metrics, seconds, bytes, examples.
        lost: Who gave nothing usable, and why.
    """

    name: str
    number: int
    seconds: float = 0.0
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)

    @property
    def step(self) -> str:
        """As in messages: `train round 3`."""
        return self.name if self.number == 0 else f"{self.name} round {self.number}"

    def total(self, direction: str) -> int:
        """Bytes sent `down` or `up` by all."""
        return sum(int(site["bytes"][direction]) for site in self.sites.values())


class Watcher(Protocol):
    """Is told of each phase while it happens."""

    def phase_started(self, number: int, phase: str, cohort: int) -> None: ...
    def reply(self, party: str, phase: str, seconds: float) -> None: ...
    def lost(self, party: str, phase: str, reason: str) -> None: ...


class EvidenceGrid(Layer):
    """Records each phase; turns a reply that cannot be used into an error reply that says why.

    A reply is refused when an array has an unknown name, another shape or a value that is not finite, when its
    arrays are not those of the first reply, or when it claims no examples or more than the participant declared.
    Under secure aggregation a phase is several exchanges, whose sizes and times are added up; what is masked cannot be
    looked into, so that only who asked for the sum can tell what is wrong, with `refuse`.

    Args:
        grid: The grid below.
        name_of: Participant name by node id.
        log: File of the coordinator's evidence.
        digest: Record a SHA-256 of each update, and each line before the next reply is looked at; otherwise,
            in a study over virtual participants, the lines of an exchange are written together at its end.
        watcher: Told what happens.
    """

    def __init__(
        self, grid: Grid, name_of: Callable[[int], str], log: Path, digest: bool, watcher: Watcher
    ) -> None:
        super().__init__(grid)
        self.name_of = name_of
        self.log = log
        self.digest = digest
        self.watcher = watcher
        self.rows: Mapping[str, int] = {}
        self._layout: dict[str, tuple[int, ...]] = {}
        self.phase = Phase("prepare", 0)
        self._stage: str | None = None

    def begin(self, name: str, number: int) -> Phase:
        """Name the exchange that comes next; its record."""
        self.phase = Phase(name, number)
        return self.phase

    @contextmanager
    def aside(self, name: str) -> Iterator[Phase]:
        """Record exchanges in the middle of a phase as one of their own."""
        before, self.phase = self.phase, Phase(name, self.phase.number)
        try:
            yield self.phase
        finally:
            self.phase = before

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """Replies of the grid below, recorded and checked."""
        phase, began = self.phase, time.monotonic()
        asked = list(messages)
        self._layout = {}
        self._stage = _stage(asked)
        shown = f"{phase.name}: {self._stage}" if self._stage else phase.name
        self.watcher.phase_started(phase.number, shown, len(asked))
        to_node = {message.metadata.dst_node_id: message for message in asked}
        shapes = _shapes(asked[0]) if asked else {}
        for message in asked:
            party = self.name_of(message.metadata.dst_node_id)
            if self._stage is None or party not in phase.sites:
                phase.sites[party] = {"bytes": {"down": 0, "up": 0}, "seconds": 0.0, "metrics": {}}
            phase.sites[party]["bytes"]["down"] += payload_bytes(message.content)
        entries: list[dict[str, Any]] = []
        for reply in super().stream(asked, timeout):
            party = self.name_of(reply.metadata.src_node_id)
            site = phase.sites[party]
            site["seconds"] += time.monotonic() - began
            problem = self._problem(reply, party, shapes)
            if problem is None:
                self._record(reply, site)
                self.watcher.reply(party, phase.name, site["seconds"])
            else:
                self._lost(problem)
                if not reply.has_error():
                    reply = error_reply(to_node[reply.metadata.src_node_id], problem.reason)
            entries.append(_entry(phase, problem.party if problem else party, site, problem, self._stage))
            if self.digest:
                evidence.append(self.log, entries.pop())
            yield reply
        if entries:
            evidence.append(self.log, *entries, durable=False)
        phase.seconds += time.monotonic() - began

    def refuse(self, party: str, reason: str, kind: str = "ProtocolFailed") -> None:
        """Write down that what a participant sent under masks could not be used.

        Args:
            party: Whose; `coordinator` where there is no sum at all.
            reason: For a person.
            kind: Name of the error's class.
        """
        problem = Lost(party, self.phase.step, kind, reason)
        self._lost(problem)
        site = self.phase.sites.get(party, {"bytes": {"down": 0, "up": 0}})
        evidence.append(self.log, _entry(self.phase, party, site, problem, self._stage), durable=self.digest)

    def _lost(self, problem: Lost) -> None:
        if self._stage is None or problem.party not in [one.party for one in self.phase.lost]:
            self.phase.lost.append(problem)
        self.watcher.lost(problem.party, problem.step, problem.reason)

    def _record(self, reply: Message, site: dict[str, Any]) -> None:
        site["bytes"]["up"] += payload_bytes(reply.content)
        if self.digest and arrays_in(reply.content):
            site["sha256"] = digest_of(reply.content)
        for record in metrics_in(reply.content):
            site["metrics"] = {k: v for k, v in record.items() if not isinstance(v, list)}

    def _problem(self, reply: Message, party: str, shapes: Mapping[str, tuple[int, ...]]) -> Lost | None:
        step = self.phase.step
        if reply.has_error():
            kind, reason, told = explain(reply.error.reason)
            # Before prepare has its answer, the node's own word for its name is all there is.
            return Lost(told if told and party.startswith("node ") else party, step, kind, reason)
        if self._stage is not None:
            return None
        rows = self.rows.get(party) if self.phase.name == "train" else None
        if REGION in reply.content:
            # The reply of several participants, whose examples it has.
            rows = None
        bare = self.phase.name in _WITHOUT_EXAMPLES or self.phase.name.startswith((OF_PARTIES, QUESTION))
        reason_found = None if bare else _bad_examples(reply, rows)
        reason_found = reason_found or self._bad_arrays(reply, shapes)
        return Lost(party, step, "DataError", reason_found) if reason_found else None

    def _bad_arrays(self, reply: Message, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
        for record in arrays_in(reply.content):
            problem = _bad_array(record, shapes, new=self.phase.name.startswith(QUESTION))
            if problem:
                return problem
        layout = _shapes(reply)
        first = self._layout = self._layout or layout
        if layout != first:
            other = sorted(name for name in {*layout, *first} if layout.get(name) != first.get(name))
            return f"the update has other arrays than the first one that came: {', '.join(other)}"
        return None


def _stage(asked: list[Message]) -> str | None:
    """Of secure aggregation; None in an exchange without."""
    record = asked[0].content.get(SECURE) if asked else None
    return str(record["stage"]) if isinstance(record, ConfigRecord) else None


def _entry(
    phase: Phase, party: str, site: Mapping[str, Any], problem: Lost | None, stage: str | None
) -> dict[str, Any]:
    """The line of the log for a reply."""
    entry = {"event": "reply" if problem is None else "lost", "party": party, "step": phase.step}
    if stage is not None:
        entry["stage"] = stage
    entry["bytes"] = site["bytes"]
    if "sha256" in site:
        entry["sha256"] = site["sha256"]
    if problem is not None:
        entry["why"] = problem.reason
    return entry


def explain(reason: str | None) -> tuple[str, str, str | None]:
    """Kind, text and party of an error reply: ours are JSON, Flower's are plain."""
    try:
        told = json.loads(reason or "")
        return str(told["type"]), str(told["message"]), told.get("party")
    except (ValueError, TypeError, KeyError):
        return "NoReply", reason or "no reason given", None


def _shapes(message: Message) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(array.shape) for record in arrays_in(message.content) for name, array in record.items()
    }


def _bad_examples(reply: Message, rows: int | None) -> str | None:
    told = [metrics.get("num-examples") for metrics in metrics_in(reply.content)]
    if len(told) != 1:
        return f"the reply has {len(told)} records of metrics, one is expected"
    examples = told[0]
    if examples is None or isinstance(examples, list) or not math.isfinite(examples) or examples <= 0:
        return "the reply's num-examples is not a positive number"
    if rows is not None and examples > rows:
        return f"the reply claims {examples:g} examples, the participant declared {rows}"
    return None


def _bad_array(record: ArrayRecord, shapes: Mapping[str, tuple[int, ...]], *, new: bool) -> str | None:
    for name, array in record.items():
        if name not in shapes and not new and not name.startswith(EXTRA):
            return f"the update has an array {name!r} that the model does not have"
        try:
            value = array.numpy()
        except (ValueError, TypeError, EOFError, OSError):
            return f"the update's {name!r} cannot be read"
        # What the bytes say, which is what would be added up; the record's own word for it may differ.
        if value.shape != tuple(array.shape) or value.shape != shapes.get(name, value.shape):
            return (
                f"the update's {name!r} has shape {value.shape}, the model's {shapes.get(name, array.shape)}"
            )
        if value.dtype.kind not in "fiub":
            return f"the update's {name!r} has values of type {value.dtype}; numbers are expected"
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return f"the update has NaN or infinite values in {name!r}"
    return None
