"""The server's step and the histograms of boosted trees, beside references and peers; for `benchmarks/gpu.py`."""

from __future__ import annotations

import math
from functools import partial

import torch

from benchmarks.gpu_bench import EXACT, Bench, relative
from fedcore.learning.kernels import server as kernels

UPDATES = ((1, 1), (3, 1023), (7, 2049), (2, 5000))
"""Participants, parameters."""
LARGE_UPDATES = ((20, 1_000_003),)
STEP = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}
TABLES = ((1, 1, 1, 2, 2), (37, 3, 1, 5, 2), (300, 5, 4, 33, 2), (513, 2, 3, 256, 3))
"""Rows, features, nodes, bins, values of a row."""
LARGE_TABLES = ((100_003, 17, 8, 64, 2), (100_003, 7, 32, 256, 2))


def server(bench: Bench) -> None:
    """Weighted means, and Adam along them."""
    for many, count in UPDATES + (LARGE_UPDATES if bench.cuda else ()):
        for dtype in (torch.float32, torch.bfloat16):
            bench.attempt(f"fedavg {many} x {count} {dtype}", partial(_mean_right, bench, many, count, dtype))
        for kind in ("adam", "yogi", "adagrad"):
            bench.attempt(
                f"fedadam, {kind}, {many} x {count}", partial(_step_right, bench, many, count, kind)
            )
    if bench.timing:
        bench.attempt("fedavg and fedadam: times", lambda: _server_times(bench))


