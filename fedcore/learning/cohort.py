"""Many participants of one task trained as one batched model: each parameter is a stack with a row per participant.

A small model on small batches leaves most of a processor or GPU idle, and hundreds of participants one after another cost
hundreds of times its overhead. Here all of them take their steps at once: `torch.vmap` turns a linear layer into a batched
product and a convolution into a grouped one. Each participant keeps its own rows, order of batches and optimizer state, so
that what comes out is what `fedcore.learning.training.train` gives for it alone, but for the order of sums in floating point.

A participant with fewer rows has fewer steps: the stacks are ordered by steps, and each step moves the first of them only.
A batch with fewer rows than its neighbours is filled up with rows of its own that weigh nothing.

Dropout on a CPU draws each participant's masks from its own generator, as training alone does. On a GPU that would cost a
launch per participant and layer; there one generator, seeded from all their seeds, draws for all of them, so that a run
repeats only with the same participants trained together.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedcore.errors import DataError, JobError
from fedcore.learning.cohort_model import (
    Seed,
    State,
    dropout_sources,
    loss_of,
    names_of,
    row_wise,
    says_two_losses,
    skeleton,
)
from fedcore.learning.cohort_steps import Stepper
from fedcore.learning.examples import Examples
from fedcore.learning.seeds import derive_seed, generator
from fedcore.learning.task import Batch, Task

if TYPE_CHECKING:
    from fedcore.jobs.job import LocalTraining


class NotTogetherError(JobError):
    """The task or its settings do not go with training together, whoever takes part.

    Args:
        reason: Why.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"participants of this task cannot be trained together: {reason}; train each alone")


@dataclass(frozen=True)
class CohortTrained:
    """What the training of a cohort did, a value per participant in the order they were given.

    Args:
        losses: Mean training loss over all steps, per row.
        steps: Optimizer steps.
        finite: Whether loss and weights are numbers. Where they are not, training alone finds out which steps to skip.
    """

    losses: list[float]
    steps: list[int]
    finite: list[bool]


def why_not(model: nn.Module, task: Task, local: LocalTraining) -> str | None:
    """Why participants of this task cannot be trained together; None when they can, as far as can be seen.

    Args:
        model: Of the task.
        task: Gives the loss.
        local: What the job says of local training.
    """
    if local.patience is not None:
        return "local.patience stops each participant at another epoch"
    if local.precision == "float16":
        return "local.precision is float16, whose scale follows one participant's gradients; bfloat16 serves"
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            return f"layer {name!r} normalises over the rows of a batch ({type(module).__name__})"
        if isinstance(module, nn.RNNBase):
            return f"layer {name!r} is recurrent ({type(module).__name__})"
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return "no parameter of the model is trained"
    return None


def stacked(model: nn.Module, each: Sequence[Mapping[str, Any]], device: torch.device | str) -> State:
    """Participants' arrays, one below the other.

    Args:
        model: Says names, shapes and dtypes.
        each: Per participant ndarrays or tensors by `state_dict` name. What all share goes to the device once.
        device: Of the stacks.

    Returns:
        `[participants, *shape]` by name.

    Raises:
        JobError: A name or a shape does not fit.
    """
    stacks = {}
    for name, own in model.state_dict().items():
        given = [torch.as_tensor(arrays[name]) if name in arrays else None for arrays in each]
        first = given[0]
        for value in given:
            if value is None or first is None or value.shape != own.shape:
                found = "is missing" if value is None else f"has shape {tuple(value.shape)}"
                raise JobError(
                    f"array {name!r} {found}, the model here wants {tuple(own.shape)}; use the same versions of "
                    "fedcore and of the task everywhere"
                )
        held = [value for value in given if value is not None]
        shared = all(value.data_ptr() == held[0].data_ptr() for value in held)
        stack = (held[0][None] if shared else torch.stack(held)).to(device)
        # A mean of counters comes as 2.9999999; a cast alone would cut it to 2.
        if stack.is_floating_point() and not own.is_floating_point():
            stack = stack.round()
        stack = stack.to(own.dtype)
        stacks[name] = (
            stack.expand(len(each), *own.shape).clone(memory_format=torch.contiguous_format)
            if shared
            else stack
        )
    return stacks


