"""`nn.MultiheadAttention` in parts that can be watched: its products with weights, one by one.

Torch's own forward calls one function with the weights as arguments, so that no hook sees what goes through them. This one
computes the same from the same parameters; the module, its names and its `state_dict` stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fedcore.errors import JobError

Watch = Callable[[torch.Tensor, torch.Tensor, slice], None]
"""Called with input and output of a product with some rows of `in_proj_weight`, rows on the first axis."""


def why_not(module: nn.MultiheadAttention) -> str | None:
    """What of a module `attend` does not do; None where it does all."""
    if module.bias_k is not None or module.bias_v is not None:
        return "attention with add_bias_kv"
    if module.add_zero_attn:
        return "attention with add_zero_attn"
    if not module._qkv_same_embed_dim:
        return "attention with kdim or vdim of their own"
    return None


def attend(
    module: nn.MultiheadAttention,
    watch: Watch,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_padding_mask: torch.Tensor | None = None,
    need_weights: bool = True,
    attn_mask: torch.Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The module's forward; arguments and results as there, for inputs with a batch axis.

    Raises:
        JobError: Inputs have no batch axis, or `is_causal` comes without a mask.
    """
    if query.dim() != 3:
        raise JobError(f"attention over an input of {query.dim()} axes; allowed: 3, with the rows among them")
    if is_causal and attn_mask is None:
        raise JobError("attention with is_causal and without attn_mask; give the mask, as torch asks for")
    projected = _projections(module, watch, query, key, value)
    batch, heads, e = len(projected[0]), module.num_heads, module.embed_dim
    q, k, v = (each.view(batch, -1, heads, e // heads).transpose(1, 2) for each in projected)
    mask = _mask(attn_mask, key_padding_mask, q, k.shape[2])
    dropout = module.dropout if module.training else 0.0
    weights = None
    if need_weights:
        scores = q @ k.mT / math.sqrt(e // heads)
        weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        weights = functional.dropout(weights, dropout) if dropout else weights
        mixed = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        mixed = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
    out: torch.Tensor = module.out_proj(mixed.transpose(1, 2).reshape(batch, -1, e))
    return (out if module.batch_first else out.transpose(0, 1)), weights


def _projections(
    module: nn.MultiheadAttention, watch: Watch, *inputs: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Query, key and value, `[n, t, e]`."""
    e, weight, bias = module.embed_dim, module.in_proj_weight, module.in_proj_bias
    same = inputs[0] is inputs[1] and inputs[1] is inputs[2]
    given = inputs[:1] if same else inputs
    found = []
    for number, each in enumerate(given):
        rows = slice(0, 3 * e) if same else slice(number * e, (number + 1) * e)
        each = each if module.batch_first else each.transpose(0, 1)
        out = functional.linear(each, weight[rows], None if bias is None else bias[rows])
        watch(each, out, rows)
        found.append(out)
    return found[0].chunk(3, dim=-1) if same else tuple(found)


def _mask(
    attention: torch.Tensor | None, padding: torch.Tensor | None, q: torch.Tensor, keys: int
) -> torch.Tensor | None:
    """Both masks as numbers to add, `[n or 1, heads or 1, t or 1, s]`."""
    total = None
    if attention is not None:
        total = _numbers(attention, q)
        total = total.view(len(q), q.shape[1], *total.shape[1:]) if total.dim() == 3 else total[None, None]
    if padding is not None:
        more = _numbers(padding, q).view(len(q), 1, 1, keys)
        total = more if total is None else total + more
    return total


def _numbers(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -math.inf)


def patched(module: nn.MultiheadAttention, watch: Watch) -> Callable[..., Any]:
    """A forward for the module."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return attend(module, watch, *args, **kwargs)

    return forward
