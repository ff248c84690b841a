"""The base grid of a deployment whose messages travel over channels, once Flower has brought the two sides together.

A message over plain Flower costs seconds, whatever it carries: the SuperNode asks for work every few seconds and
starts a process for each message. With the first message to a participant this grid has Flower carry another one,
which asks it into a session (`fedcore.participant.session`). From then on its messages go over a channel of fedcore's:
gRPC over TLS, with both sides' keys pinned, opened by the participant. Flower still does rendezvous, node
authentication and the run's life cycle, and it still carries the messages of a participant that cannot reach the data
port or does not know sessions.

When a connection is lost, the participant connects again and gets repeated what it has not answered. When its process
is gone, a new session is opened and the message sent again; what the node's context held is lost with the process.
Messages that are pushed and pulled, in place of `send_and_receive`, are carried by Flower.
"""

from __future__ import annotations

import contextlib
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

from crypto.errors import ProtocolError
from fedcore.coordinator.grids.layer import LAST_POLL, Layer
from fedcore.errors import PeerLost
from fedcore.flower import NODE_UNAVAILABLE, error_reply, message_of, through_outage
from fedcore.jobs.request import RECORD, SESSION
from fedcore.participant.session import OPEN, OVER, SETTINGS
from fedcore.peer import messages
from fedcore.peer.channel import FramedChannel
from fedcore.peer.listening import Hall
from fedcore.peer.tls import Peer
from fedcore.trust.identity import Identity

log = logging.getLogger("fedcore.engines")

REJOIN = 3.0
"""Seconds that a participant whose connection was lost has to come back before a new session is opened."""
TRIES = 3
"""Sessions in which one message is sent."""


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


class Gone(Exception):
    """Nothing comes over a session any more; the text says why."""


