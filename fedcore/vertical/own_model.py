"""A linear model of one party's columns alone, in the clear, against which a joint one is compared."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedcore.jobs.vertical import Logistic

Floats = npt.NDArray[np.float64]

_STEPS = 100
_CLOSE = 1e-9


def fit_alone(x: Floats, y: Floats, settings: Logistic) -> tuple[Floats, float]:
    """Coefficients and intercept by Newton's method.

    Args:
        x: (n, d); d may be 0.
        y: (n,) labels, those of the link.
        settings: Link, `l2` and `class_weight`.

    Returns:
        (d,) coefficients that have the least sum of losses and `l2 / 2` of their squares, and the intercept, which has no
        penalty.
    """
    rows, columns = x.shape
    design = np.hstack([x, np.ones((rows, 1))])
    penalty = np.diag([settings.l2] * columns + [0.0])
    weights = np.ones(rows)
    if settings.class_weight == "balanced":
        bad = y == 1
        weights = np.where(bad, rows / (2 * bad.sum()), rows / (2 * (~bad).sum()))
    beta = np.zeros(columns + 1)
    mean = max(float(np.average(y, weights=weights)), 1e-12)
    beta[-1] = {"logistic": np.log(mean / max(1 - mean, 1e-12)), "poisson": np.log(mean), "linear": mean}[
        settings.link
    ]
    loss = _loss(design, y, beta, weights, settings.link) + 0.5 * beta @ penalty @ beta
    for _ in range(_STEPS):
        expected, curve = _expected(design @ beta, settings.link)
        slope = design.T @ (weights * (expected - y)) + penalty @ beta
        bend = (design * (weights * curve)[:, None]).T @ design + penalty + 1e-10 * np.eye(columns + 1)
        step = np.linalg.solve(bend, slope)
        share = 1.0
        while share > 1e-6:
            tried = beta - share * step
            reached = _loss(design, y, tried, weights, settings.link) + 0.5 * tried @ penalty @ tried
            if reached <= loss + 1e-12:
                break
            share /= 2
        beta, loss = tried, reached
        if np.abs(share * step).max() < _CLOSE:
            break
    return beta[:-1], float(beta[-1])


def _expected(predictor: Floats, link: str) -> tuple[Floats, Floats]:
    """Expected label, and its derivative."""
    if link == "linear":
        return predictor, np.ones(len(predictor))
    if link == "poisson":
        rate = np.exp(np.minimum(predictor, 50))
        return rate, rate
    p = 0.5 * (1 + np.tanh(0.5 * predictor))
    return p, np.maximum(p * (1 - p), 1e-12)


def _loss(design: Floats, y: Floats, beta: Floats, weights: Floats, link: str) -> float:
    predictor = design @ beta
    if link == "linear":
        each = 0.5 * (predictor - y) ** 2
    elif link == "poisson":
        each = np.exp(np.minimum(predictor, 50)) - y * predictor
    else:
        each = np.logaddexp(0, predictor) - y * predictor
    return float(weights @ each)
