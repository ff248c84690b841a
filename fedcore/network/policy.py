"""The placement policy: what a person wants of a placement, and what must hold whatever it costs.

    # policies/green.yaml
    name: green
    weights: {time: 0.3, carbon: 0.4, cost: 0.2, latency: 0.05, security: 0.05}
    hard: {security_level: 3, latency: {circle: national}, round_deadline: 10m}
    participants: {pick: 30, min: 20, mandatory: [bank-a]}

Everything that is left out has the safe value: the law of the coordinator's own site, at least three participants
for each aggregator, data worked on by their owner alone. That last one cannot be turned off.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedcore.jobs.common import Name, Seconds, Strict
from fedcore.jobs.problems import refuse
from fedcore.jobs.source import read_source
from fedcore.jobs.validation import validate
from fedcore.network.topology import Circle, Metric

Share = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[int, Field(ge=1, le=5)]
Evidence = Literal["measured", "attested", "declared", "derived"]

FEWEST_CHILDREN = 3
"""The sum over one or two participants tells what each of them sent."""


class Weights(Strict):
    """What counts how much; each term is first divided by its mean over random placements. They sum to one."""

    time: Share = 0.4
    carbon: Share = 0.2
    cost: Share = 0.2
    latency: Share = 0.1
    security: Share = 0.1

    @model_validator(mode="after")
    def _whole(self) -> Weights:
        total = math.fsum((self.time, self.carbon, self.cost, self.latency, self.security))
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the weights sum to {total:g}; they must sum to 1")
        return self


class Reference(Strict):
    """What a term is divided by: its mean over random placements."""

    from_: Annotated[Literal["random"], Field(alias="from")] = "random"
    samples: Annotated[int, Field(ge=10, le=1000)] = 50


class LatencyLimit(Strict):
    """How far a participant may be from its aggregator."""

    circle: Circle
    metric: Metric = "one_way"


class Needed(Strict):
    """What a figure must at least rest on."""

    compute: Evidence = "declared"
    link: Evidence = "derived"
    carbon: Evidence = "declared"


class Hard(Strict):
    """What every placement must keep.

    Args:
        data_domain: Data are worked on by nodes of their owner. There is no other value.
        jurisdiction: Of nodes and aggregators: a list, `root` for that of the coordinator's site, or `any`.
        security_level: Of nodes and aggregators, at least.
        attestation_any: At least one of these kinds must have been verified; empty asks for none.
        trust: Of nodes, at least.
        latency: Between a participant and its aggregator.
        round_deadline: Seconds that a round may take.
        carbon_per_round_g: Grams of CO2 of a round, on the policy's carbon basis.
        cost_per_round: In the policy's currency.
    """

    data_domain: Literal["owner-only"] = "owner-only"
    jurisdiction: tuple[str, ...] | Literal["root", "any"] = "root"
    security_level: Level = 1
    attestation_any: tuple[str, ...] = ()
    trust: Share = 0.0
    evidence: Needed = Needed()
    latency: LatencyLimit | None = None
    round_deadline: Seconds | None = None
    carbon_per_round_g: Annotated[float, Field(gt=0)] | None = None
    cost_per_round: Annotated[float, Field(gt=0)] | None = None


class Utility(Strict):
    """What the owners' data are worth, as told by the owners.

    Args:
        weight: Beside the weights, which sum to one without it; 0 leaves it out.
        epsilon: Spent by each owner for each time that it tells; the value is noised before it is sent.
    """

    weight: Share = 0.0
    epsilon: Annotated[float, Field(gt=0, le=10)] | None = None

    @model_validator(mode="after")
    def _paid(self) -> Utility:
        if self.weight > 0 and self.epsilon is None:
            raise ValueError("utility tells about the data: a weight above 0 needs an epsilon")
        return self


class Participants(Strict):
    """Who takes part in a round.

    Args:
        pick: How many; all who can when it is left out.
        min: How many at least, when fewer than `pick` can; when it is left out `pick` itself, or three without one.
        mandatory: Who must.
    """

    pick: Annotated[int, Field(ge=1)] | None = None
    min: Annotated[int, Field(ge=1)] | None = None
    mandatory: tuple[Name, ...] = ()
    utility: Utility = Utility()

    @model_validator(mode="after")
    def _counts(self) -> Participants:
        if self.pick is not None and self.min is not None and self.min > self.pick:
            raise ValueError(f"min is {self.min}, above pick, which is {self.pick}")
        if self.pick is not None and len(self.mandatory) > self.pick:
            raise ValueError(f"{len(self.mandatory)} are mandatory, more than pick, which is {self.pick}")
        if len(set(self.mandatory)) < len(self.mandatory):
            raise ValueError("a participant stands twice in mandatory")
        return self


class Fairness(Strict):
    """How often an owner takes part in any `window` rounds in a row: at least and at most these shares of them."""

    window: Annotated[int, Field(ge=1, le=10_000)] = 20
    min_rate: Share = 0.0
    max_rate: Share = 1.0

    @model_validator(mode="after")
    def _order(self) -> Fairness:
        if self.least > self.most:
            raise ValueError("min_rate leaves no room below max_rate in this window")
        if self.most < 1:
            raise ValueError("max_rate lets nobody take part in a whole window; raise it or widen the window")
        return self

    @property
    def least(self) -> int:
        """Rounds of a window."""
        return math.floor(self.min_rate * self.window + 1e-9)

    @property
    def most(self) -> int:
        """Rounds of a window."""
        return math.floor(self.max_rate * self.window + 1e-9)


class Aggregators(Strict):
    """Where updates are added up.

    Args:
        children_min: Participants of an aggregator, at least; never below three.
        ingress_share: Part of a round during which an aggregator may take in updates; with its rate, this is how
            many children it can have.
        most: Aggregators of a round.
        standby: Sites kept ready to take over.
        owners: Whose aggregators are used.
        disjoint: A standby is at another site than every open aggregator.
    """

    children_min: Annotated[int, Field(ge=FEWEST_CHILDREN)] = FEWEST_CHILDREN
    ingress_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    most: Annotated[int, Field(ge=1)] | None = None
    standby: Annotated[int, Field(ge=0, le=10)] = 1
    owners: Annotated[tuple[Literal["neutral", "participant"], ...], Field(min_length=1)] = ("neutral",)
    disjoint: Literal["site"] = "site"


class Carbon(Strict):
    """How carbon is counted.

    Args:
        basis: Grid factor of the place, or contracts.
        report_market: Show the contracts' figure too.
        network_kwh_per_gb: Of traffic. Published figures differ by orders of magnitude and are averages, so the
            value is small and always told.
    """

    basis: Literal["location", "market"] = "location"
    report_market: bool = True
    network_kwh_per_gb: Annotated[float, Field(ge=0, le=10)] = 0.001


class Replace(Strict):
    """When a running placement is changed.

    Args:
        min_gain: Of the objective, as a share of its value; a smaller gain is not worth the change.
        cooldown_rounds: After a change for gain, none for this many rounds. A loss is repaired at once.
    """

    min_gain: Share = 0.05
    cooldown_rounds: Annotated[int, Field(ge=0)] = 3


class Policy(Strict):
    """A placement policy as a person writes it."""

    name: Name = "balanced"
    version: Annotated[int, Field(ge=1)] = 1
    currency: str = "CNY"
    weights: Weights = Weights()
    reference: Reference = Reference()
    hard: Hard = Hard()
    participants: Participants = Participants()
    fairness: Fairness = Fairness()
    aggregators: Aggregators = Aggregators()
    carbon: Carbon = Carbon()
    replace: Replace = Replace()

    def digest(self) -> str:
        """SHA-256 of the values, defaults included; hex."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def load_policy(path: str | Path) -> Policy:
    """The policy of a YAML file.

    Raises:
        JobError: With all problems of the file.
    """
    source, problems = read_source(Path(path))
    model: Any = None
    if source.data is not None:
        model, found = validate(source, Policy)
        problems += found
    refuse(problems)
    policy: Policy = model
    return policy
