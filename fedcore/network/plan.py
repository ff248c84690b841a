"""The plan file: who takes part in a round, where, what that should take, how good it is proven to be, and why not else.

A plan's version is a fencing token: it rises with every plan of a job, and whoever has seen a version does nothing
any more for an older one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fedcore.errors import DataError, PlanRefused
from fedcore.network.admission import Rejected
from fedcore.network.evaluate import Part, Placed, Score, evaluate
from fedcore.network.offer import Offer, offers_digest
from fedcore.network.policy import Policy
from fedcore.network.problem import Work
from fedcore.network.reference import Scale
from fedcore.network.topology import Topology

FORM = 1
"""Of the file."""

CLOSE = 1e-6
"""Relative difference between a plan's figures and those of the judge that is no difference."""


@dataclass(frozen=True)
class Participant:
    """One participant of a plan: whose data, which node works on them, who adds its update up, what that takes."""

    owner: str
    offer: str
    node: str
    site: str
    aggregator: str
    expected: Part


@dataclass(frozen=True)
class AggregatorUse:
    """One aggregator of a plan.

    Args:
        children: Participants.
        capacity: Children that it could have in a round of this length.
        without: Seconds that a round would take were it lost, its children at the others and the standby; none where
            they have no room, or where it was not looked at.
    """

    site: str
    children: int
    capacity: int
    without: float | None = None


@dataclass(frozen=True)
class Quality:
    """How good a plan is.

    Args:
        objective: By the independent judge.
        bound: Below which no placement can be; none when nothing was proven.
        random: Mean objective of random placements.
        gap: (objective - bound) / (random - bound); none without a bound.
        solver: What searched, and what proved.
        seconds: Of searching.
        proof_seconds: Of proving.
    """

    objective: float
    bound: float | None
    random: float
    gap: float | None
    solver: str
    seconds: float
    proof_seconds: float


@dataclass(frozen=True)
class Prediction:
    """What the plan should take in a round.

    Args:
        round_s: Seconds.
        kwh, gco2_location, gco2_market, cost: Of the round; cost in the policy's currency.
        latency_ms, distrust, utility: Means over the participants.
        terms: Each term's share of the objective.
        circles: Participants by the latency circle that holds them and their aggregator.
    """

    round_s: float
    kwh: float
    gco2_location: float
    gco2_market: float
    cost: float
    latency_ms: float
    distrust: float
    utility: float
    terms: Mapping[str, float]
    circles: Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """A placement of the rounds of a job until the next plan.

    Args:
        version: Fencing token.
        job: Its name.
        root: Site at which the aggregate ends.
        seed: Of the random placements that scale the terms.
        policy, offers, topology: SHA-256 of each, hex.
        work: What travels.
        scale: What each term was divided by.
        participants: By owner.
        aggregators: By site.
        standby: Sites kept ready.
        prediction: Of a round.
        quality: How good it is.
        rejected: What was not chosen, and why; of the offers of owners that were not chosen only some.
        rejected_count: How many of each kind there are in all, by reason.
        forced, barred: Owners whom fairness needed and kept out.
        cause: Why there is this plan: `first`, or what happened to the one before.
    """

    version: int
    job: str
    root: str
    seed: int
    policy: str
    offers: str
    topology: str
    work: Work
    scale: Scale
    participants: tuple[Participant, ...]
    aggregators: tuple[AggregatorUse, ...]
    standby: tuple[str, ...]
    prediction: Prediction
    quality: Quality
    rejected: tuple[Rejected, ...] = ()
    rejected_count: Mapping[str, int] = field(default_factory=dict)
    forced: tuple[str, ...] = ()
    barred: tuple[str, ...] = ()
    cause: str = "first"

    def placed(self) -> list[Placed]:
        """For the judge."""
        return [Placed(one.owner, one.offer, one.aggregator) for one in self.participants]

    def children(self, site: str) -> tuple[str, ...]:
        """Owners whose updates are added up at a site."""
        return tuple(one.owner for one in self.participants if one.aggregator == site)


def predict(
    score: Score, placed: Sequence[Placed], offers: Mapping[str, Offer], topology: Topology
) -> Prediction:
    """What the judge says, as the plan has it."""
    circles: dict[str, int] = {}
    for one in placed:
        name = topology.circle(offers[one.offer].site, one.aggregator)
        circles[name] = circles.get(name, 0) + 1
    return Prediction(
        score.round_s, score.kwh, score.gco2_location, score.gco2_market, score.cost, score.latency_ms,
        score.distrust, score.utility, dict(score.terms), circles,
    )  # fmt: skip


