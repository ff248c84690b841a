"""Which group keys may be told when the keys themselves are private: those whose noisy count of units is large enough.

    1. of each unit (row, person, client) at most `groups` keys are kept, chosen at random
    2. of each key that is left, the units are counted, and noise is added
    3. a key is told when its noisy count is at least the threshold

A key that only one unit has, and that is not there without it, is told with probability p = P(1 + noise >= threshold). The
threshold is the least at which the `groups` such keys that a unit may have are told with probability delta at most:
groups * p <= delta. Other keys change their count by one, which the noise hides. So the keys told are as private as the
cost of the plan says: epsilon and delta with discrete Laplace noise, rho and delta with discrete Gaussian noise. Where a
unit is replaced, keys may come and go: twice the change, and twice the probability.

    discrete Laplace, q = exp(-1 / scale):     P(noise >= k) = q^k / (1 + q)    for k >= 0
    discrete Gaussian, variance v:             P(noise >= k) = sum over x >= k of exp(-x^2 / (2 v)) / sum over all x

Who learns what: the asker learns the keys told, and of a key that is not told nothing, not even that it exists.

Source: Korolova, Kenthapadi, Mishra and Ntoulas, "Releasing Search Queries and Clicks Privately", WWW 2009, section 4, with
the noise of Canonne, Kamath and Steinke. Desfontaines, Voss, Gipson and Mandayam, "Differentially Private Partition
Selection", PoPETs 2022, show the best that can be done: with one group a unit and delta 1e-6 it tells keys of one unit
less at epsilon 1, and of 24 less at epsilon 0.1, where this one needs 133.
"""

from __future__ import annotations

import secrets
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from math import isqrt
from typing import TypeVar

from fedcore.errors import DataError, JobError
from fedcore.privacy.budget import Cost, gaussian_variance, laplace_scale
from fedcore.privacy.exact import Number, positive, text
from fedcore.privacy.mechanisms import discrete_gaussian, discrete_laplace
from fedcore.privacy.sensitivity import Contribution, Neighbours, Sensitivity, histogram

PERSON = Neighbours("person")
LARGEST = 10**8
"""Of a variance; with more noise a key would need 100,000 units."""
_SMALLEST_DELTA = Fraction(1, 10**100)
_EXACT = Context(prec=160)
_UP = 1 + Decimal(10) ** -140
"""More than all rounding together, relative to a sum of probabilities."""

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Selection:
    """How keys are selected.

    Args:
        cost: Of one selection, of any number of keys.
        scale: Of discrete Laplace noise; None with the other noise.
        variance: Of discrete Gaussian noise; None with the other noise.
        threshold: Least noisy count of units at which a key is told.
        groups: Most keys that one unit has.
    """

    cost: Cost
    scale: Fraction | None
    variance: Fraction | None
    threshold: int
    groups: int

    def told(self, units: int) -> float:
        """The probability that a key with so many units is told; 0 where there is none.

        Args:
            units: 0 or more.
        """
        return float(_tail(self.scale, self.variance, self.threshold - units)) if units > 0 else 0.0


def plan(
    epsilon: Number, delta: Number, contribution: Contribution, relation: Neighbours = PERSON
) -> Selection:
    """A selection with discrete Laplace noise.

    Args:
        epsilon: Above 0, finite.
        delta: Above 0, below 1, and much less than one over the units; `exact.check_delta` says what is sensible.
        contribution: Groups of one unit, at most; its rows do not matter, for units are counted and not rows.
        relation: Whose presence is hidden.

    Raises:
        JobError: A number is out of range.
    """
    wanted, may_fail = positive(epsilon, "epsilon"), _delta(delta)
    sensitivity = _sensitivity(contribution, relation)
    scale = laplace_scale(sensitivity, wanted)
    with localcontext(_EXACT):
        most = _decimal(may_fail / _keys(contribution, relation))
        step = _decimal(1 / scale)
        # q^(threshold - 1) / (1 + q) <= most, solved; then made sure of.
        guess = -((most * (1 + (-step).exp())).ln()) / step
        threshold = max(1, int(guess) + 1)
        while _tail(scale, None, threshold - 1) > most:
            threshold += 1
        while threshold > 1 and _tail(scale, None, threshold - 2) <= most:
            threshold -= 1
    return Selection(Cost("epsilon", wanted, may_fail), scale, None, threshold, contribution.groups)


def plan_gaussian(
    rho: Number, delta: Number, contribution: Contribution, relation: Neighbours = PERSON
) -> Selection:
    """A selection with discrete Gaussian noise, which is less than Laplace noise where a unit has many groups.

    Args:
        rho: Above 0, finite.
        delta: As for `plan`.
        contribution: As for `plan`.
        relation: Whose presence is hidden.

    Raises:
        JobError: A number is out of range, or the noise would be larger than any count.
    """
    wanted, may_fail = positive(rho, "rho"), _delta(delta)
    variance = gaussian_variance(_sensitivity(contribution, relation), wanted)
    if variance > LARGEST:
        raise JobError(
            f"rho is {text(wanted)}: noise of variance {float(variance):.3g} on each key; allowed: up to 10^8. "
            "Cure: a larger rho, or fewer groups of each unit"
        )
    with localcontext(_EXACT):
        most = _decimal(may_fail / _keys(contribution, relation))
        threshold = _gaussian_reach(variance, most) + 1
    return Selection(Cost("rho", wanted, may_fail), None, variance, threshold, contribution.groups)


