"""What a layer's input and the gradient of its output say of its parameters' gradients, row by row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fedcore.learning.kernels import norms
from fedcore.learning.private.parts import Lookup, Outer, Part, Rows

Gradients = dict[str, Part]
"""By the parameter's name in its module."""


@dataclass
class Single(Outer):
    """The weight of a linear layer with one position a row: its gradients are outer products of two vectors.

    Args:
        a: Inputs, `[n, k]`.
        d: Gradients of outputs, `[n, o]`.
    """

    a: torch.Tensor = field(kw_only=True)
    d: torch.Tensor = field(kw_only=True)
    _d_squared: torch.Tensor | None = field(default=None, repr=False)

    def squared_norms(self) -> torch.Tensor:
        """See `Part`."""
        # Each is a float64, so that the product of a small and a large one is neither lost nor too large.
        return norms.squares(self.a).mul_(self.d_squared())

    def d_squared(self) -> torch.Tensor:
        """|d|^2, made once, `[n]`."""
        if self._d_squared is None:
            self._d_squared = norms.squares(self.d)
        return self._d_squared


@dataclass
class SingleBias(Rows):
    """The bias that goes with it, whose gradients are the second of these vectors.

    Args:
        weight: The layer's.
    """

    weight: Single

    def squared_norms(self) -> torch.Tensor:
        """See `Part`."""
        return self.weight.d_squared()


def linear(module: Any, inputs: torch.Tensor, outputs: torch.Tensor) -> Gradients:
    """`nn.Linear`, over any number of positions between rows and features."""
    return linear_parts(inputs, outputs, bias=module.bias is not None)


def linear_parts(inputs: torch.Tensor, outputs: torch.Tensor, *, bias: bool) -> Gradients:
    """A product with a weight `[o, k]`, perhaps plus a bias.

    Args:
        inputs: `[n, ..., k]`.
        outputs: `[n, ..., o]`, gradients.
        bias: Whether there is one.
    """
    if inputs.dim() == 2:
        shape = (outputs.shape[1], inputs.shape[1])
        spread = [each.unsqueeze(1).unsqueeze(1) for each in (inputs, outputs)]
        one = Single(spread[0], spread[1], shape, a=inputs, d=outputs)
        return {"weight": one, "bias": SingleBias(outputs, one)} if bias else {"weight": one}
    n, k, o = len(inputs), inputs.shape[-1], outputs.shape[-1]
    positions = inputs[0, ..., 0].numel()
    d = outputs.reshape(n, 1, positions, o)
    found: Gradients = {"weight": Outer(inputs.reshape(n, 1, positions, k), d, (o, k))}
    if bias:
        found["bias"] = Rows(d.sum(dim=(1, 2)) if positions != 1 else d.view(n, o))
    return found


def convolution(module: Any, inputs: torch.Tensor, outputs: torch.Tensor) -> Gradients:
    """`nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d`, with any stride, padding, dilation and groups."""
    assert_kind = module
    if not isinstance(
        assert_kind, nn.Conv1d | nn.Conv2d | nn.Conv3d
    ):  # pragma: no cover - by the table below
        raise TypeError(type(module).__name__)
    conv = assert_kind
    n, groups = len(inputs), conv.groups
    unfolded = _unfolded(conv, inputs)
    positions = outputs[0, 0].numel()
    d = outputs.movedim(1, -1).reshape(n, positions, groups, conv.out_channels // groups)
    found: Gradients = {
        "weight": Outer(unfolded, d.transpose(1, 2), tuple(conv.weight.shape)),
    }
    if conv.bias is not None:
        found["bias"] = Rows(d.sum(1).view(n, -1))
    return found


def _unfolded(conv: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Inputs of every position, `[n, groups, positions, kernel x channels / groups]`, channels last."""
    pads = conv._reversed_padding_repeated_twice
    if any(pads):
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        inputs = functional.pad(inputs, pads, mode=mode)
    last = inputs.movedim(1, -1).contiguous()  # no copy of images that are stored so
    n, channels, strides = len(inputs), inputs.shape[1], last.stride()
    sizes, steps, inner = [n], [strides[0]], []
    for axis, (kernel, stride, dilation) in enumerate(
        zip(conv.kernel_size, conv.stride, conv.dilation, strict=True), start=1
    ):
        sizes.append((last.shape[axis] - dilation * (kernel - 1) - 1) // stride + 1)
        steps.append(strides[axis] * stride)
        inner.append((kernel, strides[axis] * dilation))
    view = last.as_strided(
        [*sizes, *(kernel for kernel, _ in inner), channels],
        [*steps, *(step for _, step in inner), strides[-1]],
        last.storage_offset(),
    )
    each = channels // conv.groups
    flat = view.reshape(n, -1, math.prod(conv.kernel_size), conv.groups, each)
    return flat.permute(0, 3, 1, 2, 4).reshape(n, conv.groups, flat.shape[1], flat.shape[2] * each)


def embedding(module: Any, inputs: torch.Tensor, outputs: torch.Tensor) -> Gradients:
    """`nn.Embedding`."""
    n, e = len(inputs), outputs.shape[-1]
    ids = inputs.reshape(n, -1)
    d = outputs.reshape(n, ids.shape[1], e)
    if module.padding_idx is not None:
        d = d.masked_fill((ids == module.padding_idx)[:, :, None], 0)
    return {"weight": Lookup(ids.long(), d, module.num_embeddings)}


def normalisation(module: Any, inputs: torch.Tensor, outputs: torch.Tensor) -> Gradients:
    """`nn.LayerNorm`, `nn.RMSNorm`, `nn.GroupNorm` and instance norm without running statistics: scale and shift."""
    if isinstance(module, nn.LayerNorm):
        kept = len(module.normalized_shape)
        plain = functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
    elif isinstance(module, nn.RMSNorm):
        kept = len(module.normalized_shape)
        plain = functional.rms_norm(inputs, list(module.normalized_shape), eps=module.eps)
    else:
        groups = module.num_groups if isinstance(module, nn.GroupNorm) else inputs.shape[1]
        plain = functional.group_norm(inputs, groups, eps=module.eps).movedim(1, -1)
        outputs, kept = outputs.movedim(1, -1), 1
    found: Gradients = {"weight": Rows(_over_positions(outputs * plain, kept))}
    if getattr(module, "bias", None) is not None:
        found["bias"] = Rows(_over_positions(outputs, kept))
    return found


def _over_positions(values: torch.Tensor, kept: int) -> torch.Tensor:
    """Sums over all axes between the first and the last `kept`."""
    between = list(range(1, values.dim() - kept))
    return values.sum(between) if between else values


Rule = Callable[[Any, torch.Tensor, torch.Tensor], Gradients]

RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Conv3d: convolution,
    nn.Embedding: embedding,
    nn.LayerNorm: normalisation,
    nn.RMSNorm: normalisation,
    nn.GroupNorm: normalisation,
    nn.InstanceNorm1d: normalisation,
    nn.InstanceNorm2d: normalisation,
    nn.InstanceNorm3d: normalisation,
}
"""By the exact class: a class derived from one of them may compute something else."""


def least_dimensions(module: Any) -> int:
    """Axes of an input with rows on the first one, at least."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return len(module.normalized_shape) + 1
    for digit in "123":
        if type(module).__name__.endswith(f"{digit}d"):
            return int(digit) + 2
    return 1 if isinstance(module, nn.Embedding) else 2
