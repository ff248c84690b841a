"""The label holder's part in growing boosted trees; see the package for messages and for who learns what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel
from crypto.errors import ProtocolError
from fedcore.jobs.vertical import Boosting
from fedcore.vertical.boosting import goss, messages
from fedcore.vertical.boosting.candidates import IN_LARGE, IN_SMALL
from fedcore.vertical.boosting.encrypted import LARGEST, Asker
from fedcore.vertical.boosting.ensemble import OWN, Ensemble, Growing, Tree
from fedcore.vertical.boosting.histograms import Binned, Flags, Floats, Ints, binned, check_enough
from fedcore.vertical.boosting.losses import checked_labels, class_count, gradients, start, whole_numbers
from fedcore.vertical.boosting.nodes import Node, Pair, children, next_pairs, roots, searched
from fedcore.vertical.boosting.search import Split, Totals, best_split, own_totals

Watch = Callable[[str, int, int], None]


def grow_label_holder(
    channels: Sequence[Channel],
    columns: Sequence[npt.NDArray[Any]],
    bins: Sequence[int],
    y: npt.ArrayLike,
    settings: Boosting,
    seed: int,
    watch: Watch = lambda phase, done, of: None,
) -> Ensemble:
    """Grow trees together with the partners.

    Args:
        channels: To each partner.
        columns: Codes of the own columns on the training rows, each (n,); none is allowed.
        bins: How many codes each column may have.
        y: Labels, (n,); see `losses.checked_labels`.
        settings: Of the job.
        seed: Of the rows that GOSS draws and of rounding. Two runs with one seed give the same trees but where places of
            a partner gain exactly the same.
        watch: Told (`trees`, done, of) after each round.

    Returns:
        The label holder's half of the ensemble.

    Raises:
        DataError: The labels or columns cannot serve, or no split leaves `min_leaf` rows; before anything is sent.
        ProtocolError: The sides differ in settings or rows, or a message is not what it must be.
        PeerLost: A partner went away.

    Source:
        Cheng, Fan, Jin, Liu, Chen, Papadopoulos and Yang, "SecureBoost", IEEE Intelligent Systems 2021, arXiv
        1901.08755, algorithms 1 and 2.
    """
    labels = checked_labels(settings.loss, y)
    own = binned(columns, bins, len(labels))
    taken = sum(goss.sizes(settings.goss, own.rows))
    check_enough(taken, settings.min_leaf)
    classes = class_count(settings.loss, labels)
    for channel in channels:
        messages.agree(channel, "label holder", settings, own.rows)
        channel.send("boost.classes", bytes([classes]))
    askers = [Asker(channel, taken) for channel in channels]
    random = goss.generator(seed, labels)
    base = start(settings.loss, labels)
    margins = np.tile(base, (own.rows, 1))
    rounds = []
    for number in range(settings.trees):
        g, h = gradients(settings.loss, labels, margins)
        chosen, weights = goss.draw(settings.goss, g, random)
        helpers = askers if number >= settings.own_first else []
        if settings.goss is not None:
            for asker in helpers:
                messages.send_chosen(asker.channel, chosen)
        growth = _Round(helpers, own, g * weights[:, None], h * weights[:, None], chosen, settings, random)
        growth.grow()
        rounds.append(growth.finish(margins))
        watch("trees", number + 1, settings.trees)
    return Ensemble(settings.loss, tuple(base.tolist()), len(channels), own.bins, tuple(rounds))


@dataclass(frozen=True, eq=False)
class _Chosen:
    """A node that is split."""

    place: int
    node: Node
    split: Split


class _Round:
    """The trees of one round, a level at a time.

    Args:
        askers: Of the partners that take part; none in a round of the label holder alone.
        own: The label holder's columns.
        g, h: Weighted derivatives, (n, trees).
        chosen: Rows that sums are over.
        settings: Of the job.
        random: What numbers are rounded with.
    """

    def __init__(
        self,
        askers: Sequence[Asker],
        own: Binned,
        g: Floats,
        h: Floats,
        chosen: Flags,
        settings: Boosting,
        random: np.random.Generator,
    ) -> None:
        self._askers, self._own, self._g, self._h = askers, own, g, h
        self._chosen, self._settings = chosen, settings
        trees = g.shape[1]
        limit = askers[0].limit if askers else LARGEST
        self._values: list[Ints] = []
        self._units: list[Floats] = []
        for tree in range(trees):
            whole_g, unit_g = whole_numbers(g[:, tree], limit, random)
            whole_h, unit_h = whole_numbers(h[:, tree], limit, random)
            self._values.append(np.stack([whole_g, whole_h], axis=1))
            self._units.append(np.array([unit_g, unit_h]))
        self._trees = [Growing(own.rows) for _ in range(trees)]
        self._leaves: list[dict[int, Node]] = [{} for _ in range(trees)]

    def grow(self) -> None:
        """Split until nothing can be split."""
        settings = self._settings
        pairs = roots(len(self._trees), self._chosen)
        for pair in pairs:
            self._leaves[pair.small.tree][0] = pair.small
        above: list[Totals] = []
        for level in range(settings.depth):
            if not pairs:
                break
            above = self._totals(pairs, above)
            nodes = searched(pairs)
            found = []
            for place, (node, totals) in enumerate(zip(nodes, above, strict=True)):
                split = best_split(totals, self._own, settings, self._units[node.tree])
                if split is not None:
                    found.append(_Chosen(place, node, split))
            families = self._split(found, len(nodes))
            pairs = next_pairs(families, settings.min_leaf) if level + 1 < settings.depth else []

    def _totals(self, pairs: Sequence[Pair], above: Sequence[Totals]) -> list[Totals]:
        """What is known of each node of a level: own sums, and those of every partner's places."""
        # Partners work beside each other; the label holder adds its own rows meanwhile.
        with ThreadPoolExecutor(max(1, len(self._askers))) as pool:
            running = [pool.submit(self._ask, number, pairs, above) for number in range(len(self._askers))]
            own = own_totals(pairs, above, self._own, self._values)
            told = [each.result() for each in running]
        return [
            Totals(whole, sums, tuple(of[node][0] for of in told), tuple(of[node][1] for of in told))
            for node, (whole, sums) in enumerate(own)
        ]

    def _ask(self, number: int, pairs: Sequence[Pair], above: Sequence[Totals]) -> list[tuple[Ints, Flags]]:
        """Of each node of a level: sums of a partner's places, and which can be chosen there."""
        asker = self._askers[number]
        told = messages.recv_places(asker.channel, pairs, [len(each.places[number]) for each in above])
        smalls = asker.ask([pair.small for pair in pairs], self._values, [len(origin) for origin, _ in told])
        found = []
        for pair, small, (origin, use) in zip(pairs, smalls, told, strict=True):
            found.append((small, (use & IN_SMALL) != 0))
            if pair.large is not None:
                parent = above[pair.parent].places[number]
                found.append((parent[origin] - small, (use & IN_LARGE) != 0))
        return found

    def _split(self, found: Sequence[_Chosen], nodes: int) -> list[tuple[int, Node, Node]]:
        """Tell everybody, hear the winners' sides, and make the children."""
        sides: dict[int, Flags] = {}
        for each in found:
            if each.split.owner == OWN:
                sides[each.place] = self._own.codes[each.split.column][each.node.rows] <= each.split.code
        told = [sides[each.place] for each in found if each.split.owner == OWN]
        for number, asker in enumerate(self._askers, start=1):
            choice = np.full(nodes, messages.LEAF, dtype=np.int32)
            for each in found:
                owner = each.split.owner
                choice[each.place] = (
                    each.split.place
                    if owner == number
                    else messages.TOLD
                    if owner == OWN
                    else messages.RELAYED
                )
            messages.send_choice(asker.channel, choice)
            if told:
                messages.send_sides(asker.channel, "boost.told", told)
        names: dict[int, str] = {}
        for number, asker in enumerate(self._askers, start=1):
            won = [each for each in found if each.split.owner == number]
            if won:
                heard = messages.recv_splits(asker.channel, [len(each.node.rows) for each in won])
                for each, (name, left) in zip(won, heard, strict=True):
                    self._check(each, left)
                    names[each.place], sides[each.place] = name, left
        for number, asker in enumerate(self._askers, start=1):
            relayed = [sides[each.place] for each in found if each.split.owner not in (OWN, number)]
            if relayed:
                messages.send_sides(asker.channel, "boost.relay", relayed)
        return [
            (each.place, *self._children(each, sides[each.place], names.get(each.place, "")))
            for each in found
        ]

    def _check(self, each: _Chosen, left: Flags) -> None:
        """Refuse sides whose sums are not those that the place had."""
        rows = each.node.rows[left]
        rows = rows[self._chosen[rows]]
        fewer = min(len(rows), len(each.node.chosen) - len(rows))
        sums = self._values[each.node.tree][rows].sum(axis=0)
        if fewer < self._settings.min_leaf or not np.array_equal(sums, each.split.left):
            raise ProtocolError(
                "the sides of a node's rows do not have the sums of the split that was asked for; the message is "
                "damaged or the partner does not follow the protocol. Run it again, and report it when it happens again",
                step="boost.split",
            )

    def _children(self, each: _Chosen, left: Flags, name: str) -> tuple[Node, Node]:
        split, node = each.split, each.node
        sizes = int(left.sum()), int(len(left) - left.sum())
        first = self._trees[node.tree].split(
            node.number, sizes, split.gain, owner=split.owner, column=split.column, code=split.code, name=name
        )
        made = children(node, left, first, self._chosen)
        leaves = self._leaves[node.tree]
        del leaves[node.number]
        for child in made:
            leaves[child.number] = child
        return made

    def finish(self, margins: Floats) -> tuple[Tree, ...]:
        """Weigh the leaves with exact sums, and add them to the margins, (n, trees), of all rows.

        Returns:
            The trees.
        """
        settings = self._settings
        for tree, leaves in enumerate(self._leaves):
            for number, node in leaves.items():
                g = float(self._g[node.chosen, tree].sum())
                h = float(self._h[node.chosen, tree].sum()) + settings.l2
                value = -settings.lr * g / h if h > 0 else 0.0
                self._trees[tree].weigh(number, value)
                margins[node.rows, tree] += value
        return tuple(each.done() for each in self._trees)
