"""Exact assignment of participants to given aggregators: a flow of least cost with room and a least load for each.

Costs become whole numbers by a power of two, so that the scale itself rounds nothing, the largest at 2**36: a sum
over a thousand participants is then exact to 2**-26 of the largest cost. What the flow finds is scored again in
floating point from the costs as they were; its whole numbers never leave this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedcore.errors import EngineError
from fedcore.network.cell import Cell
from fedcore.network.problem import Bools, Floats, Ints

COST_BITS = 36

FEW_ARCS = 20_000
"""Up to so many arcs are solved at once."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """Participants at open sites.

    Args:
        opened: The open sites, rising.
        site: [M], each owner's site; -1 for one that is not chosen.
        value: Sum of costs and of opening; the objective without time.
    """

    opened: tuple[int, ...]
    site: Ints
    value: float


def whole(costs: Floats) -> Ints:
    """Costs times a power of two, rounded; the largest takes `COST_BITS` bits."""
    largest = float(np.abs(costs).max(initial=0.0))
    power = COST_BITS - math.frexp(largest)[1] if largest > 0 else 0
    return np.rint(np.ldexp(costs, power)).astype(np.int64)


def assign(cell: Cell, opened: tuple[int, ...], hint: Floats | None = None) -> Assignment | None:
    """The cheapest assignment with exactly these sites open; None when there is none.

    With many arcs only the likely ones are solved at first; those that the duals show to be missing are added until
    there are none, which proves the answer for all arcs.

    Args:
        opened: Indices of sites, rising.
        hint: Prices of room [A] of a like placement; they say which arcs are likely.
    """
    if not opened:
        return None
    sites = np.array(opened, dtype=np.int64)
    room, least, count = cell.capacity[sites], cell.children_min, cell.pick
    if (
        room.sum() < count
        or least * len(opened) > count
        or (room < least).any()
        or len(opened) > cell.most_open
    ):
        return None
    if not cell.usable[sites].all():
        return None
    cost, kept = cell.cost[:, sites], np.isfinite(cell.cost[:, sites])
    if len(cost) > 2 * count:
        near = cell.mandatory.copy()
        for column in cost.T:
            near[np.argpartition(column, count - 1)[:count]] = True
        kept &= near[:, None]
    small = kept.sum() <= FEW_ARCS
    arcs = kept if small else kept & _likely(cell, cost, None if hint is None else hint[sites])
    while True:
        found = _solve(cost, arcs, room, least, count, cell.mandatory)
        if found is None and (small or arcs.sum() == kept.sum()):
            return None
        if found is None:
            arcs = kept
            continue
        site = np.where(found >= 0, sites[found], -1)
        answer = Assignment(opened, site, value(cell, site))
        if small or arcs.sum() == kept.sum():
            return answer
        worth, paid = prices(cell, answer, arcs)
        priced = cost + paid[sites]
        own = np.where(found >= 0, priced[np.arange(len(found)), found], worth)
        own[cell.mandatory & (found < 0)] = np.inf
        missed = kept & ~arcs & (priced < own[:, None] - 1e-12 * max(1.0, abs(worth)))
        if not missed.any():
            return answer
        arcs = arcs | missed


def _likely(cell: Cell, cost: Floats, hint: Floats | None) -> Bools:
    """Arcs to begin with: of each owner those to its three best sites, room being priced as in a like placement."""
    priced = cost if hint is None else cost + hint
    limit = np.partition(priced, min(2, priced.shape[1] - 1), axis=1)[:, min(2, priced.shape[1] - 1)]
    return np.asarray(priced <= limit[:, None])


def value(cell: Cell, site: Ints) -> float:
    """The objective without time of an assignment."""
    at = np.flatnonzero(site >= 0)
    return float(math.fsum(cell.cost[at, site[at]]) + math.fsum(cell.open_cost[np.unique(site[at])]))


def _solver() -> Any:
    try:
        from ortools.graph.python import min_cost_flow
    except ImportError as error:
        raise EngineError(
            "placement needs the package ortools, which is not installed; pip install 'fedcore[network]'"
        ) from error
    return min_cost_flow.SimpleMinCostFlow()


def _solve(cost: Floats, arcs: Bools, room: Ints, least: int, count: int, mandatory: Bools) -> Ints | None:
    """Column of each row, or -1; None when there is no such flow."""
    rows, columns = cost.shape
    if int(mandatory.sum()) > count:
        return None
    used = arcs.any(axis=1)
    if mandatory[~used].any():
        return None
    owner, place = np.nonzero(arcs)
    source, sink = rows + columns, rows + columns + 1
    optional = np.flatnonzero(~mandatory & used)
    tails = np.concatenate([owner, np.full(len(optional), source), rows + np.arange(columns)])
    heads = np.concatenate([rows + place, optional, np.full(columns, sink)])
    caps = np.concatenate([np.ones(len(owner) + len(optional), dtype=np.int64), room - least])
    price = np.concatenate([whole(cost[owner, place]), np.zeros(len(optional) + columns, dtype=np.int64)])
    supply = np.zeros(rows + columns + 2, dtype=np.int64)
    supply[:rows][mandatory] = 1
    supply[source] = count - int(mandatory.sum())
    supply[rows:source] = -least
    supply[sink] = least * columns - count
    solver = _solver()
    solver.add_arcs_with_capacity_and_unit_cost(tails, heads, caps, price)
    solver.set_nodes_supplies(np.arange(len(supply)), supply)
    status = solver.solve()
    if status == solver.INFEASIBLE:
        return None
    if status != solver.OPTIMAL:
        raise EngineError(f"the flow solver ended with {status}", step="placement")
    moved = np.asarray(solver.flows(np.arange(len(owner)))) > 0
    found = np.full(rows, -1, dtype=np.int64)
    found[owner[moved]] = place[moved]
    return found


def prices(cell: Cell, found: Assignment, arcs: Bools | None = None) -> tuple[float, Floats]:
    """Duals of an optimal assignment: what one participant more would cost, and what each open site's room is worth.

    An owner that is not chosen costs at least `worth - 0` everywhere: `cost + room >= worth`; a chosen one stands
    where `cost + room` is least. Room is worth nothing where there is some left, and less than nothing where a site
    has no more children than it must.

    Args:
        arcs: [M, open sites], the pairs that the assignment could use; all finite ones when it is left out.

    Returns:
        The worth, and the price of room [A]; 0 at closed sites.
    """
    opened = list(found.opened)
    size = len(opened)
    out, sink = size, size + 1
    weight = np.full((size + 2, size + 2), np.inf)
    cost = cell.cost[:, opened] if arcs is None else np.where(arcs, cell.cost[:, opened], np.inf)
    free = found.site < 0
    if free.any():
        weight[out, :size] = cost[free].min(axis=0)
    for index, site in enumerate(opened):
        here = np.flatnonzero(found.site == site)
        own = cell.cost[here, site]
        weight[index, :size] = (cost[here] - own[:, None]).min(axis=0)
        weight[index, index] = np.inf
        leaving = own[~cell.mandatory[here]]
        if leaving.size:
            weight[index, out] = -leaving.max()
        weight[index, sink] = 0.0 if len(here) < cell.capacity[site] else np.inf
        weight[sink, index] = 0.0 if len(here) > cell.children_min else np.inf
    reach = np.zeros(size + 2)
    for _ in range(size + 2):
        nearer = np.minimum(reach, (reach[:, None] + weight).min(axis=0))
        if np.array_equal(nearer, reach):
            break
        reach = nearer
    room = np.zeros(cell.cost.shape[1])
    room[opened] = reach[sink] - reach[:size]
    return float(reach[sink] - reach[out]), room
