"""Noise for sums of clipped vectors, one of each client and round: how much it is, who draws it, what it costs.

A client's vector is of whole numbers, of Euclidean norm `clip_steps` at most; beside it may stand one more number, plus
or minus `bit_steps`, that tells whether its update was below the clip. So the squared sensitivity of a sum is

    clip_steps^2 + bit_steps^2        to remove a client's vector
    four times that                   to replace it

whatever a step is worth, and all rounds together are Gaussian releases, chosen one after the other.

Accounted is the continuous Gaussian. Whole-number noise of variance v is no worse than continuous noise of variance
v - 9 in front of it: add to that one a discrete Gaussian of variance 9, centred where it fell. The sum over all whole
numbers of exp(-(x - c)^2 / 18) is the same for all c but for a factor of 1 + 2 exp(-18 pi^2) (Poisson summation), so
that the law of the result is that of the discrete Gaussian of variance v but for factors of that size, below 1e-76
each. Shares of variance 9 or more add up to one discrete Gaussian as closely as `fedcore.privacy.distributed` says.
Both are far below the slack that is left for them here.

Source: the argument for shares: Kairouz, Liu and Steinke, ICML 2021, theorem 1; for the convolution: Peikert, "An
Efficient and Parallel Gaussian Sampler for Lattices", CRYPTO 2010, theorem 3.1; adaptive clipping: Andrew, Thakkar,
McMahan and Ramaswamy, "Differentially Private Learning with Adaptive Clipping", NeurIPS 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from fedcore.errors import JobError
from fedcore.privacy.accounting import Epsilons, Gaussian, epsilon, noise_for
from fedcore.privacy.distributed import NoiseShares, noise_shares
from fedcore.privacy.exact import exact
from fedcore.privacy.sensitivity import Change, Neighbours

SMOOTH = 9
"""Variance, in squared steps, at which whole-number noise takes the place of continuous noise."""
SLACK = 1e-9
"""Of epsilon and, relative, of delta: for whole numbers in place of real ones."""
BIT = Fraction(1, 100)
"""Share of the squared sensitivity, so of the budget, that the bits of adaptive clipping take."""
_FINE = 256
_TAIL = 14
_LOCAL_BITS = 62


@dataclass(frozen=True)
class ClientNoise:
    """Noise of all rounds of a training.

    Args:
        change: Between neighbours: a client's vectors are replaced, or there or not.
        participants: Clients that are asked in a round.
        lost: Of them, how many shares of noise the plan can do without: dropped out, or told to others.
        present: Fewest whose vectors are in a sum.
        releases: Sums that are paid, one a round.
        sampling: Probability with which a client's vector is in a round, decided by its own coin.
        clip_steps: Largest norm of a vector, in steps.
        bit_steps: Size of the further number; 0 where there is none.
        variance: Of the noise in a sum, squared steps: what is left of it when `lost` shares are gone.
        local: Each client draws all of the noise for what it sends, which nobody adds up first.
    """

    change: Change
    participants: int
    lost: int
    present: int
    releases: int
    sampling: float
    clip_steps: int
    bit_steps: int
    variance: int
    local: bool

    @property
    def squared(self) -> int:
        """Squared sensitivity of a sum, in steps."""
        return (self.clip_steps**2 + self.bit_steps**2) * (4 if self.change == "replace" else 1)

    @property
    def neighbours(self) -> Neighbours:
        """The relation."""
        return Neighbours("client", self.change)

    @property
    def shares(self) -> NoiseShares:
        """What one client draws.

        Raises:
            JobError: Less than is proven to add up.
        """
        found = NoiseShares(Fraction(self.variance), 1, 0)
        if not self.local:
            found = noise_shares(self.variance, self.participants, self.lost)
        if found.share < SMOOTH:
            raise JobError(
                f"each participant would draw noise of variance {float(found.share):g} steps; allowed: {SMOOTH} or more. "
                "Cure: a smaller step"
            )
        return found

    @property
    def multiplier(self) -> float:
        """Standard deviation over sensitivity of the continuous Gaussian that is accounted, rounded down."""
        return math.sqrt((self.variance - SMOOTH) / self.squared) * (1 - 1e-12)

    def epsilons(self, delta: float) -> Epsilons:
        """What all releases cost together, by each accountant.

        Args:
            delta: Above 0, at most one over the participants.

        Raises:
            JobError: The plan is not sound: numbers out of range, or shares too small.
        """
        return _epsilons(self, float(delta))


def plan_noise(
    wanted: float,
    delta: float,
    *,
    change: Change,
    participants: int,
    lost: int,
    present: int,
    releases: int,
    sampling: float = 1.0,
    dimension: int,
    adaptive: bool = False,
    local: bool = False,
    bits: int = 32,
) -> ClientNoise:
    """The least noise that keeps a promise, in steps fine enough not to matter.

    Args:
        wanted, delta: The promise, over all releases.
        change, participants, lost, present, releases, sampling, local: As in `ClientNoise`.
        dimension: Numbers in a vector.
        adaptive: Whether a bit is released with each vector.
        bits: Of the words that sums are made in, 32 or 64.

    Raises:
        JobError: A number is out of range, or the words have no room for steps that fine.
    """
    # Other numbers of participants than these are refused when the plan is looked at.
    noise = _least(float(wanted), float(delta), participants, releases, float(sampling))
    factor = 4 if change == "replace" else 1
    honest = 1 if local else participants - lost
    least = max(_FINE * math.sqrt(honest) / (noise * math.sqrt(factor)), 16 * math.sqrt(dimension))
    clip = 1 << max(4, math.ceil(math.log2(least)))
    bit = math.ceil(clip * math.sqrt(BIT / (1 - BIT))) if adaptive else 0
    squared = (clip**2 + bit**2) * factor
    # A whole number for each share, so that drawing it stays within 64 bits.
    share = math.ceil((Fraction(noise) ** 2 * squared + SMOOTH) / honest) + 1
    found = ClientNoise(
        change, participants, lost, present, releases, sampling, clip, bit, share * honest, local
    )
    room = _LOCAL_BITS if local else bits - 1
    largest = participants * clip + _TAIL * math.sqrt(share * participants)
    if largest >= 2.0**room:
        raise JobError(
            f"sums over {participants} participants in steps of 1/{clip} of the clip need {math.log2(largest):.0f} bits. "
            "Cure: protection: {secure_aggregation: {protocol: secagg+, bits: 64}}"
        )
    return found


def check_noise(noise: ClientNoise, wanted: float, delta: float) -> Epsilons:
    """Whether a plan keeps a promise, by one's own reckoning.

    Args:
        noise: As somebody else made it.
        wanted, delta: The promise.

    Returns:
        What it costs.

    Raises:
        JobError: It costs more.
    """
    found = noise.epsilons(delta)
    if found.value + SLACK > wanted:
        raise JobError(
            f"the noise that is planned costs epsilon {found.value:.6g} at delta {delta:g}, and epsilon {wanted:g} is "
            "promised; nothing is sent. Cure: the same version of fedcore at coordinator and participants"
        )
    return found


def below_clip(total: int, noise: ClientNoise) -> float:
    """Fraction of the clients that took part whose update was below the clip, as noisy bits tell it; from 0 to 1.

    Args:
        total: Sum of the further numbers.
        noise: Of the sum.
    """
    asked = noise.participants * noise.sampling
    return min(1.0, max(0.0, (total / (noise.bit_steps * asked) + 1) / 2))


@lru_cache(maxsize=64)
def _least(wanted: float, delta: float, participants: int, releases: int, sampling: float) -> float:
    """Standard deviation over sensitivity."""
    return noise_for(
        exact(wanted, "epsilon") * exact(1 - SLACK, "slack"),
        exact(delta, "delta") * exact(1 - SLACK, "slack"),
        participants,
        lambda found: [Gaussian(found, releases, sampling)],
    )


@lru_cache(maxsize=64)
def _epsilons(noise: ClientNoise, delta: float) -> Epsilons:
    if not 1 <= noise.present <= noise.participants or not 0 <= noise.lost < noise.participants:
        raise JobError(
            f"a sum of {noise.present} of {noise.participants} participants, {noise.lost} of them lost, is none"
        )
    if noise.participants - noise.present > noise.lost:
        raise JobError(
            f"a sum may have {noise.present} of {noise.participants} participants, and the noise allows for {noise.lost} "
            "lost ones only"
        )
    noise.shares  # noqa: B018  (refuses shares that are too small)
    return epsilon(
        [Gaussian(noise.multiplier, noise.releases, noise.sampling)],
        exact(delta, "delta") * exact(1 - SLACK, "slack"),
        noise.participants,
    )
