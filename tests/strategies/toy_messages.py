"""One round of a strategy over Flower messages, the sites' replies written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from fedcore.flower import array_record, enter_process, ndarrays, stamp
from strategies.base import Arrays

enter_process()


class Nodes:
    """What a strategy asks of a grid when it samples."""

    def __init__(self, count: int) -> None:
        self.count = count

    def get_node_ids(self) -> list[int]:
        return list(range(100, 100 + self.count))


def ask(strategy: Strategy, model: Arrays, count: int, number: int = 1) -> list[Message]:
    """The round's messages, in the order of the nodes."""
    grid: Any = Nodes(count)
    messages = list(strategy.configure_train(number, array_record(model), ConfigRecord(), grid))
    for message in messages:
        stamp(message)
    return sorted(messages, key=lambda message: message.metadata.dst_node_id)


def one_round(
    strategy: Strategy, model: Arrays, replies: Sequence[tuple[int, Arrays, float]], number: int = 1
) -> Arrays | None:
    """The strategy's next arrays.

    Args:
        replies: Per site: rows, arrays, loss.
    """
    answers = []
    for message, (rows, arrays, loss) in zip(
        ask(strategy, model, len(replies), number), replies, strict=True
    ):
        metrics = MetricRecord({"num-examples": rows, "loss": loss})
        content = RecordDict({"arrays": array_record(arrays), "metrics": metrics})
        answers.append(Message(content, reply_to=message))
        stamp(answers[-1])
    record, _ = strategy.aggregate_train(number, answers)
    return None if record is None else ndarrays(record)
