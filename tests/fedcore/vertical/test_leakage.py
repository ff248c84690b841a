"""The attacks find labels where nothing protects them, and much less under max-norm; their AUC is scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedcore.vertical.label_protection import isotropic, max_norm, normals
from fedcore.vertical.leakage import Audit, Leak, auc, direction_attack, norm_attack
from tests.fedcore.vertical.splitting import TELECOM, trained

ROWS, WIDTH = 400, 6
rng = np.random.default_rng(11)
EVENT = (np.arange(ROWS) % 8 == 0).astype(np.float64)


def gradients(event: Any, share: float) -> Any:
    """What a logistic loss gives: one direction, the model's error on each row as the length."""
    direction = rng.normal(size=WIDTH)
    guess = np.clip(share + rng.normal(size=len(event)) * 0.03, 0.01, 0.99)
    bent = direction + rng.normal(size=(len(event), WIDTH)) * 0.1
    return ((guess - event)[:, None] * bent).astype(np.float32)


CLEAN = gradients(EVENT, 0.125)


@pytest.mark.parametrize("digits", [8, 1, 0])
def test_the_auc_is_that_of_scikit_learn_also_with_ties(digits: int) -> None:
    scores = np.round(rng.normal(size=ROWS) + EVENT, digits)
    assert auc(scores, EVENT) == pytest.approx(roc_auc_score(EVENT, scores), abs=1e-12)


def test_without_protection_both_attacks_find_the_labels_of_a_rare_event() -> None:
    assert norm_attack(CLEAN, EVENT) > 0.99
    assert direction_attack(CLEAN, EVENT) > 0.99


def test_max_norm_takes_most_of_what_both_attacks_find() -> None:
    left = [max_norm(CLEAN) for _ in range(20)]
    assert abs(np.mean([norm_attack(each, EVENT) for each in left]) - 0.5) < 0.2
    assert np.mean([direction_attack(each, EVENT) for each in left]) < 0.8


def test_max_norm_leaves_gradients_of_one_length_to_the_direction_attack_as_they_are() -> None:
    event = (np.arange(ROWS) % 2).astype(np.float64)
    clean = gradients(event, 0.5)
    clean /= np.linalg.norm(clean, axis=1, keepdims=True)
    sent = max_norm(clean)
    assert sent == pytest.approx(clean, abs=0.02)
    assert direction_attack(sent, event) > 0.99


def test_max_norm_brings_every_row_to_the_largest_expected_norm_along_its_own_gradient() -> None:
    drawn = np.stack([max_norm(CLEAN) for _ in range(4000)]).astype(np.float64)
    norms = np.linalg.norm(CLEAN, axis=1)
    squared = (drawn**2).sum(axis=2).mean(axis=0)
    assert squared / norms.max() ** 2 == pytest.approx(np.ones(ROWS), abs=0.2)
    # Unbiased, so that the partner still learns; and nothing across the gradient.
    assert np.abs(drawn.mean(axis=0) - CLEAN).max() < 0.15 * norms.max()
    cosines = np.abs(np.einsum("rw,rw->r", drawn[0], CLEAN.astype(np.float64)))
    assert cosines == pytest.approx(np.linalg.norm(drawn[0], axis=1) * norms, rel=1e-4)


def test_max_norm_leaves_rows_without_gradient_as_they_are() -> None:
    clean = CLEAN.copy()
    clean[3] = 0
    found = max_norm(clean)
    assert np.isfinite(found).all()
    assert not found[3].any()
    assert not max_norm(np.zeros((5, 3), np.float32)).any()


def test_isotropic_noise_has_the_size_that_was_asked_for_in_every_direction() -> None:
    added = np.stack([isotropic(CLEAN, 0.5) for _ in range(200)]).astype(np.float64) - CLEAN
    largest = np.linalg.norm(CLEAN, axis=1).max()
    assert (added**2).sum(axis=2).mean() == pytest.approx((0.5 * largest) ** 2, rel=0.02)
    of_axis = (added**2).mean(axis=(0, 1))
    assert of_axis.max() / of_axis.min() < 1.05


