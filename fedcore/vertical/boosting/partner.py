"""A partner's part in growing boosted trees; see the package for messages and for who learns what."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel
from crypto.errors import ProtocolError
from fedcore.jobs.vertical import Boosting
from fedcore.vertical.boosting import goss, messages
from fedcore.vertical.boosting.candidates import (
    IN_LARGE,
    IN_SMALL,
    Candidates,
    candidates,
    places_by_candidate,
)
from fedcore.vertical.boosting.encrypted import Answerer
from fedcore.vertical.boosting.ensemble import PartnerSplit, PartnerSplits
from fedcore.vertical.boosting.histograms import Binned, Flags, binned, check_enough, counts
from fedcore.vertical.boosting.nodes import Node, Pair, children, next_pairs, roots, searched

Watch = Callable[[str, int, int], None]


def grow_partner(
    channel: Channel,
    columns: Sequence[npt.NDArray[Any]],
    bins: Sequence[int],
    settings: Boosting,
    watch: Watch = lambda phase, done, of: None,
) -> PartnerSplits:
    """Help the label holder to grow trees.

    Args:
        channel: To the label holder.
        columns: Codes on the training rows, each (n,), at least one column.
        bins: How many codes each column may have.
        settings: Of the job.
        watch: Told (`trees`, done, of) after each round.

    Returns:
        The partner's half of the ensemble.

    Raises:
        DataError: The columns cannot serve, or no split leaves `min_leaf` rows; before anything is sent.
        ProtocolError: The sides differ in settings or rows, or a message is not what it must be.
        PeerLost: The label holder went away.
    """
    own = binned(columns, bins)
    taken = sum(goss.sizes(settings.goss, own.rows))
    check_enough(taken, settings.min_leaf)
    messages.agree(channel, "partner", settings, own.rows)
    trees = channel.recv("boost.classes", size=1)[0]
    if trees == 0 or (trees > 1 and settings.loss != "multiclass"):
        raise ProtocolError(f"{trees} trees in a round of loss: {settings.loss}", step="boost.classes")
    answerer = Answerer(channel, own, taken)
    splits: list[PartnerSplit] = []
    for number in range(settings.trees):
        if number >= settings.own_first:
            chosen = (
                np.ones(own.rows, dtype=bool)
                if settings.goss is None
                else messages.recv_chosen(channel, own.rows, taken)
            )
            _Round(answerer, own, chosen, settings, splits).grow(trees)
        watch("trees", number + 1, settings.trees)
    return PartnerSplits(own.bins, tuple(splits))


class _Round:
    """The trees of one round, a level at a time.

    Args:
        answerer: To the label holder.
        own: The partner's columns.
        chosen: Rows that sums are over.
        settings: Of the job.
        splits: Grows with each split that is won.
    """

    def __init__(
        self, answerer: Answerer, own: Binned, chosen: Flags, settings: Boosting, splits: list[PartnerSplit]
    ) -> None:
        self._answerer, self._channel, self._own = answerer, answerer.channel, own
        self._chosen, self._settings, self._splits = chosen, settings, splits
        # Of a tree's node: the nearest own split above it, and whether it is on the left of that.
        self._under: dict[tuple[int, int], tuple[int, bool]] = {}
        self._made: list[int] = []

    def grow(self, trees: int) -> None:
        """Answer until nothing can be split."""
        settings = self._settings
        self._made = [1] * trees
        pairs = roots(trees, self._chosen)
        above: list[tuple[Candidates, bool]] = []
        for level in range(settings.depth):
            if not pairs:
                break
            found = self._candidates(pairs, above)
            messages.send_places(self._channel, found)
            self._answerer.answer([pair.small for pair in pairs], [each.places for each in found])
            above = [
                (each, side)
                for pair, each in zip(pairs, found, strict=True)
                for side in (True, False)[: 1 if pair.large is None else 2]
            ]
            families = self._split(searched(pairs), above)
            pairs = next_pairs(families, settings.min_leaf) if level + 1 < settings.depth else []

    def _candidates(
        self, pairs: Sequence[Pair], above: Sequence[tuple[Candidates, bool]]
    ) -> list[Candidates]:
        settings, found = self._settings, []
        for pair in pairs:
            small = counts(self._own, pair.small.chosen)
            if pair.large is None:
                codes = np.arange(self._own.width)
                inside = codes < np.array(self._own.bins)[:, None] - 1
                parent, large = np.where(inside, 0, -1).astype(np.int32), np.zeros_like(small)
            else:
                there, is_small = above[pair.parent]
                parent = places_by_candidate(there)
                large = (there.small if is_small else there.large) - small
            each = candidates(small, large, parent, settings.min_bin, settings.min_leaf)
            found.append(each)
        return found

    def _split(
        self, nodes: Sequence[Node], above: Sequence[tuple[Candidates, bool]]
    ) -> list[tuple[int, Node, Node]]:
        """Hear what becomes of each node, tell the sides of those won here, and make the children."""
        usable = [(found.usable & (IN_SMALL if is_small else IN_LARGE)) != 0 for found, is_small in above]
        choice = messages.recv_choice(self._channel, nodes, usable).tolist()
        sides: dict[int, Flags] = {}
        self._hear(nodes, choice, messages.TOLD, "boost.told", sides)
        won: dict[int, int] = {}
        names: list[bytes] = []
        for at, (node, place) in enumerate(zip(nodes, choice, strict=True)):
            if place >= 0:
                column, code = above[at][0].places[place].tolist()
                under, left = self._under.get((node.tree, node.number), (-1, False))
                names.append(secrets.token_bytes(messages.NAME))
                won[at] = len(self._splits)
                self._splits.append(PartnerSplit(names[-1].hex(), column, code, under, left))
                sides[at] = self._own.codes[column][node.rows] <= code
        if won:
            messages.send_splits(self._channel, names, [sides[at] for at in won])
        self._hear(nodes, choice, messages.RELAYED, "boost.relay", sides)
        families = []
        for at in sorted(sides):
            node = nodes[at]
            first, self._made[node.tree] = self._made[node.tree], self._made[node.tree] + 2
            made = children(node, sides[at], first, self._chosen)
            self._follow(node, made, won.get(at))
            families.append((at, *made))
        return families

    def _hear(
        self, nodes: Sequence[Node], choice: Sequence[int], kind: int, step: str, sides: dict[int, Flags]
    ) -> None:
        """Sides of the nodes that others split."""
        others = [at for at, place in enumerate(choice) if place == kind]
        if not others:
            return
        heard = messages.recv_sides(self._channel, step, [len(nodes[at].rows) for at in others])
        for at, left in zip(others, heard, strict=True):
            picked = int(left[self._chosen[nodes[at].rows]].sum())
            fewer = min(picked, len(nodes[at].chosen) - picked)
            if fewer < self._settings.min_leaf:
                raise ProtocolError(
                    f"a split of another party leaves {fewer} rows on one side; the job's min_leaf is "
                    f"{self._settings.min_leaf}. It is refused, for sums over few rows tell about single ones",
                    step=step,
                )
            sides[at] = left

    def _follow(self, node: Node, made: tuple[Node, Node], split: int | None) -> None:
        above = self._under.get((node.tree, node.number))
        for child, left in zip(made, (True, False), strict=True):
            if split is not None:
                self._under[child.tree, child.number] = split, left
            elif above is not None:
                self._under[child.tree, child.number] = above
