"""The result of a fit, and what the label holder starts from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError, JobError
from fedcore.jobs.vertical import Logistic
from fedcore.vertical.glm_pass import EXTRA
from fedcore.vertical.sharing import Floats

Watch = Callable[[str, int, int], None]
"""Told of progress: phase, done, of."""

TARGET_BITS = 14
"""Bits of the largest value of y with the linear link."""
STEEP, STEEPEST = 0.17, 0.19
"""c for one unit of slope bound 1/4: momentum up to 0.45 is stable with the first, any with the second."""
CALM = 0.45


@dataclass(frozen=True, eq=False)
class Fit:
    """One party's part of a model.

    Args:
        coefficients: Of own columns, (d,) float64.
        intercept: At the label holder; 0 elsewhere.
        iterations: Passes over the rows.
        converged: Whether the change fell below the tolerance; None where nobody looked at it.
        standard_errors, p_values: Of own coefficients, (d,), where the job asked for them.
        intercept_error: Standard error of the intercept, at the label holder.
        trace: For each pass its number, the period, and what was opened; at the label holder.
    """

    coefficients: Floats
    intercept: float = 0.0
    iterations: int = 0
    converged: bool | None = None
    standard_errors: Floats | None = None
    p_values: Floats | None = None
    intercept_error: float | None = None
    trace: tuple[dict[str, float], ...] = ()


def wald(coefficients: Floats, errors: Floats) -> Floats:
    """Two-sided p-values of the coefficients over their standard errors."""
    return np.array(
        [math.erfc(abs(b) / (s * math.sqrt(2))) for b, s in zip(coefficients, errors, strict=True)]
    )


@dataclass(frozen=True, eq=False)
class Target:
    """What the label holder fits.

    Args:
        y: (n,), in units.
        weights: Of rows, (n,).
        intercept: To begin with, in units.
        curvature: c of `glm_curvature.preconditioner`.
        momentum: Of the optimiser.
        level: What the link's function is multiplied with, the mean of y for counts.
        unit: y was divided by it, coefficients are multiplied with it at the end.
    """

    y: Floats = field(repr=False)
    weights: Floats = field(repr=False)
    intercept: float
    curvature: float
    momentum: float
    level: float = 1.0
    unit: float = 1.0


def target_of(settings: Logistic, y: npt.NDArray[np.float64], rows: int, weights: Floats | None) -> Target:
    """The label, checked, and where the fit begins.

    Raises:
        DataError: The label or the weights cannot be used.
        JobError: Weights come with the linear link.
    """
    if y.shape != (rows,) or not np.isfinite(y).all():
        raise DataError(f"a label of shape {y.shape} for {rows} rows, or one with missing values", step="glm")
    given = np.ones(rows) if weights is None else np.asarray(weights, dtype=np.float64)
    if given.shape != (rows,) or not np.isfinite(given).all() or (given <= 0).any() or given.max() > 1e3:
        raise DataError("row weights: one for each row is needed, above 0 and at most 1000", step="glm")
    if settings.link == "linear":
        if weights is not None:
            raise JobError("row weights: not for the linear link; leave them out", step="glm")
        if y.min() == y.max():
            raise DataError("the label has one value; there is nothing to fit", step="glm")
        middle = float(y.mean())
        unit = 2.0 ** math.ceil(math.log2(float(np.abs(y - middle).max())) - (TARGET_BITS - EXTRA))
        return Target(y / unit, given, middle / unit, 1.0, 0.0, unit=unit)
    if settings.link == "poisson":
        if y.min() < 0 or y.max() == 0 or y.max() > 1e4:
            raise DataError("a Poisson label is a count of 0 or more, not all 0, at most 10,000", step="glm")
        level = float((given * y).sum() / given.sum())
        return Target(y, given, math.log(level), 2.0 * level * float(given.max()), CALM, level=level)
    if not np.isin(y, (0.0, 1.0)).all() or y.min() == y.max():
        raise DataError("a logistic label is 0 or 1, and both occur in the training rows", step="glm")
    if settings.class_weight is not None:
        counts = np.array([(y == 0).sum(), (y == 1).sum()])
        given = given * (rows / (2.0 * counts))[y.astype(np.int64)]
    base = float((given * y).sum() / given.sum())
    top = float(given.max())
    ratio = math.sqrt(0.5 * base * (1 - base) * float(given.mean()) / (STEEP * top))
    momentum = min(max((1 - ratio) / (1 + ratio), 0.4), 0.9)
    curvature = (STEEP if momentum <= CALM else STEEPEST) * top
    return Target(y, given, math.log(base / (1 - base)), curvature, momentum)
