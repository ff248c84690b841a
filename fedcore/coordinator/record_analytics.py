"""The answers of an analytics job as typed records of `result.json`, read with the tolerance of `record`.

A cell that was suppressed stays `fedcore.analytics.disclosure.SUPPRESSED`: it is no zero, not missing, and no number.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from fedcore.analytics.disclosure import SUPPRESSED, from_json
from fedcore.analytics.result import Cell, Table, number_text, p_text
from fedcore.coordinator.record import count, finite
from fedcore.drawing.markup import plain
from fedcore.errors import JobError, did_you_mean, error_kind

STEP = "answer"


@dataclass(frozen=True)
class AnswerTable(Table):
    """A table of an answer, as `fedcore.analytics.result.Table`; a notebook shows it as one."""

    def value(self, name: str, *key: Any) -> Any:
        """The cell of a column, in the row that begins with these keys.

        Args:
            name: Head of the column.
            key: First cells of the row; none where the table has one row.

        Returns:
            The cell; `SUPPRESSED` where it was suppressed, None where there is no value. Of a quantile, which is an
            interval: its low and its high end.

        Raises:
            JobError: There is no such column or row, or more than one.
        """
        ends = (f"{name} low", f"{name} high")
        if name not in self.heads and all(end in self.heads for end in ends):
            return self.value(ends[0], *key), self.value(ends[1], *key)
        if name not in self.heads:
            raise JobError(
                f'"{self.title}" has no column "{name}": {did_you_mean(name, self.heads)}', step=STEP
            )
        found = [row for row in self.rows if _begins(row, key)]
        if len(found) != 1:
            begun = [" ".join(str(each) for each in row[: max(len(key), 1)]) for row in self.rows[:20]]
            raise JobError(
                f'"{self.title}": {len(found)} rows begin with {", ".join(map(repr, key)) or "no key"}; allowed: the first '
                f"cells of one row, of {'; '.join(begun) or 'none'}",
                step=STEP,
            )
        return found[0][self.heads.index(name)]

    def texts(self, place: int) -> list[str]:
        """The cells of a column as a person reads them, without what could act on a terminal.

        Args:
            place: Of the column.
        """
        whole = all(
            not isinstance(each, float) or (each.is_integer() and abs(each) < 1e15)
            for each in self._known(place)
        )
        p = self.heads[place] in self.p_values
        return [cell_text(row[place], p=p, whole=whole) for row in self.rows]

    def numeric(self, place: int) -> bool:
        """Whether a column, by its place, holds numbers, so that it stands to the right."""
        cells = self._known(place)
        return bool(cells) and all(isinstance(each, int | float) for each in cells)

    def _known(self, place: int) -> list[Any]:
        return [row[place] for row in self.rows if row[place] is not None and row[place] is not SUPPRESSED]

    def _repr_html_(self) -> str:
        def row(kind: str, cells: Sequence[str]) -> str:
            return f"<tr>{''.join(f'<{kind}>{escape(each)}</{kind}>' for each in cells)}</tr>"

        columns = [self.texts(place) for place in range(len(self.heads))]
        lines = "".join(row("td", cells) for cells in zip(*columns, strict=True))
        notes = "".join(f"<p><small>{escape(plain(note))}</small></p>" for note in self.notes)
        head = row("th", [plain(each) for each in self.heads])
        title = f"<caption>{escape(plain(self.title))}</caption>"
        return f"<table>{title}<thead>{head}</thead><tbody>{lines}</tbody></table>{notes}"


@dataclass(frozen=True)
class Noise:
    """Differential privacy of an answer.

    Args:
        epsilon, delta: That it cost; None where the record does not say.
        mechanism, mode, neighbours: In the record's words.
        scale: Of the noise; None where it does not say.
        more: What else the record says.
    """

    epsilon: float | None
    delta: float | None
    mechanism: str
    mode: str
    neighbours: str
    scale: float | None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answered:
    """What became of one question.

    Args:
        name, kind, text: Of the question, `text` for a person.
        status: `answered`, `refused` or `failed`.
        reason: Why it has no answer; empty where it has one.
        error: Type, message, party, step and exit code of what stopped it.
        sites: Participants that took part.
        summed: Of them, in the sum; None where the record does not say.
        left_out: Participants that did not take part, and why.
        tables: In order.
        files: Below the run folder.
        suppressed: Cells that were suppressed.
        rounds, seconds, down, up: What it cost; bytes from and to the coordinator.
        noise: None without differential privacy.
        protection: What the secure sum was, as recorded; empty without.
    """

    name: str
    kind: str
    text: str
    status: str
    reason: str
    error: Mapping[str, Any]
    sites: tuple[str, ...]
    summed: int | None
    left_out: tuple[tuple[str, str], ...]
    tables: tuple[AnswerTable, ...]
    files: tuple[str, ...]
    suppressed: int
    rounds: int | None
    seconds: float | None
    down: float | None
    up: float | None
    noise: Noise | None
    protection: Mapping[str, Any]

    @property
    def answered(self) -> bool:
        """Whether it has an answer."""
        return self.status == "answered"

    @property
    def asked(self) -> int:
        """Participants that have the data set, whether or not they took part."""
        return len({*self.sites, *(party for party, _ in self.left_out)})

    def table(self, place: int = 0) -> AnswerTable:
        """One of its tables; the first, where it has several.

        Raises:
            FedcoreError: It has no answer; the error says why.
            JobError: It has fewer tables.
        """
        if not self.answered:
            kind = error_kind(str(self.error.get("type") or "JobError"))
            party, step = self.error.get("party"), self.error.get("step")
            raise kind(
                str(self.error.get("message") or self.reason or f"{self.name} has no answer"),
                party=None if party is None else str(party),
                step=None if step is None else str(step),
            )
        if not 0 <= place < len(self.tables):
            raise JobError(f"{self.name} has {len(self.tables)} tables; there is no {place}", step=STEP)
        return self.tables[place]

    def value(self, name: str, *key: Any) -> Any:
        """As `AnswerTable.value` of the first table."""
        return self.table().value(name, *key)

    def _repr_html_(self) -> str:
        if not self.answered:
            return f"<p><b>{escape(plain(self.name))}</b>: {escape(plain(self.reason))}</p>"
        return "".join(table._repr_html_() for table in self.tables)


def answers_of(result: Mapping[str, Any]) -> dict[str, Answered]:
    """The answers of a `result.json` object by the names of their questions, in the order of the job."""
    found = result.get("answers")
    if not isinstance(found, Mapping):
        return {}
    return {
        str(name): _answered(str(name), told) for name, told in found.items() if isinstance(told, Mapping)
    }


def first_error(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The error of the first question without an answer; empty where all have one."""
    return next((each.error for each in answers_of(result).values() if not each.answered and each.error), {})


