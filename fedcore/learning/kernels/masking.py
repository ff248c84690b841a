"""Numbers into masked words in one pass on their device: clip, scale, round at random, add all masks.

    words[i] = floor(clipped values[i] * scale + r_i) + sum over streams of (+ or -) mask_i        modulo 2^bits

as `crypto.quantisation.quantise` with ChaCha20 and `crypto.kernels.chacha.Streams` make them one after the other, and the
same in each bit: the product and the sum are made in float64, none is fused, r_i is word i of the rounding stream over 2^32,
and mask_i are bytes `i * bits / 8` and on of a mask stream. What leaves the device is already masked.

The kernel reads each number once and writes each word once. Streams are made in registers, a block of sixteen words in each
lane, and added up there; only then are they laid out in the order of the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from fedcore.errors import JobError
from fedcore.learning.kernels import chacha, dispatch

AT_A_TIME = 2**20
"""Numbers that plain torch works on at a time."""
DTYPES = {32: torch.int32, 64: torch.int64}
_LARGEST = torch.finfo(torch.float32).max


class Masked(NamedTuple):
    """What may leave, and what to know of it.

    Args:
        words: int32 or int64, `[P]`, with the bits of unsigned words.
        clipped: Numbers above the clip in size.
        strange: Numbers that are NaN or infinite; with any, the words must not be sent.
    """

    words: torch.Tensor
    clipped: int
    strange: int


def masked(
    values: torch.Tensor,
    *,
    clip: float,
    scale: float,
    rounding_key: bytes,
    mask_keys: Sequence[bytes],
    minus: Sequence[bool],
    bits: int = 32,
    first: int = 0,
) -> Masked:
    """Masked words of some numbers.

    Args:
        values: float32, `[P]`, on any device; P may be 0.
        clip: Largest absolute value, above 0, finite; what is larger is cut to it.
        scale: Integers to one unit of the numbers, times the weight; `clip * scale` at most 2^44.
        rounding_key: 44 bytes that rounding is drawn from, never used before.
        mask_keys: 44 bytes of each mask stream.
        minus: Which of them to take away.
        bits: Of a word, 32 or 64.
        first: Place of the first number in a longer vector that is worked on piece by piece, a multiple of 16.

    Raises:
        JobError: An argument is not allowed.
    """
    _check(values, clip, scale, bits, first)
    states, signs = streams(mask_keys, minus, values.device)
    states = torch.cat([states, chacha.states([rounding_key], values.device)])
    values = values.contiguous()
    if len(values) and dispatch.usable(values):
        words, told = dispatch.guarded(
            f"masking {bits}",
            lambda: _kernel(values, clip, scale, states, signs, bits, first),
            lambda: masked_plain(values, clip, scale, states, signs, bits, first),
            on=values,
        )
    else:
        words, told = masked_plain(values, clip, scale, states, signs, bits, first)
    clipped, strange = told.tolist()
    return Masked(words, clipped, strange)


def masked_plain(
    values: torch.Tensor,
    clip: float,
    scale: float,
    states: torch.Tensor,
    signs: torch.Tensor,
    bits: int = 32,
    first: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain torch, some numbers at a time.

    Args:
        values: float32, `[P]`.
        clip: As for `masked`.
        scale: As for `masked`.
        states: int32, `[streams + 1, 16]`; the last is that of rounding.
        signs: int32, `[streams]`, 1 or -1.
        bits: As for `masked`.
        first: As for `masked`.

    Returns:
        Words, `[P]`; how many were clipped and how many are not finite, int64, `[2]`.
    """
    words = torch.empty(len(values), dtype=DTYPES[bits], device=values.device)
    told = torch.zeros(2, dtype=torch.int64, device=values.device)
    for start in range(0, len(values), AT_A_TIME):
        x = values[start : start + AT_A_TIME]
        at, blocks = first + start, -(-len(x) // 16)
        drawn = chacha.words(states[-1], at // 16, blocks).view(-1)[: len(x)]
        fractions = (drawn.to(torch.int64) & 0xFFFFFFFF).to(torch.float64).mul_(2.0**-32)
        size = x.abs()
        told[0] += (size.to(torch.float64) > clip).sum()
        told[1] += (~(size <= _LARGEST)).sum()
        units = (
            x.to(torch.float64).nan_to_num(nan=0.0).clamp_(-clip, clip).mul_(scale).add_(fractions).floor_()
        )
        part = words[start : start + AT_A_TIME]
        part.copy_(units.to(torch.int64))
        add_plain(part, states[:-1], signs, at)
    return words, told


def add_plain(words: torch.Tensor, states: torch.Tensor, signs: torch.Tensor, first: int = 0) -> None:
    """Add streams to words in plain torch, in place.

    Args:
        words: int32 or int64, `[P]`.
        states: int32, `[streams, 16]`.
        signs: int32, `[streams]`, 1 or -1.
        first: Place of the first word in the streams; begins a block.
    """
    per = 16 if words.dtype == torch.int32 else 8
    blocks = -(-len(words) // per)
    for state, sign in zip(states, signs.tolist(), strict=True):
        made = chacha.words(state, first // per, blocks)
        # Two words of 32 bits are one of 64, the lower first.
        words.add_(made.view(-1).view(words.dtype)[: len(words)], alpha=sign)


def streams(
    keys: Sequence[bytes], minus: Sequence[bool], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Streams as kernels take them.

    Args:
        keys: 44 bytes each.
        minus: Which of them to take away.
        device: Where they are wanted.

    Returns:
        States, int32, `[streams, 16]`, secret; signs, int32, `[streams]`.

    Raises:
        JobError: A key has another length, or there are not as many signs as keys.
    """
    if len(keys) != len(minus):
        raise JobError(f"{len(minus)} signs came for {len(keys)} streams of masks; each has one")
    signs = torch.tensor([-1 if each else 1 for each in minus], dtype=torch.int32)
    return chacha.states(keys, device), signs.to(device)


def floor(count: int, masks: int, bits: int = 32) -> tuple[int, int]:
    """What no way to mask can do without.

    Args:
        count: Numbers.
        masks: Streams of masks; the one of rounding comes to them.
        bits: Of a word.

    Returns:
        Bytes, each number read once and each word written once; operations on words of 32 bits.
    """
    per = 512 // bits
    blocks = -(-count // 16) + masks * -(-count // per)
    return count * (4 + bits // 8), blocks * chacha.OPERATIONS + masks * count * bits // 32


def _kernel(
    values: torch.Tensor,
    clip: float,
    scale: float,
    states: torch.Tensor,
    signs: torch.Tensor,
    bits: int,
    first: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    from fedcore.learning.kernels import triton_masking

    bounds = torch.tensor([clip, scale], dtype=torch.float64).to(values.device)
    return triton_masking.masked(values, bounds, states, signs, bits, first)


def _check(values: torch.Tensor, clip: float, scale: float, bits: int, first: int) -> None:
    if values.dtype != torch.float32 or values.dim() != 1:
        raise JobError(
            f"float32 vectors can be masked on their device, not {values.dtype} {tuple(values.shape)}"
        )
    if bits not in DTYPES:
        raise JobError(f"bits is {bits}; allowed: 32, 64")
    if not (0 < clip < math.inf and 0 <= scale < math.inf and clip * scale <= 2.0**44):
        raise JobError(
            f"a clip of {clip} and a scale of {scale}; allowed are finite ones above 0 whose product is at most 2^44"
        )
    if first < 0 or first % 16:
        raise JobError(f"a piece from number {first} on; allowed are multiples of 16")
    end = chacha.MOST_BLOCKS * min(chacha.WORDS, 512 // bits)
    if first + len(values) > end:
        raise JobError(
            f"{len(values)} numbers from number {first} on pass the end of a stream; allowed are {end} in all. Cure: a "
            "vector in parts, each with keys of its own"
        )
