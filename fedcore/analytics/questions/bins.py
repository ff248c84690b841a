"""Which rows of a site lie in the bins of a histogram, so that differences with other questions can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedcore.analytics.site_rows import columns_of
from fedcore.analytics.source import Source


def row_sets(source: Source, column: str, edges: Sequence[float]) -> dict[str, int]:
    """Rows below the first edge, in each bin, above the last edge, and without a value.

    Args:
        source: The data set; a row keeps its place from question to question.
        column: Of numbers or flags.
        edges: Rising; bins hold their lower edge, the last also its upper one.

    Returns:
        Per bin by name, in order: bit i is set when row i is in it. No two share a row, and together they hold all.
    """
    values = _numbers(columns_of(source, (column,))[column])
    places = np.searchsorted(np.asarray(edges, np.float64), values, side="right")
    places[values == edges[-1]] = len(edges) - 1
    places[np.isnan(values)] = len(edges) + 1
    names = ("below", *(f"bin {place}" for place in range(1, len(edges))), "above", "missing")
    return {name: _bits(places == place) for place, name in enumerate(names)}


def _numbers(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Flags as 0 and 1, missing as NaN."""
    if values.dtype.kind == "f":
        return values
    return np.array([np.nan if each is None else float(each) for each in values], np.float64)


def _bits(which: npt.NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(which, bitorder="little").tobytes(), "little")
