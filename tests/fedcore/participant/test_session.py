"""A participant's side of a session: what is asked twice is done once, and it ends when nobody waits for it."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, Metadata, RecordDict

from crypto.errors import ProtocolError
from fedcore.errors import IdentityError, JobError, PeerLost
from fedcore.flower import array_record, enter_process, message_of
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import SERVE, SESSION
from fedcore.participant import answering, session
from fedcore.participant.session import JOINED, OPEN, OVER, Session, connector, open_session
from fedcore.peer import messages
from fedcore.peer.channel import FramedChannel
from fedcore.peer.grpc_channel import GrpcChannel
from fedcore.peer.listening import Hall
from fedcore.peer.tls import Peer
from fedcore.trust.identity import new_identity
from tests.fedcore.peer.parties import ANNA, BERT, as_peer

ROOT = Path(__file__).parents[3]
NODE = 42
NAME = "a session of this run"


def asked(text: str, number: str, kind: str = "query.do") -> Message:
    metadata = Metadata(7, number, 1, NODE, "", "1", 1.7e9, 60.0, kind)
    return message_of(metadata, content=RecordDict({"c": ConfigRecord({"do": text})}))


class App:
    """Does as it is told, and counts what it did."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.gate = threading.Event()
        self.begun = threading.Event()

    def __call__(self, message: Message, context: Context) -> Message:
        text = str(message.content["c"]["do"])
        self.done.append(text)
        self.begun.set()
        if text == "wait":
            assert self.gate.wait(20)
        if text == "raise":
            raise ZeroDivisionError("a secret of the site")
        if text == "exit":
            sys.exit(3)
        if text == "objects":
            content = RecordDict({"a": array_record({"x": np.array([None])})})
            return Message(content, reply_to=message)
        if text == "another":
            return Message(RecordDict(), reply_to=asked("x", "another number"))
        count = int(context.state["n"]["n"]) + 1 if "n" in context.state else 1
        context.state["n"] = ConfigRecord({"n": count})
        return Message(RecordDict({"r": ConfigRecord({"to": text, "n": count})}), reply_to=message)


class Coordinator:
    """A hall that expects Bert, and the connections that came."""

    def __init__(self) -> None:
        self.hall = Hall("127.0.0.1:0", identity=ANNA, peers=[as_peer(BERT)], settings=session.SETTINGS)
        self.came: queue.SimpleQueue[GrpcChannel] = queue.SimpleQueue()
        self.hall.expect(NAME, as_peer(BERT), lambda channel: self.came.put(channel) or True)

    def connect(self, deadline: float) -> GrpcChannel:
        return GrpcChannel.connect(
            self.hall.address,
            identity=BERT,
            peer=as_peer(ANNA),
            session=NAME,
            deadline=deadline,
            settings=session.SETTINGS,
        )

    def here(self) -> GrpcChannel:
        return self.came.get(timeout=20)


class Running:
    """A session in a thread."""

    def __init__(self, connect: Callable[[float], FramedChannel]) -> None:
        self.app = App()
        self.told: list[str] = []
        self.abandoned = threading.Event()
        context = Context(run_id=7, node_id=NODE, node_config={}, state=RecordDict(), run_config={})
        self.session = Session(connect, self.app, context, self.abandoned.set)
        self.thread = threading.Thread(target=self.session.run, args=(self.told.append,), daemon=True)
        self.thread.start()

    def ended(self) -> bool:
        self.thread.join(20)
        return not self.thread.is_alive()


@pytest.fixture(autouse=True)
def _process() -> None:
    enter_process()


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    found = Coordinator()
    yield found
    found.hall.close()


@pytest.fixture
def running(coordinator: Coordinator) -> Running:
    return Running(coordinator.connect)


def answer(channel: FramedChannel, number: str) -> Any:
    """The reply that comes next, which must be to this number."""
    reply = messages.receive(channel)
    assert reply.metadata.reply_to_message_id == number
    return reply.error.reason if reply.has_error() else dict(reply.content["r"])


# ---- answers -----------------------------------------------------------------------------------------------------


