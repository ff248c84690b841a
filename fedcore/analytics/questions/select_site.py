"""A site's half of SQL: its groups as arrays, and counts between the edges that the coordinator asks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedcore.analytics import local
from fedcore.analytics.cells import Form, kept_back
from fedcore.analytics.columns import problems
from fedcore.analytics.condition import Both, Compare, Condition
from fedcore.analytics.disclosure import Key, suppressed_bins
from fedcore.analytics.partial import Partial, suppressed
from fedcore.analytics.query import Query
from fedcore.analytics.question import STEP, Agreed
from fedcore.analytics.sums import Sums
from fedcore.errors import DataError, JobError

if TYPE_CHECKING:
    from fedcore.analytics.source import Source

_MOST_IN_LIST = 1000
_MOST_EDGES = 1000
_FEW = 4
"""Minimum cells; a data set with fewer rows says nothing of whether a key names persons."""
Edges = Mapping[Key, tuple[float, ...]]


def fitted(query: Query, source: Source, agreed: Agreed) -> Source:
    """A data set whose columns are those that the sites agreed on; a column without any value takes the agreed type.

    Raises:
        DataError: It lacks columns, or has them with other types or units.
    """
    import pyarrow as pa

    types = {"number": pa.float64(), "text": pa.string(), "flag": pa.bool_(), "date": pa.date32()}
    rows = source.rows
    for name in query.columns:
        at = rows.schema.get_field_index(name)
        if at >= 0 and pa.types.is_null(rows.schema.field(at).type):
            kind = types.get(agreed.columns[name].kind, pa.timestamp("us"))
            rows = rows.set_column(at, rows.schema.field(at).with_type(kind), rows.column(at).cast(kind))
    if rows is not source.rows:
        source = replace(source, rows=rows)
    there = source.columns
    found = problems(query, there)
    for name in query.columns:
        want, have = agreed.columns[name], there.get(name)
        if have is None:
            continue
        if have.kind != want.kind:
            found.append(f"{name} holds {have.kind} here; the sites agreed on {want.kind}")
        elif have.unit != want.unit and source.rows.num_rows:
            found.append(
                f"{name} is in {have.unit or 'no stated unit'} here; the sites agreed on {want.unit or 'none'}"
            )
    if found:
        raise DataError("; ".join(found), step=STEP)
    return source


def sums(
    form: Form, query: Query, source: Source, agreed: Agreed, around: Mapping[str, float]
) -> tuple[Sums, int]:
    """Arrays of a form, and how many rows they are over.

    Args:
        form: Of the whole query, or of a part of what it asks.
        query: The whole one.
        source: The site's rows.
        agreed: By all sites.
        around: Per column, what its sums are around; 0 for others.
    """
    if not source.rows.num_rows:
        return form.zeros(), 0
    found = local.answer(form.query, source, minimum=_least(agreed, source.rows.num_rows), centres=around)
    cells = dict(found.cells)
    rows = sum(cell.rows for cell in cells.values() if isinstance(cell.rows, int))
    if _seen_alone(agreed):
        # Groups of no level are counted as one, which the gate keeps back when it is small.
        known = {key: cell for key, cell in cells.items() if key in form.places}
        cells |= suppressed(Partial(query.hash, {}, known), query, agreed.minimum).cells
    return form.sums(cells), rows


def counts(query: Query, column: str, edges: Edges, source: Source, agreed: Agreed) -> npt.NDArray[np.int64]:
    """Values between edges, group after group: below the first edge, from each to the next, from the last on.

    Args:
        query: Whose groups and condition hold.
        column: Of the values.
        edges: Per group or total, rising.
        source: The site's rows.
        agreed: By all sites.
    """
    found: Mapping[Key, tuple[int, ...]] = {}
    if source.rows.num_rows:
        found = local.bins(query, source, column, edges, minimum=_least(agreed, source.rows.num_rows))
    made: list[int] = []
    for key, each in edges.items():
        own = list(found.get(key, (0,) * (len(each) + 1)))
        made += kept_back(suppressed_bins(own, agreed.minimum)) if _seen_alone(agreed) else own
    return np.array(made, np.int64)


def inside(query: Query, keys: Sequence[Key]) -> Condition:
    """The condition, and that each key is one of the levels or missing: what totals are over.

    Args:
        query: Whose condition.
        keys: Of the groups.
    """
    parts: list[Condition] = [] if query.condition is None else [query.condition]
    for at, name in enumerate(query.groups):
        levels: list[Any] = [each for each in dict.fromkeys(key[at] for key in keys) if each is not None]
        values = [each if isinstance(each, int | float | str) else each.isoformat() for each in levels]
        some = [
            Compare(name, "in", tuple(values[start : start + _MOST_IN_LIST]))
            for start in range(0, len(values), _MOST_IN_LIST)
        ]
        parts.append(Both("or", (*some, Compare(name, "is null"))))
    return Both("and", tuple(parts))


def read_edges(told: Any, query: Query, keys: Sequence[Key]) -> dict[int, Edges]:
    """Edges in a request: per place of what is asked, per group or total.

    Raises:
        JobError: They are none.
    """
    made: dict[int, Edges] = {}
    try:
        for word, of in told.items():
            at = int(word)
            if not 0 <= at < len(query.asked) or not query.asked[at].searched:
                raise ValueError("not searched")
            here = {}
            for place, edges in of:
                line = tuple(map(float, edges))
                rising = all(low < high for low, high in pairwise(line)) and all(map(math.isfinite, line))
                if isinstance(place, bool) or not (
                    0 <= place < len(keys) and 2 <= len(line) <= _MOST_EDGES and rising
                ):
                    raise ValueError("no edges of a group")
                here[keys[place]] = line
            made[at] = here
    except (TypeError, ValueError, AttributeError) as error:
        raise JobError("the request holds no edges of the groups that are asked", step=STEP) from error
    return made


def read_centres(told: Any, form: Form) -> dict[str, float]:
    """Centres in a request, per column.

    Raises:
        JobError: They are none.
    """
    names = {column for column, _ in form.measures}
    if not isinstance(told, dict) or set(told) != names:
        raise JobError("the request holds no centres of the columns that are asked", step=STEP)
    if not all(
        isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each)
        for each in told.values()
    ):
        raise JobError("the request holds centres that are no numbers", step=STEP)
    return {name: float(each) for name, each in told.items()}


def _least(agreed: Agreed, rows: int) -> int | None:
    """What `local` holds a data set and its keys to.

    A site of few rows takes part in a sum like any other, and by itself keeps everything back; hardly a key has fewer
    values than it has rows.
    """
    return agreed.minimum if rows >= _FEW * agreed.minimum else None


def _seen_alone(agreed: Agreed) -> bool:
    return not agreed.protected and not agreed.private