def _answered(name: str, told: Mapping[str, Any]) -> Answered:
    error, traffic = _mapping(told.get("error")), _mapping(told.get("bytes"))
    return Answered(
        name=name,
        kind=str(told.get("kind") or ""),
        text=str(told.get("text") or ""),
        status=str(told.get("status") or "unknown"),
        reason=str(error.get("message") or told.get("reason") or ""),
        error=error,
        sites=tuple(map(str, _list(told.get("sites")))),
        summed=count(told.get("summed")),
        left_out=tuple(
            (str(each.get("party") or "unknown"), str(each.get("reason") or "no reason recorded"))
            for each in map(_mapping, _list(told.get("left_out")))
        ),
        tables=tuple(_table(each) for each in _list(told.get("tables")) if isinstance(each, Mapping)),
        files=tuple(map(str, _list(told.get("files")))),
        suppressed=count(told.get("suppressed")) or 0,
        rounds=count(told.get("rounds")),
        seconds=finite(told.get("seconds")),
        down=finite(traffic.get("down")),
        up=finite(traffic.get("up")),
        noise=_noise(_mapping(told.get("privacy"))),
        protection=_mapping(told.get("protection")),
    )


def _table(told: Mapping[str, Any]) -> AnswerTable:
    if "keys" in told:
        return _groups(told)
    rows = _list(told.get("rows"))
    named = [each for row in rows if isinstance(row, Mapping) for each in row]
    heads = tuple(map(str, _list(told.get("heads")) or dict.fromkeys(named)))
    p_values = told.get("p_values")
    return AnswerTable(
        title=str(told.get("title") or ""),
        heads=heads,
        rows=tuple(_cells(row, heads) for row in rows),
        notes=tuple(map(str, _list(told.get("notes")))),
        p_values=tuple(map(str, _list(p_values))) if p_values is not None else ("p",),
    )


