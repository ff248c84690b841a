"""Grown trees: what the label holder keeps, and what a partner keeps, each as JSON both ways.

Neither half says anything without the other: the label holder has the shape of the trees, its own splits and the
leaf weights; of a partner's split it has a random name. The partner has column and bin to each name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from fedcore.vertical.boosting.losses import Loss
from fedcore.vertical.record import Record

LEAF, OWN = -1, 0


@dataclass(frozen=True)
class Tree(Record):
    """One tree by node, the root first; every list has an entry for each node.

    Args:
        owner: Who splits it: -1 nobody (a leaf), 0 the label holder, j its j-th partner.
        column: Of the label holder, by number; -1 elsewhere.
        code: Rows of a code up to it go left; -1 elsewhere.
        split: Name of a partner's split; empty elsewhere.
        left, right: Nodes; -1 at a leaf.
        value: Weight of a leaf, the learning rate in it; 0 elsewhere.
        gain: Of the split; 0 at a leaf.
        rows: Training rows of the node.
    """

    owner: tuple[int, ...]
    column: tuple[int, ...]
    code: tuple[int, ...]
    split: tuple[str, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]
    gain: tuple[float, ...]
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.owner)


@dataclass(frozen=True)
class Ensemble(Record):
    """The label holder's half.

    Args:
        loss: That was lowered.
        base: Margin before the first tree, for each class.
        partners: How many there are.
        bins: Of the label holder's columns.
        rounds: Trees of each round, one for each class.
    """

    loss: Loss
    base: tuple[float, ...]
    partners: int
    bins: tuple[int, ...]
    rounds: tuple[tuple[Tree, ...], ...]

    @property
    def classes(self) -> int:
        """Margins of a row."""
        return len(self.base)

    def splits_of(self, partner: int) -> list[str]:
        """Names of a partner's splits, ascending.

        Args:
            partner: From 1.
        """
        return sorted(
            name
            for trees in self.rounds
            for tree in trees
            for owner, name in zip(tree.owner, tree.split, strict=True)
            if owner == partner
        )

    def importance(self) -> tuple[dict[int, tuple[int, float]], dict[int, tuple[int, float]]]:
        """Splits and their gain: of the label holder's columns by number, and of the partners by number from 1."""
        own: dict[int, tuple[int, float]] = {}
        partners: dict[int, tuple[int, float]] = {}
        for trees in self.rounds:
            for tree in trees:
                for owner, column, gain in zip(tree.owner, tree.column, tree.gain, strict=True):
                    if owner == LEAF:
                        continue
                    table, key = (own, column) if owner == OWN else (partners, owner)
                    splits, total = table.get(key, (0, 0.0))
                    table[key] = (splits + 1, total + gain)
        return own, partners


@dataclass(frozen=True)
class PartnerSplit(Record):
    """A split of a partner's column.

    Args:
        name: 16 random hexadecimal digits, under which the label holder knows it.
        column: By number.
        code: Rows of a code up to it go left.
        under: Place, among the partner's splits, of the nearest one above it in the same tree; -1 when there is none.
        left: Whether it is on the left of that.
    """

    name: str = field(repr=False)
    column: int = field(repr=False)
    code: int = field(repr=False)
    under: int = field(repr=False)
    left: bool = field(repr=False)


@dataclass(frozen=True)
class PartnerSplits(Record):
    """A partner's half.

    Args:
        bins: Of its columns.
        splits: In the order of making.
    """

    bins: tuple[int, ...]
    splits: tuple[PartnerSplit, ...]

    def importance(self) -> dict[int, int]:
        """Number of splits by column."""
        found: dict[int, int] = {}
        for split in self.splits:
            found[split.column] = found.get(split.column, 0) + 1
        return found


def fingerprint(names: Iterable[str]) -> bytes:
    """16 bytes that the two halves of one training have in common."""
    return hashlib.sha256(b"fedcore boosting" + "".join(sorted(names)).encode("ascii")).digest()[:16]


class Growing:
    """A tree while it grows."""

    def __init__(self, rows: int) -> None:
        self._nodes: list[list[object]] = []
        self._leaf(rows)

    def _leaf(self, rows: int) -> None:
        self._nodes.append([LEAF, -1, -1, "", -1, -1, 0.0, 0.0, rows])

    def split(
        self,
        node: int,
        rows: tuple[int, int],
        gain: float,
        *,
        owner: int,
        column: int = -1,
        code: int = -1,
        name: str = "",
    ) -> int:
        """Give a leaf two children; the number of the left one."""
        first = len(self._nodes)
        self._nodes[node][:8] = [owner, column, code, name, first, first + 1, 0.0, gain]
        for each in rows:
            self._leaf(each)
        return first

    def weigh(self, node: int, value: float) -> None:
        """Set a leaf's weight."""
        self._nodes[node][6] = value

    def done(self) -> Tree:
        """The tree."""
        return Tree(*map(tuple, zip(*self._nodes, strict=True)))
