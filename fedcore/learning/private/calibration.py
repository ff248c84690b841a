"""How much noise a training needs for an epsilon, and what it then costs, by `fedcore.privacy.accounting`."""

from __future__ import annotations

from dataclasses import dataclass

from fedcore.errors import JobError
from fedcore.privacy.accounting import Epsilons, Gaussian, epsilon, noise_for
from fedcore.privacy.exact import Number


@dataclass(frozen=True)
class Calibrated:
    """Noise of a training and its cost.

    Args:
        noise: Standard deviation / clip.
        sampling: Probability with which a row is in a step.
        steps: That are released.
        epsilons: What the accountants say; rows are there or not (add-remove).
    """

    noise: float
    sampling: float
    steps: int
    epsilons: Epsilons


def noise_multiplier(wanted: Number, delta: Number, sampling: float, steps: int, rows: int) -> Calibrated:
    """The least noise at which a training costs no more than an epsilon.

    Args:
        wanted: epsilon, above 0, finite.
        delta: Above 0, at most 1 / rows.
        sampling: Probability with which a row is in a step, above 0, at most 1; each row by its own coin.
        steps: 1 or more.
        rows: Of the site, taken as public.

    Raises:
        JobError: A number is out of range, or no noise gives this epsilon.
    """
    if not 0 < sampling <= 1:
        raise JobError(f"sampling is {sampling}; allowed: above 0, at most 1")
    noise = noise_for(wanted, delta, rows, lambda each: [Gaussian(each, steps, sampling)])
    return Calibrated(noise, sampling, steps, training_cost(noise, delta, sampling, steps, rows))


def training_cost(noise: float, delta: Number, sampling: float, steps: int, rows: int) -> Epsilons:
    """What a training costs.

    Args:
        noise: Standard deviation / clip, above 0.
        delta, sampling, steps, rows: As for `noise_multiplier`.

    Raises:
        JobError: A number is out of range.
        FedcoreError: The accountants contradict each other.
    """
    return epsilon([Gaussian(noise, steps, sampling)], delta, rows)
