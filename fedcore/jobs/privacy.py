"""Differential privacy of a training: what a job says of it, and the plan of noise that travels to the participants."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from fedcore.jobs.common import Strict

if TYPE_CHECKING:
    from fedcore.jobs.job import TrainJob

ONLY_SUM = "secagg+"
"""The protocol whose sums are of whole numbers, exactly, so that the noise in them is the noise that was drawn."""


class ClientPrivacy(Strict):
    """What is promised to each participant as a whole, with all of its rows.

    Args:
        level: `client`: a participant is hidden with everything it has.
        epsilon: Of the whole run, above 0.
        delta: Of the whole run; below one over the number of participants.
        clip: Largest Euclidean norm of an update (what a round changed, all weights together); at `clipping: adaptive`
            that of the first round.
        neighbours: `replace`: the participant's data are any other data; it covers any change of any of its rows.
            `add-remove`: what it sends is there or is nothing, which half the noise hides. `replace` when absent, and
            `add-remove` where `participants.fraction` is below 1, for which alone sampling is accounted.
        mode: `central`: noise is added once to the protected sum, drawn in shares by the participants; `local`: each
            participant adds all of it to its own update, and needs to trust nobody.
        clipping: `fixed`, or `adaptive`: the clip follows a quantile of the norms (Andrew et al., NeurIPS 2021), which
            takes a hundredth of the budget.
        quantile: Of the norms, that an adaptive clip goes for.
        rate: Of an adaptive clip: it changes by at most this in the logarithm, each round.
        spare: Rounds that are paid beside those of the job, for rounds that a crash makes to be done again.
        classes: All values that the target can have, known without a look at the data; no site tells which it has.
    """

    level: Literal["client"]
    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    neighbours: Literal["replace", "add-remove"] | None = None
    mode: Literal["central", "local"] = "central"
    clipping: Literal["fixed", "adaptive"] = "fixed"
    quantile: float = Field(default=0.5, gt=0, lt=1)
    rate: float = Field(default=0.2, gt=0)
    spare: int = Field(default=0, ge=0)
    classes: tuple[int | float | str, ...] | None = None

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        for name in ("epsilon", "clip", "rate"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: a finite number above 0")
        if self.classes is not None and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ValueError("classes: name two or more, each once")
        if self.clipping == "fixed" and (self.quantile, self.rate) != (0.5, 0.2):
            raise ValueError("quantile and rate are of an adaptive clip; say clipping: adaptive")
        return self

    def change(self, fraction: float) -> Literal["replace", "add-remove"]:
        """The neighbour relation, where the job left it open.

        Args:
            fraction: Of the participants in a round.
        """
        return self.neighbours or ("replace" if fraction == 1 else "add-remove")

    @property
    def word(self) -> str:
        """As a receipt says it."""
        return f"client-level, epsilon {self.epsilon:g}, delta {self.delta:g}"


class NoisePlan(Strict):
    """Who draws how much noise: `fedcore.privacy.clients.ClientNoise` as it travels.

    A participant takes no number of it on trust: it works out the epsilon itself.
    """

    change: Literal["replace", "add-remove"]
    participants: int = Field(ge=1)
    lost: int = Field(ge=0)
    present: int = Field(ge=1)
    releases: int = Field(ge=1)
    sampling: float = Field(gt=0, le=1)
    clip_steps: int = Field(ge=1)
    bit_steps: int = Field(ge=0)
    variance: int = Field(ge=1)
    local: bool


def check_private(job: TrainJob) -> None:
    """Refuse what would leave a site without noise, or could not be accounted, where a job asks for privacy.

    Raises:
        ValueError: With the key and the cure.
    """
    asked = job.protection.differential_privacy
    if asked is None:
        return
    sums, fraction = job.protection.secure_aggregation.protocol, job.participants.fraction
    if asked.mode == "central" and sums != ONLY_SUM:
        raise ValueError(
            f"protection.differential_privacy: mode central adds noise to a protected sum of whole numbers, and "
            f"secure_aggregation is {sums}; set secure_aggregation: {ONLY_SUM}, or mode: local"
        )
    if asked.mode == "local" and sums != "none":
        raise ValueError(
            "protection.differential_privacy: in mode local each update has all of its noise and is not summed under "
            f"protection; leave secure_aggregation out, or take mode: central, which needs {sums} for less noise"
        )
    if fraction < 1 and (asked.mode == "local" or asked.neighbours == "replace"):
        raise ValueError(
            "participants.fraction below 1: chance hides who took part only inside a protected sum, and is accounted for "
            "neighbours: add-remove; use mode: central with that relation, or fraction: 1"
        )
    for key, wrong, cure in (
        ("evaluation.federated", job.evaluation.federated, "set it to false; central data may be used"),
        ("baselines", bool(job.baselines), "leave them out"),
        ("task.standardize", getattr(job.task, "standardize", "none") != "none", "set it to none"),
        ("placement", job.placement is not None, "leave it out: it chooses who takes part"),
    ):
        if wrong:
            raise ValueError(
                f"{key}: nothing but clipped updates with noise leaves a site under "
                f"protection.differential_privacy; {cure}"
            )
    if job.task.use in ("tabular-classifier", "image-classifier") and asked.classes is None:
        raise ValueError(
            "protection.differential_privacy.classes: name the values that the target can have; which of them a site "
            "has is not told"
        )
    names = job.participants.names
    most = 1 / (len(names) if names is not None else job.participants.min)
    if asked.delta >= most:
        raise ValueError(
            f"protection.differential_privacy.delta is {asked.delta:g}; allowed: below one over the number of "
            f"participants, {most:.3g}, or one of them could be shown in full"
        )
