"""SQL read into a `Query`: one SELECT of group keys and aggregates over one table, and nothing else.

    SELECT sex, count(*), avg(age), quantile(time, 0.5) FROM lung WHERE age > 60 GROUP BY sex

Aggregates: count, sum, avg, var_samp, stddev_samp, median, and

    quantile(time, 0.9)             also quantile(time, 0.9, 10): narrowed to an interval of 10, in the column's unit
    histogram(age, 0, 40, 60, 100)  values from edge to edge
    min(time), max(time)            no row's value, but an interval about the lowest and the highest (`Query.min`)
    avg(clamp(age, 0, 120))         values are moved into bounds first: a value below 0 counts as 0. What is told under
                                    differential privacy needs it, but for counts and histograms; it fits every
                                    aggregate of values, as in quantile(clamp(time, 0, 1000), 0.5)

The text is parsed, checked node by node against what is known here, and thrown away: names become names of the catalogue,
literals become values, and no part of the text reaches a database. What cannot be answered over many sites is refused
with the reason and the nearest that can.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import SqlglotError

from fedcore.analytics.columns import Catalogue, Column, problems
from fedcore.analytics.condition import Condition
from fedcore.analytics.query import Aggregate, Query, Statistic
from fedcore.analytics.sql_condition import STEP, SUBQUERY, ConditionReader, kind, match, refused
from fedcore.errors import JobError, did_you_mean

_LONGEST = 20_000
_QUANTILE = "quantile of"
_STATISTICS: dict[type[exp.Expression], Statistic] = {
    exp.Count: "count",
    exp.Sum: "sum",
    exp.Avg: "mean",
    exp.Variance: "variance",
    exp.Stddev: "stddev",
    exp.StddevSamp: "stddev",
    exp.Min: "min",
    exp.Max: "max",
}
_NAMES = ("count", "sum", "avg", "var_samp", "stddev_samp", "quantile", "median", "histogram", "min", "max")
_NOT_HERE = {
    "joins": "a row of one table would have to meet rows of another, which no site may show. Cure: ask one table; `fedcore psi` "
    "finds shared rows",
    "laterals": "a table is made of each row. Cure: ask one table",
    "having": "it would tell which groups a site hides. Cure: leave it out and filter the result",
    "order": "groups come sorted by their keys. Cure: leave it out and sort the result",
    "limit": "a result holds every group. Cure: leave it out, or take fewer groups with WHERE",
    "offset": "a result holds every group. Cure: leave it out",
    "distinct": "groups are distinct already. Cure: SELECT the column and count(*), GROUP BY the column",
    "with_": SUBQUERY,
    "windows": "a window compares single rows. Cure: GROUP BY a column",
    "qualify": "a window compares single rows. Cure: GROUP BY a column",
    "sample": "each site would draw other rows. Cure: leave it out",
    "into": "a question writes nothing. Cure: leave INTO out",
}


def parse(sql: str, catalogue: Catalogue | None = None) -> Query:
    """The question that a SELECT asks.

    Args:
        sql: One statement, at most 20,000 characters.
        catalogue: Data sets that may be asked, and their columns; where they are not known yet, any name is taken as it is
            written.

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
        raise refused(
            name.rstrip("_").upper(),
            _NOT_HERE.get(name, "it has no meaning over many sites. Cure: leave it out"),
        )
    dataset, qualifiers = _table(select.args.get("from_"), catalogue)
    columns = None if catalogue is None else catalogue[dataset]
    reader = _Reader(columns, dataset, qualifiers)
    groups = reader.groups(select.args.get("group"))
    shown, asked = reader.asked(select.expressions)
    for name in shown:
        if name not in groups:
            raise refused(
                f"{name} without GROUP BY", f"it would show rows. Cure: GROUP BY {name}, or avg({name})"
            )
    if not asked:
        raise refused("a SELECT without an aggregate", "it would show rows. Cure: add count(*)")
    where = select.args.get("where")
    query = Query(dataset, None if where is None else reader.condition(where.this, 1), groups, asked)
    if columns is not None and (found := problems(query, columns)):
        raise JobError("; ".join(found), step=STEP)
    return query


