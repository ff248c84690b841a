"""What a release costs, in one of two measures, as exact fractions.

    epsilon     (epsilon, delta)-differential privacy; costs add up (basic composition). Laplace noise, and whatever an
                accountant gives for a whole training.
    rho         zero-concentrated differential privacy, with delta for what is not; costs add up, and for many Gaussian
                releases to far less. Gaussian noise.

A cost in epsilon is one in rho too: epsilon^2 / 2. The other way needs a delta.

Source: Bun and Steinke, "Concentrated Differential Privacy", TCC 2016, propositions 1.3, 1.4, 1.6, lemma 1.7 and section 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from fedcore.errors import JobError, did_you_mean
from fedcore.privacy.exact import Number, exact, positive, rounded, shown
from fedcore.privacy.sensitivity import Sensitivity

Measure = Literal["epsilon", "rho"]


@dataclass(frozen=True)
class Cost:
    """A budget, or a part of one.

    Args:
        measure: `epsilon` or `rho`.
        amount: Of it, 0 or more.
        delta: Probability with which the promise fails, from 0 to below 1.
    """

    measure: Measure
    amount: Fraction
    delta: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        """Refuse an unknown measure and numbers out of range."""
        if self.measure not in get_args(Measure):
            raise JobError(f'measure "{self.measure}"; {did_you_mean(self.measure, get_args(Measure))}')
        if self.amount < 0 or not 0 <= self.delta < 1:
            raise JobError(
                f"a cost of {self.measure} {self.amount} and delta {self.delta}; allowed: 0 or more, and delta below 1"
            )

    def __add__(self, other: Cost) -> Cost:
        """Both, of one measure."""
        if other.measure != self.measure:
            raise JobError(f"a cost in {other.measure} cannot be added to one in {self.measure}")
        return Cost(self.measure, self.amount + other.amount, self.delta + other.delta)

    def within(self, limit: Cost) -> bool:
        """Whether the limit allows it."""
        return self.amount <= limit.amount and self.delta <= limit.delta

    def in_measure(self, measure: Measure) -> Cost:
        """The same cost in a measure.

        Raises:
            JobError: From rho to epsilon, for which a delta would have to be chosen.
        """
        if measure == self.measure:
            return self
        if measure == "rho":
            return Cost("rho", self.amount**2 / 2, self.delta)
        raise JobError(
            f"a cost of rho {shown(self.amount, up=True)} cannot be charged to a budget in epsilon without choosing a "
            "delta. Cure: charge epsilon_of(rho, delta), or open the ledger in rho"
        )

    def told(self, *, up: bool = True) -> str:
        """For people: rounded up (or down), delta only where there is one."""
        delta = f", delta {shown(self.delta, up=up)}" if self.delta else ""
        return f"{self.measure} {shown(self.amount, up=up)}{delta}"


def epsilon_cost(epsilon: Number, delta: Number = 0) -> Cost:
    """A cost in epsilon.

    Args:
        epsilon: Above 0, finite.
        delta: From 0 to below 1; see `exact.check_delta` for what is sensible.

    Raises:
        JobError: Another value.
    """
    return Cost("epsilon", positive(epsilon, "epsilon"), exact(delta, "delta"))


def rho_cost(rho: Number, delta: Number = 0) -> Cost:
    """A cost in rho.

    Raises:
        JobError: rho is zero, negative or not finite, or delta is not from 0 to below 1.
    """
    return Cost("rho", positive(rho, "rho"), exact(delta, "delta"))


def laplace_cost(sensitivity: Sensitivity, scale: Number) -> Cost:
    """Of one release under discrete Laplace noise: epsilon = l1 / scale.

    Args:
        sensitivity: In steps, where values are whole numbers of steps.
        scale: Of the noise, in the same steps.
    """
    return Cost("epsilon", sensitivity.l1 / positive(scale, "scale"))


def laplace_scale(sensitivity: Sensitivity, epsilon: Number) -> Fraction:
    """The scale at which one release costs epsilon."""
    return sensitivity.l1 / positive(epsilon, "epsilon")


def gaussian_cost(sensitivity: Sensitivity, variance: Number) -> Cost:
    """Of one release under discrete Gaussian noise: rho = l2^2 / (2 variance).

    Args:
        sensitivity: In steps, where values are whole numbers of steps.
        variance: Of the noise, in the same steps, squared.

    Source: Canonne, Kamath and Steinke, theorem 4.
    """
    return Cost("rho", sensitivity.l2_squared / (2 * positive(variance, "variance")))


def gaussian_variance(sensitivity: Sensitivity, rho: Number) -> Fraction:
    """The variance at which one release costs rho."""
    return sensitivity.l2_squared / (2 * positive(rho, "rho"))


def epsilon_of(rho: Fraction, delta: Number, spent_delta: Fraction = Fraction(0)) -> float:
    """The epsilon that a cost in rho means at a delta, rounded up.

    rho + 2 sqrt(rho ln(1 / delta)); an accountant (`fedcore.privacy.accounting`) finds a smaller one.

    Args:
        rho: 0 or more.
        delta: Of the whole promise, above 0, below 1.
        spent_delta: That part of it which the costs took already.

    Raises:
        JobError: No delta is left.

    Source: Bun and Steinke, proposition 1.3.
    """
    left = positive(delta, "delta") - spent_delta
    if not 0 < left < 1:
        raise JobError(
            f"delta is {delta}, of which {shown(spent_delta, up=True)} is spent; allowed: more than that, below 1"
        )
    spent = float(rho)
    found = spent + 2 * math.sqrt(spent * math.log(1 / float(left)))
    return float(rounded(Fraction(found * (1 + 1e-12)), up=True, digits=12)) if found else 0.0
