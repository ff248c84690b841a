"""The `ClientApp` of a simulation: it travels to Ray's workers as the path of the federation file alone.

Flower pickles the app for every message. One that holds a thousand participants would cost more than the
training of a small model.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedcore.coordinator.watch import EventFile
from fedcore.jobs.load import load_federation
from fedcore.jobs.participant import Participant
from fedcore.participant.client_app import build_client_app
from fedcore.participant.meeting import OverNetwork


class FederationApp(ClientApp):
    """Serves the participants of a federation file, by the `partition-id` of their nodes.

    Args:
        file: The federation file, absolute; read once per process.
        events: File to which participants write how far they are; nobody is told when None.
    """

    def __init__(self, file: Path, events: Path | None = None) -> None:
        super().__init__()
        self.file, self.events = file, events

    def __call__(self, message: Message, context: Context) -> Message:
        """Handle one message."""
        return _app(self.file, self.events)(message, context)

    def __reduce__(self) -> tuple[Any, ...]:
        return FederationApp, (self.file, self.events)


@functools.lru_cache(maxsize=1)
def _app(file: Path, events: Path | None) -> ClientApp:
    participants = load_federation(file).participants

    def resolve(context: Context) -> Participant:
        return participants[int(context.node_config["partition-id"])]

    told = EventFile(events).progress if events is not None else None
    return build_client_app(resolve, OverNetwork(loopback=True), told)
