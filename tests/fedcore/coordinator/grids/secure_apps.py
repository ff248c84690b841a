"""Plain Flower apps under secure aggregation, whose participants fail where a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from crypto.secagg.graph import Assumptions
from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.engines.embedded import FIRST_NODE, EmbeddedGrid, Node
from fedcore.flower import array_record
from fedcore.jobs.request import SECURE
from fedcore.participant.mods.secure import Own, secure_aggregation, secure_aggregation_mod

PROTOCOLS = ("secagg+", "threshold", "ckks", "paillier")
CURIOUS = Assumptions(adversary="curious")
curious_mod = secure_aggregation(lambda message, context: Own(str(context.node_id), CURIOUS))
"""Of participants that trust the coordinator to follow the protocol."""

SHAPES: dict[str, tuple[int, ...]] = {"w": (7, 5), "b": (5,), "bn.running_var": (5,), "count": ()}


def model(seed: int = 0) -> dict[str, Any]:
    """Arrays of all kinds: weights, a running statistic, a counter."""
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    made["bn.running_var"] = np.abs(made["bn.running_var"]) * 50
    made["count"] = np.array(3, dtype=np.int64)
    return made


def trained(message: Message, context: Context) -> RecordDict:
    """What a participant makes of the model: another at each, of its own number of examples."""
    index = int(context.node_config["partition-id"])
    rng = np.random.default_rng(index + 10)
    sent = {name: array.numpy() for name, array in message.content["arrays"].items()}
    new = {
        name: value + 7
        if value.dtype.kind == "i"
        else value + rng.normal(size=value.shape).astype(value.dtype)
        for name, value in sent.items()
    }
    return RecordDict(
        {
            "arrays": array_record(new),
            "metrics": MetricRecord({"loss": 0.5 + index, "num-examples": 10 * (index + 1)}),
        }
    )


def evaluated(message: Message, context: Context) -> RecordDict:
    """Metrics, one of which is not defined everywhere."""
    index = int(context.node_config["partition-id"])
    auc = float("nan") if index == 1 else 0.5 + index / 100
    return RecordDict(
        {"metrics": MetricRecord({"loss": 0.25 * index, "auc": auc, "num-examples": 3 + index})}
    )


def engine(
    nodes: int,
    train: Callable[[Message, Context], RecordDict] = trained,
    evaluate: Callable[[Message, Context], RecordDict] = evaluated,
    *,
    mods: Iterable[Any] = (secure_aggregation_mod,),
    **options: Any,
) -> EmbeddedGrid:
    """An in-process grid of a plain app."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train_(message: Message, context: Context) -> Message:
        return Message(train(message, context), reply_to=message)

    @app.evaluate()
    def evaluate_(message: Message, context: Context) -> Message:
        return Message(evaluate(message, context), reply_to=message)

    @app.query("ask")
    def ask(message: Message, context: Context) -> Message:
        return Message(RecordDict({"m": MetricRecord({"node": context.node_id})}), reply_to=message)

    return EmbeddedGrid(app, [Node({"partition-id": i}, {}) for i in range(nodes)], **options)


class Seen(Layer):
    """Below the protection: keeps all that the coordinator gets, and lets participants drop out.

    Args:
        grid: The engine's.
        lost: (stage, exchange, node) whose message never arrives; exchanges of a stage count from 1, and node 0 is the
            first that is asked in it.
    """

    def __init__(self, grid: EmbeddedGrid, lost: Iterable[tuple[str, int, int]] = ()) -> None:
        super().__init__(grid)
        self.lost = set(lost)
        self.engine = grid
        self.replies: list[tuple[str, int, RecordDict]] = []
        self.stages: list[str] = []
        self.change: Callable[[str, Message], None] = lambda stage, reply: None

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        asked = list(messages)
        stage = _stage(asked[0].content) if asked else ""
        self.stages.append(stage)
        nth = self.stages.count(stage)
        self.engine.down = {
            node or asked[0].metadata.dst_node_id for name, n, node in self.lost if (name, n) == (stage, nth)
        }
        for reply in self.engine.stream(asked, timeout):
            if reply.has_content():
                self.change(stage, reply)
                self.replies.append((stage, reply.metadata.src_node_id, reply.content))
            yield reply
        self.engine.down = set()


def sealed(below: Layer | EmbeddedGrid, protocol: str, **options: Any) -> SecureAggregationGrid:
    """A protocol over participants with `curious_mod`, with a short key where there is a choice."""
    settings: dict[str, Any] = {"assumptions": CURIOUS, "key_bits": 2048, **options}
    return SecureAggregationGrid(below, protocol=protocol, **settings)  # type: ignore[arg-type]


def _stage(content: RecordDict) -> str:
    record = content.get(SECURE)
    return str(record["stage"]) if isinstance(record, ConfigRecord) else "plain"


def messages(
    kind: str = "train", nodes: int = 5, arrays: dict[str, Any] | None = None, number: int = 1
) -> list[Message]:
    """As a strategy makes them, all with one content."""
    content = RecordDict(
        {
            "arrays": array_record(model() if arrays is None else arrays),
            "config": ConfigRecord({"server-round": number}),
        }
    )
    return [Message(content, FIRST_NODE + i, kind) for i in range(nodes)]


def one(grid: SecureAggregationGrid, asked: list[Message], timeout: float | None = 20) -> Message | None:
    """The reply of an exchange, if there is one."""
    replies = list(grid.send_and_receive(asked, timeout=timeout))
    assert len(replies) <= 1
    return replies[0] if replies else None


def plain_mean(indices: Iterable[int]) -> tuple[dict[str, Any], float]:
    """The weighted mean of what `trained` makes of `model()`, and of its loss, in double precision."""
    engine_ = engine(max(indices := list(indices)) + 1, mods=())
    replies = list(engine_.stream(messages(nodes=max(indices) + 1), 20))
    contents = [replies[i].content for i in indices]
    weights = np.array([float(c["metrics"]["num-examples"]) for c in contents])
    weights /= weights.sum()
    arrays = {
        name: sum(
            w * np.asarray(c["arrays"][name].numpy(), np.float64)
            for w, c in zip(weights, contents, strict=True)
        )
        for name in SHAPES
    }
    loss = float(sum(w * float(c["metrics"]["loss"]) for w, c in zip(weights, contents, strict=True)))
    engine_.close()
    return arrays, loss
