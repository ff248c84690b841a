"""A question to a data set that many sites hold: described here, evaluated later.

A query names a data set, which rows, by which keys they are grouped and what is asked of each group. It holds columns
and values apart, never a text that somebody else would have to parse. Its canonical text, and the hash of it, are what
an approval is bound to and what a later question is compared with.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

from fedcore.analytics.condition import (
    MOST_DEPTH,
    STEP,
    Both,
    Compare,
    Condition,
    Op,
    depth,
    named,
    shown,
    tested,
)
from fedcore.analytics.condition import to_json as condition_json
from fedcore.errors import JobError, did_you_mean

Statistic = Literal["count", "sum", "mean", "variance", "stddev", "quantile", "histogram", "min", "max"]

_MOST_EDGES = 1000


@dataclass(frozen=True)
class Aggregate:
    """What is asked of each group.

    Args:
        statistic: Of `Statistic`.
        column: Over whose values that are not missing; none: rows, for `count` only.
        bounds: Of all but `count` and `histogram`: values are moved into [low, high] first.
        q: Of `quantile`: above 0, below 1.
        width: Of `quantile`, `min`, `max`: to which the answer is narrowed, in the column's unit; a thousandth of its size,
            or of the bounds, when None.
        edges: Of `histogram`: rising; bins hold their lower edge, the last also its upper one.
        label: Of the column in the result; made of the rest when empty.
    """

    statistic: Statistic
    column: str | None = None
    bounds: tuple[float, float] | None = None
    q: float | None = None
    width: float | None = None
    edges: tuple[float, ...] = ()
    label: str = ""

    def __post_init__(self) -> None:
        if self.statistic not in get_args(Statistic):
            raise JobError(
                f'statistic "{self.statistic}": {did_you_mean(str(self.statistic), get_args(Statistic))}',
                step=STEP,
            )
        if self.column is not None:
            named(self.column, "column")
        elif self.statistic != "count":
            raise JobError(f"{self.statistic} needs a column; only count goes without", step=STEP)
        if self.bounds is not None:
            object.__setattr__(self, "bounds", tuple(map(float, self.bounds)))
        for name in ("q", "width"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(value))
        bounded = self.statistic not in ("count", "histogram")
        if self.bounds is not None and not (
            bounded and all(map(math.isfinite, self.bounds)) and self.bounds[0] < self.bounds[1]
        ):
            raise JobError(
                f"{self.name}: bounds {self.bounds}; allowed: low below high, both finite, and none for a count or "
                "histogram",
                step=STEP,
            )
        if (self.statistic == "quantile") != (self.q is not None) or not 0 < (
            0.5 if self.q is None else self.q
        ) < 1:
            raise JobError(
                f"{self.name}: q is {self.q}; allowed: above 0, below 1, for a quantile", step=STEP
            )
        if self.width is not None and not (self.searched and 0 < self.width < math.inf):
            raise JobError(
                f"{self.name}: width {self.width}; allowed: above 0, for a quantile, min or max", step=STEP
            )
        rising = all(low < high for low, high in zip(self.edges, self.edges[1:], strict=False))
        many = 2 <= len(self.edges) <= _MOST_EDGES and all(map(math.isfinite, self.edges))
        if (self.statistic == "histogram") != bool(self.edges) or (self.edges and not (rising and many)):
            raise JobError(
                f"{self.name}: {len(self.edges)} edges; allowed: 2 to {_MOST_EDGES} finite, rising, for a histogram",
                step=STEP,
            )

    @property
    def searched(self) -> bool:
        """Whether rounds of counts between edges find it."""
        return self.statistic in ("quantile", "min", "max")

    @property
    def name(self) -> str:
        """Of the column in the result."""
        if self.label:
            return self.label
        more = "" if self.q is None else f", {self.q:g}"
        return f"{self.statistic}({self.column or '*'}{more})"


@dataclass(frozen=True)
class Query:
    """One question; each method gives a new one.

    Args:
        dataset: Its name in the catalogues of the sites.
        condition: Which rows; all when None.
        groups: Columns of the keys.
        asked: Of each group.
        margins: Whether totals over the keys are asked too.
        units: In which unit the asker takes a column to be; a site with another refuses.

    Example:
        >>> ask = Query("lung").where("age", ">", 60).group_by("sex").count().mean("age")
        >>> ask.text
        'lung where age > 60 by sex: count(*), mean(age)'
    """

    dataset: str
    condition: Condition | None = None
    groups: tuple[str, ...] = ()
    asked: tuple[Aggregate, ...] = ()
    margins: bool = False
    units: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        named(self.dataset, "data set")
        for name in self.groups:
            named(name, "column")
        if len(set(self.groups)) < len(self.groups) or len(self.groups) > 2:
            raise JobError(
                f"group keys {', '.join(self.groups)}; allowed: none, one or two, each once", step=STEP
            )
        names = [*self.groups, *(each.name for each in self.asked)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise JobError(f"{', '.join(twice)} is asked twice. Cure: leave one out, or label it", step=STEP)
        if depth(self.condition) > MOST_DEPTH:
            raise JobError(f"the condition is nested deeper than {MOST_DEPTH}", step=STEP)
        object.__setattr__(self, "units", tuple(sorted(dict(self.units).items())))

    def where(self, column: str | Condition, op: Op | None = None, value: Any = None) -> Query:
        """Rows that also meet this.

        Args:
            column: Its name; or a whole condition, as text after WHERE in SQL: `age > 60 AND sex = 1`.
            op: Of `Op`; `=` where there is a value only.
            value: One value; low and high for `between`; a list for `in`; none for null tests.

        Raises:
            JobError: The comparison or the text is none.
        """
        if isinstance(column, str) and op is None and value is None:
            from fedcore.analytics.sql import parse_condition

            part = parse_condition(column, self.dataset)
        elif isinstance(column, str):
            how = "=" if op is None else op
            several = how in ("in", "between")
            if several and (isinstance(value, str) or not isinstance(value, Sequence)):
                raise JobError(f"{column} {how}: {value!r}; allowed: a list of values", step=STEP)
            values = tuple(value) if several else () if how in ("is null", "is not null") else (value,)
            part = Compare(column, how, values)
        else:
            part = column
        if self.condition is None:
            return replace(self, condition=part)
        held = self.condition
        before = held.parts if isinstance(held, Both) and held.op == "and" else (held,)
        return replace(self, condition=Both("and", (*before, part)))

    def group_by(self, *columns: str) -> Query:
        """A result for each value, or pair of values, of these columns; a missing value is a key of its own."""
        return replace(self, groups=(*self.groups, *columns))

    def totals(self) -> Query:
        """Totals over the keys beside the groups."""
        return replace(self, margins=True)

    def measured_in(self, **units: str) -> Query:
        """State the unit in which columns are taken to be."""
        return replace(self, units=(*self.units, *units.items()))

    def ask(self, *asked: Aggregate) -> Query:
        """More of each group."""
        return replace(self, asked=(*self.asked, *asked))

    def count(self, column: str | None = None, *, label: str = "") -> Query:
        """Rows, or values of a column that are not missing."""
        return self.ask(Aggregate("count", column, label=label))

    def sum(self, column: str, bounds: tuple[float, float] | None = None, *, label: str = "") -> Query:
        """Sum of the values that are not missing."""
        return self.ask(Aggregate("sum", column, bounds, label=label))

    def mean(self, column: str, bounds: tuple[float, float] | None = None, *, label: str = "") -> Query:
        """Mean of the values that are not missing."""
        return self.ask(Aggregate("mean", column, bounds, label=label))

    def variance(self, column: str, bounds: tuple[float, float] | None = None, *, label: str = "") -> Query:
        """Sample variance (n - 1)."""
        return self.ask(Aggregate("variance", column, bounds, label=label))

    def stddev(self, column: str, bounds: tuple[float, float] | None = None, *, label: str = "") -> Query:
        """Square root of the sample variance."""
        return self.ask(Aggregate("stddev", column, bounds, label=label))

    def quantile(
        self,
        column: str,
        q: float = 0.5,
        bounds: tuple[float, float] | None = None,
        *,
        width: float | None = None,
        label: str = "",
    ) -> Query:
        """The smallest value that is not below a share `q` of the values, narrowed to an interval."""
        return self.ask(Aggregate("quantile", column, bounds, q, width, label=label))

    def min(
        self,
        column: str,
        bounds: tuple[float, float] | None = None,
        *,
        width: float | None = None,
        label: str = "",
    ) -> Query:
        """About the lowest value: an interval in which the m-th smallest lies, m the least cell, with m values or more in
        it. Under differential privacy: the noisy quantile of 0.01."""
        return self.ask(Aggregate("min", column, bounds, width=width, label=label))

    def max(
        self,
        column: str,
        bounds: tuple[float, float] | None = None,
        *,
        width: float | None = None,
        label: str = "",
    ) -> Query:
        """About the highest value, as `min`; under differential privacy the noisy quantile of 0.99."""
        return self.ask(Aggregate("max", column, bounds, width=width, label=label))

    def histogram(self, column: str, edges: Sequence[float], *, label: str = "") -> Query:
        """Values between edges."""
        return self.ask(Aggregate("histogram", column, edges=tuple(map(float, edges)), label=label))

    def on(self, federation: str | Path, **settings: Any) -> Any:
        """This question to a federation, asked when its answer is wanted: `.table()`, `.value(...)`.

        Args:
            federation: Federation file.
            settings: Of `fedcore.asking.ask`.

        Returns:
            A `fedcore.asking.Asking`.
        """
        # By name: who asks runs engines, which lie above this package.
        return import_module("fedcore.asking").ask(self, federation, **settings)

    @property
    def columns(self) -> tuple[str, ...]:
        """All that are read, by name."""
        asked = (each.column for each in self.asked if each.column is not None)
        return tuple(sorted({*self.groups, *asked, *tested(self.condition)}))

    @property
    def text(self) -> str:
        """For a person to read; two queries may read alike, their hashes do not."""
        where = f" where {shown(self.condition)}" if self.condition is not None else ""
        by = f" by {', '.join(self.groups)}" if self.groups else ""
        return f"{self.dataset}{where}{by}: {', '.join(each.name for each in self.asked) or 'nothing'}"

    @property
    def canonical(self) -> str:
        """One text for one query: JSON with sorted keys and no spaces."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical text, hex."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """JSON values; `query_json.read` takes them back."""
        return {
            "dataset": self.dataset,
            "where": None if self.condition is None else condition_json(self.condition),
            "by": list(self.groups),
            "ask": [_aggregate_json(each) for each in self.asked],
            "margins": self.margins,
            "units": dict(self.units),
        }


def _aggregate_json(each: Aggregate) -> dict[str, Any]:
    made = {
        "statistic": each.statistic,
        "column": each.column,
        "bounds": None if each.bounds is None else list(each.bounds),
        "q": each.q,
        "width": each.width,
        "edges": list(each.edges) or None,
        "label": each.label or None,
    }
    return {name: value for name, value in made.items() if value is not None}
