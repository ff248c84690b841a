"""Count, sum, mean, variance, covariance, correlation and principal components of columns over sites.

    round 1   `partial_sums`      sums of the columns                       gives the means
    round 2   `partial_moments`   sums and products around those means      gives the covariance

Sums of squares around zero lose every digit where a mean is large beside the spread; around a centre that all sites agree
on they do not. Any centre gives the same result as far as numbers go: one that is known beforehand saves round 1.

What leaves a site, for k columns: round 1, 2 counts and k sums; round 2, 2 counts, k sums and k^2 sums of products.

Source: Chan, Golub, LeVeque, Algorithms for computing the sample variance, 1983, section 2 (two passes, corrected).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.analytics.result import Table, two_sided
from fedcore.analytics.rows import Columns, Missing, complete
from fedcore.analytics.sums import Floats, Sums, number
from fedcore.errors import DataError

STEP = "moments"
CONSTANT = 1e-13
"""A column whose spread is below this share of its mean does not vary: that is rounding."""


@dataclass(frozen=True, eq=False)
class Means:
    """What round 1 gives.

    Args:
        names: (k,).
        rows: Complete ones.
        left_out: That missed a value.
        sum, mean: (k,).
    """

    names: tuple[str, ...]
    rows: int
    left_out: int
    sum: Floats
    mean: Floats

    def table(self) -> Table:
        """A row a column."""
        rows = zip(self.names, self.sum.tolist(), self.mean.tolist(), strict=True)
        made = tuple((name, self.rows, total, mean) for name, total, mean in rows)
        return Table("Means", ("column", "rows", "sum", "mean"), made, left_out_note(self.left_out))


@dataclass(frozen=True, eq=False)
class Moments:
    """What round 2 gives.

    Args:
        names: (k,).
        rows: Complete ones.
        left_out: That missed a value.
        mean: (k,).
        covariance: (k, k), divided by rows - 1; NaN of one row.
    """

    names: tuple[str, ...]
    rows: int
    left_out: int
    mean: Floats
    covariance: Floats

    @property
    def sum(self) -> Floats:
        """(k,)."""
        made: Floats = self.mean * self.rows
        return made

    @property
    def variance(self) -> Floats:
        """(k,), divided by rows - 1."""
        made: Floats = np.diag(self.covariance).copy()
        return made

    def table(self) -> Table:
        """A row a column."""
        rows = zip(self.names, self.sum.tolist(), self.mean.tolist(), self.variance.tolist(), strict=True)
        made = tuple(
            (name, self.rows, total, mean, variance, math.sqrt(variance))
            for name, total, mean, variance in rows
        )
        heads = ("column", "rows", "sum", "mean", "variance", "standard deviation")
        return Table("Moments", heads, made, left_out_note(self.left_out))


@dataclass(frozen=True, eq=False)
class Correlation:
    """Pearson's correlations.

    Args:
        names: (k,).
        rows: Complete ones.
        r: (k, k).
        p: (k, k), two-sided, of r being 0; NaN of fewer than 3 rows.
    """

    names: tuple[str, ...]
    rows: int
    r: Floats
    p: Floats

    def table(self) -> Table:
        """A row a pair."""
        pairs = [(a, b) for a in range(len(self.names)) for b in range(a)]
        made = tuple(
            (self.names[b], self.names[a], float(self.r[a, b]), float(self.p[a, b])) for a, b in pairs
        )
        return Table("Correlation", ("column", "with", "r", "p"), made, (f"{self.rows} rows",))


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components, the largest first.

    Args:
        names: (k,).
        variance: (k,) along each component.
        share: (k,) of the whole variance.
        loadings: (k, k), a component a row, of length 1; its largest entry is positive.
    """

    names: tuple[str, ...]
    variance: Floats
    share: Floats
    loadings: Floats

    def table(self) -> Table:
        """A row a component."""
        made = tuple(
            (place + 1, float(self.variance[place]), float(self.share[place]), *self.loadings[place].tolist())
            for place in range(len(self.variance))
        )
        return Table("Principal components", ("component", "variance", "share", *self.names), made)


