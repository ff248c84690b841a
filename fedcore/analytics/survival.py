"""Kaplan-Meier curves and the log-rank test over sites.

Times are counted on a grid that all sites agree on before: a row's time is the first point of the grid at or after it. On
a grid that has every time that occurs (days, where time is in days), curves and tests are those of the pooled rows; on a
coarser one they are those of times rounded up. Rows beyond the last point are followed up to it and count as censored
there; how many is told.

What leaves a site, for g groups and a grid of t points: 2 g t + 2 g + 2 counts: of each group, the rows with an event and
the rows censored at each point. Over all sites together these counts are small, and they are the event times: what the
curve shows. A log-rank test stratified by site sends g + g^2 sums and no time at all.

One censored at the time of an event counts as at risk.
Sources: Kaplan, Meier, JASA 53, 1958; Greenwood, 1926; Kalbfleisch, Prentice, The Statistical Analysis of Failure Time
Data, 2002, section 1.4 (intervals on the scale of log(-log)), section 1.5 (log-rank).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedcore.analytics.moments import left_out_note
from fedcore.analytics.result import Table, check_confidence, chi_square_p, level_text, quantile
from fedcore.analytics.rows import Columns, Missing, Rows, complete
from fedcore.analytics.sums import Floats, Ints, Sums, number
from fedcore.errors import DataError, did_you_mean

STEP = "survival"
Interval = Literal["log-log", "log", "plain"]
INTERVALS: tuple[Interval, ...] = ("log-log", "log", "plain")


@dataclass(frozen=True)
class Survival:
    """What is asked.

    Args:
        time: Column of the time to the event or to the end of follow-up, 0 or more.
        event: Column of 1 for an event and 0 for none.
        grid: (t,) points of time, rising, the first 0 or more; see `time_grid`.
        by: Column that makes groups; None for one group.
        levels: All g values that `by` may have.
        missing: The rule for missing values.
    """

    time: str
    event: str
    grid: tuple[float, ...]
    by: str | None = None
    levels: tuple[Hashable, ...] = ()
    missing: Missing = "refuse"

    def __post_init__(self) -> None:
        points = np.asarray(self.grid, np.float64)
        bad = points.ndim != 1 or not len(points) or not np.isfinite(points).all()
        if bad or points[0] < 0 or (np.diff(points) <= 0).any():
            raise DataError(
                "the grid does not rise from 0 or more; allowed: finite times, each above the last", step=STEP
            )
        if (self.by is None) != (not self.levels):
            raise DataError(
                "groups need both the column and all its levels; allowed: both or neither", step=STEP
            )

    @property
    def groups(self) -> tuple[Hashable, ...]:
        """(g,) names of the groups; `all` where there is one."""
        return self.levels or ("all",)


@dataclass(frozen=True, eq=False)
class Curve:
    """Kaplan-Meier's curve of a group.

    Args:
        group: Its name.
        time: (m,) points at which a row had an event or was censored.
        at_risk, events, censored: (m,) rows.
        survival: (m,) share without an event just after each time.
        error: (m,) Greenwood's standard error of it.
        low, high: (m,) pointwise confidence interval; NaN where there is none.
        confidence: Its level.
        cut: Whether it ends where fewer rows are at risk than may be told of.
    """

    group: Hashable
    time: Floats
    at_risk: Ints
    events: Ints
    censored: Ints
    survival: Floats
    error: Floats
    low: Floats
    high: Floats
    confidence: float
    cut: bool = False

    @property
    def rows(self) -> int:
        """Of the group."""
        return int(self.at_risk[:1].sum())

    @property
    def median(self) -> tuple[float, float, float]:
        """First time at which half had the event, and its interval; infinite where the curve does not come so low."""
        return _first(self.time, self.survival), _first(self.time, self.low), _first(self.time, self.high)


@dataclass(frozen=True, eq=False)
class SurvivalResult:
    """Curves of all groups.

    Args:
        asked: The question.
        curves: One a group.
        beyond: Rows whose time is beyond the grid.
        left_out: Rows that missed a value.
    """

    asked: Survival
    curves: tuple[Curve, ...]
    beyond: int
    left_out: int

    def table(self) -> Table:
        """A row a group: rows, events, median."""
        made = tuple(
            (str(each.group), each.rows, int(each.events.sum()), *each.median) for each in self.curves
        )
        level = level_text(self.curves[0].confidence)
        heads = (self.asked.by or "group", "rows", "events", "median", f"{level} low", f"{level} high")
        past = (f"{self.beyond} rows censored at the end of the grid",) if self.beyond else ()
        return Table(f"Kaplan-Meier of {self.asked.time}", heads, made, past + left_out_note(self.left_out))

    def steps(self) -> Table:
        """A row a time and group: the curve itself."""
        heads = (
            "group",
            "time",
            "at risk",
            "events",
            "censored",
            "survival",
            "standard error",
            "low",
            "high",
        )
        made = []
        for each in self.curves:
            names = ("time", "at_risk", "events", "censored", "survival", "error", "low", "high")
            parts = [getattr(each, name) for name in names]
            rows = zip(*(part.tolist() for part in parts), strict=True)
            made += [(str(each.group), *row) for row in rows]
        return Table(f"Kaplan-Meier of {self.asked.time}", heads, tuple(made))


@dataclass(frozen=True, eq=False)
class LogRank:
    """Whether groups have one survival.

    Args:
        groups: (g,) names.
        observed, expected: (g,) events, and those expected if so.
        statistic, dof, p: Chi-square.
        by_site: Whether each site was a stratum.
    """

    groups: tuple[Hashable, ...]
    observed: Floats
    expected: Floats
    statistic: float
    dof: int
    p: float
    by_site: bool

    def table(self) -> Table:
        """A row a group, and the test."""
        rows = zip(self.groups, self.observed.tolist(), self.expected.tolist(), strict=True)
        test = f"chi-square {self.statistic:.4f}, {self.dof} dof, p {self.p:.4g}"
        title = "Log-rank test, stratified by site" if self.by_site else "Log-rank test"
        return Table(
            title, ("group", "events", "expected"), tuple((str(a), b, c) for a, b, c in rows), (test,)
        )


def time_grid(end: float, unit: float = 1.0) -> tuple[float, ...]:
    """Points of time 0, unit, 2 unit ... up to `end` or the first beyond it.

    Raises:
        DataError: The end or the unit is not above 0, or there would be more than a million points.
    """
    if not (math.isfinite(end) and math.isfinite(unit) and end > 0 and unit > 0) or end / unit > 1e6:
        raise DataError(
            f"a grid up to {end} by {unit}; allowed: both above 0, at most a million points. Cure: a larger unit",
            step=STEP,
        )
    return tuple(place * unit for place in range(math.ceil(end / unit - 1e-9) + 1))


def partial_survival(columns: Columns, asked: Survival) -> Sums:
    """Events and censored rows at each time, at a site.

    What leaves: `events` and `censored` (g, t), rows of each group whose time ends at each point; `beyond` (g,), rows whose
    time is beyond the grid; `rows` (g,) and `left_out`, counts.

    Args:
        columns: Of the site, (n,) each.
        asked: The question.

    Raises:
        DataError: A time is below 0 or an event neither 0 nor 1.
    """
    rows, group = _rows(columns, asked)
    points, size = len(asked.grid), len(asked.groups)
    place = on_grid(rows.numbers[asked.time], asked.grid)
    inside, event = place < points, rows.numbers[asked.event] > 0
    cell = group * points + np.minimum(place, points - 1)
    return {
        "events": _count(cell[inside & event], size * points).reshape(size, points),
        "censored": _count(cell[inside & ~event], size * points).reshape(size, points),
        "beyond": _count(group[~inside], size),
        "rows": _count(group, size),
        "left_out": rows.counts()["left_out"],
    }


def combine_survival(
    total: Sums, asked: Survival, *, confidence: float = 0.95, interval: Interval = "log-log"
) -> SurvivalResult:
    """Kaplan-Meier's curves with Greenwood's intervals.

    Args:
        total: Of `partial_survival`, added over sites.
        asked: The question.
        confidence: Level of the intervals.
        interval: Scale on which they are symmetric: `log-log` and `log` stay above 0, `plain` is cut to 0 and 1.

    Raises:
        DataError: No site has a row, or there is no such interval.
    """
    check_confidence(confidence)
    if interval not in INTERVALS:
        raise DataError(f'interval is "{interval}"; {did_you_mean(str(interval), INTERVALS)}', step=STEP)
    if int(total["rows"].sum()) <= 0:
        raise DataError("no site has a complete row; allowed: at least one in all", step=STEP)
    events, censored, risk = _tables(total)
    far = quantile(confidence)
    curves = []
    for place, group in enumerate(asked.groups):
        used = events[place] + censored[place] > 0
        d, n = events[place][used], risk[place][used]
        survival = np.cumprod(1 - d / n)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            spread = np.sqrt(np.cumsum(d / (n * (n - d))))
            error = np.where(survival > 0, survival * spread, np.nan)
            low, high = _interval(survival, spread, far, interval)
        time = np.asarray(asked.grid, np.float64)[used]
        curves.append(Curve(group, time, n, d, censored[place][used], survival, error, low, high, confidence))
    return SurvivalResult(asked, tuple(curves), int(total["beyond"].sum()), number(total["left_out"]))


def log_rank(total: Sums, asked: Survival) -> LogRank:
    """The log-rank test, not stratified, of the same sums as the curves.

    Raises:
        DataError: There are fewer than two groups with rows, or no event.
    """
    _two_groups(asked)
    events, _, risk = _tables(total)
    return _log_rank(_log_rank_sums(events, risk), asked, by_site=False)


def partial_log_rank_by_site(columns: Columns, asked: Survival) -> Sums:
    """What a log-rank test stratified by site needs of a site, which is one stratum.

    What leaves: `observed` and `expected` (g,), events of each group and those expected from the site's own rows at risk;
    `variance` (g, g) of their difference; `left_out`, a count. No time.

    Args:
        columns: Of the site, (n,) each.
        asked: The question; its grid is used as in `partial_survival`.
    """
    part = partial_survival(columns, asked)
    events, _, risk = _tables(part)
    return {**_log_rank_sums(events, risk), "left_out": part["left_out"]}


def combine_log_rank_by_site(total: Sums, asked: Survival) -> LogRank:
    """The log-rank test stratified by site.

    Raises:
        DataError: There are fewer than two groups that can be compared within sites, or no event.
    """
    _two_groups(asked)
    return _log_rank(total, asked, by_site=True)


def on_grid(times: Floats, grid: tuple[float, ...]) -> Ints:
    """Place of the first point at or after each time; the number of points where there is none.

    A time above a point by no more than rounding is at it.
    """
    places = np.searchsorted(np.asarray(grid, np.float64), times * (1 - 1e-12), side="left")
    return places.astype(np.int64)


def _rows(columns: Columns, asked: Survival) -> tuple[Rows, Ints]:
    by = {asked.by: asked.levels} if asked.by else None
    rows = complete(columns, [asked.time, asked.event], by, asked.missing)
    check_times(rows, asked.time, asked.event)
    return rows, rows.codes[asked.by] if asked.by else np.zeros(rows.count, np.int64)


def check_times(rows: Rows, time: str, event: str) -> None:
    """Raise a DataError unless times are 0 or more and events 0 or 1."""
    if (rows.numbers[time] < 0).any():
        raise DataError(f'"{time}" has a value below 0; allowed: times, 0 or more', step=STEP)
    if not np.isin(rows.numbers[event], (0, 1)).all():
        raise DataError(
            f'"{event}" has a value that is neither 0 nor 1; allowed: 1 for an event, 0 for none. Cure: code it so',
            step=STEP,
        )


def _count(places: Ints, size: int) -> Ints:
    return np.bincount(places, minlength=size).astype(np.int64)


def _tables(total: Sums) -> tuple[Ints, Ints, Ints]:
    """(g, t) events, censored rows and rows at risk; what is beyond the grid is censored at its end."""
    events, censored = total["events"], total["censored"].copy()
    censored[:, -1] += total["beyond"]
    gone = events + censored
    return events, censored, np.cumsum(gone[:, ::-1], axis=1)[:, ::-1]


def _interval(survival: Floats, spread: Floats, far: float, scale: Interval) -> tuple[Floats, Floats]:
    if scale == "plain":
        reach = far * survival * spread
        low, high = np.maximum(survival - reach, 0), np.minimum(survival + reach, 1)
    elif scale == "log":
        low, high = survival * np.exp(-far * spread), np.minimum(survival * np.exp(far * spread), 1)
    else:
        log = np.log(survival)
        reach = far * spread / np.abs(log)
        low, high = np.exp(log * np.exp(reach)), np.exp(log * np.exp(-reach))
    known = (survival > 0) & (survival < 1)
    certain = np.where(survival == 1, 1.0, np.nan)
    return np.where(known, low, certain), np.where(known, high, certain)


def _first(time: Floats, survival: Floats) -> float:
    """First time at which a curve is at or below one half; a curve that ends has an unknown bound there."""
    low = survival <= 0.5 + 1e-12
    return float(time[low.argmax()]) if low.any() else math.inf


def _log_rank_sums(events: Ints, risk: Ints) -> Sums:
    """Observed, expected and variance over the times with an event."""
    used = events.sum(axis=0) > 0
    d, n = events[:, used].sum(axis=0).astype(np.float64), risk[:, used].sum(axis=0).astype(np.float64)
    share = risk[:, used] / n
    factor = d * (n - d) / np.maximum(n - 1, 1)
    variance = np.diag((share * factor).sum(axis=1)) - (share * factor) @ share.T
    return {
        "observed": events.sum(axis=1).astype(np.float64),
        "expected": (share * d).sum(axis=1),
        "variance": variance,
    }


def _log_rank(sums: Sums, asked: Survival, *, by_site: bool) -> LogRank:
    observed, expected, variance = sums["observed"], sums["expected"], sums["variance"]
    if observed.sum() <= 0:
        raise DataError(f'"{asked.event}" is 0 in all rows: there is no event to compare', step=STEP)
    known = np.diag(variance) > 0
    if int(known.sum()) < 2:
        raise DataError("fewer than two groups are at risk together; allowed: at least two", step=STEP)
    apart, spread = (observed - expected)[known], variance[np.ix_(known, known)]
    # The rows of the variance add up to zero, so one direction at least has none but rounding.
    size, along = np.linalg.eigh((spread + spread.T) / 2)
    real = size > 1e-9 * size.max()
    statistic, dof = float(((along.T @ apart)[real] ** 2 / size[real]).sum()), int(real.sum())
    return LogRank(asked.groups, observed, expected, statistic, dof, chi_square_p(statistic, dof), by_site)


def _two_groups(asked: Survival) -> None:
    if len(asked.groups) < 2:
        raise DataError("the question has one group; allowed: two or more, with `by` and `levels`", step=STEP)
