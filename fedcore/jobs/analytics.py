"""The analytics job: questions over the rows of many sites, none of which leaves its site."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from fedcore.jobs.asks import Question, Value
from fedcore.jobs.common import Name, Seconds, Strict
from fedcore.jobs.secure import SecureAggregation


class Askers(Strict):
    """Which participants are asked.

    Args:
        min: Fewest that must answer a question; with fewer it has no answer.
        names: Ask these only; all that have the data set when absent.
    """

    min: int = Field(default=3, ge=1)
    names: tuple[Name, ...] | None = None


class AnswerPrivacy(Strict):
    """Differential privacy of the answers; the cost is split evenly over the job's questions.

    Args:
        epsilon: Of the whole job.
        delta: Of the whole job; below one over the number of rows.
        mode: `central`: noise is added once to the protected sum, drawn in shares by the participants; `local`: each
            participant adds all of it to what it tells.
        neighbours: Whose presence is hidden: one `row`, or one `person` who has up to `rows` rows.
        change: `add-remove`: it is there or not; `replace`: its values are others.
        rows: Of one person, at most; further ones do not count.
        groups: That one person's rows fall in, at most.
        private_keys: Group keys that nobody declared are found by noisy counts, in place of being refused.
    """

    epsilon: float = Field(gt=0)
    delta: float = Field(default=1e-6, gt=0, lt=1)
    mode: Literal["central", "local"] = "central"
    neighbours: Literal["row", "person"] = "row"
    change: Literal["add-remove", "replace"] = "add-remove"
    rows: int = Field(default=1, ge=1)
    groups: int = Field(default=1, ge=1)
    private_keys: bool = False

    @model_validator(mode="after")
    def _finite(self) -> Self:
        if not math.isfinite(self.epsilon):
            raise ValueError(
                "epsilon must be finite; without a limit there is no promise: leave the block out"
            )
        if self.neighbours == "row" and (self.rows, self.groups) != (1, 1):
            raise ValueError("rows and groups bound what a person has; say neighbours: person")
        if self.groups > self.rows:
            raise ValueError(
                f"groups is {self.groups}, but {self.rows} rows fall in no more than {self.rows}"
            )
        return self


class AnswerProtection(Strict):
    """How answers are protected on their way.

    Args:
        secure_aggregation: `secagg+`: the coordinator learns sums over all sites only; `none`: each site's answer, its
            small cells suppressed. Other protocols sum weighted means, not exact numbers.
        differential_privacy: Noise on the answers; none when absent.
    """

    secure_aggregation: SecureAggregation = SecureAggregation(protocol="secagg+")
    differential_privacy: AnswerPrivacy | None = None

    @property
    def on(self) -> bool:
        """Whether answers are summed under protection."""
        return self.secure_aggregation.protocol != "none"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        protocol = self.secure_aggregation.protocol
        if protocol not in ("none", "secagg+"):
            raise ValueError(
                f"secure_aggregation: {protocol} sums rounded means; answers need exact sums: secagg+ or none"
            )
        private = self.differential_privacy
        if private is not None and private.mode == "central" and not self.on:
            raise ValueError(
                "differential_privacy: mode central adds noise to a protected sum; take secure_aggregation: secagg+, or "
                "mode: local"
            )
        return self


class AnalyticsJob(Strict):
    """Questions to the participants that have a data set.

    Args:
        name: Names the run folder and stands in every log.
        data: The data set's name in each participant's catalogue; SQL asks it under this name.
        purpose: Why; a participant's policy may allow only some purposes.
        asker: Who asks, as the coordinator knows the person; a participant's policy may allow only some.
        ask: The questions by name.
        levels: Values that columns of categories may have, where participants do not declare them.
        deadline: Longest wait for the participants' replies in one phase, seconds.
    """

    kind: Literal["analytics"]
    name: Name
    data: Name
    purpose: Name = "research"
    asker: Name = "coordinator"
    participants: Askers = Askers()
    ask: dict[Name, Question] = Field(min_length=1)
    levels: dict[str, tuple[Value, ...]] = Field(default_factory=dict)
    protection: AnswerProtection = AnswerProtection()
    deadline: Seconds = 600.0

    @property
    def sums(self) -> SecureAggregation:
        """How sums are protected: never one of fewer participants than an answer needs."""
        asked = self.protection.secure_aggregation
        return asked.model_copy(update={"least_cohort": max(asked.least_cohort, self.participants.min)})

    @model_validator(mode="after")
    def _enough(self) -> Self:
        names = self.participants.names
        if names is not None and len(names) < self.participants.min:
            raise ValueError(f"participants: min is {self.participants.min} but only {len(names)} are named")
        if names is not None and len(set(names)) < len(names):
            raise ValueError("participants: a name stands twice in names")
        for column, values in self.levels.items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f"levels: {column} needs one or more values, each once")
        return self