def _groups(told: Mapping[str, Any]) -> AnswerTable:
    """A table of `fedcore.analytics.table`: an interval takes two columns, a histogram one for each bin."""
    rows = [_mapping(each) for each in _list(told.get("rows"))]
    keys = tuple(map(str, _list(told.get("keys"))))
    values = [_mapping(row.get("values")) for row in rows]
    edges = _mapping(told.get("edges"))
    heads = [*keys]
    columns: list[list[Any]] = [[_key(row, place) for row in rows] for place in range(len(keys))]
    for name in dict.fromkeys(name for each in values for name in each):
        held = [each.get(name) for each in values]
        for head, cells in _spread(name, held, _list(edges.get(name))):
            heads.append(head)
            columns.append(cells)
    return AnswerTable(
        title=str(told.get("title") or ""),
        heads=tuple(heads),
        rows=tuple(zip(*columns, strict=True)) if columns else (),
        notes=tuple(map(str, _list(told.get("notes")))),
    )


def _spread(name: str, held: Sequence[Any], edges: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """Heads and cells of what was asked: one column, two of an interval, or one of each bin."""
    if edges:
        last = len(edges) - 2
        bins = [
            f"{name} [{_edge(low)}, {_edge(high)}{']' if place == last else ')'}"
            for place, (low, high) in enumerate(itertools.pairwise(edges))
        ]
        whole = [each if isinstance(each, list) else [each] * len(bins) for each in held]
        return [
            (head, [_cell(row[at]) if at < len(row) else None for row in whole])
            for at, head in enumerate(bins)
        ]
    if any(isinstance(each, Mapping) and "low" in each for each in held):
        return [
            (
                f"{name} {end}",
                [
                    _cell(each.get(end) if isinstance(each, Mapping) and "low" in each else each)
                    for each in held
                ],
            )
            for end in ("low", "high")
        ]
    return [(name, [_cell(each) for each in held])]


def _edge(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _key(row: Mapping[str, Any], place: int) -> Any:
    """A key of a group: `all` of a total, `missing` of rows without one."""
    held = _list(row.get("key"))
    each = held[place] if place < len(held) else None
    if each == {"all": True}:
        return "all"
    return "missing" if each is None else _cell(each)


def _cells(row: Any, heads: Sequence[str]) -> tuple[Cell, ...]:
    """Cells of a row, written by head or in order; what is absent is None, what is no cell is its text."""
    if isinstance(row, Mapping):
        held = [row.get(head) for head in heads]
    else:
        held = [*_list(row), *[None] * len(heads)][: len(heads)]
    return tuple(_cell(each) for each in held)


def _cell(value: Any) -> Any:
    read = from_json(value)
    return read if read is SUPPRESSED or read is None or isinstance(read, str | int | float) else str(read)


def _noise(told: Mapping[str, Any]) -> Noise | None:
    if not told:
        return None
    known = ("epsilon", "delta", "mechanism", "mode", "neighbours", "scale")
    return Noise(
        epsilon=finite(told.get("epsilon")),
        delta=finite(told.get("delta")),
        mechanism=str(told.get("mechanism") or ""),
        mode=str(told.get("mode") or ""),
        neighbours=str(told.get("neighbours") or ""),
        scale=finite(told.get("scale")),
        more={key: value for key, value in told.items() if key not in known},
    )


def cell_text(cell: Any, *, p: bool = False, whole: bool = False) -> str:
    """A cell as a person reads it, without what could act on a terminal.

    Args:
        cell: Of a table.
        p: Whether it is a p-value.
        whole: Whether a float is shown without decimals.
    """
    if cell is SUPPRESSED:
        return "suppressed"
    if isinstance(cell, float):
        return p_text(cell) if p else f"{cell:.0f}".replace("-", "−") if whole else number_text(cell)
    return "–" if cell is None else plain(cell)


def _begins(row: Sequence[Any], key: Sequence[Any]) -> bool:
    return len(row) >= len(key) and all(
        cell is not SUPPRESSED and (cell == wanted or str(cell) == str(wanted))
        for cell, wanted in zip(row, key, strict=False)
    )


def _mapping(value: Any) -> dict[str, Any]:
    return {str(key): each for key, each in value.items()} if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
