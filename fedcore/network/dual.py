"""A bound below a cell: the rule that an owner stands at one site at most is priced instead of kept.

Without that rule every site picks its cheapest owners for itself, within its room and its fewest children, or stays
closed; the prices are raised where an owner is picked twice. The bound is that of the strong linear relaxation, in
which a part of an owner needs the same part of its site (Geoffrion 1974, Lagrangean relaxation for integer
programming); the prices begin at the duals of the flow and follow the subgradient with Polyak's step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedcore.network.cell import Cell
from fedcore.network.flow import Assignment, prices
from fedcore.network.problem import Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Dual:
    """Prices and the bound that they prove.

    Args:
        bound: Below the cell's objective without time.
        owner: [M], price of picking an owner; not negative where the owner may stay out.
        worth: Of one participant more.
    """

    bound: float
    owner: Floats
    worth: float


def from_flow(cell: Cell, found: Assignment) -> tuple[Floats, float]:
    """Prices at which the owners of an assignment pay for their sites' opening, which are near the best ones."""
    worth, room = prices(cell, found)
    at = np.flatnonzero(found.site >= 0)
    site = found.site[at]
    children = np.bincount(site, minlength=cell.cost.shape[1])
    share = cell.open_cost / np.maximum(children, 1)
    owner = np.zeros(len(cell.rows))
    owner[at] = worth - cell.cost[at, site] - room[site] - share[site]
    return np.where(cell.mandatory, owner, np.maximum(owner, 0.0)), worth


def ascend(
    cell: Cell, owner: Floats, worth: float, goal: float, steps: int = 150, patience: int = 12
) -> Dual:
    """Raise the bound until it reaches a goal, or as far as the steps go.

    Args:
        owner, worth: Where to begin.
        goal: A bound that is enough; also what Polyak's step aims at.
        steps: At most.
        patience: Steps without a better bound after which the steps are halved.
    """
    least = fewest_sites(cell)
    best = Dual(-np.inf, owner, worth)
    factor, stale = 1.0, 0
    aim = goal
    for _ in range(steps):
        bound, picked, chosen = relaxed(cell, owner, worth, least)
        if bound > best.bound + 1e-9 * abs(bound):
            best, stale = Dual(bound, owner.copy(), worth), 0
        else:
            stale += 1
            if stale >= patience:
                factor, stale = factor / 2, 0
                owner, worth = best.owner.copy(), best.worth
                continue
        if best.bound >= goal or factor < 1e-3:
            break
        slope = picked - 1.0
        slope[(owner <= 0) & (slope < 0) & ~cell.mandatory] = 0.0
        missing = cell.pick - chosen
        norm = float((slope**2).sum() + missing**2)
        if norm == 0:
            break
        step = factor * max(aim - bound, 1e-6 * abs(bound)) / norm
        owner = owner + step * slope
        owner = np.where(cell.mandatory, owner, np.maximum(owner, 0.0))
        worth += step * missing
    return best


def relaxed(cell: Cell, owner: Floats, worth: float, least: int) -> tuple[float, Floats, int]:
    """The bound at these prices, how often each owner is picked, and how many picks there are."""
    reduced = cell.cost + (owner - worth)[:, None]
    value, taken = best_sites(cell, reduced)
    opened = np.zeros(len(value), dtype=np.bool_)
    order = np.argsort(value, kind="stable")
    opened[order[:least]] = True
    opened |= value < 0
    if opened.sum() > cell.most_open:
        opened[:] = False
        opened[order[: cell.most_open]] = True
    bound = worth * cell.pick - float(owner.sum()) + float(value[opened].sum())
    picked = taken[:, opened].sum(axis=1).astype(np.float64)
    return bound, picked, int(picked.sum())


def best_sites(cell: Cell, reduced: Floats) -> tuple[Floats, Bools]:
    """What opening each site alone is worth [A], and the owners that it then picks [M, A]."""
    taken: Bools = reduced < 0
    count = taken.sum(axis=0)
    value = np.where(taken, reduced, 0.0).sum(axis=0) + cell.open_cost
    for site in np.flatnonzero((count > cell.capacity) | (count < cell.children_min)):
        if not cell.usable[site]:
            continue
        number = int(cell.capacity[site] if count[site] > cell.capacity[site] else cell.children_min)
        rows = np.argpartition(reduced[:, site], number - 1)[:number]
        taken[:, site] = False
        taken[rows, site] = True
        value[site] = reduced[rows, site].sum() + cell.open_cost[site]
    value[~cell.usable] = np.inf
    return value, taken


def fewest_sites(cell: Cell) -> int:
    """So many sites must be open for everybody to have room."""
    room = np.sort(cell.capacity[cell.usable])[::-1].cumsum()
    return int(np.searchsorted(room, cell.pick) + 1)


def worthwhile(cell: Cell, dual: Dual, limit: float) -> tuple[Bools, Ints]:
    """Pairs and sites that can be in an assignment of at most this value; all others are ruled out by the prices.

    Returns:
        [M, A] of bool, and -1 for a site that must be closed, 1 for one that must be open, 0 for one that may be either.
    """
    reduced = cell.cost + (dual.owner - dual.worth)[:, None]
    value, taken = best_sites(cell, reduced)
    slack = limit - dual.bound
    # A site that the bound leaves closed costs what it is worth; only when the fewest sites say so is that in the bound.
    least = fewest_sites(cell)
    must = np.zeros(len(value), dtype=np.int64)
    if (value < 0).sum() >= least and (value < 0).sum() <= cell.most_open:
        must[value > slack + 1e-9] = -1
        must[value < -slack - 1e-9] = 1
    must[~cell.usable] = -1
    count = taken.sum(axis=0)
    full = count >= cell.capacity
    under = count <= cell.children_min
    edge = np.where(taken, reduced, -np.inf).max(axis=0)
    extra = reduced - np.where(full | (under & (edge > 0)), edge, 0.0)
    site_cost = np.where(must == -1, np.inf, np.maximum(value, 0.0) if (value < 0).sum() >= least else 0.0)
    pairs = np.isfinite(cell.cost) & (np.maximum(extra, 0.0) + site_cost <= slack + 1e-9)
    pairs[taken & np.isfinite(cell.cost) & (must != -1)] = True
    return pairs, must
