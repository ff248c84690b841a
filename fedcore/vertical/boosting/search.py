"""The label holder's search for splits: its own columns and the partners' places alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.jobs.vertical import Boosting
from fedcore.vertical.boosting.ensemble import OWN
from fedcore.vertical.boosting.histograms import Binned, Flags, Floats, Ints, gains, histogram
from fedcore.vertical.boosting.nodes import Pair

_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Totals:
    """What is known of a node.

    Args:
        whole: Sums of g and h, (2,), in units.
        own: Sums and rows for each code of the own columns, (columns, width, 3).
        places: Of each partner: sums for each place, (places, 2).
        usable: Of each partner: whether a place can be chosen, (places,).
    """

    whole: Ints
    own: Ints
    places: tuple[Ints, ...]
    usable: tuple[Flags, ...]


@dataclass(frozen=True, eq=False)
class Split:
    """The best split of a node.

    Args:
        gain: Of the objective.
        owner: 0 the label holder, j the j-th partner.
        column, code: Of the label holder; -1 elsewhere.
        place: Of a partner; -1 elsewhere.
        left: Sums of g and h over the left rows, in units.
    """

    gain: float
    owner: int
    column: int
    code: int
    place: int
    left: Ints


def own_totals(
    pairs: Sequence[Pair], above: Sequence[Totals], columns: Binned, values: Sequence[Ints]
) -> list[tuple[Ints, Ints]]:
    """`whole` and `own` of each node of a level.

    Args:
        pairs: Of the level.
        above: Of the level above.
        columns: Of the label holder.
        values: Of each tree: g and h of all rows, (n, 2).
    """
    found = []
    for pair in pairs:
        of_small = values[pair.small.tree][pair.small.chosen]
        whole, own = of_small.sum(axis=0), histogram(columns, pair.small.chosen, of_small)
        found.append((whole, own))
        if pair.large is not None:
            parent = above[pair.parent]
            found.append((parent.whole - whole, parent.own - own))
    return found


def best_split(totals: Totals, columns: Binned, settings: Boosting, units: Floats) -> Split | None:
    """The split with the largest gain; None when none is allowed or none gains more than `min_gain`.

    Of equal gains the own columns come before the partners', and the lower code before the higher; among the places of a
    partner chance decides, for they are shuffled.

    Args:
        totals: Of the node.
        columns: Of the label holder.
        settings: Of the job.
        units: Value of 1 of g and of h, (2,).
    """
    whole = totals.whole * units
    score = 0.5 * whole[0] ** 2 / max(whole[1] + settings.l2, np.finfo(float).tiny)
    best, least = None, settings.min_gain + _ROUNDING * score
    if columns.codes:
        lefts = totals.own.cumsum(axis=1)
        rights = lefts[:, -1:, 2] - lefts[:, :, 2]
        allowed = (lefts[:, :, 2] >= settings.min_leaf) & (rights >= settings.min_leaf)
        at = np.argwhere(allowed)
        if len(at):
            sums = lefts[at[:, 0], at[:, 1], :2]
            found = gains(sums * units, whole, settings.l2)
            first = int(found.argmax())
            if found[first] > least:
                best, least = (
                    Split(float(found[first]), OWN, int(at[first, 0]), int(at[first, 1]), -1, sums[first]),
                    float(found[first]),
                )
    for owner, (sums, usable) in enumerate(zip(totals.places, totals.usable, strict=True), start=1):
        if not usable.any():
            continue
        found = np.where(usable, gains(sums * units, whole, settings.l2), -np.inf)
        first = int(found.argmax())
        if found[first] > least:
            best, least = Split(float(found[first]), owner, -1, -1, first, sums[first]), float(found[first])
    return best
