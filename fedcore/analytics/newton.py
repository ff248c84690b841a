"""Newton steps towards the largest likelihood, from sums over sites of its value, gradient and information.

    start     `start`     means and scales of the columns, from sums; the first coefficients
    a round   sites       value, gradient and information at the coefficients of the round, summed
              `advance`   a step, or half of the last one where the value fell, or the end

Coefficients are those of columns minus their means, divided by their spread, so that units and offsets of the columns
do not matter to the numbers; `Found` has them in the units of the columns.

Columns that depend on others are found in the information of the first round, by sweeping one column after the other:
what is left of a column beside those before it is zero to rounding.

Source: Nocedal, Wright, Numerical Optimization, 2006, section 3 (Newton's method with a line search).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedcore.analytics.sums import Floats, Sums, number
from fedcore.errors import DataError, TaskFailed

STEP = "fit"
DONE = 1e-14
"""Squared length of a step, in standard errors, below which it is the last."""
ROUNDS = 50
LEFT = 1e-9
"""Share of a column's information that others must leave for it to count as a column of its own."""
STEADY = 6
"""Rounds in which the step does not shrink while what it gains does: the likelihood grows without end."""


@dataclass(frozen=True, eq=False)
class State:
    """What a round starts from; the same at all sites.

    Args:
        names: (p,) of the coefficients; the intercept, where there is one, is the first.
        intercept: Whether there is one.
        centre, scale: (p,) that a column is reduced by and divided by; 0 and 1 for the intercept.
        beta: (p,) to be tried in this round.
        step: (p,) that led to it.
        value: Log-likelihood where the step began; None in the first round.
        null: Log-likelihood of the first round.
        rounds: Done so far.
        halved: Times that this step was halved.
        steady: Rounds in a row in which the step did not shrink.
        gain: Squared length of the last whole step, in standard errors.
        done: Whether `beta` is the end.
        information: (p, p) of the last round; empty before the first.
    """

    names: tuple[str, ...]
    intercept: bool
    centre: Floats
    scale: Floats
    beta: Floats
    step: Floats
    value: float | None = None
    null: float = 0.0
    rounds: int = 0
    halved: int = 0
    steady: int = 0
    gain: float = np.inf
    done: bool = False
    information: Floats | None = None

    def design(self, matrix: Floats) -> Floats:
        """Columns (n, k), without the intercept, as the coefficients of this state want them: (n, p)."""
        skip = int(self.intercept)
        made = np.ones((len(matrix), len(self.names)))
        made[:, skip:] = (matrix - self.centre[skip:]) / self.scale[skip:]
        return made


@dataclass(frozen=True, eq=False)
class Found:
    """The end, in the units of the columns.

    Args:
        beta: (p,).
        covariance: (p, p), the inverse of the information.
    """

    beta: Floats
    covariance: Floats


def start(total: Sums, names: tuple[str, ...], *, intercept: bool, first: float = 0.0) -> State:
    """The first round's state.

    Args:
        total: `rows`, and `sum` and `square` (k,) of the columns and of their squares.
        names: (k,) of the columns.
        intercept: Whether there is one; without, columns are not centred, for that would be another model.
        first: The intercept to begin with.
    """
    count = max(1, number(total["rows"]))
    mean, square = total["sum"] / count, total["square"] / count
    centre = mean if intercept else np.zeros_like(mean)
    # A spread lost to rounding beside the mean is not a spread of zero; the scale need only be of the right order.
    spread = np.sqrt(np.maximum(square - centre**2, 16 * np.finfo(np.float64).eps * mean**2))
    scale = np.where(spread > 0, spread, 1.0)
    if intercept:
        names = ("intercept", *names)
        centre, scale = np.concatenate([[0.0], centre]), np.concatenate([[1.0], scale])
    beta = np.zeros(len(names))
    if intercept:
        beta[0] = first
    return State(names, intercept, centre, scale, beta, np.zeros(len(names)))


