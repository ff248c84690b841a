"""The participant's Flower `ClientApp`: the task at the bottom, the release gate's layers around it."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedcore.jobs.participant import Participant
from fedcore.participant.mods.evidence import evidence
from fedcore.participant.mods.guard import guard
from fedcore.participant.mods.policy import policy, request_of


def build_client_app(resolve: Callable[[Context], Participant]) -> ClientApp:
    """The app that serves every kind of request this version knows.

    Args:
        resolve: Gives the participant whose turn it is, from the node's context.

    Returns:
        An app with `train`, `evaluate` and `query.prepare`; nothing leaves but through its mods.
    """
    app = ClientApp(mods=[guard(resolve), evidence(resolve), policy(resolve)])

    # The work imports torch, so it is imported when there is work.
    @app.query("prepare")
    def prepare(message: Message, context: Context) -> Message:
        from fedcore.participant import work

        return work.prepare(resolve(context), request_of(message), message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        from fedcore.participant import work

        return work.train_round(resolve(context), request_of(message), message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        from fedcore.participant import work

        return work.evaluate_round(resolve(context), request_of(message), message)

    return app
