"""The result of a query: a row for each group, with suppressed values kept apart from zeros and missing ones."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table as Shown
from rich.text import Text

from fedcore.analytics.disclosure import ALL, SUPPRESSED, Key, Suppressed
from fedcore.analytics.disclosure import to_json as value_json
from fedcore.analytics.partial import Count
from fedcore.analytics.quantile import Interval
from fedcore.errors import DataError, did_you_mean

Value: TypeAlias = int | float | Interval | tuple[Count, ...] | Suppressed | None
"""Of one statistic of one group; None where it has no value (a mean of nothing)."""

MISSING = "missing"


@dataclass(frozen=True)
class Table:
    """Groups and what was asked of each.

    Args:
        keys: Columns of the group keys.
        names: Of the statistics.
        rows: Per group its key, in order; a total has `ALL` in the place of a key.
        edges: Per name of a histogram, of its bins.
        minimum: Least cell that was shown.
        sites: That answered.
        title: What was asked.
        remarks: Lines below it, beside those on sites and suppressed values.
    """

    keys: tuple[str, ...]
    names: tuple[str, ...]
    rows: dict[Key, tuple[Value, ...]]
    edges: dict[str, tuple[float, ...]]
    minimum: int
    sites: int
    title: str = ""
    remarks: tuple[str, ...] = ()

    def value(self, name: str, *key: Hashable) -> Value:
        """One value.

        Args:
            name: Of the statistic.
            key: Of the group.

        Raises:
            DataError: There is no such statistic or group.
        """
        if name not in self.names:
            raise DataError(f'no "{name}" in the result: {did_you_mean(name, self.names)}')
        if key not in self.rows:
            raise DataError(
                f"no such group in the result; allowed: {len(self.rows)} groups by {', '.join(self.keys) or 'no key'}"
            )
        return self.rows[key][self.names.index(name)]

    @property
    def suppressed(self) -> int:
        """How many values are suppressed, each bin of a histogram counted."""
        flat = [
            each
            for row in self.rows.values()
            for value in row
            for each in (value if isinstance(value, tuple) else (value,))
        ]
        return sum(each is SUPPRESSED for each in flat)

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines below it."""
        hidden = f", {self.suppressed} suppressed (fewer than {self.minimum}, or needed to hide such)"
        return (f"{self.sites} sites{hidden if self.suppressed else ''}", *self.remarks)

    def as_dict(self) -> dict[str, Any]:
        """JSON values: `{"suppressed": true}` for what is suppressed, null for what has no value."""
        return {
            "title": self.title,
            "keys": list(self.keys),
            "rows": [
                {
                    "key": [{"all": True} if each is ALL else _plain(each) for each in key],
                    "values": dict(zip(self.names, map(_json, row), strict=True)),
                }
                for key, row in self.rows.items()
            ],
            "edges": {name: list(each) for name, each in self.edges.items()},
            "minimum": self.minimum,
            "sites": self.sites,
            "suppressed": self.suppressed,
            "notes": list(self.notes),
        }

    def to_csv(self) -> str:
        """One line a group: `suppressed` in words, an empty field for what has no value; an interval takes two fields, a
        histogram one for each bin."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        head = list(self.keys)
        spans = [self._span(at) for at in range(len(self.names))]
        for span in spans:
            head += span
        writer.writerow(head)
        for key, row in self.rows.items():
            line = [_key(each) for each in key]
            for value, span in zip(row, spans, strict=True):
                line += _fields(value, len(span))
            writer.writerow(line)
        return text.getvalue()

    def _span(self, at: int) -> list[str]:
        """Heads of the fields of a statistic."""
        name = self.names[at]
        if edges := self.edges.get(name):
            last = len(edges) - 2
            return [
                f"{name} [{low:g}, {high:g}{']' if bin_ == last else ')'}"
                for bin_, (low, high) in enumerate(itertools.pairwise(edges))
            ]
        if any(isinstance(row[at], Interval) for row in self.rows.values()):
            return [f"{name} low", f"{name} high"]
        return [name]

    def rich(self) -> Shown:
        """For a terminal. Keys are data: what looks like markup in them is shown as it is."""
        made = Shown(title=Text(self.title) if self.title else None, caption=Text("\n".join(self.notes)))
        made.title_justify = made.caption_justify = "left"
        for name in self.keys:
            made.add_column(Text(name))
        for name in self.names:
            made.add_column(Text(name), justify="right")
        for key, row in self.rows.items():
            made.add_row(*(Text(_key(each)) for each in key), *(_cell(value) for value in row))
        return made

    def __str__(self) -> str:
        console = Console(width=200, file=io.StringIO(), record=True, color_system=None)
        console.print(self.rich())
        return console.export_text()


def _plain(each: Hashable) -> Any:
    return each if each is None or isinstance(each, int | float | str) else str(each)


def _json(value: Value) -> Any:
    if isinstance(value, Interval):
        return {"low": value.low, "high": value.high}
    if isinstance(value, tuple):
        return [value_json(each) for each in value]
    return value_json(value)


def _key(each: Hashable) -> str:
    return MISSING if each is None else str(each)


def _fields(value: Value, count: int) -> list[Any]:
    if isinstance(value, Interval):
        return [value.low, value.high]
    if isinstance(value, tuple):
        return list(value)
    return [value] * count


def _cell(value: Value) -> Text:
    if value is SUPPRESSED:
        return Text(str(value), style="dim italic")
    if isinstance(value, tuple):
        return Text(" ".join(str(each) for each in value))
    if value is None:
        return Text("–")
    return Text(f"{value:.6g}" if isinstance(value, float) else str(value))


def with_bins(counts: Sequence[Count]) -> tuple[Count, ...]:
    """Counts of a histogram without those below its first and above its last edge."""
    return tuple(counts[1:-1])
