"""A participant's side of a session: one process that answers the later messages of a run over a channel.

Over plain Flower every message waits for a poll of several seconds and starts a process. A session costs one such
message. It asks the participant to start a process of its own, which connects to the coordinator (never the other way
round), and answers with the installed ClientApp, mods and all, so that nothing is let out that a plain message would
not let out. The node's context lives in that process, as in a `Context` that Flower hands on from message to message.

The coordinator's key comes with Flower's message, over TLS and from the SuperLink that this site has pinned; who else
answers at the address fails the handshake. When the connection is lost, the process connects again; the coordinator
then repeats what it has no answer to, and what was answered already is answered again without work.

The process ends, also in the middle of work that nobody waits for any more, when the coordinator says so, knows the
session no longer or is gone for `REJOIN_WITHIN` seconds; and with the host of the site's ClientApps that it was forked
from (`fedcore.engines.warm`), so that nothing goes on at a site whose SuperNode was ended. A SuperNode that is started
again meanwhile does not disturb it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import select
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from crypto.errors import ProtocolError
from fedcore.errors import FedcoreError, JobError, PeerLost
from fedcore.flower import enter_process, error_reply
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import SERVE, SESSION
from fedcore.peer import messages
from fedcore.peer.link import Settings

if TYPE_CHECKING:
    from fedcore.peer.channel import FramedChannel

log = logging.getLogger("fedcore.participant")

OPEN = "query.session"
JOINED = "joined"
OVER = "query.session_over"
"""Type of the message that ends a session."""
STEP = "session"
SETTINGS = Settings(silence=86400.0 * 365, linger=5.0, room=120.0)
"""Either side may compute for days between two messages; that it is there is asked by pings."""

CONNECT_WITHIN = 15.0
START_WITHIN = 60.0
REJOIN_WITHIN = 15.0
"""Seconds; longer than the two sides may differ in when they notice a loss."""
FINISH_WITHIN = 3.0
"""Seconds that work in progress has when the session is over."""

Connect = Callable[[float], "FramedChannel"]
Encoded = tuple[bytes, list[memoryview]]


# ---- in the process of Flower's message ------------------------------------------------------------------------


def open_session(message: Message, context: Context) -> Message:
    """Start the process of a session; answers once it is connected.

    Args:
        message: Its record `SESSION` says where, with whose key, and under which name.
        context: Of the node; the session goes on from its state.

    Raises:
        JobError: There can be no session here; the coordinator then sends plain messages.
    """
    command = shutil.which("flwr-clientapp")
    if command is None:
        raise JobError("flwr-clientapp is not on the PATH of this process", step=STEP)
    description = _description(message, context)
    process = subprocess.Popen(
        [command, SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    told = _within(process, description)
    if told != JOINED:
        raise JobError(f"no session: {told or 'its process ended without a word'}", step=STEP)
    answer = RecordDict({SESSION: ConfigRecord({"joined": True})})
    return Message(answer, reply_to=message)


def _within(process: subprocess.Popen[bytes], description: bytes) -> str:
    """Hand over the description, and what the process says in answer.

    The process that was started is not the one that answers, so it is of no use to kill it; one whose answer comes too
    late finds that nobody hears it, and ends.
    """
    question, answer = process.stdin, process.stdout
    if question is None or answer is None:
        raise RuntimeError("a process was started without pipes")

    def ask() -> None:
        with contextlib.suppress(OSError), question:
            question.write(description)

    # In a thread: nobody reads while the host is busy, and a long state does not fit into a pipe.
    threading.Thread(target=ask, daemon=True).start()
    with answer:
        ready, _, _ = select.select([answer], [], [], START_WITHIN)
        if not ready:
            return f"its process was not ready within {START_WITHIN:g} s"
        return answer.readline().decode(errors="replace").strip()


def _description(message: Message, context: Context) -> bytes:
    about = {
        "run_id": context.run_id,
        "node_id": context.node_id,
        "node_config": dict(context.node_config),
        "run_config": dict(context.run_config),
    }
    content = RecordDict({f"state {name}": record for name, record in context.state.items()})
    content["context"] = ConfigRecord({"about": json.dumps(about)})
    content[SESSION] = message.content[SESSION]
    head, parts = messages.encode(Message(content, reply_to=message))
    return struct.pack(">Q", len(head)) + head + b"".join(parts)


# ---- in the process of the session -------------------------------------------------------------------------------


def serve(load: Callable[[], ClientAppCallable], resolve: Callable[[Context], Participant]) -> None:
    """Be the process of a session: read what it is from standard input, say `joined` on standard output.

    Args:
        load: Gives the installed ClientApp.
        resolve: Gives the participant.
    """
    raw = sys.stdin.buffer.read()
    # What tasks print goes to the log; whoever waits for the answer must see the end of it.
    answer = os.dup(1)
    os.dup2(2, 1)

    def tell(text: str) -> None:
        try:
            os.write(answer, f"{text}\n".encode())
            os.close(answer)
        except OSError:
            # Whoever asked for this process waits no more, and has told the coordinator so.
            os._exit(1)

    enter_process()
    try:
        context, asked = _read(raw)
        connect = _connector(asked, resolve(context))
        app = load()
    except (FedcoreError, ProtocolError) as error:
        tell(str(error).replace("\n", " "))
        return
    Session(connect, app, context, lambda: os._exit(0)).run(tell)


def _read(raw: bytes) -> tuple[Context, ConfigRecord]:
    (length,) = struct.unpack(">Q", raw[:8])
    body = memoryview(bytearray(raw[8 + length :]))
    content = messages.decode(messages.parse(raw[8 : 8 + length]), body).content
    about = json.loads(str(content.config_records["context"]["about"]))
    state = RecordDict(
        {name.removeprefix("state "): record for name, record in content.items() if name.startswith("state ")}
    )
    context = Context(
        run_id=about["run_id"],
        node_id=about["node_id"],
        node_config=about["node_config"],
        state=state,
        run_config=about["run_config"],
    )
    return context, content.config_records[SESSION]


def _connector(asked: ConfigRecord, participant: Participant) -> Connect:
    from fedcore.participant.meeting import identity_of
    from fedcore.peer.grpc_channel import GrpcChannel
    from fedcore.peer.tls import Peer

    try:
        address, key, session = (str(asked[name]) for name in ("address", "key", "session"))
        version = asked["version"]
    except KeyError as error:
        raise JobError(f"the message that opens a session lacks {error}", step=STEP) from error
    if version != messages.VERSION:
        raise JobError(
            f"the coordinator's sessions have version {version!r}, this participant's version {messages.VERSION}; install "
            "the same version of fedcore at both",
            step=STEP,
        )
    identity = identity_of(participant)

    def connect(deadline: float) -> FramedChannel:
        return GrpcChannel.connect(
            address,
            identity=identity,
            peer=Peer("coordinator", key),
            session=session,
            deadline=deadline,
            settings=SETTINGS,
        )

    return connect


class Session:
    """Answers messages until the coordinator ends it, or is gone for `REJOIN_WITHIN` seconds.

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
        self._connect, self._app, self._context, self._abandon = connect, app, context, abandon
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # A message is two of the channel's: nobody else's may come between them.
        self._sending = threading.Lock()
        self._idle = threading.Event()
        self._channel: FramedChannel | None = None
        # Numbers of all messages that ever came: none is worked on twice.
        self._known: set[str] = set()
        self._last: tuple[str, Encoded] | None = None

    def run(self, joined: Callable[[str], None]) -> None:
        """Answer one message after the other.

        Args:
            joined: Told `JOINED` at the first connection, or why there is none.
        """
        threading.Thread(target=self._listen, args=(joined,), daemon=True, name="fedcore-session").start()
        while (message := self._inbox.get()) is not None:
            number = message.metadata.message_id
            answer = self._answer(message)
            with self._lock:
                self._last = number, answer
                channel = self._channel
            self._send(channel, answer)
        self._idle.set()

    def _answer(self, message: Message) -> Encoded:
        """What the app says, as it is sent."""
        try:
            reply = self._app(message, self._context)
            if reply.metadata.reply_to_message_id != message.metadata.message_id:
                raise ValueError("the reply is to another message")
            return messages.encode(reply)
        except (Exception, SystemExit) as error:
            # The app's error is its answer, never this process's end.
            log.exception("the ClientApp raised")
            return messages.encode(error_reply(message, f"the ClientApp raised {type(error).__name__}"))

    def _listen(self, joined: Callable[[str], None]) -> None:
        within, first = CONNECT_WITHIN, True
        try:
            while True:
                channel = self._connect(within)
                with self._lock:
                    self._channel = channel
                if first:
                    joined(JOINED)
                    within, first = REJOIN_WITHIN, False
                if self._hear(channel):
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

    def _hear(self, channel: FramedChannel) -> bool:
        """Take what comes over a connection to its end; whether this is the end of the session too."""
        try:
            while True:
                message = messages.receive(channel)
                if message.metadata.message_type == OVER:
                    channel.close()
                    return True
                self._take(channel, message)
        except PeerLost as error:
            log.warning("session: %s; connecting again", error)
            return False
        finally:
            channel.abort()

    def _take(self, channel: FramedChannel, message: Message) -> None:
        """Queue a message that is new; one that was answered last is answered again."""
        number = message.metadata.message_id
        with self._lock:
            answered = self._last[1] if self._last is not None and self._last[0] == number else None
            new = number not in self._known
            self._known.add(number)
        if answered is not None:
            self._send(channel, answered)
        elif new:
            self._inbox.put(message)

    def _send(self, channel: FramedChannel | None, answer: Encoded) -> None:
        if channel is None:
            return
        # When it is lost on its way, the coordinator asks again.
        with contextlib.suppress(PeerLost), self._sending:
            messages.send_encoded(channel, *answer)
