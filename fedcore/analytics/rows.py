"""The rows of a site that a statistic is over: numbers, codes of categories, and a declared rule for what is missing.

Rule `refuse`: a missing value is an error. Rule `leave out`: a row that misses one of the columns asked for does not
count in any sum, and is counted apart. Missing is NaN, None or a masked value. Infinite is not missing: it is refused.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedcore.analytics.sums import Floats, Ints
from fedcore.errors import DataError, did_you_mean

Columns = Mapping[str, npt.ArrayLike]
Levels = Sequence[Hashable]
Missing = Literal["refuse", "leave out"]
RULES: tuple[Missing, ...] = ("refuse", "leave out")
STEP = "rows"


@dataclass(frozen=True, eq=False)
class Rows:
    """Complete rows.

    Args:
        numbers: Columns of float64 by name, (n,), finite.
        codes: Columns of categories by name, (n,) int64: places in their levels.
        count: n.
        left_out: Rows that missed a value.
    """

    numbers: dict[str, Floats]
    codes: dict[str, Ints]
    count: int
    left_out: int

    def matrix(self, names: Sequence[str]) -> Floats:
        """(n, k) float64, a column a name."""
        made = np.empty((self.count, len(names)))
        for place, name in enumerate(names):
            made[:, place] = self.numbers[name]
        return made

    def counts(self) -> dict[str, npt.NDArray[Any]]:
        """`rows` and `left_out`, int64 of shape ()."""
        return {"rows": np.int64(self.count) + _ZERO, "left_out": np.int64(self.left_out) + _ZERO}


_ZERO = np.zeros((), np.int64)


def complete(
    columns: Columns,
    numbers: Sequence[str] = (),
    categories: Mapping[str, Levels] | None = None,
    missing: Missing = "refuse",
) -> Rows:
    """The rows that have all the columns asked for.

    Args:
        columns: By name, (n,) each.
        numbers: Names of the columns to be taken as numbers.
        categories: Names of the columns to be taken as categories, with all values that they may have.
        missing: The rule.

    Raises:
        DataError: A column is not there, not of its kind or of another length, has a value that is infinite or no level, or
            misses one under `refuse`.
    """
    levels = dict(categories or {})
    if missing not in RULES:
        raise DataError(f"missing is {missing!r}; {did_you_mean(str(missing), RULES)}", step=STEP)
    for name in (*numbers, *levels):
        if name not in columns:
            raise DataError(f'there is no column "{name}"; {did_you_mean(name, columns)}', step=STEP)
    taken: dict[str, Floats] = {name: _numbers(name, columns[name]) for name in numbers}
    codes = {name: _codes(name, columns[name], allowed) for name, allowed in levels.items()}
    lengths = {name: len(each) for each_kind in (taken, codes) for name, each in each_kind.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"columns differ in length: {', '.join(sorted(lengths))}; allowed: one", step=STEP)
    rows = next(iter(lengths.values()), 0)
    absent = np.zeros(rows, bool)
    for name in lengths:
        gone = np.isnan(taken[name]) if name in taken else codes[name] < 0
        if missing == "refuse" and gone.any():
            raise DataError(
                f'column "{name}" misses values and the rule is "refuse". Cure: fill them, or ask with '
                'missing "leave out", which leaves out the rows and counts them',
                step=STEP,
                detail=f"{int(gone.sum())} of {rows} rows",
            )
        absent |= gone
    if absent.any():
        taken = {name: each[~absent] for name, each in taken.items()}
        codes = {name: each[~absent] for name, each in codes.items()}
    left_out = int(absent.sum())
    return Rows(taken, codes, rows - left_out, left_out)


def indicators(name: str, values: npt.ArrayLike, levels: Levels) -> dict[str, Floats]:
    """A column of categories as columns of 0 and 1, one for each level but the first, which the others are compared with.

    Args:
        name: Of the column; the columns made are called `name=level`.
        values: (n,); a missing one gives NaN in all columns made.
        levels: All values that it may have, the reference first.

    Raises:
        DataError: A value is no level.
    """
    codes = _codes(name, values, levels)
    return {
        f"{name}={level}": np.where(codes < 0, np.nan, codes == place)
        for place, level in enumerate(levels)
        if place
    }


def _numbers(name: str, values: npt.ArrayLike) -> Floats:
    """As float64, NaN where missing."""
    given = np.ma.asarray(values) if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
    kind = given.dtype.kind
    text = kind == "O" and any(isinstance(each, str | bytes) for each in given.ravel())
    if kind not in "biufO" or text or given.ndim != 1:
        raise DataError(
            f'column "{name}" is {given.dtype} of {given.ndim} dimensions; allowed: one dimension of numbers. '
            "Cure: convert it at the site, or ask for it as categories",
            step=STEP,
        )
    try:
        made = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f'column "{name}" has a value that is no number', step=STEP, detail=str(error)
        ) from None
    if isinstance(given, np.ma.MaskedArray):
        made[np.ma.getmaskarray(given)] = np.nan
    if np.isinf(made).any():
        raise DataError(
            f'column "{name}" has an infinite value; allowed: finite ones. Cure: write what is unknown as missing',
            step=STEP,
            detail=f"{int(np.isinf(made).sum())} rows",
        )
    return made


def _codes(name: str, values: npt.ArrayLike, levels: Levels) -> Ints:
    """Places in the levels, -1 where missing."""
    places = {level: place for place, level in enumerate(levels)}
    if len(places) != len(levels) or not places:
        raise DataError(
            f'the levels of column "{name}" are {len(levels)}, of which {len(places)} differ; allowed: at least one, '
            "each once",
            step=STEP,
        )
    given = np.asarray(values)
    if given.ndim != 1:
        raise DataError(f'column "{name}" has {given.ndim} dimensions; allowed: one', step=STEP)
    distinct, back = (given, None) if given.dtype.kind == "O" else np.unique(given, return_inverse=True)
    found = np.empty(len(distinct), np.int64)
    for place, value in enumerate(distinct.tolist()):
        found[place] = -1 if value is None or value != value else places.get(value, -2)
    if (found == -2).any():
        raise DataError(
            f'column "{name}" has a value that is none of the {len(levels)} levels asked for. Cure: ask for all levels of '
            "the column, as the catalogue has them, or code the others as missing",
            step=STEP,
            detail=f"{int((found == -2).sum())} of {len(distinct)} values",
        )
    return found if back is None else found[back]
