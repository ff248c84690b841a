"""GOSS keeps large gradients, draws from the others, and its weighted sums are right on average."""

from __future__ import annotations

import numpy as np
import pytest

from fedcore.vertical.boosting import goss

draw = np.random.default_rng(2)
G = draw.normal(size=(400, 1)) ** 3
LABELS = (draw.random(400) < 0.3).astype(np.float64)


def test_rows_with_the_largest_gradients_stay_with_weight_one_and_others_share_the_rest() -> None:
    chosen, weights = goss.draw((0.2, 0.1), G, np.random.default_rng(0))
    assert goss.sizes((0.2, 0.1), 400) == (80, 40)
    top = np.argsort(-np.abs(G[:, 0]))[:80]
    assert (weights[top] == 1).all()
    assert chosen.sum() == 120
    assert (chosen == (weights > 0)).all()
    assert np.unique(weights).tolist() == [0.0, 1.0, 8.0]


def test_weighted_sums_are_unbiased() -> None:
    sums = [
        float((G[:, 0] * goss.draw((0.2, 0.1), G, np.random.default_rng(seed))[1])[:200].sum())
        for seed in range(500)
    ]
    assert abs(np.mean(sums) - G[:200].sum()) < 4 * np.std(sums) / np.sqrt(500)


def test_equal_gradients_are_drawn_alike() -> None:
    flat = np.ones((300, 1))
    often = np.mean(
        [goss.draw((0.3, 0.2), flat, np.random.default_rng(seed))[0] for seed in range(400)], axis=0
    )
    assert abs(often[:150].mean() - often[150:].mean()) < 0.02
    assert often.min() > 0.3


def test_without_goss_all_rows_are_taken() -> None:
    chosen, weights = goss.draw(None, G, np.random.default_rng(0))
    assert chosen.all()
    assert (weights == 1).all()
    assert goss.sizes(None, 400) == (400, 0)


def test_shares_of_few_rows_leave_at_least_one_of_each() -> None:
    assert goss.sizes((0.001, 0.001), 100) == (1, 1)
    assert goss.sizes((0.9, 0.099), 10) == (9, 1)


@pytest.mark.parametrize("seed", [0, -3, 2**40])
def test_rows_follow_from_seed_and_labels_together(seed: int) -> None:
    first, again = (goss.generator(seed, LABELS).random(4) for _ in range(2))
    assert (first == again).all()
    other = LABELS.copy()
    other[7] = 1 - other[7]
    # Who knows the job's seed and not the labels draws other rows.
    assert (goss.generator(seed, other).random(4) != first).any()
    assert (goss.generator(seed + 1, LABELS).random(4) != first).any()
