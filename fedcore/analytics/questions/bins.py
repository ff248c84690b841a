"""Which rows of a site lie in the bins of a histogram, so that differences with other questions can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedcore.analytics.disclosure import SUPPRESSED, suppressed_bins
from fedcore.analytics.query import Query
from fedcore.analytics.question import STEP
from fedcore.analytics.site_rows import columns_of
from fedcore.analytics.source import Source
from fedcore.errors import JobError


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


def told(sets: dict[str, int], minimum: int) -> dict[str, int]:
    """Of what `row_sets` gave, the bins that are told where this site is seen alone; and what misses a value."""
    names = list(sets)[:-1]
    shown = suppressed_bins([sets[name].bit_count() for name in names], minimum)
    hidden = {name for name, count in zip(names, shown, strict=True) if count is SUPPRESSED}
    return {name: rows for name, rows in sets.items() if name not in hidden}


def refuse_shared(query: Query) -> None:
    """Refuse histograms whose bins and groups share rows: sizes of such groups cannot be added over sites and compared.

    Raises:
        JobError: There are several, or one beside other aggregates of groups.
    """
    histograms = {(each.column, each.edges) for each in query.asked if each.statistic == "histogram"}
    beside = query.groups and any(each.statistic != "histogram" for each in query.asked)
    if len(histograms) > 1 or (histograms and beside):
        raise JobError(
            "under a protected sum a histogram is compared with earlier questions by its bins; allowed: one histogram, and "
            "with GROUP BY nothing beside it. Cure: ask each histogram in a query of its own",
            step=STEP,
        )


def _numbers(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Flags as 0 and 1, missing as NaN."""
    if values.dtype.kind == "f":
        return values
    return np.array([np.nan if each is None else float(each) for each in values], np.float64)


def _bits(which: npt.NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(which, bitorder="little").tobytes(), "little")