def parse_condition(text: str, dataset: str, columns: Mapping[str, Column] | None = None) -> Condition:
    """The condition that a text after WHERE says: `age > 60 AND sex IN ('f', 'm')`.

    Args:
        text: At most 20,000 characters.
        dataset: Whose rows are meant; a column may be written with its name before it.
        columns: Of the data set; where they are not known yet, any name is taken as it is written.

    Raises:
        JobError: It is none, or names what the data set does not have.
    """
    if not isinstance(text, str) or not text.strip():
        raise JobError("no condition. Cure: write one, as age > 60, or leave it out", step=STEP)
    # Between brackets on lines of their own: no comment and no bracket in the text gets out of the condition unseen.
    select = _select(f"SELECT count(*) FROM held WHERE (\n{text}\n)")
    said = sorted(name for name, value in select.args.items() if value)
    where = select.args.get("where")
    if where is None or said != ["expressions", "from_", "where"] or not isinstance(where.this, exp.Paren):
        raise JobError(
            "more than a condition; allowed: comparisons of a column with values, IN, BETWEEN, IS NULL, AND, OR, NOT",
            step=STEP,
        )
    condition = _Reader(columns, dataset, {dataset.casefold()}).condition(where.this, 1)
    if columns is not None and (found := problems(Query(dataset, condition), columns)):
        raise JobError("; ".join(found), step=STEP)
    return condition


def _select(sql: str) -> exp.Select:
    if not isinstance(sql, str) or not sql.strip() or len(sql) > _LONGEST or "\0" in sql:
        raise JobError(
            f"no SQL of 1 to {_LONGEST} characters. Cure: write SELECT count(*) FROM a table", step=STEP
        )
    try:
        dialect = DuckDB()
        tokens = dialect.tokenize(sql)
        for token, after in pairwise(tokens):
            # sqlglot drops a third argument of quantile without a word; under a name of ours it keeps all of them.
            if token.text.casefold() in ("quantile", "quantile_cont") and after.text == "(":
                token.text = _QUANTILE
        found = dialect.parser().parse(tokens, sql)
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
        raise refused(
            "UNION and the like", "one question has one condition. Cure: OR in WHERE, or two questions"
        )
    if not isinstance(found[0], exp.Select):
        raise JobError(f"{kind(found[0])}: a question only reads; allowed: one SELECT", step=STEP)
    return found[0]


def _table(found: Any, catalogue: Catalogue | None) -> tuple[str, set[str]]:
    if not isinstance(found, exp.From):
        allowed = "the name of a data set" if catalogue is None else ", ".join(sorted(catalogue)) or "none"
        raise JobError(f"no FROM; allowed: {allowed}", step=STEP)
    table = found.this
    if isinstance(table, exp.Subquery | exp.Select):
        raise refused("a subquery", SUBQUERY)
    if not isinstance(table, exp.Table) or not isinstance(table.this, exp.Identifier):
        raise refused(
            f"FROM {kind(table)}", "rows come from a data set of the catalogue only. Cure: FROM its name"
        )
    for name in ("joins", "laterals", "sample"):
        if table.args.get(name):
            raise refused(name.upper().rstrip("S"), _NOT_HERE[name])
    if any(value for name, value in table.args.items() if name not in ("this", "alias")):
        raise refused(
            "more than a name in FROM",
            "a table is named as in the catalogue, without a schema. Cure: FROM its name",
        )
    name = str(table.name) if catalogue is None else match(table.this, catalogue, "data set")
    return name, {name.casefold(), table.name.casefold(), *([table.alias.casefold()] if table.alias else [])}


