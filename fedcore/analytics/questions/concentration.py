"""How many rows carry the variance of a column, from sums: one that few rows carry gives their values back.

A slope, a covariance or a mean against a column in which one row stands out is a statement about that row, whatever the
column's codes are: 0 and 1, or 1 and 2. From sums of w z^j and w^2 z^j over rows, for z a column less its centre and w the
weight of a row, comes the number of rows that would carry as much if each carried the same,

    (sum w z^2)^2 / sum w^2 z^4,

which is about k where k rows of many stand out alike, and n / kurtosis in general. A column of two values is found by the
equality of Pearson's bound, kurtosis = skewness^2 + 1, which gives the rows on its smaller side exactly.

What this does not see: rows that stand out in a combination of columns, and in none of them.

Sources: Kish, Survey Sampling, 1965, section 11.7 (the effective number of weighted rows); Pearson, Philosophical
Transactions A 216, 1916, page 440 (the bound).
"""

from __future__ import annotations

import numpy as np

from fedcore.analytics.sums import Floats

POWERS = "powers"
STILL, BLURRED = 1e-12, 1e-7
"""Shares of a column's square that its variance may have where it does not vary, and where rounding hides how it does."""
TWO = 1e-6
"""How far from Pearson's bound, relatively, a column of two values may be by rounding."""


def powers(values: Floats, weight: Floats | None = None) -> Floats:
    """At a site: (2, 5, k), the sums over rows of w z^j, and below of w^2 z^j, for j from 0 to 4.

    Args:
        values: (n, k) columns about their centres and in the unit of their spread.
        weight: (n,) of the rows; 1 each where there are none.
    """
    by = np.ones(len(values)) if weight is None else weight
    risen = [values**power for power in range(5)]
    return np.stack([np.stack([each @ values_ for values_ in risen]) for each in (by, by**2)])


def carrying(total: Floats) -> Floats:
    """(k,) how many rows carry the variance of each column; of one that does not vary, how many carry the weight.

    Args:
        total: (2, 5, k) of `powers`, added over sites.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = total[0, 0]
        every: Floats = weight**2 / total[1, 0]
        mean = total[0, 1] / weight
        (_, second, third, fourth), (*_, square) = (_central(each, mean) for each in total)
        variance = second / weight
        around = variance + mean**2
        alike = second**2 / square
        skew = (third / weight) ** 2 / variance**3
        bound = (fourth / weight) / variance**2
        two = bound - skew - 1 <= TWO * bound
        # The smaller of p and 1 - p, of which the square of the skewness is 1 / (p (1 - p)) - 4.
        side = 2 / (skew + 4 + np.sqrt(skew * (skew + 4)))
    found = np.where(two, np.round(every * side), alike)
    found = np.where(variance > BLURRED * around, found, 0.0)
    made: Floats = np.where(variance > STILL * around, np.minimum(every, found), every)
    return made


def two_valued(total: Floats) -> Floats:
    """(k,) rows on the smaller side of each column of two values; infinite for other columns.

    Args:
        total: (2, 5, k) of `powers`, added over sites.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = total[0, 0]
        _, second, third, fourth = _central(total[0], total[0, 1] / rows) / rows
        skew, bound = third**2 / second**3, fourth / second**2
        two = (second > STILL * total[0, 2] / rows) & (bound - skew - 1 <= TWO * bound)
        made: Floats = np.where(two, np.round(rows * 2 / (skew + 4 + np.sqrt(skew * (skew + 4)))), np.inf)
    return made


def _central(sums: Floats, mean: Floats) -> Floats:
    """(4, k): of sums of powers 0 to 4, those of powers 1 to 4 around a mean."""
    zero, one, two, three, four = sums
    return np.stack(
        [
            one - mean * zero,
            two - 2 * mean * one + mean**2 * zero,
            three - 3 * mean * two + 3 * mean**2 * one - mean**3 * zero,
            four - 4 * mean * three + 6 * mean**2 * two - 4 * mean**3 * one + mean**4 * zero,
        ]
    )
