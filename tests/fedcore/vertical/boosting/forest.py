"""Parties of a boosted ensemble in threads, and the same algorithm in plain loops over pooled columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedcore.jobs.vertical import Boosting
from fedcore.vertical.boosting import goss
from fedcore.vertical.boosting.encrypted import LARGEST, sum_limit
from fedcore.vertical.boosting.ensemble import Ensemble, PartnerSplits, Tree
from fedcore.vertical.boosting.label_holder import grow_label_holder
from fedcore.vertical.boosting.losses import whole_numbers
from fedcore.vertical.boosting.partner import grow_partner
from fedcore.vertical.boosting.predict import predict_label_holder, predict_partner
from tests.fedcore.vertical.two_parties import meet, ok

ROWS, BINS, SEED = 700, 7, 5
Columns = list[Any]
Wrap = Callable[[Any], Any]


def settings(**changed: Any) -> Boosting:
    return Boosting(**{"use": "boosting", "trees": 3, "depth": 3, "lr": 0.3, "min_leaf": 12, **changed})


def table(rows: int = ROWS, columns: int = 6, bins: int = BINS, seed: int = 1) -> tuple[Columns, Any]:
    """Codes that are not equally frequent, and a score that depends on several of them."""
    draw = np.random.default_rng(seed)
    codes = [np.minimum(draw.poisson(1.2 + 0.3 * i, rows), bins - 1).astype(np.uint8) for i in range(columns)]
    score = codes[0] * 0.8 - codes[1] * (codes[2] > 1) + 0.7 * (codes[3] > 2) + 0.3 * codes[columns - 1]
    return codes, score + draw.normal(size=rows)


def labels(loss: str, score: Any) -> Any:
    if loss == "regression":
        return 12.5 * score + 40
    edges = np.quantile(score, [0.7] if loss == "binary" else [0.3, 0.75])
    return np.searchsorted(edges, score).astype(np.float64)


def widths(columns: Columns, bins: int = BINS) -> list[int]:
    return [bins] * len(columns)


def same(channel: Any) -> Any:
    return channel


def grow(
    own: Columns,
    partners: Sequence[Columns],
    y: Any,
    chosen: Boosting,
    *,
    seed: int = SEED,
    wrap: Wrap = same,
) -> tuple[Any, list[Any]]:
    """Both sides' results, or their errors; `wrap` stands between the last partner and its channel."""
    last = len(partners) - 1

    def role(number: int) -> Callable[[Any], Any]:
        columns = partners[number]
        return lambda channel: grow_partner(
            wrap(channel) if number == last else channel, columns, widths(columns), chosen
        )

    holder, others = meet(
        lambda channels: grow_label_holder(channels, own, widths(own), y, chosen, seed),
        {f"partner {number}": role(number) for number in range(len(partners))},
    )
    return holder, [others[f"partner {number}"] for number in range(len(partners))]


def grown(
    own: Columns, partners: Sequence[Columns], y: Any, chosen: Boosting, seed: int = SEED
) -> tuple[Ensemble, list[PartnerSplits]]:
    holder, others = grow(own, partners, y, chosen, seed=seed)
    return ok(holder), [ok(each) for each in others]


def predicted(ensemble: Any, halves: Sequence[Any], own: Columns, partners: Sequence[Columns]) -> Any:
    """The label holder's margins, or its error."""
    names = [f"partner {number}" for number in range(len(partners))]
    rows = len(partners[0][0]) if partners else None

    def role(half: Any, columns: Columns) -> Callable[[Any], Any]:
        return lambda channel: predict_partner(channel, half, columns)

    holder, _ = meet(
        lambda channels: predict_label_holder(channels, ensemble, own, rows),
        {name: role(half, columns) for name, half, columns in zip(names, halves, partners, strict=True)},
    )
    return holder


def opened(tree: Tree, halves: Sequence[PartnerSplits], starts: Sequence[int], node: int = 0) -> Any:
    """A tree with all its splits: (feature, code, gain, left, right) and weights, features counted over all parties."""
    owner = tree.owner[node]
    if owner < 0:
        return tree.value[node]
    if owner == 0:
        feature, code = tree.column[node], tree.code[node]
    else:
        (split,) = [each for each in halves[owner - 1].splits if each.name == tree.split[node]]
        feature, code = starts[owner] + split.column, split.code
    below = [opened(tree, halves, starts, child) for child in (tree.left[node], tree.right[node])]
    return feature, code, tree.gain[node], *below


def all_opened(ensemble: Ensemble, halves: Sequence[PartnerSplits]) -> list[Any]:
    starts = np.cumsum([0, len(ensemble.bins), *(len(half.bins) for half in halves)]).tolist()
    return [opened(tree, halves, starts) for trees in ensemble.rounds for tree in trees]


