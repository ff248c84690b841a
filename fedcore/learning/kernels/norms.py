"""Norms of single rows' gradients in a linear layer over positions, without the gradients.

The gradient of row i is D_i^T A_i, with A_i `[t, k]` the layer's input and D_i `[t, o]` the gradient of its output. Its squared
norm is a sum over pairs of positions (the ghost way) or over entries of the gradient (the made way); see
`fedcore.learning.private.parts`. In both ways the kernel makes a tile at a time in registers and sums it up at once: neither
`[n, t, t]` nor `[n, o, k]` is in memory, but for `norms_and_gradients`, which is to keep the latter. Pairs are symmetric, so that
the ghost way makes half of the tiles.

A convolution is a linear layer over its unfolded input, `[n, t, kernel x channels]`, with its groups among the rows; that is what
`fedcore.learning.private.layers` makes, and the kernel takes it with any strides.

Products of float32 are made from three of tf32 (about 21 bits), those of bfloat16 and float16 are exact; sums are float32, over a
few dozen numbers at a time, and what these sums round away when they are added is carried along: the error does not grow with
the numbers that are summed up. Plain torch makes norms in float64. What rounding can take from a norm is added (`with_slack`),
and so is what falls below the smallest float32 when it is squared, so that no norm is too small. Norms of rows whose positions
all but cancel each other, or whose numbers are next to nothing, are too large for that: they are shortened more than they need.

Squared norms are float64, which holds the square of any float32.
"""

from __future__ import annotations

import torch

from fedcore.learning.kernels import dispatch

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
AT_A_TIME = 2**24
"""Numbers that plain torch makes at a time, at most (64 MiB in float32)."""
BLOCK = 1024
"""Numbers whose squares are added in float32, at most: 128 for each lane of a CPU, which rounds by less than 1e-5."""
SUM_UNITS = 4
"""Of the last place: what the weighted sum of a row's gradient, made without it, can round differently."""


def squared_norms(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Squared norms of sum_t outputs_t^T inputs_t, row by row; none is too small by more than 1e-5 of it.

    Args:
        inputs: A, `[n, t, k]`, float32, bfloat16, float16 (float64: plain torch); any strides, any of n, t, k may be 0.
        outputs: D, `[n, t, o]`, likewise, on the same device.

    Returns:
        float64, `[n]`.
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
        float64, `[n]`, and float32 (float64 for float64), `[n, o, k]`.
    """

    def plain() -> tuple[torch.Tensor, torch.Tensor]:
        wide = torch.promote_types(torch.promote_types(inputs.dtype, outputs.dtype), torch.float32)
        made = outputs.to(wide).mT @ inputs.to(wide)
        return squares(made), made

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
    kind = torch.promote_types(torch.promote_types(inputs.dtype, outputs.dtype), torch.float32)
    ghost = t * (k + o) < k * o
    most = max(1, AT_A_TIME // max(1, 4 * t * t if ghost else 2 * k * o))
    found = []
    for start in range(0, n, most):
        a, d = inputs[start : start + most].double(), outputs[start : start + most].double()
        if ghost:
            found.append(ghost_norms(a, d, kind))
            continue
        made = squares(d.mT @ a)
        found.append(with_slack(made, squares(a), squares(d), lost=0, units=SUM_UNITS, kind=kind))
    return torch.cat(found) if found else inputs.new_zeros(0, dtype=torch.float64)


def ghost_norms(a: torch.Tensor, d: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """Squared norms by pairs of positions, in plain torch.

    Args:
        a: Inputs, float64, `[n, t, k]`.
        d: Gradients of outputs, float64, `[n, t, o]`.
        kind: What the sum is made in, float32 or float64.
    """
    n, t, k = a.shape
    aa, dd = torch.bmm(a, a.mT), torch.bmm(d, d.mT)
    sizes = [torch.diagonal(each, dim1=1, dim2=2).sum(1) for each in (aa, dd)]
    found = torch.bmm(aa.view(n, 1, t * t), dd.view(n, t * t, 1)).view(n)
    lost = (k + d.shape[2] + t * t) * torch.finfo(torch.float64).eps
    return with_slack(found, *sizes, lost=lost, units=SUM_UNITS, kind=kind)


def with_slack(
    squared: torch.Tensor,
    inputs: torch.Tensor,
    outputs: torch.Tensor,
    *,
    lost: float,
    units: float,
    kind: torch.dtype,
) -> torch.Tensor:
    """Squared norms with what rounding can have taken from them.

    A norm is at most sum_t |a_t||d_t|, which is at most |A||D|; errors are a share of that, whatever is left of it.

    Args:
        squared: As they were found, float64, `[n]`.
        inputs: |A|^2, float64, `[n]`.
        outputs: |D|^2, likewise.
        lost: Of the squared norm, as a share of |A|^2 |D|^2.
        units: Of the norm, as a share of |A||D|, in units of the last place of `kind`.
        kind: float32 or float64.
    """
    without = inputs * outputs
    found = (squared.clamp(min=0) + lost * without).sqrt_()
    return found.add_(without.sqrt_(), alpha=units * torch.finfo(kind).eps).square_()


def squares(values: torch.Tensor) -> torch.Tensor:
    """Sums of squares of rows, never too small by more than 1e-5 of them.

    What falls below the smallest normal number when it is squared is taken for that number.

    Args:
        values: `[n, ...]`.

    Returns:
        float64, `[n]`.
    """
    flat = values.reshape(len(values), -1) if values.numel() else values.new_zeros(len(values), 0)
    flat = flat.float() if flat.dtype.itemsize < 4 else flat
    size = flat.shape[1]
    even = size // BLOCK * BLOCK if size > BLOCK else 0
    # Without a tensor of squares.
    found: torch.Tensor = torch.linalg.vector_norm(flat[:, even:], dim=1).double().square_()
    if even:
        blocks = torch.linalg.vector_norm(flat[:, :even].view(len(flat), -1, BLOCK), dim=2)
        found += torch.linalg.vecdot(blocks.double(), blocks.double())
    return found.add_(2 * size * torch.finfo(flat.dtype).tiny)


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
