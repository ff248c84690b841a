"""The participant's Flower `ClientApp`: the task at the bottom, the release gate's layers around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedcore.errors import JobError
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import (
    ADMIT,
    AGGREGATE,
    SECURE,
    STEP,
    TOTALS,
    AnalyticsRequest,
    PsiRequest,
    Request,
    TrainRequest,
    VerticalRequest,
)
from fedcore.participant.meeting import Meetings, OverNetwork
from fedcore.participant.mods.evidence import evidence
from fedcore.participant.mods.guard import guard
from fedcore.participant.mods.leased import leased
from fedcore.participant.mods.metering import metering
from fedcore.participant.mods.policy import policy, request_of
from fedcore.participant.mods.privacy import privacy
from fedcore.participant.psi import Progress

R = TypeVar("R", bound=Request)


def build_client_app(
    resolve: Callable[[Context], Participant],
    meetings: Meetings | None = None,
    progress: Progress | None = None,
) -> ClientApp:
    """The app that serves every kind of request this version knows.

    Args:
        resolve: Gives the participant whose turn it is, from the node's context.
        meetings: How participants meet each other; over the network, with pinned keys only, when None.
        progress: Told how far a participant is, where somebody on its machine watches.

    Returns:
        An app with `train`, `evaluate`, `query.prepare`, `query.totals`, `query.nodes`, `query.secure`, `query.session`,
        `query.intersect`, `query.vertical` and `query.admit`; nothing leaves but through its mods.
    """
    meet = meetings or OverNetwork()
    # On one machine the coordinator is trusted with keys anyway.
    signed = isinstance(meet, OverNetwork) and not meet.loopback
    layers = [guard(resolve), evidence(resolve), metering(resolve, signed), policy(resolve), leased(resolve)]
    app = ClientApp(mods=[*layers, _secure(resolve, signed), privacy(resolve)])

    # The work imports torch, so it is imported when there is work.
    @app.query("prepare")
    def prepare(message: Message, context: Context) -> Message:
        request = request_of(message)
        if isinstance(request, PsiRequest):
            from fedcore.participant import psi

            return psi.prepare(resolve(context), request, message, meet)
        if isinstance(request, VerticalRequest):
            from fedcore.participant import vertical

            return vertical.prepare(resolve(context), request, message, meet)
        if isinstance(request, AnalyticsRequest):
            from fedcore.participant import analytics

            return analytics.prepare(resolve(context), request, message)
        from fedcore.participant import work

        return work.prepare(resolve(context), _of(message, TrainRequest), message)

    @app.query("intersect")
    def intersect(message: Message, context: Context) -> Message:
        from fedcore.participant import psi

        watch = progress or (lambda party, phase, done, of: None)
        return psi.take_part(resolve(context), _of(message, PsiRequest), message, meet, watch)

    @app.query(STEP.removeprefix("query."))
    def step(message: Message, context: Context) -> Message:
        from fedcore.participant import vertical

        watch = progress or (lambda party, phase, done, of: None)
        return vertical.take_part(resolve(context), _of(message, VerticalRequest), message, meet, watch)

    @app.query(ADMIT.removeprefix("query."))
    def admit(message: Message, context: Context) -> Message:
        from fedcore.participant import analytics

        return analytics.admit(resolve(context), _of(message, AnalyticsRequest), message)

    @app.query(TOTALS.removeprefix("query."))
    def totals(message: Message, context: Context) -> Message:
        request = request_of(message)
        if isinstance(request, AnalyticsRequest):
            from fedcore.participant import analytics

            return analytics.answer(resolve(context), request, message)
        from fedcore.participant import work

        return work.totals(resolve(context), _of(message, TrainRequest), message)

    @app.query("nodes")
    def nodes(message: Message, context: Context) -> Message:
        from fedcore.participant import nodes as network

        return network.answer(resolve(context), message)

    @app.query("region")
    def region(message: Message, context: Context) -> Message:
        from fedcore.participant.aggregator import open_region

        return open_region(resolve(context), message)

    @app.query("join")
    def join(message: Message, context: Context) -> Message:
        from fedcore.participant.aggregator import join_region

        return join_region(resolve(context), message)

    @app.query(AGGREGATE.removeprefix("query."))
    def aggregate(message: Message, context: Context) -> Message:
        from fedcore.participant import aggregator

        return aggregator.aggregate(resolve(context), message)

    @app.query("session")
    def session(message: Message, context: Context) -> Message:
        from fedcore.participant.session import open_session

        return open_session(message, context)

    @app.query("secure")
    def secure(message: Message, context: Context) -> Message:
        raise JobError("a message of secure aggregation carries no record of it")

    @app.train()
    def train(message: Message, context: Context) -> Message:
        from fedcore.participant import work

        return work.train_round(resolve(context), _of(message, TrainRequest), message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        from fedcore.participant import work

        return work.evaluate_round(resolve(context), _of(message, TrainRequest), message)

    return app


def _secure(resolve: Callable[[Context], Participant], signed: bool) -> Mod:
    """The innermost layer; what it needs is imported when a request asks for it."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        participant, request = resolve(context), request_of(message)
        summed = isinstance(request, TrainRequest | AnalyticsRequest) and request.protected
        if not summed and SECURE not in message.content:
            return call_next(message, context)
        from fedcore.participant.mods import secure

        device = request.local.device if isinstance(request, TrainRequest) else "cpu"
        own = secure.own_of(participant, signed, device)
        return secure.secure_aggregation(lambda message, context: own)(message, context, call_next)

    return mod


def _of(message: Message, kind: type[R]) -> R:
    """The request in a message, which must be of this kind.

    Raises:
        JobError: It is of another.
    """
    request = request_of(message)
    if not isinstance(request, kind):
        raise JobError(
            f"a message of type {message.metadata.message_type} carries a request of kind {request.kind!r}; install "
            "the same version of fedcore at coordinator and participants"
        )
    return request