def _updates(bench: Bench, many: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator(device=bench.device).manual_seed(many + count)
    updates = torch.randn(many, count, generator=source, device=bench.device)
    return updates, torch.randint(1, 1000, (many,), generator=source, device=bench.device).float()


def _shares(weights: torch.Tensor) -> torch.Tensor:
    wide = weights.double().cpu()
    return wide / wide.sum()


def _mean_right(bench: Bench, many: int, count: int, dtype: torch.dtype) -> None:
    updates, weights = _updates(bench, many, count)
    updates = updates.to(dtype)
    expected = (_shares(weights)[:, None] * updates.double().cpu()).sum(0)
    bench.right(
        "fedavg", f"{many} x {count} {dtype}", relative(kernels.fedavg(updates, weights), expected), EXACT
    )


def _step_right(bench: Bench, many: int, count: int, kind: str) -> None:
    """Two rounds, beside the rule in float64."""
    source = torch.Generator().manual_seed(count)
    model = torch.randn(count, generator=source)
    states = [
        model.to(bench.device),
        torch.zeros(count, device=bench.device),
        torch.zeros(count, device=bench.device),
    ]
    expected = [
        model.double(),
        torch.zeros(count, dtype=torch.float64),
        torch.zeros(count, dtype=torch.float64),
    ]
    for number in (1, 2):
        updates, weights = _updates(bench, many, count)
        updates *= number
        kernels.fedadam(updates, weights, *states, server_round=number, kind=kind, **STEP)  # type: ignore[arg-type]
        _stepped((_shares(weights)[:, None] * updates.double().cpu()).sum(0), expected, number, kind)
    for name, found, wanted in zip(("model", "first", "second"), states, expected, strict=True):
        bench.right("fedadam", f"{kind}, {many} x {count}: {name}", relative(found, wanted), EXACT)


def _stepped(mean: torch.Tensor, states: list[torch.Tensor], number: int, kind: str) -> None:
    """Reddi et al., algorithm 2, with the corrected rate of Adam that Flower takes."""
    model, first, second = states
    beta1, beta2, rate = (
        (0.0, 0.0, STEP["learning_rate"]) if kind == "adagrad" else (0.9, 0.99, STEP["learning_rate"])
    )
    if kind == "adam":
        rate *= math.sqrt(1 - beta2 ** (number + 1)) / (1 - beta1 ** (number + 1))
    squares = mean * mean
    first.copy_(beta1 * first + (1 - beta1) * mean)
    second.copy_(
        {
            "adam": beta2 * second + (1 - beta2) * squares,
            "yogi": second - (1 - beta2) * squares * torch.sign(second - squares),
            "adagrad": second + squares,
        }[kind]
    )
    model += rate * first / (second.sqrt() + STEP["tau"])


def _server_times(bench: Bench) -> None:
    many, count = bench.pick((32, 2**25), (16, 2**23), (3, 500))
    updates, weights = _updates(bench, many, count)
    shares = weights / weights.sum()
    moved, flops = kernels.floor(many, count)
    bench.against(
        "fedavg",
        f"{many} x {count}",
        lambda: kernels.fedavg(updates, weights),
        lambda: shares @ updates,
        "torch, a product",
        moved=moved,
        flops=flops,
    )
    model, first, second = (torch.zeros(count, device=bench.device) for _ in range(3))

    def peer() -> None:
        mean = shares @ updates
        first.mul_(0.9).add_(mean, alpha=0.1)
        second.mul_(0.99).addcmul_(mean, mean, value=0.01)
        model.addcdiv_(first, second.sqrt().add_(STEP["tau"]), value=STEP["learning_rate"])

    moved, flops = kernels.floor(many, count, step=True)
    bench.against(
        "fedadam",
        f"{many} x {count}",
        lambda: kernels.fedadam(updates, weights, model, first, second, server_round=1, **STEP),  # type: ignore[arg-type]
        peer,
        "torch, a product and six passes",
        moved=moved,
        flops=flops,
    )


# ---- histograms --------------------------------------------------------------------------------------------------


def histograms(bench: Bench) -> None:
    """Sums of rows' values by node, feature and bin."""
    for table in TABLES + (LARGE_TABLES if bench.cuda else ()):
        bench.attempt(f"histograms {table}", partial(_histograms_right, bench, table))
    if bench.timing:
        bench.attempt("histograms: times", lambda: _histograms_times(bench))


Table = tuple[int, int, int, int, int]


def _table(bench: Bench, table: Table) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, features, nodes, bins, width = table
    source = torch.Generator(device=bench.device).manual_seed(sum(table))
    places = torch.randint(0, bins, (rows, features), generator=source, device=bench.device).to(torch.uint8)
    values = torch.randn(rows, width, generator=source, device=bench.device)
    where = torch.randint(-1, nodes, (rows,), generator=source, device=bench.device).to(torch.int32)
    return places, values, where


def _summed(places: torch.Tensor, values: torch.Tensor, where: torch.Tensor, table: Table) -> torch.Tensor:
    """In plain torch: the cell of each row and feature, and a sum into it; a row in no node has a cell that is left out."""
    rows, features, nodes, bins, width = table
    where = where.where(where >= 0, nodes)
    first = where.long()[:, None] * features + torch.arange(features, device=where.device)
    cells = (first * bins + places.long()).flatten()
    each = values[:, None].expand(rows, features, width).reshape(-1, width)
    total = torch.zeros((nodes + 1) * features * bins, width, dtype=values.dtype, device=values.device)
    return total.index_add_(0, cells, each).view(nodes + 1, features, bins, width)[:nodes]


def _histograms_right(bench: Bench, table: Table) -> None:
    from fedcore.learning.kernels.histograms import histograms as made

    places, values, where = _table(bench, table)
    found = made(places, values, where, table[3], table[2])
    expected = _summed(places.cpu(), values.double().cpu(), where.cpu(), table)
    bench.right("histograms", str(table), relative(found, expected), EXACT)


def _histograms_times(bench: Bench) -> None:
    from fedcore.learning.kernels import histograms as module

    for rows, features, nodes, bins, width in bench.pick(
        ((2**22, 64, 1, 64, 2), (2**22, 64, 32, 64, 2)), ((2**20, 32, 8, 64, 2),), ((200, 4, 2, 8, 2),)
    ):
        table = (rows, features, nodes, bins, width)
        places, values, where = _table(bench, table)
        moved, _ = module.floor(rows, features, width, bins, nodes)
        bench.against(
            "histograms",
            f"{rows} rows, {features} features, {nodes} nodes, {bins} bins",
            lambda: module.histograms(places, values, where, table[3], table[2]),  # noqa: B023 - called before the next table
            lambda: _summed(places, values, where, table),  # noqa: B023
            "torch, index_add_",
            moved=moved,
        )
