"""Trees of several parties are those of the same algorithm over pooled columns, in every arrangement of parties."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from fedcore.vertical.boosting.label_holder import grow_label_holder
from fedcore.vertical.boosting.losses import expected
from tests.fedcore.vertical.boosting.forest import (
    BINS,
    Pooled,
    all_opened,
    check_same,
    grown,
    labels,
    predicted,
    settings,
    table,
    widths,
)

ARRANGEMENTS = {
    "both": [2, 6],
    "only the partner has columns": [0, 6],
    "two partners": [2, 4, 6],
    "two partners and nothing own": [0, 3, 6],
}


def divided(columns: list[Any], ends: list[int]) -> tuple[list[Any], list[list[Any]], list[int]]:
    own = columns[: ends[0]]
    partners = [columns[first:last] for first, last in itertools.pairwise(ends)]
    owners = [0] * ends[0] + [1 + at for at, part in enumerate(partners) for _ in part]
    return own, partners, owners


@pytest.mark.parametrize("loss", ["binary", "regression", "multiclass"])
@pytest.mark.parametrize("ends", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_trees_are_those_of_the_pooled_columns(loss: str, ends: list[int]) -> None:
    columns, score = table()
    y, chosen = labels(loss, score), settings(loss=loss)
    own, partners, owners = divided(columns, ends)
    ensemble, halves = grown(own, partners, y, chosen)
    pooled = Pooled(columns, owners, y, chosen)
    found = all_opened(ensemble, halves)
    assert len(found) == len(pooled.trees) == 3 * (3 if loss == "multiclass" else 1)
    for mine, theirs in zip(found, pooled.trees, strict=True):
        check_same(mine, theirs)
    assert any(half.splits for half in halves)
    margins = predicted(ensemble, halves, own, partners)
    assert margins.reshape(pooled.margins.shape) == pytest.approx(pooled.margins, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize(
    "changed",
    [
        {"goss": (0.3, 0.3), "min_leaf": 8},
        {"own_first": 2},
        {"min_bin": 40, "depth": 4},
        {"min_gain": 4.0, "l2": 0.0},
        {"depth": 5, "min_leaf": 5, "trees": 2},
        {"depth": 1, "trees": 5},
    ],
    ids=lambda changed: ", ".join(changed),
)
def test_settings_do_what_they_do_over_the_pooled_columns(changed: dict[str, Any]) -> None:
    columns, score = table(seed=3)
    y, chosen = labels("binary", score), settings(**changed)
    own, partners, owners = divided(columns, [2, 6])
    ensemble, halves = grown(own, partners, y, chosen)
    pooled = Pooled(columns, owners, y, chosen)
    for mine, theirs in zip(all_opened(ensemble, halves), pooled.trees, strict=True):
        check_same(mine, theirs)


@pytest.mark.parametrize("loss", ["binary", "regression", "multiclass"])
def test_alone_the_label_holder_grows_the_trees_of_exact_sums(loss: str) -> None:
    columns, score = table(seed=4)
    y, chosen = labels(loss, score), settings(loss=loss)
    ensemble = grow_label_holder([], columns, widths(columns), y, chosen, 0)
    pooled = Pooled(columns, [0] * 6, y, chosen, exact=True)
    for mine, theirs in zip(all_opened(ensemble, []), pooled.trees, strict=True):
        check_same(mine, theirs)


def test_trees_predict_rows_they_have_not_seen_as_well_as_scikit_learn_does_over_pooled_columns() -> None:
    columns, score = table(rows=6000, seed=6)
    y = labels("binary", score)
    train, test = slice(0, 3000), slice(3000, None)
    chosen = settings(trees=10, depth=4, min_leaf=20)
    own, partners, _ = divided(columns, [2, 6])
    ensemble, halves = grown([c[train] for c in own], [[c[train] for c in partners[0]]], y[train], chosen)
    margins = predicted(ensemble, halves, [c[test] for c in own], [[c[test] for c in partners[0]]])
    joint = roc_auc_score(y[test], expected("binary", margins))
    pooled = HistGradientBoostingClassifier(
        max_iter=10,
        max_depth=4,
        max_leaf_nodes=16,
        learning_rate=0.3,
        l2_regularization=1.0,
        early_stopping=False,
    ).fit(np.stack(columns, axis=1)[train], y[train])
    theirs = roc_auc_score(y[test], pooled.predict_proba(np.stack(columns, axis=1)[test])[:, 1])
    alone = grow_label_holder([], [c[train] for c in own], [BINS] * 2, y[train], chosen, 0)
    single = roc_auc_score(y[test], predicted(alone, [], [c[test] for c in own], []))
    assert abs(joint - theirs) < 0.005
    assert joint > single + 0.02


def test_the_same_seed_gives_the_same_trees_and_another_draws_other_rows() -> None:
    columns, score = table()
    y, chosen = labels("binary", score), settings(goss=(0.2, 0.2), min_leaf=8)
    own, partners, _ = divided(columns, [3, 6])
    first, again, other = (all_opened(*grown(own, partners, y, chosen, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_partner_without_a_candidate_leaves_the_others_to_grow() -> None:
    columns, score = table()
    y, chosen = labels("binary", score), settings()
    constant = [np.zeros(len(y), dtype=np.uint8), np.full(len(y), 3, dtype=np.uint8)]
    ensemble, halves = grown(columns[:3], [constant], y, chosen)
    assert halves[0].splits == ()
    pooled = Pooled(columns[:3], [0] * 3, y, chosen, exact=True)
    # Rounding for sums that nobody asks for leaves the same splits here.
    assert [tree[:2] for tree in all_opened(ensemble, halves)] == [tree[:2] for tree in pooled.trees]


def test_where_no_column_varies_trees_are_single_leaves_of_the_base_rate() -> None:
    _, score = table()
    y = labels("binary", score)
    constant = [np.zeros(len(y), dtype=np.uint8)]
    ensemble, halves = grown(constant, [constant], y, settings())
    assert [len(tree) for trees in ensemble.rounds for tree in trees] == [1, 1, 1]
    margins = predicted(ensemble, halves, constant, [constant])
    assert expected("binary", margins) == pytest.approx(np.full(len(y), y.mean()))


def test_no_leaf_has_fewer_rows_than_min_leaf() -> None:
    columns, score = table()
    chosen = settings(depth=6, min_leaf=30, trees=2)
    own, partners, _ = divided(columns, [2, 6])
    ensemble, _ = grown(own, partners, labels("binary", score), chosen)
    leaves = [
        rows
        for trees in ensemble.rounds
        for tree in trees
        for rows, owner in zip(tree.rows, tree.owner, strict=True)
        if owner < 0
    ]
    assert len(leaves) > 4
    assert min(leaves) >= 30


def test_progress_is_told_at_both_sides() -> None:
    columns, score = table()
    told: list[tuple[str, int, int]] = []
    grow_label_holder(
        [], columns, widths(columns), labels("binary", score), settings(), 0, lambda *each: told.append(each)
    )
    assert told == [("trees", 1, 3), ("trees", 2, 3), ("trees", 3, 3)]
