"""The grid under which the coordinator learns the sum of a cohort's updates, and none of them (`crypto.secagg`).

In any Flower `ServerApp`, over participants with `fedcore.participant.mods.secure` among their mods:

    strategy.start(SecureAggregationGrid(grid), initial_arrays, num_rounds=10)

A train or evaluate exchange becomes the stages of the protocol, and the strategy gets one reply: the weighted mean of
arrays and metrics, `num-examples` the sum. Every other message passes through. Keys are agreed on once, in front of
the first exchange, and again when the cohort changes by more than may drop out. What a strategy that needs each
update makes of the mean is not what it would make of the updates: fedcore's jobs refuse it, here nobody does.

An exchange that is left with fewer participants than a sum needs gives no reply at all; the next one can go on.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from crypto.errors import ProtocolError
from crypto.secagg.coordinator import Coordinator
from crypto.secagg.graph import Assumptions
from crypto.secagg.keys import Authenticator
from crypto.secagg.protocol import RUN, RoundFailed
from crypto.secagg.round import Round
from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.mean import EXAMPLES, metric_record
from fedcore.flower import array_record, arrays_in, digest_of, ndarrays, payload_bytes
from fedcore.jobs.request import SECURE
from fedcore.participant.protected import MASKED, Form, Layout, same_metrics, unpack

log = logging.getLogger("fedcore.coordinator")

PATIENCE = 60.0
PROTECTED = ("train", "evaluate")
KEPT = 2
"""Sessions: a sampled cohort that trains, and all that evaluate."""


@dataclass
class Account:
    """What one protected exchange was.

    Args:
        asked: Participants that the strategy asked.
        summed: That are in the sum; 0 when there is none.
        threshold: Shares that give a secret.
        neighbours: Of each participant.
        stages: By name: seconds, bytes down and up, asked, answered.
        dropped: Participant to the first stage at which it gave nothing usable.
        blamed: Participants that revealed a wrong share.
        clipped: Values that were clipped, of all participants.
        error_bound: Of each clipped value of the mean.
        failed: Why there is no sum; empty when there is one.
    """

    asked: int
    summed: int = 0
    threshold: int = 0
    neighbours: int = 0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    blamed: list[str] = field(default_factory=list)
    clipped: int = 0
    error_bound: float = 0.0
    failed: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class Session:
    """Participants that have met.

    Args:
        run: Its name, 32 bytes.
        coordinator: The protocol's.
        nodes: Name to node id.
        number: Of the last round.
        shared: By round, whose shares came.
        stale: Somebody has lost its state: the next exchange begins with new keys.
    """

    run: bytes
    coordinator: Coordinator
    nodes: dict[str, int]
    number: int = 0
    shared: dict[int, set[str]] = field(default_factory=dict)
    stale: bool = False


class SecureAggregationGrid(Layer):
    """Sums train and evaluate replies under masks.

    Args:
        grid: Any Flower grid.
        assumptions: About the cohort. A participant refuses what protects less than its own.
        clip: Largest change of a weight in a round; what is larger is cut to it, and counted.
        bits: Of the modulus, 32 or 64.
        largest_weight: Examples that one participant can have.
        name_of: Participant by node id, as it calls itself; the number itself when None.
        authenticator: Checks keys with the pinned identities; None where they are not signed.
        control: Type of the protocol's own messages; that of the exchange when None, which every `ClientApp` knows.
        patience: Seconds to wait in a stage without work.
        refused: Told a participant's name and why when what it sent cannot be used.
        stage: Told the name of each stage before it begins.

    Attributes:
        account: Of the last exchange.
    """

    def __init__(
        self,
        grid: Grid,
        assumptions: Assumptions | None = None,
        *,
        clip: float = 8.0,
        bits: int = 32,
        largest_weight: int = 2**16,
        name_of: Callable[[int], str] | None = None,
        authenticator: Authenticator | None = None,
        control: str | None = None,
        patience: float = PATIENCE,
        refused: Callable[[str, str], None] | None = None,
        stage: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(grid)
        self.assumptions = assumptions or Assumptions()
        self.clip, self.bits, self.largest_weight = clip, bits, largest_weight
        self.name_of = name_of or str
        self.authenticator = authenticator
        self.control, self.patience = control, patience
        self._refused = refused or (lambda name, why: None)
        self._stage = stage or (lambda name: None)
        self._sessions: list[Session] = []
        self._metrics: dict[str, tuple[str, ...]] = {}
        self.account = Account(0)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Of the grid below.

        Raises:
            ValueError: A train or evaluate message: one that is pushed and pulled has no protection.
        """
        pushed = list(messages)
        if any(_kind(message) in PROTECTED for message in pushed):
            raise ValueError("train and evaluate messages are protected in send_and_receive only; use that")
        return self.below.push_messages(pushed)

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """At most one reply to a train or evaluate exchange: weighted means; all replies to any other."""
        asked = list(messages)
        if not asked or _kind(asked[0]) not in PROTECTED:
            yield from super().stream(asked, timeout)
            return
        self.account = Account(len(asked))
        try:
            reply = self._protected(asked, timeout)
        except RoundFailed as error:
            self.account.failed = str(error)
            self.account.blamed = sorted({*self.account.blamed, *error.blamed})
            log.warning("secure aggregation: %s", error)
            return
        yield reply

    # ---- once a session ---------------------------------------------------------------------------------

    def _met(self, nodes: Mapping[str, int], kind: str) -> Session:
        """The session of these participants; a new one where too many of the old are missing or new ones came."""
        for old in reversed(self._sessions):
            missing = len(old.nodes) - len(nodes)
            if (
                not old.stale
                and set(nodes.values()) <= set(old.nodes.values())
                and missing <= self.assumptions.dropout * len(old.nodes)
            ):
                return old
        run = secrets.token_bytes(RUN)
        coordinator = Coordinator(run, self.assumptions, self.authenticator)
        about = json.dumps(asdict(self.assumptions))
        replies = self._exchange("keys", run, 0, dict.fromkeys(nodes, b""), nodes, kind, about=about)
        for name, told in replies.items():
            with self._using(name, "keys"):
                coordinator.take_advert(name, _bytes(told, "message"))
        rosters = coordinator.rosters()
        session = Session(run, coordinator, {name: nodes[name] for name in rosters})
        for name, told in self._exchange("roster", run, 1, rosters, session.nodes, kind).items():
            self._take_shares(session, name, told, "shares", "roster")
        self._sessions = [*(old for old in self._sessions if not old.stale), session][-KEPT:]
        return session

    def _take_shares(self, session: Session, name: str, told: RecordDict, key: str, stage: str) -> None:
        with self._using(name, stage):
            number = session.coordinator.take_shares(name, _bytes(told, key))
            session.shared.setdefault(number, set()).add(name)

    # ---- each exchange ----------------------------------------------------------------------------------

    def _protected(self, asked: list[Message], timeout: float | None) -> Message:
        kind = asked[0].metadata.message_type
        to = {self.name_of(message.metadata.dst_node_id): message for message in asked}
        nodes = {name: message.metadata.dst_node_id for name, message in to.items()}
        session = self._met(nodes, kind)
        limits = session.coordinator.cohort.parameters
        self.account.threshold, self.account.neighbours = limits.threshold, limits.degree
        number = session.number + 1
        there = {name: nodes[name] for name in session.nodes if name in nodes}
        lacking = {name: b"" for name in there if name not in session.shared.get(number, ())}
        if lacking:
            told = self._exchange("shares", session.run, number, lacking, there, kind)
            session.stale = set(told) != set(lacking)
            for name, each in told.items():
                self._take_shares(session, name, each, "shares", "shares")
        session.number = number
        session.shared = {later: names for later, names in session.shared.items() if later > number}
        began = session.coordinator.start(number)
        form = Form(
            self.clip,
            session.coordinator.cohort.size,
            self.largest_weight,
            self.bits,
            self._metrics.get(kind, ()),
            changes=_alike(asked),
        )
        layouts, first = self._collect(session, began, to, form, timeout)
        total = self._unmask(session, began, kind, nodes)
        before = {
            name: value for record in arrays_in(asked[0].content) for name, value in ndarrays(record).items()
        }
        return self._reply(first, total, layouts, form, before, kind)

    def _collect(
        self, session: Session, began: Round, to: Mapping[str, Message], form: Form, timeout: float | None
    ) -> tuple[list[Layout], Message]:
        """Send the strategy's messages and add the masked vectors up; their layouts, and one of the replies."""
        messages, about = [], form.to_json()
        for name, start in began.starts().items():
            if name not in to:
                self.account.dropped.setdefault(name, "masked")
                continue
            message = to[name]
            told = _record("masked", session.run, began.number, start, about)
            # One content may serve all messages of a strategy, so it is not added to.
            message.content = RecordDict({**message.content, SECURE: told})
            messages.append(message)
        layouts: list[Layout] = []
        first: Message | None = None
        for name, reply in self._sent("masked", messages, timeout):
            record = reply.content.get(MASKED)
            with self._using(name, "masked"):
                if record is None or len(arrays_in(reply.content)) != 1 or MASKED not in record:
                    raise ProtocolError(f"{name} sent no masked vector", step="masked")
                layout = Layout.from_json(_text(reply.content, "about"))
                vector = ndarrays(arrays_in(reply.content)[0])[MASKED]
                wanted = layouts[0].arrays if layouts else layout.arrays
                named = layout.metrics[: len(form.metrics)] == form.metrics
                if layout.arrays != wanted or not named or len(vector) != layout.words(form):
                    raise ProtocolError(
                        f"{name} sent a vector with other arrays than the others; use the same versions of the task "
                        "and of fedcore everywhere",
                        step="masked",
                    )
                began.take_masked(name, _bytes(reply.content, "message"), vector)
                layouts.append(layout)
                first = first or reply
            self._take_shares(session, name, reply.content, "shares", "masked")
        if first is None:
            raise RoundFailed(
                step="masked",
                number=began.number,
                left=0,
                needed=began.cohort.parameters.least,
                cohort=began.cohort.size,
            )
        return layouts, first

    def _unmask(self, session: Session, began: Round, kind: str, nodes: Mapping[str, int]) -> Any:
        asked = began.survivors()
        if self.assumptions.adversary == "active":
            replies = self._exchange("confirm", session.run, began.number, asked, nodes, kind)
            for name, told in replies.items():
                with self._using(name, "confirm"):
                    began.take_confirmation(name, _bytes(told, "message"))
            asked = began.requests()
        for name, told in self._exchange("reveal", session.run, began.number, asked, nodes, kind).items():
            with self._using(name, "reveal"):
                began.take_revealed(name, _bytes(told, "message"))
        total = began.finish()
        self.account.blamed = sorted(began.blamed)
        return total

    def _reply(
        self,
        reply: Message,
        total: Any,
        layouts: list[Layout],
        form: Form,
        before: Mapping[str, Any],
        kind: str,
    ) -> Message:
        known, wanted = same_metrics([layout.metrics for layout in layouts], form)
        self._metrics[kind] = wanted
        if set(known) != set(wanted):
            log.warning(
                "some metrics of this round are not reported by all participants and come from the next on"
            )
        try:
            mean = unpack(total, Layout(layouts[0].arrays, known), before, form)
        except ValueError as error:
            raise RoundFailed(
                step="mean",
                number=0,
                left=len(layouts),
                needed=len(layouts),
                cohort=form.cohort,
                reason=str(error),
            ) from error
        self.account.summed, self.account.clipped = len(layouts), mean.clipped
        self.account.error_bound = form.narrow.error_bound(mean.weight, len(layouts))
        content = RecordDict({"metrics": metric_record({EXAMPLES: mean.weight, **mean.metrics})})
        if mean.arrays:
            content["arrays"] = array_record(mean.arrays)
        reply.content = content
        return reply

    # ---- messages ---------------------------------------------------------------------------------------

    def _exchange(
        self,
        stage: str,
        run: bytes,
        number: int,
        bodies: Mapping[str, bytes],
        nodes: Mapping[str, int],
        kind: str,
        about: str = "",
    ) -> dict[str, RecordDict]:
        """One stage of the protocol without work; what came, by name."""
        messages = [
            Message(
                RecordDict({SECURE: _record(stage, run, number, body, about)}),
                nodes[name],
                self.control or kind,
            )
            for name, body in bodies.items()
            if name in nodes
        ]
        return {name: reply.content for name, reply in self._sent(stage, messages, self.patience)}

    def _sent(
        self, stage: str, messages: list[Message], timeout: float | None
    ) -> Iterator[tuple[str, Message]]:
        """Send and yield the replies that are no errors; who gave none is dropped."""
        began = time.monotonic()
        seen: dict[str, float] = dict.fromkeys(("seconds", "down", "up", "asked", "answered"), 0)
        seen["asked"] = len(messages)
        seen["down"] = sum(payload_bytes(message.content) for message in messages)
        self.account.stages[stage] = seen
        self._stage(stage)
        for reply in super().stream(messages, timeout):
            name = self.name_of(reply.metadata.src_node_id)
            if reply.has_error():
                self.account.dropped.setdefault(name, stage)
                continue
            seen["answered"] += 1
            seen["up"] += payload_bytes(reply.content)
            yield name, reply
        seen["seconds"] = time.monotonic() - began

    def _using(self, name: str, stage: str) -> _Using:
        return _Using(self, name, stage)

    def refuse(self, name: str, stage: str, why: str) -> None:
        """Count what a participant sent as not sent."""
        self.account.dropped.setdefault(name, stage)
        self._refused(name, why)


