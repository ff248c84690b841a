"""A site's rounds under record-level privacy: how much noise the promise takes here, and what leaves.

The site works out everything from its own rows and the request: sampling rate, steps, noise. Of the coordinator it takes
the number of rounds only, and trains no more often than that, whatever becomes of a round. What leaves is the model and the
number of rows, which is taken as public.

Source: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016; accounting by `fedcore.privacy.accounting`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from flwr.app import Message, MetricRecord, RecordDict

from fedcore.errors import DataError, JobError, PolicyRefused
from fedcore.flower import array_record, arrays_in, configs_in, metrics_in, ndarrays
from fedcore.jobs.participant import Participant
from fedcore.jobs.privacy import StepPlan
from fedcore.jobs.request import TrainRequest
from fedcore.learning.private.calibration import Calibrated, noise_multiplier
from fedcore.learning.private.loop import sampling_rate, steps_of_round
from fedcore.participant.budgets import take_release
from fedcore.participant.site import open_site

EXAMPLES = "num-examples"


@dataclass(frozen=True)
class Promise:
    """How a site keeps what a job promises to its rows.

    Args:
        rows: Of the site.
        clip: Largest norm of a row's gradient.
        calibrated: Noise, sampling rate, steps of the whole run, and what they cost.
    """

    rows: int
    clip: float
    calibrated: Calibrated


def promise(request: TrainRequest, rows: int, releases: int) -> Promise:
    """The noise that a request's promise takes at a site.

    Args:
        request: With `level: record`.
        rows: Of the site that are trained on.
        releases: Rounds that are paid for.

    Raises:
        JobError: The request asks for something that tells of the rows, or delta is too large for so many rows.
    """
    asked = request.of_record
    if asked is None:
        raise JobError("the request promises nothing to single rows")
    local = request.local
    if local.validation or local.patience is not None or local.precision == "float16":
        raise JobError(
            "local.validation, patience and precision: float16 depend on the rows, and the promise is to each row; use "
            "validation: 0, no patience, another precision"
        )
    _check_schema(request)
    if asked.delta * rows > 1:
        told = "" if request.counts_hidden else f" ({rows}), {1 / rows:.3g}"
        raise JobError(
            f"protection.differential_privacy.delta is {asked.delta:g}; allowed: at most one over this site's number of rows"
            f"{told}, or one of them could be shown in full"
        )
    steps = releases * steps_of_round(rows, local)
    rate = sampling_rate(rows, local.batch_size)
    return Promise(rows, asked.clip, _calibrated(asked.epsilon, asked.delta, rate, steps, rows))


def _check_schema(request: TrainRequest) -> None:
    """What was agreed of the rows is the coordinator's word: nothing of it may depend on rows, or pick some of them."""
    agreed, asked = request.schema_, request.of_record
    if agreed is None or asked is None:
        return
    classes = set(agreed.get("classes") or ())
    if classes and classes != set(asked.classes or ()):
        raise JobError(
            f"the classes that were agreed, {sorted(map(str, classes))}, are not those of "
            f"protection.differential_privacy.classes, {sorted(map(str, asked.classes or ()))}; use the same versions of fedcore "
            "everywhere"
        )
    if agreed.get("mean") or agreed.get("scale"):
        raise JobError(
            "the agreed schema scales the columns, whose means are sums without noise; use standardize: none"
        )


@lru_cache(maxsize=256)
def _calibrated(epsilon: float, delta: float, rate: float, steps: int, rows: int) -> Calibrated:
    # Seconds of work, for each site of a process and each of its rounds.
    return noise_multiplier(epsilon, delta, rate, steps, rows)


def promise_of(participant: Participant, request: TrainRequest) -> Promise:
    """The promise of a request that carries its plan, for the site's rows.

    Raises:
        JobError: It carries none.
    """
    if not isinstance(request.noise, StepPlan):
        raise JobError(
            "the request does not say how many rounds are paid for; the coordinator must prepare the run first"
        )
    return promise(request, open_site(participant, request).held, request.noise.releases)


def private_round(
    participant: Participant, request: TrainRequest, message: Message, work: Callable[[], Message]
) -> Message:
    """The reply to a train message: the model that private steps led to, and the number of rows.

    Args:
        participant: Whose.
        request: With the promise and its plan.
        message: Carries the model.
        work: Trains as the request says.

    Raises:
        BudgetExhausted: The site's budget does not reach, or all rounds that were paid were begun.
        JobError: The plan cannot be kept, or arrays would leave that are no weights.
        DataError: The rows are others than when the run was charged.
    """
    if any("solo-rounds" in record for record in configs_in(message.content)):
        raise PolicyRefused("a model of this site alone is not made under privacy")
    rows = promise_of(participant, request).rows
    take_release(participant, request, lambda: None, rows=rows)
    reply = work()
    arrays = ndarrays(arrays_in(reply.content)[0])
    counters = [name for name, value in arrays.items() if value.dtype.kind != "f"]
    if counters:
        raise JobError(
            f"the update has an array {counters[0]!r} that is no weight, which no clip bounds; use a model without counters"
        )
    told = metrics_in(reply.content)[0][EXAMPLES]
    if told != rows:
        raise DataError("the number of rows changed while the site trained; start a new run")
    content = RecordDict({"arrays": array_record(arrays), "metrics": MetricRecord({EXAMPLES: rows})})
    return Message(content, reply_to=message)
