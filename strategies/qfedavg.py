"""q-FedAvg: sites with a higher loss count more. Flower's, made to run on any reply.

Li et al., *Fair Resource Allocation in Federated Learning*, ICLR 2020 (arXiv:1905.10497), Algorithm 2. It
needs each site's update and loss, so it cannot run under protection that reveals only a sum.

Flower computes in place on the arrays of a reply, which fails on integer arrays (a batch norm layer counts
its batches) and on arrays that several readers share. It gets copies here; integer arrays stay as they are
at the server, because a counter's change would pass for a gradient.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flower

from strategies.garbage import cheap_collections


class QFedAvg(flower.QFedAvg):
    """Weighs updates by loss to the power of q."""

    summable: ClassVar[bool] = False

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Flower's, over copies."""
        replies = list(replies)
        current = self.current_arrays or ArrayRecord()
        counters = {name for name, array in current.items() if not _is_float(array)}
        for reply in replies:
            if not reply.has_error():
                for key, record in list(reply.content.array_records.items()):
                    taken = {
                        name: current[name] if name in counters else array for name, array in record.items()
                    }
                    reply.content[key] = ArrayRecord(
                        {name: Array(np.array(array.numpy(), np.float64)) for name, array in taken.items()}
                    )
        with cheap_collections():
            return super().aggregate_train(server_round, replies)


def _is_float(array: Array) -> bool:
    return np.issubdtype(np.dtype(array.dtype), np.inexact)
