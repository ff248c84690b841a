"""Every model has the coefficients that scikit-learn finds on the pooled columns, in every arrangement of parties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge
from sklearn.metrics import log_loss

from tests.fedcore.vertical.glm_parties import (
    AMOUNTS,
    COUNTS,
    LABEL,
    RARE,
    ROWS,
    X,
    job,
    numbers,
    ok,
    star,
    two,
)

NEAR = 1.5e-3
"""Random rounding in 600 rows moves a coefficient by up to about a two-hundredth of its standard error."""


def pooled(model: Any, x: Any, y: Any, **more: Any) -> Any:
    model.fit(x, y, **more)
    return np.concatenate([np.ravel(model.intercept_), np.ravel(model.coef_)])


def logistic(**settings: Any) -> LogisticRegression:
    return LogisticRegression(tol=1e-10, max_iter=1000, **settings)


def standard_errors(w: Any) -> Any:
    ones = np.concatenate([np.ones((ROWS, 1)), X], axis=1)
    p = 1 / (1 + np.exp(-ones @ w))
    return np.sqrt(np.diag(np.linalg.inv((ones.T * (p * (1 - p))) @ ones + np.diag([0] + [1] * 6))))


@pytest.mark.parametrize("cut", [1, 5])
def test_logistic_regression_is_that_of_the_pooled_columns(cut: int) -> None:
    found = two(job(), cut=cut)
    assert np.abs(numbers(found) - pooled(logistic(), X, LABEL)).max() < NEAR
    assert found[0].iterations == found[1].iterations == 13
    assert found[0].converged is None and found[1].intercept == 0.0


def test_the_penalty_is_on_the_scale_of_scikit_learn_and_leaves_the_intercept_out() -> None:
    found = two(job(l2=200.0), y=RARE)
    assert np.abs(numbers(found) - pooled(logistic(C=1 / 200), X, RARE)).max() < NEAR


def test_balanced_classes_and_row_weights_are_those_of_scikit_learn() -> None:
    balanced = two(job(class_weight="balanced", iterations=40), y=RARE)
    assert np.abs(numbers(balanced) - pooled(logistic(class_weight="balanced"), X, RARE)).max() < 3 * NEAR
    weights = np.random.default_rng(2).uniform(0.5, 3, ROWS)
    weighted = two(job(), weights=weights)
    assert np.abs(numbers(weighted) - pooled(logistic(), X, LABEL, sample_weight=weights)).max() < NEAR


def test_linear_regression_takes_one_pass_on_the_scale_of_the_label() -> None:
    found = two(job(link="linear"), y=AMOUNTS)
    wanted = pooled(Ridge(alpha=1.0), X, AMOUNTS)
    assert np.abs(numbers(found) - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert found[0].iterations == 1 and found[0].converged
    plain = two(job(link="linear", l2=0.0), y=AMOUNTS)
    wanted = pooled(LinearRegression(), X, AMOUNTS)
    assert np.abs(numbers(plain) - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_poisson_regression_is_that_of_the_pooled_columns() -> None:
    found = two(job(link="poisson", l2=0.6), y=COUNTS)
    reference = PoissonRegressor(alpha=0.6 / ROWS, tol=1e-10, max_iter=1000)
    assert np.abs(numbers(found) - pooled(reference, X, COUNTS)).max() < NEAR


@pytest.mark.parametrize("cuts", [(1, 4), (2, 3, 5)])
def test_one_label_holder_with_several_partners_fits_the_same_model(cuts: tuple[int, ...]) -> None:
    # Moments between further partners are bounded and not computed, so that more passes are needed.
    settings = job(tolerance=1e-6, iterations=16 if len(cuts) == 2 else 40)
    found = star(settings, np.split(X, cuts, axis=1), LABEL)
    assert np.abs(numbers(found) - pooled(logistic(), X, LABEL)).max() < NEAR


@pytest.mark.parametrize("link", ["linear", "poisson"])
def test_the_other_links_work_with_two_partners(link: str) -> None:
    y, model = {
        "linear": (AMOUNTS, Ridge(alpha=1.0)),
        "poisson": (COUNTS, PoissonRegressor(alpha=1.0 / ROWS, tol=1e-10, max_iter=1000)),
    }[link]
    found = star(job(link=link), np.split(X, (2, 4), axis=1), y)
    wanted = pooled(model, X, y)
    assert np.abs((numbers(found) - wanted) / np.abs(wanted).max()).max() < NEAR


def test_predictors_out_of_range_widen_the_period_until_none_is() -> None:
    x = X.copy()
    x[:30] *= 8
    found = two(job(iterations=22), x=x)
    assert np.abs(numbers(found) - pooled(logistic(), x, LABEL)).max() < 3 * NEAR
    assert found[0].trace[0]["period"] == 24 and found[0].trace[-1]["period"] > 24


def test_the_tolerance_ends_it_and_says_that_it_converged() -> None:
    found = ok(two(job(tolerance=0.01)))
    assert found[0].converged and found[0].iterations < 13
    assert found[0].trace[-1]["change"] <= 0.01 < found[0].trace[-2]["change"]
    short = ok(two(job(tolerance=1e-6, iterations=3)))
    assert short[0].converged is False and short[0].iterations == 3


def test_without_a_tolerance_nothing_is_told_of_the_change_or_the_loss() -> None:
    assert {key for record in ok(two(job()))[0].trace for key in record} == {"pass", "period", "far"}


def test_coefficients_of_the_wrong_sign_are_held_at_zero_as_by_a_bounded_optimiser() -> None:
    def loss(w: Any) -> float:
        z = w[0] + X @ w[1:]
        return float(np.logaddexp(0, z).sum() - LABEL @ z + 0.5 * w[1:] @ w[1:])

    bounds = [(None, None)] + [(0, None)] * 6
    wanted = minimize(
        loss, np.zeros(7), bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}
    ).x
    found = numbers(two(job(on="woe", sign=True)))
    assert np.abs(found - wanted).max() < NEAR
    assert ((found == 0) == (wanted == 0)).all() and (found[1:] >= 0).all() and (wanted == 0).any()


def test_standard_errors_and_p_values_come_from_the_pooled_information_matrix() -> None:
    found = ok(two(job(p_values=True)))
    errors = standard_errors(numbers(found))
    got = np.concatenate([[found[0].intercept_error], found[0].standard_errors, found[1].standard_errors])
    assert np.abs(got / errors - 1).max() < 5e-3
    p_values = np.concatenate([found[0].p_values, found[1].p_values])
    assert ((p_values < 0.05) == (np.abs(numbers(found)[1:] / errors[1:]) > 1.959964)).all()


def test_early_stopping_keeps_the_weights_of_the_least_loss() -> None:
    train, test = slice(0, 400), slice(400, None)
    found = ok(two(job(early_stop=True), X[train], LABEL[train], held_out=(X[test], LABEL[test])))
    losses = [record["loss"] for record in found[0].trace]
    w = numbers(found)
    own = log_loss(LABEL[test], 1 / (1 + np.exp(-w[0] - X[test] @ w[1:])))
    assert own == pytest.approx(min(losses), abs=1e-3)
    assert found[0].iterations < 13


def test_batches_come_within_their_standard_errors_of_the_optimum() -> None:
    found = two(job(batch=200, iterations=8))
    exact = pooled(logistic(), X, LABEL)
    assert (np.abs(numbers(found) - exact) < 0.7 * standard_errors(exact)).all()
