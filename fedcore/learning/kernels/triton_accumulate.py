# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""The kernel of `fedcore.learning.kernels.accumulate`; imported where it runs, for Triton reads its settings at import."""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

MANY = 32
"""Positions from which on a row is scaled after its products are summed up."""
AT_A_TIME = 2**24
"""Numbers that programs write before they are added, at most (64 MiB)."""


@triton.jit(do_not_specialize=["n", "t", "steps", "each"])
def _weighted(
    a, d, numbers, sums, n, t, k, o, clip, steps, each,
    a_row, a_position, a_feature, d_row, d_position, d_feature,
    BY_ROW: tl.constexpr, CLIP: tl.constexpr, WIDE: tl.constexpr,
    OUT: tl.constexpr, IN: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile of the sum over `each` of the `steps` pieces of DEPTH positions."""
    tile = tl.program_id(0)
    split = tl.program_id(1)
    across = tl.cdiv(k, IN)
    outs = (tile // across) * OUT + tl.arange(0, OUT)
    ins = (tile % across) * IN + tl.arange(0, IN)
    pieces = tl.cdiv(t, DEPTH)
    found = tl.zeros([OUT, IN], tl.float32)
    for step in range(split * each, tl.minimum(split * each + each, steps)):
        if BY_ROW:
            row = step // pieces
            position = (step % pieces) * DEPTH + tl.arange(0, DEPTH)
            number = tl.load(numbers + row)
            weight = number
            if CLIP:
                weight = tl.where(number < float("inf"), tl.minimum(clip / number, 1.0), 0.0)
            # A row that counts for nothing is not read: it may hold what is no number.
            there = position < tl.where(weight != 0, t, 0)
            far = tl.full([1], row, tl.int64)
            a_first = far * a_row + position * a_position
            d_first = far * d_row + position * d_position
        else:
            place = tl.full([1], step, tl.int64) * DEPTH + tl.arange(0, DEPTH)
            row = place // t
            position = place % t
            number = tl.load(numbers + row, mask=row < n, other=0.0)
            weight = number
            if CLIP:
                weight = tl.where(number < float("inf"), tl.minimum(clip / number, 1.0), 0.0)
            there = (row < n) & (weight != 0)
            a_first = row * a_row + position * a_position
            d_first = row * d_row + position * d_position
        one = tl.load(
            d + d_first[None, :] + outs[:, None] * d_feature,
            mask=there[None, :] & (outs < o)[:, None],
            other=0.0,
        )
        two = tl.load(
            a + a_first[:, None] + ins[None, :] * a_feature,
            mask=there[:, None] & (ins < k)[None, :],
            other=0.0,
        )
        if BY_ROW:
            if WIDE:
                one, two = one.to(tl.float32), two.to(tl.float32)
            found += weight * tl.dot(one, two, input_precision="tf32x3")
        else:
            scaled = one.to(tl.float32) * weight[None, :]
            found = tl.dot(scaled, two.to(tl.float32), found, input_precision="tf32x3")
    place = split.to(tl.int64) * o * k + outs[:, None].to(tl.int64) * k + ins[None, :]
    tl.store(sums + place, found, mask=(outs < o)[:, None] & (ins < k)[None, :])


def weighted_sum(
    inputs: torch.Tensor, outputs: torch.Tensor, numbers: torch.Tensor, clip: float | None
) -> torch.Tensor:
    """The sum over rows of weight times gradient, `[o, k]`.

    Args:
        inputs: float32, bfloat16, float16, `[n, t, k]`, none of them 0.
        outputs: Likewise, `[n, t, o]`.
        numbers: float32, `[n]`: weights, or norms above 0 where there is a clip.
        clip: Makes weights of norms.
    """
    n, t, k = inputs.shape
    o = outputs.shape[2]
    set_up = settings(t, k, o, wide=torch.float32 in (inputs.dtype, outputs.dtype))
    tiles = triton.cdiv(k, set_up["IN"]) * triton.cdiv(o, set_up["OUT"])
    depth = set_up["DEPTH"]
    steps = n * triton.cdiv(t, depth) if set_up["BY_ROW"] else triton.cdiv(n * t, depth)
    wanted = triton.cdiv(4 * _processors(inputs.device), tiles)
    each = triton.cdiv(steps, max(1, min(wanted, triton.cdiv(steps, 4), AT_A_TIME // (o * k))))
    splits = triton.cdiv(steps, each)
    sums = torch.empty(splits, o, k, dtype=torch.float32, device=inputs.device)
    _weighted[(tiles, splits)](
        inputs, outputs, numbers, sums, n, t, k, o, clip or 1.0, steps, each, *inputs.stride(), *outputs.stride(),
        CLIP=clip is not None, WIDE=inputs.dtype != outputs.dtype, **set_up,
    )  # fmt: skip
    return sums[0] if splits == 1 else sums.sum(0)


def settings(t: int, k: int, o: int, *, wide: bool) -> dict[str, int]:
    """How `_weighted` is compiled."""
    by_row = t >= MANY
    return {
        "BY_ROW": by_row,
        "OUT": min(64, max(16, triton.next_power_of_2(o))),
        "IN": min(64 if wide or not by_row else 128, max(16, triton.next_power_of_2(k))),
        "DEPTH": 32 if wide or not by_row or t <= 32 else 64,
        "num_warps": 4,
        "num_stages": 2 if wide or not by_row else 3,
    }


@functools.cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 2  # in the interpreter, so that there is more than one split
    return torch.cuda.get_device_properties(device).multi_processor_count
