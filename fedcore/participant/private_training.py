"""A participant's update under client-level differential privacy: clipped, in whole steps, with noise.

    change   what the round changed, all weights as one vector of real numbers
    clipped  to a Euclidean norm of `clip`
    steps    in whole numbers of clip / clip_steps, whose squares add up to clip_steps^2 at most: looked at as whole
             numbers, so that no rounding of real ones is in the sensitivity
    noise    this participant's share, or all of it, drawn from the operating system

Each participant counts once, whatever its number of rows. With sampling it throws its own coin, after its work: who
took part is not to be seen from outside, and one that did not sends noise alone.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedcore.errors import DataError, JobError, PolicyRefused
from fedcore.flower import array_record, arrays_in, configs_in, ndarrays
from fedcore.jobs.participant import Participant
from fedcore.jobs.privacy import ONLY_SUM, NoisePlan
from fedcore.jobs.request import PRIVATE, TrainRequest
from fedcore.participant.budgets import take_release
from fedcore.privacy.clients import ClientNoise, check_noise
from fedcore.privacy.distributed import draw_share
from fedcore.privacy.exact import exact

NDArray = npt.NDArray[Any]

BIT = "extra/below-clip"
"""Name of the array with the number that tells whether the update was below the clip."""

log = logging.getLogger("fedcore.participant")


def clipped_steps(change: NDArray, clip: float, steps: int) -> tuple[npt.NDArray[np.int64], bool]:
    """A vector in whole steps of clip / steps, of norm `steps` at most.

    Args:
        change: float64, shape (n,), finite.
        clip: Largest norm, above 0.
        steps: In the clip, from 1 to 2^24.

    Returns:
        int64, shape (n,), whose squares add up to steps^2 at most; and whether the norm was not above the clip.

    Example:
        >>> clipped_steps(np.array([3.0, 4.0]), 1.0, 10)
        (array([6, 8]), False)
    """
    largest = float(np.abs(change).max(initial=0.0))
    # Divided first, so that squares of large numbers do not overflow.
    norm = largest * math.sqrt(float(np.square(change / largest).sum())) if largest else 0.0
    scale = steps / max(norm, clip)
    found = np.rint(change * scale).astype(np.int64)
    shrink = 2.0**-40
    while _squares(found) > steps**2:
        # Rounded towards zero, which makes nothing longer; less, where the norm itself was rounded.
        found = np.trunc(change * scale).astype(np.int64)
        scale, shrink = scale * (1 - shrink), min(2 * shrink, 0.5)
    return found, norm <= clip


def _squares(values: npt.NDArray[np.int64]) -> int:
    """Exact: pieces of 2^14 squares of numbers below 2^24 fit into 64 bits."""
    return sum(int(np.square(piece).sum()) for piece in np.array_split(values, 1 + len(values) // 2**14))


def check_plan(request: TrainRequest) -> ClientNoise:
    """The plan of noise, once this participant has worked out for itself that it keeps what the job promises.

    Raises:
        JobError: It does not, or is no plan of this job.
    """
    asked, plan, sums = request.of_client, request.noise, request.secure_aggregation
    if asked is None or not isinstance(plan, NoisePlan):
        raise JobError("the request carries no plan of noise; the coordinator must prepare the run first")
    noise = ClientNoise(**plan.model_dump())
    agrees = (
        noise.local == (asked.mode == "local")
        and noise.change == asked.change(noise.sampling)
        and bool(noise.bit_steps) == (asked.clipping == "adaptive")
        and (noise.local or sums.protocol == ONLY_SUM)
        and not (noise.local and noise.sampling < 1)
    )
    # One at least: each of the others knows its own share.
    told = 0 if noise.local else max(1, math.ceil(sums.corrupt * noise.participants - 1e-9))
    if not agrees or noise.lost < noise.participants - noise.present + told:
        raise JobError(
            "the plan of noise is not that of the job's protection.differential_privacy; install the same version of "
            "fedcore at coordinator and participants"
        )
    check_noise(noise, asked.epsilon, asked.delta)
    return noise


def private_update(
    participant: Participant, request: TrainRequest, message: Message, work: Callable[[], Message]
) -> Message:
    """The reply to a train message: whole numbers with noise, and nothing else.

    Args:
        participant: Whose.
        request: With the promise and the plan of noise.
        message: Carries the model, and the clip of this round.
        work: Trains and gives the reply that would leave without privacy.

    Returns:
        A reply with int64 arrays, in steps of clip / clip_steps, of the model's names and shapes.

    Raises:
        BudgetExhausted: The site's budget does not reach.
        JobError: The plan does not keep the promise, or the strategy sends more than the model's weights.
    """
    clip, before = _clip(message), _model(message)
    if any("solo-rounds" in record for record in configs_in(message.content)):
        raise PolicyRefused("a model of this site alone leaves without noise; it is not made under privacy")
    plan = request.noise
    take_release(participant, request, lambda: check_plan(request))
    if not isinstance(plan, NoisePlan):
        raise JobError("the request carries no plan of noise")
    noise = ClientNoise(**plan.model_dump())
    size = sum(value.size for value in before.values())
    vector = np.zeros(size + bool(noise.bit_steps), np.int64)
    change = _change(before, work, participant.name)
    if _takes_part(noise.sampling) and change is not None:
        vector[:size], below = clipped_steps(change, clip, noise.clip_steps)
        if noise.bit_steps:
            vector[size] = noise.bit_steps if below else -noise.bit_steps
    vector += draw_share(noise.shares, len(vector))
    content = RecordDict(
        {
            "arrays": array_record(_apart(vector, before)),
            "metrics": MetricRecord({"num-examples": 1}),
            PRIVATE: ConfigRecord({"present": noise.present}),
        }
    )
    return Message(content, reply_to=message)


def _clip(message: Message) -> float:
    record = message.content.get(PRIVATE)
    clip = record.get("clip") if isinstance(record, ConfigRecord) else None
    if not isinstance(clip, float) or not math.isfinite(clip) or clip <= 0:
        raise JobError("the message names no clip; install the same version of fedcore at both")
    # It is not for the task.
    del message.content[PRIVATE]
    return clip


def _model(message: Message) -> dict[str, NDArray]:
    records = arrays_in(message.content)
    if len(records) != 1:
        raise JobError(f"a train message carries one record of arrays, this one {len(records)}")
    arrays = ndarrays(records[0])
    other = [name for name, value in arrays.items() if value.dtype.kind != "f" or name.startswith("extra/")]
    if other:
        raise JobError(
            f"the model has an array {other[0]!r} that is no weight, which no clip bounds; use a model without counters "
            "and a strategy that sends nothing beside it"
        )
    return arrays


def _change(before: Mapping[str, NDArray], work: Callable[[], Message], name: str) -> NDArray | None:
    """What the round changed, float64; None where the work failed, of which nobody outside is told."""
    try:
        reply = work()
    except DataError as error:
        log.warning("%s: sends noise alone in this round: %s", name, error.message)
        return None
    after = ndarrays(arrays_in(reply.content)[0])
    if list(after) != list(before):
        odd = sorted(set(after) ^ set(before))
        raise JobError(
            f"the strategy or the task sends other arrays than the model's ({', '.join(odd[:3])}), which the clip does "
            "not bound; use fedavg, fedprox or one that changes the server's part only"
        )
    parts = [
        (after[each].astype(np.float64) - value.astype(np.float64)).ravel() for each, value in before.items()
    ]
    change = np.concatenate(parts)
    return change if np.isfinite(change).all() else None


def _takes_part(sampling: float) -> bool:
    """This participant's own coin, exact."""
    chance = exact(sampling, "sampling")
    return secrets.randbelow(chance.denominator) < chance.numerator


def _apart(vector: npt.NDArray[np.int64], before: Mapping[str, NDArray]) -> dict[str, NDArray]:
    arrays: dict[str, NDArray] = {}
    at = 0
    for name, value in before.items():
        arrays[name] = vector[at : at + value.size].reshape(value.shape)
        at += value.size
    if at < len(vector):
        arrays[BIT] = vector[at:]
    return arrays