def advance(
    state: State, value: float, gradient: Floats, information: Floats, *, far: bool = False, unit: float = 1.0
) -> State:
    """The next round's state.

    Args:
        state: Of the round that was done.
        value: Log-likelihood.
        gradient, information: (p,) and (p, p), its slope and its curvature with the sign turned.
        far: Whether some rows' predictors were out of range, so that the sums mean nothing.
        unit: What the log-likelihood is to be divided by: the residual variance of a linear model.

    Raises:
        DataError: Columns depend on each other, or the likelihood grows without end.
        TaskFailed: It did not converge.
    """
    rounds = state.rounds + 1
    if state.value is not None and (far or value < state.value - 1e-10 * (1 + abs(state.value))):
        if state.halved >= 30 or rounds >= ROUNDS:
            raise _lost(rounds)
        half = state.step / 2
        return replace(state, beta=state.beta - half, step=half, rounds=rounds, halved=state.halved + 1)
    information = (information + information.T) / 2
    if state.value is None:
        check_independent(state, information)
        state = replace(state, null=value)
    step = _solve(state, information, gradient)
    gain = float(gradient @ step) / unit
    if abs(gain) < DONE:
        return replace(
            state,
            beta=state.beta + step,
            step=step,
            value=value,
            rounds=rounds,
            done=True,
            information=information,
        )
    before = np.abs(state.step).max() * 2.0**state.halved
    still = 0 < 0.5 * before <= np.abs(step).max() and gain < state.gain < 1
    steady = state.steady + 1 if still else 0
    if steady >= STEADY:
        raise endless(state, step)
    if rounds >= ROUNDS:
        raise _lost(rounds)
    return replace(
        state,
        beta=state.beta + step,
        step=step,
        value=value,
        rounds=rounds,
        halved=0,
        steady=steady,
        gain=gain,
        information=information,
    )


def found(state: State) -> Found:
    """Coefficients and their covariance in the units of the columns, of a state that is done."""
    if not state.done or state.information is None:
        raise TaskFailed(
            f"the fit is not at its end after {state.rounds} rounds; ask for another round", step=STEP
        )
    turn = np.diag(1 / state.scale)
    if state.intercept:
        turn[0, 1:] = -(state.centre / state.scale)[1:]
    inverse = _solve(state, state.information, np.eye(len(state.beta)))
    covariance = turn @ ((inverse + inverse.T) / 2) @ turn.T
    return Found(turn @ state.beta, covariance)


def check_independent(state: State, information: Floats) -> None:
    """Raise a DataError that names the columns which depend on others, or do not vary."""
    left = information.copy()
    own = np.diag(information).copy()
    floor = 1e-13 * max(float(own.max(initial=0.0)), 0.0)
    for place, name in enumerate(state.names):
        pivot = left[place, place]
        if pivot <= max(LEFT * own[place], floor):
            # The sweep leaves, in the rows of the columns before, what they make of this one.
            made_of = left[:place, place]
            others = [state.names[each] for each in range(place) if abs(made_of[each]) > 1e-6]
            varies = own[place] > floor and [each for each in others if each != "intercept"]
            why = (
                f"it is made of {', '.join(others)}"
                if varies
                else "it does not vary over the rows that tell of it"
            )
            raise DataError(
                f'column "{name}" has no coefficient of its own: {why}. Cure: leave out "{name}"'
                + (" or one of the others" if varies else ""),
                step=STEP,
            )
        _sweep(left, place)


def endless(state: State, direction: Floats) -> DataError:
    """The error of a likelihood that grows without end, with the columns along which it does."""
    size = np.abs(direction)
    names = [
        name
        for name, each in zip(state.names, size.tolist(), strict=True)
        if each > 1e-2 * size.max() and name != "intercept"
    ]
    return DataError(
        f"the likelihood has no maximum: it grows without end along {', '.join(names) or 'the intercept'}, because these "
        "columns separate the rows with the outcome from those without. Cure: leave a column out, merge its rare values, or "
        "add rows; an estimate would be as large as the number of rounds",
        step=STEP,
    )


def _sweep(matrix: Floats, k: int) -> None:
    """Gauss-Jordan on one pivot, in place: afterwards [:k + 1, j] are coefficients of column j on the columns so far."""
    pivot = matrix[k, k]
    row = matrix[k] / pivot
    row[k] = 0.0
    column = matrix[:, k].copy()
    column[k] = 0.0
    matrix -= np.outer(column, row)
    matrix[k] = row
    matrix[:, k] = -column / pivot
    matrix[k, k] = 1 / pivot


def _solve(state: State, information: Floats, right: Floats) -> Floats:
    diagonal = np.diag(information)
    if (diagonal <= 0).any() or not np.isfinite(information).all():
        raise endless(state, state.step)
    by = 1 / np.sqrt(diagonal)
    try:
        made = np.linalg.solve(
            information * np.outer(by, by), right * (by if right.ndim == 1 else by[:, None])
        )
    except np.linalg.LinAlgError:
        raise endless(state, state.step) from None
    solution: Floats = made * (by if right.ndim == 1 else by[:, None])
    return solution


def _lost(rounds: int) -> TaskFailed:
    return TaskFailed(
        f"the fit did not converge in {rounds} rounds; allowed: {ROUNDS}. Cure: fewer columns, or columns without values far "
        "from the others",
        step=STEP,
    )
