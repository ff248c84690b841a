"""Dealing the rows of one data set to many virtual participants, for simulation.

Every row goes to exactly one participant, and the deal is a function of the seed and the values alone, so
each participant can work out its own share without asking the others.

Source: label skew by Dirichlet shares is Hsu, Qi, Brown, "Measuring the effects of non-identical data
distribution" (arXiv 1909.06335); drawing the shares class by class, so that sizes differ too, is Yurochkin et
al., "Bayesian nonparametric federated learning" (arXiv 1905.12022), section 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fedcore.errors import DataError

if TYPE_CHECKING:
    from fedcore.jobs.datasets import Part

Indices = npt.NDArray[np.int64]

_ATTEMPTS = 100


def deal(part: Part, rows: int, values: pa.ChunkedArray | None) -> list[Indices]:
    """Everybody's rows; `part.index` is not looked at.

    Args:
        part: How to deal, to how many, and the seed.
        rows: How many there are.
        values: Of the column that `dirichlet` (the class) or `by` (the participant) goes by, `rows` long.

    Returns:
        One array of ascending row numbers for each participant, int64; together each row number once.

    Raises:
        DataError: Fewer rows, or fewer distinct values for `by`, than participants; or a Dirichlet deal that
            leaves a participant without rows however often it is drawn.
    """
    if rows < part.of:
        raise DataError(
            f"{rows} rows cannot be dealt to {part.of} virtual participants; each needs at least 1"
        )
    random = np.random.default_rng(part.seed)
    if part.method == "iid":
        owner = random.permutation(np.arange(rows, dtype=np.int64) % part.of)
    else:
        codes, distinct = _codes(values)
        if part.method == "by":
            if distinct < part.of:
                raise DataError(
                    f"column {part.column!r} has {distinct} distinct values and there are {part.of} virtual "
                    f"participants; use at most {distinct}"
                )
            owner = codes % part.of
        else:
            owner = _dirichlet(part, codes, distinct, random)
    return [np.flatnonzero(owner == index) for index in range(part.of)]


def rows_of(table: pa.Table, rows: Indices) -> pa.Table:
    """Some of the rows, in the order given.

    Plain numbers go through numpy: Arrow's `take` loads all of its compute kernels, in every process of a
    simulation.
    """
    columns = [_values_of(column, rows) for column in table.columns]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _values_of(column: pa.ChunkedArray, rows: Indices) -> pa.Array | pa.ChunkedArray:
    kind = column.type
    if column.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return column.take(pa.array(rows))
    return pa.array(column.to_numpy()[rows], type=kind)


def _dirichlet(part: Part, codes: Indices, classes: int, random: np.random.Generator) -> Indices:
    members = [np.flatnonzero(codes == each) for each in range(classes)]
    for _ in range(_ATTEMPTS):
        owner = np.empty(len(codes), dtype=np.int64)
        for mine in members:
            shares = random.dirichlet(np.full(part.of, part.alpha))
            ends = np.floor(np.cumsum(shares)[:-1] * len(mine)).astype(np.int64)
            dealt = np.searchsorted(ends, np.arange(len(mine)), side="right")
            owner[random.permutation(mine)] = dealt
        if np.bincount(owner, minlength=part.of).min() > 0:
            return owner
    raise DataError(
        f"{len(codes)} rows dealt to {part.of} virtual participants with alpha {part.alpha:g} left one of "
        f"them empty in each of {_ATTEMPTS} draws; use a larger alpha or fewer participants"
    )


def _codes(values: pa.ChunkedArray | None) -> tuple[Indices, int]:
    """Each value's place among the sorted distinct values, and how many there are; a missing value is the
    last.

    Sorted, so that the deal depends neither on the order of first appearance nor on the reader's chunks.
    """
    import pyarrow.compute as pc  # 15 MB of kernels

    if values is None:
        raise DataError("dealing by a column needs that column")
    if pa.types.is_boolean(values.type) or pa.types.is_null(values.type):
        values = values.cast(pa.int8())
    try:
        encoded = values.combine_chunks().dictionary_encode(null_encoding="mask")
        order = pc.sort_indices(encoded.dictionary).to_numpy()
    except pa.ArrowNotImplementedError as error:
        raise DataError(
            f"rows cannot be dealt by a column of type {values.type}; use numbers or text"
        ) from error
    rank = np.empty(len(order) + 1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    rank[-1] = len(order)
    positions: npt.NDArray[Any] = encoded.indices.fill_null(len(order)).to_numpy(zero_copy_only=False)
    missing = int(values.null_count > 0)
    return rank[positions.astype(np.int64)], len(order) + missing
