"""Sums over risk sets, and the partial likelihood of Cox's model from them.

For an event time t with d events, sums are taken over the rows at risk (time >= t) and over the d rows themselves. Breslow's
ties count the first sum d times; Efron's take r / d of the second off it for r = 0 ... d - 1. So each event has a
denominator S = S_risk - f S_event and a mean m = (M_risk - f M_event) / S, and

    log-likelihood = sum of the predictors of the events - sum of log S
    gradient       = sum of the columns of the events - sum of m
    information    = sum over rows x x^T h (A - B) - sum of m m^T

with A the sum of 1 / S over the events that happen while the row is at risk, and B that of f / S at its own event. The last
form needs no p by p sum at each time: m (p + 1) numbers instead of m p^2.

Sources: Breslow, JRSS B 34, 1972; Efron, JASA 72, 1977.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedcore.analytics.sums import Floats, Ints, Sums

Ties = Literal["efron", "breslow"]


@dataclass(frozen=True, eq=False)
class Followed:
    """Rows as a round sees them.

    Args:
        time: (n,).
        event: (n,) whether there was one.
        design: (n, p) columns.
        predictor: (n,) logarithm of the hazard.
    """

    time: Floats
    event: npt.NDArray[np.bool_]
    design: Floats
    predictor: Floats


@dataclass(frozen=True, eq=False)
class Risk:
    """What sums over risk sets give.

    Args:
        value: Partial log-likelihood.
        gradient: (p,).
        outer: (p, p) sum of m m^T.
        at_risk, at_event: (m,) what each event time adds to A and to B.
    """

    value: float
    gradient: Floats
    outer: Floats
    at_risk: Floats
    at_event: Floats


def risk_sums(rows: Followed, times: Floats) -> Sums:
    """Sums at each event time.

    Args:
        rows: Of a site or a stratum; the time of each row with an event is among `times`.
        times: (m,) rising.

    Returns:
        `risk` and `event` (m,), `risk_columns` and `event_columns` (m, p), `predictor` (), `columns` (p,).
    """
    size, width = len(times), rows.design.shape[1]
    hazard = np.exp(rows.predictor)
    # How many event times a row sees while at risk: it is in the risk set of those and of no later one.
    last = np.searchsorted(times, rows.time, side="right")
    own = last[rows.event] - 1
    weighted = rows.design * hazard[:, None]
    at_risk, at_event = np.empty((size + 1, width + 1)), np.empty((size, width + 1))
    for place in range(width + 1):
        column = hazard if place == width else weighted[:, place]
        at_risk[:, place] = np.bincount(last, column, size + 1)
        at_event[:, place] = np.bincount(own, column[rows.event], size)
    at_risk = np.cumsum(at_risk[::-1], axis=0)[::-1][1:]
    return {
        "risk": at_risk[:, width].copy(),
        "risk_columns": at_risk[:, :width].copy(),
        "event": at_event[:, width].copy(),
        "event_columns": at_event[:, :width].copy(),
        "predictor": np.asarray(rows.predictor[rows.event].sum()),
        "columns": rows.design[rows.event].sum(axis=0),
    }


def likelihood(sums: Sums, events: Ints, ties: Ties) -> Risk:
    """Value, gradient and weights.

    Args:
        sums: Of `risk_sums`, added over all rows that share a baseline.
        events: (m,) at each time, 1 or more.
        ties: Of events at one time.
    """
    at = np.repeat(np.arange(len(events)), events)
    order = np.arange(len(at)) - np.repeat(np.cumsum(events) - events, events)
    share = order / events[at] if ties == "efron" else np.zeros(len(at))
    whole = sums["risk"][at] - share * sums["event"][at]
    mean = (sums["risk_columns"][at] - share[:, None] * sums["event_columns"][at]) / whole[:, None]
    return Risk(
        float(sums["predictor"]) - float(np.log(whole).sum()),
        sums["columns"] - mean.sum(axis=0),
        mean.T @ mean,
        np.bincount(at, 1 / whole, len(events)).astype(np.float64),
        np.bincount(at, share / whole, len(events)).astype(np.float64),
    )


def spread(rows: Followed, times: Floats, risk: Risk) -> Floats:
    """(p, p) the first part of the information: sum over rows of x x^T h (A - B)."""
    last = np.searchsorted(times, rows.time, side="right")
    weight = np.concatenate([[0.0], np.cumsum(risk.at_risk)])[last]
    weight[rows.event] -= risk.at_event[last[rows.event] - 1]
    made: Floats = (rows.design * (weight * np.exp(rows.predictor))[:, None]).T @ rows.design
    return made