def verify(plan: Plan, offers: Sequence[Offer], topology: Topology, policy: Policy) -> Score:
    """Judge a plan anew from what it was made of.

    Raises:
        PlanRefused: It is of other offers, another map or another policy, breaks a hard constraint, or its figures
            are not those of the judge.
    """
    for what, told, found in (
        ("offers", plan.offers, offers_digest(offers)),
        ("topology", plan.topology, topology.digest()),
        ("policy", plan.policy, policy.digest()),
    ):
        if told != found:
            raise PlanRefused(
                f"plan {plan.version} is of other {what}: it says {told[:12]}, these have {found[:12]}; plan again",
                step="plan",
            )
    score = evaluate(
        plan.placed(), offers, topology, policy, plan.work, plan.root, plan.scale,
        standby=plan.standby, forced=plan.forced, barred=plan.barred,
    )  # fmt: skip
    if score.violations:
        raise PlanRefused(f"plan {plan.version}: {'; '.join(score.violations[:5])}", step="plan")
    pairs = [(name, getattr(plan.prediction, name), getattr(score, name)) for name in _FIGURES]
    pairs.append(("objective", plan.quality.objective, score.objective))
    for name, says, value in pairs:
        if not math.isclose(says, value, rel_tol=CLOSE, abs_tol=1e-12):
            raise PlanRefused(
                f"plan {plan.version} says {name} {says:g}; it is {value:g}; plan again", step="plan"
            )
    return score


_FIGURES = ("round_s", "kwh", "gco2_location", "gco2_market", "cost", "latency_ms", "distrust", "utility")


class Fence:
    """Lets only plans through that are not older than the newest one seen.

    Args:
        file: Where the newest version is kept; in memory alone when it is left out.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.newest = int(file.read_text()) if file is not None and file.exists() else 0

    def admit(self, version: int) -> None:
        """Note a plan's version.

        Raises:
            PlanRefused: A newer one was seen.
        """
        if version < self.newest:
            raise PlanRefused(
                f"plan {version} is older than plan {self.newest}, which was seen; ask for the newest",
                step="plan",
            )
        if version > self.newest and self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            _write(self._file, f"{version}\n")
        self.newest = version


def save_plan(plan: Plan, file: str | Path) -> None:
    """Write a plan as JSON; an older plan does not replace a newer one.

    Raises:
        PlanRefused: The file holds a newer plan of the same job.
    """
    path = Path(file)
    if path.exists():
        there = load_plan(path)
        if there.job == plan.job and there.version > plan.version:
            raise PlanRefused(
                f"{path.name} holds plan {there.version} of {plan.job}; plan {plan.version} is older",
                step="plan",
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"form": FORM, **asdict(plan)}, indent=1, ensure_ascii=False, allow_nan=False)
    _write(path, text + "\n")


def load_plan(file: str | Path, *, at_least: int = 0) -> Plan:
    """Read a plan.

    Args:
        at_least: The newest version that was seen of it.

    Raises:
        DataError: The file is not a plan of this form.
        PlanRefused: It is older than `at_least`.
    """
    path = Path(file)
    try:
        plan = plan_from(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path.name} is not a plan file: {error!r}", step="plan") from error
    if plan.version < at_least:
        raise PlanRefused(f"{path.name} holds plan {plan.version}; plan {at_least} was seen", step="plan")
    return plan


def plan_from(told: Mapping[str, Any]) -> Plan:
    """The plan of a file's values.

    Raises:
        ValueError: It has another form.
        KeyError, TypeError: Something is missing or not known.
    """
    data = dict(told)
    form = data.pop("form")
    if form != FORM:
        raise ValueError(f"form {form}, this release reads form {FORM}")
    people = [Participant(**{**one, "expected": Part(**one["expected"])}) for one in data["participants"]]
    return Plan(
        **{
            **data,
            "work": Work(**data["work"]),
            "scale": Scale(**data["scale"]),
            "participants": tuple(people),
            "aggregators": tuple(AggregatorUse(**one) for one in data["aggregators"]),
            "standby": tuple(data["standby"]),
            "prediction": Prediction(**data["prediction"]),
            "quality": Quality(**data["quality"]),
            "rejected": tuple(Rejected(**one) for one in data["rejected"]),
            "forced": tuple(data["forced"]),
            "barred": tuple(data["barred"]),
        }
    )


def renumbered(plan: Plan, version: int, cause: str) -> Plan:
    """The same plan under a new version."""
    return replace(plan, version=version, cause=cause)


def _write(path: Path, text: str) -> None:
    """All of it or none: a reader never sees half a file."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text)
    os.replace(draft, path)
