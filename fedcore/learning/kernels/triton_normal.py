# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""The kernel of `fedcore.learning.kernels.normal`; imported where it runs."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from fedcore.learning.kernels.triton_chacha import block, sixteen_in_a_row

LANES = 128
"""Blocks that a program makes."""
SETTINGS: dict[str, Any] = {"LANES": LANES, "num_warps": 4}


@triton.jit
def _least(w0, w1, w2, w3, w4, w5, w6, w7):
    """The smallest of all radius words, without their signs."""
    a, b = tl.minimum(w0 & 0x7FFFFFFF, w1 & 0x7FFFFFFF), tl.minimum(w2 & 0x7FFFFFFF, w3 & 0x7FFFFFFF)
    c, d = tl.minimum(w4 & 0x7FFFFFFF, w5 & 0x7FFFFFFF), tl.minimum(w6 & 0x7FFFFFFF, w7 & 0x7FFFFFFF)
    return tl.min(tl.minimum(tl.minimum(a, b), tl.minimum(c, d)).to(tl.int32, bitcast=True), 0)


@triton.jit
def _fraction(word, low, high, small: tl.constexpr):
    """What a radius word is short of a real number: drawn for small ones, a half for others."""
    extra = (low.to(tl.int64) | (high.to(tl.int64) << 32)) & 0x7FFFFFFFFFFFFFFF
    return tl.where((word & 0x7FFFFFFF) < small, (extra.to(tl.float64) + 0.5) * 1.0842021724855044e-19, 0.5)


@triton.jit
def _pair(radius, angle, fraction):
    word = (radius & 0x7FFFFFFF).to(tl.float64)
    length = tl.sqrt_rn((-2.0 * tl.log((word + fraction) * 4.656612873077393e-10)).to(tl.float32))
    turn = angle.to(tl.int32, bitcast=True).to(tl.float32) * 1.4629180792671596e-09
    return length * tl.cos(turn), length * tl.sin(turn)


@triton.jit
def _normal(out, states, count, SMALL: tl.constexpr, LANES: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    counter = (program * LANES + tl.arange(0, LANES)).to(tl.uint32)
    w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15 = block(states, 0, counter)
    f0 = tl.full([LANES], 0.5, tl.float64)
    f1, f2, f3, f4, f5, f6, f7 = f0, f0, f0, f0, f0, f0, f0
    # One program in eight thousand has a small word.
    if _least(w0, w1, w2, w3, w4, w5, w6, w7) < SMALL:
        e0, e1, e2, e3, e4, e5, e6, e7, e8, e9, e10, e11, e12, e13, e14, e15 = block(states, 1, counter)
        f0, f1 = _fraction(w0, e0, e1, SMALL), _fraction(w1, e2, e3, SMALL)
        f2, f3 = _fraction(w2, e4, e5, SMALL), _fraction(w3, e6, e7, SMALL)
        f4, f5 = _fraction(w4, e8, e9, SMALL), _fraction(w5, e10, e11, SMALL)
        f6, f7 = _fraction(w6, e12, e13, SMALL), _fraction(w7, e14, e15, SMALL)
    c0, s0 = _pair(w0, w8, f0)
    c1, s1 = _pair(w1, w9, f1)
    c2, s2 = _pair(w2, w10, f2)
    c3, s3 = _pair(w3, w11, f3)
    c4, s4 = _pair(w4, w12, f4)
    c5, s5 = _pair(w5, w13, f5)
    c6, s6 = _pair(w6, w14, f6)
    c7, s7 = _pair(w7, w15, f7)
    found = sixteen_in_a_row(c0, c1, c2, c3, c4, c5, c6, c7, s0, s1, s2, s3, s4, s5, s6, s7)
    place = program * LANES * 16 + tl.arange(0, LANES * 16)
    tl.store(out + place, found, mask=place < count)


def normal(count: int, states: torch.Tensor) -> torch.Tensor:
    """As `normal.normal_plain`.

    Args:
        count: How many, above 0.
        states: int32, `[2, 16]`.
    """
    from fedcore.learning.kernels.normal import SMALL

    whole = triton.cdiv(count, 16) * 16
    out = torch.empty(whole, dtype=torch.float32, device=states.device)
    _normal[(triton.cdiv(whole, LANES * 16),)](out, states, whole, SMALL=SMALL, **SETTINGS)
    return out[:count]
