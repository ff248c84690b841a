"""What the coordinator asks of a participant, as it travels: one JSON text beside Flower's own records."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from fedcore.errors import JobError
from fedcore.jobs.analytics import AnalyticsJob, AnswerPrivacy
from fedcore.jobs.common import Address, Name, Seconds, Strict
from fedcore.jobs.job import LocalTraining, Strategy, Task, TrainJob
from fedcore.jobs.privacy import ClientPrivacy, NoisePlan, RecordPrivacy, StepPlan, TrainPrivacy
from fedcore.jobs.psi import Items, Protocol, PsiJob, PsiParty, Reveal
from fedcore.jobs.secure import SecureAggregation
from fedcore.jobs.vertical import VerticalJob

RECORD = "fedcore"
"""Name of the ConfigRecord that carries the request."""

SECURE = "secure"
"""Name of the ConfigRecord that carries secure aggregation, in messages and replies."""
PRIVATE = "private"
"""Name of the ConfigRecord with the clip of a round, in a message; and in a reply with what an update's noise asks of the
sum that it is in."""
TOTALS = "query.totals"
"""Type of the message that is answered with what goes into an exact sum, under secure aggregation only."""
NODES = "nodes"
"""Name of the ConfigRecord with what coordinator and participants say of the compute network."""
AGGREGATE = "query.aggregate"
"""Type of the message that has an aggregator ask the participants of its region."""
REGION = "region"
"""Name of the ConfigRecord that says who is in a region, and which of them replied what."""
USAGE = "usage"
"""Name of the ConfigRecord that asks what the work took, and of the one in the reply that says it. `usage 7` is what node 7
said, in a reply that an aggregator made of several."""
SESSION = "session"
"""Name of the ConfigRecord that asks a participant into a session, where later messages travel."""
SERVE = "--fedcore-session"
"""Argument by which a site's `flwr-clientapp` becomes the process of a session."""

PARTY = "party"
"""Name of the ConfigRecord in a party's answers to a psi or vertical request; its one key is `about`, JSON."""
INTERSECT = "query.intersect"
"""Type of the message that has a party take part in an intersection."""
STEP = "query.vertical"
"""Type of the message that has the parties of a vertical job do one step of it."""
ADMIT = "query.admit"
"""Type of the message that asks a participant whether it takes part in a question of an analytics job."""
MEETINGS = (INTERSECT, STEP)
"""Messages that have participants meet: sent once, since the others notice when one of them is gone."""

MOST_SITES = 100_000
"""Participants of a question."""

VERSION = 1


class Request(Strict):
    """What every request says.

    Args:
        version: Of this format; both sides must speak the same.
        run: The run it belongs to.
        job, kind, purpose: Of the job.
        cohort: How many participants take part.
    """

    version: Literal[1] = 1
    run: Name
    job: Name
    kind: str
    purpose: Name
    cohort: int

    def data_of(self, participant: str) -> str | None:
        """The data set that it asks of a participant; None when it asks nothing of it."""
        raise NotImplementedError

    def to_json(self) -> str:
        """The text that travels."""
        return self.model_dump_json(by_alias=True)


class TrainRequest(Request):
    """A request of a train job.

    Args:
        data, task, local, strategy, seed: Of the job.
        schema_: What the participants agreed their rows look like; None while preparing.
        secure_aggregation, differential_privacy: Of the job's protection.
        noise: How the promise of `differential_privacy` is kept; None while preparing.
    """

    kind: Literal["train"]
    data: Name
    task: Task
    local: LocalTraining
    strategy: Strategy
    seed: int
    schema_: dict[str, Any] | None = None
    secure_aggregation: SecureAggregation = SecureAggregation()
    differential_privacy: TrainPrivacy | None = None
    noise: NoisePlan | StepPlan | None = None

    @property
    def protected(self) -> bool:
        """Whether updates are summed under protection."""
        return self.secure_aggregation.protocol != "none"

    @property
    def private(self) -> bool:
        """Whether nothing but updates with noise leaves a site."""
        return self.differential_privacy is not None

    @property
    def of_client(self) -> ClientPrivacy | None:
        """What is promised to the participant as a whole."""
        asked = self.differential_privacy
        return asked if isinstance(asked, ClientPrivacy) else None

    @property
    def of_record(self) -> RecordPrivacy | None:
        """What is promised to each of its rows."""
        asked = self.differential_privacy
        return asked if isinstance(asked, RecordPrivacy) else None

    @property
    def counts_hidden(self) -> bool:
        """Whether the coordinator is not to be told how many rows this site has."""
        return self.of_client is not None or (
            self.protected and self.secure_aggregation.examples == "protected"
        )

    def data_of(self, participant: str) -> str | None:
        """The job's, at every participant."""
        return self.data

    @cached_property
    def rows_key(self) -> str:
        """What decides which rows are read for which purpose; equal for a run's prepare and its rounds."""
        return self.model_dump_json(exclude={"cohort", "schema_", "strategy", "noise"})

    @cached_property
    def work_key(self) -> str:
        """What decides the work; equal for all rounds of a run."""
        return self.model_dump_json(exclude={"cohort"})


