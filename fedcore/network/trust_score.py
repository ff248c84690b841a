"""How far a node is trusted, as a product of factors that each say why.

A score ranks nodes that are all admissible. What must hold at any rate (an enrolled identity that was not revoked,
the level of protection that a policy asks) is a gate before it, and no score makes up for that. It is computed anew
whenever offers are taken.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from fedcore.network.challenge import Verdict
from fedcore.network.descriptor import Descriptor
from fedcore.network.quantity import moment

HALF_LIFE_DAYS = 30.0
"""After which an attestation is worth half."""
UNATTESTED = 0.5
"""Factor of a node for which nobody vouches; a policy that asks for an attestation refuses it before."""


@dataclass(frozen=True)
class Factor:
    """One reason.

    Args:
        name: `identity`, `attestation`, `agreement`, `compliance` or `behaviour`.
        value: From 0 to 1.
        why: In a sentence.
    """

    name: str
    value: float
    why: str

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"the factor {self.name} is {self.value}; it must be from 0 to 1")


@dataclass(frozen=True)
class TrustScore:
    """The product of its factors.

    Args:
        factors: All of them, in order.
    """

    factors: tuple[Factor, ...]

    @property
    def value(self) -> float:
        """From 0 to 1."""
        return math.prod(factor.value for factor in self.factors)

    def explain(self) -> list[str]:
        """A line for each factor, the lowest first."""
        ordered = sorted(self.factors, key=lambda factor: factor.value)
        return [f"{factor.name} {factor.value:.2f}: {factor.why}" for factor in ordered]


@dataclass(frozen=True)
class Conduct:
    """How a node's owner kept to what was agreed.

    Args:
        ok, failed: Steps that were done as agreed, and not.
        broken: Requests against its own policy, or plans it broke: what no owner should ever do.
    """

    ok: int = 0
    failed: int = 0
    broken: int = 0

    def __post_init__(self) -> None:
        for name in ("ok", "failed", "broken"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; a count is 0 or more")


def trust(
    descriptor: Descriptor,
    *,
    enrolled: Collection[str],
    revoked: Collection[str] = (),
    verdicts: Sequence[Verdict] = (),
    round_residuals: Sequence[tuple[float, bool]] = (),
    conduct: Conduct | None = None,
    at: datetime | None = None,
) -> TrustScore:
    """The score of a node whose descriptor was checked.

    Args:
        descriptor: That `check_descriptor` let pass.
        enrolled: Names in the roster.
        revoked: Names whose keys count no more.
        verdicts: Of challenges, oldest first.
        round_residuals: Of rounds: ln(time seen / time predicted), and whether that was out of line.
        conduct: Of the owner.
        at: The moment of which it is asked; now by default.
    """
    now = at or datetime.now(UTC)
    known = conduct or Conduct()
    return TrustScore(
        (
            _identity(descriptor.owner, enrolled, revoked),
            _attestation(descriptor, now),
            _agreement(descriptor, verdicts, round_residuals),
            _compliance(known),
            _behaviour(known),
        )
    )


def scores(
    descriptors: Iterable[Descriptor],
    enrolled: Collection[str],
    conduct: Mapping[str, Conduct] | None = None,
    at: datetime | None = None,
) -> dict[tuple[str, str], TrustScore]:
    """The scores of nodes, by owner and node.

    Args:
        descriptors: As they came.
        enrolled: Names whose keys are known.
        conduct: Of owners, as far as anything is known of it.
        at: The moment of which it is asked; now by default.
    """
    known = conduct or {}
    return {
        (each.owner, each.node): trust(each, enrolled=enrolled, conduct=known.get(each.owner), at=at)
        for each in descriptors
    }


def _identity(owner: str, enrolled: Collection[str], revoked: Collection[str]) -> Factor:
    if owner in revoked:
        return Factor("identity", 0.0, f"the key of {owner} was revoked")
    if owner not in enrolled:
        return Factor("identity", 0.0, f"{owner} is not enrolled")
    return Factor("identity", 1.0, f"{owner} is enrolled")


def _attestation(descriptor: Descriptor, now: datetime) -> Factor:
    ages = []
    for each in descriptor.attestations:
        try:
            ages.append(((now - moment(each.verified_at)).total_seconds() / 86400, each.kind))
        except ValueError:
            continue
    # One of the future is no evidence of the present.
    past = sorted(each for each in ages if each[0] >= 0)
    if not past:
        return Factor("attestation", UNATTESTED, "nobody vouches for the node")
    age, kind = past[0]
    fresh = 0.5 ** (age / HALF_LIFE_DAYS)
    return Factor("attestation", max(fresh, UNATTESTED), f"{kind} was verified {age:.1f} days ago")


def _agreement(
    descriptor: Descriptor, verdicts: Sequence[Verdict], rounds: Sequence[tuple[float, bool]]
) -> Factor:
    """Whether what was seen agrees with what is said; the latest challenge that was right, and each outlier."""
    if any(not verdict.right for verdict in verdicts):
        return Factor("agreement", 0.0, "a product was wrong: the node answered without doing the work")
    value, why = 1.0, []
    if verdicts:
        last = verdicts[-1]
        if last.outside:
            # Faster than claimed is a reason to measure again, not to distrust.
            value *= min(1.0, math.exp(-last.residual))
            why.append(f"challenge: {last.why}")
        else:
            why.append(f"challenge: {last.seen:.3g} of {last.claimed:.3g} GFLOP/s")
    out = [residual for residual, outside in rounds if outside]
    if rounds:
        value *= 1 - len(out) / len(rounds)
        why.append(f"{len(out)} of {len(rounds)} rounds took a time that was out of line")
    if not verdicts and not rounds:
        doubtful = len(descriptor.doubtful)
        why.append(
            f"nothing was compared yet; {doubtful} of {len(descriptor.quantities)} quantities are unreliable"
        )
    return Factor("agreement", value, "; ".join(why))


def _compliance(conduct: Conduct) -> Factor:
    value = 0.5**conduct.broken
    return Factor("compliance", value, f"{conduct.broken} breaches of what was agreed")


def _behaviour(conduct: Conduct) -> Factor:
    value = (1 + conduct.ok) / (2 + conduct.ok + conduct.failed)
    return Factor(
        "behaviour", value, f"{conduct.ok} steps done as agreed and {conduct.failed} not, from a flat prior"
    )
