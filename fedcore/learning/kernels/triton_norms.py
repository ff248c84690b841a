# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""The kernels of `fedcore.learning.kernels.norms`; imported where they run, for Triton reads its settings at import."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

EPS = 2.0**-23
# In units of EPS x what the sum would be without cancellation. Three products of tf32 leave out up to 2^-21 of a product of
# float32; those of half precision are exact, and sums of both round as float32 does.
GHOST_SLACK = {torch.float32: 8.0, torch.bfloat16: 4.0, torch.float16: 4.0}
MADE_SLACK = {torch.float32: 4.0, torch.bfloat16: 2.0, torch.float16: 2.0}


@triton.jit
def _inner(base, rows, others, count, features, step, inner, TILE: tl.constexpr, DEPTH: tl.constexpr):
    """Inner products of TILE positions with TILE others, `[TILE, TILE]`; positions from `count` on are zero."""
    found = tl.zeros([TILE, TILE], tl.float32)
    for start in range(0, features, DEPTH):
        along = start + tl.arange(0, DEPTH)
        there = along < features
        one = tl.load(
            base + rows[:, None] * step + along[None, :] * inner,
            mask=(rows < count)[:, None] & there[None, :],
            other=0.0,
        )
        two = tl.load(
            base + others[None, :] * step + along[:, None] * inner,
            mask=(others < count)[None, :] & there[:, None],
            other=0.0,
        )
        found = tl.dot(one, two, found, input_precision="tf32x3")
    return found


