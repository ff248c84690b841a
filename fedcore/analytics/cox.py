"""Cox proportional hazards over sites, with Breslow's or Efron's ties, each site with a baseline hazard of its own.

    round 0   `partial_start`        sums of the columns and of their squares      `combine_start`
    a round   `partial_stratified`   log-likelihood, gradient, information         `combine_stratified`
    the end   `result`

All sums over risk sets stay at the site. What leaves it, for p columns: round 0, 3 counts and 2 p sums; a round, 3 counts
and p^2 + p + 1 sums, and no time. For one baseline over all rows see `cox_pooled`, which needs sums at each event time.

Rows enter at time 0: late entry is not there.

Sources: Cox, JRSS B 34, 1972; Kalbfleisch, Prentice, The Statistical Analysis of Failure Time Data, 2002, section 4.4
(strata).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from fedcore.analytics import newton
from fedcore.analytics.moments import left_out_note, some_rows
from fedcore.analytics.newton import State, advance, found
from fedcore.analytics.result import Coefficient, Table, chi_square_p, coefficients, level_text
from fedcore.analytics.risk_sets import Followed, Ties, likelihood, risk_sums, spread
from fedcore.analytics.rows import Columns, Missing, Rows, complete
from fedcore.analytics.sums import Floats, Sums, number
from fedcore.analytics.survival import check_times, on_grid
from fedcore.errors import DataError, did_you_mean

STEP = "cox"
TIES: tuple[Ties, ...] = ("efron", "breslow")
FAR = 100.0
"""Predictor beyond which hazards are not taken; the step is halved."""


@dataclass(frozen=True)
class Cox:
    """What is asked.

    Args:
        time: Column of the time to the event or to the end of follow-up, 0 or more.
        event: Column of 1 for an event and 0 for none.
        columns: (p,) that the hazard depends on.
        ties: How events at one time count.
        strata: Further column of numbers, by which each site is cut into strata; only stratified.
        grid: Points of time, rising; empty for stratified by site.
        missing: The rule for missing values.
    """

    time: str
    event: str
    columns: tuple[str, ...]
    ties: Ties = "efron"
    strata: str | None = None
    grid: tuple[float, ...] = ()
    missing: Missing = "refuse"

    def __post_init__(self) -> None:
        if self.ties not in TIES:
            raise DataError(f'ties is "{self.ties}"; {did_you_mean(str(self.ties), TIES)}', step=STEP)
        names = [self.time, self.event, *self.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not self.columns:
            said = f"{', '.join(twice)} stands twice" if twice else "there is no column"
            raise DataError(f"{said} in the question; allowed: one or more columns, each once", step=STEP)
        if self.grid and (self.strata or (np.diff(self.grid) <= 0).any()):
            raise DataError(
                "a grid does not rise, or goes with strata; allowed: rising times, or strata", step=STEP
            )


@dataclass(frozen=True, eq=False)
class CoxResult:
    """What is found.

    Args:
        asked: The question.
        coefficients: Logarithms of hazard ratios.
        covariance: (p, p) of the estimates.
        rows, events, left_out: Counts.
        log_likelihood, null: Partial, at the estimates and at zero.
        rounds: Of Newton.
        confidence: Level of the intervals.
    """

    asked: Cox
    coefficients: tuple[Coefficient, ...]
    covariance: Floats
    rows: int
    events: int
    left_out: int
    log_likelihood: float
    null: float
    rounds: int
    confidence: float

    @property
    def ratio_test(self) -> tuple[float, int, float]:
        """Likelihood ratio of the model against none: chi-square, degrees of freedom, p."""
        statistic = max(0.0, 2 * (self.log_likelihood - self.null))
        return statistic, len(self.coefficients), chi_square_p(statistic, len(self.coefficients))

    def table(self) -> Table:
        """A row a coefficient; the interval is that of the hazard ratio."""
        level = level_text(self.confidence)
        rows = tuple(
            (each.name, each.estimate, each.error, each.statistic, each.p, *each.ratio)
            for each in self.coefficients
        )
        statistic, dof, p = self.ratio_test
        notes = (
            f"{self.rows} rows, {self.events} events, {self.rounds} rounds",
            f"log-likelihood {self.log_likelihood:.4f}; ratio test {statistic:.4f}, {dof} dof, p {p:.4g}",
            *left_out_note(self.left_out),
        )
        kind = "one baseline" if self.asked.grid else "stratified by site"
        heads = (
            "",
            "coefficient",
            "standard error",
            "z",
            "p",
            "hazard ratio",
            f"{level} low",
            f"{level} high",
        )
        return Table(
            f"Cox regression of {self.asked.time}, {kind}, {self.asked.ties.capitalize()} ties",
            heads,
            rows,
            notes,
        )


def partial_start(columns: Columns, asked: Cox) -> Sums:
    """Round 0 at a site.

    What leaves: `rows` and `left_out`, two counts; `sum` and `square` (p,), of the columns and of their squares; `events`
    (t,), the events at each point of the grid, or one count where there is no grid.

    Args:
        columns: Of the site, (n,) each.
        asked: The question.

    Raises:
        DataError: A time is below 0 or an event neither 0 nor 1.
    """
    rows = take(columns, asked)
    matrix = rows.matrix(asked.columns)
    place = on_grid(rows.numbers[asked.time], asked.grid) if asked.grid else np.zeros(rows.count, np.int64)
    size = max(1, len(asked.grid))
    happened = (rows.numbers[asked.event] > 0) & (place < size)
    return {
        **rows.counts(),
        "sum": matrix.sum(axis=0),
        "square": (matrix**2).sum(axis=0),
        "events": np.bincount(place[happened], minlength=size).astype(np.int64),
    }


def combine_start(total: Sums, asked: Cox) -> State:
    """Where Newton begins: at no effect.

    Raises:
        DataError: No site has a row, or there is no event.
    """
    count = some_rows(total)
    if int(total["events"].sum()) <= 0:
        raise DataError(f'"{asked.event}" is 0 in all rows: there is no event to learn from', step=STEP)
    state = newton.start(total, asked.columns, intercept=False)
    mean = total["sum"] / count
    # A shift of a column cancels in a partial likelihood, so columns may be centred without an intercept.
    tiny = 16 * np.finfo(np.float64).eps * mean**2
    scale = np.sqrt(np.maximum(total["square"] / count - mean**2, tiny))
    return replace(state, centre=mean, scale=np.where(scale > 0, scale, 1.0))


def partial_stratified(columns: Columns, asked: Cox, state: State) -> Sums:
    """A round at a site that is a stratum, or several.

    What leaves: `rows` and `left_out`, two counts; `value`, the site's log-likelihood; `gradient` (p,); `information` (p, p);
    `far`, how many rows' predictors are out of range. A stratum without an event adds nothing but its rows.

    Args:
        columns: Of the site, (n,) each.
        asked: The question.
        state: Of the round, the same at all sites.
    """
    rows = take(columns, asked)
    size = len(asked.columns)
    value, gradient, information = 0.0, np.zeros(size), np.zeros((size, size))
    followed, far = follow(rows, asked, state)
    for stratum in _strata(rows, followed, asked):
        times, events = np.unique(stratum.time[stratum.event], return_counts=True)
        if not len(times):
            continue
        risk = likelihood(risk_sums(stratum, times), events, asked.ties)
        value += risk.value
        gradient += risk.gradient
        information += spread(stratum, times, risk) - risk.outer
    return {
        **rows.counts(),
        "value": np.asarray(value),
        "gradient": gradient,
        "information": information,
        "far": np.asarray(np.int64(far)),
    }


def combine_stratified(total: Sums, state: State) -> State:
    """The next round's state; ask again until it is `done`.

    Raises:
        DataError: Columns depend on each other within the strata, or the likelihood grows without end.
        TaskFailed: It did not converge.
    """
    far = number(total["far"]) > 0
    return advance(state, float(total["value"]), total["gradient"], total["information"], far=far)


def result(start: Sums, asked: Cox, state: State, *, confidence: float = 0.95) -> CoxResult:
    """The table of the model.

    Args:
        start: Of `partial_start`, added over sites.
        asked: The question.
        state: That is done.
        confidence: Level of the intervals.

    Raises:
        TaskFailed: The state is not done.
    """
    end = found(state)
    made = coefficients(asked.columns, end.beta, end.covariance, confidence)
    return CoxResult(
        asked,
        made,
        end.covariance,
        number(start["rows"]),
        int(start["events"].sum()),
        number(start["left_out"]),
        float(state.value if state.value is not None else math.nan),
        state.null,
        state.rounds,
        confidence,
    )


def take(columns: Columns, asked: Cox) -> Rows:
    """The rows of a site that the question is over, checked."""
    names = [asked.time, asked.event, *asked.columns, *([asked.strata] if asked.strata else [])]
    rows = complete(columns, list(dict.fromkeys(names)), missing=asked.missing)
    check_times(rows, asked.time, asked.event)
    return rows


def follow(rows: Rows, asked: Cox, state: State) -> tuple[Followed, int]:
    """The rows as a round sees them, and how many are out of range; where any is, all predictors are set to 0."""
    design = state.design(rows.matrix(asked.columns))
    predictor = design @ state.beta
    far = int((np.abs(predictor) > FAR).sum())
    event = rows.numbers[asked.event] > 0
    return Followed(
        rows.numbers[asked.time], event, design, np.zeros_like(predictor) if far else predictor
    ), far


def _strata(rows: Rows, all_rows: Followed, asked: Cox) -> Iterator[Followed]:
    codes = rows.numbers[asked.strata] if asked.strata else np.zeros(rows.count)
    for code in np.unique(codes):
        inside = codes == code
        predictor = all_rows.predictor[inside]
        # Within one stratum a factor common to all hazards cancels.
        predictor = predictor - predictor.max()
        yield Followed(all_rows.time[inside], all_rows.event[inside], all_rows.design[inside], predictor)
