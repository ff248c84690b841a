"""A query read from JSON that somebody else sent: every key and type is checked before it means anything."""

from __future__ import annotations

from typing import Any

from fedcore.analytics.condition import MOST_DEPTH, STEP, Both, Compare, Condition, Not
from fedcore.analytics.query import Aggregate, Query
from fedcore.errors import JobError, did_you_mean

_QUERY = ("dataset", "where", "by", "ask", "margins", "units")
_ASK = ("statistic", "column", "bounds", "q", "width", "edges", "label")


def read(found: Any) -> Query:
    """The query that `Query.to_json` wrote.

    Args:
        found: JSON values.

    Raises:
        JobError: A key is unknown, a value is of another type or not allowed.
    """
    held = _object(found, _QUERY, "query")
    where = held.get("where")
    units = held.get("units", {})
    if not isinstance(units, dict) or not all(isinstance(each, str) for each in units.values()):
        raise _wrong("units", units, "an object of column and unit")
    margins = held.get("margins", False)
    if not isinstance(margins, bool):
        raise _wrong("margins", margins, "true or false")
    return Query(
        _text(held.get("dataset"), "dataset"),
        None if where is None else _condition(where, 1),
        tuple(_text(name, "by") for name in _list(held.get("by", []), "by")),
        tuple(_aggregate(each) for each in _list(held.get("ask", []), "ask")),
        margins,
        tuple(units.items()),
    )


def _aggregate(found: Any) -> Aggregate:
    held = _object(found, _ASK, "ask")
    bounds = held.get("bounds")
    if bounds is not None and len(_list(bounds, "bounds")) != 2:
        raise _wrong("bounds", bounds, "low and high")
    column, label = held.get("column"), held.get("label", "")
    return Aggregate(
        _text(held.get("statistic"), "statistic"),  # type: ignore[arg-type]  # checked there, with the nearest name
        None if column is None else _text(column, "column"),
        None if bounds is None else (_number(bounds[0], "bounds"), _number(bounds[1], "bounds")),
        None if held.get("q") is None else _number(held["q"], "q"),
        None if held.get("width") is None else _number(held["width"], "width"),
        tuple(_number(edge, "edges") for edge in _list(held.get("edges", []), "edges")),
        _text(label, "label"),
    )


def _condition(found: Any, depth: int) -> Condition:
    if depth > MOST_DEPTH:
        raise JobError(f"the condition is nested deeper than {MOST_DEPTH}", step=STEP)
    if isinstance(found, dict) and "not" in found:
        return Not(_condition(_object(found, ("not",), "where")["not"], depth + 1))
    for op in ("and", "or"):
        if isinstance(found, dict) and op in found:
            parts = _list(_object(found, (op,), "where")[op], op)
            return Both("and" if op == "and" else "or", tuple(_condition(part, depth + 1) for part in parts))
    held = _object(found, ("column", "op", "values"), "where")
    return Compare(
        _text(held.get("column"), "column"),
        _text(held.get("op"), "op"),  # type: ignore[arg-type]  # checked there, with the nearest name
        tuple(_list(held.get("values", []), "values")),
    )


def _object(found: Any, allowed: tuple[str, ...], what: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise _wrong(what, found, "an object")
    for name in found:
        if name not in allowed:
            raise JobError(f'{what} has no "{name}": {did_you_mean(str(name), allowed)}', step=STEP)
    return found


def _list(found: Any, what: str) -> list[Any]:
    if not isinstance(found, list):
        raise _wrong(what, found, "a list")
    return found


def _text(found: Any, what: str) -> str:
    if not isinstance(found, str):
        raise _wrong(what, found, "text")
    return found


def _number(found: Any, what: str) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise _wrong(what, found, "a number")
    try:
        return float(found)
    except OverflowError:
        raise _wrong(what, "a whole number of 309 digits or more", "a double") from None


def _wrong(what: str, found: Any, allowed: str) -> JobError:
    return JobError(f"{what}: {found!r:.80}; allowed: {allowed}", step=STEP)
