"""Sums of masked vectors on a device: vectors added up, masks taken away and the mean made of it in one pass.

    total[i] = sum over vectors of words[i] + sum over streams of (+ or -) mask_i        modulo 2^bits
    mean[i] = total[i], read as a signed number, times a factor, the product in float64

The same in each bit as `crypto.secagg.round.Round.finish` with `crypto.quantisation.weighted_mean`. A coordinator takes away a
stream for each participant and one for each pair that somebody dropped out of; each takes as long as the sum itself on a CPU,
and on a GPU none of them is ever in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedcore.errors import JobError
from fedcore.learning.kernels import chacha, dispatch
from fedcore.learning.kernels.masking import add_plain, streams


def unmasked_mean(
    vectors: torch.Tensor,
    *,
    mask_keys: Sequence[bytes],
    minus: Sequence[bool],
    factor: float,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """What the sum of masked vectors stands for.

    Args:
        vectors: int32 or int64 words, `[m, P]`, or a sum of them, `[P]`; P may be 0.
        mask_keys: 44 bytes of each stream that is left in the sum.
        minus: Which of them to take away.
        factor: Numbers to one unit of the integers: 1 / (S times the sum of the weights).
        dtype: float32 or float64.

    Returns:
        `[P]` of `dtype`.

    Raises:
        JobError: An argument is not allowed.
    """
    if dtype not in (torch.float32, torch.float64):
        raise JobError(f"a mean of {dtype}; allowed: float32, float64")
    return _unmasked(vectors, mask_keys, minus, factor, dtype)


def unmasked(vectors: torch.Tensor, *, mask_keys: Sequence[bytes], minus: Sequence[bool]) -> torch.Tensor:
    """The sum of masked vectors without their masks, as words.

    Args:
        vectors: int32 or int64 words, `[m, P]`, or a sum of them, `[P]`; P may be 0.
        mask_keys: 44 bytes of each stream that is left in the sum.
        minus: Which of them to take away.

    Returns:
        `[P]`, of the type of `vectors`.

    Raises:
        JobError: An argument is not allowed.
    """
    return _unmasked(vectors, mask_keys, minus, None, vectors.dtype)


def unmasked_plain(
    vectors: torch.Tensor,
    states: torch.Tensor,
    signs: torch.Tensor,
    factor: float | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The same in plain torch.

    Args:
        vectors: int32 or int64, `[m, P]`.
        states: int32, `[streams, 16]`.
        signs: int32, `[streams]`, 1 or -1.
        factor: None for words.
        dtype: Of what is returned.
    """
    total = vectors.sum(0, dtype=vectors.dtype)
    for start in range(0, len(total), _AT_A_TIME):
        add_plain(total[start : start + _AT_A_TIME], states, signs, start)
    return total if factor is None else total.to(torch.float64).mul_(factor).to(dtype)


_AT_A_TIME = 2**20


def floor(count: int, vectors: int, masks: int, bits: int = 32, out: int = 4) -> tuple[int, int]:
    """What no way to unmask can do without.

    Args:
        count: Words of a vector.
        vectors: That are added up.
        masks: Streams that are taken away.
        bits: Of a word.
        out: Bytes of a number of the mean.

    Returns:
        Bytes, each word read once and each number written once; operations on words of 32 bits.
    """
    blocks = masks * -(-count * bits // 512)
    words = count * bits // 32
    return count * (vectors * bits // 8 + out), blocks * chacha.OPERATIONS + (masks + vectors) * words


def _unmasked(
    vectors: torch.Tensor,
    keys: Sequence[bytes],
    minus: Sequence[bool],
    factor: float | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    if vectors.dtype not in (torch.int32, torch.int64) or vectors.dim() not in (1, 2):
        raise JobError(
            f"vectors of int32 or int64 words can be unmasked, one or a row of them, not {vectors.dtype} "
            f"{tuple(vectors.shape)}"
        )
    states, signs = streams(keys, minus, vectors.device)
    rows = vectors[None] if vectors.dim() == 1 else vectors
    if rows.stride(1) != 1:
        rows = rows.contiguous()

    def kernel() -> torch.Tensor:
        from fedcore.learning.kernels import triton_masking

        by = None if factor is None else torch.tensor([factor], dtype=torch.float64).to(rows.device)
        return triton_masking.unmasked(rows, states, signs, by, dtype)

    def plain() -> torch.Tensor:
        return unmasked_plain(rows, states, signs, factor, dtype)

    if rows.shape[1] and dispatch.usable(rows):
        return dispatch.guarded(f"unmasking {rows.dtype} {dtype}", kernel, plain, on=rows)
    return plain()
