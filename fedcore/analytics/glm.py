"""Linear, logistic and Poisson regression over sites by Newton steps, as one regression over all rows gives it.

    round 0   `partial_start`   sums of the columns, of their squares and of the response     `combine_start`
    a round   `partial_step`    log-likelihood, gradient and information                      `combine_step`
    the end   `result`          coefficients, standard errors, intervals, p-values

What leaves a site, for p coefficients (k columns and the intercept): round 0, 2 counts and 2 k + 2 sums; a round, 5 counts
and p^2 + p + 3 sums. With few rows and many columns these sums would tell the rows: the ratio of the two is for the policy
of the site.

Logistic data are separable where some combination of columns is never on the wrong side of the outcome; no estimate
exists then. Each round counts the rows that the last step moves against their outcome and along it. None against and some
along is a proof, and the fit stops with the names of the columns. Likewise counts that are 0 in all rows of a category.

Sources: McCullagh, Nelder, Generalized Linear Models, 1989, sections 2.5 and 4.4; Albert, Anderson, Biometrika 71, 1984
(when the estimates exist).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from fedcore.analytics.moments import left_out_note, some_rows
from fedcore.analytics.newton import State, advance, endless, found, start
from fedcore.analytics.result import Coefficient, Table, coefficients, level_text
from fedcore.analytics.rows import Columns, Missing, Rows, complete
from fedcore.analytics.sums import Floats, Sums, number
from fedcore.errors import DataError, did_you_mean

STEP = "regression"
Family = Literal["linear", "logistic", "poisson"]
FAMILIES: tuple[Family, ...] = ("linear", "logistic", "poisson")
FAR = 100.0
"""Predictor of a count above which its mean is not taken; the step is halved."""
ALONG, AGAINST = 0.5, 1e-4


@dataclass(frozen=True)
class Regression:
    """What is asked.

    Args:
        family: `linear` (normal errors), `logistic` (logit link) or `poisson` (log link).
        response: Column explained: any number; 0 or 1; 0 or more.
        columns: That explain it, without the intercept.
        intercept: Whether there is one.
        offset: Column added to the predictor as it is, for counts the logarithm of the exposure.
        weights: Column that says how many times a row counts, 0 or more; a row of weight 0 is no row of the model.
        missing: The rule for missing values.
    """

    family: Family
    response: str
    columns: tuple[str, ...]
    intercept: bool = True
    offset: str | None = None
    weights: str | None = None
    missing: Missing = "refuse"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise DataError(
                f'family is "{self.family}"; {did_you_mean(str(self.family), FAMILIES)}', step=STEP
            )
        twice = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if twice or self.response in self.columns:
            raise DataError(
                f"{', '.join(twice or [self.response])} stands twice in the question; allowed: once",
                step=STEP,
            )
        if not self.columns and not self.intercept:
            raise DataError("there is neither a column nor an intercept; allowed: one or more", step=STEP)


@dataclass(frozen=True, eq=False)
class RegressionResult:
    """What is found.

    Args:
        asked: The question.
        coefficients: The intercept first; logarithms of odds or rates where the family has such.
        covariance: (p, p) of the estimates.
        rows: Complete ones.
        left_out: That missed a value.
        log_likelihood: At the estimates.
        deviance: Twice what it falls short of a perfect fit; the residual sum of squares of a linear model.
        dispersion: Residual variance of a linear model; 1 otherwise.
        dof: Of the residuals: sum of the weights, which is the number of rows without any, minus p.
        rounds: Of Newton, without round 0.
        confidence: Level of the intervals.
    """

    asked: Regression
    coefficients: tuple[Coefficient, ...]
    covariance: Floats
    rows: int
    left_out: int
    log_likelihood: float
    deviance: float
    dispersion: float
    dof: float
    rounds: int
    confidence: float

    @property
    def aic(self) -> float:
        """Akaike's criterion; the variance of a linear model is not counted as a parameter."""
        return 2 * len(self.coefficients) - 2 * self.log_likelihood

    def table(self) -> Table:
        """A row a coefficient; the interval is that of the odds or rate ratio where the family has one."""
        level = level_text(self.confidence)
        ratio = {"linear": "", "logistic": "odds ratio", "poisson": "rate ratio"}[self.asked.family]
        bounds = (f"{level} low", f"{level} high")
        rows: list[tuple[str | float, ...]] = []
        for each in self.coefficients:
            row = (each.name, each.estimate, each.error, each.statistic, each.p)
            rows.append((*row, *each.ratio) if ratio else (*row, each.low, each.high))
        shown = ("z", "p", ratio, *bounds) if ratio else ("t", "p", *bounds)
        heads = ("", "coefficient", "standard error", *shown)
        notes = (
            f"{self.rows} rows, {self.rounds} rounds",
            f"log-likelihood {self.log_likelihood:.4f}, deviance {self.deviance:.4f}, AIC {self.aic:.2f}",
            *left_out_note(self.left_out),
        )
        title = f"{self.asked.family.capitalize()} regression of {self.asked.response}"
        return Table(title, heads, tuple(rows), notes)


