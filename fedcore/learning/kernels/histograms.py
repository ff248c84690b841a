"""Histograms of gradients for boosted trees: sums of values over the rows of each node that fall into each bin of each feature.

Triton has no atomic additions in shared memory. The kernel makes of the bins of 32 rows a matrix of zeros and ones, and sums
with a matrix product into registers: zeros and ones are exact in bfloat16, and a float32 is the exact sum of three of them, in
three columns. Rows are taken node by node, in an order made once for all features, so that a program adds to memory once per node
it meets, for some thousand rows.

In memory are, beside the result, 3 copies of it (one for each of the three parts) and 32 bytes a row. Programs add up in any order:
the last bits differ between runs on a GPU, not on the CPU.

Source: Mitchell and Frank, PeerJ Computer Science 3:e127, 2017 (histograms by node on a GPU, with atomic additions).
"""

from __future__ import annotations

import torch

from fedcore.errors import DataError
from fedcore.learning.kernels import dispatch

LARGEST = 1e38
"""Of a value: twice that is none of bfloat16."""


def histograms(
    bins: torch.Tensor, values: torch.Tensor, nodes: torch.Tensor, bins_count: int, nodes_count: int
) -> torch.Tensor:
    """Sums of values by node, feature and bin.

    Args:
        bins: uint8, `[rows, features]`, below `bins_count`; any strides, rows and features may be 0.
        values: float32, `[rows, c]`, within 1e38: gradient and hessian, say, and ones to count.
        nodes: int32, `[rows]`, below `nodes_count`; -1 for rows in no node.
        bins_count: 1 to 256.
        nodes_count: 1 or more.

    Returns:
        float32, `[nodes, features, bins, c]`.

    Raises:
        DataError: A shape, type or number is not allowed.
    """
    _check(bins, values, nodes, bins_count, nodes_count)

    def plain() -> torch.Tensor:
        return histograms_plain(bins, values, nodes, bins_count, nodes_count)

    def kernel() -> torch.Tensor:
        from fedcore.learning.kernels import triton_histograms

        return triton_histograms.histograms(bins, values, nodes, bins_count, nodes_count)

    if not bins.numel() or not values.numel() or not dispatch.usable(bins, values, nodes):
        return plain()
    return dispatch.guarded(f"histograms of {values.shape[1]}", kernel, plain, on=bins)


def histograms_plain(
    bins: torch.Tensor, values: torch.Tensor, nodes: torch.Tensor, bins_count: int, nodes_count: int
) -> torch.Tensor:
    """The same in plain torch, a feature at a time, summed in float64.

    Args:
        bins: As for `histograms`.
        values: As for `histograms`.
        nodes: As for `histograms`.
        bins_count: As for `histograms`.
        nodes_count: As for `histograms`.
    """
    features = bins.shape[1]
    c, cells = values.shape[1], nodes_count * bins_count
    found = torch.zeros(nodes_count, features, bins_count, c, device=values.device)
    inside = nodes >= 0
    if not bool(inside.all()):
        bins, values, nodes = bins[inside], values[inside], nodes[inside]
    weights = values.T.double().contiguous()
    first = nodes.long() * bins_count
    for feature in range(features):
        cell = first + bins[:, feature]
        for column in range(c):
            sums = torch.bincount(cell, weights[column], minlength=cells)
            found[:, feature, :, column] = sums.view(nodes_count, bins_count)
    return found


def floor(rows: int, features: int, c: int, bins: int, nodes: int) -> tuple[int, int]:
    """What no kernel for `histograms` can do without.

    Args:
        rows: Rows.
        features: Features.
        c: Values of a row.
        bins: Bins of a feature.
        nodes: Nodes.

    Returns:
        Bytes, each input read once and the result written; floating point operations, an addition being one.
    """
    return rows * (features + 4 * c + 4) + 4 * nodes * features * bins * c, rows * features * c


def _check(
    bins: torch.Tensor, values: torch.Tensor, nodes: torch.Tensor, bins_count: int, nodes_count: int
) -> None:
    if not (1 <= bins_count <= 256 and nodes_count >= 1):
        raise DataError(f"{bins_count} bins and {nodes_count} nodes; allowed: 1 to 256 bins, 1 node or more")
    wanted = ((bins, torch.uint8, 2), (values, torch.float32, 2), (nodes, torch.int32, 1))
    if any(each.dtype != dtype or each.dim() != axes for each, dtype, axes in wanted) or not (
        len(bins) == len(values) == len(nodes)
    ):
        told = ", ".join(f"{each.dtype} {tuple(each.shape)}" for each, _, _ in wanted)
        raise DataError(
            f"bins, values and nodes are {told}; allowed: uint8 [rows, features], float32 [rows, c], int32 [rows]"
        )
    if not bins.numel() or not values.numel():
        return
    within = (nodes.min() >= -1) & (nodes.max() < nodes_count) & (values.abs().max() <= LARGEST)
    if bins_count < 256:
        within &= bins.max() < bins_count
    if not bool(within):
        raise DataError(
            f"a bin, node or value is out of range; allowed: bins below {bins_count}, nodes from -1 to below "
            f"{nodes_count}, finite values within {LARGEST:g}"
        )