def test_normal_numbers_are_standard_and_new_each_time() -> None:
    drawn = normals(200_001)
    assert len(drawn) == 200_001
    assert abs(drawn.mean()) < 0.02
    assert drawn.std() == pytest.approx(1, abs=0.02)
    assert np.mean(drawn**4) == pytest.approx(3, abs=0.15)
    assert not np.array_equal(drawn[:10], normals(10))


ALL = np.arange(ROWS)


def test_the_audit_tells_both_sides_of_the_protection_for_each_partner_and_all_together() -> None:
    audit = Audit([2, WIDTH - 2], EVENT)
    for _ in range(3):
        audit.epoch()
        audit.batch(CLEAN, max_norm(CLEAN), ALL)
    leaks = audit.leaks()
    assert {(leak.attack, leak.partner) for leak in leaks} == {
        (attack, partner) for attack in ("norm", "direction") for partner in (-1, 0, 1)
    }
    assert {leak.batches for leak in leaks} == {3}
    assert all(leak.unprotected > 0.95 and leak.protected < 0.85 for leak in leaks)
    assert all("without protection" in str(leak) for leak in leaks)


def test_the_audit_is_the_attack_on_each_partners_own_columns() -> None:
    audit = Audit([2, WIDTH - 2], EVENT)
    audit.epoch()
    audit.batch(CLEAN, CLEAN[:, ::-1], ALL)
    found = {(leak.attack, leak.partner): (leak.unprotected, leak.protected) for leak in audit.leaks()}
    for partner, columns in ((0, slice(0, 2)), (1, slice(2, WIDTH)), (-1, slice(None))):
        for attack, run in (("norm", norm_attack), ("direction", direction_attack)):
            wanted = run(CLEAN[:, columns], EVENT), run(CLEAN[:, ::-1][:, columns], EVENT)
            assert found[attack, partner] == pytest.approx(wanted)


def test_noise_that_is_drawn_anew_each_epoch_averages_out_over_many() -> None:
    def direction(epochs: int) -> float:
        audit = Audit([WIDTH], EVENT)
        for _ in range(epochs):
            audit.epoch()
            audit.batch(CLEAN, isotropic(CLEAN, 3.0), ALL)
        return next(leak for leak in audit.leaks() if leak.attack == "direction").accumulated

    assert np.median([direction(1) for _ in range(9)]) < 0.8
    assert direction(200) > 0.9


def test_a_leak_is_clear_whether_in_one_epoch_or_in_all() -> None:
    told = {"unprotected": 1.0, "first_unprotected": 1.0, "first_protected": 0.5, "batches": 1}
    for protected, accumulated, clear in ((0.9, 0.5, True), (0.5, 0.9, True), (0.6, 0.7, False)):
        leak = Leak("norm", 0, protected=protected, accumulated=accumulated, **told)
        assert leak.clear is clear


def test_an_attack_that_ranks_the_other_way_round_counts_as_much() -> None:
    audit = Audit([WIDTH], 1 - EVENT)
    audit.epoch()
    audit.batch(CLEAN, CLEAN, ALL)
    norm = next(leak for leak in audit.leaks() if leak.attack == "norm")
    assert norm.protected > 0.99
    assert norm.accumulated > 0.99


def test_batches_of_one_class_are_not_measured() -> None:
    audit = Audit([WIDTH], np.zeros(ROWS))
    audit.epoch()
    audit.batch(CLEAN, CLEAN, ALL)
    assert {(leak.batches, leak.protected, leak.accumulated) for leak in audit.leaks()} == {(0, 0.5, 0.5)}


@pytest.mark.parametrize("protect", ["none", "max-norm"])
def test_a_run_measures_the_attacks_on_its_own_gradients(protect: str) -> None:
    leaks = {leak.attack: leak for leak in trained(TELECOM, protect=protect, epochs=3)[0].leaks}
    for leak in leaks.values():
        assert leak.unprotected > 0.8
        assert (
            leak.protected == leak.unprotected
            if protect == "none"
            else leak.protected < leak.unprotected - 0.1
        )
