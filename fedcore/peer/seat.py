"""One participant's place in the coordinator's hall: asks over whichever connection is there, and says when none is.

A participant whose connection is lost has `REJOIN` seconds to come back; it then gets repeated what it has not
answered, and answers again, without work, what it had answered already.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time

from flwr.app import Message

from crypto.errors import ProtocolError
from fedcore.errors import PeerLost
from fedcore.peer import messages
from fedcore.peer.channel import FramedChannel
from fedcore.peer.tls import Peer

log = logging.getLogger("fedcore.engines")

REJOIN = 3.0
"""Seconds that a participant whose connection was lost has to come back."""
REPEATS = 8
"""Connections over which one message is sent."""


class Gone(Exception):
    """Nothing comes over a session any more; the text says why.

    Attributes:
        again: Whether another session may bring the answer.
    """

    def __init__(self, why: str, again: bool) -> None:
        super().__init__(why)
        self.again = again


class Seat:
    """One participant's place in the hall.

    Args:
        peer: Whose.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.session = secrets.token_hex(16)
        self._changed = threading.Condition()
        # A message is two of the channel's: nobody else's may come between them.
        self._sending = threading.Lock()
        self._channel: FramedChannel | None = None
        self._joined = False
        self._lost_at: float | None = None
        self._replies: dict[str, Message] = {}
        self._wanted: set[str] = set()
        self._over: Gone | None = None

    @property
    def alive(self) -> bool:
        """Whether it can be asked without another session."""
        with self._changed:
            return self._over is None

    @property
    def joined(self) -> bool:
        """Whether the participant has ever come."""
        with self._changed:
            return self._joined

    def arrived(self, channel: FramedChannel) -> bool:
        """Take a new connection in the place of the old one."""
        with self._changed:
            if self._over is not None:
                return False
            old, self._channel, self._lost_at = self._channel, channel, None
            self._joined = True
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
            ValueError: The message holds what does not travel.
        """
        number = message.metadata.message_id
        sent: FramedChannel | None = None
        sends = 0
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
                sends += 1
                if sends > REPEATS:
                    self.end(f"its connection was lost {REPEATS} times over one message")
                    channel.abort()
                # Not under the condition's lock: a send waits for room, and the reader must go on meanwhile.
                with contextlib.suppress(PeerLost), self._sending:
                    messages.send(channel, message)
                sent = channel
        finally:
            with self._changed:
                self._wanted.discard(number)

    def _wait(self, until: float | None) -> None:
        now = time.monotonic()
        if self._lost_at is not None and now >= self._lost_at + REJOIN:
            self._over = self._over or Gone("it did not come back", again=True)
        if self._over is not None:
            # A fresh one: two threads must not share one traceback.
            raise Gone(str(self._over), self._over.again)
        if until is not None and now >= until:
            raise TimeoutError
        ends = [until, None if self._lost_at is None else self._lost_at + REJOIN]
        self._changed.wait(min((end - now for end in ends if end is not None), default=None))

    def _read(self, channel: FramedChannel) -> None:
        try:
            while True:
                reply = messages.receive(channel)
                with self._changed:
                    # A reply that nobody waits for any more is dropped.
                    if reply.metadata.reply_to_message_id in self._wanted:
                        self._replies[reply.metadata.reply_to_message_id] = reply
                        self._changed.notify_all()
        except PeerLost as error:
            log.info("session of %s: %s", self.peer.name, error)
        except ProtocolError as error:
            # The answer would be the same the next time.
            self.end(f"what it sent is no message: {error}", again=False)
        except Exception as error:
            # No memory for it, for instance: whoever waits must hear of it.
            log.exception("session of %s", self.peer.name)
            self.end(f"what it sent could not be read ({type(error).__name__})", again=False)
        channel.abort()
        with self._changed:
            if self._channel is channel:
                self._channel, self._lost_at = None, time.monotonic()
                self._changed.notify_all()

    def end(self, why: str, *, again: bool = True) -> None:
        """Let nobody wait for it any longer.

        Args:
            why: For whoever waits. The first end counts.
            again: Whether another session may bring the answer.
        """
        with self._changed:
            self._over = self._over or Gone(why, again)
            self._changed.notify_all()

    def close(self, farewell: Message) -> None:
        """End the session in good order; returns when the participant knows, or is gone.

        Args:
            farewell: Sent as the last message.
        """
        self.end("it was ended here")
        with self._changed:
            channel = self._channel
        if channel is not None:
            with contextlib.suppress(PeerLost, ProtocolError), self._sending:
                messages.send(channel, farewell)
                channel.close()
