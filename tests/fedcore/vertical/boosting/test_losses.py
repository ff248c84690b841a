"""Labels that cannot serve are refused, gradients are derivatives of the loss, and rounding is unbiased."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logsumexp

from fedcore.errors import DataError
from fedcore.vertical.boosting.losses import (
    checked_labels,
    class_count,
    expected,
    gradients,
    start,
    whole_numbers,
)

draw = np.random.default_rng(8)


@pytest.mark.parametrize(
    ("loss", "y", "told"),
    [
        ("binary", [1.0, 1.0, 1.0], "all 3 labels are the same"),
        ("regression", [2.5, 2.5], "all 2 labels are the same"),
        ("multiclass", [0.0, 0.0], "all 2 labels are the same"),
        ("binary", [], "all 0 labels"),
        ("binary", [0.0, np.nan, 1.0, np.nan], "2 of 4 labels are missing"),
        ("regression", [0.0, np.inf], "1 of 2 labels are missing or infinite"),
        ("binary", [0.0, 1.0, 2.0], "1 labels are neither 0 nor 1"),
        ("binary", [-1.0, 1.0, -1.0], "2 labels are neither 0 nor 1"),
        ("multiclass", [0.0, 2.0, 3.0], "not numbered 0 to 2 without a gap"),
        ("multiclass", [1.0, 2.0], "not numbered 0 to 1"),
        ("multiclass", [0.0, 0.5, 1.0], "not numbered"),
        ("multiclass", list(range(300)), "300 classes; at most 255"),
        ("binary", [[0.0], [1.0]], "one number for each row"),
    ],
)
def test_labels_that_cannot_serve_are_refused(loss: Any, y: list[float], told: str) -> None:
    with pytest.raises(DataError, match=told):
        checked_labels(loss, y)


@pytest.mark.parametrize("loss", ["binary", "regression"])
def test_the_first_derivative_is_that_of_the_loss_and_the_second_that_of_the_first(loss: Any) -> None:
    m, e = draw.normal(size=(20, 1)), 1e-5
    y = (draw.random(20) < 0.5).astype(float)

    def value(at: Any) -> Any:
        if loss == "regression":
            return 0.5 * (at - y) ** 2
        return -y * np.log(expit(at)) - (1 - y) * np.log(expit(-at))

    g, h = gradients(loss, y, m)
    assert g[:, 0] == pytest.approx((value(m[:, 0] + e) - value(m[:, 0] - e)) / (2 * e), abs=1e-6)
    above, below = (gradients(loss, y, m + step)[0] for step in (e, -e))
    assert h == pytest.approx((above - below) / (2 * e), abs=1e-6)


def test_the_first_derivatives_of_several_classes_are_those_of_softmax() -> None:
    m, e, y = draw.normal(size=(20, 3)), 1e-5, draw.integers(0, 3, 20).astype(float)
    g, h = gradients("multiclass", y, m)
    for k in range(3):
        step = np.zeros(3)
        step[k] = e
        values = [logsumexp(at, axis=1) - at[np.arange(20), y.astype(int)] for at in (m + step, m - step)]
        assert g[:, k] == pytest.approx((values[0] - values[1]) / (2 * e), abs=1e-6)
    assert (h > 0).all()


def test_the_start_is_the_best_constant() -> None:
    y = np.array([0.0, 0.0, 1.0, 2.0])
    assert expected("multiclass", start("multiclass", y)[None])[0] == pytest.approx([0.5, 0.25, 0.25])
    assert expected("binary", start("binary", np.array([0.0, 1.0, 0.0, 0.0]))) == pytest.approx([0.25])
    assert start("regression", y) == pytest.approx([0.75])
    assert (class_count("multiclass", y), class_count("binary", y)) == (3, 1)


def test_expected_values_do_not_overflow() -> None:
    assert expected("binary", np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
    assert expected("multiclass", np.array([[1e4, 0.0]])).tolist() == [[1.0, 0.0]]


def test_rounded_numbers_stay_within_the_limit_and_are_unbiased() -> None:
    values, limit = draw.normal(size=500), 3000
    sums = []
    for seed in range(200):
        found, unit = whole_numbers(values, limit, np.random.default_rng(seed))
        assert np.abs(found).sum() <= limit
        assert np.abs(found * unit - values).max() <= unit
        sums.append(float((found * unit)[:250].sum()))
    error = np.mean(sums) - values[:250].sum()
    assert abs(error) < 4 * np.std(sums) / np.sqrt(200)
    assert np.std(sums) > 0


def test_zeros_stay_zeros_and_too_many_rows_for_the_limit_are_refused() -> None:
    found, unit = whole_numbers(np.zeros(5), 100, draw)
    assert (found.tolist(), unit) == ([0] * 5, 1.0)
    with pytest.raises(DataError, match="1000 rows leave no digits"):
        whole_numbers(np.ones(1000), 500, draw)
