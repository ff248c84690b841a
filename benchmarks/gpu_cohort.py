"""Hundreds of simulated participants of the digits CNN, trained as one batched model and one by one; for `benchmarks/gpu.py`.

Each participant has 40 rows of 8 x 8 pixels, batches of 10, one epoch: four steps. One by one is the plainest loop there is
over one model on the device (`fedcore.learning.sgd`, no reading of losses in between); a job's own loop does more. Both leave
all participants' arrays on the device.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.gpu_bench import Bench, relative
from benchmarks.gpu_targets import COHORT, PARTICIPANTS
from fedcore.learning.cohort import stacked, train_cohort
from fedcore.learning.examples import Examples
from fedcore.learning.models import SmallCNN
from fedcore.learning.seeds import generator, own_randomness, reseed, seeded_model
from fedcore.learning.sgd import Sgd
from fedcore.learning.task import Batch, Task

CLASSES, ROWS, BATCH, LR = 10, 40, 10, 0.05
CONVOLUTIONS = ("grouped", "patches")
State = dict[str, torch.Tensor]


class Digits(Task):
    """Cross-entropy over the digits' shape."""

    classification = True

    def __init__(self, dropout: tuple[float, float]) -> None:
        self._dropout = dropout

    def model(self) -> nn.Module:
        """The small CNN."""
        return SmallCNN((1, 8, 8), CLASSES, self._dropout)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy."""
        return cross_entropy(model(batch.x), batch.y)

    def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each row."""
        return cross_entropy(outputs, y, reduction="none")

    def metrics(self, model: nn.Module, batches: Any) -> dict[str, float]:
        """None here."""
        return {}


def cohort(bench: Bench) -> None:
    """Right first, then the times."""
    for convolutions in CONVOLUTIONS:
        bench.attempt(f"cohort, {convolutions}: right", lambda way=convolutions: _compared(bench, way))
    if bench.timing:
        bench.attempt("cohort: times", lambda: _times(bench))


def _made(bench: Bench, dropout: tuple[float, float]) -> tuple[Digits, nn.Module]:
    task = Digits(dropout)
    return task, own_randomness(seeded_model(task.model, 1)).to(bench.device).train()


def _rows(bench: Bench, participants: int) -> list[Examples]:
    source = torch.Generator().manual_seed(3)
    x = torch.rand(participants, ROWS, 1, 8, 8, generator=source).to(bench.device)
    y = torch.randint(0, CLASSES, (participants, ROWS), generator=source).to(bench.device)
    return [Examples(*each) for each in zip(x, y, strict=True)]


def _local() -> Any:
    return SimpleNamespace(
        epochs=1,
        batch_size=BATCH,
        lr=LR,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        precision="float32",
        patience=None,
    )


def _seeds(participants: int) -> list[tuple[str | int, ...]]:
    return [(7, f"site-{number}", "train", 1) for number in range(participants)]


def _one_by_one(task: Task, model: nn.Module, start: State, rows: list[Examples]) -> list[State]:
    """Arrays of each participant after its steps."""
    own = model.state_dict()
    found = []
    for each, seed in zip(rows, _seeds(len(rows)), strict=True):
        for name, tensor in own.items():
            tensor.copy_(start[name])
        reseed(model, each.x.device, *seed, "dropout")
        optimizer = Sgd(model.parameters(), LR)
        order = torch.randperm(len(each.x), generator=generator(*seed, "order")).to(each.x.device)
        for chosen in order.split(BATCH):
            optimizer.zero_grad()
            task.loss(model, Batch(each.x[chosen], each.y[chosen])).backward()
            optimizer.step()
        found.append({name: tensor.clone() for name, tensor in own.items()})
    return found


def _together(task: Task, model: nn.Module, start: State, rows: list[Examples], convolutions: str) -> State:
    state = stacked(model, [start] * len(rows), rows[0].x.device)
    train_cohort(model, task, state, rows, _local(), seeds=_seeds(len(rows)), convolutions=convolutions)  # type: ignore[arg-type]
    return state


def _started(model: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _compared(bench: Bench, convolutions: str) -> None:
    """The change that each participant ends with, beside that of training alone, without dropout and without TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        participants = bench.pick(32, 8, 2)
        task, model = _made(bench, (0.0, 0.0))
        rows, start = _rows(bench, participants), _started(model)
        together = _together(task, model, start, rows, convolutions)
        worst = 0.0
        for number, alone in enumerate(_one_by_one(task, model, start, rows)):
            for name, first in start.items():
                worst = max(worst, relative(together[name][number] - first, alone[name] - first))
    finally:
        torch.backends.cudnn.allow_tf32 = before
    bench.right(f"cohort, {convolutions}", f"{participants} participants", worst, 1e-3)


def _times(bench: Bench) -> None:
    participants = bench.pick(PARTICIPANTS, PARTICIPANTS, 3)
    task, model = _made(bench, (0.25, 0.5))
    rows, start = _rows(bench, participants), _started(model)
    part = f"{participants} participants of the digits CNN: a round"
    taken = {
        way: bench.timed(
            lambda way=way: _together(task, model, start, rows, way), seconds=3.0, least=3, most=10
        )
        for way in CONVOLUTIONS
    }
    alone = bench.timed(lambda: _one_by_one(task, model, start, rows), seconds=6.0, least=2, most=3)
    bench.figures.append({"part": part, "side": "one by one", "s": alone})
    for way, seconds in taken.items():
        bench.figures.append(
            {"part": part, "side": f"together, {way}", "s": seconds, "one by one over it": alone / seconds}
        )
    bench.values[COHORT] = alone / min(taken.values())