def partial_start(columns: Columns, asked: Regression) -> Sums:
    """Round 0 at a site.

    What leaves: `rows` and `left_out`, two counts; `sum` and `square` (k,), of the columns and of their squares;
    `response` and `weight`, the weighted sum of the response and the sum of the weights (rows, where there are none).

    Args:
        columns: Of the site, (n,) each.
        asked: The question.

    Raises:
        DataError: A response or weight is not one that the family allows.
    """
    rows = _rows(columns, asked)
    matrix, y, weight = rows.matrix(asked.columns), rows.numbers[asked.response], _weights(rows, asked)
    return {
        **rows.counts(),
        "sum": matrix.sum(axis=0),
        "square": (matrix**2).sum(axis=0),
        "response": np.asarray(weight @ y),
        "weight": np.asarray(weight.sum()),
    }


def combine_start(total: Sums, asked: Regression) -> State:
    """Where Newton begins: the model of the mean alone.

    Raises:
        DataError: No site has a row, or the response is the same in all.
    """
    some_rows(total)
    weight = float(total["weight"])
    if weight <= 0:
        raise DataError(f"all weights in {asked.weights} are 0; allowed: some above 0", step=STEP)
    mean = float(total["response"]) / weight
    if asked.family == "logistic" and not 0 < mean < 1:
        raise DataError(
            f"{asked.response} is the same in all rows; allowed: some with and some without", step=STEP
        )
    if asked.family == "poisson" and mean <= 0:
        raise DataError(f"{asked.response} is 0 in all rows; allowed: some above 0", step=STEP)
    first = {
        "linear": mean,
        "logistic": float(special.logit(mean)),
        "poisson": math.log(mean) if mean > 0 else 0.0,
    }
    begin = first[asked.family] if asked.offset is None else 0.0
    return start(total, asked.columns, intercept=asked.intercept, first=begin)


def partial_step(columns: Columns, asked: Regression, state: State) -> Sums:
    """A round at a site.

    What leaves: `rows` and `left_out`, two counts; `value` (3,), log-likelihood, deviance and sum of weights; `gradient` (p,);
    `information` (p, p); `far`, how many rows' predictors are out of range; `turned` (2,), how many rows the last step moved
    against their outcome and along it.

    Args:
        columns: Of the site, (n,) each.
        asked: The question.
        state: Of the round, the same at all sites.
    """
    rows = _rows(columns, asked)
    design, y, weight = (
        state.design(rows.matrix(asked.columns)),
        rows.numbers[asked.response],
        _weights(rows, asked),
    )
    predictor = design @ state.beta
    if asked.offset is not None:
        predictor = predictor + rows.numbers[asked.offset]
    far = predictor > FAR if asked.family == "poisson" else np.zeros(rows.count, bool)
    mean, curvature, value, deviance = _FAMILIES[asked.family](y, np.where(far, 0.0, predictor))
    against, along = _turned(asked.family, y, design @ state.step, weight > 0)
    return {
        **rows.counts(),
        "value": np.array([weight @ value, weight @ deviance, weight.sum()]),
        "gradient": design.T @ (weight * (y - mean)),
        "information": (design * (weight * curvature)[:, None]).T @ design,
        "far": np.asarray(np.int64(far.sum())),
        "turned": np.array([against, along], np.int64),
    }


def combine_step(total: Sums, asked: Regression, state: State) -> State:
    """The next round's state; ask again until it is `done`.

    Raises:
        DataError: Columns depend on each other, or the data are separable; with the names of the columns.
        TaskFailed: It did not converge.
    """
    against, along = total["turned"].tolist()
    if asked.family != "linear" and along and not against:
        raise endless(state, state.step)
    _, deviance, weight = total["value"].tolist()
    unit = 1.0
    if asked.family == "linear":
        # Of a perfect fit, rounding is what is left.
        whole = -2 * state.null if state.rounds else deviance
        unit = max(deviance, 1e-20 * whole, np.finfo(np.float64).tiny * 1e20) / weight
    far = number(total["far"]) > 0
    return advance(state, -deviance / 2, total["gradient"], total["information"], far=far, unit=unit)


