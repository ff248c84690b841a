"""Binned columns, sums over their bins, and the gain of a split.

A column is an array of codes; a split candidate (column, bin) sends rows with `code <= bin` to the left. Codes of
special and of missing values are the last ones, so such rows go right unless the split is among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError

Rows = npt.NDArray[np.intp]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

MOST_CODES = 1 << 16
_STEP = "boosting"


@dataclass(frozen=True, eq=False)
class Binned:
    """Columns as codes.

    Args:
        codes: Of each column, (n,) uint16, below its number of bins.
        bins: Of each column, special and missing ones included.
        rows: n, also where there is no column.
    """

    codes: tuple[npt.NDArray[np.uint16], ...]
    bins: tuple[int, ...]
    rows: int

    @property
    def width(self) -> int:
        """The most bins that a column has; 1 without columns."""
        return max(self.bins, default=1)


def binned(columns: Sequence[npt.NDArray[Any]], bins: Sequence[int], rows: int | None = None) -> Binned:
    """Check columns of codes.

    Args:
        columns: Whole numbers, each (n,).
        bins: How many codes each column may have, 1 to 65536.
        rows: n; that of the first column when None.

    Raises:
        DataError: The columns differ in length, are no whole numbers, or have more bins than told.
    """
    if len(columns) != len(bins):
        raise DataError(
            f"{len(columns)} columns of codes, but bins of {len(bins)}; each needs its own", step=_STEP
        )
    if rows is None:
        if not columns:
            raise DataError("no column; a partner needs at least one", step=_STEP)
        rows = len(columns[0])
    found = []
    for place, (column, most) in enumerate(zip(columns, bins, strict=True)):
        codes = np.asarray(column)
        if codes.shape != (rows,):
            raise DataError(
                f"column {place} has shape {codes.shape}; the others have {rows} rows", step=_STEP
            )
        if not np.issubdtype(codes.dtype, np.integer):
            raise DataError(
                f"column {place} is of {codes.dtype}; codes of bins are whole numbers", step=_STEP
            )
        if not 1 <= most <= MOST_CODES:
            raise DataError(
                f"column {place} is told to have {most} bins; 1 to {MOST_CODES} are allowed", step=_STEP
            )
        if rows and not (codes.min() >= 0 and codes.max() < most):
            raise DataError(
                f"column {place} has codes from {codes.min()} to {codes.max()} where {most} bins were told; codes are "
                f"0 to {most - 1}",
                step=_STEP,
            )
        found.append(np.ascontiguousarray(codes, dtype=np.uint16))
    return Binned(tuple(found), tuple(int(most) for most in bins), rows)


def check_enough(rows: int, min_leaf: int) -> None:
    """Refuse a tree that could never have a split.

    Raises:
        DataError: Two leaves of the least size do not fit.
    """
    if 2 * min_leaf > rows:
        raise DataError(
            f"min_leaf is {min_leaf}, and a tree sees {rows} rows; no split leaves so many on both sides. At most "
            f"{rows // 2} is allowed here",
            step=_STEP,
        )


def counts(columns: Binned, rows: Rows) -> Ints:
    """How many of the rows have each code, (columns, width)."""
    found = np.zeros((len(columns.codes), columns.width), dtype=np.int64)
    for place, codes in enumerate(columns.codes):
        found[place] = np.bincount(codes[rows], minlength=columns.width)
    return found


def histogram(columns: Binned, rows: Rows, values: Ints) -> Ints:
    """Sums over the rows with each code, and their number.

    Args:
        columns: Codes.
        rows: Which ones, (m,).
        values: (m, 2), of these rows; sums below 2^53.

    Returns:
        (columns, width, 3).
    """
    found = np.zeros((len(columns.codes), columns.width, 3), dtype=np.int64)
    weights = values.astype(np.float64).T.copy()
    for place, codes in enumerate(columns.codes):
        here = codes[rows]
        for part in range(2):
            found[place, :, part] = np.bincount(here, weights=weights[part], minlength=columns.width)
        found[place, :, 2] = np.bincount(here, minlength=columns.width)
    return found


def gains(left: Floats, total: Floats, l2: float) -> Floats:
    """How much splits lower the objective; -infinity where a leaf's weight has no bound.

    Args:
        left: Sums of g and h over the left rows, (candidates, 2).
        total: The same over all rows of the node, (2,).
        l2: Penalty on squared leaf weights.

    Returns:
        (candidates,).

    Source:
        Chen and Guestrin, KDD 2016, equation 7, without its gamma.
    """
    right = total - left
    below_left, below_right, below = left[:, 1] + l2, right[:, 1] + l2, float(total[1] + l2)
    bounded = (below_left > 0) & (below_right > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = left[:, 0] ** 2 / below_left + right[:, 0] ** 2 / below_right - total[0] ** 2 / below
    return np.where(bounded, 0.5 * found, -np.inf)
