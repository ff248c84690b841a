"""The base grid of a deployment whose messages travel over channels, once Flower has brought the two sides together.

A message over plain Flower costs seconds, whatever it carries: the SuperNode asks for work every few seconds and
starts a process for each message. With the first message to a participant this grid has Flower carry another one,
which asks it into a session (`fedcore.participant.session`). From then on its messages go over a channel of fedcore's:
gRPC over TLS, with both sides' keys pinned, opened by the participant. Flower still does rendezvous, node
authentication and the run's life cycle, and it still carries the messages of a participant that cannot reach the data
port or does not know sessions.

When a connection is lost, the participant connects again and gets repeated what it has not answered
(`fedcore.peer.seat`). When its process is gone, a new session is opened and the message sent again; what the node's
context held is lost with the process. Messages that are pushed and pulled, in place of `send_and_receive`, are carried
by Flower.

Who comes to the door must hold the key of a participant whom the SuperLink lets in, and know the name of the session
that was opened for just this participant. Whose reply it is follows from the key, not from what the reply says.
"""

from __future__ import annotations

import itertools
import json
import logging
import queue
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.serverapp import Grid

from fedcore.coordinator.grids.layer import LAST_POLL, Layer
from fedcore.errors import FedcoreError
from fedcore.flower import NODE_UNAVAILABLE, error_reply, message_of, through_outage
from fedcore.jobs.request import MEETINGS, RECORD, SESSION
from fedcore.participant.session import OPEN, OVER, SETTINGS
from fedcore.peer.listening import Hall
from fedcore.peer.messages import VERSION
from fedcore.peer.seat import Gone, Seat
from fedcore.peer.tls import Peer
from fedcore.trust.identity import Identity

log = logging.getLogger("fedcore.engines")

TRIES = 3
"""Sessions in which one message is sent."""
FAREWELL = SETTINGS.linger + 1.0
"""Seconds that ending all sessions takes at most."""


@dataclass(frozen=True)
class Door:
    """Where participants come to.

    Args:
        bind: `host:port` to listen at; port 0 takes a free one.
        address: `host:port` as participants reach it; port 0 stands for the one that was taken.
        identity: The coordinator's key.
        peers: Node number to the participant whose pinned key it has.
    """

    bind: str
    address: str
    identity: Identity
    peers: Mapping[int, Peer]


