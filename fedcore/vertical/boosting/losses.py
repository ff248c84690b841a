"""Losses of boosted trees: what the labels must be, where margins start, gradients, and what a margin means.

A margin is the sum of leaf weights: log-odds for `binary`, the value for `regression`, one score for each class for
`multiclass`. Gradients and second derivatives are those of XGBoost (Chen and Guestrin, KDD 2016, section 2.2).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError

Floats = npt.NDArray[np.float64]
Loss = Literal["binary", "regression", "multiclass"]

MOST_CLASSES = 255
FINEST = 30
"""Bits of the largest number at most."""
_STEP = "boosting"


def checked_labels(loss: Loss, y: npt.ArrayLike) -> Floats:
    """Labels as float64.

    Args:
        loss: Which one.
        y: (n,): 0 or 1 for `binary`, 0 to k - 1 for `multiclass`, any finite number for `regression`.

    Raises:
        DataError: A label is missing or not allowed, or all rows have the same.
    """
    labels = np.asarray(y, dtype=np.float64)
    if labels.ndim != 1:
        raise DataError(f"labels have shape {labels.shape}; one number for each row is needed", step=_STEP)
    if missing := int((~np.isfinite(labels)).sum()):
        raise DataError(
            f"{missing} of {len(labels)} labels are missing or infinite; leave their rows out", step=_STEP
        )
    if len(labels) == 0 or (labels == labels[0]).all():
        raise DataError(
            f"all {len(labels)} labels are the same; trees need rows of at least two kinds", step=_STEP
        )
    if loss == "binary" and (wrong := int((~np.isin(labels, (0.0, 1.0))).sum())):
        raise DataError(
            f"{wrong} labels are neither 0 nor 1, which loss: binary needs; 1 is the event", step=_STEP
        )
    if loss == "multiclass":
        classes = np.unique(labels)
        if len(classes) > MOST_CLASSES:
            raise DataError(f"{len(classes)} classes; at most {MOST_CLASSES} are allowed", step=_STEP)
        if not np.array_equal(classes, np.arange(len(classes))):
            raise DataError(
                f"the {len(classes)} classes are not numbered 0 to {len(classes) - 1} without a gap, which loss: "
                "multiclass needs; number them so",
                step=_STEP,
            )
    return labels


def class_count(loss: Loss, labels: Floats) -> int:
    """Trees of a round: one for each class of `multiclass`, else one."""
    return int(labels.max()) + 1 if loss == "multiclass" else 1


def start(loss: Loss, labels: Floats) -> Floats:
    """Margins before the first tree, (classes,): the best constant."""
    if loss == "regression":
        return np.array([labels.mean()])
    if loss == "binary":
        share = labels.mean()
        return np.array([np.log(share / (1.0 - share))])
    counts = np.bincount(labels.astype(np.intp)).astype(np.float64)
    return np.asarray(np.log(counts / counts.sum()))


def gradients(loss: Loss, labels: Floats, margins: Floats) -> tuple[Floats, Floats]:
    """First and second derivatives of the loss with respect to the margins.

    Args:
        loss: Which one.
        labels: (n,), checked.
        margins: (n, classes).

    Returns:
        g and h, both (n, classes).
    """
    if loss == "regression":
        return margins - labels[:, None], np.ones_like(margins)
    p = expected(loss, margins)
    if loss == "binary":
        p = p[:, None]
        return p - labels[:, None], p * (1.0 - p)
    hit = labels[:, None] == np.arange(margins.shape[1])
    # Twice the diagonal bounds the whole matrix of second derivatives of softmax from above.
    return p - hit, 2.0 * p * (1.0 - p)


def expected(loss: Loss, margins: Floats) -> Floats:
    """What margins stand for: a probability of 1, a value, or a probability for each class.

    Args:
        loss: Which one.
        margins: (n,), (n, 1) or (n, classes).

    Returns:
        (n,), for `multiclass` (n, classes).
    """
    if loss == "multiclass":
        powers = np.exp(margins - margins.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    flat = margins.reshape(len(margins))
    if loss == "regression":
        return flat
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * flat)))


def whole_numbers(
    values: Floats, limit: int, random: np.random.Generator
) -> tuple[npt.NDArray[np.int64], float]:
    """Values as whole numbers that add up to no more than a limit in size, rounded at random so that sums are unbiased.

    Args:
        values: (n,).
        limit: Of the sum of their absolute values, so of every sum of some of them.
        random: What they are rounded with.

    Returns:
        Numbers (n,), and the value of 1 of them, which depends on the values and is told to nobody.

    Raises:
        DataError: So many rows leave no digits for a row.

    Source:
        Shi, Ke, Chen, Zheng and Liu, "Quantized Training of Gradient Boosting Decision Trees", NeurIPS 2022, section
        4, shows that a few bits are enough when rounding is unbiased.
    """
    sizes = np.abs(values)
    total, largest = float(sizes.sum()), float(sizes.max(initial=0.0))
    if total == 0.0:
        return np.zeros(len(values), dtype=np.int64), 1.0
    unit = max(total / limit, largest / (1 << FINEST))
    while True:
        if unit > largest:
            raise DataError(
                f"{int((sizes > 0).sum())} rows leave no digits for a gradient at sums of up to {limit}; use goss or "
                "fewer rows",
                step=_STEP,
            )
        found = np.floor(values / unit + random.random(len(values))).astype(np.int64)
        if int(np.abs(found).sum()) <= limit:
            return found, unit
        unit *= 1.01
