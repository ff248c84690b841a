"""A Flower app as a Flower user writes it: torch, FedAvg, train and evaluate; nothing of fedcore but the model."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch.nn import functional

from fedcore.learning.models import SmallCNN

SHAPE, CLASSES, BATCH, RATE = (1, 28, 28), 10, 32, 0.05

server = ServerApp()
client = ClientApp()


def rows(context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    """The site's images and labels."""
    stored = np.load(Path(str(context.node_config["participant"])).with_suffix(".npz"))
    return torch.from_numpy(stored["image"][:, None]).float().div_(255), torch.from_numpy(stored["label"])


def model_of(message: Message) -> SmallCNN:
    """The received model."""
    model = SmallCNN(SHAPE, CLASSES)
    record = message.content["arrays"]
    model.load_state_dict(record.to_torch_state_dict())  # type: ignore[union-attr]
    return model


@client.train()
def train(message: Message, context: Context) -> Message:
    """One epoch over four fifths of the rows."""
    x, y = rows(context)
    cut = len(x) * 4 // 5
    model = model_of(message).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    total = 0.0
    for at in torch.randperm(cut).split(BATCH):
        loss = functional.cross_entropy(model(x[at]), y[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(loss) * len(at)
    metrics = MetricRecord({"num-examples": cut, "loss": total / cut})
    return Message(
        RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message
    )


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Accuracy on the other fifth."""
    x, y = rows(context)
    cut = len(x) * 4 // 5
    model = model_of(message).eval()
    with torch.no_grad():
        right = (model(x[cut:]).argmax(1) == y[cut:]).float().mean()
    metrics = MetricRecord({"num-examples": len(x) - cut, "accuracy": float(right)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


class Timed(FedAvg):
    """FedAvg that notes when each round ends."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.ends: list[float] = []

    def aggregate_evaluate(self, server_round: int, replies: Any) -> MetricRecord | None:
        found = super().aggregate_evaluate(server_round, replies)
        self.ends.append(time.monotonic())
        return found


@server.main()
def main(grid: Grid, context: Context) -> None:
    """As many rounds as the job file says."""
    job = json.loads(Path(str(context.run_config["job"])).read_text())
    least = {f"min_{what}_nodes": job["sites"] for what in ("train", "evaluate", "available")}
    strategy = Timed(**least)
    while len(list(grid.get_node_ids())) < job["sites"]:
        time.sleep(0.2)
    torch.manual_seed(0)
    began = time.monotonic()
    initial = ArrayRecord(SmallCNN(SHAPE, CLASSES).state_dict())
    strategy.start(grid, initial, num_rounds=job["rounds"], timeout=600)
    ends = [began, *strategy.ends]
    told = {"status": "finished", "seconds": [b - a for a, b in itertools.pairwise(ends)]}
    (Path(str(context.run_config["run-dir"])) / "result.json").write_text(json.dumps(told))
