"""A model as a cohort's training calls it: all participants at once, a participant seeing only its own.

`torch.vmap` adds the participants' axis to each operation. Random numbers are what it cannot know how to deal; dropout
therefore draws its masks for all participants outside of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from fedcore.learning.examples import Examples
from fedcore.learning.seeds import SeededDropout, derive_seed, reseed
from fedcore.learning.task import Batch, Task

Seed = tuple[str | int, ...]
State = dict[str, torch.Tensor]

SOME_ROWS = 64
"""Rows on which two ways to say a loss are compared: enough to differ, too few for roundings to add up."""


def row_wise(task: Task) -> bool:
    """Whether the task says the loss of each row, as its `loss` has it.

    A class that states a loss of its own below one that states `losses` has no losses that go with it.
    """
    for kind in type(task).__mro__:
        if "losses" in vars(kind):
            return kind is not Task
        if "loss" in vars(kind):
            return False
    return False


def says_two_losses(model: nn.Module, task: Task, state: State, rows: Sequence[Examples]) -> str | None:
    """Why `losses` cannot stand for `loss`, looked at on a real batch; None where it can.

    Args:
        model: Of the task, in training mode; left as it is.
        task: Says the loss of each row.
        state: Participants' arrays, one below the other.
        rows: Of each participant.

    Returns:
        What is wrong: a penalty on the weights, say, that only `loss` has.
    """
    names = names_of(model)
    model = copy.deepcopy(model)
    for place in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
        each = rows[place]
        batch = each.batch(torch.arange(min(SOME_ROWS, len(each))))
        given = {first: state[last][place] for first, last in names.last.items()}
        # A penalty on weights that begin at zero is only seen where they are others.
        for arrays in (_moved(given, names.trained), given):
            loss, losses = _two_losses(model, task, arrays, batch, each.device)
            if not (loss.isfinite() and losses.isfinite().all()):
                continue  # others may tell
            enough = max(1e-5, 4 * torch.finfo(losses.dtype).eps) * float(losses.abs().mean())
            if abs(float(loss) - float(losses.mean())) > enough:
                name = type(task).__name__
                return f"{name}.loss is not the mean of {name}.losses, which say nothing of a penalty"
            return None
    return None


def _moved(arrays: State, trained: Sequence[str]) -> State:
    moved = dict(arrays)
    for name in trained:
        value = arrays[name]
        source = torch.Generator(device=value.device)
        source.manual_seed(derive_seed("weights to compare losses at", name))
        noise = torch.randn(value.shape, generator=source, device=value.device).to(value.dtype)
        moved[name] = value + noise * (0.1 * value.square().mean().sqrt() + 0.01)
    return moved


@torch.no_grad()
def _two_losses(
    model: nn.Module, task: Task, arrays: State, batch: Batch, device: torch.device
) -> list[torch.Tensor]:
    """A batch's loss and its rows' losses with some arrays, which the model gets, and with the same dropout."""
    found = []
    held = model.state_dict()
    for of_rows in (False, True):
        reseed(model, device, "two losses")
        for name, value in arrays.items():  # buffers again: a pass may write to them
            held[name].copy_(value)
        found.append(task.losses(model(batch.x), batch.y) if of_rows else task.loss(model, batch))
    return found


@dataclass(frozen=True)
class Names:
    """Names of a model's arrays.

    Args:
        trained: Of parameters that are trained, each once.
        last: Of each array the first name, to the last; a shared one has several, and the last is loaded last.
        aliases: Every other name of a shared array, to the last one.
    """

    trained: list[str]
    last: dict[str, str]
    aliases: dict[str, str]


def names_of(model: nn.Module) -> Names:
    first: dict[int, str] = {}
    last: dict[str, str] = {}
    held = model.state_dict(keep_vars=True)
    for name, tensor in held.items():
        last[first.setdefault(id(tensor), name)] = name
    aliases = {name: last[first[id(tensor)]] for name, tensor in held.items()}
    return Names(
        [name for name in last if held[name].requires_grad],
        last,
        {name: whose for name, whose in aliases.items() if name != whose},
    )


def skeleton(model: nn.Module, convolutions: str) -> tuple[nn.Module, list[CohortDropout]]:
    """A copy of the model whose layers serve a cohort, and its dropout layers."""
    made = copy.deepcopy(model).train()
    dropouts: list[CohortDropout] = []
    for path, module in list(made.named_modules(remove_duplicate=False)):
        if path and type(module) is SeededDropout:
            parent, _, name = path.rpartition(".")
            layer = CohortDropout(module.p, module.per_channel)
            setattr(made.get_submodule(parent), name, layer)
            dropouts.append(layer)
        plain = type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros"
        if convolutions == "patches" and plain and set(module.dilation) == {1}:
            module.__class__ = _PatchConv2d
    return made, dropouts


def loss_of(model: nn.Module, task: Task) -> Callable[..., torch.Tensor]:
    """One participant's loss from its parameters, buffers, rows, targets and weights, for `vmap`."""
    if row_wise(task):

        def weighted(
            trained: State, fixed: State, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor
        ) -> torch.Tensor:
            losses = task.losses(functional_call(model, {**trained, **fixed}, (x,)), y)
            return (losses * weights).sum()

        return weighted
    whole = _WithLoss(task, model)

    def mean(
        trained: State, fixed: State, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        named = {f"model.{name}": value for name, value in {**trained, **fixed}.items()}
        loss: torch.Tensor = functional_call(whole, named, (x, y))
        return loss

    return mean


class _WithLoss(nn.Module):
    """A model whose output is the task's loss, so that a task may use any part of the model for it."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.task.loss(self.model, Batch(x, y))


class CohortDropout(SeededDropout):
    """Dropout whose masks differ between the participants of a cohort."""

    def __init__(self, p: float, per_channel: bool) -> None:
        super().__init__(p, per_channel)
        self.sources: list[torch.Generator] = []
        self.rows: list[int] = []  # of each participant's batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.p == 0.0:
            return x
        dropped: torch.Tensor = _Dropped.apply(x, self)  # type: ignore[no-untyped-call]
        return dropped

    def masks(self, x: torch.Tensor) -> torch.Tensor:
        """0 or 1 / (1 - p) for each value of `x`, `[participants, batch, ...]`."""
        if len(self.sources) == 1:
            self.source = self.sources[0]
            drawn = self._mask(x.flatten(0, 1))
            return drawn.view(*x.shape[:2], *drawn.shape[1:])
        # Rows that only fill a batch up draw nothing: they do not exist when a participant trains alone.
        masks = torch.zeros_like(x)
        for one, count in enumerate(self.rows):
            self.source = self.sources[one]
            masks[one, :count] = self._mask(x[one, :count])
        return masks


class _Dropped(torch.autograd.Function):
    """`x` times a layer's masks; under `vmap` it sees all participants at once, as a plain operation does not."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: torch.Tensor, layer: CohortDropout) -> torch.Tensor:
        raise RuntimeError("a cohort's dropout was called outside of vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Nothing to keep: what `vmap` below does is differentiated as it stands."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, None], x: torch.Tensor, layer: CohortDropout
    ) -> tuple[torch.Tensor, int]:
        x = x.expand(info.batch_size, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
        return x * layer.masks(x.detach()), 0


def dropout_sources(device: torch.device, seeds: Sequence[Seed]) -> list[torch.Generator]:
    """A generator per participant, seeded as when it trains alone; on a GPU one for all."""
    parts = [(*seed, "dropout") for seed in seeds]
    if device.type != "cpu":
        parts = [("cohort", *(derive_seed(*part) for part in parts))]
    sources = []
    for part in parts:
        source = torch.Generator(device=device)
        source.manual_seed(derive_seed(*part))
        sources.append(source)
    return sources


class _PatchConv2d(nn.Conv2d):
    """A convolution as a product over unfolded patches, which `vmap` makes one batched product.

    Faster than a grouped convolution where images are small; each patch is written out, which costs memory.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(self.padding, str):
            vertical, horizontal = self.padding
            edges = [horizontal, horizontal, vertical, vertical]
        else:
            edges = list(self._reversed_padding_repeated_twice)
        x = functional.pad(x, edges) if any(edges) else x
        patches = x.unfold(2, self.kernel_size[0], self.stride[0]).unfold(
            3, self.kernel_size[1], self.stride[1]
        )
        n, _, height, width = patches.shape[:4]
        lines = patches.permute(0, 2, 3, 1, 4, 5).reshape(n * height * width, -1)
        made = functional.linear(lines, self.weight.flatten(1), self.bias)
        return made.view(n, height, width, -1).permute(0, 3, 1, 2)