def distinct_units(rows: Iterable[tuple[Hashable, K]], contribution: Contribution) -> dict[K, int]:
    """Units of each key, after each unit is cut down to the keys that it may have, chosen at random.

    Args:
        rows: The unit and the key of each.
        contribution: Groups of one unit, at most.
    """
    held: dict[Hashable, dict[K, None]] = {}
    for unit, key in rows:
        held.setdefault(unit, {})[key] = None
    draw = secrets.SystemRandom()
    counts: dict[K, int] = {}
    for keys in held.values():
        kept = (
            list(keys) if len(keys) <= contribution.groups else draw.sample(list(keys), contribution.groups)
        )
        for key in kept:
            counts[key] = counts.get(key, 0) + 1
    return counts


def select(counts: Mapping[K, int], selection: Selection) -> list[K]:
    """The keys that may be told, in an order that says nothing more.

    Args:
        counts: Units of each key, of which each has at most `selection.groups` keys (`distinct_units`). A key with none is
            never told.
        selection: From `plan` or `plan_gaussian`. Its cost is charged before.

    Returns:
        Sorted; a missing value first.

    Raises:
        DataError: A count is no whole number, or negative.
    """
    for each in counts.values():
        if isinstance(each, bool) or not isinstance(each, int) or each < 0:
            raise DataError(
                "units of a key are no whole number of 0 or more. Cure: count them with distinct_units",
                step="keys",
            )
    held = [key for key, count in counts.items() if count]
    if selection.scale is not None:
        noise = discrete_laplace(selection.scale, len(held))
    elif selection.variance is not None:
        noise = discrete_gaussian(selection.variance, len(held))
    else:
        raise JobError("a selection without noise. Cure: make it with plan or plan_gaussian", step="keys")
    told = [
        key
        for key, each in zip(held, noise.tolist(), strict=True)
        if counts[key] + each >= selection.threshold
    ]
    return sorted(told, key=_order)


def _delta(delta: Number) -> Fraction:
    found = positive(delta, "delta")
    if not _SMALLEST_DELTA <= found < 1:
        raise JobError(f"delta is {delta}; allowed: 1e-100 or more, below 1")
    return found


def _sensitivity(contribution: Contribution, relation: Neighbours) -> Sensitivity:
    """Of the counts of units: one in each key; room enough for two units to have none in common."""
    given = None if relation.unit == "row" and contribution == Contribution() else contribution
    if given is not None and relation.unit != "row":
        given = Contribution(1, contribution.groups)
    return histogram(2 * contribution.groups, relation, given)


def _keys(contribution: Contribution, relation: Neighbours) -> int:
    """Keys that may be there in one of two neighbours only."""
    return contribution.groups * (2 if relation.change == "replace" else 1)


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def _tail(scale: Fraction | None, variance: Fraction | None, least: int) -> Decimal:
    """P(noise >= least), rounded up."""
    with localcontext(_EXACT):
        if least <= 0:
            # The noise is symmetric.
            return 1 - _tail(scale, variance, 1 - least) if least < 0 or scale is None else _laplace(scale, 0)
        if scale is not None:
            return _laplace(scale, least)
        if variance is None:
            raise ValueError("no noise")
        weights, beyond = _weights(variance, least + _far(variance, Decimal(10) ** -120))
        return (sum(weights[least:]) + beyond) / (1 + 2 * sum(weights[1:])) * _UP


def _laplace(scale: Fraction, least: int) -> Decimal:
    step = _decimal(1 / scale)
    return (-step * least).exp() / (1 + (-step).exp()) * _UP


def _gaussian_reach(variance: Fraction, most: Decimal) -> int:
    """The least k, 0 or more, with P(noise >= k) <= most, rounded up."""
    weights, tail = _weights(variance, _far(variance, most * Decimal(10) ** -40))
    allowed = most * (1 + 2 * sum(weights[1:])) / _UP
    for at in range(len(weights) - 1, -1, -1):
        tail += weights[at]
        if tail > allowed:
            return at + 1
    return 0


def _weights(variance: Fraction, last: int) -> tuple[list[Decimal], Decimal]:
    """exp(-x^2 / (2 v)) for x from 0 to `last`, and a bound on the sum of all beyond."""
    # Each is the one before times exp(-(2 x + 1) / (2 v)), and these fall by the same factor.
    factor, fall = (-_decimal(1 / (2 * variance))).exp(), (-_decimal(1 / variance)).exp()
    made = [Decimal(1)]
    for _ in range(last):
        made.append(made[-1] * factor)
        factor *= fall
    return made, made[-1] * factor / (1 - factor)


def _far(variance: Fraction, share: Decimal) -> int:
    """Where exp(-x^2 / (2 v)) is below a share of one."""
    return isqrt(int(2 * _decimal(variance) * -share.ln()) + 1) + 2


def _order(key: Hashable) -> list[tuple[bool, str, object]]:
    """So that keys of several types have an order, too."""
    parts = key if isinstance(key, tuple) else (key,)
    return [
        (each is not None, "number" if isinstance(each, int | float) else type(each).__name__, each)
        for each in parts
    ]
