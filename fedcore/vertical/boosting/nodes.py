"""Nodes of a level and their rows, which all parties follow alike.

Siblings are a pair, for the sums of the larger are those of the parent less those of the smaller (Ke et al.,
"LightGBM", NIPS 2017, and the histogram subtraction of SecureBoost+). A root is a pair of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.vertical.boosting.histograms import Flags, Rows


@dataclass(frozen=True, eq=False)
class Node:
    """Rows of one tree that came to one place.

    Args:
        tree: Of the round, which is the class.
        number: In the tree, from 0, the root, in the order of making.
        rows: All training rows, ascending.
        chosen: Those that sums are over; the same unless GOSS drew some.
    """

    tree: int
    number: int
    rows: Rows
    chosen: Rows


@dataclass(frozen=True, eq=False)
class Pair:
    """Siblings whose splits are looked for, or a root.

    Args:
        small: The one with fewer chosen rows; of equals the left.
        large: The other; None beside a root.
        parent: Its place in `searched` of the level above; -1 for a root.
    """

    small: Node
    large: Node | None
    parent: int


def roots(trees: int, chosen: Flags) -> list[Pair]:
    """The first level of a round.

    Args:
        trees: Of the round.
        chosen: Of each training row, (n,).
    """
    rows = np.arange(len(chosen))
    picked = rows if chosen.all() else np.flatnonzero(chosen)
    return [Pair(Node(tree, 0, rows, picked), None, -1) for tree in range(trees)]


def searched(pairs: Iterable[Pair]) -> list[Node]:
    """Nodes of a level in the order in which all messages have them."""
    return [node for pair in pairs for node in (pair.small, pair.large) if node is not None]


def children(node: Node, left: Flags, number: int, chosen: Flags) -> tuple[Node, Node]:
    """The left and the right child.

    Args:
        node: That is split.
        left: Of each of its rows.
        number: Of the left child; the right has the next.
        chosen: Of each training row.
    """
    found = []
    for step, side in enumerate((left, ~left)):
        rows = node.rows[side]
        picked = rows if node.chosen is node.rows else rows[chosen[rows]]
        found.append(Node(node.tree, number + step, rows, picked))
    return found[0], found[1]


def next_pairs(families: Sequence[tuple[int, Node, Node]], min_leaf: int) -> list[Pair]:
    """Pairs of which at least the larger can be split again.

    Args:
        families: Place of the parent among the level's nodes, left and right child; in that order.
        min_leaf: Least rows of a leaf.
    """
    found = []
    for parent, left, right in families:
        small, large = (left, right) if len(left.chosen) <= len(right.chosen) else (right, left)
        if len(large.chosen) >= 2 * min_leaf:
            found.append(Pair(small, large, parent))
    return found
