"""The tabular job of `engines.py` as a Flower user writes it: torch, Flower's FedAvg, no fedcore.

As fast as such an app gets without leaving Flower's public interface: the data file is read once per process
and a participant's tensors are kept. A Flower project would have two modules for the two halves.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split

FEATURES = 20

client_app = ClientApp()


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))


@functools.lru_cache(maxsize=1)
def read(file: str) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(file) as arrays:
        x = np.stack([arrays[f"f{i:02d}"] for i in range(FEATURES)], axis=1)
        return torch.from_numpy(x), torch.from_numpy(arrays["label"])


@functools.cache
def rows_of(file: str, part: int, parts: int) -> list[TensorDataset]:
    x, y = read(file)
    mine = TensorDataset(x[part::parts], y[part::parts])
    return random_split(mine, [0.8, 0.2], torch.Generator().manual_seed(part))


def received(message: Message, context: Context) -> tuple[nn.Module, list[TensorDataset], ConfigRecord]:
    model = make_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    settings = message.content["config"]
    config = context.node_config
    rows = rows_of(str(settings["data"]), int(config["partition-id"]), int(config["num-partitions"]))
    return model, rows, settings


@client_app.train()
def train(message: Message, context: Context) -> Message:
    model, (rows, _), settings = received(message, context)
    optimizer = torch.optim.SGD(model.parameters(), lr=float(settings["lr"]))
    model.train()
    total = 0.0
    for x, y in DataLoader(rows, batch_size=int(settings["batch-size"]), shuffle=True):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": len(rows), "loss": total / len(rows)}),
        }
    )
    return Message(content, reply_to=message)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    model, (_, rows), _ = received(message, context)
    model.eval()
    x, y = rows[:]
    with torch.no_grad():
        logits = model(x)
    metrics = {
        "num-examples": len(rows),
        "loss": functional.cross_entropy(logits, y).item(),
        "accuracy": (logits.argmax(dim=1) == y).float().mean().item(),
    }
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)


def server_app(settings: dict, told: dict) -> ServerApp:
    """The server half; what happened goes into `told`."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        torch.manual_seed(0)
        sent = ConfigRecord({key: settings[key] for key in ("data", "lr", "batch-size")})
        strategy = FedAvg(
            min_train_nodes=2, min_evaluate_nodes=2, min_available_nodes=settings["participants"]
        )
        result = strategy.start(
            grid,
            ArrayRecord(make_model().state_dict()),
            num_rounds=settings["rounds"],
            train_config=sent,
            evaluate_config=ConfigRecord(dict(sent)),
        )
        told["losses"] = [float(one["loss"]) for one in result.train_metrics_clientapp.values()]
        told["metrics"] = dict(result.evaluate_metrics_clientapp[settings["rounds"]])

    return app
