"""The rows that count when each person has at most so many, in so many groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError, JobError
from fedcore.privacy.sensitivity import Contribution

STEP = "contribution"


def bounded_rows(
    ids: npt.NDArray[Any], keys: npt.NDArray[Any] | None = None, rows: int = 1, groups: int = 1
) -> npt.NDArray[np.bool_]:
    """Which rows count: the first of each person, in the data's order.

    What is kept of one person depends on that person's rows alone, so that nobody's coming or going changes what is kept of
    others.

    Args:
        ids: (n,), who each row belongs to.
        keys: (n,), the group of each row; None where there is one.
        rows, groups: At most, 1 or more.

    Returns:
        (n,), True for rows that count.

    Raises:
        JobError: A bound is below 1, or the arrays differ in length.
        DataError: A row belongs to nobody.
    """
    bound = Contribution(rows, groups)
    if ids.ndim != 1 or (keys is not None and keys.shape != ids.shape):
        raise JobError("ids and keys are one per row", step=STEP)
    who = _codes(ids)
    if (who < 0).any():
        raise DataError(
            "rows without a value in the column that names the person; allowed: one in each row, or nobody's rows can be "
            "bounded. Cure: fill the column at the site",
            step=STEP,
        )
    kept = np.ones(len(who), np.bool_)
    if keys is not None:
        # Pairs of person and group in the order in which they first come.
        pairs = who * (len(who) + 2) + _codes(keys) + 1
        _, first, back = np.unique(pairs, return_index=True, return_inverse=True)
        order = np.sort(first)
        place = np.empty(len(who), np.int64)
        place[order] = _nth(who[order])
        kept = place[first][back] < bound.groups
    inside = np.flatnonzero(kept)
    kept[inside] = _nth(who[inside]) < bound.rows
    return kept


def _codes(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """A number for each distinct value; -1 for one that is missing (None or NaN)."""
    if values.dtype.kind == "O":
        places: dict[Any, int] = {}
        return np.array(
            [-1 if each is None or each != each else places.setdefault(each, len(places)) for each in values],
            np.int64,
        )
    codes = np.unique(values, return_inverse=True)[1].reshape(values.shape).astype(np.int64)
    if values.dtype.kind == "f":
        return np.where(np.isnan(values), -1, codes)
    return np.where(np.isnat(values), -1, codes) if values.dtype.kind in "mM" else codes


def _nth(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many times each value came before, in order."""
    order = np.argsort(codes, kind="stable")
    held = codes[order]
    starts = np.flatnonzero(np.diff(held, prepend=held[:1] - 1)) if len(held) else held
    lengths = np.diff(starts, append=len(held))
    made = np.empty(len(codes), np.int64)
    made[order] = np.arange(len(codes)) - np.repeat(starts, lengths)
    return made
