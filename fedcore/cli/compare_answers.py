"""Two analytics runs side by side: the cells of their tables that are not the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedcore.analytics.disclosure import from_json, to_json
from fedcore.coordinator.record import Record
from fedcore.coordinator.record_analytics import answers_of, cell_text

ABSENT = "(absent)"
MOST = 200


def differing(first: Record, second: Record) -> dict[str, list[Any]]:
    """Cells that differ.

    Args:
        first, second: Of `fedcore.coordinator.record.parse`.

    Returns:
        `question: row, column` to both values, as JSON has them: `{"suppressed": true}` for a suppressed one,
        `(absent)` for one that a run does not have.
    """
    held = [_cells(record) for record in (first, second)]
    names = dict.fromkeys(name for each in held for name in each)
    pairs = {name: [each.get(name, ABSENT) for each in held] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def shown(found: Mapping[str, list[Any]]) -> list[tuple[str, str, str]]:
    """Name and both values in words, as many as a person reads."""
    return [
        (name, *(cell_text(from_json(each)) for each in pair))  # type: ignore[misc]  # a pair is of two
        for name, pair in list(found.items())[:MOST]
    ]


def _cells(record: Record) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, answer in answers_of(record.raw).items():
        if not answer.answered:
            cells[name] = answer.status
        for table in answer.tables:
            for row in table.rows:
                texts = [str(each) for each in row[:1]]
                while len(texts) < len(row) and f"{name}: {' '.join(texts)}, {table.heads[-1]}" in cells:
                    texts.append(str(row[len(texts)]))
                for head, value in zip(table.heads[1:], row[1:], strict=True):
                    cells[f"{name}: {' '.join(texts)}, {head}"] = to_json(value)
    return cells