def train_cohort(
    model: nn.Module,
    task: Task,
    state: State,
    rows: Sequence[Examples],
    local: LocalTraining,
    *,
    seeds: Sequence[Seed],
    pull: float = 0.0,
    convolutions: Literal["grouped", "patches"] = "grouped",
    compare: bool = True,
) -> CohortTrained:
    """Train all participants of `state` in place for the local epochs.

    A participant whose loss or gradient stops being finite does not disturb the others.

    Args:
        model: Any model of the task in training mode, its dropout layers seeded ones; its weights are neither used nor
            changed.
        task: Gives the loss; where participants have different numbers of rows also the loss of each row (`losses`).
        state: As from `stacked`: the arrays that training starts from, on the device of the rows.
        rows: Training rows of each participant, one or more, all of the same shape and dtype.
        local: Epochs, batch size, optimizer, precision.
        seeds: Parts of the seed of batch order and dropout, of each participant.
        pull: Strength of the term that holds each participant near its start (`mu` of FedProx); 0 for none.
        convolutions: As one grouped convolution, or as a batched product over unfolded patches.
        compare: First see on a batch that the task's `loss` is the mean of its `losses`, which are what is differentiated.

    Raises:
        DataError: Somebody has no rows, or rows of another shape or dtype than the first.
        JobError: The task or its settings do not go with training together; a `NotTogetherError` where that is so for any
            participants.
        RuntimeError: From torch: the model has an operation that `vmap` does not serve.
    """
    if (reason := why_not(model, task, local)) is not None:
        raise NotTogetherError(reason)
    if not rows:
        return CohortTrained([], [], [])
    _same_kind(rows)
    if row_wise(task):
        if compare and (reason := says_two_losses(model, task, state, rows)) is not None:
            raise NotTogetherError(reason)
    elif len({len(each) for each in rows}) > 1:
        raise JobError(
            f"{type(task).__name__} says no loss for each row (losses), and the participants have different numbers "
            "of rows; train those with the same number together"
        )
    plan = _plan([len(each) for each in rows], local.epochs, local.batch_size, seeds)
    served, dropouts = skeleton(model, convolutions)
    names = names_of(served)
    order = torch.tensor(plan.order)
    in_order = plan.order == sorted(plan.order)
    device = rows[0].device
    parts = {
        first: (state[last] if in_order else state[last][order.to(device)])
        for first, last in names.last.items()
    }
    seeds = [seeds[i] for i in plan.order]
    if dropouts:
        sources = dropout_sources(device, seeds)
        for layer in dropouts:
            layer.sources = sources
    source = _Source(task, [rows[i] for i in plan.order], plan, seeds)
    moved = [parts[name] for name in names.trained]
    stepper = Stepper(local, moved, pull)
    losses_of = torch.vmap(loss_of(served, task))
    totals = torch.zeros(len(rows), device=device)
    autocast = _autocast(local, device)
    for step, active in enumerate(plan.active):
        x, y, weights, counts = source.batch(step)
        for layer in dropouts:
            layer.rows = plan.counts[step]
        leaves = {name: parts[name][:active].detach().requires_grad_() for name in names.trained}
        fixed = {name: parts[name][:active] for name in names.last if name not in leaves}
        with autocast():
            losses = losses_of(leaves, fixed, x, y, weights)
        gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
        stepper.step(active, gradients)
        totals[:active] += losses.detach() * counts
    if not in_order:
        for first, last in names.last.items():
            state[last][order.to(device)] = parts[first]
    for name, last in names.aliases.items():
        state[name] = state[last]
    return _told(totals, moved, rows, plan, local.epochs)


def _told(
    totals: torch.Tensor,
    moved: Sequence[torch.Tensor],
    rows: Sequence[Examples],
    plan: _Plan,
    epochs: int,
) -> CohortTrained:
    fine = totals.isfinite()
    for stack in moved:
        fine &= stack.flatten(1).isfinite().all(dim=1) if stack.dim() > 1 else stack.isfinite()
    told = sorted(zip(plan.order, totals.tolist(), plan.steps, fine.tolist(), strict=True))
    return CohortTrained(
        [total / (epochs * len(rows[at])) for at, total, _, _ in told],
        [steps for _, _, steps, _ in told],
        [finite for _, _, _, finite in told],
    )


def kind_of(rows: Examples) -> tuple[Any, ...]:
    """Equal in participants whose rows can be stacked."""
    x, y = rows.x, rows.y
    return rows.device, x.device, x.dtype, tuple(x.shape[1:]), y.dtype, tuple(y.shape[1:]), len(y) > 0


def _same_kind(rows: Sequence[Examples]) -> None:
    for number, each in enumerate(rows):
        if not len(each):
            raise DataError(
                f"participant {number} of the cohort has no rows to train on; leave it out or give it data"
            )
        if kind_of(each) != kind_of(rows[0]):
            raise DataError(
                f"participant {number} of the cohort has rows of {kind_of(each)}, the first of {kind_of(rows[0])} (devices, "
                "dtypes, shapes); train those of one kind together"
            )


