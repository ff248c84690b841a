"""Means of groups over sites, Welch's t-test and one-way analysis of variance.

    round 1   `partial_group_sums`      count and sum of each group           gives the means of the groups
    round 2   `partial_group_moments`   sums and squares around those means   gives their variances

What leaves a site, for g groups: round 1, g + 1 counts and g sums; round 2, g + 1 counts, g sums and g sums of squares.

Sources: Welch, Biometrika 34, 1947; Satterthwaite, Biometrics Bulletin 2, 1946 (degrees of freedom).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from scipy import special

from fedcore.analytics.moments import left_out_note
from fedcore.analytics.result import Table, check_confidence, level_text, quantile, two_sided
from fedcore.analytics.rows import Columns, Levels, Missing, complete
from fedcore.analytics.sums import Floats, Ints, Sums, number
from fedcore.errors import DataError, did_you_mean

STEP = "groups"


@dataclass(frozen=True, eq=False)
class Groups:
    """Mean and variance of a column in each group.

    Args:
        value, by: The column, and the one that makes the groups.
        levels: (g,) the groups.
        rows: (g,).
        left_out: Rows that missed a value.
        mean: (g,); NaN of no row.
        variance: (g,), divided by rows - 1; NaN of fewer than 2.
    """

    value: str
    by: str
    levels: tuple[Hashable, ...]
    rows: Ints
    left_out: int
    mean: Floats
    variance: Floats

    def table(self) -> Table:
        """A row a group."""
        made = tuple(
            (str(level), int(rows), mean, math.sqrt(variance))
            for level, rows, mean, variance in zip(
                self.levels, self.rows, self.mean.tolist(), self.variance.tolist(), strict=True
            )
        )
        heads = (self.by, "rows", "mean", "standard deviation")
        return Table(f"{self.value} by {self.by}", heads, made, left_out_note(self.left_out))


@dataclass(frozen=True)
class TTest:
    """Welch's t-test of two groups' means.

    Args:
        groups: The two names; the second is subtracted from the first.
        difference, error: Of the means, and its standard error.
        statistic, dof: Student's t and its degrees of freedom.
        p: Two-sided.
        low, high: Confidence interval of the difference.
        confidence: Its level.
    """

    groups: tuple[Hashable, Hashable]
    difference: float
    error: float
    statistic: float
    dof: float
    p: float
    low: float
    high: float
    confidence: float

    def table(self) -> Table:
        """One row."""
        level = level_text(self.confidence)
        heads = ("groups", "difference", "standard error", "t", "dof", "p", f"{level} low", f"{level} high")
        name = f"{self.groups[0]} − {self.groups[1]}"
        cells = (self.difference, self.error, self.statistic, self.dof, self.p, self.low, self.high)
        return Table("Welch's t-test", heads, ((name, *cells),))


@dataclass(frozen=True)
class Anova:
    """One-way analysis of variance.

    Args:
        between, within: Sums of squares.
        dof: Of both.
        statistic: F.
        p: Of no difference.
    """

    between: float
    within: float
    dof: tuple[int, int]
    statistic: float
    p: float

    def table(self) -> Table:
        """Between and within groups."""
        first = ("between", self.between, self.dof[0], self.between / self.dof[0], self.statistic, self.p)
        second = ("within", self.within, self.dof[1], self.within / self.dof[1], None, None)
        heads = ("groups", "sum of squares", "dof", "mean square", "F", "p")
        return Table("Analysis of variance", heads, (first, second))


def partial_group_sums(
    columns: Columns, value: str, by: str, levels: Levels, *, missing: Missing = "refuse"
) -> Sums:
    """Round 1 at a site.

    What leaves: `rows` (g,), rows of each group; `left_out`, a count; `sum` (g,), the column's sum in each group.

    Args:
        columns: Of the site, (n,) each.
        value: A column of numbers.
        by: A column of categories.
        levels: All g that it may have.
        missing: The rule for missing values.
    """
    rows = complete(columns, [value], {by: levels}, missing)
    codes, size = rows.codes[by], len(levels)
    return {
        "rows": np.bincount(codes, minlength=size).astype(np.int64),
        "left_out": rows.counts()["left_out"],
        "sum": np.bincount(codes, rows.numbers[value], size).astype(np.float64),
    }


def combine_group_sums(total: Sums) -> Floats:
    """The means of the groups, (g,), which are the centre of round 2; 0 of a group without rows."""
    made: Floats = total["sum"] / np.maximum(total["rows"], 1)
    return made


def partial_group_moments(
    columns: Columns, value: str, by: str, levels: Levels, centre: Floats, *, missing: Missing = "refuse"
) -> Sums:
    """Round 2 at a site.

    What leaves: `rows` (g,), rows of each group; `left_out`, a count; `sum` and `square` (g,), of the column minus its
    group's centre.

    Args:
        columns: Of the site, (n,) each.
        value: A column of numbers.
        by: A column of categories.
        levels: All g that it may have.
        centre: (g,), the same at all sites.
        missing: The rule for missing values.
    """
    rows = complete(columns, [value], {by: levels}, missing)
    codes, size = rows.codes[by], len(levels)
    apart = rows.numbers[value] - centre[codes]
    return {
        "rows": np.bincount(codes, minlength=size).astype(np.int64),
        "left_out": rows.counts()["left_out"],
        "sum": np.bincount(codes, apart, size).astype(np.float64),
        "square": np.bincount(codes, apart * apart, size).astype(np.float64),
    }


def combine_group_moments(total: Sums, value: str, by: str, levels: Levels, centre: Floats) -> Groups:
    """Mean and variance of each group."""
    rows = total["rows"]
    shift = total["sum"] / np.maximum(rows, 1)
    left = total["square"] - rows * shift**2
    variance = np.where(rows > 1, left / np.maximum(rows - 1, 1), np.nan)
    mean = np.where(rows > 0, centre + shift, np.nan)
    return Groups(value, by, tuple(levels), rows, number(total["left_out"]), mean, variance)


def welch(groups: Groups, first: Hashable, second: Hashable, *, confidence: float = 0.95) -> TTest:
    """Welch's t-test: whether two groups have one mean, their variances being what they are.

    Args:
        groups: From `combine_group_moments`.
        first, second: Two of its levels.
        confidence: Level of the interval.

    Raises:
        DataError: A group is not there or has fewer than two rows, or neither varies.
    """
    check_confidence(confidence)
    known = list(groups.levels)
    for each in (first, second):
        if each not in known:
            raise DataError(
                f"there is no group {each!r}; {did_you_mean(str(each), map(str, known))}", step=STEP
            )
    a, b = known.index(first), known.index(second)
    for place in (a, b):
        _enough(groups, place)
    parts = [float(groups.variance[place]) / int(groups.rows[place]) for place in (a, b)]
    if sum(parts) <= 0:
        raise DataError(
            f"{groups.value} does not vary in either group; a t-test needs that it does", step=STEP
        )
    error = math.sqrt(sum(parts))
    rows = (int(groups.rows[a]), int(groups.rows[b]))
    dof = sum(parts) ** 2 / sum(part**2 / (n - 1) for part, n in zip(parts, rows, strict=True))
    difference = float(groups.mean[a] - groups.mean[b])
    far = quantile(confidence, dof) * error
    return TTest(
        (first, second),
        difference,
        error,
        difference / error,
        dof,
        two_sided(difference / error, dof),
        difference - far,
        difference + far,
        confidence,
    )


def anova(groups: Groups) -> Anova:
    """One-way analysis of variance over the groups that have rows.

    Raises:
        DataError: There are fewer than two groups with rows, no more rows than groups, or nothing varies within one.
    """
    used = groups.rows > 0
    rows, mean = groups.rows[used], groups.mean[used]
    dof = (int(used.sum()) - 1, int(rows.sum()) - int(used.sum()))
    if dof[0] < 1 or dof[1] < 1:
        raise DataError(
            f"there are {int(used.sum())} groups with rows, and {int(rows.sum())} rows; allowed: at least 2 groups and more "
            "rows than groups",
            step=STEP,
        )
    whole = float(rows @ mean) / float(rows.sum())
    between = float(rows @ (mean - whole) ** 2)
    several = groups.rows > 1
    within = float((groups.rows[several] - 1) @ groups.variance[several])
    if within <= 0:
        raise DataError(f"{groups.value} does not vary within any group of {groups.by}", step=STEP)
    statistic = (between / dof[0]) / (within / dof[1])
    return Anova(between, within, dof, statistic, float(special.fdtrc(*dof, statistic)))


def _enough(groups: Groups, place: int) -> None:
    if groups.rows[place] < 2:
        raise DataError(
            f"group {groups.levels[place]!r} of {groups.by} has too few rows for a variance; allowed: at least 2",
            step=STEP,
        )
