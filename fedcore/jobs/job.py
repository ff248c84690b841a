"""The job: what is to be done, by whom, under which protection.

The keys of a psi job stand in `fedcore.jobs.psi`, those of a vertical job in `fedcore.jobs.vertical`, those of an analytics job
in `fedcore.jobs.analytics`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    TypeAdapter,
    model_serializer,
    model_validator,
)

from fedcore.jobs.analytics import AnalyticsJob
from fedcore.jobs.common import Name, Seconds, Strict
from fedcore.jobs.datasets import DataSet
from fedcore.jobs.imaging import ImageTask as ImageTask
from fedcore.jobs.imaging import SegmentationTask as SegmentationTask
from fedcore.jobs.privacy import ClientPrivacy, RecordPrivacy, TrainPrivacy, check_private
from fedcore.jobs.psi import PsiJob
from fedcore.jobs.secure import SecureAggregation
from fedcore.jobs.vertical import VerticalJob


class Participants(Strict):
    """Who takes part.

    Args:
        min: A round with fewer valid replies stops the run, resumable.
        names: Only these; everyone who has the data set when absent.
        fraction: Share of the cohort that trains in one round, in (0, 1].
    """

    min: int = Field(default=2, ge=1)
    names: tuple[Name, ...] | None = None
    fraction: float = Field(default=1.0, gt=0, le=1)


class TabularTask(Strict):
    """Classification over numeric columns.

    Args:
        target: The column to predict; its distinct values are the classes.
        features: The columns to predict from; all numeric ones but target and row id when absent.
        model: `logistic` or `mlp`.
        hidden: Widths of the hidden layers of `mlp`.
        standardize: `federated` scales by mean and deviation over all sites, from sums that each site
            releases in the prepare step; `none` takes the columns as they are.
    """

    use: Literal["tabular-classifier"]
    target: str
    features: tuple[str, ...] | None = None
    model: Literal["logistic", "mlp"] = "logistic"
    hidden: tuple[int, ...] = (64, 32)
    standardize: Literal["federated", "none"] = "federated"

    @model_validator(mode="after")
    def _sensible(self) -> TabularTask:
        if self.features is not None:
            if not self.features:
                raise ValueError(
                    "features: name one or more, or leave the key out to take all numeric columns"
                )
            if self.target in self.features:
                raise ValueError(
                    f"features: the target {self.target!r} stands among them; the model would be told the answer"
                )
            if len(set(self.features)) < len(self.features):
                raise ValueError("features: a column stands twice")
        if any(width < 1 for width in self.hidden):
            raise ValueError("hidden: every layer has one unit or more")
        return self


class CustomTask(Strict):
    """A task of your own: `use: package.module:Class`, its constructor's arguments in `with`.

    Args:
        use: `package.module:Class`, installed at the coordinator and allowed and installed at every site.
        target: The column to predict, if the task has one.
        features: Columns the task reads; all numeric ones but target and row id when absent.
        standardize: `federated` scales by mean and deviation over all sites, from sums that each site
            releases in the prepare step; `none` takes the columns as they are.
        with: Arguments of the task's constructor, by name.
    """

    model_config = ConfigDict(populate_by_name=True)

    use: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    target: str | None = None
    features: tuple[str, ...] | None = None
    standardize: Literal["federated", "none"] = "none"
    options: dict[str, Any] = Field(default_factory=dict, alias="with")


def _task_kind(value: Any) -> str:
    use = value.get("use") if isinstance(value, dict) else getattr(value, "use", None)
    return use if use in BUILT_IN_TASKS else "custom"


Task = Annotated[
    Annotated[TabularTask, Tag("tabular-classifier")]
    | Annotated[ImageTask, Tag("image-classifier")]
    | Annotated[SegmentationTask, Tag("image-segmenter")]
    | Annotated[CustomTask, Tag("custom")],
    Discriminator(_task_kind),
]


class Strategy(Strict):
    """An aggregation strategy by name or import path; further keys are its parameters."""

    model_config = ConfigDict(extra="allow")

    use: str = "fedavg"

    @property
    def parameters(self) -> dict[str, Any]:
        """The keys beside `use`, as written."""
        return dict(self.__pydantic_extra__ or {})


class LocalTraining(Strict):
    """What each participant does in a round.

    Args:
        epochs: Passes over the site's training rows.
        batch_size: Rows per step.
        lr: Learning rate.
        optimizer: `sgd`, `adam` or `adamw`.
        momentum: Of `sgd`.
        weight_decay: Of the optimizer.
        device: `auto` takes CUDA when the site has it; `cpu`, `cuda` and `cuda:N` insist.
        devices: GPUs of a participant that share each batch, from the one of `device` on; a CPU is one. The result is that
            of one GPU up to rounding. It pays for models whose step takes many milliseconds.
        precision: `auto` is bfloat16 autocast on CUDA and float32 on a CPU.
        validation: Share of the site's rows kept out of training for the federated evaluation.
        patience: Stop the local epochs after this many without a better validation loss; never when absent.
        compile: Compile the model's forward and backward pass (torch.compile; small models on CUDA as CUDA graphs). The
            first step of a process takes seconds to a minute. On a CPU small models get slower by it: the digits CNN and
            an MLP of three layers took 1.4 to 1.9 times as long per step. Without a compiler it is left out.
    """

    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=32, ge=1)
    lr: float = Field(default=0.01, gt=0)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    devices: int = Field(default=1, ge=1)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    validation: float = Field(default=0.2, ge=0, lt=1)
    patience: int | None = Field(default=None, ge=1)
    compile: bool = False


class Evaluation(Strict):
    """Federated evaluation at the sites, and optionally on data the coordinator owns.

    Args:
        every: Evaluate after every n-th round and after the last.
        federated: Evaluate at the sites, on their validation rows.
        central: A data set at the coordinator, its path relative to the job file.
    """

    every: int = Field(default=1, ge=1)
    federated: bool = True
    central: DataSet | None = None


class Protection(Strict):
    """How updates are protected on their way; every receipt says it.

    Args:
        secure_aggregation: Whether the coordinator learns only the sum of the updates: a protocol, or a mapping.
        differential_privacy: What is promised to each participant or to each row, and by how much noise; none when
            absent.
    """

    secure_aggregation: SecureAggregation = SecureAggregation()
    differential_privacy: TrainPrivacy | None = None

    @property
    def on(self) -> bool:
        """Whether updates are summed under protection."""
        return self.secure_aggregation.protocol != "none"

    @property
    def of_client(self) -> ClientPrivacy | None:
        """What is promised to each participant as a whole."""
        asked = self.differential_privacy
        return asked if isinstance(asked, ClientPrivacy) else None

    @property
    def of_record(self) -> RecordPrivacy | None:
        """What is promised to each row."""
        asked = self.differential_privacy
        return asked if isinstance(asked, RecordPrivacy) else None

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> Any:
        told = handler(self)
        if self.differential_privacy is None:
            told.pop("differential_privacy", None)
        return told


class Stop(Strict):
    """Stop early when a metric of the federated (else central) evaluation has not improved.

    Args:
        metric: Its name, as in `result.json`.
        patience: Evaluations without improvement before the run stops.
        mode: `auto` is `min` for loss and error, `max` otherwise.
        min_delta: What counts as an improvement.
    """

    metric: str
    patience: int = Field(default=5, ge=1)
    mode: Literal["auto", "min", "max"] = "auto"
    min_delta: float = Field(default=0.0, ge=0)

    @property
    def maximize(self) -> bool:
        """Whether more is better."""
        if self.mode != "auto":
            return self.mode == "max"
        return not any(word in self.metric for word in ("loss", "error", "mse", "mae", "brier"))


class TrainJob(Strict):
    """Train one model over the participants' rows.

    Args:
        name: Names the run folder and stands in every log.
        data: The data set's name in each participant's catalogue.
        task: What is learned: a built-in task, or one of your own.
        rounds: Rounds of train and evaluate.
        deadline: Longest wait for the participants' replies in one phase, seconds.
        placement: Policy file by which each round is placed on the federation's compute network, relative to this file.
        baselines: `local` lets each site also train alone; `pooled` trains on all rows together, which only
            the engines that hold all data on one machine can do.
        purpose: Why; a participant's policy may allow only some purposes.
        seed: Of everything a person may want to repeat: initial weights, order of batches, sampling.
    """

    kind: Literal["train"]
    name: Name
    data: Name
    purpose: Name = "research"
    participants: Participants = Participants()
    task: Task
    strategy: Strategy = Strategy()
    rounds: int = Field(default=10, ge=1)
    local: LocalTraining = LocalTraining()
    evaluation: Evaluation = Evaluation()
    protection: Protection = Protection()
    stop: Stop | None = None
    baselines: tuple[Literal["local", "pooled"], ...] = ()
    placement: Path | None = None
    deadline: Seconds = 600.0
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _enough(self) -> TrainJob:
        names = self.participants.names
        if names is not None and len(names) < self.participants.min:
            raise ValueError(f"participants: min is {self.participants.min} but only {len(names)} are named")
        if names is not None and len(set(names)) < len(names):
            raise ValueError("participants: a name stands twice in names")
        if self.protection.on and "local" in self.baselines:
            raise ValueError(
                "baselines: local shows the model of each single site, which protection.secure_aggregation hides; leave "
                "one of the two out"
            )
        if self.placement is not None and self.participants.fraction < 1:
            raise ValueError(
                "placement chooses who takes part in a round, so that participants.fraction must be 1; say how many in "
                "the policy (participants.pick)"
            )
        if not self.evaluation.federated and self.evaluation.central is None:
            idle = "stop" if self.stop is not None else "baselines" if self.baselines else None
            if idle:
                raise ValueError(
                    f"{idle}: there is nothing to judge by; set evaluation.federated or evaluation.central"
                )
        check_private(self)
        return self


AnyJob = TrainJob | PsiJob | VerticalJob | AnalyticsJob
"""Every kind of job this version knows."""

Job = Annotated[AnyJob, Field(discriminator="kind")]
"""The same, as a file has it: its `kind` says which."""

JOB_KINDS = ("train", "psi", "vertical", "analytics")

BUILT_IN_TASKS = ("tabular-classifier", "image-classifier", "image-segmenter")


def parse_job(written: Any) -> AnyJob:
    """The job that a run's `run.json` holds.

    Args:
        written: As `model_dump(mode="json", by_alias=True)` gave it.
    """
    job: AnyJob = TypeAdapter(Job).validate_python(written)
    return job
