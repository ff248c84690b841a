"""Which rows a query takes: comparisons of one column with values, joined by and, or, not.

Conditions follow SQL's logic of three values: a comparison with a missing value is neither true nor false, its negation
neither, and only rows for which the whole is true are taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from fedcore.errors import JobError, did_you_mean

Value: TypeAlias = int | float | str | bool
Op = Literal["=", "!=", "<", "<=", ">", ">=", "in", "between", "is null", "is not null"]

STEP = "query"
ORDERED = ("<", "<=", ">", ">=", "between")
MOST_DEPTH = 50
_MOST_VALUES = 1000


@dataclass(frozen=True)
class Compare:
    """One column against values written in the query.

    Args:
        column: Its name.
        op: Of `Op`.
        values: None for the null tests, low and high (both inside) for `between`, one or more for `in`, else one. A day
            is text: `2024-05-31`.
    """

    column: str
    op: Op
    values: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        if self.op not in get_args(Op):
            raise JobError(f'comparison "{self.op}": {did_you_mean(str(self.op), get_args(Op))}', step=STEP)
        named(self.column, "column")
        allowed = {"between": (2, 2), "in": (1, _MOST_VALUES), "is null": (0, 0), "is not null": (0, 0)}
        least, most = allowed.get(self.op, (1, 1))
        if not least <= len(self.values) <= most:
            raise JobError(
                f"{self.column} {self.op}: {len(self.values)} values; allowed: {least} to {most}", step=STEP
            )
        for value in self.values:
            if not isinstance(value, int | float | str) or (
                isinstance(value, float) and not math.isfinite(value)
            ):
                raise JobError(
                    f"{self.column} {self.op}: {value!r} is no value; allowed: finite numbers, text, true, false. Cure: "
                    "ask for missing values with is null",
                    step=STEP,
                )


@dataclass(frozen=True)
class Both:
    """Rows for which every part (`and`) or at least one part (`or`) is true."""

    op: Literal["and", "or"]
    parts: tuple[Condition, ...]

    def __post_init__(self) -> None:
        if self.op not in ("and", "or") or not self.parts:
            raise JobError(
                f'"{self.op}" of {len(self.parts)} parts; allowed: and, or of 1 or more', step=STEP
            )


@dataclass(frozen=True)
class Not:
    """Rows for which the part is false; one that is neither true nor false stays out."""

    part: Condition


Condition: TypeAlias = Compare | Both | Not


def tested(condition: Condition | None) -> set[str]:
    """Columns that a condition reads."""
    if condition is None:
        return set()
    if isinstance(condition, Compare):
        return {condition.column}
    parts = (condition.part,) if isinstance(condition, Not) else condition.parts
    return set().union(*(tested(part) for part in parts))


def compares(condition: Condition | None) -> list[Compare]:
    """Its comparisons, in order."""
    if condition is None:
        return []
    if isinstance(condition, Compare):
        return [condition]
    parts = (condition.part,) if isinstance(condition, Not) else condition.parts
    return [found for part in parts for found in compares(part)]


def depth(condition: Condition | None) -> int:
    """Layers of a condition; 0 when there is none."""
    most, layer = 0, [] if condition is None else [condition]
    while layer:
        most += 1
        layer = [
            inner
            for each in layer
            if not isinstance(each, Compare)
            for inner in ((each.part,) if isinstance(each, Not) else each.parts)
        ]
    return most


def named(name: Any, what: str) -> None:
    """Refuse what is no name of `what`."""
    if not isinstance(name, str) or not name or "\0" in name or len(name) > 200:
        raise JobError(
            f"{name!r:.60} is no name of a {what}; allowed: text of 1 to 200 characters", step=STEP
        )


def to_json(condition: Condition) -> dict[str, Any]:
    """JSON values."""
    if isinstance(condition, Compare):
        return {"column": condition.column, "op": condition.op, "values": list(condition.values)}
    if isinstance(condition, Not):
        return {"not": to_json(condition.part)}
    return {condition.op: [to_json(part) for part in condition.parts]}


def shown(condition: Condition | None) -> str:
    """For a person to read."""
    if isinstance(condition, Not):
        return f"not ({shown(condition.part)})"
    if isinstance(condition, Both):
        return f" {condition.op} ".join(
            f"({shown(part)})" if isinstance(part, Both) else shown(part) for part in condition.parts
        )
    if condition is None:
        return ""
    values = [repr(value) if isinstance(value, str) else str(value).lower() for value in condition.values]
    if condition.op == "in":
        return f"{condition.column} in ({', '.join(values)})"
    return " ".join([condition.column, condition.op, " and ".join(values)]).rstrip()
