"""A plain Flower app whose server sees the sum of the updates only. Two lines make it so; they are marked."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.participant.mods.secure import secure_aggregation_mod

TRUTH = np.array([2.0, -1.0, 0.5])

client = ClientApp(mods=[secure_aggregation_mod])  # <- one
server = ServerApp()


def rows(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """What this participant has: a linear relation with noise."""
    rng = np.random.default_rng(int(context.node_config["partition-id"]))
    x = rng.normal(size=(50, 3))
    return x, x @ TRUTH + rng.normal(scale=0.1, size=50)


@client.train()
def train(message: Message, context: Context) -> Message:
    x, y = rows(context)
    weights = message.content["arrays"]["w"].numpy().copy()
    for _ in range(20):
        weights -= 0.05 * x.T @ (x @ weights - y) / len(y)
    metrics = MetricRecord({"num-examples": len(y), "mse": float(np.mean((x @ weights - y) ** 2))})
    return Message(
        RecordDict({"arrays": ArrayRecord({"w": Array(weights)}), "metrics": metrics}), reply_to=message
    )


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    x, y = rows(context)
    weights = message.content["arrays"]["w"].numpy()
    metrics = MetricRecord({"num-examples": len(y), "mse": float(np.mean((x @ weights - y) ** 2))})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    print(learn(SecureAggregationGrid(grid)))  # <- two


def learn(grid: Grid) -> np.ndarray:
    """Three rounds of Flower's own FedAvg."""
    start = ArrayRecord({"w": Array(np.zeros(3))})
    result = FedAvg(min_available_nodes=5).start(grid, start, num_rounds=3)
    return result.arrays["w"].numpy()
