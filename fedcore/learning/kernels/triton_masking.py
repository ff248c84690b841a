# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""The kernels of `fedcore.learning.kernels.masking` and `unmasking`; imported where they run."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from fedcore.learning.kernels.triton_chacha import block, eight_in_a_row, sixteen_in_a_row

LANES = 128
"""Blocks that a program makes of each stream."""
SETTINGS: dict[str, Any] = {"LANES": LANES, "num_warps": 4, "enable_fp_fusion": False}
"""No product is fused with a sum: integers would differ from those of a CPU."""
MASK_SETTINGS: dict[str, Any] = {**SETTINGS, "maxnreg": 168}
"""Three programs to a multiprocessor, none of whose registers spill."""


@triton.jit
def _signed(word, turn):
    """The word, or with all bits of `turn` set its negative."""
    return (word ^ turn) - turn


@triton.jit
def _long(low, high, turn):
    return _signed(low.to(tl.uint64) | (high.to(tl.uint64) << 32), turn)


@triton.jit
def _masks32(states, signs, streams, counter):
    """Sums of blocks of all streams, in the order of their words, uint32."""
    a0, a1, a2, a3 = (
        tl.zeros_like(counter),
        tl.zeros_like(counter),
        tl.zeros_like(counter),
        tl.zeros_like(counter),
    )
    a4, a5, a6, a7 = a0, a0, a0, a0
    a8, a9, a10, a11 = a0, a0, a0, a0
    a12, a13, a14, a15 = a0, a0, a0, a0
    for row in range(streams):
        turn = (tl.load(signs + row) >> 1).to(tl.uint32, bitcast=True)
        w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15 = block(states, row, counter)
        a0, a1, a2, a3 = (
            a0 + _signed(w0, turn),
            a1 + _signed(w1, turn),
            a2 + _signed(w2, turn),
            a3 + _signed(w3, turn),
        )
        a4, a5, a6, a7 = (
            a4 + _signed(w4, turn),
            a5 + _signed(w5, turn),
            a6 + _signed(w6, turn),
            a7 + _signed(w7, turn),
        )
        a8, a9 = a8 + _signed(w8, turn), a9 + _signed(w9, turn)
        a10, a11 = a10 + _signed(w10, turn), a11 + _signed(w11, turn)
        a12, a13 = a12 + _signed(w12, turn), a13 + _signed(w13, turn)
        a14, a15 = a14 + _signed(w14, turn), a15 + _signed(w15, turn)
    return sixteen_in_a_row(a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15)


@triton.jit
def _masks64(states, signs, streams, counter):
    """Sums of blocks of all streams, in the order of their words, uint64."""
    a0 = tl.zeros_like(counter).to(tl.uint64)
    a1, a2, a3, a4, a5, a6, a7 = a0, a0, a0, a0, a0, a0, a0
    for row in range(streams):
        turn = (tl.load(signs + row) >> 1).to(tl.int64).to(tl.uint64, bitcast=True)
        w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15 = block(states, row, counter)
        a0, a1 = a0 + _long(w0, w1, turn), a1 + _long(w2, w3, turn)
        a2, a3 = a2 + _long(w4, w5, turn), a3 + _long(w6, w7, turn)
        a4, a5 = a4 + _long(w8, w9, turn), a5 + _long(w10, w11, turn)
        a6, a7 = a6 + _long(w12, w13, turn), a7 + _long(w14, w15, turn)
    return eight_in_a_row(a0, a1, a2, a3, a4, a5, a6, a7)


@triton.jit
def _masks(states, signs, streams, before, LANES: tl.constexpr, BITS: tl.constexpr):
    # A pair of numbers says where a block stands: its program and its lane.
    counter = (before + tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)).to(tl.uint32)
    if BITS == 32:
        found = _masks32(states, signs, streams, counter).to(tl.int32, bitcast=True)
    else:
        found = _masks64(states, signs, streams, counter).to(tl.int64, bitcast=True)
    return found


@triton.jit
def _load(base, place, there, full):
    # Whole programs need no mask, with which four words would be four accesses.
    if full:
        found = tl.load(base + place)
    else:
        found = tl.load(base + place, mask=there, other=0)
    return found


@triton.jit
def _store(base, place, there, full, found):
    if full:
        tl.store(base + place, found)
    else:
        tl.store(base + place, found, mask=there)


@triton.jit
def _fractions(random):
    """Words over 2^32. A float64 of 2^20 and up has its last bit at 2^-32: words go there as bits, without a conversion, of
    which a multiprocessor makes few at a time."""
    return (random.to(tl.uint64) | 0x4130000000000000).to(tl.float64, bitcast=True) - 1048576.0