class Counted:
    """A channel that keeps what is sent and counts what is heard."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.sent: list[tuple[str, int]] = []
        self.heard: list[tuple[str, int]] = []

    def send(self, step: str, data: Any) -> None:
        self.sent.append((step, memoryview(data).nbytes))
        self.channel.send(step, data)

    def recv(self, step: str, **allowed: Any) -> Any:
        data = self.channel.recv(step, **allowed)
        self.heard.append((step, memoryview(data).nbytes))
        return data


class Pooled:
    """The algorithm without parties: plain loops over rows that anybody may see.

    Args:
        owners: Of each column: 0 the label holder, j a partner.
        exact: Without the rounding that encrypted sums need.
    """

    def __init__(
        self, columns: Columns, owners: list[int], y: Any, chosen: Boosting, exact: bool = False
    ) -> None:
        self.columns, self.owners, self.y, self.chosen = columns, owners, y, chosen
        self.exact = exact
        self.random = goss.generator(SEED, y)
        self.trees: list[Any] = []
        classes = int(y.max()) + 1 if chosen.loss == "multiclass" else 1
        self.base = {
            "binary": lambda: [np.log(y.mean() / (1 - y.mean()))],
            "regression": lambda: [y.mean()],
            "multiclass": lambda: [np.log((y == k).mean()) for k in range(classes)],
        }[chosen.loss]()
        self.margins = np.tile(np.array(self.base), (len(y), 1))
        for number in range(chosen.trees):
            self.round(classes, number >= chosen.own_first)

    def derivatives(self) -> tuple[Any, Any]:
        m, y = self.margins, self.y
        if self.chosen.loss == "regression":
            return m - y[:, None], np.ones_like(m)
        if self.chosen.loss == "binary":
            p = 1 / (1 + np.exp(-m))
            return p - y[:, None], p * (1 - p)
        p = np.exp(m) / np.exp(m).sum(axis=1, keepdims=True)
        return p - np.eye(m.shape[1])[y.astype(int)], 2 * p * (1 - p)

    def round(self, classes: int, joint: bool) -> None:
        g, h = self.derivatives()
        picked, weights = goss.draw(self.chosen.goss, g, self.random)
        self.picked = picked
        rounded = [self.rounded(g[:, k] * weights, h[:, k] * weights, joint) for k in range(classes)]
        added = np.zeros_like(self.margins)
        for k in range(classes):
            self.g, self.h = rounded[k]
            self.exact_g, self.exact_h = g[:, k] * weights, h[:, k] * weights
            start = {
                f: list(range(BINS - 1)) for f in range(len(self.columns)) if joint or not self.owners[f]
            }
            everyone = np.arange(len(self.y))
            self.trees.append(self.node(everyone, everyone[:0], start, 0, added[:, k]))
        self.margins += added

    def rounded(self, g: Any, h: Any, joint: bool) -> tuple[Any, Any]:
        if self.exact:
            return g, h
        limit = sum_limit(int(self.picked.sum())) if joint and any(self.owners) else LARGEST
        found = [whole_numbers(each, limit, self.random) for each in (g, h)]
        return found[0][0] * found[0][1], found[1][0] * found[1][1]

    def node(self, rows: Any, sibling: Any, above: dict[int, list[int]], depth: int, added: Any) -> Any:
        chosen, (mine, other) = self.chosen, (rows[self.picked[rows]], sibling[self.picked[sibling]])
        best: tuple[float, int, int] | None = None
        kept: dict[int, list[int]] = {}
        if depth < chosen.depth:
            for feature, inherited in above.items():
                kept[feature], usable = self.codes(feature, inherited, mine, other)
                for code in usable:
                    gain = self.gain(mine, self.columns[feature][mine] <= code)
                    if gain > chosen.min_gain + 1e-9 and (best is None or gain > best[0] + 1e-12):
                        best = gain, feature, code
        if best is None:
            g, h = self.exact_g[mine].sum(), self.exact_h[mine].sum()
            added[rows] = -chosen.lr * g / (h + chosen.l2)
            return float(added[rows[0]])
        gain, feature, code = best
        left = self.columns[feature][rows] <= code
        parts = rows[left], rows[~left]
        return (
            feature,
            code,
            gain,
            self.node(parts[0], parts[1], kept, depth + 1, added),
            self.node(parts[1], parts[0], kept, depth + 1, added),
        )

    def codes(self, feature: int, inherited: list[int], mine: Any, other: Any) -> tuple[list[int], list[int]]:
        """Codes that a partner's column may show here, and those that may be chosen; an own column shows all."""
        chosen, column = self.chosen, self.columns[feature]
        own = self.owners[feature] == 0
        kept, usable, last = [], [], -1
        for code in inherited:
            between = [((column[rows] > last) & (column[rows] <= code)).sum() for rows in (mine, other)]
            beyond = [(column[rows] > code).sum() for rows in (mine, other)]
            few = any(0 < n < chosen.min_bin for n in (*between, *beyond))
            if not own and (few or sum(between) == 0 or sum(beyond) == 0):
                continue
            kept.append(code)
            last = code
            least = chosen.min_leaf if own else max(chosen.min_leaf, chosen.min_bin)
            if between[0] and min((column[mine] <= code).sum(), beyond[0]) >= least:
                usable.append(code)
        return kept, usable

    def gain(self, rows: Any, left: Any) -> float:
        def score(part: Any) -> float:
            return float(self.g[part].sum() ** 2 / (self.h[part].sum() + self.chosen.l2))

        return 0.5 * (score(rows[left]) + score(rows[~left]) - score(rows))


def check_same(found: Any, expected: Any) -> None:
    """Two trees with the same splits, gains and weights up to rounding."""
    if not isinstance(expected, tuple):
        assert not isinstance(found, tuple)
        assert abs(found - expected) < 1e-8 * (1 + abs(expected))
        return
    assert isinstance(found, tuple)
    assert found[:2] == expected[:2]
    assert abs(found[2] - expected[2]) < 1e-6 * (1 + abs(expected[2]))
    for mine, theirs in zip(found[3:], expected[3:], strict=True):
        check_same(mine, theirs)
