"""Which rows of a table can be trained on, where it must not be told that one of them cannot.

Under a promise to each row, an error about one row would say that it is there: to whom, as often and over as many columns as
somebody likes. Such rows are held and counted, and count as nothing in every sum.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedcore.learning.examples import plain_label

if TYPE_CHECKING:
    import pyarrow as pa


def usable(
    table: pa.Table,
    features: tuple[str, ...] | None,
    target: str | None,
    row_id: str | None,
    classes: Collection[int | float | str] | None,
    values: int | None = None,
) -> npt.NDArray[np.bool_]:
    """Whether each row has all that training needs.

    Args:
        table: As a connector gives it.
        features: That are read; all numeric columns when None.
        target: Column to predict.
        row_id: Column that names the object of a row.
        classes: That the target may have; None where it is a number or a mask.
        values: Of a mask, those below this number; None where the target is none.

    Returns:
        `[n]`.
    """
    good = np.ones(table.num_rows, dtype=np.bool_)
    names = table.column_names if features is None else features
    for name in {*names, *(each for each in (target, row_id) if each)} & set(table.column_names):
        column = table.column(name)
        good &= column.is_valid().to_numpy()
        if name != row_id:
            good &= _finite(column)
    if target is not None and target in table.column_names:
        if classes is not None:
            known = set(classes)
            labels = table.column(target).to_pylist()
            good &= np.fromiter((plain_label(label) in known for label in labels), np.bool_, len(labels))
        elif values is not None and (pixels := _tensors(table.column(target))) is not None:
            good &= pixels.reshape(len(pixels), -1).max(axis=1, initial=0) < values
    return good


def _finite(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    import pyarrow as pa
    import pyarrow.compute as compute

    if pa.types.is_floating(column.type):
        found: npt.NDArray[np.bool_] = compute.is_finite(column).fill_null(False).to_numpy()
        return found
    pixels = _tensors(column)
    if pixels is None or pixels.dtype.kind != "f":
        return np.ones(len(column), dtype=np.bool_)
    whole: npt.NDArray[np.bool_] = np.isfinite(pixels).reshape(len(pixels), -1).all(axis=1)
    return whole


def _tensors(column: pa.ChunkedArray) -> npt.NDArray[Any] | None:
    """Images or masks, `[n, ...]`; None for other columns, and where some are missing."""
    import pyarrow as pa

    if not isinstance(column.type, pa.FixedShapeTensorType) or column.null_count or not len(column):
        return None
    found: npt.NDArray[Any] = column.combine_chunks().to_numpy_ndarray()
    return found
