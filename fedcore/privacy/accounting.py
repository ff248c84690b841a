"""Epsilon from noise and noise from epsilon, for many releases together, by accountants that check each other.

    pld       privacy loss distributions, rounded so that epsilon is never too small: the figure to rely on
    rdp       Renyi differential privacy: an upper bound too, usually looser by 5 to 30 %; the only one for noise in shares
    fourier   an estimate without bounds, of its own code (`fedcore.privacy.fourier`), against faults in the first

`epsilon` gives all that apply, and fails when they contradict each other. Noise is stated relative to sensitivity, and
the neighbour relation is in the sensitivity; sampling is accounted for add-remove relations only, with each unit in a
round by its own coin (Poisson sampling). Sampling a fixed number of clients is something else.

Discrete noise: RDP bounds of the discrete Gaussian and the continuous one are equal in any dimension. For PLD, one
number under discrete noise is accounted as it is (`DiscreteGaussian`, `DiscreteLaplace`); `Gaussian` is the
continuous one.

Source: dp-accounting; Mironov 2017; Koskela, Jaelkoe and Honkela 2020; Doroshenko et al. 2022 ("Connect the dots").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from fedcore.errors import FedcoreError, JobError
from fedcore.privacy.budget import Cost
from fedcore.privacy.exact import Number, check_delta, exact, positive, rounded

if TYPE_CHECKING:
    from types import ModuleType

AGREE = 0.01
"""Largest relative difference of the two accountants that are to agree."""

_WHOLE_ORDERS = [*range(2, 129), 256, 512, 1024]
"""Renyi orders under sampling: the sum for a broken order does not always converge."""


@dataclass(frozen=True)
class Gaussian:
    """Gaussian noise on a vector, as often as there are rounds.

    Args:
        noise: Standard deviation / l2 sensitivity, above 0.
        times: Rounds, 1 or more.
        sampling: Probability with which a unit takes part in a round, above 0, at most 1.
    """

    noise: float
    times: int = 1
    sampling: float = 1.0


@dataclass(frozen=True)
class Laplace:
    """Laplace noise.

    Args:
        noise: Scale / l1 sensitivity, above 0.
        times: Releases, 1 or more.
    """

    noise: float
    times: int = 1


@dataclass(frozen=True)
class DiscreteGaussian:
    """Discrete Gaussian noise on one whole number.

    Args:
        variance: In squared steps, above 0.
        sensitivity: In steps, a whole number, 1 or more.
        times: Releases, 1 or more.
    """

    variance: Fraction
    sensitivity: int = 1
    times: int = 1


@dataclass(frozen=True)
class DiscreteLaplace:
    """Discrete Laplace noise on whole numbers.

    Args:
        scale: In steps, above 0.
        sensitivity: l1, in steps, a whole number, 1 or more.
        times: Releases, 1 or more.
    """

    scale: Fraction
    sensitivity: int = 1
    times: int = 1


@dataclass(frozen=True)
class Concentrated:
    """Anything that costs rho: the sum of noise shares, discrete Gaussian noise on a vector.

    Args:
        cost: In rho.
        times: Releases, 1 or more.
    """

    cost: Cost
    times: int = 1


Release = Gaussian | Laplace | DiscreteGaussian | DiscreteLaplace | Concentrated


@dataclass(frozen=True)
class Epsilons:
    """What the accountants say.

    Args:
        delta: For which.
        pld: Upper bound; None where a release has none.
        fourier: Estimate; None where a release has none.
        rdp: Upper bound.
    """

    delta: float
    pld: float | None
    fourier: float | None
    rdp: float

    @property
    def value(self) -> float:
        """The smallest upper bound: the epsilon to state."""
        return self.rdp if self.pld is None else min(self.pld, self.rdp)

    @property
    def apart(self) -> float | None:
        """By how much PLD and the estimate differ, relative; None where one is missing."""
        if self.pld is None or self.fourier is None:
            return None
        return abs(self.pld - self.fourier) / max(self.pld, self.fourier, 1e-12)

    def cost(self) -> Cost:
        """For the ledger: epsilon and delta, epsilon rounded up to 9 digits."""
        return Cost(
            "epsilon",
            Fraction(rounded(exact(self.value, "epsilon"), up=True, digits=9)),
            exact(self.delta, "delta"),
        )


def epsilon(releases: Sequence[Release], delta: Number, rows: int) -> Epsilons:
    """What releases cost together.

    Args:
        releases: One or more.
        delta: Above 0, at most 1 / rows.
        rows: Units that are protected, public.

    Returns:
        What each accountant says.

    Raises:
        JobError: A release or the delta is out of range, or dp-accounting is not installed.
        FedcoreError: The accountants contradict each other, so that none can be relied on.
    """
    allowed = float(check_delta(delta, rows))
    if not releases:
        raise JobError("no releases are given; allowed: one or more")
    for each in releases:
        _check(each)
    found = Epsilons(allowed, _pld(releases, allowed), _fourier(releases, allowed), _rdp(releases, allowed))
    if (found.apart or 0.0) > AGREE or (found.pld or 0.0) > found.rdp * (1 + AGREE) + 1e-3:
        raise FedcoreError(
            f"accountants contradict each other: PLD {found.pld}, estimate {found.fourier}, RDP {found.rdp}; allowed: within "
            f"{AGREE:.0%}, RDP the largest. Cure: account the releases apart and add up; this is worth reporting"
        )
    return found


def noise_for(
    wanted: Number,
    delta: Number,
    rows: int,
    releases: Callable[[float], Sequence[Release]] = lambda noise: [Gaussian(noise)],
    *,
    tolerance: float = 1e-3,
) -> float:
    """The least noise at which releases cost no more than an epsilon.

    Args:
        wanted: epsilon, above 0, finite.
        delta: Above 0, at most 1 / rows.
        rows: Units that are protected.
        releases: What is released at a noise, relative to sensitivity; more noise must not cost more.
        tolerance: Relative; the noise may be too large by this, never too small.

    Raises:
        JobError: A number is out of range, or no noise from 0.01 to 10^6 gives this epsilon.
    """
    target, allowed = float(positive(wanted, "epsilon")), float(check_delta(delta, rows))

    def cost(noise: float, quick: bool = False) -> float:
        asked = releases(noise)
        for each in asked:
            _check(each)
        # On a coarser grid the bound is looser by less than the tolerance, and a bound still.
        found = None if quick else _pld(asked, allowed, max(_step(asked), min(1e-3, target / 4000)))
        return _rdp(asked, allowed) if found is None else found

    # The looser accountant takes a twentieth of the time, and more noise than it wants is never needed.
    low, high = 0.5, 1.0
    while cost(high, quick=True) > target:
        low, high = high, 2 * high
        if high > 1e6:
            raise JobError(
                f"no noise up to 10^6 times the sensitivity gives epsilon {target:g} at delta {allowed:g}. Cure: a larger "
                "epsilon, or fewer releases"
            )
    while low > 0.01 and cost(low, quick=True) <= target:
        low, high = low / 2, low
    while high - low > 0.1 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle, quick=True) <= target else (middle, high)
    return _least(cost, target, high, tolerance)


def _least(cost: Callable[[float], float], target: float, high: float, tolerance: float) -> float:
    """The least noise that costs no more than a target, by secants of the logarithms.

    Args:
        cost: Falls with the noise.
        target: Above 0.
        high: Enough.
        tolerance: Relative, by which the result may be too large.
    """
    low, above, over = 0.005, cost(high), math.inf
    aim, slope = high, -1.0
    while high - low > tolerance * high:
        if math.isfinite(over) and over > above > 0:
            slope = (math.log(above) - math.log(over)) / (math.log(high) - math.log(low))
        if above > 0:
            aim = high * math.exp((math.log(target) - math.log(above)) / min(slope, -0.1))
        # A little to the side that is still open, so that both ends close in.
        aim *= 1 + tolerance / 3 if high - aim > tolerance * aim else 1 - tolerance * 2 / 3
        if not low < aim < high * (1 - tolerance / 4):
            aim = max((low + high) / 2, high * (1 - 0.9 * tolerance))
        found = cost(aim)
        if found <= target:
            high, above = aim, found
        else:
            low, over = aim, found
    return high


def _pld(releases: Sequence[Release], delta: float, step: float | None = None) -> float | None:
    losses = _dp_accounting("pld.privacy_loss_distribution")
    step = step or _step(releases)
    total = None
    for each in releases:
        if isinstance(each, Gaussian):
            one = losses.from_gaussian_mechanism(
                each.noise, sampling_prob=each.sampling, value_discretization_interval=step
            )
        elif isinstance(each, Laplace):
            one = losses.from_laplace_mechanism(each.noise, value_discretization_interval=step)
        elif isinstance(each, DiscreteGaussian):
            one = losses.from_discrete_gaussian_mechanism(
                math.sqrt(each.variance), each.sensitivity, value_discretization_interval=step
            )
        elif isinstance(each, DiscreteLaplace):
            one = losses.from_discrete_laplace_mechanism(
                1 / float(each.scale), each.sensitivity, value_discretization_interval=step
            )
        else:
            return None
        one = one.self_compose(each.times) if each.times > 1 else one
        total = one if total is None else total.compose(one)
    return None if total is None else float(total.get_epsilon_for_delta(delta))


def _step(releases: Sequence[Release]) -> float:
    """Of the grid that losses are rounded to: finer for rounds that hardly lose anything, for rounding adds up."""
    least = min((each.sampling / each.noise for each in releases if isinstance(each, Gaussian)), default=1.0)
    return next((step for step in (1e-4, 1e-5) if least > 30 * step), 1e-6)


def _rdp(releases: Sequence[Release], delta: float) -> float:
    events = _dp_accounting("dp_event")
    sampled = any(isinstance(each, Gaussian) and each.sampling < 1 for each in releases)
    accountant = _dp_accounting("rdp").RdpAccountant(_WHOLE_ORDERS if sampled else None)
    for each in releases:
        if isinstance(each, Gaussian):
            event = events.GaussianDpEvent(each.noise)
            if each.sampling < 1:
                event = events.PoissonSampledDpEvent(each.sampling, event)
        elif isinstance(each, Laplace):
            event = events.LaplaceDpEvent(each.noise)
        elif isinstance(each, DiscreteGaussian):
            event = events.GaussianDpEvent(math.sqrt(each.variance) / each.sensitivity)
        elif isinstance(each, DiscreteLaplace):
            # Pure epsilon is epsilon^2 / 2 in rho.
            event = events.ZCDpEvent((each.sensitivity / float(each.scale)) ** 2 / 2)
        else:
            event = events.ZCDpEvent(float(each.cost.amount))
        accountant.compose(event, each.times)
    return float(accountant.get_epsilon(delta))


def _fourier(releases: Sequence[Release], delta: float) -> float | None:
    from fedcore.privacy.fourier import Loss, estimate

    losses: list[Loss] = []
    for each in releases:
        if isinstance(each, Gaussian):
            losses.append(Loss("gaussian", each.noise, each.sampling, each.times))
        elif isinstance(each, Laplace):
            losses.append(Loss("laplace", each.noise, 1.0, each.times))
        else:
            return None
    return estimate(losses, delta)


def _check(release: Release) -> None:
    if isinstance(release.times, bool) or not isinstance(release.times, int) or release.times < 1:
        raise JobError(f"a release happens {release.times!r} times; allowed: a whole number, 1 or more")
    if isinstance(release, Gaussian | Laplace):
        positive(release.noise, "noise")
    if isinstance(release, Gaussian) and not 0 < release.sampling <= 1:
        raise JobError(f"sampling is {release.sampling}; allowed: above 0, at most 1")
    if isinstance(release, DiscreteGaussian):
        positive(release.variance, "variance")
    if isinstance(release, DiscreteLaplace):
        positive(release.scale, "scale")
    if isinstance(release, DiscreteGaussian | DiscreteLaplace) and (
        isinstance(release.sensitivity, bool)
        or not isinstance(release.sensitivity, int)
        or release.sensitivity < 1
    ):
        raise JobError(f"sensitivity is {release.sensitivity!r} steps; allowed: a whole number, 1 or more")
    if isinstance(release, Concentrated) and (release.cost.measure != "rho" or release.cost.delta):
        raise JobError(f"a release costs {release.cost.told()}; allowed: a cost in rho without delta")


def _dp_accounting(name: str) -> ModuleType | Any:
    import importlib

    try:
        return importlib.import_module(f"dp_accounting.{name}")
    except ImportError as error:
        raise JobError(
            f"privacy accountants need dp-accounting, which is not installed ({error}). "
            "Cure: pip install 'fedcore[privacy]'"
        ) from None
