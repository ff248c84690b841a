"""Differential privacy of a training: what a job says of it, and the plan of noise that travels to the participants."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from fedcore.jobs.common import Strict

if TYPE_CHECKING:
    from fedcore.jobs.job import TrainJob

CLASSIFIERS = ("tabular-classifier", "image-classifier")
"""Built-in tasks whose target is a class."""

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
        _check_numbers(self, "epsilon", "clip", "rate")
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


class RecordPrivacy(Strict):
    """What is promised to each row of each participant: DP-SGD at the sites (Abadi et al., CCS 2016).

    Two data sets of a site that are alike but for one row, which in one of them counts as nothing, make nearly the same
    models likely. Every update that leaves a site carries all of the noise, so the promise needs no other party. The number
    of a site's rows is taken as public. A person with several rows is promised less.

    Args:
        level: `record`: one row is hidden.
        epsilon: Of the whole run, at each site, above 0.
        delta: Of the whole run; at each site at most one over its number of rows.
        clip: Largest Euclidean norm of the gradient of one row's loss, from 1e-6 to 1e6.
        spare: Rounds that are paid beside those of the job, for rounds that a crash makes to be done again.
        classes: All values that the target can have, known without a look at the data; no site tells which it has.
    """

    level: Literal["record"]
    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    clip: float = Field(default=1.0, ge=1e-6, le=1e6)
    spare: int = Field(default=0, ge=0)
    classes: tuple[int | float | str, ...] | None = None

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        _check_numbers(self, "epsilon", "clip")
        return self

    @property
    def word(self) -> str:
        """As a receipt says it."""
        return f"record-level, epsilon {self.epsilon:g}, delta {self.delta:g}"


TrainPrivacy = Annotated[ClientPrivacy | RecordPrivacy, Field(discriminator="level")]
"""What a training can promise; `level` says to whom."""


def _check_numbers(asked: ClientPrivacy | RecordPrivacy, *names: str) -> None:
    for name in names:
        if not math.isfinite(getattr(asked, name)):
            raise ValueError(f"{name} is {getattr(asked, name)}; allowed: a finite number above 0")
    if asked.classes is not None and (len(asked.classes) < 2 or len(set(asked.classes)) < len(asked.classes)):
        raise ValueError("classes: name two or more, each once")


class StepPlan(Strict):
    """How often a site trains under record-level privacy.

    Everything else it works out itself, from its own rows: steps, sampling, noise.

    Args:
        releases: Rounds that are paid for.
    """

    releases: int = Field(ge=1)


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
    _check_silent(job, asked)
    if isinstance(asked, RecordPrivacy):
        _check_rows(job)
    else:
        _check_clients(job, asked)


def _check_silent(job: TrainJob, asked: ClientPrivacy | RecordPrivacy) -> None:
    """Nothing that carries no noise may leave."""
    for key, wrong, cure in (
        ("evaluation.federated", job.evaluation.federated, "set it to false; central data may be used"),
        ("baselines", bool(job.baselines), "leave them out"),
        ("task.standardize", getattr(job.task, "standardize", "none") != "none", "set it to none"),
    ):
        if wrong:
            raise ValueError(
                f"{key}: nothing but updates with noise leaves a site under protection.differential_privacy; {cure}"
            )
    if job.task.use in CLASSIFIERS and asked.classes is None:
        raise ValueError(
            "protection.differential_privacy.classes: name the values that the target can have; which of them a site "
            "has is not told"
        )


def _check_rows(job: TrainJob) -> None:
    if job.local.validation:
        raise ValueError(
            "local.validation: which rows are set aside depends on all of them, and the promise is to each row; set it to 0"
        )
    if job.local.patience is not None:
        raise ValueError(
            "local.patience: when to stop would tell of the rows; leave it out, the number of steps is fixed beforehand"
        )
    for key, wrong in (("compile", job.local.compile), ("devices", job.local.devices > 1)):
        if wrong:
            raise ValueError(
                f"local.{key}: private steps are taken by one device, as they are; leave it out under level: record"
            )
    if job.local.precision == "float16":
        raise ValueError(
            "local.precision: float16 skips steps that overflow, which would tell of the rows; use bfloat16, float32 or auto"
        )


def _check_clients(job: TrainJob, asked: ClientPrivacy) -> None:
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
    if job.placement is not None:
        raise ValueError(
            "placement: nothing but clipped updates with noise leaves a site under protection.differential_privacy; "
            "leave it out: it chooses who takes part"
        )
    names = job.participants.names
    most = 1 / (len(names) if names is not None else job.participants.min)
    if asked.delta >= most:
        raise ValueError(
            f"protection.differential_privacy.delta is {asked.delta:g}; allowed: below one over the number of "
            f"participants, {most:.3g}, or one of them could be shown in full"
        )
