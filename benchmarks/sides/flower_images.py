"""The image training of `pfl_cifar_shape.py` as a Flower user writes it: torch, Flower's FedAvg, no fedcore."""

from __future__ import annotations

import time

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from images import evaluate, small_cnn, user
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    settings = dict(message.content["config"])
    model = small_cnn()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    rows = TensorDataset(*user(settings, int(context.node_config["partition-id"])))
    optimizer = torch.optim.SGD(model.parameters(), lr=settings["lr"])
    model.train()
    total = 0.0
    for x, y in DataLoader(rows, batch_size=settings["batch-size"], shuffle=True):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
    metrics = MetricRecord({"num-examples": len(rows), "loss": total / len(rows)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


def server_app(settings: dict, told: dict) -> ServerApp:
    """The server half; what happened goes into `told`."""
    app = ServerApp()
    told.update(ends=[], central=[])
    model = small_cnn()

    def after(number: int, arrays: ArrayRecord) -> MetricRecord | None:
        found = None
        if number and number % settings["every"] == 0:
            model.load_state_dict(arrays.to_torch_state_dict())
            found = evaluate(model, settings["central"])
            told["central"].append(found)
        told["ends"].append(time.time())
        return MetricRecord(found) if found else None

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        cohort = settings["cohort"]
        strategy = FedAvg(
            fraction_train=cohort / settings["participants"],
            fraction_evaluate=0.0,
            min_train_nodes=cohort,
            min_available_nodes=settings["participants"],
        )
        sent = {key: settings[key] for key in ("data", "points", "lr", "batch-size")}
        strategy.start(
            grid,
            ArrayRecord(model.state_dict()),
            num_rounds=settings["rounds"],
            train_config=ConfigRecord(sent),
            evaluate_fn=after,
        )

    return app
