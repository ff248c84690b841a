"""Cox proportional hazards with one baseline for the rows of all sites, as one regression over all rows gives it.

Risk sets lie over all sites, so sums at each event time must be added. Question, round 0 and result are those of `cox`:

    round 0   `cox.partial_start`   with a grid, events at each point          `cox.combine_start`, `event_times`
    a round   `partial_risk`        sums over the risk set of each event time  `combine_risk`
              `partial_spread`      the information                            `combine_spread`
    the end   `cox.result`

What leaves a site, for p columns, a grid of t points and m of them with an event: round 0, t + 2 counts and 2 p sums; a
round, 3 counts and 2 m (p + 1) + p + 1 sums, then p^2 sums. Two sums over risk sets of one site, one after the other,
differ by the rows whose time lies between, which may be one row and tell its columns: they must not leave a site but in a
secure sum, and even the total tells the columns of a row that is alone, over all sites, between two event times. What the
sites learn is the coefficients of the round, the event times of all, and two numbers at each. Where that is too much, take
`cox`, which sends no time.

A row's time is the first point of the grid at or after it; on a grid with every time that occurs the result is that of the
pooled rows. What lies beyond the grid is censored at its end.

Source: Lu et al., WebDISCO, JAMIA 22, 2015 (risk-set sums over sites).
"""

from __future__ import annotations

import numpy as np

from fedcore.analytics.cox import Cox, follow, take
from fedcore.analytics.newton import State, advance
from fedcore.analytics.risk_sets import Followed, Risk, likelihood, risk_sums, spread
from fedcore.analytics.rows import Columns, Rows
from fedcore.analytics.sums import Floats, Ints, Sums, number
from fedcore.analytics.survival import on_grid
from fedcore.errors import DataError

STEP = "cox"


def event_times(total: Sums, asked: Cox) -> tuple[Floats, Ints]:
    """Times with an event, (m,) rising, and how many events at each, (m,): from the sums of round 0.

    Raises:
        DataError: The question has no grid.
    """
    if not asked.grid:
        raise DataError(
            "the question has no grid of times; one baseline for all sites needs one. Cure: give a grid, or stratify by site",
            step=STEP,
        )
    used = total["events"] > 0
    return np.asarray(asked.grid, np.float64)[used], total["events"][used]


def partial_risk(columns: Columns, asked: Cox, state: State, times: Floats) -> Sums:
    """First half of a round at a site.

    What leaves: `rows` and `left_out`, two counts; `risk` (m,) and `risk_columns` (m, p), over the rows at risk at each event
    time, of the hazards and of the columns times the hazards; `event` (m,) and `event_columns` (m, p), the same over the rows
    with an event at that time; `predictor` () and `columns` (p,), of the rows with an event; `far`, how many rows' predictors
    are out of range. Columns are reduced by the means and divided by the spreads of round 0.

    Args:
        columns: Of the site, (n,) each.
        asked: The question.
        state: Of the round, the same at all sites.
        times: (m,) with an event at some site, rising.

    Raises:
        DataError: A row has an event at a time that is not among these.
    """
    rows, followed, far = _followed(columns, asked, state)
    _check_times(followed, times)
    return {**rows.counts(), **risk_sums(followed, times), "far": np.asarray(np.int64(far))}


def combine_risk(total: Sums, asked: Cox, events: Ints) -> Risk:
    """Log-likelihood, gradient and the weights for the second half of the round.

    Args:
        total: Of `partial_risk`, added over sites.
        asked: The question.
        events: (m,) at each time.
    """
    return likelihood(total, events, asked.ties)


def partial_spread(columns: Columns, asked: Cox, state: State, times: Floats, risk: Risk) -> Sums:
    """Second half of a round at a site.

    What leaves: `information` (p, p), over rows of products of the columns, times the row's hazard and the weights of the
    event times at which it was at risk.

    Args:
        columns: Of the site, (n,) each.
        asked: The question.
        state: Of the round, the same at all sites.
        times: (m,) with an event at some site, rising.
        risk: Of the first half; only `at_risk` and `at_event`, (m,) each, need to go to the sites.
    """
    _, followed, _ = _followed(columns, asked, state)
    _check_times(followed, times)
    return {"information": spread(followed, times, risk)}


def combine_spread(total: Sums, first: Sums, risk: Risk, state: State) -> State:
    """The next round's state; ask again until it is `done`.

    Args:
        total: Of `partial_spread`, added over sites.
        first: Of `partial_risk`, added over sites.
        risk: What `combine_risk` made of it.
        state: Of the round.

    Raises:
        DataError: Columns depend on each other, or the likelihood grows without end.
        TaskFailed: It did not converge.
    """
    far = number(first["far"]) > 0
    return advance(state, risk.value, risk.gradient, total["information"] - risk.outer, far=far)


def _check_times(rows: Followed, times: Floats) -> None:
    if not np.isin(rows.time[rows.event], times).all():
        raise DataError(
            "a row has an event at a time that is not among the event times told; the rows are not those of round 0, or the "
            "times not those of all sites. Cure: ask again",
            step=STEP,
        )


def _followed(columns: Columns, asked: Cox, state: State) -> tuple[Rows, Followed, int]:
    rows = take(columns, asked)
    followed, far = follow(rows, asked, state)
    grid = np.asarray(asked.grid, np.float64)
    place = on_grid(followed.time, asked.grid)
    inside = place < len(grid)
    time = grid[np.minimum(place, len(grid) - 1)]
    return rows, Followed(time, followed.event & inside, followed.design, followed.predictor), far
