"""Weighted sums of single rows' gradients in a linear layer over positions, with the clip in the same pass.

    sum over rows i, positions t of  c_i outputs_it^T inputs_it           c_i: a weight, or min(1, clip / norm_i)

A scaled copy of the outputs is never in memory. Rows of many positions are scaled where their products are summed up, in float32,
so that no rounded c_i D_i of half precision makes a row's share larger than its clip; rows of few positions are scaled before, in
float32, and products of float32 are made from three of tf32. Positions are split among programs, whose sums are added in a fixed
order: the same input gives the same output on the same device.

Of a convolution the inputs are unfolded, as in `fedcore.learning.kernels.norms`.
"""

from __future__ import annotations

import torch

from fedcore.learning.kernels import dispatch, norms

TINY = torch.finfo(torch.float32).tiny


def weighted_sum(inputs: torch.Tensor, outputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The sum over rows of weight times gradient.

    Args:
        inputs: A, `[n, t, k]`, float32, bfloat16, float16 (float64: plain torch); any strides, any of n, t, k may be 0.
        outputs: D, `[n, t, o]`, likewise, on the same device.
        weights: `[n]`, of any floating type; taken as float32.

    Returns:
        float32 (float64 where one of them is), `[o, k]`.
    """
    if not norms.served(inputs, outputs, weights):
        return weighted_sum_plain(inputs, outputs, weights)
    return dispatch.guarded(
        f"weighted sum {inputs.dtype} {outputs.dtype}",
        lambda: _kernel(inputs, outputs, weights, None),
        lambda: weighted_sum_plain(inputs, outputs, weights),
        on=inputs,
    )


def clipped_sum(
    inputs: torch.Tensor, outputs: torch.Tensor, squared_norms: torch.Tensor, clip: float
) -> torch.Tensor:
    """The sum over rows of gradients shortened to the clip: times min(1, clip / norm).

    A row whose squared norm is not finite counts as zero, whatever stands in it.

    Args:
        inputs: As for `weighted_sum`.
        outputs: As for `weighted_sum`.
        squared_norms: Of the rows, over all parameters, `[n]`, 0 or more, of any floating type.
        clip: Above 0.

    Returns:
        As `weighted_sum`.
    """
    if not norms.served(inputs, outputs, squared_norms):
        return clipped_sum_plain(inputs, outputs, squared_norms, clip)
    return dispatch.guarded(
        f"weighted sum {inputs.dtype} {outputs.dtype}",
        # Of tiny norms the squares are no float32, and a norm of 0 would be clipped by nothing.
        lambda: _kernel(inputs, outputs, squared_norms.double().sqrt().clamp_(min=TINY), clip),
        lambda: clipped_sum_plain(inputs, outputs, squared_norms, clip),
        on=inputs,
    )


def weighted_sum_plain(inputs: torch.Tensor, outputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`weighted_sum` in plain torch; a row of the weight 0 may hold what is no number, as there.

    Args:
        inputs: As for `weighted_sum`.
        outputs: As for `weighted_sum`.
        weights: As for `weighted_sum`.
    """
    counts = weights != 0
    if not bool(counts.all()):
        inputs, outputs, weights = inputs[counts], outputs[counts], weights[counts]
    n, t, k = inputs.shape
    wide = torch.promote_types(torch.promote_types(inputs.dtype, outputs.dtype), torch.float32)
    scaled = outputs.to(wide) * weights.to(wide).view(n, 1, 1)
    return scaled.reshape(n * t, outputs.shape[2]).T @ inputs.to(wide).reshape(n * t, k)


def clipped_sum_plain(
    inputs: torch.Tensor, outputs: torch.Tensor, squared_norms: torch.Tensor, clip: float
) -> torch.Tensor:
    """`clipped_sum` in plain torch.

    Args:
        inputs: As for `clipped_sum`.
        outputs: As for `clipped_sum`.
        squared_norms: As for `clipped_sum`.
        clip: As for `clipped_sum`.
    """
    finite = torch.isfinite(squared_norms)
    if not bool(finite.all()):
        inputs, outputs, squared_norms = inputs[finite], outputs[finite], squared_norms[finite]
    weights = (clip / squared_norms.double().sqrt()).clamp_(max=1)
    return weighted_sum_plain(inputs, outputs, weights)


def floor(n: int, t: int, k: int, o: int, *, size: int = 4) -> tuple[int, int]:
    """What no kernel for `weighted_sum` or `clipped_sum` can do without.

    Args:
        n: Rows.
        t: Positions.
        k: Inputs.
        o: Outputs.
        size: Bytes of a number.

    Returns:
        Bytes, each number read once and the sum written; floating point operations, an addition being one.
    """
    return n * t * (k + o) * size + 4 * n + 4 * o * k, 2 * n * t * k * o + n * t * o


def _kernel(
    inputs: torch.Tensor, outputs: torch.Tensor, numbers: torch.Tensor, clip: float | None
) -> torch.Tensor:
    from fedcore.learning.kernels import triton_accumulate

    return triton_accumulate.weighted_sum(inputs, outputs, numbers.to(torch.float32).contiguous(), clip)
