"""Kernels of private training, beside references and peers; for `benchmarks/gpu.py`.

References are made on the CPU in float64 from what the kernel is given, in the plainest way: the gradients themselves,
and a sum over rows.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_bench import EXACT, Bench, relative
from fedcore.learning.kernels import accumulate as sums
from fedcore.learning.kernels import norms as norm_kernels

Shape = tuple[int, int, int, int]
"""Rows, positions, inputs, outputs."""

SMALL: tuple[Shape, ...] = (
    (3, 1, 5, 7),
    (2, 17, 33, 9),
    (1, 65, 16, 70),
    (4, 40, 3, 5),
    (0, 4, 3, 2),
    (2, 0, 3, 4),
)
LARGE: tuple[Shape, ...] = (
    (8, 200, 300, 130),
    (3, 1024, 48, 64),
    (16, 49, 513, 1151),
    (130, 1, 777, 300),
    (5, 16, 4608, 511),
)
TYPES = (torch.float32, torch.bfloat16)
SLACK = 2e-3
"""What is added to a norm for its rounding, relative, over a thousand positions of random numbers."""


def norms(bench: Bench) -> None:
    """Squared norms of rows' gradients: never too small, hardly too large."""
    for shape, dtype, strided in _compared(bench):
        bench.attempt(f"squared_norms {shape} {dtype}", partial(_norms_right, bench, shape, dtype, strided))
    if not bench.timing:
        return
    for shape in _timed_shapes(bench):
        for dtype in TYPES:
            bench.attempt(
                f"squared_norms {shape} {_short(dtype)}: times", partial(_norms_times, bench, shape, dtype)
            )


def _compared(bench: Bench) -> list[tuple[Shape, torch.dtype, bool]]:
    """Shapes, types and whether with strides; not all with all, for each is compiled anew."""
    shapes = SMALL + (LARGE if bench.cuda else ())
    plain = [(shape, torch.float32, False) for shape in shapes]
    half = [(shape, torch.bfloat16, False) for shape in (LARGE if bench.cuda else SMALL)]
    return plain + half + [(shape, torch.float32, True) for shape in shapes[1:4]]


def _timed_shapes(bench: Bench) -> tuple[Shape, ...]:
    """Layers of a transformer of width 512, and of ResNet-18 on 32 x 32 pixels, first and last stage."""
    rows = bench.pick(256, 64, 2)
    if bench.size == "tiny":
        return ((rows, 8, 16, 16),)
    return ((rows, 128, 512, 2048), (rows, 1024, 576, 64), (rows, 16, 4608, 512))


