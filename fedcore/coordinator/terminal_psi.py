"""An intersection as a person sees it in the terminal: both parties' phases while it goes on, a table at its end."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fedcore.coordinator.record_psi import Party, parties_of
from fedcore.coordinator.wording import phase_text
from fedcore.drawing.markup import plain
from fedcore.drawing.numbers import bytes_text, count_text, seconds_text

_AT_PARTIES = "at work"


class PairProgress:
    """Shows how far the two parties of a job are; a context manager, told of events from any thread.

    In a terminal it is a bar for each party; elsewhere one plain line for each phase of each party.

    Args:
        parties: Their names.
        name: The job's.
        console: Where to; standard output when absent.
    """

    def __init__(self, parties: list[str], *, name: str = "", console: Console | None = None) -> None:
        self.console = console or Console()
        self.name = name
        self._plain = not self.console.is_terminal
        self._lock = threading.RLock()
        self._phase: dict[str, str] = {}
        width = max((len(party) for party in parties), default=0)
        self._bars = Progress(
            TextColumn(f"{{task.fields[party]:<{width}}}", markup=False),
            TextColumn("{task.description:<38}", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[much]:>16}", markup=False),
            TimeElapsedColumn(),
            console=self.console,
        )
        self._tasks: dict[str, TaskID] = {
            party: self._bars.add_task("starting", total=None, party=plain(party), much="")
            for party in parties
        }

    def __enter__(self) -> Self:
        if not self._plain:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def phase_started(self, number: int, phase: str, cohort: int) -> None:
        """An exchange with the coordinator begins."""
        with self._lock:
            for party in self._tasks:
                self._show(party, "asked whether it would" if phase == "prepare" else _AT_PARTIES, 0, 0)

    def stage_started(self, stage: str) -> None:
        """There are no stages."""

    def reply(self, party: str, phase: str, seconds: float) -> None:
        """A party answered the coordinator."""
        if phase == "prepare":
            with self._lock:
                self._show(party, "agreed", 0, 0)

    def lost(self, party: str, phase: str, reason: str) -> None:
        """A party refused or failed."""
        if party in self._tasks:
            with self._lock:
                text = Text.assemble(
                    ("lost ", "yellow"), f"{plain(party)} in {plain(phase)}: {plain(reason)}"
                )
                self.console.print(text, soft_wrap=True)

    def progress(self, party: str, phase: str, done: int, of: int) -> None:
        """How far a party is."""
        with self._lock:
            self._show(party, phase_text(phase), done, of)

    def round_finished(self, record: Mapping[str, Any]) -> None:
        """There are no rounds."""

    def finished(self, result: Mapping[str, Any]) -> None:
        """The run ended."""
        self._stop()

    def _stop(self) -> None:
        # Bars that were never started would still print an empty line.
        if not self._plain:
            self._bars.stop()

    def _show(self, party: str, phase: str, done: int, of: int) -> None:
        task = self._tasks.get(party)
        if task is None:
            return
        if not self._plain:
            total = of or (done if phase == phase_text("done") else None) or None
            much = count_text(done) if done else ""
            self._bars.update(task, description=phase, completed=done, total=total, much=much)
        elif self._phase.get(party) != phase:
            rows = f"  {count_text(done)} rows" if done and phase == phase_text("done") else ""
            self.console.print(_text(f"{party}  {phase}{rows}"), soft_wrap=True)
        self._phase[party] = phase


def shown(result: Mapping[str, Any]) -> list[RenderableType]:
    """What the summary of an intersection has between its sentence and its protections.

    Args:
        result: The object of `result.json`.
    """
    parties = parties_of(result)
    if not parties:
        return []
    folders = " and ".join(dict.fromkeys(party.folder for party in parties))
    where = f"Results are at the parties: {folders} in each one's folder of results (output)."
    compiled = max(party.compiling or 0.0 for party in parties)
    note = [_text(f"{seconds_text(compiled)} of it compiling kernels, once per machine", style="dim")]
    return [
        Text(),
        _sizes(parties),
        Text(),
        _phases(parties),
        *(note if compiled > 1 else []),
        Text(),
        _text(where),
    ]


def _sizes(parties: Sequence[Party]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for name in ("party", "role", "rows", "keys", "sent", "time", "memory"):
        table.add_column(name, justify="left" if name in ("party", "role") else "right", no_wrap=True)
    for party in parties:
        table.add_row(
            _text(party.name),
            _text(party.role),
            count_text(party.rows),
            count_text(party.items),
            bytes_text(party.sent),
            seconds_text(math.fsum(filter(math.isfinite, party.seconds.values()))),
            bytes_text(party.memory),
        )
    return table


def _phases(parties: Sequence[Party]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("phase")
    for party in parties:
        table.add_column(_text(party.name), justify="right")
    for phase in dict.fromkeys(phase for party in parties for phase in party.seconds):
        table.add_row(
            _text(phase_text(phase)), *(seconds_text(party.seconds.get(phase)) for party in parties)
        )
    return table


def _text(text: object, **style: Any) -> Text:
    return Text(plain(text), **style)