def test_messages_are_answered_one_after_the_other_and_the_nodes_state_is_kept(running, coordinator) -> None:
    here = coordinator.here()
    for number, text in enumerate(["a", "b", "c"], 1):
        messages.send(here, asked(text, f"m{number}"))
    found = [answer(here, f"m{number}") for number in (1, 2, 3)]
    assert found == [{"to": text, "n": n} for n, text in enumerate("abc", 1)]
    assert running.told == [JOINED]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("raise", "ZeroDivisionError"),
        ("exit", "SystemExit"),
        ("objects", "ValueError"),
        ("another", "ValueError"),
    ],
)
def test_an_app_that_fails_or_answers_what_does_not_travel_is_an_error_and_the_next_is_answered(
    running, coordinator, text, kind
) -> None:
    here = coordinator.here()
    messages.send(here, asked(text, "m1"))
    messages.send(here, asked("b", "m2"))
    assert answer(here, "m1") == f"the ClientApp raised {kind}"
    assert answer(here, "m2")["to"] == "b"


def test_a_message_that_comes_again_while_it_is_worked_on_is_done_once(running, coordinator) -> None:
    here = coordinator.here()
    for _ in range(3):
        messages.send(here, asked("wait", "m1"))
    running.app.gate.set()
    assert answer(here, "m1")["n"] == 1
    messages.send(here, asked("b", "m2"))
    # Whatever came of the other two came before this.
    found = messages.receive(here)
    while found.metadata.reply_to_message_id == "m1":
        found = messages.receive(here)
    assert running.app.done == ["wait", "b"]


# ---- a connection that is lost -----------------------------------------------------------------------------------


def test_a_lost_connection_is_made_again_and_the_work_is_not_done_twice(running, coordinator) -> None:
    first = coordinator.here()
    messages.send(first, asked("wait", "m1"))
    assert running.app.begun.wait(10)
    first.abort()
    second = coordinator.here()
    messages.send(second, asked("wait", "m1"))
    running.app.gate.set()
    assert answer(second, "m1") == {"to": "wait", "n": 1}
    assert running.app.done == ["wait"]


def test_what_was_answered_is_answered_again_without_work(running, coordinator) -> None:
    first = coordinator.here()
    messages.send(first, asked("a", "m1"))
    told = answer(first, "m1")
    first.abort()
    second = coordinator.here()
    messages.send(second, asked("a", "m1"))
    assert answer(second, "m1") == told
    assert running.app.done == ["a"]


def test_two_senders_do_not_mix_their_messages(running, coordinator, monkeypatch) -> None:
    """The reader repeats an answer while the worker sends another: each arrives whole."""
    here = coordinator.here()
    messages.send(here, asked("a", "m1"))
    assert answer(here, "m1")["n"] == 1
    sending = threading.Event()

    send_whole = messages.send_encoded

    def slowly(channel: FramedChannel, head: bytes, parts: list[memoryview]) -> None:
        channel.send(messages.STEP, head)
        sending.set()
        time.sleep(0.05)
        channel.send_pieces(messages.STEP, parts)

    messages.send(here, asked("wait", "m2"))
    head, parts = messages.encode(asked("a", "m1"))
    monkeypatch.setattr(messages, "send_encoded", slowly)
    for _ in range(3):
        here.send(messages.STEP, head)
        here.send_pieces(messages.STEP, parts)
    assert sending.wait(10)
    running.app.gate.set()
    send_whole(here, *messages.encode(asked("b", "m3")))
    numbers: list[str] = []
    while "m3" not in numbers:
        numbers.append(messages.receive(here).metadata.reply_to_message_id)
    assert numbers[0] == "m1" and numbers.count("m2") == 1
    # One that was answered before the last is nobody's any more, and no work either.
    assert running.app.done == ["a", "wait", "b"]


# ---- its end -----------------------------------------------------------------------------------------------------


def test_a_farewell_ends_it_in_good_order(running, coordinator) -> None:
    here = coordinator.here()
    messages.send(here, asked("", "bye", OVER))
    here.close()
    assert running.ended() and not running.abandoned.is_set()


