"""The model of one party's columns alone, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge

from fedcore.jobs.vertical import Logistic
from fedcore.vertical.own_model import fit_alone

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(400, 3))
EVENT = (RANDOM.random(400) < 1 / (1 + np.exp(1.0 - X @ [1.0, -0.5, 0.2]))).astype(float)
COUNT = RANDOM.poisson(np.exp(X @ [0.4, -0.3, 0.1])).astype(float)


@pytest.mark.parametrize("weight", [None, "balanced"])
def test_logistic_coefficients_are_those_of_scikit_learn(weight: str | None) -> None:
    settings = Logistic(use="logistic", l2=2.0, class_weight=weight)  # type: ignore[arg-type]
    found, intercept = fit_alone(X, EVENT, settings)
    other = LogisticRegression(C=0.5, class_weight=weight, tol=1e-10, max_iter=1000).fit(X, EVENT)
    assert found == pytest.approx(other.coef_[0], abs=1e-5) and intercept == pytest.approx(
        other.intercept_[0], abs=1e-5
    )


def test_linear_coefficients_are_those_of_ridge() -> None:
    y = X @ [1.0, 2.0, 3.0] + 4.0 + RANDOM.normal(size=400)
    found, intercept = fit_alone(X, y, Logistic(use="logistic", link="linear", on="values", l2=5.0))
    other = Ridge(alpha=5.0).fit(X, y)
    assert found == pytest.approx(other.coef_, abs=1e-6) and intercept == pytest.approx(
        other.intercept_, abs=1e-6
    )


def test_poisson_coefficients_are_those_of_scikit_learn() -> None:
    found, intercept = fit_alone(X, COUNT, Logistic(use="logistic", link="poisson", on="values", l2=4.0))
    # Its loss is the mean over the rows.
    other = PoissonRegressor(alpha=4.0 / 400, tol=1e-12, max_iter=1000).fit(X, COUNT)
    assert found == pytest.approx(other.coef_, abs=1e-5) and intercept == pytest.approx(
        other.intercept_, abs=1e-5
    )


def test_without_columns_the_intercept_is_the_log_odds_of_the_mean() -> None:
    found, intercept = fit_alone(X[:, :0], EVENT, Logistic(use="logistic"))
    assert len(found) == 0 and intercept == pytest.approx(np.log(EVENT.mean() / (1 - EVENT.mean())))


def test_columns_that_separate_the_classes_have_finite_coefficients() -> None:
    found, intercept = fit_alone(EVENT[:, None] * 2 - 1, EVENT, Logistic(use="logistic", l2=1.0))
    assert np.isfinite(found).all() and np.isfinite(intercept) and found[0] > 1
