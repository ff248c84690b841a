"""The layer that does the work of a placed round only under a lease of its plan's version.

The message says the version, the same to all participants, so that it tells nobody apart and travels through regions as
it is. It is taken out here: nothing of the work depends on it, and neither the task nor secure aggregation meets it.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedcore.errors import JobError
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import NODES
from fedcore.participant.mods.policy import request_of

PLACED = ("train", "evaluate")


def leased(resolve: Callable[[Context], Participant]) -> Mod:
    """The mod.

    Args:
        resolve: Gives the participant whose turn it is.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type.split(".")[0] not in PLACED or NODES not in message.content:
            return call_next(message, context)
        from fedcore.participant.nodes import STEP, check_work

        record = message.content[NODES]
        version = record.get("version") if isinstance(record, ConfigRecord) else None
        if not isinstance(version, int):
            raise JobError("the message's version of its plan cannot be read", step=STEP)
        check_work(resolve(context), request_of(message).run, version)
        del message.content[NODES]
        return call_next(message, context)

    return mod
