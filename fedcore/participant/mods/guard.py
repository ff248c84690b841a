"""The outermost layer: an error leaves the site as its type and a message that holds no data.

A traceback or a library's message may quote a cell of a table. What the coordinator gets is the message of a
`FedcoreError`, which by rule names columns, counts and settings only; of any other exception it gets the
type's name. The whole of it goes to the site's own log.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedcore.errors import FedcoreError
from fedcore.flower import error_reply
from fedcore.jobs.participant import Participant
from strategies.base import StrategyError

log = logging.getLogger("fedcore.participant")


def guard(resolve: Callable[[Context], Participant]) -> Mod:
    """The mod.

    Args:
        resolve: Gives the participant whose turn it is.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        name = None
        # Where it happened; and whom the error is about, when that is another party than this one.
        where: dict[str, str] = {}
        try:
            participant = resolve(context)
            name = participant.name
            return call_next(message, context)
        except FedcoreError as error:
            kind, text = type(error).__name__, error.message
            about = error.party if error.party != name else None
            where = {key: value for key, value in (("step", error.step), ("about", about)) if value}
            log.warning("%s: %s%s", name, text, f" ({error.detail})" if error.detail else "")
        except StrategyError as error:
            # What another module raised, and a StrategyError quotes, is not known to hold no data.
            cause = error.__cause__
            told = f"it raised {type(cause).__name__}; see the participant's own log" if cause else str(error)
            kind, text = "JobError", f"strategy: {told}"
            log.warning("%s: strategy: %s", name, error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever task code raises must not leave
            kind = "TaskFailed"
            text = f"the task raised {type(error).__name__}; the trace is in the participant's own log"
            log.error("%s: %s\n%s", name, text, traceback.format_exc())
        return error_reply(message, json.dumps({"type": kind, "message": text, "party": name, **where}))

    return mod
