"""Bulyan: a mean of the updates that agree, against sites that lie. Flower's, without its waiting.

El Mhamdi et al., *The Hidden Vulnerability of Distributed Learning in Byzantium*, ICML 2018
(arXiv:1802.07927). It needs each site's update, and at least 4 * malicious + 3 replies.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flower

from strategies.garbage import cheap_collections


class Bulyan(flower.Bulyan):
    """Multi-Krum selects, then a mean of the values nearest to the median."""

    summable: ClassVar[bool] = False

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Flower's."""
        with cheap_collections():
            return super().aggregate_train(server_round, replies)
