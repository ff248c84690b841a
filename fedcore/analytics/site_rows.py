"""Columns of a site's data set as arrays, of the rows that meet a condition.

A condition means what it means in a query that DuckDB answers (`fedcore.analytics.local`): SQL's logic of three values, a
number that is none is missing, text is compared by its code points.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedcore.analytics.columns import Kind
from fedcore.analytics.condition import Compare, Condition, Not, Value, tested
from fedcore.analytics.source import Source
from fedcore.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

STEP = "rows"
_COMPARE = {
    "=": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}


def columns_of(
    source: Source, names: Iterable[str], where: Condition | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Columns of the rows that meet a condition.

    Args:
        source: The data set.
        names: Of the columns wanted.
        where: Rows for which it is true; all when None.

    Returns:
        By name, (n,): numbers as float64, NaN where missing; others as objects, None where missing: text, flags as bool,
        days and times as their ISO text.

    Raises:
        DataError: A column is not there, or is compared with a value of another kind.
    """
    import pyarrow as pa

    wanted, known = tuple(dict.fromkeys(names)), source.columns
    for name in (*wanted, *sorted(tested(where))):
        if name not in known:
            raise DataError(f'there is no column "{name}"; {did_you_mean(name, known)}', step=STEP)
    rows = source.rows
    if where is not None:
        try:
            rows = rows.filter(_true(where, source))
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise DataError(
                f"the condition on {', '.join(sorted(tested(where)))} compares values of kinds that do not fit",
                step=STEP,
                detail=str(error),
            ) from error
    return {name: _numpy(_plain(rows.column(name)), known[name].kind) for name in wanted}


def _plain(held: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without a dictionary."""
    import pyarrow as pa

    return held.cast(held.type.value_type) if pa.types.is_dictionary(held.type) else held


def _numpy(held: pa.ChunkedArray, kind: Kind) -> npt.NDArray[Any]:
    import pyarrow as pa

    if kind == "number":
        numbers = held.cast(pa.float64(), safe=False).to_numpy()
        return np.asarray(numbers, np.float64)
    if kind in ("date", "time"):
        held = held.cast(pa.string())
    return np.array([*held.to_pylist(), None], object)[:-1]


def _true(condition: Condition, source: Source) -> Any:
    """Per row true, false or null."""
    import pyarrow.compute as pc

    if isinstance(condition, Compare):
        return _compared(condition, source)
    if isinstance(condition, Not):
        return pc.invert(_true(condition.part, source))
    join = pc.and_kleene if condition.op == "and" else pc.or_kleene
    return reduce(join, (_true(part, source) for part in condition.parts))


def _compared(condition: Compare, source: Source) -> Any:
    import pyarrow.compute as pc

    kind = source.columns[condition.column].kind
    held = _tested(_plain(source.rows.column(condition.column)), kind)
    if condition.op == "is null":
        return pc.is_null(held)
    if condition.op == "is not null":
        return pc.is_valid(held)
    values = [_scalar(value, kind, held.type) for value in condition.values]
    if condition.op == "between":
        return pc.and_kleene(pc.greater_equal(held, values[0]), pc.less_equal(held, values[1]))
    if condition.op == "in":
        return reduce(pc.or_kleene, (pc.equal(held, value) for value in values))
    return pc.call_function(_COMPARE[condition.op], [held, values[0]])


def _tested(held: pa.ChunkedArray, kind: Kind) -> pa.ChunkedArray:
    """A number that is none is missing; decimals are compared as doubles."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind != "number" or pa.types.is_integer(held.type):
        return held
    held = held.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_nan(held), pa.scalar(None, pa.float64()), held)


def _scalar(value: Value, kind: Kind, held: pa.DataType) -> pa.Scalar:
    import pyarrow as pa

    if kind == "date":
        return pa.scalar(date.fromisoformat(str(value)), pa.date32()).cast(held)
    if kind == "time":
        at = datetime.fromisoformat(str(value))
        if held.tz is None and at.tzinfo is not None:
            at = at.astimezone(UTC).replace(tzinfo=None)
        elif held.tz is not None and at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return pa.scalar(at, pa.timestamp("us", at.tzinfo and "UTC"))
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        value = float(value)
    return pa.scalar(value)