class Meeting(Strict):
    """Where and as whom two parties meet.

    Args:
        session: Its name, made for this run.
        how: `memory` in one process; `direct` when one party listens; `relay` when neither can.
        keys: Public key lines of the parties by name, as the coordinator knows them. What a party's own file
            says goes before.
        listens: For `direct`: who waits at the address; the other calls.
        address: Of the party that listens, or of the relay.
        relay_key: Public key line of the relay.
    """

    session: Name
    how: Literal["memory", "direct", "relay"]
    keys: dict[Name, str] = Field(default_factory=dict)
    listens: Name | None = None
    address: Address | None = None
    relay_key: str | None = None


class PsiRequest(Request):
    """A request of a psi job; the same text for both parties.

    Args:
        parties, protocol, reveal, items, memory_limit, deadline: Of the job.
        meeting: None while preparing.
    """

    kind: Literal["psi"]
    parties: dict[Name, PsiParty]
    protocol: Protocol
    reveal: Reveal
    items: Items
    memory_limit: int | None
    deadline: Seconds
    meeting: Meeting | None = None

    def data_of(self, participant: str) -> str | None:
        """What the job names for it; None when it is no party."""
        party = self.parties.get(participant)
        return party.data if party else None

    def other(self, participant: str) -> str:
        """The other party's name."""
        return next(name for name in self.parties if name != participant)


class PairMeeting(Meeting):
    """A meeting of two parties of several.

    Args:
        between: The two.
    """

    between: tuple[Name, Name]


class VerticalRequest(Request):
    """A request of a vertical job; the same text for all parties.

    Args:
        plan: The job.
        step: Of the job; empty while preparing.
        meetings: Of this step, one per pair that talks; none while preparing.
    """

    kind: Literal["vertical"]
    plan: VerticalJob
    step: str = ""
    meetings: tuple[PairMeeting, ...] = ()

    def data_of(self, participant: str) -> str | None:
        """What the job names for it; None when it is no party."""
        party = self.plan.parties.get(participant)
        return party.data if party else None

    @property
    def digest(self) -> str:
        """SHA-256 of what the parties do, whatever the step; results of one plan are of no use in another."""
        told = self.plan.model_dump_json(by_alias=True, exclude={"deadline", "memory_limit"})
        return hashlib.sha256(f"{self.run}\0{told}".encode()).hexdigest()


@dataclass(frozen=True)
class Appointment:
    """One of a participant's meetings in a step, as a `PsiRequest` has its only one.

    Args:
        meeting: None while preparing.
        peer: Whom it meets.
        deadline: Longest wait, seconds.
    """

    meeting: Meeting | None
    peer: str
    deadline: float

    def other(self, participant: str) -> str:
        """Whom the participant meets."""
        return self.peer