def result(total: Sums, asked: Regression, state: State, *, confidence: float = 0.95) -> RegressionResult:
    """The table of the model, from the last round's sums and the state that they led to.

    Raises:
        DataError: There are no more rows than coefficients.
        TaskFailed: The state is not done.
    """
    end = found(state)
    value, deviance, weight = total["value"].tolist()
    dof = weight - len(end.beta)
    dispersion, covariance = 1.0, end.covariance
    if asked.family == "linear":
        if dof <= 0:
            raise DataError(
                f"there are {len(end.beta)} coefficients and no more rows than that; allowed: more rows",
                step=STEP,
            )
        dispersion = deviance / dof
        covariance = covariance * dispersion
        value = -weight / 2 * (math.log(2 * math.pi * deviance / weight) + 1) if deviance > 0 else math.inf
    made = coefficients(
        state.names, end.beta, covariance, confidence, dof if asked.family == "linear" else math.inf
    )
    return RegressionResult(
        asked,
        made,
        covariance,
        number(total["rows"]),
        number(total["left_out"]),
        value,
        deviance,
        dispersion,
        dof,
        state.rounds,
        confidence,
    )


def _rows(columns: Columns, asked: Regression) -> Rows:
    names = [asked.response, *asked.columns, *(each for each in (asked.offset, asked.weights) if each)]
    rows = complete(columns, list(dict.fromkeys(names)), missing=asked.missing)
    y = rows.numbers[asked.response]
    if asked.family == "logistic" and not ((y == 0) | (y == 1)).all():
        raise DataError(f'"{asked.response}" has a value that is neither 0 nor 1; allowed: these', step=STEP)
    if asked.family == "poisson" and (y < 0).any():
        raise DataError(f'"{asked.response}" has a value below 0; allowed: counts, 0 or more', step=STEP)
    if asked.weights and (rows.numbers[asked.weights] < 0).any():
        raise DataError(f'"{asked.weights}" has a value below 0; allowed: weights, 0 or more', step=STEP)
    if asked.weights:
        kept = rows.numbers[asked.weights] > 0
        numbers = {name: each[kept] for name, each in rows.numbers.items()}
        rows = replace(rows, numbers=numbers, count=int(kept.sum()))
    return rows


def design(columns: Columns, asked: Regression) -> tuple[Floats, Floats]:
    """The columns of a site's rows, (n, k), without the intercept, and the rows' weights, (n,)."""
    rows = _rows(columns, asked)
    return rows.matrix(asked.columns), _weights(rows, asked)


def _weights(rows: Rows, asked: Regression) -> Floats:
    return rows.numbers[asked.weights] if asked.weights else np.ones(rows.count)


def _turned(family: Family, y: Floats, move: Floats, counted: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Rows that a step moves against their outcome, and along it."""
    if family == "linear":
        return 0, 0
    if family == "logistic":
        toward = np.where(y > 0, move, -move)
        return int((counted & (toward < -AGAINST)).sum()), int((counted & (toward > ALONG)).sum())
    # A count above 0 fixes its mean from both sides; one of 0 is ever more likely as its mean falls.
    against = np.where(y > 0, np.abs(move), move) > AGAINST
    return int((counted & against).sum()), int((counted & (y == 0) & (move < -ALONG)).sum())


def _linear(y: Floats, predictor: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    square = (y - predictor) ** 2
    return predictor, np.ones_like(y), -square / 2, square


def _logistic(y: Floats, predictor: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    mean = special.expit(predictor)
    value = -np.logaddexp(0.0, np.where(y > 0, -predictor, predictor))
    return mean, mean * special.expit(-predictor), value, -2 * value


def _poisson(y: Floats, predictor: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    mean = np.exp(predictor)
    value = y * predictor - mean - special.gammaln(y + 1)
    deviance = 2 * (special.xlogy(y, y) - y * predictor - (y - mean))
    return mean, mean, value, deviance


_FAMILIES: dict[str, Callable[[Floats, Floats], tuple[Floats, Floats, Floats, Floats]]] = {
    "linear": _linear,
    "logistic": _logistic,
    "poisson": _poisson,
}
