"""The condition of an SQL text, node by node: columns by name, literals by value, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Collection
from datetime import date
from typing import Any

from sqlglot import exp

from fedcore.analytics.condition import Both, Compare, Condition, Not, Op, Value
from fedcore.errors import JobError, did_you_mean

STEP = "sql"
SUBQUERY = "a subquery makes rows of its own. Cure: put its condition into WHERE"
_DEEPEST = 200
_COMPARED: dict[type[exp.Expression], tuple[Op, Op]] = {
    exp.EQ: ("=", "="),
    exp.NEQ: ("!=", "!="),
    exp.LT: ("<", ">"),
    exp.LTE: ("<=", ">="),
    exp.GT: (">", "<"),
    exp.GTE: (">=", "<="),
}
"""Operators, and what they are with the sides exchanged."""


class ConditionReader:
    """Nodes read against the columns of a table.

    Args:
        columns: That there are; None takes any name as it is written.
        dataset: The table's name.
        qualifiers: What may stand before a column's name, case folded.
    """

    def __init__(self, columns: Collection[str] | None, dataset: str, qualifiers: Collection[str]) -> None:
        self.columns, self.dataset, self.qualifiers = columns, dataset, qualifiers

    def condition(self, node: Any, depth: int) -> Condition:
        """What WHERE says."""
        if depth > _DEEPEST:
            raise JobError(
                "the condition is nested too deeply. Cure: write x IN (…) for many values", step=STEP
            )
        if isinstance(node, exp.Paren):
            return self.condition(node.this, depth + 1)
        if isinstance(node, exp.Not):
            part = self.condition(node.this, depth + 1)
            if isinstance(part, Compare) and part.op == "is null":
                return Compare(part.column, "is not null")
            return Not(part)
        if isinstance(node, exp.And | exp.Or):
            # A chain of the same word is one list, whatever its length.
            parts = tuple(self.condition(each, depth + 1) for each in node.flatten())
            return Both("and" if isinstance(node, exp.And) else "or", parts)
        return self.comparison(node)

    def comparison(self, node: Any) -> Condition:
        """One comparison of a column with values."""
        if isinstance(node, exp.Is):
            if not isinstance(node.expression, exp.Null):
                raise refused("IS", "allowed: IS NULL, IS NOT NULL. Cure: = true")
            return Compare(self.column(node.this, "WHERE"), "is null")
        if isinstance(node, exp.Between):
            self.only(node, ("this", "low", "high"))
            low, high = self.value(node.args["low"]), self.value(node.args["high"])
            return Compare(self.column(node.this, "WHERE"), "between", (low, high))
        if isinstance(node, exp.In):
            if any(value for name, value in node.args.items() if name not in ("this", "expressions")):
                raise refused("IN of a subquery", SUBQUERY)
            values = tuple(self.value(each) for each in node.expressions)
            return Compare(self.column(node.this, "WHERE"), "in", values)
        if type(node) in _COMPARED:
            left, right = node.this, node.expression
            there, back = _COMPARED[type(node)]
            if isinstance(right, exp.Column) and not isinstance(left, exp.Column):
                return Compare(self.column(right, "WHERE"), back, (self.value(left),))
            if isinstance(right, exp.Column):
                raise refused(
                    "one column against another",
                    "a condition compares a column with values. Cure: write the value",
                )
            return Compare(self.column(left, "WHERE"), there, (self.value(right),))
        if isinstance(node, exp.Subquery | exp.Exists | exp.Select):
            raise refused("a subquery", SUBQUERY)
        if isinstance(node, exp.Like | exp.ILike | exp.RegexpLike | exp.SimilarTo):
            raise refused(kind(node), "patterns single out names. Cure: IN with the values that are meant")
        raise refused(
            f"{kind(node)} in WHERE",
            "allowed: comparisons of a column with values, IN, BETWEEN, IS NULL, AND, OR, NOT. Cure: write it with these",
        )

    def column(self, node: Any, where: str) -> str:
        """A column by its name in the catalogue."""
        if not isinstance(node, exp.Column) or not isinstance(node.this, exp.Identifier):
            if isinstance(node, exp.Subquery | exp.Select):
                raise refused("a subquery", SUBQUERY)
            if isinstance(node, exp.Star):
                raise refused(f"* in {where}", "only count(*) takes it. Cure: name a column")
            raise refused(
                f"{kind(node)} in {where}",
                "expressions on rows are not computed. Cure: name a column, and let the sites add it",
            )
        if (
            node.args.get("db")
            or node.args.get("catalog")
            or (node.table and node.table.casefold() not in self.qualifiers)
        ):
            name = f"{node.table}.{node.name}"[:200]
            raise JobError(
                f'{name}: allowed: columns of {self.dataset}. Cure: a name with a dot stands in quotes, "{name}"',
                step=STEP,
            )
        if self.columns is None:
            return str(node.name)
        return match(node.this, self.columns, "column", self.dataset)

    def value(self, node: Any) -> Value:
        """A literal."""
        if isinstance(node, exp.Paren):
            return self.value(node.this)
        if isinstance(node, exp.Boolean):
            return bool(node.this)
        if isinstance(node, exp.Neg):
            inner = self.value(node.this)
            if isinstance(inner, bool | str):
                raise refused(
                    "minus before no number", "allowed: numbers, text, TRUE, FALSE, DATE '2024-05-31'"
                )
            return -inner
        day = isinstance(node, exp.Cast) and node.to.this == exp.DType.DATE
        if day and isinstance(node.this, exp.Literal) and node.this.is_string:
            return _day(node.this.name)
        if isinstance(node, exp.Null):
            raise refused("a comparison with NULL", "it is true for no row. Cure: IS NULL")
        if not isinstance(node, exp.Literal):
            raise refused(
                f"{kind(node)} as a value",
                "allowed: numbers, text, TRUE, FALSE, DATE '2024-05-31'. Cure: write it out",
            )
        return str(node.name) if node.is_string else _number(str(node.name))

    def only(self, node: exp.Expression, allowed: Collection[str]) -> None:
        """Refuse what a node says more than is read here."""
        for name, value in node.args.items():
            if value and name not in allowed:
                raise refused(f"{name} in {kind(node)}", "it has no meaning here. Cure: leave it out")


def match(node: exp.Identifier, allowed: Collection[str], what: str, of: str = "") -> str:
    """The name that is meant: as written, or the one that differs in case only, as SQL has it for names without quotes."""
    name = str(node.name)
    if name in allowed:
        return name
    folded = [each for each in allowed if each.casefold() == name.casefold()]
    if len(folded) == 1 and not node.args.get("quoted"):
        return folded[0]
    raise JobError(
        f'{of or "the federation"} has no {what} "{name:.200}": {did_you_mean(name[:200], allowed)}',
        step=STEP,
    )


def _number(text: str) -> Value:
    try:
        value: int | float = int(text) if text.isdigit() and len(text) < 40 else float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise JobError(f"{text:.40} is no number; allowed: finite numbers", step=STEP)
    return value


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise JobError(f"DATE {text!r:.40}; allowed: a day, as 2024-05-31", step=STEP) from None


def kind(node: Any) -> str:
    """A node by the word for it in SQL; never its text, which may be long."""
    if isinstance(node, exp.Func) and not isinstance(node, exp.Anonymous):
        return str(node.sql_name())
    return "nothing" if node is None else type(node).__name__.upper()


def refused(what: str, why: str) -> JobError:
    return JobError(f"{what:.200} cannot be answered over many sites: {why}", step=STEP)
