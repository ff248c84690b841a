"""The noise of one question's answers: from the bounds of its arrays and its budget to what each participant draws.

    rho of the question     the largest that (epsilon, delta) allows, split evenly over arrays and rounds
    step of an array        a power of two; values are rounded to multiples of it, so that a sum of doubles stays exact
    sensitivity, in steps   of the relation and the bounds, plus what rounding can add
    noise                   discrete Gaussian; `central`: a share of it at each participant; `local`: all of it at each

Rounding. A count is a multiple of its step as it is. A sum of values is rounded to the nearest multiple, by half a step at
most, so that two sums differ by one step more than before, in each entry. The site's sum is itself a sum of doubles, off
by less than n^2 u m for n rows of magnitude m or less in any order (u = 2^-53; Higham, "Accuracy and stability of
numerical algorithms", section 4.2), over all entries together, since each row adds to one. Both go into the sensitivity,
for up to `MOST_ROWS` rows at a site.

Of a person, `rows` rows at most count at each participant; whether they fall together or apart changes no bound below.
Somebody with rows at several participants is hidden at each of them, and from all together by the sum of the costs.

Source: Bun and Steinke, TCC 2016 (rho); Canonne, Kamath and Steinke, NeurIPS 2020, theorem 4 and proposition 12 (noise, and
the epsilon of a rho); Kairouz, Liu and Steinke, ICML 2021 (shares).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError, JobError, did_you_mean
from fedcore.privacy.budget import gaussian_variance
from fedcore.privacy.distributed import NoiseShares, distributed_cost, draw_share, noise_shares
from fedcore.privacy.exact import Number, exact, positive, root_above, text
from fedcore.privacy.sensitivity import Contribution, Neighbours, Sensitivity, totals

Mode = Literal["central", "local"]
STEP = "noise"

MOST_ROWS = 2**22
"""Rows of one site, at most: for more, the error of a sum of doubles is not bounded tightly enough."""

_MOST_STEPS = 2.0**52
_FINE = Fraction(1, 2**20)
"""A step relative to the sensitivity, at most; rounding then adds nothing that counts."""
_SHARE = 9
"""Variance of a share in squared steps, at least: the sum of shares then is a discrete Gaussian but for 10^-35."""
_PARTS = 64
"""A share's variance is a whole number of such parts of a squared step: drawing is fast with small fractions."""
_SMALLEST, _LARGEST = -64, 43
"""Exponents of a step that an exact sum can take."""
_DOUBLES = 2 * Fraction(MOST_ROWS) ** 2 / 2**53
"""By how much two sums of doubles are off together, relative to the largest magnitude."""


