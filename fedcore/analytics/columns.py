"""Columns of a data set as a query sees them, and whether the two fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal, TypeAlias

from fedcore.analytics.condition import ORDERED, Compare, Value, compares
from fedcore.analytics.query import Query
from fedcore.errors import did_you_mean

Kind = Literal["number", "text", "flag", "date", "time"]


@dataclass(frozen=True)
class Column:
    """What is known of a column without a look at its rows.

    Args:
        kind: Of its values; `date` is a day, `time` a day with a clock time.
        unit: As the owner of the data wrote it; empty where there is none.
    """

    kind: Kind
    unit: str = ""


Catalogue: TypeAlias = Mapping[str, Mapping[str, Column]]
"""Data sets, and the columns of each."""


def problems(query: Query, columns: Mapping[str, Column]) -> list[str]:
    """All that stands between a query and a data set with these columns; each names the column."""
    found = [
        f'{query.dataset} has no column "{name}": {did_you_mean(name, columns)}'
        for name in query.columns
        if name not in columns
    ]
    known = {name: columns[name] for name in query.columns if name in columns}
    for name in query.groups:
        if name in known and known[name].kind == "number" and known[name].unit:
            found.append(
                f"{name} is measured in {known[name].unit}, which makes no keys. Cure: ask its histogram"
            )
    for each in query.asked:
        if each.column in known and each.statistic != "count" and known[each.column].kind != "number":
            found.append(
                f"{each.name} needs numbers; {each.column} holds {known[each.column].kind}. Cure: group by it, or count it"
            )
    for part in compares(query.condition):
        if part.column in known:
            found.extend(_misfit(part, known[part.column].kind))
    for name, unit in query.units:
        if name not in columns:
            found.append(f'{query.dataset} has no column "{name}": {did_you_mean(name, columns)}')
        elif columns[name].unit != unit:
            found.append(
                f"{name} is in {columns[name].unit or 'no stated unit'}; the query takes it in {unit}"
            )
    return found


def _misfit(part: Compare, kind: Kind) -> list[str]:
    if kind == "flag" and part.op in ORDERED:
        return [f"{part.column} holds true and false, which have no order; allowed: =, !=, in"]
    wrong = [value for value in part.values if not fits(value, kind)]
    how = {"date": ", as 2024-05-31", "time": ", as 2024-05-31T08:30:00"}.get(kind, "")
    return (
        [f"{part.column} holds {kind}; it is compared with {wrong[0]!r}; allowed: {kind}{how}"]
        if wrong
        else []
    )


def fits(value: Value, kind: Kind) -> bool:
    """Whether a value written in a query is of a column's kind."""
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "flag":
        return isinstance(value, bool)
    if not isinstance(value, str) or kind == "text":
        return isinstance(value, str)
    return _read_as(date if kind == "date" else datetime, value)


def _read_as(kind: type[date], value: str) -> bool:
    try:
        kind.fromisoformat(value)
    except ValueError:
        return False
    return True