class _Using:
    """Turns a wrong message of one participant into its dropping out."""

    def __init__(self, grid: SecureAggregationGrid, name: str, stage: str) -> None:
        self.grid, self.name, self.stage = grid, name, stage

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, RoundFailed) or not isinstance(error, ProtocolError | ValueError):
            return False
        self.grid.refuse(self.name, self.stage, str(error))
        return True


def _kind(message: Message) -> str:
    return message.metadata.message_type.split(".")[0]


def _record(stage: str, run: bytes, number: int, body: bytes, about: str) -> ConfigRecord:
    return ConfigRecord({"stage": stage, "session": run, "number": number, "message": body, "about": about})


def _field(content: RecordDict, key: str, kind: type) -> Any:
    record = content.get(SECURE)
    value = record.get(key) if isinstance(record, ConfigRecord) else None
    if not isinstance(value, kind):
        raise ProtocolError(
            "the reply is none of secure aggregation; its participant lacks secure_aggregation_mod", step=key
        )
    return value


def _bytes(content: RecordDict, key: str) -> bytes:
    value: bytes = _field(content, key, bytes)
    return value


def _text(content: RecordDict, key: str) -> str:
    value: str = _field(content, key, str)
    return value


def _alike(asked: list[Message]) -> bool:
    """Whether all participants are sent the same arrays, so that changes since then can be summed."""
    records = {
        tuple(id(record) for record in arrays_in(message.content)): message.content for message in asked
    }
    return len(records) == 1 or len({digest_of(content) for content in records.values()}) == 1