def _pair(
    bench: Bench, shape: Shape, dtype: torch.dtype, strided: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and gradients of outputs, random; with strides as a transposed tensor has them, where asked for."""
    n, t, k, o = shape
    source = torch.Generator(device=bench.device).manual_seed(n + t + k + o)

    def made(width: int) -> torch.Tensor:
        if strided:
            return torch.randn(n, width, t, generator=source, device=bench.device).to(dtype).mT
        return torch.randn(n, t, width, generator=source, device=bench.device).to(dtype)

    return made(k), made(o)


def _norms_right(bench: Bench, shape: Shape, dtype: torch.dtype, strided: bool) -> None:
    a, d = _pair(bench, shape, dtype, strided)
    found = norm_kernels.squared_norms(a, d).double().cpu()
    exact = (d.double().cpu().mT @ a.double().cpu()).square().sum((1, 2))
    small, large = _most(exact - found, exact), _most(found - exact, exact)
    told = f"{shape} {_short(dtype)}{', strided' if strided else ''}"
    bench.right("squared_norms", f"{told}: too small", small, EXACT)
    bench.right("squared_norms", f"{told}: too large", large, SLACK)
    found, gradients = norm_kernels.norms_and_gradients(a, d)
    made = d.double().cpu().mT @ a.double().cpu()
    bench.right("norms_and_gradients", f"{told}: gradients", relative(gradients, made), EXACT)
    bench.right("norms_and_gradients", f"{told}: norms", relative(found, exact), 2 * EXACT)


def _most(above: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest share, 0 or more; infinite where shapes differ or a zero is not one."""
    if above.shape != exact.shape:
        return math.inf
    if not above.numel():
        return 0.0
    shares = torch.where(above == 0, 0.0, above / exact)
    return math.inf if bool(shares.isnan().any()) else float(shares.clamp(min=0).max())


def _norms_times(bench: Bench, shape: Shape, dtype: torch.dtype) -> None:
    n, t, k, o = shape
    a, d = _pair(bench, shape, dtype)
    moved, flops = norm_kernels.floor(n, t, k, o, size=a.element_size())
    ghost = t * (k + o) < k * o

    def peer() -> torch.Tensor:
        if ghost:
            return ((a @ a.mT).float() * (d @ d.mT).float()).sum((1, 2))
        return (d.mT @ a).float().square().sum((1, 2))

    bench.against(
        "squared_norms",
        f"{shape} {_short(dtype)}",
        lambda: norm_kernels.squared_norms(a, d),
        peer,
        f"torch, {'pairs of positions' if ghost else 'gradients made'}",
        moved=moved,
        flops=flops,
        kind=_kind(dtype),
    )


def accumulate(bench: Bench) -> None:
    """Weighted and clipped sums of rows' gradients."""
    for shape, dtype, strided in _compared(bench):
        bench.attempt(f"weighted_sum {shape} {dtype}", partial(_sums_right, bench, shape, dtype, strided))
    if not bench.timing:
        return
    for shape in _timed_shapes(bench):
        for dtype in TYPES:
            bench.attempt(
                f"clipped_sum {shape} {_short(dtype)}: times", partial(_sums_times, bench, shape, dtype)
            )


def _sums_right(bench: Bench, shape: Shape, dtype: torch.dtype, strided: bool) -> None:
    n = shape[0]
    a, d = _pair(bench, shape, dtype, strided)
    told = f"{shape} {_short(dtype)}{', strided' if strided else ''}"
    each = d.double().cpu().mT @ a.double().cpu()
    weights = torch.linspace(0.1, 1.3, n, device=bench.device)
    wanted = torch.einsum("n,nok->ok", weights.double().cpu(), each)
    bench.right("weighted_sum", told, relative(sums.weighted_sum(a, d, weights), wanted), EXACT)

    squared = each.square().sum((1, 2))
    clip = float(squared.sqrt().median()) if n and float(squared.sum()) else 1.0
    factors = (clip / squared.sqrt()).clamp(max=1)
    if n > 1:
        # A row that is no number counts for nothing.
        a, squared = a.clone(), squared.clone()
        a[n - 1], squared[n - 1], each[n - 1], factors[n - 1] = math.nan, math.nan, 0.0, 0.0
    wanted = torch.einsum("n,nok->ok", factors, each)
    found = sums.clipped_sum(a, d, squared.float().to(bench.device), clip)
    bench.right("clipped_sum", told, relative(found, wanted), EXACT)


def _sums_times(bench: Bench, shape: Shape, dtype: torch.dtype) -> None:
    n, t, k, o = shape
    a, d = _pair(bench, shape, dtype)
    squared = torch.linspace(0.5, 2.0, n, device=bench.device)
    moved, flops = sums.floor(n, t, k, o, size=a.element_size())

    def peer() -> torch.Tensor:
        scaled = d * squared.rsqrt().clamp(max=1).to(d.dtype).view(n, 1, 1)
        return scaled.reshape(n * t, o).T @ a.reshape(n * t, k)

    bench.against(
        "clipped_sum",
        f"{shape} {_short(dtype)}",
        lambda: sums.clipped_sum(a, d, squared, 1.0),
        peer,
        "torch, a scaled copy and one product",
        moved=moved,
        flops=flops,
        kind=_kind(dtype),
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kind(dtype: torch.dtype) -> Any:
    return "float32" if dtype == torch.float32 else "bf16"