class AnalyticsRequest(Request):
    """A request of an analytics job.

    Args:
        data, asker: Of the job.
        least: Participants that an answer needs.
        secure_aggregation, differential_privacy: Of the job's protection.
        shares: Questions that the job's privacy budget is split over.
        name: Of the question this is about; empty while preparing.
        question: What is asked, as `fedcore.analytics.question.read` takes it; empty while preparing.
        state: Of the question's rounds; what the site needs of it.
    """

    kind: Literal["analytics"]
    data: Name
    asker: Name
    cohort: int = Field(ge=1, le=MOST_SITES)
    least: int = Field(ge=1)
    secure_aggregation: SecureAggregation
    differential_privacy: AnswerPrivacy | None = None
    shares: int = Field(default=1, ge=1)
    name: str = ""
    question: dict[str, Any] = Field(default_factory=dict)
    state: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _summed(self) -> AnalyticsRequest:
        private = self.differential_privacy
        if private is not None and private.mode == "central" and not self.protected:
            raise ValueError("a share of the noise is enough in a protected sum only")
        return self

    @property
    def protected(self) -> bool:
        """Whether answers are summed under protection."""
        return self.secure_aggregation.protocol != "none"

    def data_of(self, participant: str) -> str | None:
        """The job's, at every participant."""
        return self.data

    @property
    def digest(self) -> str:
        """SHA-256 of what is asked, by whom, for what and under which protection, whatever the run; hex.

        An approval is bound to it.
        """
        told = self.model_dump_json(exclude={"run", "job", "cohort", "state", "name"})
        return hashlib.sha256(told.encode()).hexdigest()


_KINDS: dict[str, type[Request]] = {
    "train": TrainRequest,
    "psi": PsiRequest,
    "vertical": VerticalRequest,
    "analytics": AnalyticsRequest,
}


def request_for(
    job: TrainJob,
    run: str,
    cohort: int,
    schema: dict[str, Any] | None,
    noise: NoisePlan | StepPlan | None = None,
) -> TrainRequest:
    """The request that a train job makes of each participant of a run."""
    of_record = job.protection.of_record
    if of_record is not None:
        noise = StepPlan(releases=job.rounds + of_record.spare)
    return TrainRequest(
        run=run,
        job=job.name,
        kind=job.kind,
        purpose=job.purpose,
        data=job.data,
        cohort=cohort,
        task=job.task,
        local=job.local,
        strategy=job.strategy,
        seed=job.seed,
        schema_=schema,
        secure_aggregation=job.protection.secure_aggregation,
        differential_privacy=job.protection.differential_privacy,
        noise=noise,
    )


def psi_request_for(job: PsiJob, run: str, meeting: Meeting | None) -> PsiRequest:
    """The request that a psi job makes of its two parties."""
    return PsiRequest(
        run=run,
        job=job.name,
        kind=job.kind,
        purpose=job.purpose,
        cohort=len(job.parties),
        parties=job.parties,
        protocol=job.protocol,
        reveal=job.reveal,
        items=job.items,
        memory_limit=job.memory_limit,
        deadline=job.deadline,
        meeting=meeting,
    )


def vertical_request_for(
    job: VerticalJob, run: str, step: str = "", meetings: tuple[PairMeeting, ...] = ()
) -> VerticalRequest:
    """The request that a vertical job makes of all its parties for one step."""
    return VerticalRequest(
        run=run,
        job=job.name,
        kind=job.kind,
        purpose=job.purpose,
        cohort=len(job.parties),
        plan=job,
        step=step,
        meetings=meetings,
    )


def analytics_request_for(job: AnalyticsJob, run: str, cohort: int) -> AnalyticsRequest:
    """The request that an analytics job makes of each participant before it asks anything."""
    return AnalyticsRequest(
        run=run,
        job=job.name,
        kind=job.kind,
        purpose=job.purpose,
        cohort=cohort,
        data=job.data,
        asker=job.asker,
        least=job.participants.min,
        secure_aggregation=job.sums,
        differential_privacy=job.protection.differential_privacy,
        shares=len(job.ask),
    )


@lru_cache(maxsize=64)
def parse_request(text: str) -> Request:
    """Read a request, strictly: a participant acts on nothing it does not know.

    Raises:
        JobError: Not a request of this version.
    """
    try:
        told = json.loads(text)
        version = told.get("version")
        if version != VERSION:
            raise JobError(
                f"the coordinator speaks request version {version!r}, this participant {VERSION}; "
                "install the same version of fedcore at both"
            )
        return _KINDS[told["kind"]].model_validate_json(text)
    except (ValueError, AttributeError, KeyError, TypeError, ValidationError) as error:
        raise JobError("the coordinator's message is not a request this version of fedcore knows") from error
