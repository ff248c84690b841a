# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""The kernels of `fedcore.learning.kernels.server`; imported where they run, for Triton reads its settings at import."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024
WARPS = 4
KINDS = {"adam": 0, "yogi": 1, "adagrad": 2}


@triton.jit
def _mean_of(updates, shares, m, stride, places, there, BLOCK: tl.constexpr):
    found = tl.zeros([BLOCK], tl.float32)
    for each in range(m):
        far = tl.full([1], each, tl.int64) * stride
        share = tl.load(shares + each)
        found += share * tl.load(updates + far + places, mask=there, other=0.0).to(tl.float32)
    return found


@triton.jit(do_not_specialize=["m"])
def _mean(updates, shares, out, m, p, stride, BLOCK: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = places < p
    tl.store(out + places, _mean_of(updates, shares, m, stride, places, there, BLOCK), mask=there)


@triton.jit(do_not_specialize=["m"])
def _step(
    updates, shares, model, first, second, m, p, stride, rate, beta1, beta2, rest1, rest2, tau,
    KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = places < p
    mean = _mean_of(updates, shares, m, stride, places, there, BLOCK)
    one = beta1 * tl.load(first + places, mask=there, other=0.0) + rest1 * mean
    old = tl.load(second + places, mask=there, other=0.0)
    squares = mean * mean
    if KIND == 0:
        two = beta2 * old + rest2 * squares
    elif KIND == 1:
        sign = tl.where(old > squares, 1.0, tl.where(old < squares, -1.0, 0.0))
        two = old - rest2 * squares * sign
    else:
        two = old + squares
    start = tl.load(model + places, mask=there, other=0.0)
    tl.store(first + places, one, mask=there)
    tl.store(second + places, two, mask=there)
    tl.store(model + places, start + rate * one / (tl.sqrt_rn(two) + tau), mask=there)


def mean(updates: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The weighted mean, float32, `[P]`.

    Args:
        updates: float32, bfloat16, float16, `[m, P]`, entries of one next to each other.
        shares: float32, `[m]`, contiguous.
    """
    m, p = updates.shape
    out = torch.empty(p, dtype=torch.float32, device=updates.device)
    _mean[(triton.cdiv(p, BLOCK),)](
        updates, shares, out, m, p, updates.stride(0), BLOCK=BLOCK, num_warps=WARPS
    )
    return out


def step(
    updates: torch.Tensor,
    shares: torch.Tensor,
    model: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    rate: float,
    beta1: float,
    beta2: float,
    tau: float,
    kind: str,
) -> None:
    """Mean and step in one pass, in place.

    Args:
        updates: As for `mean`.
        shares: As for `mean`.
        model: float32, `[P]`, contiguous.
        first: Likewise.
        second: Likewise.
        rate: Of this round.
        beta1: Of the first moment.
        beta2: Of the second moment.
        tau: Of the step's size.
        kind: A key of `KINDS`.
    """
    m, p = updates.shape
    _step[(triton.cdiv(p, BLOCK),)](
        updates, shares, model, first, second, m, p, updates.stride(0), rate, beta1, beta2, 1 - beta1, 1 - beta2, tau,
        KIND=KINDS[kind], BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