class _Reader(ConditionReader):
    """Nodes of one SELECT."""

    def groups(self, found: Any) -> tuple[str, ...]:
        """Columns of GROUP BY."""
        if found is None:
            return ()
        if any(value for name, value in found.args.items() if name != "expressions"):
            raise refused(
                "GROUP BY with ROLLUP, CUBE, SETS or ALL",
                "keys are columns. Cure: `totals()` of a query adds totals",
            )
        for each in found.expressions:
            if isinstance(each, exp.Rollup | exp.Cube | exp.GroupingSets):
                raise refused(
                    f"GROUP BY {kind(each)}", "keys are columns. Cure: `totals()` of a query adds totals"
                )
            if isinstance(each, exp.Literal):
                raise refused("GROUP BY a number", "keys are columns. Cure: name the column")
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
                raise refused("SELECT *", "it would show rows. Cure: SELECT count(*), or avg of a column")
            if isinstance(inner, exp.Column):
                if label:
                    raise refused(f"{inner.name} AS {label}", "a key keeps its name. Cure: leave AS out")
                shown.append(self.column(inner, "SELECT"))
            else:
                asked.append(self.aggregate(inner, label))
        return shown, tuple(asked)

    def aggregate(self, node: exp.Expression, label: str) -> Aggregate:
        """One aggregate."""
        if isinstance(node, exp.Window):
            raise refused("a window function", _NOT_HERE["windows"])
        if isinstance(node, exp.Subquery | exp.Select):
            raise refused("a subquery", SUBQUERY)
        if isinstance(node, exp.VariancePop | exp.StddevPop):
            raise refused(
                kind(node), "it is not computed. The nearest that can be asked: var_samp, stddev_samp"
            )
        if isinstance(node, exp.WithinGroup | exp.PercentileCont | exp.Median):
            return self.percentile(node, label)
        if isinstance(node, exp.Anonymous) and node.name in (_QUANTILE, "histogram"):
            if not node.expressions:
                raise refused(f"{node.name} of nothing", "it needs a column. Cure: name one")
            column, bounds = self.measured(node.expressions[0], node.name)
            numbers = [self.number(each, node.name) for each in node.expressions[1:]]
            if node.name == "histogram":
                return Aggregate("histogram", column, bounds, edges=tuple(numbers), label=label)
            if not 1 <= len(numbers) <= 2:
                raise refused(
                    "quantile of this form", "allowed: quantile(column, q), quantile(column, q, width)"
                )
            width = numbers[1] if len(numbers) > 1 else None
            return Aggregate("quantile", column, bounds, numbers[0], width, label=label)
        statistic = _STATISTICS.get(type(node))
        if statistic is None:
            raise self.unknown(node)
        self.only(node, ("this", "big_int"))
        if isinstance(node.this, exp.Distinct):
            raise refused(
                "DISTINCT",
                "values at two sites may be the same. Cure: GROUP BY the column and count the groups",
            )
        if statistic == "count" and isinstance(node.this, exp.Star):
            return Aggregate("count", label=label)
        column, bounds = self.measured(node.this, kind(node))
        return Aggregate(statistic, column, bounds, label=label)

    def percentile(self, node: exp.Expression, label: str) -> Aggregate:
        """`median(column)`, or `percentile_cont(q) WITHIN GROUP (ORDER BY column)`."""
        if isinstance(node, exp.Median):
            self.only(node, ("this",))
            column, bounds = self.measured(node.this, "median")
            return Aggregate("quantile", column, bounds, q=0.5, label=label)
        share, by = node.this, node.args.get("expression")
        if not isinstance(share, exp.PercentileCont) or not isinstance(by, exp.Order):
            raise refused(kind(node), "Cure: quantile(column, q)")
        ordered = by.expressions
        if len(ordered) != 1 or not isinstance(ordered[0], exp.Ordered) or ordered[0].args.get("desc"):
            raise refused(
                "ORDER BY in WITHIN GROUP", "allowed: one column, rising. Cure: quantile(column, q)"
            )
        column, bounds = self.measured(ordered[0].this, "quantile")
        return Aggregate("quantile", column, bounds, q=self.number(share.this, "quantile"), label=label)

    def measured(self, node: Any, where: str) -> tuple[str, tuple[float, float] | None]:
        """A column, and the bounds of `clamp(column, low, high)`."""
        if not isinstance(node, exp.Anonymous) or node.name.casefold() != "clamp":
            return self.column(node, where), None
        if len(node.expressions) != 3:
            raise refused("clamp of this form", "allowed: clamp(column, low, high)")
        of, low, high = node.expressions
        return self.column(of, where), (self.number(low, "clamp"), self.number(high, "clamp"))

    def number(self, node: Any, where: str) -> float:
        """A literal that is a number."""
        value = self.value(node)
        if isinstance(value, bool | str):
            what = "a number above 0, below 1" if where == _QUANTILE else "a number"
            raise JobError(f"{where.split()[0]}: {value!r}; allowed: {what}", step=STEP)
        return float(value)

    def unknown(self, node: exp.Expression) -> JobError:
        """Refusal of a function, with the nearest name."""
        if isinstance(node, exp.Func):
            name = node.name if isinstance(node, exp.Anonymous) else node.sql_name()
            return JobError(
                f"{name.lower()} is not answered over sites: {did_you_mean(name.lower(), _NAMES)}", step=STEP
            )
        return refused(
            f"{kind(node)} in SELECT",
            f"expressions are not computed; allowed: group keys and {', '.join(_NAMES)}. Cure: compute "
            "it from the result",
        )
