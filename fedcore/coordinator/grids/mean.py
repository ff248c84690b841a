"""The grid that adds replies up as they come and hands the strategy one: their weighted mean.

A strategy that needs nothing but the weighted mean gives the same result for this one reply as for all of
them, and the coordinator holds one model instead of one per participant. It is the shape that secure
aggregation has too, without its protection: the coordinator sees each update here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from flwr.app import Message, MetricRecord, RecordDict

from fedcore.coordinator.grids.layer import Layer
from fedcore.flower import metrics_in
from fedcore.participant.means import EXAMPLES, MetricMean, RunningMean, metric_record

__all__ = ["EXAMPLES", "MeanGrid", "RunningMean", "mean_metrics", "metric_record", "with_all_metrics"]


class MeanGrid(Layer):
    """Folds the valid replies of a train or evaluate phase into one (`RunningMean`); error replies are dropped."""

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


def mean_metrics(contents: list[RecordDict], weight_key: str) -> MetricRecord:
    """The rule above as the aggregation function that Flower's strategies take."""
    mean = MetricMean()
    for content in contents:
        for record in metrics_in(content):
            mean.add(record, float(record[weight_key]))  # type: ignore[arg-type]
    return metric_record(mean.means())
