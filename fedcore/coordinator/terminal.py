"""A run as a person sees it in the terminal: progress while it goes on, a summary at its end.

Names and reasons come from participants. They are shown as plain text: never as rich markup, and without the
control characters that could act on the terminal.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fedcore.coordinator.receipt import layers
from fedcore.coordinator.record import Record, Round, parse
from fedcore.coordinator.record_placement import placements
from fedcore.coordinator.record_protection import COORDINATOR, Exchange, exchanges_of, protected
from fedcore.coordinator.terminal_placement import shown as placement_shown
from fedcore.coordinator.terminal_protection import StageLine, promised, sum_cell
from fedcore.coordinator.terminal_protection import shown as protection_shown
from fedcore.coordinator.terminal_psi import shown as intersection_shown
from fedcore.coordinator.terminal_vertical import shown as steps_shown
from fedcore.coordinator.wording import comparison, headline, status_text
from fedcore.coordinator.wording_protection import sum_text
from fedcore.drawing.markup import plain
from fedcore.drawing.numbers import bytes_text, count_text, difference_text, metric_text, seconds_text

_LAST_ROUNDS = 8
_MOST_METRICS = 3
_COLOURS = {"finished": "green", "stopped-early": "green", "interrupted": "yellow", "partial": "yellow"}


class RoundProgress:
    """Shows a run's rounds as they happen; a context manager, told of events from any thread.

    In a terminal it is a bar with a live table of the last rounds; elsewhere (a file, a pipe, a CI log) one
    plain line per round and per lost participant.

    Args:
        rounds: How many rounds the job asks for, if known yet; `job_started` may tell it later.
        name: The job's name.
        console: Where to; standard output when absent.
        silent: Show nothing, as for `--json`.

    Example:
        with RoundProgress(20, name="hospital-tabular") as progress:
            progress.phase_started(1, "train", 5)
            progress.reply("hospital-1", "train", 0.4)
            progress.round_finished(record)
    """

    def __init__(
        self,
        rounds: int | None = None,
        *,
        name: str = "",
        console: Console | None = None,
        silent: bool = False,
    ) -> None:
        self.rounds = rounds
        self.console = console or Console()
        self.silent = silent
        self._plain = not self.console.is_terminal
        self._lock = threading.RLock()
        self._last: deque[tuple[Round, tuple[Exchange, ...]]] = deque(maxlen=_LAST_ROUNDS)
        self._metrics: list[str] = []
        self._replies = self._cohort = 0
        self._phase = self._stage = ""
        self._stages = StageLine()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}", markup=False, style="dim"),
            console=self.console,
        )
        self._task: TaskID = self._bar.add_task(plain(name), total=rounds, now="starting", count="")
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if not self.silent and not self._plain:
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def job_started(self, name: str, rounds: int) -> None:
        """The job is read: its name and how many rounds it asks for."""
        with self._lock:
            self.rounds = rounds
            self._bar.update(self._task, description=plain(name), total=rounds)

    def phase_started(self, number: int, phase: str, cohort: int) -> None:
        """A step of a round was sent to `cohort` participants."""
        with self._lock:
            name = phase.removesuffix(f": {self._stage}") if self._stage else phase
            if name != phase:
                self._stages.begin((number, name), self._stage, cohort)
            else:
                self._stages.clear()
            self._stage = ""
            self._phase = f"{name}, round {number}" if number else name
            self._replies, self._cohort = 0, cohort
            self._tell_now()

    def stage_started(self, stage: str) -> None:
        """The next step is this stage of secure aggregation."""
        with self._lock:
            self._stage = stage

    def reply(self, party: str, phase: str, seconds: float) -> None:
        """A participant answered; `seconds` since it was asked."""
        with self._lock:
            self._replies += 1
            self._stages.reply()
            self._tell_now()

    def lost(self, party: str, phase: str, reason: str) -> None:
        """A participant's reply will not count; of `coordinator`: there is no sum."""
        if self.silent:
            return
        with self._lock:
            where = f" in {plain(phase)}" if phase else ""
            if party == COORDINATOR:
                told = Text.assemble(("no sum", "red"), f"{where}: {plain(reason)}")
            else:
                self._stages.lost()
                at = f" ({self._stages.current})" if self._stages else ""
                told = Text.assemble(
                    ("lost ", "yellow"), f"{plain(party)}{where}{plain(at)}: {plain(reason)}"
                )
            self.console.print(told, soft_wrap=True)

    def progress(self, party: str, phase: str, done: int, of: int) -> None:
        """Of no interest to rounds."""

    def round_finished(self, record: Mapping[str, Any]) -> None:
        """A round is complete; `record` is its object in `result.json`."""
        parsed = parse({"rounds": [record]})
        with self._lock:
            self._metrics += [name for name in parsed.metrics if name not in self._metrics]
            done, sums = parsed.rounds[0], exchanges_of({"rounds": [record]})
            self._last.append((done, sums))
            self._stages.clear()
            of = f" of {self.rounds}" if self.rounds else ""
            self._bar.update(self._task, completed=done.number, count=f"round {done.number}{of}")
            if self._plain and not self.silent:
                self.console.print(_text(self._line(done, sums)), soft_wrap=True)

    def finished(self, result: Mapping[str, Any]) -> None:
        """The run ended, whatever its status."""
        with self._lock:
            self._bar.update(self._task, now=plain(result.get("status") or "ended"))
        self._stop()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _tell_now(self) -> None:
        now = f"{plain(self._phase)}: {self._replies} of {self._cohort} replies"
        self._bar.update(self._task, now=now)

    def _line(self, done: Round, sums: Sequence[Exchange]) -> str:
        shown = [f"{plain(n)} {metric_text(_measured(done, n))}" for n in self._columns() if _has(done, n)]
        counted = f"in the sum {sum_text(sums)}" if sums else f"replies {_replies(done)}"
        clipped = sum(each.clipped for each in sums)
        cost = [seconds_text(_sum(done.seconds)), bytes_text(_sum(done.bytes)), counted]
        cost += [f"clipped {count_text(clipped)}"] if clipped else []
        return "  ".join([f"round {done.number}{f'/{self.rounds}' if self.rounds else ''}", *shown, *cost])

    def _columns(self) -> list[str]:
        return self._metrics[:_MOST_METRICS]

    def _render(self) -> RenderableType:
        with self._lock:
            parts: list[RenderableType] = [self._table()] if self._last else []
            parts.append(self._bar)
            if self._stages:
                parts.append(self._stages.text())
            return Group(*parts)

    def _table(self) -> Table:
        columns = self._columns()
        summed = any(sums for _, sums in self._last)
        clipped = any(each.clipped for _, sums in self._last for each in sums)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        last = ["in the sum" if summed else "replies", *(["clipped"] if clipped else [])]
        for name in ["round", *columns, "time", "traffic", *last]:
            table.add_column(_text(name), justify="right", no_wrap=True)
        for done, sums in self._last:
            metrics = [metric_text(_measured(done, name)) for name in columns]
            cost = [seconds_text(_sum(done.seconds)), bytes_text(_sum(done.bytes))]
            complete = len(done.replied) == done.cohort
            counted = sum_cell(sums) if sums else Text(_replies(done), style="" if complete else "yellow")
            cut = sum(each.clipped for each in sums)
            more = [Text(count_text(cut), style="yellow" if cut else "")] if clipped else []
            table.add_row(str(done.number), *metrics, *cost, counted, *more)
        return table