def partial_sums(columns: Columns, names: Sequence[str], *, missing: Missing = "refuse") -> Sums:
    """Round 1 at a site.

    What leaves: `rows` and `left_out`, two counts; `sum` (k,), the sum of each column.

    Args:
        columns: Of the site, (n,) each.
        names: k columns of numbers.
        missing: The rule for missing values.
    """
    rows = complete(columns, names, missing=missing)
    return {**rows.counts(), "sum": rows.matrix(names).sum(axis=0)}


def combine_sums(total: Sums, names: Sequence[str]) -> Means:
    """The means, which are the centre of round 2.

    Raises:
        DataError: No site has a row.
    """
    count = some_rows(total)
    return Means(tuple(names), count, number(total["left_out"]), total["sum"], total["sum"] / count)


def partial_moments(
    columns: Columns, names: Sequence[str], centre: Floats, *, missing: Missing = "refuse"
) -> Sums:
    """Round 2 at a site.

    What leaves: `rows` and `left_out`, two counts; `sum` (k,), of each column minus its centre; `cross` (k, k), of the
    products of each two columns minus their centres.

    Args:
        columns: Of the site, (n,) each.
        names: k columns of numbers.
        centre: (k,), the same at all sites.
        missing: The rule for missing values.
    """
    rows = complete(columns, names, missing=missing)
    apart = rows.matrix(names) - centre
    return {**rows.counts(), "sum": apart.sum(axis=0), "cross": apart.T @ apart}


def combine_moments(total: Sums, names: Sequence[str], centre: Floats) -> Moments:
    """Means and covariance.

    Raises:
        DataError: No site has a row.
    """
    count = some_rows(total)
    shift = total["sum"] / count
    cross = total["cross"] - count * np.outer(shift, shift)
    covariance = (cross + cross.T) / 2 / (count - 1) if count > 1 else np.full_like(cross, np.nan)
    return Moments(tuple(names), count, number(total["left_out"]), centre + shift, covariance)


def correlation(moments: Moments) -> Correlation:
    """Pearson's correlation of each two columns.

    Raises:
        DataError: There are fewer than two rows, or a column does not vary.
    """
    spread = _spread(moments)
    r = np.clip(moments.covariance / np.outer(spread, spread), -1.0, 1.0)
    np.fill_diagonal(r, 1.0)
    dof = moments.rows - 2
    p = np.full_like(r, np.nan)
    if dof > 0:
        for place, each in np.ndenumerate(r):
            left = (1 - each) * (1 + each)
            p[place] = two_sided(each * math.sqrt(dof / left), dof) if left > 0 else 0.0
    return Correlation(moments.names, moments.rows, r, p)


def principal_components(moments: Moments, *, scaled: bool = False) -> Components:
    """Principal components of the covariance, or of the correlation.

    Args:
        moments: Of the columns.
        scaled: Whether each column is divided by its standard deviation first.

    Raises:
        DataError: There are fewer than two rows, or nothing varies.
    """
    spread = _spread(moments, all_vary=scaled)
    matrix = moments.covariance / np.outer(spread, spread) if scaled else moments.covariance
    variance, vectors = np.linalg.eigh(matrix)
    variance, loadings = np.maximum(variance[::-1], 0.0), vectors.T[::-1]
    largest = np.abs(loadings).argmax(axis=1)
    loadings = loadings * np.sign(loadings[np.arange(len(loadings)), largest])[:, None]
    return Components(moments.names, variance, variance / variance.sum(), loadings)


def some_rows(total: Sums) -> int:
    """How many rows there are; a DataError where there are none."""
    count = number(total["rows"])
    if count <= 0:
        raise DataError("no site has a complete row; allowed: at least one in all", step=STEP)
    return count


def left_out_note(left_out: int) -> tuple[str, ...]:
    """What a table says of rows that missed a value."""
    return (f"{left_out} rows left out: a value is missing or none of the levels",) if left_out else ()


def _spread(moments: Moments, *, all_vary: bool = True) -> Floats:
    if moments.rows < 2:
        raise DataError("there is 1 row; allowed: at least 2", step=STEP)
    spread: Floats = np.sqrt(np.maximum(moments.variance, 0.0))
    constant = spread <= CONSTANT * np.abs(moments.mean)
    if constant.all() or (all_vary and constant.any()):
        names = [name for name, still in zip(moments.names, constant, strict=True) if still]
        raise DataError(
            f"{', '.join(names)}: all rows have one value; allowed: columns that vary. Cure: leave it out",
            step=STEP,
        )
    return spread