@triton.jit(do_not_specialize=["t", "tiles"])
def _ghost(
    a, d, sums, lengths, t, k, o, tiles,
    a_row, a_position, a_feature, d_row, d_position, d_feature,
    TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    row = (place // tiles).to(tl.int64)
    pair = place % tiles
    # The pair-th place below the diagonal, row by row; the square root is off by one at most.
    first = ((tl.sqrt(8.0 * pair + 1.0) - 1.0) * 0.5).to(tl.int32)
    first = tl.where(first * (first + 1) // 2 > pair, first - 1, first)
    first = tl.where((first + 1) * (first + 2) // 2 <= pair, first + 1, first)
    second = pair - first * (first + 1) // 2

    rows = first * TILE + tl.arange(0, TILE)
    others = second * TILE + tl.arange(0, TILE)
    aa = _inner(a + row * a_row, rows, others, t, k, a_position, a_feature, TILE, DEPTH)
    dd = _inner(d + row * d_row, rows, others, t, o, d_position, d_feature, TILE, DEPTH)
    both = aa * dd
    twice = tl.where(first == second, 1.0, 2.0)
    tl.store(sums + place, twice * tl.sum(tl.sum(both, 1), 0))

    same = (rows[:, None] == others[None, :]) & (both > 0)
    length = tl.sum(tl.sum(tl.where(same, tl.sqrt(tl.where(same, both, 0.0)), 0.0), 1), 0)
    tl.store(lengths + place, length)


@triton.jit(do_not_specialize=["t", "tiles"])
def _made(
    a, d, sums, sizes, kept, t, k, o, tiles,
    a_row, a_position, a_feature, d_row, d_position, d_feature,
    OUT: tl.constexpr, IN: tl.constexpr, DEPTH: tl.constexpr, WIDE: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    row = (place // tiles).to(tl.int64)
    tile = place % tiles
    across = tl.cdiv(k, IN)
    outs = (tile // across) * OUT + tl.arange(0, OUT)
    ins = (tile % across) * IN + tl.arange(0, IN)
    found = tl.zeros([OUT, IN], tl.float32)
    a_squares = tl.zeros([DEPTH, IN], tl.float32)
    d_squares = tl.zeros([OUT, DEPTH], tl.float32)
    for start in range(0, t, DEPTH):
        along = start + tl.arange(0, DEPTH)
        there = along < t
        one = tl.load(
            d + row * d_row + along[None, :] * d_position + outs[:, None] * d_feature,
            mask=there[None, :] & (outs < o)[:, None],
            other=0.0,
        )
        two = tl.load(
            a + row * a_row + along[:, None] * a_position + ins[None, :] * a_feature,
            mask=there[:, None] & (ins < k)[None, :],
            other=0.0,
        )
        if WIDE:
            one, two = one.to(tl.float32), two.to(tl.float32)
        found = tl.dot(one, two, found, input_precision="tf32x3")
        if not KEEP:
            a_squares += two.to(tl.float32) * two.to(tl.float32)
            d_squares += one.to(tl.float32) * one.to(tl.float32)
    tl.store(sums + place, tl.sum(tl.sum(found * found, 1), 0))
    if KEEP:
        here = row * o * k + outs[:, None] * k + ins[None, :]
        tl.store(kept + here, found, mask=(outs < o)[:, None] & (ins < k)[None, :])
    else:
        # Each tile of inputs belongs to one program in a column of tiles, each of outputs to one in a row.
        a_size = tl.where(tile // across == 0, tl.sum(tl.sum(a_squares, 1), 0), 0.0)
        d_size = tl.where(tile % across == 0, tl.sum(tl.sum(d_squares, 1), 0), 0.0)
        tl.store(sizes + 2 * place, a_size)
        tl.store(sizes + 2 * place + 1, d_size)


def ghost(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Squared norms as sums over pairs of positions.

    Args:
        inputs: float32, bfloat16, float16, `[n, t, k]`.
        outputs: Likewise, `[n, t, o]`.
    """
    n, t, k = inputs.shape
    tile = ghost_tile(t)
    across = triton.cdiv(t, tile)
    tiles = across * (across + 1) // 2
    sums = torch.empty(n, tiles, dtype=torch.float32, device=inputs.device)
    lengths = torch.empty_like(sums)
    _ghost[(n * tiles,)](
        inputs, outputs, sums, lengths, t, k, outputs.shape[2], tiles, *inputs.stride(), *outputs.stride(),
        **ghost_settings(tile, wide=torch.float32 in (inputs.dtype, outputs.dtype)),
    )  # fmt: skip
    units = max(GHOST_SLACK[inputs.dtype], GHOST_SLACK[outputs.dtype])
    return sums.sum(1).clamp_(min=0) + units * EPS * lengths.sum(1).square()


def made(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Squared norms as sums over entries of the gradients.

    Args:
        inputs: float32, bfloat16, float16, `[n, t, k]`.
        outputs: Likewise, `[n, t, o]`.
    """
    sums, sizes, _ = _make(inputs, outputs, keep=False)
    units = max(MADE_SLACK[inputs.dtype], MADE_SLACK[outputs.dtype])
    # The error of D^T A has at most this norm: |sum_t e_t| <= units sum_t |d_t||a_t| <= units |D||A|.
    error = units * EPS * sizes.sum(1).prod(1).sqrt()
    return (sums.sum(1).sqrt() + error).square()


def kept(inputs: torch.Tensor, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared norms, and the gradients that they are of, float32, `[n, o, k]`.

    Args:
        inputs: float32, bfloat16, float16, `[n, t, k]`.
        outputs: Likewise, `[n, t, o]`.
    """
    sums, _, gradients = _make(inputs, outputs, keep=True)
    return sums.sum(1), gradients


def _make(
    inputs: torch.Tensor, outputs: torch.Tensor, *, keep: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    n, t, k = inputs.shape
    o = outputs.shape[2]
    set_up = made_settings(k, o, wide=torch.float32 in (inputs.dtype, outputs.dtype))
    tiles = triton.cdiv(k, set_up["IN"]) * triton.cdiv(o, set_up["OUT"])
    sums = torch.empty(n, tiles, dtype=torch.float32, device=inputs.device)
    sizes = torch.empty(n, 0 if keep else tiles, 2, dtype=torch.float32, device=inputs.device)
    gradients = torch.empty(n if keep else 0, o, k, dtype=torch.float32, device=inputs.device)
    _made[(n * tiles,)](
        inputs, outputs, sums, sums if keep else sizes, gradients if keep else sums, t, k, o, tiles,
        *inputs.stride(), *outputs.stride(), WIDE=inputs.dtype != outputs.dtype, KEEP=keep, **set_up,
    )  # fmt: skip
    return sums, sizes, gradients


def ghost_tile(t: int) -> int:
    """Positions of a tile's side."""
    return int(min(64, max(16, triton.next_power_of_2(t))))


def ghost_settings(tile: int, *, wide: bool) -> dict[str, int]:
    """How `_ghost` is compiled: products of float32 take three times the registers for their operands."""
    return {"TILE": tile, "DEPTH": 32 if wide else 64, "num_warps": 4, "num_stages": 2 if wide else 3}


def made_settings(k: int, o: int, *, wide: bool) -> dict[str, int]:
    """How `_made` is compiled."""
    return {
        "OUT": min(64, max(16, triton.next_power_of_2(o))),
        "IN": min(64 if wide else 128, max(16, triton.next_power_of_2(k))),
        "DEPTH": 32,
        "num_warps": 4,
        "num_stages": 2 if wide else 3,
    }