# ---- which rows in which step ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Batches of all participants, those with most steps first.

    Args:
        order: Number of the participant at each place of the stacks.
        steps: Of the participant at each place.
        active: Participants that take each step: the first so many.
        counts: Per step the rows in the batch of each active participant.
        at: `[steps, participants, batch]` int64 row numbers in the participants' rows one below the other; a batch with
            fewer rows ends in copies of its first.
    """

    order: list[int]
    steps: list[int]
    active: list[int]
    counts: list[list[int]]
    at: torch.Tensor


def _plan(lengths: Sequence[int], epochs: int, size: int, seeds: Sequence[Seed]) -> _Plan:
    order = sorted(range(len(lengths)), key=lambda i: -math.ceil(lengths[i] / size))
    steps = [epochs * math.ceil(lengths[i] / size) for i in order]
    at = torch.zeros(steps[0], len(order), min(size, max(lengths)), dtype=torch.int64)
    each: list[list[int]] = []
    offset = 0
    for place, i in enumerate(order):
        length, batches = lengths[i], math.ceil(lengths[i] / size)
        source = generator(*seeds[i], "order")
        last = length - (batches - 1) * size
        whole = last if batches == 1 else size  # columns of a full batch of this participant
        for epoch in range(epochs):
            shuffled = torch.randperm(length, generator=source) + offset
            table = at[epoch * batches : (epoch + 1) * batches, place]
            table[:-1, :whole] = shuffled[: length - last].view(batches - 1, whole)
            table[-1] = shuffled[-last]
            table[-1, :last] = shuffled[length - last :]
        each.append(([size] * (batches - 1) + [last]) * epochs)
        offset += length
    active = [sum(taken > step for taken in steps) for step in range(steps[0])]
    counts = [[each[place][step] for place in range(count)] for step, count in enumerate(active)]
    return _Plan(order, steps, active, counts, at)


class _Source:
    """The batches of each step, from all participants' rows one below the other on the device."""

    def __init__(self, task: Task, rows: Sequence[Examples], plan: _Plan, seeds: Sequence[Seed]) -> None:
        self._x = torch.cat([each.x for each in rows])
        self._y = torch.cat([each.y for each in rows])
        self._device = device = rows[0].device
        self._plan, self._at = plan, plan.at.to(self._x.device)
        self._task = task
        width = max(plan.active)
        self._counts = torch.zeros(len(plan.active), width)
        for step, counts in enumerate(plan.counts):
            self._counts[step, : len(counts)] = torch.tensor(counts)
        self._counts = self._counts.to(device)
        self._sources: list[torch.Generator] = []
        if type(task).augmented is not Task.augmented:
            for seed in seeds:
                source = torch.Generator(device=device)
                source.manual_seed(derive_seed(*seed, "augment"))
                self._sources.append(source)

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the participants that take this step: rows and targets, `[participants, batch, ...]`; what each row weighs, so
        that a participant's weights sum to 1; and how many rows count, `[participants]`."""
        counts = self._plan.counts[step]
        active, width = len(counts), max(counts)
        at = self._at[step, :active, :width]
        x = self._x[at].to(self._device)
        y = self._y[at].to(self._device) if len(self._y) else self._y.expand(active, 0)
        x = x.float().div_(255) if x.dtype == torch.uint8 else x
        if self._sources:
            x, y = self._augmented(x, y, counts)
        real = self._counts[step, :active]
        weights = (torch.arange(width, device=x.device) < real[:, None]) / real[:, None].to(x.dtype)
        return x, y, weights, real

    def _augmented(
        self, x: torch.Tensor, y: torch.Tensor, counts: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each participant's own rows from its own random numbers; what fills its batch up stays."""
        changed = False
        xs, ys = [], []
        for one, (count, source) in enumerate(zip(counts, self._sources, strict=False)):
            given = Batch(x[one, :count], y[one, :count])
            made = self._task.augmented(given, source)
            changed |= made is not given
            xs.append(_filled(made.x, x.shape[1]))
            ys.append(_filled(made.y, x.shape[1]))
        return (torch.stack(xs), torch.stack(ys)) if changed else (x, y)


def _filled(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Copies of the first row behind the others; no rows, as of a target that is not there, stay none."""
    rest = count - len(rows) if len(rows) else 0
    return torch.cat([rows, rows[:1].expand(rest, *rows.shape[1:])]) if rest else rows


def _autocast(local: LocalTraining, device: torch.device) -> Callable[[], Any]:
    wanted = local.precision == "bfloat16" or (local.precision == "auto" and device.type == "cuda")
    return (lambda: torch.autocast(device.type, torch.bfloat16)) if wanted else contextlib.nullcontext
