"""The privacy layer of the release gate: what leaves has the noise that was promised, and is paid for.

It stands between the task and the protection, so that noise is part of what is masked.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedcore.errors import PolicyRefused
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import TOTALS, TrainRequest
from fedcore.participant.mods.policy import request_of


def privacy(resolve: Callable[[Context], Participant]) -> Mod:
    """The mod.

    Args:
        resolve: Gives the participant whose turn it is.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        request = request_of(message)
        if isinstance(request, TrainRequest):
            return _training(resolve(context), request, message, lambda: call_next(message, context))
        return call_next(message, context)

    return mod


def _training(
    participant: Participant, request: TrainRequest, message: Message, work: Callable[[], Message]
) -> Message:
    kind = message.metadata.message_type
    if not request.private:
        from fedcore.participant.budgets import required

        if required(participant, request.data, "train"):
            raise PolicyRefused(
                f"data set {request.data!r} is trained on under differential privacy only (policy.privacy, required_for); "
                "set protection: {differential_privacy: ...} in the job"
            )
        return work()
    if kind.split(".")[0] == "train":
        if request.of_record is not None:
            from fedcore.participant.private_records import private_round

            return private_round(participant, request, message, work)
        from fedcore.participant.private_training import private_update

        return private_update(participant, request, message, work)
    # A number of rows is public where the promise is to each of them.
    if (kind == TOTALS and request.of_record is None) or kind.split(".")[0] == "evaluate":
        raise PolicyRefused(
            f"{kind} is answered without noise, and the job promises differential privacy; it is not answered"
        )
    if request.of_record is not None:
        from fedcore.participant.private_records import promise_of

        # Whatever is told of the rows, only under a request that could be kept.
        promise_of(participant, request)
    if kind == "query.prepare":
        from fedcore.participant.budgets import foresee

        foresee(participant, request)
    return work()