class Seat:
    """One participant's place in the hall.

    Args:
        peer: Whose.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.session = secrets.token_hex(16)
        self._changed = threading.Condition()
        self._channel: FramedChannel | None = None
        self._lost_at: float | None = None
        self._replies: dict[str, Message] = {}
        self._wanted: set[str] = set()
        self._over = ""

    @property
    def alive(self) -> bool:
        """Whether it can be asked without another session."""
        with self._changed:
            return not self._over

    def arrived(self, channel: FramedChannel) -> bool:
        """Take a new connection in the place of the old one."""
        with self._changed:
            if self._over:
                return False
            old, self._channel, self._lost_at = self._channel, channel, None
            self._changed.notify_all()
        if old is not None:
            old.abort()
        threading.Thread(target=self._read, args=(channel,), daemon=True, name="fedcore-seat").start()
        return True

    def ask(self, message: Message, until: float | None) -> Message:
        """The reply to a message.

        Args:
            message: With a number of its own.
            until: `time.monotonic()` at which nobody waits any more; never when None.

        Raises:
            Gone: The session is over.
            TimeoutError: There is no reply yet.
        """
        number = message.metadata.message_id
        sent: FramedChannel | None = None
        with self._changed:
            self._wanted.add(number)
        try:
            while True:
                with self._changed:
                    if number in self._replies:
                        return self._replies.pop(number)
                    channel = self._channel
                    if channel is sent or channel is None:
                        self._wait(until)
                        continue
                # Not under the lock: a send waits for room, and the reader must go on meanwhile.
                with contextlib.suppress(PeerLost):
                    messages.send(channel, message)
                sent = channel
        finally:
            with self._changed:
                self._wanted.discard(number)

    def _wait(self, until: float | None) -> None:
        now = time.monotonic()
        if self._lost_at is not None and now >= self._lost_at + REJOIN:
            self._over = self._over or "it did not come back"
        if self._over:
            raise Gone(self._over)
        if until is not None and now >= until:
            raise TimeoutError
        ends = [end - now for end in (until, self._lost_at and self._lost_at + REJOIN) if end is not None]
        self._changed.wait(min(ends, default=None))

    def _read(self, channel: FramedChannel) -> None:
        try:
            while True:
                reply = messages.receive(channel)
                with self._changed:
                    # A reply that nobody waits for any more is dropped.
                    if reply.metadata.reply_to_message_id in self._wanted:
                        self._replies[reply.metadata.reply_to_message_id] = reply
                        self._changed.notify_all()
        except (PeerLost, ProtocolError) as error:
            log.info("session of %s: %s", self.peer.name, error)
            channel.abort()
            with self._changed:
                if self._channel is channel:
                    self._channel, self._lost_at = None, time.monotonic()
                    self._changed.notify_all()

    def end(self, why: str) -> None:
        """Let nobody wait for it any longer."""
        with self._changed:
            self._over = self._over or why
            self._changed.notify_all()

    def close(self, farewell: Message) -> None:
        """End the session in good order."""
        self.end("it was ended here")
        with self._changed:
            channel = self._channel
        if channel is not None:
            with contextlib.suppress(PeerLost, ProtocolError):
                messages.send(channel, farewell)
                channel.close()


@dataclass
class _Exchange:
    """Messages on their way, and what has become of them."""

    end: float | None
    events: queue.SimpleQueue[tuple[Message, Message | Exception]] = field(default_factory=queue.SimpleQueue)
    waiting: dict[int, Message] = field(default_factory=dict)
    tries: dict[int, int] = field(default_factory=dict)
    plain: dict[str, Message] = field(default_factory=dict)
    opening: dict[str, tuple[Message, Seat]] = field(default_factory=dict)


class SessionGrid(Layer):
    """Sends messages over sessions, which it opens when they are needed.

    Args:
        grid: Flower's own.
        door: Where participants come to.

    Attributes:
        plain: Participants whose messages Flower carries, by name, and why.

    Raises:
        JobError: The door cannot be opened.
    """

    def __init__(self, grid: Grid, door: Door) -> None:
        super().__init__(grid)
        self._peers = dict(door.peers)
        self._hall = Hall(
            door.bind,
            identity=door.identity,
            peers=list(self._peers.values()),
            settings=SETTINGS,
            calls=2 * len(self._peers) + 8,
        )
        host, _, port = door.address.rpartition(":")
        self.address = f"{host}:{int(port) or self._hall.address.rpartition(':')[2]}"
        self._key = door.identity.public_line
        self._seats: dict[int, Seat] = {}
        self._number = 0
        self._prefix = secrets.token_hex(4)
        self.plain: dict[str, str] = {}

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """Replies as they come; a message without one by the timeout gets an error reply."""
        exchange = _Exchange(None if timeout is None else time.monotonic() + timeout)
        new, plain = [], []
        for message in messages:
            node = message.metadata.dst_node_id
            exchange.waiting[node] = message
            if self._by_flower(node):
                plain.append(message)
            elif (seat := self._seats.get(node)) is not None and seat.alive:
                self._ask(seat, message, exchange)
            else:
                new.append(message)
        self._open(new, exchange)
        self._push(plain, exchange)
        while exchange.waiting:
            yield from self._due(exchange)
            if exchange.end is not None and time.monotonic() >= exchange.end:
                break
        for message in exchange.waiting.values():
            yield error_reply(message, f"no reply within {timeout:g} s", NODE_UNAVAILABLE)

    def close(self) -> None:
        """End all sessions."""
        for node, seat in self._seats.items():
            seat.close(Message(RecordDict({}), node, OVER))
        self._hall.close(1.0)

    # ---- one turn ---------------------------------------------------------------------------------------

    def _due(self, exchange: _Exchange) -> Iterator[Message]:
        """The replies that have come; waits for a moment when there are none."""
        pause = None if exchange.end is None else max(0.0, exchange.end - time.monotonic())
        by_flower = {**exchange.opening, **exchange.plain}
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
                yield from self._again(exchange, message, str(told))
        if by_flower:
            for reply in through_outage(lambda: self.below.pull_messages(list(by_flower))):
                number = reply.metadata.reply_to_message_id
                if (asked := exchange.plain.pop(number, None)) is not None:
                    yield self._finished(exchange, asked, reply)
                elif (opened := exchange.opening.pop(number, None)) is not None and reply.has_error():
                    yield from self._not_opened(exchange, *opened, reply)

    def _finished(self, exchange: _Exchange, asked: Message, reply: Message) -> Message:
        node = asked.metadata.dst_node_id
        exchange.waiting.pop(node, None)
        if reply.metadata.src_node_id != node:
            # The SuperLink answers in the stead of a node that is gone.
            why = reply.error.reason if reply.has_error() else "the reply came from another node"
            return error_reply(asked, why or "the node is unavailable", NODE_UNAVAILABLE)
        return reply

    def _again(self, exchange: _Exchange, message: Message, why: str) -> Iterator[Message]:
        """Open another session for a message whose session is over."""
        node = message.metadata.dst_node_id
        if node not in exchange.waiting or self._by_flower(node):
            return
        exchange.tries[node] = exchange.tries.get(node, 1) + 1
        if exchange.tries[node] > TRIES:
            reason = f"its session was lost {TRIES} times: {why}"
            yield self._finished(exchange, message, error_reply(message, reason, NODE_UNAVAILABLE))
            return
        log.warning("the session of %s is lost (%s); another one is opened", self._peers[node].name, why)
        self._open([message], exchange)

    def _not_opened(
        self, exchange: _Exchange, message: Message, seat: Seat, reply: Message
    ) -> Iterator[Message]:
        """Let Flower carry the messages of a participant that cannot be in a session; nobody's, if it is gone."""
        node = message.metadata.dst_node_id
        if node not in exchange.waiting or seat is not self._seats.get(node):
            return
        why = reply.error.reason or "no reason given"
        self._hall.forget(seat.session)
        if reply.error.code == NODE_UNAVAILABLE or reply.metadata.src_node_id != node:
            seat.end(why)
            yield self._finished(exchange, message, error_reply(message, why, NODE_UNAVAILABLE))
            return
        log.warning("%s is in no session, and Flower carries its messages: %s", seat.peer.name, why)
        self.plain[seat.peer.name] = why
        seat.end(why)
        self._push([message], exchange)

    # ---- ways to send -----------------------------------------------------------------------------------

    def _by_flower(self, node: int) -> bool:
        peer = self._peers.get(node)
        return peer is None or peer.name in self.plain

    def _ask(self, seat: Seat, message: Message, exchange: _Exchange) -> None:
        """Ask in a thread; what comes of it is an event of the exchange."""
        self._number += 1
        numbered = _numbered(message, f"{self._prefix}-{self._number}")

        def work() -> None:
            try:
                reply = seat.ask(numbered, exchange.end)
                # The channel says whose reply it is, not the reply.
                metadata = _changed(reply.metadata, src_node_id=message.metadata.dst_node_id)
                told: Message | Exception = (
                    message_of(metadata, error=reply.error)
                    if reply.has_error()
                    else message_of(metadata, content=reply.content)
                )
            except (Gone, TimeoutError) as error:
                told = error
            except Exception as error:
                log.exception("a message could not be sent")
                told = error_reply(message, f"it could not be sent: {type(error).__name__}")
            exchange.events.put((message, told))

        threading.Thread(target=work, daemon=True, name="fedcore-ask").start()

    def _open(self, asked: list[Message], exchange: _Exchange) -> None:
        """Ask participants into new sessions, and send their messages as soon as they are there."""
        invitations, seats = [], []
        for message in asked:
            node = message.metadata.dst_node_id
            old = self._seats.get(node)
            if old is not None:
                self._hall.forget(old.session)
            seat = self._seats[node] = Seat(self._peers[node])
            seats.append(seat)
            self._hall.expect(seat.session, seat.peer, seat.arrived)
            told = {"address": self.address, "key": self._key, "session": seat.session}
            content = RecordDict({SESSION: ConfigRecord(dict(told))})
            if RECORD in message.content:
                # The site's policy decides by what the run asks for.
                content[RECORD] = message.content[RECORD]
            invitation = Message(content, node, OPEN)
            invitation.metadata.ttl = message.metadata.ttl
            invitations.append(invitation)
            self._ask(seat, message, exchange)
        handed = self._handed_over(invitations, asked, exchange)
        exchange.opening.update(
            (number, (message, seat))
            for message, seat in zip(asked, seats, strict=True)
            for number, given in handed.items()
            if given is message
        )

    def _push(self, asked: list[Message], exchange: _Exchange) -> None:
        """Let Flower carry messages."""
        exchange.plain.update(self._handed_over(asked, asked, exchange))

    def _handed_over(
        self, pushed: list[Message], asked: list[Message], exchange: _Exchange
    ) -> dict[str, Message]:
        if not pushed:
            return {}
        numbers = list(through_outage(lambda: self.below.push_messages(pushed)))
        found = {}
        for i, message in enumerate(asked):
            if i < len(numbers) and numbers[i]:
                found[numbers[i]] = message
            else:
                why = "the SuperLink did not take the message; its log says why"
                exchange.events.put((message, error_reply(message, why)))
        return found


def _numbered(message: Message, number: str) -> Message:
    return message_of(_changed(message.metadata, message_id=number), content=message.content)


def _changed(metadata: Metadata, **changes: Any) -> Metadata:
    names = (
        *("run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id", "group_id"),
        *("created_at", "ttl", "message_type", "src_task_id", "dst_task_id"),
    )
    return Metadata(**{**{name: getattr(metadata, name) for name in names}, **changes})
