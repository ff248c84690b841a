"""Who is told what a run does while it does it: the terminal, a log of events, both or no one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from fedcore.coordinator.checkpoint import plain
from fedcore.coordinator.grids.evidence import Watcher


class RunWatcher(Watcher, Protocol):
    """Told of phases, stages of secure aggregation in front of their phases, replies, rounds, and of how far a party is
    in a protocol between two."""

    def stage_started(self, stage: str) -> None: ...
    def progress(self, party: str, phase: str, done: int, of: int) -> None: ...
    def round_finished(self, record: dict[str, Any]) -> None: ...
    def finished(self, result: dict[str, Any]) -> None: ...


class Silent:
    """Tells no one."""

    def phase_started(self, number: int, phase: str, cohort: int) -> None:
        """Nothing."""

    def reply(self, party: str, phase: str, seconds: float) -> None:
        """Nothing."""

    def lost(self, party: str, phase: str, reason: str) -> None:
        """Nothing."""

    def stage_started(self, stage: str) -> None:
        """Nothing."""

    def progress(self, party: str, phase: str, done: int, of: int) -> None:
        """Nothing."""

    def round_finished(self, record: dict[str, Any]) -> None:
        """Nothing."""

    def finished(self, result: dict[str, Any]) -> None:
        """Nothing."""


class EventFile:
    """Writes events as JSON lines, so that another process can show them."""

    def __init__(self, file: Path) -> None:
        self.file = file.open("a", buffering=1)

    def _tell(self, event: str, *values: Any) -> None:
        self.file.write(json.dumps([event, *plain(list(values))]) + "\n")

    def phase_started(self, number: int, phase: str, cohort: int) -> None:
        """A line."""
        self._tell("phase_started", number, phase, cohort)

    def reply(self, party: str, phase: str, seconds: float) -> None:
        """A line."""
        self._tell("reply", party, phase, seconds)

    def lost(self, party: str, phase: str, reason: str) -> None:
        """A line."""
        self._tell("lost", party, phase, reason)

    def stage_started(self, stage: str) -> None:
        """A line."""
        self._tell("stage_started", stage)

    def progress(self, party: str, phase: str, done: int, of: int) -> None:
        """A line."""
        self._tell("progress", party, phase, done, of)

    def round_finished(self, record: dict[str, Any]) -> None:
        """A line."""
        self._tell("round_finished", record)

    def finished(self, result: dict[str, Any]) -> None:
        """A line; the result itself stands in its own file."""
        self._tell("finished", {"status": result.get("status")})


class Replay:
    """Reads events that another process writes and tells them to a watcher."""

    EVENTS = ("phase_started", "stage_started", "reply", "lost", "progress", "round_finished")

    def __init__(self, file: Path, watcher: RunWatcher) -> None:
        self.path = file
        self.watcher = watcher
        self.read = 0

    def poll(self) -> None:
        """Tell what was written since the last call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as events:
            events.seek(self.read)
            for line in events:
                if not line.endswith(b"\n"):
                    break
                self.read += len(line)
                event, *values = json.loads(line)
                if event in self.EVENTS:
                    getattr(self.watcher, event)(*values)
