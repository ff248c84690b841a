"""Weighted means of what participants reply, taken one reply at a time.

Sums are taken in double precision and a mean is rounded to its arrays' own dtype once, so that the order in which
replies come changes the result by less than one rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import MetricRecord, RecordDict

from fedcore.flower import array_record, arrays_in, metrics_in

EXAMPLES = "num-examples"
PIECE = 2**15  # values multiplied at a time, few enough for the cache


class RunningMean:
    """The mean of records, weighted by their examples."""

    def __init__(self) -> None:
        self.weight = 0.0
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self._metrics = MetricMean()

    def add(self, content: RecordDict) -> None:
        """Add one participant's reply.

        Args:
            content: One record of metrics with `num-examples`, at most one of arrays.
        """
        metrics = metrics_in(content)[0]
        weight = float(metrics[EXAMPLES])  # type: ignore[arg-type]
        self._metrics.add(metrics, weight)
        self.weight += weight
        for record in arrays_in(content):
            for name, array in record.items():
                value = array.numpy()
                if name not in self._sums:
                    self._sums[name] = np.zeros(value.shape)
                    self._dtypes[name] = value.dtype
                _add(self._sums[name], value, weight)

    def content(self) -> RecordDict:
        """Mean arrays in their own dtype (integers as float64, as Flower's mean gives them) and metrics."""
        arrays = {}
        for name, total in self._sums.items():
            mean = total / self.weight
            dtype = self._dtypes[name]
            arrays[name] = mean.astype(dtype) if dtype.kind == "f" else mean
        content = RecordDict({"metrics": metric_record({EXAMPLES: self.weight, **self._metrics.means()})})
        if arrays:
            content["arrays"] = array_record(arrays)
        return content


def _add(total: npt.NDArray[np.float64], value: npt.NDArray[Any], weight: float) -> None:
    """`total += weight * value` in double precision, a piece at a time, so that no second array is made."""
    into, given = total.reshape(-1), value.reshape(-1)
    piece = np.empty(min(PIECE, into.size))
    for start in range(0, into.size, PIECE):
        product = piece[: min(PIECE, into.size - start)]
        np.multiply(given[start : start + PIECE], weight, out=product, dtype=np.float64)
        into[start : start + PIECE] += product


class MetricMean:
    """The mean of each metric over the participants where it is defined, weighted by their examples."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, metrics: MetricRecord, weight: float) -> None:
        """Add one participant's metrics; NaN says not defined there. Lists are left out."""
        self.add_values(
            {k: float(v) for k, v in metrics.items() if k != EXAMPLES and not isinstance(v, list)}, weight
        )

    def add_values(self, metrics: Mapping[str, float], weight: float) -> None:
        """Add one participant's metrics from a plain dict."""
        for name, value in metrics.items():
            defined = not math.isnan(value)
            self._sums[name] = self._sums.get(name, 0.0) + (value * weight if defined else 0.0)
            self._weights[name] = self._weights.get(name, 0.0) + (weight if defined else 0.0)

    def means(self) -> dict[str, float]:
        """NaN where no participant defines the metric."""
        return {
            name: total / self._weights[name] if self._weights[name] else float("nan")
            for name, total in self._sums.items()
        }


def metric_record(values: Mapping[str, float]) -> MetricRecord:
    """A record of plain numbers."""
    return MetricRecord(dict(values))
