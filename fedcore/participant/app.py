"""The `ClientApp` of a deployment: the participant's file is named by the SuperNode's own configuration."""

from __future__ import annotations

from functools import lru_cache

from flwr.app import Context

from fedcore.errors import JobError
from fedcore.jobs.load import load_participant
from fedcore.jobs.participant import Participant
from fedcore.participant.client_app import build_client_app


@lru_cache(maxsize=4)
def _load(file: str) -> Participant:
    return load_participant(file)


def resolve(context: Context) -> Participant:
    """The participant whose file the SuperNode's configuration names.

    Raises:
        JobError: It names none, or the file is wrong.
    """
    file = context.node_config.get("participant")
    if not isinstance(file, str):
        raise JobError(
            "this SuperNode was started without its participant file; start it with `fedcore participant start FILE`"
        )
    return _load(file)


app = build_client_app(resolve)
