"""The image training of `pfl_cifar_shape.py` with the package `pfl`, set up as its own benchmarks set it up.

    python pfl_images.py settings.json told.json
    python -m torch.distributed.run --standalone --nproc-per-node 2 pfl_images.py settings.json told.json

FederatedAveraging over a SimulatedBackend; users weigh alike; central SGD with learning rate 1. Two things
are changed in pfl's favour or for equal work: a user's tensors are made once and kept, and the evaluation of
each user before and after training, which pfl adds in some rounds, is left out, since no other side does it.
Central evaluation comes after the same rounds as on the other sides.

Needs `pfl` and torch, no fedcore.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import random
import time
from typing import Any

import numpy as np
import torch
from images import EVALUATION_BATCH, small_cnn, tensors, told_and_settings, user
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn
from torch.nn import functional

FLAGS = {"train_kwargs": {"eval": False}, "eval_kwargs": {"eval": True}}


class Classifier(nn.Module):
    """The model with the two methods that pfl asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_cnn()

    def loss(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> torch.Tensor:  # noqa: A002 - pfl names it
        self.train(not eval)
        return functional.cross_entropy(self.net(x), y)

    @torch.no_grad()
    def metrics(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> dict[str, Weighted]:  # noqa: A002 - pfl names it
        self.train(not eval)
        logits = self.net(x)
        loss = functional.cross_entropy(logits, y, reduction="sum").item()
        right = (logits.argmax(dim=1) == y).sum().item()
        return {"loss": Weighted(loss, len(y)), "accuracy": Weighted(right, len(y))}


class Averaging(FederatedAveraging):
    """Without evaluating every user before and after its training."""

    def get_next_central_contexts(self, *args: Any, **kwargs: Any) -> Any:
        contexts, model, metrics = super().get_next_central_contexts(*args, **kwargs)
        if contexts is not None:
            contexts = tuple(dataclasses.replace(each, do_evaluation=False) for each in contexts)
        return contexts, model, metrics


class AfterSomeRounds(CentralEvaluationCallback):
    """Central evaluation after every n-th round, not before the first."""

    def on_train_begin(self, *, model: Any) -> Metrics:
        return Metrics()

    def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
        if (central_iteration + 1) % self._frequency:
            return False, Metrics()
        found = self._eval(model)
        metrics = dict(found[1].to_simple_dict())
        told["central"].append({n: metrics[f"Central val | {n}"] for n in ("loss", "accuracy")})
        return found


class Clock(TrainingProcessCallback):
    """Notes when each round ends; comes last."""

    def on_train_begin(self, *, model: Any) -> Metrics:
        told["ends"].append(time.time())
        return Metrics()

    def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
        told["ends"].append(time.time())
        return False, Metrics()


told: dict[str, Any] = {"ends": [], "central": []}


def main() -> None:
    """Train."""
    told_file, settings = told_and_settings()
    np.random.seed(0)  # noqa: NPY002 - pfl draws from the global generator
    torch.manual_seed(0)
    sampler = random.Random(0)

    @functools.cache
    def dataset(number: int) -> Dataset:
        return Dataset(user(settings, number), user_id=str(number), **FLAGS)

    users = FederatedDataset(dataset, lambda: sampler.randrange(settings["participants"]))
    central = Dataset(tensors(settings["central"], slice(None)), **FLAGS)
    net = Classifier()
    model = PyTorchModel(
        net,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(net.parameters(), settings["server-lr"]),
    )
    Averaging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=settings["rounds"],
            evaluation_frequency=settings["every"],
            train_cohort_size=settings["cohort"],
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=users, val_data=users, postprocessors=[WeightByUser()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_learning_rate=settings["lr"], local_num_epochs=1, local_batch_size=settings["batch-size"]
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=EVALUATION_BATCH),
        callbacks=[
            AfterSomeRounds(
                central, NNEvalHyperParams(local_batch_size=EVALUATION_BATCH), frequency=settings["every"]
            ),
            Clock(),
        ],
    )
    if os.environ.get("RANK", "0") == "0":
        told_file.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
