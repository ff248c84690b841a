"""Epsilon from noise and noise from epsilon, for many releases together, by accountants that check each other.

    pld       privacy loss distributions, rounded so that epsilon is never too small: the figure to rely on
    rdp       Renyi differential privacy: an upper bound too, usually looser by 5 to 30 %; the only one for noise in shares
    fourier   an estimate without bounds, of its own code (`fedcore.privacy.fourier`), against faults in the first

`epsilon` gives all that apply, and fails when they contradict each other. Noise is stated relative to sensitivity, and
the neighbour relation is in the sensitivity; sampling is accounted for add-remove relations only, with each unit in a
round by its own coin (Poisson sampling). Sampling a fixed number of clients is something else.

Discrete noise: RDP bounds of the discrete Gaussian and the continuous one are equal in any dimension. For PLD, one
number under discrete noise is accounted as it is (`DiscreteGaussian`, `DiscreteLaplace`).

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
from fedcore.privacy.least import least

if TYPE_CHECKING:
    from types import ModuleType

AGREE = 0.01
"""Largest relative difference of the two accountants that are to agree."""
MOST_TIMES = 10**7
"""That one release may happen."""
LEAST_NOISE, MOST_NOISE = 0.01, 1e6
"""Between what noise is searched, relative to sensitivity."""

_STEP = 1e-4
"""Of the grid of losses, at most."""
_FINER = 20
"""Steps to a standard deviation of a loss: rounding then adds a thousandth to epsilon at most, whatever the rounds."""
_POINTS_OF_ONE, _POINTS_OF_ALL = 2**19, 2**22
"""Of the grid at most: seconds and some hundred MB."""
_NOTHING = 1e-5
"""Difference of two epsilons that is none."""

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
    _checked(releases)
    found = Epsilons(allowed, _pld(releases, allowed), _fourier(releases, allowed), _rdp(releases, allowed))
    if _contradictory(found, _grid(releases)[1]):
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
    """The least noise, 0.01 or more, at which releases cost no more than an epsilon.

    Args:
        wanted: epsilon, above 0, finite.
        delta: Above 0, at most 1 / rows.
        rows: Units that are protected.
        releases: What is released at a noise, relative to sensitivity; more noise must not cost more.
        tolerance: Relative; the noise may be too large by this, and by the little that the grid of losses adds, never too
            small.

    Raises:
        JobError: A number is out of range, or no noise up to 10^6 gives this epsilon.
    """
    target, allowed = float(positive(wanted, "epsilon")), float(check_delta(delta, rows))

    def quick(noise: float) -> float:
        return _rdp(_checked(releases(noise)), allowed)

    def cost(noise: float) -> float:
        asked = _checked(releases(noise))
        # On a coarser grid the bound is looser by less than the tolerance, and a bound still.
        found = _pld(asked, allowed, _grid(asked, min(10 * _STEP, max(_STEP, target / 4000)))[0])
        return _rdp(asked, allowed) if found is None else found

    # The looser accountant takes a twentieth of the time, and more noise than it wants is never needed.
    low, high = 0.5, 1.0
    while not quick(high) <= target:
        low, high = high, 2 * high
        if high > MOST_NOISE:
            raise JobError(
                f"no noise up to 10^6 times the sensitivity gives epsilon {target:g} at delta {allowed:g}. Cure: a larger "
                "epsilon, or fewer releases"
            )
    while low > LEAST_NOISE and quick(low) <= target:
        low, high = max(low / 2, LEAST_NOISE), low
    while high - low > 0.1 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if quick(middle) <= target else (middle, high)
    if _fourier(releases(high), allowed) is None:
        return least(cost, target, high, lowest=LEAST_NOISE, tolerance=tolerance)

    def guess(noise: float) -> float:
        return _fourier(_checked(releases(noise)), allowed) or 0.0

    # The estimate says where to look, the bound what is enough.
    noise = least(guess, target, high, lowest=LEAST_NOISE, tolerance=tolerance / 2)
    more = tolerance / 4
    while noise * (1 + more) < high:
        noise *= 1 + more
        if cost(noise) <= target:
            return noise
        more *= 2
    return high


def _contradictory(found: Epsilons, loose: float) -> bool:
    """Whether accountants differ by more than their own errors; `loose` is that of PLD, which is only ever above."""
    if found.pld is None:
        return False
    more, less = max(found.pld, found.fourier or 0.0), min(found.pld, found.fourier or 0.0)
    apart = more - less > (AGREE + (loose if found.pld == more else 0.0)) * more + _NOTHING
    return (found.fourier is not None and apart) or found.pld > found.rdp * (1 + AGREE + loose) + 1e-3


def _pld(releases: Sequence[Release], delta: float, step: float | None = None) -> float | None:
    losses = _dp_accounting("pld.privacy_loss_distribution")
    step = step or _grid(releases)[0]
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


def _grid(releases: Sequence[Release], most: float = _STEP) -> tuple[float, float]:
    """Of the losses: the step of their grid, and how much larger epsilon may be for it, relative, roughly.

    Finer for rounds that hardly lose anything, for rounding adds up; coarser where noise is so small that its losses would
    fill the memory.
    """
    widest = variance = 0.0
    for each in releases:
        share = 1.0
        if isinstance(each, Gaussian):
            size, share = 1 / each.noise, each.sampling
        elif isinstance(each, Laplace):
            size = 1 / each.noise
        elif isinstance(each, DiscreteGaussian):
            size = each.sensitivity / math.sqrt(each.variance)
        elif isinstance(each, DiscreteLaplace):
            size = each.sensitivity / float(each.scale)
        else:
            continue
        deviation = min(size, share * math.sqrt(math.expm1(min(size**2, 500.0))))
        variance += each.times * deviation**2
        # Of the loss without sampling, ten deviations out; the other direction is as wide as `share` makes it.
        most_lost = size**2 / 2 + 10 * size
        sampled = math.log1p(share * math.expm1(min(most_lost, 500.0))) + max(most_lost - 500, 0.0)
        widest = max(widest, sampled * (2 if share == 1 else 1))
    rounds = sum(each.times for each in releases)
    typical = max(math.sqrt(variance / rounds), 1e-100)
    # The mean of a sum of losses is below its variance.
    least = max(widest / _POINTS_OF_ONE, (variance + 20 * math.sqrt(variance)) / _POINTS_OF_ALL)
    step = max(min(most, typical / _FINER), least)
    return step, (step / typical) ** 2 / 4


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


def _checked(releases: Sequence[Release]) -> Sequence[Release]:
    for each in releases:
        _check(each)
    return releases


def _check(release: Release) -> None:
    if isinstance(release.times, bool) or not isinstance(release.times, int) or release.times < 1:
        raise JobError(f"a release happens {release.times!r} times; allowed: a whole number, 1 or more")
    if release.times > MOST_TIMES:
        raise JobError(
            f"a release happens {release.times} times; allowed: at most {MOST_TIMES}. Cure: fewer rounds or epochs, or "
            "larger batches"
        )
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
