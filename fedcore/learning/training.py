"""Local training and evaluation at a participant."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedcore.errors import DataError, JobError
from fedcore.jobs.job import LocalTraining
from fedcore.learning.examples import Examples
from fedcore.learning.seeds import generator, own_randomness, reseed, seeded_model
from fedcore.learning.sgd import Sgd
from fedcore.learning.task import Task
from strategies.base import ClientHalf

NDArray = npt.NDArray[Any]

EVALUATION_BATCH = 1024  # rows at most
EVALUATION_BYTES = 2**20  # of one batch on a CPU, where activations that outgrow the caches cost most


@dataclass(frozen=True)
class Trained:
    """What local training did.

    Args:
        loss: Mean training loss over all steps, per row.
        steps: Optimizer steps.
        rows: Training rows of the site.
        epochs: Epochs begun (fewer than asked when stopped early).
    """

    loss: float
    steps: int
    rows: int
    epochs: int


def choose_device(wanted: str, allow_gpu: bool) -> torch.device:
    """The device to train on.

    Args:
        wanted: `auto`, `cpu`, `cuda` or `cuda:N`.
        allow_gpu: Whether the site gives its GPUs to jobs.

    Raises:
        JobError: CUDA was asked for by name and is not there or not given.
    """
    if wanted == "auto":
        return torch.device("cuda" if allow_gpu and torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not (allow_gpu and torch.cuda.is_available()):
        why = "the site gives none (resources.gpus: none)" if not allow_gpu else "there is none here"
        raise JobError(f"local.device is {wanted!r} but {why}; use device: auto or cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise JobError(
            f"local.device is {wanted!r} but the site has {torch.cuda.device_count()} CUDA devices, counted "
            "from cuda:0; use device: auto"
        )
    return device


_resident = threading.local()


def release_resident() -> None:
    """Let go of this thread's model; a thread that ends with tensors in hand can abort the interpreter's end."""
    _resident.__dict__.clear()


def resident_model(task: Task, device: torch.device) -> nn.Module:
    """This thread's one model of `task`, built on first use and kept for the next participant.

    Building a module draws initial weights that the arrays of the round overwrite at once; for small models
    that costs more than an epoch. Its weights on return are whatever the last user left.
    """
    if getattr(_resident, "of", None) != (task, device):
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


def _optimizer(model: nn.Module, local: LocalTraining, scaled: bool) -> torch.optim.Optimizer | Sgd:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if local.optimizer == "sgd":
        # A gradient scaler steps torch's own optimizers only.
        kind = torch.optim.SGD if scaled else Sgd
        return kind(parameters, lr=local.lr, momentum=local.momentum, weight_decay=local.weight_decay)
    adaptive = torch.optim.Adam if local.optimizer == "adam" else torch.optim.AdamW
    return adaptive(parameters, lr=local.lr, weight_decay=local.weight_decay)


def _autocast(local: LocalTraining, device: torch.device) -> tuple[Callable[[], Any], bool]:
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

    Args:
        model: Holds the round's arrays; changed in place.
        task: Gives the loss.
        rows: Training rows, on the model's device.
        local: Epochs, batch size, optimizer, precision, patience.
        seed: Parts of the seed of batch order and dropout.
        half: Client half of the strategy.
        config: What the strategy sent along, for `half.begin`.
        validation: Rows for `local.patience`.

    Raises:
        DataError: No training rows, or the loss stopped being finite.
    """
    if len(rows) == 0:
        raise DataError(
            "no rows to train on after the validation rows were set aside; give the site more data"
        )
    device = rows.x.device
    _switch(model, training=True)
    reseed(model, device, *seed, "dropout")
    order = generator(*seed, "order")
    autocast, scale = _autocast(local, device)
    optimizer = _optimizer(model, local, scale)
    scaler = torch.amp.GradScaler("cuda", enabled=scale)
    keep_two = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if half is not None:
        half.lr, half.momentum = local.lr, local.momentum if local.optimizer == "sgd" else 0.0
        half.begin(model, config or {})
    total = torch.zeros((), device=device)
    seen = steps = epochs = skipped = 0
    best, best_arrays, best_steps, without = math.inf, None, 0, 0
    for epochs in range(1, local.epochs + 1):  # noqa: B007 - its last value is told
        for batch in rows.batches(local.batch_size, torch.randperm(len(rows), generator=order), keep_two):
            with autocast(), _two_rows(keep_two and len(batch) == 1):
                loss = task.loss(model, batch)
            optimizer.zero_grad()
            if scale and isinstance(optimizer, torch.optim.Optimizer):
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                scaler.unscale_(optimizer)
            else:
                loss.backward()  # type: ignore[no-untyped-call]
            if half is not None:
                half.adjust_gradients(model)
            if scale and isinstance(optimizer, torch.optim.Optimizer):
                before = scaler.get_scale()
                scaler.step(optimizer)
                scaler.update()
                # A scale that shrinks says that the gradients overflowed and the step was not taken.
                skipped += scaler.get_scale() < before
            else:
                optimizer.step()
            total += loss.detach() * len(batch)
            seen += len(batch)
            steps += 1
            if half is not None:
                half.steps = steps - skipped
        if local.patience is not None and validation is not None and len(validation):
            now = mean_loss(model, task, validation)
            if now < best:
                best, best_arrays, best_steps, without = now, take_arrays(model), steps - skipped, 0
            else:
                without += 1
                if without >= local.patience:
                    break
    if best_arrays is not None:
        load_arrays(model, best_arrays)
        if half is not None:
            half.steps = best_steps  # those that led to the model that is sent
    mean = float(total) / seen
    if not math.isfinite(mean):
        raise DataError(
            f"the training loss is not finite after {steps} steps; lower local.lr (now {local.lr}) or look for "
            "outliers in the features"
        )
    return Trained(mean, steps, len(rows), epochs)


def _switch(model: nn.Module, *, training: bool) -> None:
    """Into training or evaluation mode; a resident model mostly is in it, and the walk costs as much as a layer."""
    if model.training != training:
        model.train(training)


@contextlib.contextmanager
def _two_rows(alone: bool) -> Iterator[None]:
    """Says what torch means when a batch norm layer sees one value per channel."""
    try:
        yield
    except ValueError as error:
        if not alone:
            raise
        raise DataError(
            "the model's batch normalisation needs two rows in a batch, this one has one; raise "
            "local.batch_size, give the site more rows or take a model without it"
        ) from error


def mean_loss(model: nn.Module, task: Task, rows: Examples) -> float:
    """The task's mean loss over rows, without gradients; the model is left in training mode."""
    _switch(model, training=False)
    total = 0.0
    with torch.no_grad():
        for batch in rows.batches(_evaluation_rows(rows)):
            total += float(task.loss(model, batch)) * len(batch)
    _switch(model, training=True)
    return total / len(rows)


def evaluate(model: nn.Module, task: Task, rows: Examples) -> dict[str, float]:
    """The task's metrics over rows.

    Returns:
        Metric name to value; NaN where the task says it is not defined.
    """
    _switch(model, training=False)
    with torch.no_grad():
        found = task.metrics(model, rows.batches(_evaluation_rows(rows)))
    return {name: float(value) for name, value in found.items()}


def _evaluation_rows(rows: Examples) -> int:
    """Rows per batch of an evaluation."""
    if rows.x.device.type != "cpu" or not len(rows):
        return EVALUATION_BATCH
    each = 4 * rows.x[0].nelement()  # float32, also where they are stored as bytes
    return min(EVALUATION_BATCH, max(8, EVALUATION_BYTES // max(1, each)))