def print_summary(
    result: Mapping[str, Any], console: Console | None = None, *, report: str | None = None
) -> None:
    """Print how a run ended: its sentence, the comparison, and what was protected.

    Args:
        result: The object of `result.json`.
        console: Where to; standard output when absent.
        report: Path of the report, named at the end.
    """
    record = parse(result)
    parts: list[RenderableType] = [_text(headline(record))]
    why = plain(record.error.get("message") or record.reason or "")
    if why and record.status != "finished":
        parts += [Text(), _text(f"{status_text(record)}: {why}", style="bold")]
    if record.kind == "psi":
        parts += intersection_shown(record.raw)
    if record.kind == "vertical":
        parts += steps_shown(record.raw)
    if record.kind == "analytics":
        from fedcore.coordinator.terminal_analytics import shown as answers_shown

        parts += answers_shown(record.raw)
    table = _comparison(record)
    if table is not None:
        parts += [Text(), table]
    sums = protected(record.raw)
    if sums is not None and sums.exchanges:
        parts += [Text(), *protection_shown(sums)]
    parts += promised(record.raw.get("privacy"))
    placed = placements(record.raw)
    if placed is not None:
        parts += [Text(), *placement_shown(placed, len(record.members))]
    parts += [Text(), _protection(record)]
    if report:
        parts.append(_text(f"report: {report}", overflow="fold"))
    colour = _COLOURS.get(record.status, "red")
    title = _text(f" {record.name}: {status_text(record).lower()} ", style="bold")
    (console or Console()).print(
        Panel(Group(*parts), title=title, title_align="left", border_style=colour, padding=(1, 2))
    )


def _comparison(record: Record) -> Table | None:
    numbers = comparison(record)
    if not record.rounds or all(value is None for value in numbers.values()):
        return None
    on = f"on {record.baselines.measured_on}" if record.baselines else "federated evaluation"
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column(_text(on))
    table.add_column(_text(record.primary), justify="right")
    table.add_column(Text("federated is"), justify="right")
    federated = numbers["federated"]
    labels = {"alone": "each site alone, mean", "federated": "federated", "pooled": "all rows pooled"}
    for name, label in labels.items():
        value = numbers[name]
        if value is None:
            continue
        gap = None if federated is None or name == "federated" else federated - value
        style = "bold" if name == "federated" else ""
        table.add_row(label, metric_text(value), difference_text(gap) if gap is not None else "", style=style)
    return table


def _protection(record: Record) -> Text:
    text = Text()
    for place, layer in enumerate(layers(record)):
        text.append(" · " if place else "")
        text.append(f"{plain(layer.name)} ")
        text.append(layer.state.upper(), style="bold green" if layer.state == "on" else "bold yellow")
    return text


def _text(text: object, **style: Any) -> Text:
    """Text that no word of a participant can turn into markup or control codes."""
    return Text(plain(text), **style)


def _measured(done: Round, metric: str) -> float | None:
    for values in (done.evaluate, done.central, done.train):
        if metric in values:
            return values[metric]
    return None


def _has(done: Round, metric: str) -> bool:
    return _measured(done, metric) is not None


def _sum(values: Mapping[str, float]) -> float | None:
    known = [value for value in values.values() if math.isfinite(value)]
    return math.fsum(known) if known else None


def _replies(done: Round) -> str:
    return f"{len(done.replied)}/{done.cohort}"
