# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""The kernel of `fedcore.learning.kernels.histograms`; imported where it runs, for Triton reads its settings at import."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS = 32
"""Of a block: all are of one node."""
BLOCKS = 64
"""Of a program."""


@triton.jit(do_not_specialize=["blocks", "each", "nodes", "features", "wanted", "columns"])
def _histograms(
    bins, parts, order, block_node, block_first, block_count, out,
    blocks, each, nodes, features, wanted, columns, row_step, feature_step,
    BINS: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    feature = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * each
    codes = tl.arange(0, BINS)
    column = tl.arange(0, COLUMNS)
    within = tl.arange(0, ROWS)
    place = codes[:, None] * columns + column[None, :]
    kept = (codes < wanted)[:, None] & (column < columns)[None, :]
    found = tl.zeros([BINS, COLUMNS], tl.float32)
    current = tl.load(block_node + begin)
    for block in range(begin, tl.minimum(begin + each, blocks)):
        node = tl.load(block_node + block)
        if node != current:
            if current < nodes:
                far = (current.to(tl.int64) * features + feature) * wanted * columns
                tl.atomic_add(out + far + place, found, mask=kept, sem="relaxed")
            found = tl.zeros([BINS, COLUMNS], tl.float32)
            current = node
        there = within < tl.load(block_count + block)
        rows = tl.load(order + tl.load(block_first + block) + within, mask=there, other=0)
        code = tl.load(bins + rows * row_step + feature * feature_step, mask=there, other=0).to(tl.int32)
        value = tl.load(parts + rows[:, None] * COLUMNS + column[None, :], mask=there[:, None], other=0.0)
        ones = tl.where(codes[:, None] == code[None, :], 1.0, 0.0).to(tl.bfloat16)
        found = tl.dot(ones, value, found)
    if current < nodes:
        far = (current.to(tl.int64) * features + feature) * wanted * columns
        tl.atomic_add(out + far + place, found, mask=kept, sem="relaxed")


def histograms(
    bins: torch.Tensor, values: torch.Tensor, nodes: torch.Tensor, bins_count: int, nodes_count: int
) -> torch.Tensor:
    """Sums of values by node, feature and bin, `[nodes, features, bins, c]`.

    Args:
        bins: uint8, `[rows, features]`, neither of them 0.
        values: float32, `[rows, c]`.
        nodes: int32, `[rows]`.
        bins_count: 1 to 256.
        nodes_count: 1 or more.
    """
    features = bins.shape[1]
    c = values.shape[1]
    order, block_node, block_first, block_count = _blocks(nodes, nodes_count)
    set_up = settings(bins_count, c)
    parts = _parts(values, set_up["COLUMNS"])
    out = torch.zeros(nodes_count, features, bins_count, 3 * c, device=values.device)
    blocks = len(block_node)
    _histograms[(features, triton.cdiv(blocks, BLOCKS))](
        bins, parts, order, block_node, block_first, block_count, out,
        blocks, BLOCKS, nodes_count, features, bins_count, 3 * c, bins.stride(0), bins.stride(1), **set_up,
    )  # fmt: skip
    return out.view(nodes_count, features, bins_count, 3, c).sum(3)


def settings(bins_count: int, c: int) -> dict[str, int]:
    """How `_histograms` is compiled."""
    bins = max(16, triton.next_power_of_2(bins_count))
    return {
        "BINS": bins,
        "COLUMNS": max(16, triton.next_power_of_2(3 * c)),
        "ROWS": ROWS,
        "num_warps": 8 if bins >= 128 else 4,
        "num_stages": 3,
    }


def _parts(values: torch.Tensor, columns: int) -> torch.Tensor:
    """Three bfloat16 that sum to each value, `[rows, columns]`, the rest zeros."""
    found = torch.zeros(len(values), columns, dtype=torch.bfloat16, device=values.device)
    c = values.shape[1]
    left = values
    for start in range(0, 3 * c, c):
        found[:, start : start + c] = left
        left = left - found[:, start : start + c]
    return found


def _blocks(
    nodes: torch.Tensor, nodes_count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows sorted by node, and blocks of them: node, first place in the order, and how many rows; without waiting for the device.

    Blocks that are left over have the node `nodes_count` and no rows.
    """
    ordered, order = nodes.sort(stable=True)
    device = nodes.device
    starts = torch.searchsorted(ordered, torch.arange(nodes_count + 1, dtype=torch.int32, device=device))
    ends = ((starts.diff() + ROWS - 1) // ROWS).cumsum(0)
    block = torch.arange(len(nodes) // ROWS + nodes_count, device=device)
    node = torch.searchsorted(ends, block, right=True)
    held = node.clamp(max=nodes_count - 1)
    before = torch.where(held > 0, ends[held - 1], 0)
    first = starts[held] + (block - before) * ROWS
    count = (starts[held + 1] - first).clamp(min=0, max=ROWS)
    return order, node.to(torch.int32), first, torch.where(node < nodes_count, count, 0).to(torch.int32)
