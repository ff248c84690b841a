"""A vertical job as a person sees it in the terminal: where each party is while it goes on, a table of steps at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fedcore.coordinator.record_vertical import steps_in
from fedcore.coordinator.terminal_psi import PairProgress
from fedcore.coordinator.wording import phase_text
from fedcore.drawing.markup import plain
from fedcore.drawing.numbers import bytes_text, seconds_text


class StepProgress(PairProgress):
    """Shows how far the parties of a vertical job are, as `PairProgress` does, and each step that is finished."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self._step = ""

    def phase_started(self, number: int, phase: str, cohort: int) -> None:
        """An exchange with the coordinator begins."""
        with self._lock:
            if phase == "prepare":
                super().phase_started(number, phase, cohort)
            elif phase != self._step:
                self._step = phase
                self.console.print(Text(plain(phase), style="bold"), soft_wrap=True)

    def progress(self, party: str, phase: str, done: int, of: int) -> None:
        """How far a party is."""
        super().progress(party, step_phase_text(phase), done, of)


def step_phase_text(phase: str) -> str:
    """What a party does in a step: `align: reading the keys`."""
    step, apart, what = phase.partition(": ")
    return f"{step}: {phase_text(what)}" if apart else phase


def shown(result: Mapping[str, Any]) -> list[RenderableType]:
    """What the summary of a vertical job has between its sentence and its protections.

    Args:
        result: The object of `result.json`.
    """
    found = steps_in(result)
    if not found:
        return []
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("step")
    for name in ("time", "between the parties"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in found:
        table.add_row(Text(plain(step.name)), seconds_text(step.seconds), bytes_text(step.sent))
    folder = found[-1].shares[0].folder if found[-1].shares else ""
    where = f"Results and a report are at each party: {plain(folder)} in its folder of results (output)."
    return [Text(), table, Text(), Text(where)]
