"""A cell as a mixed-integer program for HiGHS: sites are open or not, owners follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from fedcore.network.cell import Cell
from fedcore.network.problem import Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Solved:
    """What HiGHS says of a cell.

    Args:
        bound: Below the objective without time; infinite when there is no assignment.
        opened: The sites of the best assignment that it has; none without one.
    """

    bound: float
    opened: tuple[int, ...] | None


def solve_cell(
    cell: Cell,
    pairs: Bools,
    must: Ints,
    seconds: float,
    gap: float = 0.0,
) -> Solved:
    """The least objective without time of a cell.

    Args:
        pairs: [M, A], those that may be used.
        must: [A], -1 for closed, 1 for open, 0 for either.
        seconds: At most; the bound holds also when they are used up.
        gap: Relative, at which HiGHS may stop.
    """
    owner, site = np.nonzero(pairs)
    size, sites = len(owner), cell.cost.shape[1]
    everyone = np.arange(size)
    ones = np.ones(size)
    count, people = size + sites, len(cell.rows)
    cost = np.concatenate([cell.cost[owner, site], cell.open_cost])
    blocks: list[LinearConstraint] = []

    def row(
        values: Floats, at: Ints, columns: Ints, height: int, low: Floats | float, high: Floats | float
    ) -> None:
        blocks.append(
            LinearConstraint(coo_array((values, (at, columns)), shape=(height, count)).tocsr(), low, high)
        )

    row(ones, owner, everyone, people, np.where(cell.mandatory, 1.0, 0.0), np.ones(people))
    row(ones, np.zeros(size, dtype=np.int64), everyone, 1, cell.pick, cell.pick)
    row(
        np.tile([1.0, -1.0], size),
        np.repeat(everyone, 2),
        np.stack([everyone, size + site], 1).ravel(),
        size,
        -np.inf,
        0.0,
    )
    load = np.concatenate([ones, -cell.capacity.astype(np.float64)])
    both = np.concatenate([site, np.arange(sites)])
    columns = np.concatenate([everyone, size + np.arange(sites)])
    row(load, both, columns, sites, -np.inf, 0.0)
    row(np.concatenate([ones, np.full(sites, -float(cell.children_min))]), both, columns, sites, 0.0, np.inf)
    row(np.ones(sites), np.zeros(sites, dtype=np.int64), size + np.arange(sites), 1, 0, cell.most_open)
    low, high = np.zeros(count), np.ones(count)
    low[size:][must == 1], high[size:][must == -1] = 1.0, 0.0
    whole = np.zeros(count)
    whole[size:] = 1
    answer = milp(
        cost, constraints=blocks, bounds=Bounds(low, high), integrality=whole,
        options={"time_limit": max(0.1, seconds), "mip_rel_gap": gap},
    )  # fmt: skip
    if answer.status == 2:
        return Solved(np.inf, None)
    bound = answer.mip_dual_bound
    if bound is None or not np.isfinite(bound):
        bound = -np.inf
    opened = None if answer.x is None else tuple(np.flatnonzero(answer.x[size:] > 0.5).tolist())
    return Solved(float(bound), opened)
