"""SQL read into a `Query`: one SELECT of group keys and aggregates over one table, and nothing else.

    SELECT sex, count(*), avg(age), quantile(time, 0.5) FROM lung WHERE age > 60 GROUP BY sex

The text is parsed, checked node by node against what is known here, and thrown away: names become names of the catalogue,
literals become values, and no part of the text reaches a database. What cannot be answered over many sites is refused
with the reason and the nearest that can.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from datetime import date
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from fedcore.analytics.columns import Catalogue, problems
from fedcore.analytics.condition import Both, Compare, Condition, Not, Op, Value
from fedcore.analytics.query import Aggregate, Query, Statistic
from fedcore.errors import JobError, did_you_mean

STEP = "sql"
_LONGEST = 20_000
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
_STATISTICS: dict[type[exp.Expression], Statistic] = {
    exp.Count: "count",
    exp.Sum: "sum",
    exp.Avg: "mean",
    exp.Variance: "variance",
    exp.Stddev: "stddev",
    exp.StddevSamp: "stddev",
    exp.Quantile: "quantile",
    exp.PercentileCont: "quantile",
    exp.Median: "quantile",
}
_NAMES = ("count", "sum", "avg", "var_samp", "stddev_samp", "quantile", "median")
_NOT_HERE = {
    "joins": "a row of one table would have to meet rows of another, which no site may show. Cure: ask one table; `fedcore psi` "
    "finds shared rows",
    "laterals": "a table is made of each row. Cure: ask one table",
    "having": "it would tell which groups a site hides. Cure: leave it out and filter the result",
    "order": "groups come sorted by their keys. Cure: leave it out and sort the result",
    "limit": "a result holds every group. Cure: leave it out, or take fewer groups with WHERE",
    "offset": "a result holds every group. Cure: leave it out",
    "distinct": "groups are distinct already. Cure: SELECT the column and count(*), GROUP BY the column",
    "with_": "a subquery makes rows of its own. Cure: put its condition into WHERE",
    "windows": "a window compares single rows. Cure: GROUP BY a column",
    "qualify": "a window compares single rows. Cure: GROUP BY a column",
    "sample": "each site would draw other rows. Cure: leave it out",
    "into": "a question writes nothing. Cure: leave INTO out",
}


def parse(sql: str, catalogue: Catalogue) -> Query:
    """The question that a SELECT asks.

    Args:
        sql: One statement, at most 20,000 characters.
        catalogue: Data sets that may be asked, and their columns.

    Raises:
        JobError: It is no SELECT of the kind that is known here, or names what the catalogue does not have.
    """
    select = _select(sql)
    extra = [
        name
        for name, value in select.args.items()
        if value and name not in ("expressions", "from_", "where", "group")
    ]
    for name in extra:
        raise _refused(
            name.rstrip("_").upper(),
            _NOT_HERE.get(name, "it has no meaning over many sites. Cure: leave it out"),
        )
    dataset, qualifiers = _table(select.args.get("from_"), catalogue)
    reader = _Reader(catalogue[dataset], dataset, qualifiers)
    groups = reader.groups(select.args.get("group"))
    shown, asked = reader.asked(select.expressions)
    for name in shown:
        if name not in groups:
            raise _refused(
                f"{name} without GROUP BY", f"it would show rows. Cure: GROUP BY {name}, or avg({name})"
            )
    if not asked:
        raise _refused("a SELECT without an aggregate", "it would show rows. Cure: add count(*)")
    where = select.args.get("where")
    query = Query(dataset, None if where is None else reader.condition(where.this, 1), groups, asked)
    if found := problems(query, catalogue[dataset]):
        raise JobError("; ".join(found), step=STEP)
    return query


def _select(sql: str) -> exp.Select:
    if not isinstance(sql, str) or not sql.strip() or len(sql) > _LONGEST or "\0" in sql:
        raise JobError(
            f"no SQL of 1 to {_LONGEST} characters. Cure: write SELECT count(*) FROM a table", step=STEP
        )
    try:
        found = sqlglot.parse(sql, dialect="duckdb")
    except SqlglotError as error:
        first = str(error).splitlines()[0].replace("\x1b[4m", "").replace("\x1b[0m", "")
        raise JobError(f"this is no SQL: {first}", step=STEP) from error
    except RecursionError:
        raise JobError(
            "the SQL is nested too deeply. Cure: write x IN (…) for many values", step=STEP
        ) from None
    if len(found) != 1 or found[0] is None:
        raise JobError(f"{len(found)} statements; allowed: one SELECT", step=STEP)
    if isinstance(found[0], exp.SetOperation):
        raise _refused(
            "UNION and the like", "one question has one condition. Cure: OR in WHERE, or two questions"
        )
    if not isinstance(found[0], exp.Select):
        raise JobError(f"{_kind(found[0])}: a question only reads; allowed: one SELECT", step=STEP)
    return found[0]


def _table(found: Any, catalogue: Catalogue) -> tuple[str, set[str]]:
    if not isinstance(found, exp.From):
        raise JobError(f"no FROM; allowed: {', '.join(sorted(catalogue)) or 'none'}", step=STEP)
    table = found.this
    if isinstance(table, exp.Subquery | exp.Select):
        raise _refused("a subquery", _NOT_HERE["with_"])
    if not isinstance(table, exp.Table) or not isinstance(table.this, exp.Identifier):
        raise _refused(
            f"FROM {_kind(table)}", "rows come from a data set of the catalogue only. Cure: FROM its name"
        )
    for name in ("joins", "laterals", "sample"):
        if table.args.get(name):
            raise _refused(name.upper().rstrip("S"), _NOT_HERE[name])
    if any(value for name, value in table.args.items() if name not in ("this", "alias")):
        raise _refused(
            "more than a name in FROM",
            "a table is named as in the catalogue, without a schema. Cure: FROM its name",
        )
    name = _match(table.this, catalogue, "data set")
    return name, {name.casefold(), table.name.casefold(), *([table.alias.casefold()] if table.alias else [])}


class _Reader:
    """Nodes of one SELECT, read against the columns of its table."""

    def __init__(self, columns: Collection[str], dataset: str, qualifiers: set[str]) -> None:
        self.columns, self.dataset, self.qualifiers = columns, dataset, qualifiers

    def groups(self, found: Any) -> tuple[str, ...]:
        """Columns of GROUP BY."""
        if found is None:
            return ()
        if any(value for name, value in found.args.items() if name != "expressions"):
            raise _refused(
                "GROUP BY with ROLLUP, CUBE, SETS or ALL",
                "keys are columns. Cure: `totals()` of a query adds totals",
            )
        for each in found.expressions:
            if isinstance(each, exp.Rollup | exp.Cube | exp.GroupingSets):
                raise _refused(
                    f"GROUP BY {_kind(each)}", "keys are columns. Cure: `totals()` of a query adds totals"
                )
            if isinstance(each, exp.Literal):
                raise _refused("GROUP BY a number", "keys are columns. Cure: name the column")
        return tuple(self.column(each, "GROUP BY") for each in found.expressions)

    def asked(self, found: Iterable[exp.Expression]) -> tuple[list[str], tuple[Aggregate, ...]]:
        """Columns that are shown as they are, and aggregates."""
        shown, asked = [], []
        for each in found:
            label = each.alias if isinstance(each, exp.Alias) else ""
            inner = each.this if isinstance(each, exp.Alias) else each
            if isinstance(inner, exp.Star) or (
                isinstance(inner, exp.Column) and isinstance(inner.this, exp.Star)
            ):
                raise _refused("SELECT *", "it would show rows. Cure: SELECT count(*), or avg of a column")
            if isinstance(inner, exp.Column):
                if label:
                    raise _refused(f"{inner.name} AS {label}", "a key keeps its name. Cure: leave AS out")
                shown.append(self.column(inner, "SELECT"))
            else:
                asked.append(self.aggregate(inner, label))
        return shown, tuple(asked)

    def aggregate(self, node: exp.Expression, label: str) -> Aggregate:
        """One aggregate."""
        if isinstance(node, exp.Window):
            raise _refused("a window function", _NOT_HERE["windows"])
        if isinstance(node, exp.Subquery | exp.Select):
            raise _refused("a subquery", _NOT_HERE["with_"])
        if isinstance(node, exp.Min | exp.Max):
            edge = 0.01 if isinstance(node, exp.Min) else 0.99
            of = self.column(node.this, _kind(node))
            raise _refused(
                _kind(node),
                f"it is the value of one row. The nearest that can be asked: quantile({of}, {edge})",
            )
        if isinstance(node, exp.VariancePop | exp.StddevPop):
            raise _refused(
                _kind(node), "it is not computed. The nearest that can be asked: var_samp, stddev_samp"
            )
        ordered = None
        if isinstance(node, exp.WithinGroup) and isinstance(node.this, exp.PercentileCont):
            ordered, node = node.expression, node.this
        statistic = _STATISTICS.get(type(node))
        if statistic is None:
            raise self.unknown(node)
        self.only(node, ("this", "expression", "quantile", "big_int"))
        if isinstance(node.this, exp.Distinct):
            raise _refused(
                "DISTINCT",
                "values at two sites may be the same. Cure: GROUP BY the column and count the groups",
            )
        if statistic == "count" and isinstance(node.this, exp.Star):
            return Aggregate("count", label=label)
        if statistic != "quantile":
            return Aggregate(statistic, self.column(node.this, _kind(node)), label=label)
        share, target = node.args.get("quantile") or node.args.get("expression"), node.this
        if ordered is not None:
            # percentile_cont(q) WITHIN GROUP (ORDER BY column)
            share, by = node.this, ordered.expressions
            if len(by) != 1 or not isinstance(by[0], exp.Ordered) or by[0].args.get("desc"):
                raise _refused(
                    "ORDER BY in WITHIN GROUP", "allowed: one column, rising. Cure: quantile(column, q)"
                )
            target = by[0].this
        q: Value = 0.5 if isinstance(node, exp.Median) else self.value(share)
        if isinstance(q, bool | str):
            raise JobError(f"quantile: {q!r}; allowed: a number above 0, below 1", step=STEP)
        return Aggregate("quantile", self.column(target, "quantile"), q=q, label=label)

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
                raise _refused("IS", "allowed: IS NULL, IS NOT NULL. Cure: = true")
            return Compare(self.column(node.this, "WHERE"), "is null")
        if isinstance(node, exp.Between):
            self.only(node, ("this", "low", "high"))
            low, high = self.value(node.args["low"]), self.value(node.args["high"])
            return Compare(self.column(node.this, "WHERE"), "between", (low, high))
        if isinstance(node, exp.In):
            if any(value for name, value in node.args.items() if name not in ("this", "expressions")):
                raise _refused("IN of a subquery", _NOT_HERE["with_"])
            values = tuple(self.value(each) for each in node.expressions)
            return Compare(self.column(node.this, "WHERE"), "in", values)
        if type(node) in _COMPARED:
            left, right = node.this, node.expression
            there, back = _COMPARED[type(node)]
            if isinstance(right, exp.Column) and not isinstance(left, exp.Column):
                return Compare(self.column(right, "WHERE"), back, (self.value(left),))
            if isinstance(right, exp.Column):
                raise _refused(
                    "one column against another",
                    "a condition compares a column with values. Cure: write the value",
                )
            return Compare(self.column(left, "WHERE"), there, (self.value(right),))
        if isinstance(node, exp.Subquery | exp.Exists | exp.Select):
            raise _refused("a subquery", _NOT_HERE["with_"])
        if isinstance(node, exp.Like | exp.ILike | exp.RegexpLike | exp.SimilarTo):
            raise _refused(_kind(node), "patterns single out names. Cure: IN with the values that are meant")
        raise _refused(
            f"{_kind(node)} in WHERE",
            "allowed: comparisons of a column with values, IN, BETWEEN, IS NULL, AND, OR, NOT. Cure: write it with these",
        )

    def column(self, node: Any, where: str) -> str:
        """A column by its name in the catalogue."""
        if not isinstance(node, exp.Column) or not isinstance(node.this, exp.Identifier):
            if isinstance(node, exp.Subquery | exp.Select):
                raise _refused("a subquery", _NOT_HERE["with_"])
            if isinstance(node, exp.Star):
                raise _refused(f"* in {where}", "only count(*) takes it. Cure: name a column")
            raise _refused(
                f"{_kind(node)} in {where}",
                "expressions on rows are not computed. Cure: name a column, and let the sites add it",
            )
        if (
            node.args.get("db")
            or node.args.get("catalog")
            or (node.table and node.table.casefold() not in self.qualifiers)
        ):
            raise JobError(f"{node.table}.{node.name}: allowed: columns of {self.dataset}", step=STEP)
        return _match(node.this, self.columns, "column", self.dataset)

    def value(self, node: Any) -> Value:
        """A literal."""
        if isinstance(node, exp.Paren):
            return self.value(node.this)
        if isinstance(node, exp.Boolean):
            return bool(node.this)
        if isinstance(node, exp.Neg):
            inner = self.value(node.this)
            if isinstance(inner, bool | str):
                raise _refused(
                    "minus before no number", "allowed: numbers, text, TRUE, FALSE, DATE '2024-05-31'"
                )
            return -inner
        day = isinstance(node, exp.Cast) and node.to.this == exp.DType.DATE
        if day and isinstance(node.this, exp.Literal) and node.this.is_string:
            return _day(node.this.name)
        if isinstance(node, exp.Null):
            raise _refused("a comparison with NULL", "it is true for no row. Cure: IS NULL")
        if not isinstance(node, exp.Literal):
            raise _refused(
                f"{_kind(node)} as a value",
                "allowed: numbers, text, TRUE, FALSE, DATE '2024-05-31'. Cure: write it out",
            )
        return str(node.name) if node.is_string else _number(str(node.name))

    def unknown(self, node: exp.Expression) -> JobError:
        """Refusal of a function, with the nearest name."""
        if isinstance(node, exp.Func):
            name = node.name if isinstance(node, exp.Anonymous) else node.sql_name()
            return JobError(
                f"{name.lower()} is not answered over sites: {did_you_mean(name.lower(), _NAMES)}", step=STEP
            )
        return _refused(
            f"{_kind(node)} in SELECT",
            f"expressions are not computed; allowed: group keys and {', '.join(_NAMES)}. Cure: compute "
            "it from the result",
        )

    def only(self, node: exp.Expression, allowed: Collection[str]) -> None:
        """Refuse what a node says more than is read here."""
        for name, value in node.args.items():
            if value and name not in allowed:
                raise _refused(f"{name} in {_kind(node)}", "it has no meaning here. Cure: leave it out")


def _match(node: exp.Identifier, allowed: Collection[str], what: str, of: str = "") -> str:
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


def _kind(node: Any) -> str:
    """A node by the word for it in SQL; never its text, which may be long."""
    if isinstance(node, exp.Func) and not isinstance(node, exp.Anonymous):
        return str(node.sql_name())
    return "nothing" if node is None else type(node).__name__.upper()


def _refused(what: str, why: str) -> JobError:
    return JobError(f"{what:.200} cannot be answered over many sites: {why}", step=STEP)
