"""Counts of categories over sites: contingency tables, chi-square, odds ratios in strata (Mantel-Haenszel).

What leaves a site: a table of r by c categories, r c + 1 counts. An odds ratio whose strata are the sites, 1 count and 8
sums, in which a site's own table does not stand; with strata that lie over several sites, 4 counts for each stratum.

Sources: Mantel, Haenszel, JNCI 22, 1959; Robins, Breslow, Greenland, Biometrics 42, 1986 (variance of the logarithm).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from fedcore.analytics.moments import left_out_note
from fedcore.analytics.result import Table, check_confidence, chi_square_p, level_text, quantile
from fedcore.analytics.rows import Columns, Levels, Missing, Rows, complete
from fedcore.analytics.sums import Floats, Ints, Sums, number
from fedcore.errors import DataError

STEP = "table"


@dataclass(frozen=True, eq=False)
class Contingency:
    """A table of two columns.

    Args:
        names: Of the column down and the column across.
        down, across: Their categories, (r,) and (c,).
        counts: (r, c).
        left_out: Rows that missed a value.
    """

    names: tuple[str, str]
    down: tuple[Hashable, ...]
    across: tuple[Hashable, ...]
    counts: Ints
    left_out: int

    def table(self) -> Table:
        """The counts, with totals."""
        heads = (f"{self.names[0]} \\ {self.names[1]}", *map(str, self.across), "all")
        body = [
            (str(level), *row.tolist(), int(row.sum()))
            for level, row in zip(self.down, self.counts, strict=True)
        ]
        last = ("all", *self.counts.sum(axis=0).tolist(), int(self.counts.sum()))
        title = f"{self.names[0]} by {self.names[1]}"
        return Table(title, heads, (*body, last), left_out_note(self.left_out))


@dataclass(frozen=True, eq=False)
class ChiSquare:
    """Pearson's test that two columns are independent.

    Args:
        statistic, dof, p: Of the test.
        expected: (r, c) counts if they were, of the categories that occur.
        fewest: The smallest of these; below 5 the p-value is rough.
    """

    statistic: float
    dof: int
    p: float
    expected: Floats
    fewest: float

    def table(self) -> Table:
        """One row."""
        note = f"the smallest expected count is {self.fewest:.1f}"
        notes = (note + "; below 5 the p-value is rough" if self.fewest < 5 else note,)
        return Table("Chi-square", ("chi-square", "dof", "p"), ((self.statistic, self.dof, self.p),), notes)


@dataclass(frozen=True)
class OddsRatio:
    """A common odds ratio over strata.

    Args:
        ratio: Mantel-Haenszel's.
        low, high: Confidence interval.
        confidence: Its level.
        statistic, p: Mantel-Haenszel's chi-square with 1 degree of freedom, without a continuity correction.
        left_out: Rows that missed a value.
    """

    ratio: float
    low: float
    high: float
    confidence: float
    statistic: float
    p: float
    left_out: int

    def table(self) -> Table:
        """One row."""
        level = level_text(self.confidence)
        heads = ("odds ratio", f"{level} low", f"{level} high", "chi-square", "p")
        row = (self.ratio, self.low, self.high, self.statistic, self.p)
        return Table("Mantel-Haenszel", heads, (row,), left_out_note(self.left_out))


def partial_table(
    columns: Columns,
    down: str,
    down_levels: Levels,
    across: str,
    across_levels: Levels,
    *,
    missing: Missing = "refuse",
) -> Sums:
    """Rows of each pair of categories, at a site.

    What leaves: `counts` (r, c); `left_out`, a count.

    Args:
        columns: Of the site, (n,) each.
        down, across: Two columns of categories.
        down_levels, across_levels: All that they may have.
        missing: The rule for missing values.
    """
    rows = complete(columns, (), {down: down_levels, across: across_levels}, missing)
    cells = rows.codes[down] * len(across_levels) + rows.codes[across]
    counts = np.bincount(cells, minlength=len(down_levels) * len(across_levels)).astype(np.int64)
    return {
        "counts": counts.reshape(len(down_levels), len(across_levels)),
        "left_out": rows.counts()["left_out"],
    }


def combine_table(
    total: Sums, down: str, down_levels: Levels, across: str, across_levels: Levels
) -> Contingency:
    """The table over all sites."""
    left_out = number(total["left_out"])
    return Contingency((down, across), tuple(down_levels), tuple(across_levels), total["counts"], left_out)


def chi_square(table: Contingency) -> ChiSquare:
    """Pearson's chi-square, without a continuity correction, over the categories that occur.

    Raises:
        DataError: Fewer than two categories of one column occur.
    """
    counts = table.counts[table.counts.sum(axis=1) > 0][:, table.counts.sum(axis=0) > 0]
    dof = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    if dof < 1:
        raise DataError(
            f"{' by '.join(table.names)}: {counts.shape[0]} by {counts.shape[1]} categories occur; allowed: at least 2 by 2",
            step=STEP,
        )
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return ChiSquare(statistic, dof, chi_square_p(statistic, dof), expected, float(expected.min()))


def partial_odds_by_site(
    columns: Columns, exposure: str, outcome: str, *, missing: Missing = "refuse"
) -> Sums:
    """What an odds ratio stratified by site needs of a site, which is one stratum.

    What leaves: `left_out`, a count; `odds` (8,), with a, b, c, d the site's counts of exposed and not (down) by outcome
    and not (across), n = a + b + c + d, P = (a + d) / n, Q = (b + c) / n, R = a d / n, S = b c / n: the sums R, S, P R,
    P S + Q R, Q S, then a, its mean and its variance with the margins fixed. Alone these eight would tell the counts of
    one site; added over sites they do not.

    Args:
        columns: Of the site, (n,) each.
        exposure, outcome: Columns of 0 and 1.
        missing: The rule for missing values.
    """
    rows = complete(columns, (), {exposure: (1, 0), outcome: (1, 0)}, missing)
    return {"left_out": rows.counts()["left_out"], "odds": _odds(_pairs(rows, exposure, outcome)[None])}


def partial_odds(
    columns: Columns, exposure: str, outcome: str, by: str, levels: Levels, *, missing: Missing = "refuse"
) -> Sums:
    """What an odds ratio in strata that lie over several sites needs of a site.

    What leaves: `counts` (s, 2, 2), rows of each stratum by exposed and not, outcome and not; `left_out`, a count.

    Args:
        columns: Of the site, (n,) each.
        exposure, outcome: Columns of 0 and 1.
        by: The column of the strata.
        levels: All s that it may have.
        missing: The rule for missing values.
    """
    rows = complete(columns, (), {exposure: (1, 0), outcome: (1, 0), by: levels}, missing)
    cells = rows.codes[by] * 4 + rows.codes[exposure] * 2 + rows.codes[outcome]
    counts = np.bincount(cells, minlength=4 * len(levels)).astype(np.int64)
    return {"counts": counts.reshape(len(levels), 2, 2), "left_out": rows.counts()["left_out"]}


def combine_odds(total: Sums, *, confidence: float = 0.95) -> OddsRatio:
    """The common odds ratio, its interval and its test.

    Args:
        total: Of `partial_odds_by_site` or `partial_odds`, added over sites.
        confidence: Level of the interval.

    Raises:
        DataError: No stratum tells anything of the ratio, or it is 0 or infinite in all of them.
    """
    check_confidence(confidence)
    sums = total["odds"] if "odds" in total else _odds(total["counts"])
    r, s, pr, mixed, qs, seen, mean, variance = sums.tolist()
    if variance <= 0 or r <= 0 or s <= 0:
        raise DataError(
            "no stratum has exposed and unexposed rows with and without the outcome, so the odds ratio is 0, infinite or "
            "anything. Cure: wider strata",
            step=STEP,
        )
    error = math.sqrt(pr / (2 * r * r) + mixed / (2 * r * s) + qs / (2 * s * s))
    ratio, far = r / s, quantile(confidence) * error
    statistic = (seen - mean) ** 2 / variance
    return OddsRatio(
        ratio,
        ratio * math.exp(-far),
        ratio * math.exp(far),
        confidence,
        statistic,
        chi_square_p(statistic, 1),
        number(total["left_out"]),
    )


def _pairs(rows: Rows, exposure: str, outcome: str) -> Ints:
    cells = rows.codes[exposure] * 2 + rows.codes[outcome]
    return np.bincount(cells, minlength=4).astype(np.int64).reshape(2, 2)


def _odds(tables: Ints) -> Floats:
    """The eight sums over tables, (s, 2, 2); one with fewer than 2 rows adds nothing."""
    sums = np.zeros(8)
    for table in tables.astype(np.float64):
        (a, b), (c, d) = table.tolist()
        n = a + b + c + d
        if n < 2:
            continue
        p, q, r, s = (a + d) / n, (b + c) / n, a * d / n, b * c / n
        mean = (a + b) * (a + c) / n
        variance = mean * (c + d) * (b + d) / (n * (n - 1))
        sums += (r, s, p * r, p * s + q * r, q * s, a, mean, variance)
    return sums
