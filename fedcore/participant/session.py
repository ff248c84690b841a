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
import os
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
from fedcore.errors import FedcoreError, JobError
from fedcore.flower import enter_process
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import SERVE, SESSION
from fedcore.participant import answering
from fedcore.participant.answering import JOINED, OVER, Connect, Session
from fedcore.peer import messages
from fedcore.peer.link import Settings

if TYPE_CHECKING:
    from fedcore.peer.channel import FramedChannel

__all__ = ["JOINED", "OPEN", "OVER", "SETTINGS", "Session", "connector", "open_session", "serve"]

OPEN = "query.session"
STEP = "session"
SETTINGS = Settings(silence=86400.0 * 365, linger=5.0, room=120.0)
"""Either side may compute for days between two messages; that it is there is asked by pings."""
START_WITHIN = 60.0


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
        connect = connector(asked, resolve(context))
        app = load()
    except (FedcoreError, ProtocolError) as error:
        tell(str(error).replace("\n", " "))
        return
    answering.current = Session(connect, app, context, lambda: os._exit(0))
    answering.current.run(tell)


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


def connector(asked: ConfigRecord, participant: Participant, peer: str = "coordinator") -> Connect:
    """How a participant connects to who invites it.

    Args:
        asked: The invitation: address, key, session and version.
        participant: Who connects.
        peer: Who invites, for errors.

    Raises:
        JobError: The invitation lacks something, or is of another version.
    """
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
            peer=Peer(peer, key),
            session=session,
            deadline=deadline,
            settings=SETTINGS,
        )

    return connect
