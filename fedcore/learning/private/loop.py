"""A site's part of a round under record-level privacy: a fixed number of DP-SGD steps.

    steps        epochs / sampling, rounded up: fixed before any row is looked at
    each step    rows drawn by Poisson sampling, clipped gradients summed, noise, one move (`fedcore.learning.private.step`)

The loss is not told, and nothing depends on it. A client half of a strategy sees gradients and weights with the noise in
them, so that whatever it does with them costs nothing more.

Source: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, algorithm 1.
"""

from __future__ import annotations

import math
import secrets
from typing import Any

import torch
from torch import nn

from fedcore.errors import DataError, JobError
from fedcore.jobs.job import LocalTraining
from fedcore.learning.examples import Examples
from fedcore.learning.memory import in_pieces
from fedcore.learning.private.sampling import poisson_batch
from fedcore.learning.private.step import Optimizer, PrivateStep
from fedcore.learning.private.validation import STEP
from fedcore.learning.seeds import reseed
from fedcore.learning.task import Task
from fedcore.learning.training import Trained, autocast_of, optimizer_of
from strategies.base import ClientHalf

AT_ONCE = 4
"""A step takes its rows at once up to so many times the expected batch; memory may force smaller pieces."""


def sampling_rate(rows: int, batch_size: int) -> float:
    """Probability with which a row is in a step.

    Args:
        rows: Of the site, 1 or more.
        batch_size: Rows of a step on average.
    """
    return min(1.0, batch_size / rows)


def steps_of_round(rows: int, local: LocalTraining) -> int:
    """Steps of a site in one round: as many as a pass over the rows in batches has, times the epochs.

    Args:
        rows: Of the site, 1 or more.
        local: Epochs and batch size.
    """
    return local.epochs * math.ceil(rows / local.batch_size)


def train_privately(
    model: nn.Module,
    task: Task,
    rows: Examples,
    local: LocalTraining,
    *,
    clip: float,
    noise: float,
    held: int | None = None,
    half: ClientHalf | None = None,
    config: dict[str, Any] | None = None,
) -> Trained:
    """Train in place for a round.

    Args:
        model: Holds the round's arrays; changed in place.
        task: Gives each row's loss.
        rows: Training rows, on the model's device; perhaps none.
        local: Epochs, batch size, optimizer, precision.
        clip: Largest Euclidean norm of a row's gradient.
        noise: Standard deviation / clip.
        held: Rows of the site, with those that cannot be trained on and count as nothing; as many as `rows` when None.
        half: Client half of the strategy.
        config: What the strategy sent along, for `half.begin`.

    Returns:
        What was done; its loss is NaN.

    Raises:
        DataError: The site holds no rows.
        JobError: The model or the task cannot be trained so.
    """
    held = len(rows) if held is None else held
    if held < max(1, len(rows)):
        raise DataError("no rows to train on; give the site more data", step=STEP)
    check_task(task)
    before = _kept(model)
    device = rows.device
    model.train()
    # Secret and new each time: whose mask is whose depends on who is in the batch, which nobody outside may work out.
    reseed(model, device, secrets.randbits(63))
    autocast, scaled = autocast_of(local, device)
    if scaled:
        raise JobError(
            "local.precision: float16 skips steps that overflow, which would tell of the rows; use bfloat16, float32 or auto",
            step=STEP,
        )
    expected = min(local.batch_size, held)
    step = PrivateStep(model, task.losses, clip=clip, noise=noise, expected_batch=expected)
    move = _Move(optimizer_of(model, local), model, half)
    if half is not None:
        half.lr, half.momentum = local.lr, local.momentum if local.optimizer == "sgd" else 0.0
        half.begin(model, config or {})
    source = torch.Generator(device=device)
    source.manual_seed(secrets.randbits(63))
    rate, most = sampling_rate(held, local.batch_size), AT_ONCE * local.batch_size

    def take(piece: torch.Tensor) -> None:
        batch = task.augmented(rows.batch(piece), source)
        if len(batch) != len(piece) or len(batch.y) != len(piece):
            raise JobError(
                f"task {type(task).__name__}: augmented made {len(batch)} rows of {len(piece)}; allowed: as many, each from "
                "itself",
                step=STEP,
            )
        with autocast():
            step.accumulate(batch.x, batch.y)

    for done in range(1, steps_of_round(held, local) + 1):
        chosen = poisson_batch(held, rate)
        most = in_pieces(chosen[chosen < len(rows)].to(device), most, take)
        step.step(move)
        if half is not None:
            half.steps = done
        if done == 1:
            _refuse_changed(before, model)
    _refuse_changed(before, model)
    return Trained(math.nan, step.steps, held, local.epochs)


def _kept(model: nn.Module) -> dict[str, torch.Tensor]:
    """What private steps do not move: buffers and frozen weights."""
    moved = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    return {name: value.detach().clone() for name, value in model.state_dict().items() if name not in moved}


def _refuse_changed(before: dict[str, torch.Tensor], model: nn.Module) -> None:
    now = model.state_dict()
    changed = [name for name, value in before.items() if not torch.equal(value, now[name])]
    if changed:
        raise JobError(
            f"training changes {changed[0]!r}, which is no weight that gets noise, and would leave with the model; use a model "
            "without running statistics and counters",
            step=STEP,
        )


class _Move:
    """An optimizer's step, after the strategy's client half has seen the gradient with its noise."""

    def __init__(self, optimizer: Optimizer, model: nn.Module, half: ClientHalf | None) -> None:
        self._optimizer, self._model, self._half = optimizer, model, half

    def step(self) -> None:
        if self._half is not None:
            self._half.adjust_gradients(self._model)
        self._optimizer.step()


def check_task(task: Task) -> None:
    """Refuse a task that says no loss for each row.

    Raises:
        JobError: It does not.
    """
    if type(task).losses is Task.losses:
        raise JobError(
            f"task {type(task).__name__} says no loss for each row, and differential_privacy: level record clips each row's "
            "gradient; give the task a method losses(outputs, y) that returns one number for each row",
            step=STEP,
        )
