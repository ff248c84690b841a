"""Secure aggregation as a person sees it in the terminal: its stages while they go on, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fedcore.coordinator.record_protection import Exchange, Protected
from fedcore.coordinator.wording_protection import (
    dropped_text,
    error_text,
    outcome_text,
    promise_rows,
    sum_text,
)
from fedcore.drawing.markup import plain
from fedcore.drawing.numbers import bytes_text, count_text, seconds_text

_MOST_FAILED = 5


@dataclass
class _Shown:
    name: str
    cohort: int
    began: float
    replies: int = 0
    lost: int = 0
    seconds: float | None = None


class StageLine:
    """The stages of the exchange that goes on: those that are over with their time, the last with its replies.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._exchange: tuple[int, str] | None = None
        self._stages: list[_Shown] = []

    def begin(self, exchange: tuple[int, str], stage: str, cohort: int) -> None:
        """A stage was sent to `cohort` participants."""
        if exchange != self._exchange:
            self.clear()
            self._exchange = exchange
        self._end()
        self._stages.append(_Shown(stage, cohort, self._clock()))

    def reply(self) -> None:
        """A participant answered it."""
        if self._stages:
            self._stages[-1].replies += 1

    def lost(self) -> None:
        """A participant dropped out of it."""
        if self._stages:
            self._stages[-1].lost += 1

    def clear(self) -> None:
        """The exchange is over."""
        self._exchange, self._stages = None, []

    @property
    def current(self) -> str:
        """The stage that goes on; empty between exchanges."""
        return self._stages[-1].name if self._stages else ""

    def __bool__(self) -> bool:
        return bool(self._stages)

    def text(self) -> Text:
        """One line."""
        line = Text("secure aggregation  ", style="dim")
        for place, each in enumerate(self._stages):
            line.append(" → " if place else "", style="dim")
            over = each.seconds is not None
            line.append(plain(each.name), style="green" if over else "bold")
            took = seconds_text(each.seconds) if over else f"{each.replies} of {each.cohort}"
            line.append(f" {took}", style="dim" if over else "")
            if each.lost:
                line.append(f" ({each.lost} dropped)", style="yellow")
        return line

    def _end(self) -> None:
        if self._stages:
            last = self._stages[-1]
            last.seconds = self._clock() - last.began


def sum_cell(exchanges: Sequence[Exchange]) -> Text:
    """Who is in a round's sums, for a table."""
    whole = all(not each.failed and each.summed == each.asked for each in exchanges)
    failed = any(each.failed for each in exchanges)
    return Text(plain(sum_text(exchanges)), style="red" if failed else "" if whole else "yellow")


def promised(told: object) -> list[RenderableType]:
    """What the summary of a run says of differential privacy.

    Args:
        told: `privacy` of its result; nothing is said where it is none.
    """
    if not isinstance(told, Mapping):
        return []
    rows = dict(promise_rows(told))
    keys = [key for key in ("Promise", "Neighbours", "Spent", "Paid", "Noise", "Epsilon by") if key in rows]
    return [
        Text.assemble(("differential privacy  ", "dim"), plain("; ".join(rows[key] for key in keys) + "."))
    ]


def shown(told: Protected) -> list[RenderableType]:
    """What the summary of a run says of secure aggregation.

    Args:
        told: Of the run.
    """
    if not told.exchanges:
        return []
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column(Text(plain(told.protocol)))
    for name in ("times", "time", "to sites", "from sites", "replies"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in told.stages:
        missing = each.answered < each.asked
        replies = f"{count_text(each.answered)}/{count_text(each.asked)}"
        table.add_row(
            Text(plain(each.name)),
            count_text(each.exchanges),
            seconds_text(each.seconds),
            bytes_text(each.down),
            bytes_text(each.up),
            Text(replies, style="yellow" if missing else ""),
        )
    out = dropped_text(told)
    words = f"{outcome_text(told)}. Dropped out: {out[0].lower()}{out[1:]} {error_text(told)}"
    parts: list[RenderableType] = [table, Text(plain(words[0].upper() + words[1:]))]
    for failed in told.failed[:_MOST_FAILED]:
        where = f"no sum in {failed.phase} of round {failed.round}: "
        parts.append(Text.assemble((plain(where), "red"), plain(failed.failed)))
    if len(told.failed) > _MOST_FAILED:
        parts.append(Text(f"{len(told.failed) - _MOST_FAILED} more stand in result.json", style="dim"))
    if told.blamed:
        parts.append(Text.assemble(("wrong shares came from ", "red"), plain(", ".join(told.blamed))))
    return parts
