"""Local training and evaluation at a participant."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedcore.errors import DataError, JobError
from fedcore.jobs.job import LocalTraining
from fedcore.learning.compiled import release_compiled
from fedcore.learning.examples import Examples
from fedcore.learning.gradients import Gradients, all_finite
from fedcore.learning.memory import enough_memory, fitting
from fedcore.learning.seeds import derive_seed, generator, own_randomness, reseed, seeded_model
from fedcore.learning.several import SharedGradients, devices_for, release_replicas
from fedcore.learning.sgd import Sgd
from fedcore.learning.steps import Steps, restore
from fedcore.learning.task import Task
from strategies.base import ClientHalf

NDArray = npt.NDArray[Any]

log = logging.getLogger("fedcore.learning")

EVALUATION_BATCH = 1024  # rows at most
EVALUATION_BYTES = 2**20  # of one batch on a CPU, where activations that outgrow the caches cost most


@dataclass(frozen=True)
class Trained:
    """What local training did.

    Args:
        loss: Mean training loss over the steps taken, per row.
        steps: Optimizer steps taken.
        rows: Training rows of the site.
        epochs: Epochs begun (fewer than asked when stopped early).
        skipped: Steps not taken, as their loss or a gradient was not a finite number.
    """

    loss: float
    steps: int
    rows: int
    epochs: int
    skipped: int = 0


_resident = threading.local()


def release_resident() -> None:
    """Let go of this thread's model; a thread that ends with tensors in hand can abort the interpreter's end."""
    _resident.__dict__.clear()
    release_compiled()
    release_replicas()


def resident_model(task: Task, device: torch.device) -> nn.Module:
    """This thread's one model of `task`, built on first use and kept for the next participant.

    Building a module draws initial weights that the arrays of the round overwrite at once; for small models
    that costs more than an epoch. Its weights on return are whatever the last user left.
    """
    of, at = getattr(_resident, "of", (None, None))
    # The very task: one that compares equal may have another schema, and so another model.
    if of is not task or at != device:
        # Seeded, although the weights do not matter: drawing them must not disturb another run's, elsewhere.
        _resident.model = placed(own_randomness(seeded_model(task.model, 0)), device)
        _resident.of = (task, device)
    model: nn.Module = _resident.model
    return model


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on a device; on a CPU with the weights of its image convolutions stored channels last.

    Convolutions and poolings follow the layout of the weights; pooling is many times faster in this one. Names,
    shapes and values stay as they are.
    """
    model.to(device)
    if device.type == "cpu":
        for parameter in model.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def load_arrays(model: nn.Module, arrays: dict[str, NDArray]) -> None:
    """Copy arrays into the model's parameters and buffers, by name.

    Args:
        model: Changed in place.
        arrays: By `state_dict` name; values may have another numeric dtype.

    Raises:
        JobError: A name or a shape does not fit: coordinator and participant built different models.
    """
    own = model.state_dict()
    missing = sorted(set(own) - set(arrays))
    extra = sorted(set(arrays) - set(own))
    if missing or extra:
        raise JobError(
            f"the model here and the arrays sent differ: missing {missing or 'none'}, unknown {extra or 'none'}; "
            "use the same versions of fedcore and of the task everywhere"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            value = arrays[name]
            if tuple(value.shape) != tuple(tensor.shape):
                raise JobError(
                    f"array {name!r} has shape {tuple(value.shape)}, the model here wants {tuple(tensor.shape)}; "
                    "use the same versions of fedcore and of the task everywhere"
                )
            given = torch.from_numpy(value)
            # A mean of counters comes as 2.9999999; a cast alone would cut it to 2.
            whole = given.is_floating_point() and not tensor.is_floating_point()
            tensor.copy_(given.round() if whole else given)


def take_arrays(model: nn.Module, skip: frozenset[str] | set[str] = frozenset()) -> dict[str, NDArray]:
    """Copies of the model's parameters and buffers as ndarrays, by `state_dict` name.

    NumPy has no bfloat16: such weights travel as float32, which holds each of their values.
    """
    taken = {}
    for name, tensor in model.state_dict().items():
        if name not in skip:
            held = tensor.detach().cpu()
            value = (held.float() if held.dtype == torch.bfloat16 else held).numpy()
            taken[name] = np.array(value, copy=True, order="C")
    return taken


def optimizer_of(model: nn.Module, local: LocalTraining, scaled: bool = False) -> torch.optim.Optimizer | Sgd:
    """The job's optimizer over the parameters that are trained; `scaled` where a gradient scaler steps it."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if local.optimizer == "sgd":
        # A gradient scaler steps torch's own optimizers only.
        kind = torch.optim.SGD if scaled else Sgd
        return kind(parameters, lr=local.lr, momentum=local.momentum, weight_decay=local.weight_decay)
    adaptive = torch.optim.Adam if local.optimizer == "adam" else torch.optim.AdamW
    return adaptive(parameters, lr=local.lr, weight_decay=local.weight_decay)


def autocast_of(local: LocalTraining, device: torch.device) -> tuple[Callable[[], Any], bool]:
    """The context that the job's precision asks for on a device, and whether gradients have to be scaled.

    Raises:
        JobError: float16 without CUDA.
    """
    precision = local.precision
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    if precision == "float32":
        return contextlib.nullcontext, False
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float16
    if dtype == torch.float16 and device.type != "cuda":
        raise JobError("local.precision: float16 needs CUDA; use bfloat16, float32 or auto on a CPU")
    return (lambda: torch.autocast(device.type, dtype)), dtype == torch.float16


def train(
    model: nn.Module,
    task: Task,
    rows: Examples,
    local: LocalTraining,
    *,
    seed: tuple[str | int, ...],
    half: ClientHalf | None = None,
    config: dict[str, Any] | None = None,
    validation: Examples | None = None,
) -> Trained:
    """Train in place for the local epochs.

    A batch that memory does not hold is taken in pieces. A step whose loss or gradient is not finite is skipped: first
    nothing is checked on the way, and only when something has gone wrong is the round done again from its beginning, with
    a look at every step.

    Args:
        model: Holds the round's arrays; changed in place.
        task: Gives the loss.
        rows: Training rows, on the model's device.
        local: Epochs, batch size, optimizer, precision, patience, devices, compilation.
        seed: Parts of the seed of batch order, dropout and augmentation.
        half: Client half of the strategy; `begin` is called again where the round is done again.
        config: What the strategy sent along, for `half.begin`.
        validation: Rows for `local.patience`.

    Raises:
        DataError: No training rows, memory for less than a row, no finite loss, or a model that is left with none.
    """
    if len(rows) == 0:
        raise DataError(
            "no rows to train on after the validation rows were set aside; give the site more data"
        )
    once = partial(_epochs, model, task, rows, local, seed, half, config or {}, validation)
    with enough_memory("the model, its optimizer and a batch"):
        if local.precision == "float16":  # overflows now and then, by design
            return once(True)
        weights = [*model.parameters(), *model.buffers()]
        received = [each.detach().clone() for each in weights]
        try:
            return once(False)
        except _NotFiniteError:
            restore(weights, received)
        return once(True)


class _NotFiniteError(Exception):
    """Somewhere in the round there was a loss or a gradient that is not finite."""


def _epochs(
    model: nn.Module,
    task: Task,
    rows: Examples,
    local: LocalTraining,
    seed: tuple[str | int, ...],
    half: ClientHalf | None,
    config: dict[str, Any],
    validation: Examples | None,
    careful: bool,
) -> Trained:
    """All epochs of a round; `careful` looks at every loss and gradient, otherwise the end tells of any."""
    device = rows.device
    _switch(model, training=True)
    reseed(model, device, *seed, "dropout")
    order, augment = generator(*seed, "order"), _augmentation(task, device, seed)
    autocast, scale = autocast_of(local, device)
    optimizer = optimizer_of(model, local, scale)
    scaler = torch.amp.GradScaler(device.type) if scale else None
    if half is not None:
        half.lr, half.momentum = local.lr, local.momentum if local.optimizer == "sgd" else 0.0
        half.steps = 0
        half.begin(model, config)
    epochs = 0
    best, best_arrays, best_steps, without = math.inf, None, 0, 0
    with _gradients(model, task, rows, local, seed, optimizer, autocast, scaler) as gradients:
        steps = Steps(model, gradients, optimizer, scaler=scaler, half=half, careful=careful)
        keep_two = gradients.normalised
        for epochs in range(1, local.epochs + 1):  # noqa: B007 - its last value is told
            for batch in rows.batches(local.batch_size, torch.randperm(len(rows), generator=order), keep_two):
                steps(batch if augment is None else task.augmented(batch, augment))
            if not careful and not math.isfinite(steps.loss()):
                raise _NotFiniteError
            if local.patience is not None and validation is not None and len(validation):
                now = mean_loss(model, task, validation)
                if now < best:
                    best, best_arrays, best_steps, without = now, take_arrays(model), steps.taken, 0
                else:
                    without += 1
                    if without >= local.patience:
                        break
    # The last step may have been the one. A norm that overflows costs a second look, no more.
    if not careful and not all_finite(_trained_by(optimizer), order=2):
        raise _NotFiniteError
    if best_arrays is not None:
        load_arrays(model, best_arrays)
        if half is not None:
            half.steps = best_steps  # those that led to the model that is sent
    tried = steps.taken + steps.skipped
    if careful and not steps.usable(autocast):
        raise DataError(
            f"the training loss is not finite after {tried} steps; lower local.lr (now {local.lr}) or look for outliers in "
            "the features"
        )
    if steps.skipped:
        log.warning("%d of %d steps skipped: loss or gradient not finite", steps.skipped, tried)
    return Trained(steps.loss(), steps.taken, len(rows), epochs, steps.skipped)


def _trained_by(optimizer: torch.optim.Optimizer | Sgd) -> list[nn.Parameter]:
    if isinstance(optimizer, Sgd):
        return optimizer.parameters
    parameters: list[nn.Parameter] = optimizer.param_groups[0]["params"]
    return parameters


def _gradients(
    model: nn.Module,
    task: Task,
    rows: Examples,
    local: LocalTraining,
    seed: tuple[str | int, ...],
    optimizer: torch.optim.Optimizer | Sgd,
    autocast: Callable[[], Any],
    scaler: torch.amp.GradScaler | None,
) -> contextlib.AbstractContextManager[Gradients | SharedGradients]:
    """Of batches on the model's device, or shared with further ones."""
    first, *others = devices_for(rows.device, local.devices)
    full = -(-min(local.batch_size, len(rows)) // (1 + len(others)))
    one = Gradients(
        model,
        task,
        _trained_by(optimizer),
        first,
        autocast=autocast,
        scaler=scaler,
        compile_at=full if local.compile else None,
    )
    if not others:
        return contextlib.nullcontext(one)
    if scaler is not None:
        scaler.scale(torch.zeros((), device=first))  # makes its state, which threads must not do at once

    def make(replica: nn.Module, device: torch.device) -> Gradients:
        trainable = [p for p in replica.parameters() if p.requires_grad]
        return Gradients(replica, task, trainable, device, autocast=autocast, scaler=scaler)

    return SharedGradients(one, tuple(others), make, *seed, "dropout")


def _augmentation(task: Task, device: torch.device, seed: tuple[str | int, ...]) -> torch.Generator | None:
    """What a task draws its augmentation from; None for a task without."""
    if type(task).augmented is Task.augmented:
        return None
    source = torch.Generator(device=device)
    source.manual_seed(derive_seed(*seed, "augment"))
    return source


def _switch(model: nn.Module, *, training: bool) -> None:
    """Into training or evaluation mode; a resident model mostly is in it, and the walk costs as much as a layer."""
    if model.training != training:
        model.train(training)


def mean_loss(model: nn.Module, task: Task, rows: Examples) -> float:
    """The task's mean loss over rows, without gradients; the model is left in training mode."""

    def total(size: int) -> float:
        return sum(float(task.loss(model, batch)) * len(batch) for batch in rows.batches(size))

    _switch(model, training=False)
    with torch.no_grad():
        found, _ = fitting(_evaluation_rows(rows), total)
    _switch(model, training=True)
    return found / len(rows)


def evaluate(model: nn.Module, task: Task, rows: Examples) -> dict[str, float]:
    """The task's metrics over rows.

    Returns:
        Metric name to value; NaN where the task says it is not defined.
    """
    _switch(model, training=False)
    with torch.no_grad():
        found, _ = fitting(_evaluation_rows(rows), lambda size: task.metrics(model, rows.batches(size)))
    return {name: float(value) for name, value in found.items()}


def _evaluation_rows(rows: Examples) -> int:
    """Rows per batch of an evaluation."""
    if rows.device.type != "cpu" or not len(rows):
        return EVALUATION_BATCH
    each = 4 * rows.x[0].nelement()  # float32, also where they are stored as bytes
    return min(EVALUATION_BATCH, max(8, EVALUATION_BYTES // max(1, each)))
