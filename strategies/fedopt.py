"""FedAvgM, FedAdam, FedYogi, FedAdagrad: an optimizer at the server. Flower's, with one correction.

Hsu et al. 2019 (arXiv:1909.06335); Reddi et al., *Adaptive Federated Optimization*, ICLR 2021
(arXiv:2003.00295). The server takes the mean update for a gradient and lets its optimizer step along it.

Flower steps every array that the model has. The running statistics of a batch norm layer are no weights:
an adaptive step moves each entry by about `server_lr` whatever the size of the change, so that a small
variance ends below zero and the model answers NaN. Here they are what the mean says they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flower

from strategies.base import is_statistic


class _AveragedStatistics(flower.FedAvg):
    """Takes the weighted mean of running statistics instead of what the strategy below made of them."""

    summable: ClassVar[bool] = True

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The strategy's own result, its running statistics replaced by their means."""
        replies = list(replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            return None, metrics
        contents = [reply.content for reply in replies if not reply.has_error()]
        records = [next(iter(content.array_records.values())) for content in contents]
        told = [next(iter(content.metric_records.values()))[self.weighted_by_key] for content in contents]
        weights = np.array(told, np.float64) / np.sum(told)
        for name in arrays:
            if is_statistic(name):
                values = [record[name].numpy() for record in records]
                mean: Any = np.tensordot(weights, np.stack(values), axes=1)
                kept = values[0].dtype if np.issubdtype(values[0].dtype, np.inexact) else mean.dtype
                arrays[name] = Array(np.asarray(mean, kept))
        return arrays, metrics


class FedAvgM(_AveragedStatistics, flower.FedAvgM):
    """Momentum at the server."""


class FedAdam(_AveragedStatistics, flower.FedAdam):
    """Adam at the server."""


class FedYogi(_AveragedStatistics, flower.FedYogi):
    """Yogi at the server: Adam with additive control of its step size."""


class FedAdagrad(_AveragedStatistics, flower.FedAdagrad):
    """Adagrad at the server."""
