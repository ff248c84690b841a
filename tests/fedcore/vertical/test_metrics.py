"""The figures of a score against scikit-learn and sums over all pairs."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from sklearn import metrics as reference

from fedcore.errors import DataError
from fedcore.vertical import metrics


def sample(
    rows: int = 400, seed: int = 3, ties: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, a good score and a weaker one; with `ties`, scores of so many values."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(rows) < 0.25).astype(float)
    scores = [1 / (1 + np.exp(1.2 - size * labels - generator.normal(size=rows))) for size in (1.5, 0.6)]
    if ties is not None:
        scores = [np.floor(each * ties) / ties for each in scores]
    return labels, scores[0], scores[1]


@pytest.mark.parametrize("ties", [None, 7, 2])
def test_auc_and_the_curve_are_those_of_scikit_learn(ties):
    labels, scores, _ = sample(ties=ties)
    assert metrics.auc(labels, scores) == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-12)
    assert metrics.gini(labels, scores) == pytest.approx(2 * metrics.auc(labels, scores) - 1)
    found = metrics.curve(labels, scores)
    false_rate, true_rate, _ = reference.roc_curve(labels, scores, drop_intermediate=False)
    assert np.allclose(found.good_share, false_rate)
    assert np.allclose(found.bad_share, true_rate)


def test_auc_counts_every_pair_and_half_of_equal_scores():
    labels, scores = np.array([1.0, 0, 1, 0, 0]), np.array([0.5, 0.5, 0.9, 0.1, 0.9])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    assert metrics.auc(labels, scores) == sum(pairs) / len(pairs)


def test_ks_is_the_largest_distance_over_all_thresholds():
    labels, scores, _ = sample(ties=20)
    found = metrics.ks(labels, scores)
    distances = {
        cut: abs(np.mean(scores[labels == 1] >= cut) - np.mean(scores[labels == 0] >= cut))
        for cut in set(scores)
    }
    assert found.value == pytest.approx(max(distances.values()))
    assert distances[found.score] == pytest.approx(found.value)
    assert found.share == pytest.approx(np.mean(scores >= found.score))


def test_the_groups_are_tenths_riskiest_first():
    labels, scores, _ = sample(rows=1003)
    found = metrics.groups(labels, scores)
    assert len(found) == 10 and {each.rows for each in found} == {100, 101}
    descending = np.argsort(-scores)
    head = labels[descending[: found[0].rows]]
    assert found[0].bad == head.sum()
    assert found[0].lift == pytest.approx(head.mean() / labels.mean())
    assert found[0].mean == pytest.approx(np.sort(scores)[::-1][: found[0].rows].mean())
    assert found[-1].gain == 1 and found[-1].cumulative_lift == pytest.approx(1) and found[-1].ks == 0
    assert max(each.ks for each in found) <= metrics.ks(labels, scores).value
    assert all(before.low > after.high for before, after in pairwise(found))


def test_rows_of_one_score_stay_in_one_group_in_any_order():
    labels, scores, _ = sample(ties=4)
    order = np.random.default_rng(1).permutation(len(labels))
    found = metrics.groups(labels, scores)
    assert len(found) <= len(set(scores))
    assert sum(each.rows for each in found) == len(labels)
    assert found == metrics.groups(labels[order], scores[order])


def test_the_interval_of_a_bad_rate_is_that_of_wilson():
    group = metrics.Group(0, 1, 50, 5, 0.5, 50, 5, 100, 30)
    low, high = group.interval
    for edge in (low, high):  # where the distance from p is 1.96 standard errors at the edge itself
        assert abs(edge - 0.1) == pytest.approx(1.959964 * math.sqrt(edge * (1 - edge) / 50))
    assert metrics.Group(0, 1, 50, 0, 0.5, 50, 0, 100, 30).interval[0] == 0


def test_confusion_brier_and_log_loss_are_those_of_scikit_learn():
    labels, scores, _ = sample()
    found = metrics.confusion(labels, scores, 0.4)
    called = scores >= 0.4
    true_good, false_bad, false_good, true_bad = reference.confusion_matrix(labels, called).ravel()
    assert (found.true_good, found.false_bad) == (true_good, false_bad)
    assert (found.false_good, found.true_bad) == (false_good, true_bad)
    assert found.precision == pytest.approx(reference.precision_score(labels, called))
    assert found.recall == pytest.approx(reference.recall_score(labels, called))
    assert found.f1 == pytest.approx(reference.f1_score(labels, called))
    assert found.accuracy == pytest.approx(reference.accuracy_score(labels, called))
    assert found.false_rate == pytest.approx(false_bad / np.sum(labels == 0))
    assert metrics.brier(labels, scores) == pytest.approx(reference.brier_score_loss(labels, scores))
    assert metrics.log_loss(labels, scores) == pytest.approx(reference.log_loss(labels, scores))
    assert math.isfinite(metrics.log_loss(np.array([0.0, 1]), np.array([1.0, 0])))
    assert math.isnan(metrics.confusion(labels, scores, 2.0).precision)


def test_the_swap_set_counts_who_changes_places():
    labels = np.array([0.0, 0, 1, 1, 0, 1])
    old = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    new = np.array([0.1, 0.2, 0.8, 0.7, 0.3, 0.9])
    found = metrics.swap_set(labels, new, old, approve=0.5)
    assert found.both == (2, 0) and found.swapped_in == (1, 0) and found.swapped_out == (1, 1)
    assert found.neither == (2, 2)
    assert (found.approved, found.new_bad, found.old_bad) == (3, 0, 1)


def test_both_scores_approve_the_same_number_also_with_equal_scores():
    labels, new, old = sample(ties=3)
    found = metrics.swap_set(labels, new, old, approve=0.7)
    assert found.swapped_in[0] == found.swapped_out[0] and found.approved == 280
    parts = (found.both, found.swapped_in, found.swapped_out, found.neither)
    assert sum(rows for rows, _ in parts) == len(labels)
    assert sum(bad for _, bad in parts) == labels.sum()


@pytest.mark.parametrize("ties", [None, 5])
def test_the_difference_of_two_aucs_has_the_standard_error_of_all_pairs(ties):
    labels, new, old = sample(rows=120, ties=ties)

    def won(a, b):
        return (a > b) + 0.5 * (a == b)

    bad, good = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    pairs = np.array([[won(new[i], new[j]) - won(old[i], old[j]) for j in good] for i in bad])
    variance = np.var(pairs.mean(axis=1), ddof=1) / len(bad) + np.var(pairs.mean(axis=0), ddof=1) / len(good)
    found = metrics.auc_difference(labels, new, old)
    assert found.value == pytest.approx(metrics.auc(labels, new) - metrics.auc(labels, old))
    assert found.standard_error == pytest.approx(math.sqrt(variance))
    assert found.interval[0] < found.value < found.interval[1]


def test_the_stability_index_is_its_sum_and_finite_with_an_empty_bin():
    expected = sum((f - e) * math.log(f / e) for e, f in zip((0.5, 0.3, 0.2), (0.4, 0.4, 0.2), strict=True))
    assert metrics.stability([50, 30, 20], [400, 400, 200]) == pytest.approx(expected)
    assert metrics.stability([5, 5, 0], [10, 10, 0]) == 0
    assert 0 < metrics.stability([10, 10, 0], [10, 5, 5]) < math.inf
    with pytest.raises(DataError, match="no rows"):
        metrics.stability([1, 2], [0, 0])


def test_scores_of_one_population_are_stable_and_shifted_ones_are_not():
    generator = np.random.default_rng(5)
    first, second = generator.normal(size=5000), generator.normal(size=5000)
    assert metrics.score_stability(first, first) == 0
    assert metrics.score_stability(first, second) < 0.01
    assert metrics.score_stability(first, second + 1) > 0.5
    assert metrics.score_stability(np.ones(10), np.ones(20)) == 0


@pytest.mark.parametrize(
    ("labels", "scores", "told"),
    [
        ([0.0, 1], [0.1], "1 scores of 2 rows"),
        ([0.0, 2], [0.1, 0.2], "not 0 or 1"),
        ([0.0, 1], [0.1, math.nan], "not a finite number"),
        ([1.0, 1], [0.1, 0.2], "all good or all bad"),
        ([], [], "all good or all bad"),
    ],
)
def test_rows_that_cannot_be_measured_are_refused(labels, scores, told):
    with pytest.raises(DataError, match=told):
        metrics.auc(np.array(labels), np.array(scores))