@dataclass(frozen=True)
class Entries:
    """What an array of sums is made of.

    Args:
        shape: Of the array; each row of the data adds to one entry.
        low, high: What it adds.
        whole: Whether it adds whole numbers, exactly: counts.
    """

    shape: tuple[int, ...]
    low: float
    high: float
    whole: bool = False

    @property
    def size(self) -> int:
        """Entries."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ArrayNoise:
    """The noise of one array in one round.

    Args:
        shape: Of the array.
        exponent: Of the step, a power of two.
        sensitivity: In steps.
        rho: What a round costs.
        shares: Who draws how much, in squared steps; one participant alone where each draws all of it.
    """

    shape: tuple[int, ...]
    exponent: int
    sensitivity: Sensitivity
    rho: Fraction
    shares: NoiseShares

    @property
    def step(self) -> Fraction:
        """In the units of the array."""
        return Fraction(2) ** self.exponent


@dataclass(frozen=True)
class AnswerPlan:
    """The noise of one question; equal at all participants and the coordinator.

    Args:
        arrays: By name; without those that have no entry.
        epsilon, delta: Of the question, over all its rounds.
        rho: That they allow.
        rounds: Of the question.
        mode: Who adds what.
        participants, lost: As in `NoiseShares`; with mode local, what the noise of one does not depend on.
        relation: Whose presence is hidden.
        rows, groups: Of a person that count, at each participant.
    """

    arrays: Mapping[str, ArrayNoise]
    epsilon: Fraction
    delta: Fraction
    rho: Fraction
    rounds: int
    mode: Mode
    participants: int
    lost: int
    relation: Neighbours
    rows: int = 1
    groups: int = 1


def plan_answers(
    arrays: Mapping[str, Entries],
    relation: Neighbours,
    *,
    epsilon: Number,
    delta: Number,
    rounds: int = 1,
    mode: Mode = "central",
    participants: int = 1,
    lost: int = 0,
    rows: int = 1,
    groups: int = 1,
) -> AnswerPlan:
    """The noise that a question's arrays need in each of its rounds.

    Args:
        arrays: By name; the same in all rounds.
        relation: `row` or `person`.
        epsilon, delta: Of the question, over all its rounds.
        rounds: 1 or more, fixed beforehand.
        mode: `central`: shares of one noise; `local`: each participant adds all of it.
        participants: That answer, 1 or more.
        lost: How many of them may drop out or tell their share.
        rows, groups: Of one person that count; see `fedcore.privacy.contribution`.

    Raises:
        JobError: A number is out of range, bounds are not finite or both 0, or the step would be too small or too large for
            an exact sum.
    """
    if mode not in get_args(Mode):
        raise JobError(f'mode "{mode}"; {did_you_mean(mode, get_args(Mode))}', step=STEP)
    if relation.unit == "client":
        raise JobError(
            "answers hide a row or a person; a client is hidden in training only. Cure: neighbours: person",
            step=STEP,
        )
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise JobError(f"{rounds!r} rounds; allowed: a whole number, 1 or more", step=STEP)
    bound = Contribution(rows, groups)
    if relation.unit == "row" and bound != Contribution():
        raise JobError(
            "rows and groups bound what a person has, and a row is hidden. Cure: neighbours: person",
            step=STEP,
        )
    held = {name: each for name, each in arrays.items() if each.size}
    if not held:
        raise JobError("there is no array to add noise to; allowed: one or more", step=STEP)
    rho = largest_rho(epsilon, delta)
    each_rho = rho / (len(held) * rounds)
    people = (participants, lost) if mode == "central" else (1, 0)
    made = {name: _array(name, entries, relation, rows, each_rho, *people) for name, entries in held.items()}
    return AnswerPlan(
        made,
        positive(epsilon, "epsilon"),
        exact(delta, "delta"),
        rho,
        rounds,
        mode,
        participants,
        lost,
        relation,
        rows,
        groups,
    )


def _array(
    name: str, entries: Entries, relation: Neighbours, rows: int, rho: Fraction, participants: int, lost: int
) -> ArrayNoise:
    # All of a person's rows in one entry are the worst that `rows` of them can do, and so one group is counted.
    bound = Contribution(rows) if relation.unit == "person" else None
    found = totals(entries.low, entries.high, entries.size, relation, bound)
    if entries.whole and not (float(entries.low).is_integer() and float(entries.high).is_integer()):
        raise JobError(
            f"array {name} counts, and a row adds {entries.low:g} to {entries.high:g}; allowed: whole numbers",
            step=STEP,
        )
    widest = Fraction(1) if entries.whole else root_above(found.l2_squared) * _FINE
    # Refused here when nobody is left to draw.
    drawing = noise_shares(10**6 * participants, participants, lost)
    wanted = gaussian_variance(found, rho) / (drawing.participants - lost)
    exponent = min(_power_below(widest**2), _power_below(wanted / _SHARE))
    if not _SMALLEST <= exponent <= _LARGEST:
        raise JobError(
            f"array {name}: a step of 2^{exponent} for values from {entries.low:g} to {entries.high:g}; allowed: 2^"
            f"{_SMALLEST} to 2^{_LARGEST}. Cure: another unit for the column, or another epsilon",
            step=STEP,
        )
    moved = found.in_steps(Fraction(2) ** exponent)
    if not entries.whole:
        moved = _rounded(moved, entries, Fraction(2) ** exponent)
    honest = participants - lost
    share = math.ceil(gaussian_variance(moved, rho) / honest * _PARTS)
    for _ in range(64):
        shares = noise_shares(Fraction(share, _PARTS) * honest, participants, lost)
        if distributed_cost(moved, entries.size, shares).amount <= rho:
            return ArrayNoise(entries.shape, exponent, moved, rho, shares)
        # The sum of shares is no discrete Gaussian, by a hair, and that hair is paid for.
        share += 1 + share // 2**30
    raise JobError(
        f"array {name}: no noise in shares costs rho {float(rho):g}. Cure: another epsilon", step=STEP
    )


def _rounded(exactly: Sensitivity, entries: Entries, step: Fraction) -> Sensitivity:
    """With what rounding adds: one step in each entry, and the error of sums of doubles over all of them."""
    most = max(abs(exact(entries.low, "low")), abs(exact(entries.high, "high")))
    doubles = _DOUBLES * most / step
    l2 = root_above(exactly.l2_squared) + doubles + root_above(Fraction(entries.size))
    return replace(exactly, l1=exactly.l1 + doubles + entries.size, l2_squared=l2**2)


def _power_below(squared: Fraction) -> int:
    """The largest e with 4^e at most the number."""
    exponent = (squared.numerator.bit_length() - squared.denominator.bit_length()) // 2 + 1
    while Fraction(4) ** exponent > squared:
        exponent -= 1
    return exponent


def largest_rho(epsilon: Number, delta: Number) -> Fraction:
    """The largest rho, rounded down to 9 digits, with which a promise of (epsilon, delta) is kept.

    rho keeps it when, for some a > 1: delta >= exp((a-1)(a rho - epsilon)) (1 - 1/a)^(a-1) / a.

    Args:
        epsilon: Above 0, finite.
        delta: Above 0, below 1.

    Raises:
        JobError: A number is out of range, or so small that no rho is left.

    Source: Canonne, Kamath and Steinke, NeurIPS 2020, proposition 12 and corollary 13.
    """
    wanted = float(positive(epsilon, "epsilon"))
    if not 0 < (allowed := float(positive(delta, "delta"))) < 1:
        raise JobError(f"delta is {delta}; allowed: above 0, below 1", step=STEP)
    # Ten digits of what a double holds are left for the error of the logarithms.
    most = math.log(allowed) - 1e-9
    low, high = 0.0, wanted
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _log_delta(middle, wanted) <= most else (low, middle)
    digits = 9 - math.ceil(math.log10(low)) if low > 0 else 0
    rho = Fraction(math.floor(low * 10**digits), 10**digits) if 0 < digits <= 300 else Fraction(0)
    if rho <= 0:
        raise JobError(
            f"epsilon {wanted:g} and delta {allowed:g} leave no room for noise that can be drawn; allowed: an epsilon of "
            "1e-6 or more",
            step=STEP,
        )
    return rho


def _log_delta(rho: float, epsilon: float) -> float:
    """Logarithm of the smallest delta that the bound gives; each order gives one, and the best is searched for."""

    def at(log_order: float) -> float:
        less = math.exp(log_order)
        order = 1 + less
        return less * (order * rho - epsilon) + less * (log_order - math.log1p(less)) - math.log1p(less)

    low, high = -30.0, 60.0
    for _ in range(120):
        third = (high - low) / 3
        low, high = (low, high - third) if at(low + third) <= at(high - third) else (low + third, high)
    return at((low + high) / 2)


def add_noise(
    sums: Mapping[str, npt.NDArray[Any]], plan: AnswerPlan, *, rows: int
) -> dict[str, npt.NDArray[np.float64]]:
    """One participant's sums with its noise, drawn anew at each call.

    Args:
        sums: By name, in the shapes of the plan; int64 counts and float64 sums.
        plan: The question's.
        rows: Of this site that the sums are over, at most `MOST_ROWS`.

    Returns:
        float64, multiples of the steps; negative ones too. Arrays without entries as they are.

    Raises:
        JobError: Names or shapes are others, or a sum is of too many steps for a double.
        DataError: A sum is not finite, or the site has too many rows.
    """
    if rows > MOST_ROWS:
        raise DataError(
            f"this site has more than {MOST_ROWS} rows; allowed: up to that many in a question under differential privacy, "
            "for the error of sums of doubles is bounded for these. Cure: a condition, or parts of the data set",
            step=STEP,
        )
    shapes = {name: np.shape(value) for name, value in sums.items() if np.size(value)}
    planned = {name: each.shape for name, each in plan.arrays.items()}
    if shapes != planned:
        raise JobError(f"arrays {shapes}; the plan of noise is of {planned}", step=STEP)
    made = {}
    for name, value in sums.items():
        if not np.size(value):
            made[name] = np.asarray(value, np.float64)
            continue
        noise = plan.arrays[name]
        steps = np.ldexp(np.asarray(value, np.float64), -noise.exponent)
        if not np.isfinite(steps).all():
            raise DataError(f"array {name} has a sum that is not finite", step=STEP)
        drawn = draw_share(noise.shares, value.size).reshape(value.shape)
        # Two numbers of up to 2^52 add up without rounding.
        if max(float(np.abs(steps).max()), float(np.abs(drawn).max())) > _MOST_STEPS:
            raise JobError(
                f"array {name} is of more than 2^52 steps of 2^{noise.exponent}; allowed: fewer, which a double holds "
                "exactly. Cure: narrower bounds for the column",
                step=STEP,
            )
        made[name] = np.asarray(np.ldexp(np.rint(steps) + drawn, noise.exponent))
    return made


def variance_of(plan: AnswerPlan, present: int) -> dict[str, float]:
    """Variance of the noise in the sum over sites, for each array.

    Args:
        plan: The question's.
        present: Participants in the sum.

    Returns:
        By name, in squared units of the array; the same for all its entries.

    Raises:
        JobError: Fewer are left than the plan allows: the sum has less noise than was promised.
    """
    if plan.mode == "local" and not 1 <= present <= plan.participants:
        raise JobError(f"{present} of {plan.participants} participants; allowed: 1 or more", step=STEP)
    return {
        name: float(
            (each.shares.share * present if plan.mode == "local" else each.shares.total(present))
            * each.step**2
        )
        for name, each in plan.arrays.items()
    }


def statement(plan: AnswerPlan) -> dict[str, Any]:
    """What is promised and how, JSON values for a result; `scale` is the standard deviation of the least noise that is kept."""
    return {
        "mechanism": "discrete Gaussian, in shares"
        if plan.mode == "central"
        else "discrete Gaussian, at each participant",
        "mode": plan.mode,
        "neighbours": plan.relation.word,
        "contribution": {"rows": plan.rows, "groups": plan.groups}
        if plan.relation.unit == "person"
        else None,
        "epsilon": float(plan.epsilon),
        "delta": float(plan.delta),
        "rho": text(plan.rho),
        "rounds": plan.rounds,
        "participants": plan.participants,
        "lost": plan.lost,
        "arrays": {
            name: {
                "step": float(each.step),
                "sensitivity": math.sqrt(each.sensitivity.l2_squared) * float(each.step),
                "rho": text(each.rho),
                "scale": math.sqrt(each.shares.variance) * float(each.step),
            }
            for name, each in plan.arrays.items()
        },
    }