@triton.jit
def _floors(y, BITS: tl.constexpr):
    """The largest whole numbers that are not above float64 numbers of up to 2^50 in size, as words."""
    # From 2^52 on a float64 has no fraction: what is added rounds to the nearest, and the last bits are the number's own.
    moved = y + 6755399441055744.0
    above = (moved - 6755399441055744.0) > y
    found = moved.to(tl.int64, bitcast=True) - 0x4338000000000000 - above.to(tl.int64)
    return found.to(tl.int32) if BITS == 32 else found


@triton.jit
def _mask(
    values, words, told, bounds, states, signs, streams, count, first,
    BITS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """One program's masked words, and how many of its numbers were clipped and are not finite."""
    numbers: tl.constexpr = LANES * 512 // BITS
    program = tl.program_id(0).to(tl.int64)
    masks = _masks(states, signs, streams, first // (512 // BITS), LANES, BITS)

    # A number takes four bytes of rounding, whatever its word.
    drawn: tl.constexpr = numbers // 16
    counter = (first // 16 + program * drawn + tl.arange(0, drawn)).to(tl.uint32)
    w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15 = block(states, streams, counter)
    random = sixteen_in_a_row(w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15)

    place = program * numbers + tl.arange(0, numbers)
    there = place < count
    full = (program + 1) * numbers <= count
    value = _load(values, place, there, full)
    clip, scale = tl.load(bounds), tl.load(bounds + 1)
    finite = tl.abs(value) <= 3.4028234663852886e38
    x = tl.where(value == value, value, 0.0).to(tl.float64)
    clipped = tl.abs(x) > clip
    x = tl.minimum(tl.maximum(x, -clip), clip) * scale
    y = x + _fractions(random)
    _store(words, place, there, full, _floors(y, BITS) + masks)
    tl.store(told + 2 * program, tl.sum((clipped & there).to(tl.int32), 0))
    tl.store(told + 2 * program + 1, tl.sum((~finite & there).to(tl.int32), 0))


@triton.jit
def _unmask(
    vectors, out, factor, states, signs, streams, count, many, stride,
    BITS: tl.constexpr, FLOATS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The sum of some vectors and streams: as words, or as signed numbers times a factor."""
    numbers: tl.constexpr = LANES * 512 // BITS
    program = tl.program_id(0).to(tl.int64)
    total = _masks(states, signs, streams, 0, LANES, BITS)
    place = program * numbers + tl.arange(0, numbers)
    there = place < count
    full = (program + 1) * numbers <= count
    for _ in range(many):
        total += _load(vectors, place, there, full)
        vectors += stride
    if FLOATS:
        found = (total.to(tl.float64) * tl.load(factor)).to(out.dtype.element_ty)
    else:
        found = total
    _store(out, place, there, full, found)


def masked(
    values: torch.Tensor,
    bounds: torch.Tensor,
    states: torch.Tensor,
    signs: torch.Tensor,
    bits: int,
    first: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `masking.masked_plain`.

    Args:
        values: float32, `[P]`, contiguous.
        bounds: float64, `[2]`: the clip and the scale.
        states: int32, `[streams + 1, 16]`; the last is that of rounding.
        signs: int32, `[streams]`, 1 or -1.
        bits: 32 or 64.
        first: Place of the first number, a multiple of 16.
    """
    programs = triton.cdiv(len(values), LANES * 512 // bits)
    words = torch.empty(len(values), dtype=torch.int32 if bits == 32 else torch.int64, device=values.device)
    told = torch.empty(programs, 2, dtype=torch.int32, device=values.device)
    _mask[(programs,)](
        values, words, told, bounds, states, signs, len(signs), len(values), first, BITS=bits, **MASK_SETTINGS
    )
    return words, told.sum(0)


def unmasked(
    vectors: torch.Tensor,
    states: torch.Tensor,
    signs: torch.Tensor,
    factor: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """As `unmasking.unmasked_plain`.

    Args:
        vectors: int32 or int64, `[m, P]`, rows contiguous.
        states: int32, `[streams, 16]`.
        signs: int32, `[streams]`, 1 or -1.
        factor: float64, `[1]`; None for words.
        dtype: Of what is returned.
    """
    many, count = vectors.shape
    bits = 8 * vectors.element_size()
    out = torch.empty(count, dtype=dtype, device=vectors.device)
    _unmask[(triton.cdiv(count, LANES * 512 // bits),)](
        vectors, out, out if factor is None else factor, states, signs, len(signs), count, many, vectors.stride(0),
        BITS=bits, FLOATS=factor is not None, **SETTINGS,
    )  # fmt: skip
    return out
