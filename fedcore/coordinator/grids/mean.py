"""The grid that adds replies up as they come and hands the strategy one: their weighted mean.

A strategy that needs nothing but the weighted mean gives the same result for this one reply as for all of
them, and the coordinator holds one model instead of one per participant. It is the shape that secure
aggregation has too, without its protection: the coordinator sees each update here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Message, MetricRecord, RecordDict

from fedcore.coordinator.grids.layer import Layer
from fedcore.flower import array_record, arrays_in, metrics_in

EXAMPLES = "num-examples"
PIECE = 2**15  # values multiplied at a time, few enough for the cache


class MeanGrid(Layer):
    """Folds the valid replies of a train or evaluate phase into one; error replies are dropped.

    The sum is taken in double precision and the mean rounded to the arrays' own dtype once, so that the order
    in which replies come changes the result by less than one rounding.
    """

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """At most one reply: `arrays` (weighted mean), `metrics` (means; `num-examples` is the sum)."""
        sums = RunningMean()
        first: Message | None = None
        for reply in super().stream(messages, timeout):
            if reply.has_error():
                continue
            sums.add(reply.content)
            first = first or reply
        if first is not None:
            first.content = sums.content()
            yield first


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


def with_all_metrics(replies: Iterable[Message]) -> None:
    """Give every reply the metrics of all, NaN where it has none of that name. Changes the replies.

    A task may report a metric at some sites only. Flower's strategies refuse replies with different names;
    `MeanGrid` takes a missing metric for one that is not defined there, and so do all engines with this.
    """
    records = [record for reply in replies if reply.has_content() for record in metrics_in(reply.content)]
    names = sorted(
        {name for record in records for name, value in record.items() if not isinstance(value, list)}
    )
    for record in records:
        for name in names:
            record.setdefault(name, math.nan)


def metric_record(values: Mapping[str, float]) -> MetricRecord:
    """A record of plain numbers."""
    return MetricRecord(dict(values))


def mean_metrics(contents: list[RecordDict], weight_key: str) -> MetricRecord:
    """The rule above as the aggregation function that Flower's strategies take."""
    mean = MetricMean()
    for content in contents:
        for record in metrics_in(content):
            mean.add(record, float(record[weight_key]))  # type: ignore[arg-type]
    return metric_record(mean.means())