@dataclass
class _Exchange:
    """Messages on their way, one per node, and what has become of them."""

    end: float | None
    events: queue.SimpleQueue[tuple[Message, Message | Exception]] = field(default_factory=queue.SimpleQueue)
    waiting: dict[int, Message] = field(default_factory=dict)
    tries: dict[int, int] = field(default_factory=dict)
    plain: dict[str, Message] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether nobody waits any more."""
        return self.end is not None and time.monotonic() >= self.end


class SessionGrid(Layer):
    """Sends messages over sessions, which it opens when they are needed.

    Args:
        grid: Flower's own.
        door: Where participants come to; opened with the first message.

    Attributes:
        plain: Participants whose messages Flower carries, by name, and why.
    """

    def __init__(self, grid: Grid, door: Door) -> None:
        super().__init__(grid)
        self._door, self._peers = door, dict(door.peers)
        self._hall: Hall | None = None
        self._seats: dict[int, Seat] = {}
        # Invitations that nobody has followed yet, by Flower's number.
        self._opening: dict[str, tuple[int, Seat]] = {}
        self._number = 0
        self._prefix = secrets.token_hex(4)
        self.plain: dict[str, str] = {}

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """Replies as they come; a message without one by the timeout gets an error reply.

        A node that is sent several messages gets each after its reply to the one before.
        """
        end = None if timeout is None else time.monotonic() + timeout
        left = list(messages)
        while left:
            exchange, later = _Exchange(end), []
            for message in left:
                if exchange.waiting.setdefault(message.metadata.dst_node_id, message) is not message:
                    later.append(message)
            yield from self._exchanged(exchange)
            late = [*exchange.waiting.values(), *(later if exchange.over else [])]
            for message in late:
                yield error_reply(message, f"no reply within {timeout:g} s", NODE_UNAVAILABLE)
            left = [] if exchange.over else later

    def close(self) -> None:
        """End all sessions."""
        leaving = [
            threading.Thread(target=seat.close, args=(Message(RecordDict({}), node, OVER),), daemon=True)
            for node, seat in self._seats.items()
        ]
        for each in leaving:
            each.start()
        # One that takes nothing any more is cut off with the hall.
        end = time.monotonic() + FAREWELL
        for each in leaving:
            each.join(max(0.0, end - time.monotonic()))
        if self._hall is not None:
            self._hall.close(1.0)

    def _exchanged(self, exchange: _Exchange) -> Iterator[Message]:
        """Send what waits, and yield each reply; returns when all are there or the time is over."""
        hall = self._opened()
        new, plain = [], []
        for node, message in exchange.waiting.items():
            if hall is None or self._by_flower(node):
                plain.append(message)
            elif (seat := self._seats.get(node)) is not None and seat.alive:
                self._ask(seat, message, exchange)
            else:
                new.append(message)
        if hall is not None:
            self._open(hall, new, exchange)
        self._push(plain, exchange)
        while exchange.waiting:
            yield from self._due(exchange)
            if exchange.over:
                break

    def _opened(self) -> Hall | None:
        """The hall; None where it cannot be opened, and Flower then carries everything."""
        if self._hall is None and self._peers and not self.plain:
            try:
                self._hall = Hall(
                    self._door.bind,
                    identity=self._door.identity,
                    peers=list(self._peers.values()),
                    settings=SETTINGS,
                    calls=2 * len(self._peers) + 8,
                )
            except FedcoreError as error:
                log.warning("no sessions, and Flower carries every message: %s", error)
                self.plain = {peer.name: str(error) for peer in self._peers.values()}
        return self._hall

    # ---- one turn ---------------------------------------------------------------------------------------

    def _due(self, exchange: _Exchange) -> Iterator[Message]:
        """The replies that have come; waits for a moment when there are none."""
        pause = None if exchange.end is None else max(0.0, exchange.end - time.monotonic())
        by_flower = [*self._invited(exchange), *exchange.plain]
        if by_flower:
            pause = LAST_POLL if pause is None else min(pause, LAST_POLL)
        try:
            message, told = exchange.events.get(timeout=pause)
        except queue.Empty:
            pass
        else:
            if isinstance(told, Message):
                yield self._finished(exchange, message, told)
            elif isinstance(told, Gone):
                yield from self._again(exchange, message, told)
        if by_flower:
            for reply in through_outage(lambda: self.below.pull_messages(by_flower)):
                number = reply.metadata.reply_to_message_id
                if (asked := exchange.plain.pop(number, None)) is not None:
                    yield self._finished(exchange, asked, reply)
                elif (opened := self._opening.pop(number, None)) is not None and reply.has_error():
                    yield from self._not_opened(exchange, *opened, reply)

    def _invited(self, exchange: _Exchange) -> list[str]:
        """Numbers of the invitations whose answers matter now."""
        # Who has come has followed his; what becomes of Flower's message no longer matters.
        self._opening = {
            number: (node, seat)
            for number, (node, seat) in self._opening.items()
            if seat is self._seats.get(node) and not seat.joined
        }
        return [number for number, (node, _) in self._opening.items() if node in exchange.waiting]

    def _finished(self, exchange: _Exchange, asked: Message, reply: Message) -> Message:
        node = asked.metadata.dst_node_id
        exchange.waiting.pop(node, None)
        if reply.metadata.src_node_id != node:
            # The SuperLink answers in the stead of a node that is gone.
            why = reply.error.reason if reply.has_error() else "the reply came from another node"
            return error_reply(asked, why or "the node is unavailable", NODE_UNAVAILABLE)
        return reply

    def _again(self, exchange: _Exchange, message: Message, gone: Gone) -> Iterator[Message]:
        """Open another session for a message whose session is over."""
        node = message.metadata.dst_node_id
        if exchange.waiting.get(node) is not message or self._by_flower(node) or self._hall is None:
            return
        exchange.tries[node] = exchange.tries.get(node, 1) + 1
        again = gone.again and message.metadata.message_type not in MEETINGS
        if not again or exchange.tries[node] > TRIES:
            reason = f"its session was lost {TRIES} times: {gone}" if again else str(gone)
            yield self._finished(exchange, message, error_reply(message, reason, NODE_UNAVAILABLE))
            return
        log.warning("the session of %s is lost (%s); another one is opened", self._peers[node].name, gone)
        self._open(self._hall, [message], exchange)

    def _not_opened(self, exchange: _Exchange, node: int, seat: Seat, reply: Message) -> Iterator[Message]:
        """Let Flower carry the messages of a participant that cannot be in a session; nobody's, if it is gone."""
        if seat.joined:
            # It came after Flower was asked for the answer, which may have been lost or have expired.
            return
        why, message = _said(reply.error.reason), exchange.waiting.get(node)
        gone = reply.error.code == NODE_UNAVAILABLE or reply.metadata.src_node_id != node
        if self._hall is not None:
            self._hall.forget(seat.session)
        if not gone:
            log.warning("%s is in no session, and Flower carries its messages: %s", seat.peer.name, why)
            self.plain[seat.peer.name] = why
        seat.end(why)
        if message is None:
            return
        if gone:
            yield self._finished(exchange, message, error_reply(message, why, NODE_UNAVAILABLE))
        else:
            self._push([message], exchange)

    # ---- ways to send -----------------------------------------------------------------------------------

    def _by_flower(self, node: int) -> bool:
        peer = self._peers.get(node)
        return peer is None or peer.name in self.plain

    def _ask(self, seat: Seat, message: Message, exchange: _Exchange) -> None:
        """Ask in a thread; what comes of it is an event of the exchange."""
        self._number += 1
        # One that has a number may have come to the participant another way, which then knows it again.
        number = message.metadata.message_id or f"{self._prefix}-{self._number}"
        numbered = message_of(_changed(message.metadata, message_id=number), content=message.content)

        def work() -> None:
            told: Message | Exception
            try:
                told = _from_its_node(seat.ask(numbered, exchange.end), message)
            except (Gone, TimeoutError) as error:
                told = error
            except Exception as error:
                log.exception("a message could not be sent")
                told = error_reply(message, f"it could not be sent: {error}")
            exchange.events.put((message, told))

        threading.Thread(target=work, daemon=True, name="fedcore-ask").start()

    def _open(self, hall: Hall, asked: list[Message], exchange: _Exchange) -> None:
        """Ask participants into new sessions, and send their messages as soon as they are there."""
        host, _, port = self._door.address.rpartition(":")
        address = f"{host}:{int(port) or hall.address.rpartition(':')[2]}"
        invitations = []
        for message in asked:
            node = message.metadata.dst_node_id
            old = self._seats.get(node)
            if old is not None:
                hall.forget(old.session)
            seat = self._seats[node] = Seat(self._peers[node])
            hall.expect(seat.session, seat.peer, seat.arrived)
            told: dict[str, Any] = {
                "version": VERSION,
                "address": address,
                "key": self._door.identity.public_line,
                "session": seat.session,
            }
            content = RecordDict({SESSION: ConfigRecord(told)})
            if RECORD in message.content:
                # The site's policy decides by what the run asks for.
                content[RECORD] = message.content[RECORD]
            invitation = Message(content, node, OPEN)
            invitation.metadata.ttl = message.metadata.ttl
            invitations.append(invitation)
            self._ask(seat, message, exchange)
        handed = self._handed_over(invitations, asked, exchange)
        for number, message in handed.items():
            node = message.metadata.dst_node_id
            self._opening[number] = node, self._seats[node]
        for message in asked:
            if not any(message is taken for taken in handed.values()):
                self._seats[message.metadata.dst_node_id].end("nobody was asked into it")

    def _push(self, asked: list[Message], exchange: _Exchange) -> None:
        """Let Flower carry messages."""
        exchange.plain.update(self._handed_over(asked, asked, exchange))

    def _handed_over(
        self, pushed: list[Message], asked: list[Message], exchange: _Exchange
    ) -> dict[str, Message]:
        """Flower's number of each message that was pushed, and the one it was pushed for."""
        if not pushed:
            return {}
        for message in pushed:
            # The SuperLink gives it a number of its own.
            message.metadata.__dict__["_message_id"] = ""
        numbers = list(through_outage(lambda: self.below.push_messages(pushed)))
        found = {}
        for number, message in itertools.zip_longest(numbers, asked):
            if number:
                found[number] = message
            else:
                why = "the SuperLink did not take the message; its log says why"
                exchange.events.put((message, error_reply(message, why)))
        return found


def _from_its_node(reply: Message, asked: Message) -> Message:
    """The reply as the asked node's: the channel says whose it is, not the reply."""
    metadata = _changed(
        reply.metadata,
        src_node_id=asked.metadata.dst_node_id,
        reply_to_message_id=asked.metadata.message_id,
    )
    if reply.has_error():
        return message_of(metadata, error=reply.error)
    return message_of(metadata, content=reply.content)


def _said(reason: str | None) -> str:
    """What an error's reason says to a person; a participant's own are JSON."""
    try:
        return str(json.loads(reason or "")["message"])
    except (ValueError, KeyError, TypeError):
        return reason or "no reason given"


def _changed(metadata: Metadata, **changes: Any) -> Metadata:
    names = (
        *("run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id", "group_id"),
        *("created_at", "ttl", "message_type", "src_task_id", "dst_task_id"),
    )
    return Metadata(**{**{name: getattr(metadata, name) for name in names}, **changes})
