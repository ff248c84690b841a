"""The process of a session at work: messages come over lines, and each is answered once, whichever way it came.

The coordinator's line makes the session: when it is gone for `REJOIN_WITHIN` seconds, the session is over. An
aggregator's line carries the messages of its region (`fedcore.participant.aggregator`) and may come and go.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from crypto.errors import ProtocolError
from fedcore.errors import FedcoreError, PeerLost
from fedcore.flower import error_reply
from fedcore.jobs.request import AGGREGATE
from fedcore.peer import messages

if TYPE_CHECKING:
    from fedcore.peer.channel import FramedChannel

log = logging.getLogger("fedcore.participant")

JOINED = "joined"
OVER = "query.session_over"
"""Type of the message that ends a session."""
CONNECT_WITHIN = 15.0
REJOIN_WITHIN = 15.0
"""Seconds; longer than the two sides may differ in when they notice a loss."""
FINISH_WITHIN = 3.0
"""Seconds that work in progress has when the session is over."""
KEPT = 3
"""Answers that are kept, to be sent again."""

Connect = Callable[[float], "FramedChannel"]
Encoded = tuple[bytes, list[memoryview]]

current: Session | None = None
"""The session of this process; None in any other process."""


@dataclass
class Line:
    """One way by which messages come: the coordinator's, or an aggregator's.

    Args:
        connect: Connects to who asks, within seconds.
        refuses: Why a message that comes this way is not answered; None when it is.
    """

    connect: Connect
    refuses: Callable[[Message], str | None] = lambda message: None
    channel: FramedChannel | None = None
    _sending: threading.Lock = field(default_factory=threading.Lock)

    def send(self, answer: Encoded) -> None:
        """Send an answer; when it is lost on its way, the other side asks again."""
        channel = self.channel
        if channel is not None:
            # A message is two of the channel's: nobody else's may come between them.
            with contextlib.suppress(PeerLost), self._sending:
                messages.send_encoded(channel, *answer)


class Session:
    """Answers messages until the coordinator ends it, or is gone for `REJOIN_WITHIN` seconds.

    Messages may also come from aggregators (`join`). Whichever way a message comes, it is worked on once.

    Args:
        connect: Connects to the coordinator, within seconds.
        app: Any Flower `ClientApp`.
        context: Of the node.
        abandon: Ends work in progress that nobody waits for any more.
    """

    def __init__(
        self,
        connect: Connect,
        app: ClientAppCallable,
        context: Context,
        abandon: Callable[[], object] = lambda: None,
    ) -> None:
        self._main = Line(connect)
        self._app, self._context, self._abandon = app, context, abandon
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = threading.Event()
        # Of all messages that ever came, who asked last: none is worked on twice.
        self._known: dict[str, Line] = {}
        self._answered: deque[tuple[str, Encoded]] = deque(maxlen=KEPT)
        self._asked: dict[str, queue.SimpleQueue[Message]] = {}

    def run(self, joined: Callable[[str], None]) -> None:
        """Answer one message after the other.

        Args:
            joined: Told `JOINED` at the first connection, or why there is none.
        """
        threading.Thread(target=self._listen, args=(joined,), daemon=True, name="fedcore-session").start()
        while (message := self._inbox.get()) is not None:
            self._work(message)
        self._idle.set()

    def join(self, line: Line) -> None:
        """Take messages from an aggregator too, until it is gone.

        Raises:
            FedcoreError, ProtocolError: It cannot be reached.
        """
        line.channel = line.connect(CONNECT_WITHIN)

        def listen() -> None:
            channel = line.channel
            with contextlib.suppress(FedcoreError, ProtocolError):
                while channel is not None and not self._hear(line, channel):
                    channel = line.channel = line.connect(REJOIN_WITHIN)

        threading.Thread(target=listen, daemon=True, name="fedcore-region").start()

    def ask(self, message: Message, within: float | None) -> Message:
        """The reply of this participant itself to a message that an aggregator in this process has for it.

        Raises:
            TimeoutError: There is none in time.
        """
        number = message.metadata.message_id
        answers: queue.SimpleQueue[Message] = queue.SimpleQueue()
        with self._lock:
            self._asked[number] = answers
        self._take(Line(self._main.connect), message)
        try:
            return answers.get(timeout=within)
        except queue.Empty:
            raise TimeoutError from None
        finally:
            with self._lock:
                self._asked.pop(number, None)

    def _work(self, message: Message) -> None:
        """Answer a message, to whoever asked for it last."""
        number = message.metadata.message_id
        answer = self._answer(message)
        with self._lock:
            self._answered.append((number, answer))
            line = self._known[number]
        line.send(answer)

    def _answer(self, message: Message) -> Encoded:
        """What the app says, as it is sent."""
        try:
            reply = self._app(message, self._context)
            if reply.metadata.reply_to_message_id != message.metadata.message_id:
                raise ValueError("the reply is to another message")
            with self._lock:
                asked = self._asked.get(message.metadata.message_id)
            if asked is not None:
                asked.put(reply)
            return messages.encode(reply)
        except (Exception, SystemExit) as error:
            # The app's error is its answer, never this process's end.
            log.exception("the ClientApp raised")
            return messages.encode(error_reply(message, f"the ClientApp raised {type(error).__name__}"))

    def _listen(self, joined: Callable[[str], None]) -> None:
        within, first = CONNECT_WITHIN, True
        try:
            while True:
                channel = self._main.channel = self._main.connect(within)
                if first:
                    joined(JOINED)
                    within, first = REJOIN_WITHIN, False
                if self._hear(self._main, channel):
                    return
        except (FedcoreError, ProtocolError) as error:
            if first:
                joined(str(error).replace("\n", " "))
            log.warning("session: it is over: %s", error)
        finally:
            # What waits is not begun any more, and what is being done has a moment.
            with contextlib.suppress(queue.Empty):
                while True:
                    self._inbox.get_nowait()
            self._inbox.put(None)
            if not self._idle.wait(FINISH_WITHIN):
                self._abandon()

    def _hear(self, line: Line, channel: FramedChannel) -> bool:
        """Take what comes over a connection to its end; whether this is the end of the session too."""
        try:
            while True:
                message = messages.receive(channel)
                if message.metadata.message_type == OVER:
                    channel.close()
                    return True
                self._take(line, message)
        except PeerLost as error:
            log.warning("session: %s; connecting again", error)
            return False
        finally:
            channel.abort()

    def _take(self, line: Line, message: Message) -> None:
        """Queue a message that is new; one that was answered lately is answered again."""
        why = line.refuses(message)
        if why is not None:
            line.send(messages.encode(error_reply(message, why)))
            return
        number = message.metadata.message_id
        with self._lock:
            answered = next((answer for known, answer in self._answered if known == number), None)
            new = number not in self._known
            self._known[number] = line
        if answered is not None:
            line.send(answered)
        elif not new:
            return
        elif message.metadata.message_type == AGGREGATE:
            # It waits for others, and for this participant's own work.
            threading.Thread(target=self._work, args=(message,), daemon=True, name="fedcore-region").start()
        else:
            self._inbox.put(message)
