"""Norms of single rows' gradients in a linear layer over positions, without the gradients.

The gradient of row i is D_i^T A_i, with A_i `[t, k]` the layer's input and D_i `[t, o]` the gradient of its output. Its squared
norm is a sum over pairs of positions (the ghost way) or over entries of the gradient (the made way); see
`fedcore.learning.private.parts`. In both ways the kernel makes a tile at a time in registers and sums it up at once: neither
`[n, t, t]` nor `[n, o, k]` is in memory, but for `norms_and_gradients`, which is to keep the latter. Pairs are symmetric, so that
the ghost way makes half of the tiles.

A convolution is a linear layer over its unfolded input, `[n, t, kernel x channels]`, with its groups among the rows; that is what
`fedcore.learning.private.layers` makes, and the kernel takes it with any strides.

Products of float32 are made from three of tf32 (about 21 bits), those of bfloat16 and float16 are exact; sums are float32. What
rounding can take from a norm is added, as in `parts`, so that none is too small.
"""

from __future__ import annotations

import torch

from fedcore.learning.kernels import dispatch

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
AT_A_TIME = 2**24
"""Numbers that plain torch makes at a time, at most (64 MiB in float32)."""


def squared_norms(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Squared norms of sum_t outputs_t^T inputs_t, row by row, never too small but for the rounding of a sum of squares.

    Args:
        inputs: A, `[n, t, k]`, float32, bfloat16, float16 (float64: plain torch); any strides, any of n, t, k may be 0.
        outputs: D, `[n, t, o]`, likewise, on the same device.

    Returns:
        float32 (float64 for float64), `[n]`.
    """
    if not served(inputs, outputs):
        return squared_norms_plain(inputs, outputs)
    return dispatch.guarded(
        f"norms {inputs.dtype} {outputs.dtype}",
        lambda: _kernel(inputs, outputs),
        lambda: squared_norms_plain(inputs, outputs),
        on=inputs,
    )


def norms_and_gradients(inputs: torch.Tensor, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared norms of the made way, and the gradients, where a weighted sum of them is to follow and memory allows.

    The norms are those of the gradients that are returned, rounded as they are.

    Args:
        inputs: As for `squared_norms`.
        outputs: As for `squared_norms`.

    Returns:
        float32 (float64 for float64), `[n]` and `[n, o, k]`.
    """

    def plain() -> tuple[torch.Tensor, torch.Tensor]:
        wide = torch.promote_types(torch.promote_types(inputs.dtype, outputs.dtype), torch.float32)
        made = outputs.to(wide).mT @ inputs.to(wide)
        return made.square().sum((1, 2)), made

    def kernel() -> tuple[torch.Tensor, torch.Tensor]:
        from fedcore.learning.kernels import triton_norms

        return triton_norms.kept(inputs, outputs)

    if not served(inputs, outputs):
        return plain()
    return dispatch.guarded(f"norms with gradients {inputs.dtype} {outputs.dtype}", kernel, plain, on=inputs)


def ghost_is_less(t: int, k: int, o: int) -> bool:
    """Whether the ghost way takes less work than the made one in the kernel, where half of the pairs are made.

    Args:
        t: Positions.
        k: Inputs.
        o: Outputs.
    """
    return (t + 1) * (k + o) < 2 * k * o


def squared_norms_plain(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """The same in plain torch, some rows at a time.

    Args:
        inputs: As for `squared_norms`.
        outputs: As for `squared_norms`.
    """
    n, t, k = inputs.shape
    o = outputs.shape[2]
    wide = torch.promote_types(torch.promote_types(inputs.dtype, outputs.dtype), torch.float32)
    ghost = t * (k + o) < k * o
    most = max(1, AT_A_TIME // max(1, 2 * t * t if ghost else k * o))
    found = []
    for start in range(0, n, most):
        a, d = inputs[start : start + most].to(wide), outputs[start : start + most].to(wide)
        if not ghost:
            most_lost = 4 * torch.finfo(wide).eps * (a.square().sum((1, 2)) * d.square().sum((1, 2))).sqrt()
            found.append((torch.linalg.matrix_norm(d.mT @ a) + most_lost).square())
            continue
        aa, dd = a @ a.mT, d @ d.mT
        own = torch.diagonal(aa, dim1=1, dim2=2) * torch.diagonal(dd, dim1=1, dim2=2)
        slack = 4 * torch.finfo(wide).eps * own.sqrt().sum(1).square()
        found.append((aa * dd).sum((1, 2)).clamp_(min=0) + slack)
    return torch.cat(found) if found else inputs.new_zeros(0, dtype=wide)


def floor(n: int, t: int, k: int, o: int, *, size: int = 4) -> tuple[int, int]:
    """What no kernel for `squared_norms` can do without.

    Args:
        n: Rows.
        t: Positions.
        k: Inputs.
        o: Outputs.
        size: Bytes of a number.

    Returns:
        Bytes, each number read once and each norm written; floating point operations of the cheaper way, an addition being one.
    """
    ghost = n * (t * (t + 1) // 2) * 2 * (k + o + 1)
    made = n * k * o * 2 * (t + 1)
    return n * t * (k + o) * size + 4 * n, min(ghost, made)


def served(inputs: torch.Tensor, outputs: torch.Tensor, *others: torch.Tensor) -> bool:
    """Whether a kernel of this file or of `fedcore.learning.kernels.accumulate` takes these tensors.

    Args:
        inputs: `[n, t, k]`.
        outputs: `[n, t, o]`.
        others: On the same device.
    """
    for each in (inputs, outputs):
        # Within a row kernels count in 32 bits.
        within = each.shape[1] * each.stride(1) + each.shape[2] * each.stride(2) < 2**31
        if each.dtype not in KERNEL_DTYPES or each.numel() == 0 or not within:
            return False
    return dispatch.usable(inputs, outputs, *others)


def _kernel(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    from fedcore.learning.kernels import triton_norms

    if ghost_is_less(inputs.shape[1], inputs.shape[2], outputs.shape[2]):
        return triton_norms.ghost(inputs, outputs)
    return triton_norms.made(inputs, outputs)
