# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""The kernels of `fedcore.learning.kernels.norms`; imported where they run, for Triton reads its settings at import."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fedcore.learning.kernels import norms

EPS = 2.0**-23
TINY = 2.0**-126
# In units of EPS x what the sum would be without cancellation, with room, for how a GPU rounds within a product of tiles is told
# nowhere. Of an inner product: 4 for what three products of tf32 leave out, up to 16 for sums of 32 or 64 numbers, truncated 4 or
# 12 times; twice that for two of them, and 20 for the sum of a tile. A gradient has one such error for each entry.
GHOST_SLACK = 64.0
MADE_SLACK = 32.0


@triton.jit
def _added(found, lost, more):
    """`found` + `more`, and what rounding takes from it, to be given at the next call (Kahan, CACM 8 (1965) 40)."""
    more = more - lost
    total = found + more
    return total, (total - found) - more


@triton.jit
def _inner(base, rows, others, count, features, step, inner, TILE: tl.constexpr, DEPTH: tl.constexpr):
    """Inner products of TILE positions with TILE others, `[TILE, TILE]`; positions from `count` on are zero."""
    found = tl.zeros([TILE, TILE], tl.float32)
    lost = tl.zeros([TILE, TILE], tl.float32)
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
        found, lost = _added(found, lost, tl.dot(one, two, input_precision="tf32x3"))
    return found


@triton.jit(do_not_specialize=["t", "tiles"])
def _ghost(
    a, d, sums, sizes, t, k, o, tiles,
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

    same = rows[:, None] == others[None, :]
    tl.store(sizes + 2 * place, tl.sum(tl.sum(tl.where(same, aa, 0.0), 1), 0))
    tl.store(sizes + 2 * place + 1, tl.sum(tl.sum(tl.where(same, dd, 0.0), 1), 0))


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
    lost = tl.zeros([OUT, IN], tl.float32)
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
        if KEEP:
            found = tl.dot(one, two, found, input_precision="tf32x3")
        else:
            found, lost = _added(found, lost, tl.dot(one, two, input_precision="tf32x3"))
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
    sizes = torch.empty(n, tiles, 2, dtype=torch.float32, device=inputs.device)
    _ghost[(n * tiles,)](
        inputs, outputs, sums, sizes, t, k, outputs.shape[2], tiles, *inputs.stride(), *outputs.stride(),
        **ghost_settings(tile, wide=torch.float32 in (inputs.dtype, outputs.dtype)),
    )  # fmt: skip
    return _told(sums, sizes, inputs, outputs, lost=GHOST_SLACK * EPS, units=norms.SUM_UNITS)


def made(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Squared norms as sums over entries of the gradients.

    Args:
        inputs: float32, bfloat16, float16, `[n, t, k]`.
        outputs: Likewise, `[n, t, o]`.
    """
    sums, sizes, _ = _make(inputs, outputs, keep=False)
    # The error of D^T A has at most this norm: |sum_t e_t| <= units sum_t |d_t||a_t| <= units |D||A|.
    return _told(sums, sizes, inputs, outputs, lost=0.0, units=MADE_SLACK)


def _told(
    sums: torch.Tensor,
    sizes: torch.Tensor,
    inputs: torch.Tensor,
    outputs: torch.Tensor,
    *,
    lost: float,
    units: float,
) -> torch.Tensor:
    """Squared norms of the sums of tiles, with slack."""
    _, t, k = inputs.shape
    o = outputs.shape[2]
    squared = sums.double().sum(1)
    # Each product below the smallest normal number is lost at most once, in a sum of k, of o or of all.
    a, d = (sizes.double().sum(1) + 2 * t * TINY * torch.tensor([k, o], device=sizes.device)).unbind(1)
    squared += 2 * TINY * (t * k * d + t * o * a + t * (t + k * o))
    return norms.with_slack(squared, a, d, lost=lost, units=units, kind=torch.float32)


def kept(inputs: torch.Tensor, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared norms, and the gradients that they are of, float32, `[n, o, k]`.

    Args:
        inputs: float32, bfloat16, float16, `[n, t, k]`.
        outputs: Likewise, `[n, t, o]`.
    """
    sums, _, gradients = _make(inputs, outputs, keep=True)
    return sums.double().sum(1) + 2 * gradients[0].numel() * TINY, gradients


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
    depth = 64 if not wide else 16 if tile == 64 else 32
    return {"TILE": tile, "DEPTH": depth, "num_warps": 4, "num_stages": 2 if wide else 3}


def made_settings(k: int, o: int, *, wide: bool) -> dict[str, int]:
    """How `_made` is compiled."""
    across = min(64 if wide else 128, max(16, triton.next_power_of_2(k)))
    return {
        "OUT": min(64, max(16, triton.next_power_of_2(o))),
        "IN": across,
        "DEPTH": 32,
        "num_warps": 8 if across == 128 else 4,
        "num_stages": 2 if wide else 3,
    }