def test_work_that_nobody_waits_for_is_abandoned_and_what_waits_is_not_begun(
    running, coordinator, monkeypatch
) -> None:
    monkeypatch.setattr(answering, "FINISH_WITHIN", 0.1)
    here = coordinator.here()
    messages.send(here, asked("wait", "m1"))
    messages.send(here, asked("never", "m2"))
    messages.send(here, asked("", "bye", OVER))
    here.close()
    assert running.abandoned.wait(10)
    running.app.gate.set()
    assert running.ended() and running.app.done == ["wait"]


def test_a_session_that_the_coordinator_forgot_ends_at_once(running, coordinator) -> None:
    here = coordinator.here()
    coordinator.hall.forget(NAME)
    here.abort()
    assert running.ended()


def test_a_coordinator_that_stays_away_ends_it(running, coordinator, monkeypatch) -> None:
    monkeypatch.setattr(answering, "REJOIN_WITHIN", 0.5)
    coordinator.here()
    coordinator.hall.close()
    assert running.ended()


def test_a_message_that_is_none_ends_it_and_the_coordinator_hears_so(running, coordinator) -> None:
    here = coordinator.here()
    coordinator.hall.forget(NAME)
    here.send(messages.STEP, b"{}")
    with pytest.raises(PeerLost):
        messages.receive(here)
    assert running.ended() and running.app.done == []


def test_a_coordinator_that_is_not_there_is_told_to_whoever_asked() -> None:
    def connect(deadline: float) -> FramedChannel:
        raise PeerLost("nobody\nthere", party="coordinator")

    running = Running(connect)
    assert running.ended()
    assert len(running.told) == 1 and "nobody there" in running.told[0]


# ---- the process of Flower's message -------------------------------------------------------------------------------


def command(folder: Path, body: str, monkeypatch) -> None:
    """A site's `flwr-clientapp`."""
    file = folder / "flwr-clientapp"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin:/bin")


def invitation(**changed: Any) -> Message:
    told = {"version": 1, "address": "127.0.0.1:1", "key": ANNA.public_line, "session": NAME} | changed
    record = ConfigRecord({name: value for name, value in told.items() if value is not None})
    metadata = Metadata(7, "m1", 1, NODE, "", "1", 1.7e9, 60.0, OPEN)
    return message_of(metadata, content=RecordDict({SESSION: record}))


def context(**state: Any) -> Context:
    return Context(
        run_id=7,
        node_id=NODE,
        node_config={"participant": "bert.yaml", "n": 3},
        state=RecordDict(state),
        run_config={"resume": False},
    )


def test_the_process_gets_the_nodes_context_and_the_answer_is_that_it_joined(tmp_path, monkeypatch) -> None:
    command(tmp_path, f'echo "$@" > {tmp_path}/words; cat > {tmp_path}/told; echo joined', monkeypatch)
    state = {"kept": ConfigRecord({"secret": b"\x00\x01"}), "w": array_record({"x": np.arange(100_000.0)})}
    reply = open_session(invitation(), context(**state))
    assert dict(reply.content[SESSION]) == {"joined": True}
    assert (tmp_path / "words").read_text().split() == [SERVE]
    found, record = session._read((tmp_path / "told").read_bytes())
    assert (found.run_id, found.node_id) == (7, NODE)
    assert found.node_config == {"participant": "bert.yaml", "n": 3} and found.run_config == {"resume": False}
    assert list(found.state) == ["kept", "w"] and found.state["kept"]["secret"] == b"\x00\x01"
    assert np.array_equal(found.state["w"]["x"].numpy(), np.arange(100_000.0))
    assert record["session"] == NAME


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("cat > /dev/null; echo no port there", "no session: no port there"),
        ("cat > /dev/null", "ended without a word"),
        ("exit 1", "ended without a word"),
        ("cat > /dev/null; sleep 5", "not ready within 0.3 s"),
        ("sleep 5", "not ready within 0.3 s"),
    ],
)
def test_a_process_that_does_not_join_is_told_with_its_reason(tmp_path, monkeypatch, body, says) -> None:
    monkeypatch.setattr(session, "START_WITHIN", 0.3)
    command(tmp_path, body, monkeypatch)
    # More than a pipe holds.
    with pytest.raises(JobError, match=says):
        open_session(invitation(), context(w=array_record({"x": np.zeros(100_000)})))


