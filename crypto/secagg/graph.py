"""Who masks with whom: a random ring of neighbours, whose degree and threshold follow from the cohort.

Participants stand on a ring in a random order and each is a neighbour of the k/2 before and behind it (a
Harary graph). A small cohort is a complete graph. Degree and threshold follow from bounds on how many
participants collude with the coordinator (gamma) and drop out (delta). Over the choice of the order, and with
c the largest number of colluding neighbours that any participant has but with probability 2^-41 (2^-(security
+ 1)):

    shares    the threshold t is above c, or the coordinator could unmask somebody without asking
    rounds    but with probability 2^-correctness every participant keeps t neighbours that did not drop out
    honest    `curious`: who did not drop out and does not collude is connected, but with probability 2^-41
              `active`: t > k/2 + c, which connects them whoever the coordinator says has dropped (see
              `protocol`)

Under `active` the coordinator chooses among graphs, by whom it lets in, so c there is what is passed with
probability 2^-(security + 1 + 40) only: 2^40 tries are allowed for.

A cohort of up to 32 is a complete graph, which needs no probability: c is the number of colluding
participants, and `active` asks for t > (k + c - 1) / 2, so that two honest participants never confirm
different sets of survivors.

Source: Bell, Bonawitz, Gascon, Lepoint, Raykova, CCS 2020 (eprint 2020/704), and the parameter finder of
Google's implementation, google-parfait/federated-compute (fcp/secagg/server/graph_parameter_finder.cc), whose
published values the tests compare with. The rule of `active` is stricter than what is there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from crypto.kernels.keystream import Streams

Adversary = Literal["curious", "active"]

MOST_COMPLETE = 32
"""Cohorts up to this size are complete graphs, however small a degree would do: fractions of few say little."""
TRIES = 40
"""Logarithm of the graphs that an active coordinator may look at before it closes the roster."""
_SMALL = 1e-14
"""Keeps a product such as 0.1 * 30 on the side of the integer that is meant."""


@dataclass(frozen=True)
class Assumptions:
    """What is assumed of a cohort; the same at all participants and the coordinator.

    Args:
        corrupt: gamma, the largest fraction that colludes with the coordinator, 0 to below 1.
        dropout: delta, the largest fraction that drops out of a round, 0 to below 1.
        adversary: `active`: the coordinator may say anything to anybody; `curious`: it follows the protocol.
        security, correctness: Probabilities of failure are at most two to minus these.
        least_cohort: The smallest sum that anybody takes part in. With 2 each learns the other's vector.
        enrolled: Participants that could be asked into a cohort, if that is more than are in it: `corrupt` is
            a fraction of these, since a coordinator that chooses the cohort can leave out those that do not
            collude. 0: all are in.

    Raises:
        ValueError: A value is not allowed.
    """

    corrupt: float = 0.05
    dropout: float = 0.1
    adversary: Adversary = "active"
    security: int = 40
    correctness: int = 40
    least_cohort: int = 3
    enrolled: int = 0

    def __post_init__(self) -> None:
        for what, fraction in (("corrupt", self.corrupt), ("dropout", self.dropout)):
            if not 0 <= fraction < 1:
                raise ValueError(f"{what} is {fraction}; allowed are 0 to below 1")
        if self.adversary not in ("curious", "active"):
            raise ValueError(f"adversary is {self.adversary!r}; allowed: curious, active")
        if not (1 <= self.security <= 256 and 1 <= self.correctness <= 256):
            raise ValueError(
                f"security {self.security}, correctness {self.correctness}; allowed are 1 to 256"
            )
        if self.enrolled < 0:
            raise ValueError(f"enrolled is {self.enrolled}; allowed are 0 and up")
        if self.least_cohort < 2:
            raise ValueError(f"least_cohort is {self.least_cohort}; a sum of fewer than 2 protects nobody")


@dataclass(frozen=True)
class Parameters:
    """What follows from the assumptions for one cohort.

    Args:
        cohort: n, participants.
        degree: k, neighbours of each.
        threshold: t, shares that give a secret.
        least: Participants that a sum has at least.
    """

    cohort: int
    degree: int
    threshold: int
    least: int


class NoParameters(ValueError):
    """No degree and threshold hold what is assumed of a cohort."""


@functools.lru_cache(maxsize=256)
def parameters(cohort: int, assumptions: Assumptions) -> Parameters:
    """The smallest degree and threshold that hold the assumptions; a complete graph where no smaller do.

    Args:
        cohort: Participants.
        assumptions: About them.

    Raises:
        NoParameters: The cohort is too small, or not even a complete graph holds them.
    """
    corrupt = most_corrupt(cohort, assumptions)
    active = assumptions.adversary == "active"
    dropped = math.ceil((assumptions.dropout - _SMALL) * cohort)
    found = None
    if cohort > MOST_COMPLETE:
        found = sparse(
            cohort,
            corrupt,
            dropped,
            _active if active else _curious,
            connected=not active,
            security=assumptions.security + (TRIES if active else 0),
            correctness=assumptions.correctness,
        )
    if found is None:
        found = _complete(cohort, corrupt, assumptions)
    least = max(assumptions.least_cohort, cohort // 2 + 1)
    return Parameters(cohort, *found, least)


def most_corrupt(cohort: int, assumptions: Assumptions) -> int:
    """How many of a cohort collude with the coordinator, at most.

    Raises:
        NoParameters: The cohort is smaller than a sum may be.
    """
    if cohort < assumptions.least_cohort:
        raise NoParameters(
            f"a cohort of {cohort}; at least {assumptions.least_cohort} are needed, because a sum of few shows each to "
            "the others. Wait for more participants, or allow it with least_cohort"
        )
    return min(cohort, math.ceil((assumptions.corrupt - _SMALL) * max(cohort, assumptions.enrolled)))


def _curious(degree: int, colluding: int) -> int:
    return colluding + 1


def _active(degree: int, colluding: int) -> int:
    return degree // 2 + colluding + 1


def sparse(
    cohort: int,
    corrupt: int,
    dropped: int,
    rule: Callable[[int, int], int],
    *,
    connected: bool,
    security: int,
    correctness: int,
) -> tuple[int, int] | None:
    """The smallest even degree below `cohort - 1` with a threshold; None if there is none.

    Args:
        cohort: Participants.
        corrupt: That collude with the coordinator.
        dropped: That drop out.
        rule: (degree, most colluding neighbours) -> least threshold.
        connected: Whether the graph of honest survivors has to be connected by the choice of the order alone.
        security, correctness: As in `Assumptions`.

    Returns:
        Degree and threshold; the threshold is 2 or more.
    """
    secure, correct = 2.0 ** -(security + 1), 2.0**-correctness
    for degree in range(2, cohort - 1, 2):
        if connected and _log_disconnected(cohort, corrupt + dropped, degree) >= math.log(secure):
            continue
        colluding = _most(cohort, corrupt, degree, secure / cohort)
        remaining = degree - _most(cohort, dropped, degree, correct / cohort)
        threshold = max(2, rule(degree, colluding))
        if threshold <= remaining:
            return degree, threshold
    return None


def _complete(cohort: int, corrupt: int, assumptions: Assumptions) -> tuple[int, int]:
    degree = cohort - 1
    if cohort == 2:
        # One that colludes learns the other's vector from the sum: only none can be assumed.
        corrupt = 0
    dropped = math.floor((assumptions.dropout + _SMALL) * cohort)
    threshold = corrupt + 1
    if assumptions.adversary == "active":
        threshold = max(threshold, (degree + corrupt + 1) // 2)
    if threshold > degree - dropped:
        raise NoParameters(
            f"of {cohort} participants {corrupt} colluding ones ask for a threshold of {threshold}, and {dropped} that "
            f"drop out leave {degree - dropped} neighbours: lower corrupt or dropout, or take a larger cohort"
        )
    return degree, threshold


def _log_disconnected(cohort: int, gone: int, degree: int) -> float:
    """Logarithm of a bound on the probability that a ring falls apart when `gone` random ones leave it.

    It does when two runs of k/2 leave, in one of n (n - k - 1) / 2 pairs of places.
    """
    if degree > gone:
        return -math.inf
    pairs = math.log(cohort) + math.log(cohort - degree - 1) - math.log(2)
    return (
        pairs
        + math.lgamma(gone + 1)
        + math.lgamma(cohort - degree + 1)
        - math.lgamma(cohort + 1)
        - math.lgamma(gone - degree + 1)
    )


def _most(cohort: int, marked: int, drawn: int, probability: float) -> int:
    """The smallest c such that more than c of those drawn are marked at most with the probability."""
    tail = 0.0
    count = min(marked, drawn)
    while count > 0:
        tail += math.exp(_log_hypergeometric(cohort, marked, drawn, count))
        if tail > probability:
            return count
        count -= 1
    return 0


def _log_hypergeometric(cohort: int, marked: int, drawn: int, count: int) -> float:
    if drawn - count > cohort - marked:
        return -math.inf
    return (
        _log_choose(marked, count) + _log_choose(cohort - marked, drawn - count) - _log_choose(cohort, drawn)
    )


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


class Graph:
    """The neighbours of all participants.

    Args:
        cohort, degree: As in `Parameters`.
        seed: 28 bytes or more that the order on the ring follows from; the first 28 are taken.
    """

    def __init__(self, cohort: int, degree: int, seed: bytes) -> None:
        # Equal words, which leave the order of two to their indices, have probability n^2 2^-65.
        words = np.zeros(cohort, dtype=np.uint64)
        Streams([seed[:28]]).add(words)
        self._order = np.argsort(words, kind="stable")
        self._place = np.empty(cohort, dtype=np.int64)
        self._place[self._order] = np.arange(cohort)
        self._degree = degree

    def neighbours(self, index: int) -> tuple[int, ...]:
        """Indices of the neighbours of a participant, ascending."""
        cohort = len(self._order)
        if self._degree == cohort - 1:
            return tuple(other for other in range(cohort) if other != index)
        half = self._degree // 2
        steps: npt.NDArray[np.int64] = np.concatenate([np.arange(-half, 0), np.arange(1, half + 1)])
        return tuple(np.sort(self._order[(self._place[index] + steps) % cohort]).tolist())
