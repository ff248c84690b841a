"""Layers with which the gradient of one row depends on other rows, all at once, and how to replace them.

A batch norm in training takes its mean and variance from the batch: no clip of one row's gradient bounds what that row changes.
Group norm (Wu and He 2018) takes them from the row itself. Running statistics are worse still: they leave with the model,
without noise.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedcore.errors import JobError

STEP = "private training"
GROUPS = 32
"""Of a group norm, at most (Wu and He 2018, section 4)."""
MIXED = (
    "the loss of a row depends on the other rows of its batch, so that no clip of its gradient protects it; look for a mean, a "
    "sort or a norm over the first axis in the model or in the loss"
)
_INSTANCE = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d


@dataclass(frozen=True)
class Problem:
    """A layer that rows share.

    Args:
        layer: Its path in the model.
        kind: Its class.
        why: What is wrong with it.
        cure: What `fixed` does.
    """

    layer: str
    kind: str
    why: str
    cure: str

    def told(self) -> str:
        """For a message."""
        return f"{self.layer or '(the model)'} ({self.kind}): {self.why}; {self.cure}"


def problems(model: nn.Module) -> list[Problem]:
    """All layers that break the independence of rows, in the model's order; none where there is none."""
    found = []
    for path, module in model.named_modules():
        told = _problem(module)
        if told is not None:
            found.append(Problem(path, type(module).__name__, *told))
    return found


def _problem(module: nn.Module) -> tuple[str, str] | None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "it normalises by the other rows of the batch", "becomes a GroupNorm"
    if isinstance(module, _INSTANCE) and module.track_running_stats:
        return "its running statistics leave with the model, without noise", "goes without them"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.scale_grad_by_freq:
        return "it scales gradients by how often the batch has an id", "goes without scale_grad_by_freq"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
        return "it shortens the vectors that the batch looks up, without noise", "goes without max_norm"
    return None


def check(model: nn.Module) -> None:
    """Raises when rows are not independent.

    Raises:
        JobError: Names every such layer, and the cure.
    """
    found = problems(model)
    if found:
        listed = "; ".join(problem.told() for problem in found)
        many = "a layer breaks" if len(found) == 1 else f"{len(found)} layers break"
        raise JobError(
            f"{many} the privacy of rows: {listed}. Cure: fedcore.learning.private.validation.fixed(model), before the "
            "optimizer is made",
            step=STEP,
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise JobError("no parameter of the model is trained (all are frozen); unfreeze one", step=STEP)


def fixed(model: nn.Module) -> nn.Module:
    """The model with every such layer replaced.

    Args:
        model: Changed in place, unless it is such a layer itself. Scales and shifts keep their values, and stay frozen where
            they were.

    Returns:
        The model. What it computes is another thing: train it, or go on training it.
    """
    shared: dict[nn.Module, nn.Module] = {}
    # A layer that stands at two places has two names, and each is replaced by the same one.
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if _problem(module) is None:
            continue
        if module not in shared:
            shared[module] = _replacement(module)
        if not path:
            return shared[module]
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, shared[module])
    return model


def _replacement(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        module.scale_grad_by_freq = False
        module.max_norm = None
        return module
    own: Any = module
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        # A group of one channel has nothing to be normalised by where there are no pixels.
        most = min(GROUPS, max(1, own.num_features // 4))
        groups = max(d for d in range(1, most + 1) if own.num_features % d == 0)
        made: nn.Module = nn.GroupNorm(groups, own.num_features, own.eps, own.affine)
    else:
        made = type(own)(own.num_features, own.eps, affine=own.affine, track_running_stats=False)
    for name, parameter in own.named_parameters(recurse=False):
        made.register_parameter(name, parameter)
    return made.train(module.training)


@contextlib.contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Puts back what a forward pass changes: buffers, and generators that modules have of their own."""
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    sources = {
        value: value.get_state()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Generator)
    }
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                buffer.copy_(before)
                module._buffers[name] = buffer
        for source, state in sources.items():
            source.set_state(state)


def check_gradient(
    losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, y: torch.Tensor
) -> None:
    """Raises when the loss of the first row depends on other rows, by its gradient.

    Rows of ids have none, and numbers that a model takes out of the graph neither: see `check_independence`.

    Args:
        losses: `[n]`, from rows and targets.
        x: `[n, ...]`.
        y: `[n, ...]`.

    Raises:
        JobError: The gradient is not zero.
    """
    if not x.is_floating_point():
        return
    x = x.detach().clone().requires_grad_()
    first = losses(x, y)[0]
    found = torch.autograd.grad(first, x, allow_unused=True)[0] if first.requires_grad else None
    # A row that is no number makes zeros no numbers too.
    if found is not None and bool(found[1:].nan_to_num(nan=0.0).any()):
        raise JobError(MIXED, step=STEP)


def check_independence(alone: torch.Tensor, among: torch.Tensor) -> None:
    """Raises when the loss of a row is another one among other rows.

    A look at one row of one batch: it finds a model that mixes rows, not every one.

    Args:
        alone, among: Losses of the same row.

    Raises:
        JobError: They differ by more than rounding explains.
    """
    one, other = float(alone), float(among)
    if math.isfinite(one) and math.isfinite(other) and abs(one - other) > 1e-2 * (1e-2 + abs(one)):
        raise JobError(MIXED, step=STEP)