def test_a_site_without_the_command_has_no_sessions(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match="not on the PATH"):
        open_session(invitation(), context())


# ---- the process of the session --------------------------------------------------------------------------------------


def bert_at(folder: Path) -> Participant:
    if not (folder / "identity.key").exists():
        new_identity(folder / "identity.key", "bert")
    return Participant(name="bert", identity=folder / "identity.key", catalogue={})


@pytest.mark.parametrize("lacking", ["version", "address", "key", "session"])
def test_an_invitation_that_lacks_something_is_refused(tmp_path, lacking) -> None:
    record = invitation(**{lacking: None}).content[SESSION]
    with pytest.raises(JobError, match=f"lacks '{lacking}'"):
        connector(record, bert_at(tmp_path))


def test_an_invitation_of_another_version_is_refused(tmp_path) -> None:
    with pytest.raises(JobError, match="version 2, this participant's version 1"):
        connector(invitation(version=2).content[SESSION], bert_at(tmp_path))


def test_only_the_invitations_key_answers_at_its_address(tmp_path) -> None:
    bert = bert_at(tmp_path)
    line = (tmp_path / "identity.key.pub").read_text()
    peer = Peer("bert", line)
    with Hall("127.0.0.1:0", identity=ANNA, peers=[peer]) as hall:
        hall.expect(NAME, peer, lambda channel: True)
        fine = invitation(address=hall.address).content[SESSION]
        connector(fine, bert)(10.0).abort()
        wrong = invitation(address=hall.address, key=BERT.public_line).content[SESSION]
        with pytest.raises(IdentityError, match="pinned to coordinator"):
            connector(wrong, bert)(10.0)
        other = invitation(address=hall.address, session="another").content[SESSION]
        with pytest.raises(ProtocolError, match="not one that is expected"):
            connector(other, bert)(10.0)


CHILD = """
import sys
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from fedcore.jobs.participant import Participant
from fedcore.participant.session import serve

def app(message, context):
    print("what a task prints")
    return Message(RecordDict({"r": ConfigRecord({"node": context.node_id})}), reply_to=message)

def resolve(context):
    return Participant(name="bert", identity=Path(sys.argv[1]), catalogue={})

serve(lambda: app, resolve)
"""


@contextlib.contextmanager
def child(folder: Path, invited: Message) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder / "identity.key")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.stdin.write(session._description(invited, context()))
        process.stdin.close()
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_process_serves_a_session_and_ends_with_it(tmp_path) -> None:
    bert_at(tmp_path)
    peer = Peer("bert", (tmp_path / "identity.key.pub").read_text())
    came: queue.SimpleQueue[GrpcChannel] = queue.SimpleQueue()
    with Hall("127.0.0.1:0", identity=ANNA, peers=[peer], settings=session.SETTINGS) as hall:
        hall.expect(NAME, peer, lambda channel: came.put(channel) or True)
        with child(tmp_path, invitation(address=hall.address)) as process:
            here = came.get(timeout=30)
            # One word, and the end: what tasks print goes elsewhere.
            assert process.stdout.read() == b"joined\n"
            messages.send(here, asked("x", "m1"))
            assert answer(here, "m1") == {"node": NODE}
            messages.send(here, asked("", "bye", OVER))
            here.close()
            assert process.wait(20) == 0


def test_a_process_that_cannot_connect_says_why_on_one_line_and_ends(tmp_path) -> None:
    bert_at(tmp_path)
    with child(tmp_path, invitation(address="nowhere")) as process:
        told = process.stdout.read().decode()
        assert process.wait(20) == 0
    assert told.count("\n") == 1 and "is no address" in told
