"""Noise that nobody knows: each participant adds a share of it to what it puts into a secure sum.

    share of a participant      discrete Gaussian, variance v / (participants - lost)
    sum of those that stay      variance v at least, as long as no more than `lost` are lost

A participant is lost when it drops out, and also when it tells its share or draws none: only the others' noise hides
anything from it. The sum of discrete Gaussians is not one, but so close that the difference is bounded:

    |ln P(sum = x) / P(discrete Gaussian = x)|  <=  tau = 10 * sum over k = 1 .. n-1 of exp(-2 pi^2 s^2 k / (k + 1))

for n shares of variance s^2, at least 1/4. At s = 3 and 100 shares tau is below 1e-35.

What it costs in error: when nobody is lost, the variance is participants / (participants - lost) times v.

Source: Kairouz, Liu and Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation", ICML 2021 (arXiv 2102.06387), theorem 1 and proposition 14.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import JobError
from fedcore.privacy.budget import Cost
from fedcore.privacy.exact import Number, positive, root_above, rounded, text
from fedcore.privacy.mechanisms import discrete_gaussian
from fedcore.privacy.sensitivity import Sensitivity

SMALLEST = Fraction(1, 4)
"""Variance of a share below which the bound is not proven."""

_NEVER_ZERO = 1e-300


@dataclass(frozen=True)
class NoiseShares:
    """Who draws how much.

    Args:
        variance: v, of the noise that is wanted, in squared steps.
        participants: n, 1 or more.
        lost: How many may drop out or tell their share, 0 to n - 1.
    """

    variance: Fraction
    participants: int
    lost: int

    @property
    def share(self) -> Fraction:
        """Variance of one participant's noise."""
        return self.variance / (self.participants - self.lost)

    def total(self, present: int) -> Fraction:
        """Variance of the sum when so many stay.

        Raises:
            JobError: More were lost than was planned for, so that the promise would not hold.
        """
        if not self.participants - self.lost <= present <= self.participants:
            raise JobError(
                f"{present} of {self.participants} participants are left; allowed: at least "
                f"{self.participants - self.lost}, or the sum has less noise than was promised. Cure: do not release it; "
                "ask again with more losses planned"
            )
        return self.share * present

    @property
    def closeness(self) -> float:
        """tau: bound on the difference of log-probabilities to one discrete Gaussian of the same variance."""
        s = float(self.share)
        terms = [math.exp(-2 * math.pi**2 * s * k / (k + 1)) for k in range(1, self.participants)]
        return 10 * math.fsum(terms) * (1 + 1e-12) + _NEVER_ZERO if terms else 0.0


def noise_shares(variance: Number, participants: int, lost: int = 0) -> NoiseShares:
    """Divide the drawing of noise.

    Args:
        variance: Of the noise that is wanted in the sum, above 0, in squared steps.
        participants: That are asked, 1 or more.
        lost: How many may drop out or tell their share, 0 to participants - 1.

    Raises:
        JobError: A number is out of range, or the shares are too small for the bound.
    """
    whole = positive(variance, "variance")
    for name, value, low in (("participants", participants, 1), ("lost", lost, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise JobError(f"{name} is {value!r}; allowed: a whole number, {low} or more")
    if lost >= participants:
        raise JobError(
            f"{lost} of {participants} participants may be lost; allowed: at most {participants - 1}, for somebody must "
            "draw noise that stays"
        )
    found = NoiseShares(whole, participants, lost)
    if found.share < SMALLEST and participants > 1:
        raise JobError(
            f"each of {participants} participants would draw noise of variance {text(found.share)}; allowed: 1/4 or more. "
            "Cure: a smaller step, so that the same noise is more steps"
        )
    return found


def draw_share(shares: NoiseShares, count: int) -> NDArray[np.int64]:
    """One participant's noise, drawn by itself from the operating system.

    Args:
        shares: As agreed with all.
        count: How many numbers.

    Returns:
        int64, shape (count,), in steps. It is added before masking and never shown to anyone.
    """
    return discrete_gaussian(shares.share, count)


def distributed_cost(sensitivity: Sensitivity, dimension: int, shares: NoiseShares) -> Cost:
    """Of one release under the sum of shares, in rho, rounded up to 12 digits.

    1/2 min(l2^2/v + 2 l1 tau / sqrt(v) + tau^2 d, (l2 / sqrt(v) + tau sqrt(d))^2), with the least noise that the plan
    allows and the tau of all shares.

    Args:
        sensitivity: In steps.
        dimension: d, how many numbers are released, 1 or more.
        shares: The plan.

    Source: Kairouz, Liu and Steinke, proposition 14.
    """
    if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < 1:
        raise JobError(f"{dimension!r} numbers are released; allowed: a whole number, 1 or more")
    v, tau = shares.variance, Fraction(shares.closeness)
    squared = sensitivity.l2_squared / v
    mixed = squared + 2 * tau * sensitivity.l1 * root_above(1 / v) + tau**2 * dimension
    summed = squared + 2 * tau * root_above(squared * dimension) + tau**2 * dimension
    return Cost("rho", Fraction(rounded(min(mixed, summed) / 2, up=True, digits=12)))
