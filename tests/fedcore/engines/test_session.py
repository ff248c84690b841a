"""Sessions over gRPC on loopback, below them a Flower of a few lines: what is lost is opened again, or carried by Flower."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedcore.engines import session as engine
from fedcore.engines.session import Door, SessionGrid
from fedcore.errors import PeerLost
from fedcore.flower import (
    APP_RAISED,
    NODE_UNAVAILABLE,
    SUPERLINK_NODE_ID,
    array_record,
    enter_process,
    error_reply,
    message_of,
)
from fedcore.jobs.request import RECORD, SESSION
from fedcore.participant import answering
from fedcore.participant import session as participant
from fedcore.participant.session import OPEN, Session
from fedcore.peer import messages
from fedcore.peer import seat as seats
from fedcore.peer.grpc_channel import GrpcChannel
from fedcore.peer.memory import MemoryChannel
from fedcore.peer.seat import Gone, Seat
from fedcore.peer.tls import Peer
from fedcore.trust.identity import Identity
from tests.fedcore.peer.parties import ANNA, BERT, CARL, as_peer

NODES = {1: BERT, 2: CARL}
WAIT = 20.0


class Process:
    """A session's process, as a thread that can be killed."""

    def __init__(self, site: Site, invited: ConfigRecord) -> None:
        self.site, self.invited, self.dead = site, invited, False
        self.told: list[str] = []
        self.answered = threading.Event()
        self.abandoned = threading.Event()
        context = Context(run_id=1, node_id=site.node, node_config={}, state=RecordDict(), run_config={})
        self.session = Session(self._connect, self._app, context, self.abandoned.set)
        self.thread = threading.Thread(target=self.session.run, args=(self._tell,), daemon=True)
        self.thread.start()

    def _connect(self, deadline: float) -> GrpcChannel:
        if self.dead:
            raise PeerLost("it was killed", party="coordinator")
        return GrpcChannel.connect(
            str(self.invited["address"]),
            identity=self.site.identity,
            peer=Peer("coordinator", str(self.invited["key"])),
            session=str(self.invited["session"]),
            deadline=deadline,
            settings=participant.SETTINGS,
        )

    def _app(self, message: Message, context: Context) -> Message:
        return self.site.app(self, message, context)

    def _tell(self, text: str) -> None:
        self.told.append(text)
        self.answered.set()

    def kill(self) -> None:
        self.dead = True
        self.session._main.channel.abort()


class Site:
    """What a SuperNode does, and the app that is installed there."""

    def __init__(self, node: int, identity: Identity) -> None:
        self.node, self.identity = node, identity
        self.processes: list[Process] = []
        self.done: list[str] = []
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.refuses = ""
        self.online = True

    def app(self, process: Process | None, message: Message, context: Context) -> Message:
        text = str(message.content["c"]["do"])
        self.done.append(text)
        self.begun.set()
        if text == "raise":
            raise ZeroDivisionError
        if text == "wait":
            assert self.gate.wait(WAIT)
        if text.startswith("die") and process is not None and len(self.processes) <= int(text[3:] or 1):
            process.kill()
        if text == "junk" and process is not None:
            process.session._main.channel.send(messages.STEP, b"{}")
            self.gate.wait(WAIT)
        count = int(context.state["n"]["n"]) + 1 if "n" in context.state else 1
        context.state["n"] = ConfigRecord({"n": count})
        content = RecordDict({"r": ConfigRecord({"to": text, "n": count})})
        if "arrays" in message.content:
            content["arrays"] = message.content["arrays"]
        reply = Message(content, reply_to=message)
        if text == "pose":
            return message_of(engine._changed(reply.metadata, src_node_id=2), content=content)
        return reply

    def carried(self, message: Message) -> Message:
        """The reply to a message that Flower carries."""
        if message.metadata.message_type != OPEN:
            context = Context(run_id=1, node_id=self.node, node_config={}, state=RecordDict(), run_config={})
            return self.app(None, message, context)
        if self.refuses:
            return error_reply(message, self.refuses)
        process = Process(self, message.content[SESSION])
        self.processes.append(process)
        assert process.answered.wait(WAIT)
        if process.told != ["joined"]:
            return error_reply(message, json.dumps({"type": "JobError", "message": process.told[0]}))
        return Message(RecordDict({SESSION: ConfigRecord({"joined": True})}), reply_to=message)


class Flower(Grid):
    """Carries each message in a thread."""

    def __init__(self) -> None:
        self.sites = {node: Site(node, identity) for node, identity in NODES.items()}
        self.pushed: list[Message] = []
        self.replies: dict[str, Message] = {}
        self.takes = True
        self._numbers = itertools.count(1)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        if not self.takes:
            return ""
        number = f"flower-{next(self._numbers)}"
        numbered = message_of(engine._changed(message.metadata, message_id=number), content=message.content)
        self.pushed.append(numbered)
        threading.Thread(target=self._carry, args=(number, numbered), daemon=True).start()
        return number

    def _carry(self, number: str, message: Message) -> None:
        site = self.sites.get(message.metadata.dst_node_id)
        if site is None or not site.online:
            metadata = engine._changed(
                message.metadata, src_node_id=SUPERLINK_NODE_ID, reply_to_message_id=number
            )
            self.replies[number] = message_of(metadata, error=Error(NODE_UNAVAILABLE, "Node Unavailable"))
        else:
            self.replies[number] = site.carried(message)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self.replies.pop(number) for number in list(message_ids) if number in self.replies]

    def opened(self) -> int:
        return sum(message.metadata.message_type == OPEN for message in self.pushed)

    def get_node_ids(self) -> list[int]:
        return list(self.sites)

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *told: Any, **named: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _process(monkeypatch: pytest.MonkeyPatch) -> None:
    enter_process()
    monkeypatch.setattr(seats, "REJOIN", 0.3)
    monkeypatch.setattr(engine, "LAST_POLL", 0.02)


@pytest.fixture
def flower() -> Flower:
    return Flower()


def door(bind: str = "127.0.0.1:0", address: str = "localhost:0") -> Door:
    return Door(bind, address, ANNA, {node: as_peer(identity) for node, identity in NODES.items()})


@pytest.fixture
def grid(flower: Flower) -> Iterator[SessionGrid]:
    found = SessionGrid(flower, door())
    yield found
    for site in flower.sites.values():
        site.gate.set()
    found.close()


def ask(
    grid: SessionGrid, text: str | dict[int, str], timeout: float | None = WAIT, nodes: Iterable[int] = NODES
) -> dict[int, Any]:
    """What each node says: its answer, or its error's reason."""
    replies = list(grid.send_and_receive([asked(text, node) for node in nodes], timeout=timeout))
    assert len({reply.metadata.src_node_id for reply in replies}) == len(replies)
    return {reply.metadata.src_node_id: said(reply) for reply in replies}


def asked(text: str | dict[int, str], node: int) -> Message:
    told = text if isinstance(text, str) else text[node]
    return Message(RecordDict({"c": ConfigRecord({"do": told})}), node, "query.do")


def said(reply: Message) -> Any:
    return reply.error.reason if reply.has_error() else dict(reply.content["r"])


def within(condition: Callable[[], Any], seconds: float = WAIT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- when nothing is lost ----------------------------------------------------------------------------------------


def test_one_flower_message_per_participant_opens_and_the_state_goes_on(grid, flower) -> None:
    for n in (1, 2, 3):
        assert ask(grid, f"round {n}") == {node: {"to": f"round {n}", "n": n} for node in NODES}
    assert [message.metadata.message_type for message in flower.pushed] == [OPEN, OPEN]
    assert all(site.done == ["round 1", "round 2", "round 3"] for site in flower.sites.values())
    assert grid.plain == {}


def test_arrays_arrive_as_they_are_and_the_reply_is_to_the_message_that_was_sent(grid) -> None:
    w = np.random.default_rng(0).normal(size=(300, 700)).astype(">f4")
    message = asked("x", 1)
    message.content["arrays"] = array_record({"w": w})
    message.metadata.__dict__["_message_id"] = "the caller's"
    (reply,) = grid.send_and_receive([message], timeout=WAIT)
    assert np.array_equal(reply.content["arrays"]["w"].numpy(), w)
    assert reply.metadata.reply_to_message_id == "the caller's" and reply.metadata.src_node_id == 1
    assert message.metadata.message_id == "the caller's"


def test_the_invitation_shows_the_site_what_the_run_asks_for_and_nothing_else(grid, flower) -> None:
    message = asked("x", 1)
    message.content[RECORD] = ConfigRecord({"request": "of the run"})
    list(grid.send_and_receive([message], timeout=WAIT))
    (invitation,) = flower.pushed
    assert set(invitation.content) == {SESSION, RECORD}
    assert invitation.content[RECORD]["request"] == "of the run"
    assert invitation.content[SESSION]["key"] == ANNA.public_line
    assert str(invitation.content[SESSION]["address"]).startswith("localhost:")


def test_an_error_of_the_app_is_that_participants_reply(grid, flower) -> None:
    assert ask(grid, {1: "raise", 2: "x"}) == {
        1: "the ClientApp raised ZeroDivisionError",
        2: {"to": "x", "n": 1},
    }
    assert ask(grid, "y")[1] == {"to": "y", "n": 1}
    assert flower.opened() == 2


def test_whose_reply_it_is_follows_from_the_connection_and_not_from_the_reply(grid) -> None:
    assert ask(grid, "pose", nodes=[1]) == {1: {"to": "pose", "n": 1}}


def test_a_node_that_is_sent_several_messages_answers_each(grid) -> None:
    sent = [asked(f"{n}", 1) for n in range(3)] + [asked("other", 2)]
    found = [said(reply)["to"] for reply in grid.send_and_receive(sent, timeout=WAIT)]
    assert sorted(found) == ["0", "1", "2", "other"]


def test_a_farewell_ends_every_process(grid, flower) -> None:
    ask(grid, "x")
    grid.close()
    for site in flower.sites.values():
        (process,) = site.processes
        process.thread.join(WAIT)
        assert not process.thread.is_alive() and not process.abandoned.is_set()


def test_a_node_whose_key_nobody_knows_is_asked_by_flower(grid, flower) -> None:
    flower.sites[3] = Site(3, CARL)
    assert ask(grid, "x", nodes=[1, 3])[3] == {"to": "x", "n": 1}
    assert flower.sites[3].processes == []


# ---- when something is lost --------------------------------------------------------------------------------------


def test_a_lost_connection_is_made_again_in_the_same_process_and_the_work_is_done_once(grid, flower) -> None:
    ask(grid, "x")
    site = flower.sites[1]
    site.begun.clear()

    def cut() -> None:
        assert site.begun.wait(WAIT)
        grid._seats[1]._channel.abort()
        time.sleep(0.1)
        site.gate.set()

    threading.Thread(target=cut, daemon=True).start()
    assert ask(grid, "wait", nodes=[1]) == {1: {"to": "wait", "n": 2}}
    assert site.done == ["x", "wait"] and len(site.processes) == 1


def test_a_reply_that_was_lost_on_its_way_is_sent_again_without_work(grid, flower, monkeypatch) -> None:
    ask(grid, "x")
    send, cut = messages.send_encoded, threading.Event()

    def fails_once(channel: Any, head: bytes, parts: Any) -> None:
        if not cut.is_set() and b'"reply_to_message_id":""' not in head:
            cut.set()
            channel.abort()
        send(channel, head, parts)

    monkeypatch.setattr(messages, "send_encoded", fails_once)
    assert ask(grid, "y", nodes=[1]) == {1: {"to": "y", "n": 2}}
    assert cut.is_set() and flower.sites[1].done == ["x", "y"] and len(flower.sites[1].processes) == 1


def test_a_process_that_is_gone_is_opened_again_and_the_round_goes_on(grid, flower, caplog) -> None:
    ask(grid, "x")
    assert ask(grid, {1: "die1", 2: "y"}) == {1: {"to": "die1", "n": 1}, 2: {"to": "y", "n": 2}}
    assert len(flower.sites[1].processes) == 2 and len(flower.sites[2].processes) == 1
    assert "the session of bert is lost" in caplog.text
    # The old session's name opens nothing any more.
    assert len(grid._hall._expected) == 2


def test_a_process_that_died_between_two_rounds_is_opened_again(grid, flower) -> None:
    ask(grid, "x")
    flower.sites[1].processes[0].kill()
    assert ask(grid, "y")[1] == {"to": "y", "n": 1}
    assert len(flower.sites[1].processes) == 2


def test_a_participant_whose_process_dies_each_time_is_lost_and_the_others_go_on(grid, flower) -> None:
    found = ask(grid, {1: "die9", 2: "x"})
    assert found[1] == "its session was lost 3 times: it did not come back"
    assert found[2]["to"] == "x" and len(flower.sites[1].processes) == engine.TRIES
    assert ask(grid, "y")[1]["to"] == "y"


def test_a_process_that_dies_while_its_node_is_gone_is_told_as_unavailable(grid, flower) -> None:
    ask(grid, "x")
    flower.sites[1].online = False
    (reply,) = grid.send_and_receive([asked("die1", 1)], timeout=WAIT)
    assert reply.error.code == NODE_UNAVAILABLE and reply.metadata.src_node_id == 1


def test_a_node_that_is_offline_is_told_as_unavailable_and_asked_again_next_time(grid, flower) -> None:
    flower.sites[1].online = False
    (reply,) = grid.send_and_receive([asked("x", 1)], timeout=WAIT)
    assert (reply.error.code, reply.error.reason) == (NODE_UNAVAILABLE, "Node Unavailable")
    flower.sites[1].online = True
    assert ask(grid, "y", nodes=[1]) == {1: {"to": "y", "n": 1}}
    assert grid.plain == {} and flower.opened() == 2


def test_a_participant_that_sends_what_is_no_message_fails_once_and_gets_another_session(
    grid, flower
) -> None:
    found = ask(grid, {1: "junk", 2: "x"})
    assert "what it sent is no message" in found[1] and found[2]["to"] == "x"
    assert flower.sites[1].done == ["junk"]
    assert ask(grid, "y")[1]["to"] == "y" and len(flower.sites[1].processes) == 2


def test_a_message_that_does_not_travel_is_told_and_costs_no_session(grid, flower) -> None:
    ask(grid, "x")
    message = asked("y", 1)
    message.content["arrays"] = array_record({"names": np.array(["a"])})
    (reply,) = grid.send_and_receive([message], timeout=WAIT)
    assert reply.error.code == APP_RAISED and "'names' has dtype" in reply.error.reason
    assert ask(grid, "z")[1] == {"to": "z", "n": 2}
    assert flower.opened() == 2


# ---- time --------------------------------------------------------------------------------------------------------


def test_a_message_without_a_reply_in_time_is_an_error_and_the_next_is_answered(grid, flower) -> None:
    ask(grid, "x")
    found = ask(grid, {1: "wait", 2: "y"}, timeout=0.3)
    assert found == {1: "no reply within 0.3 s", 2: {"to": "y", "n": 2}}
    flower.sites[1].gate.set()
    # The late reply is nobody's: what comes is to this message.
    assert ask(grid, "z") == {1: {"to": "z", "n": 3}, 2: {"to": "z", "n": 3}}
    assert flower.opened() == 2 and grid._seats[1]._replies == {}


def test_what_comes_after_the_time_is_over_is_not_sent(grid, flower) -> None:
    ask(grid, "x")
    replies = list(grid.send_and_receive([asked("wait", 1), asked("never", 1)], timeout=0.3))
    assert [said(reply) for reply in replies] == ["no reply within 0.3 s"] * 2
    assert flower.sites[1].done == ["x", "wait"]


def test_an_opening_that_fails_after_the_deadline_counts_at_the_next_message(grid, flower) -> None:
    late = threading.Event()
    carried = flower.sites[1].carried

    def slow(message: Message) -> Message:
        late.wait(WAIT)
        return carried(message)

    flower.sites[1].carried = slow
    flower.sites[1].refuses = "no way out"
    assert ask(grid, "x", timeout=0.3, nodes=[1]) == {1: "no reply within 0.3 s"}
    late.set()
    assert ask(grid, "y", nodes=[1]) == {1: {"to": "y", "n": 1}}
    assert grid.plain == {"bert": "no way out"}


def test_a_participant_that_comes_after_the_deadline_is_asked_over_its_session(grid, flower) -> None:
    late = threading.Event()
    carried = flower.sites[1].carried

    def slow(message: Message) -> Message:
        late.wait(WAIT)
        return carried(message)

    flower.sites[1].carried = slow
    ask(grid, "x", timeout=0.3, nodes=[1])
    late.set()
    assert ask(grid, "y", nodes=[1]) == {1: {"to": "y", "n": 1}}
    assert flower.opened() == 1 and flower.sites[1].done == ["y"]


def test_what_flower_says_of_an_invitation_that_was_followed_does_not_matter(grid, flower) -> None:
    """Its answer may be lost or expire: the participant is there."""
    carried, lost = flower.sites[1].carried, threading.Event()

    def loses_the_answer(message: Message) -> Message:
        carried(message)
        lost.set()
        return error_reply(message, "expired", NODE_UNAVAILABLE)

    flower.sites[1].carried = loses_the_answer
    for n in (1, 2, 3):
        assert ask(grid, f"{n}", nodes=[1]) == {1: {"to": f"{n}", "n": n}}
        assert lost.wait(WAIT)
    assert flower.opened() == 1 and len(flower.sites[1].processes) == 1


def test_closing_does_not_wait_for_one_that_takes_nothing_any_more(grid, flower, monkeypatch) -> None:
    monkeypatch.setattr(engine, "FAREWELL", 0.3)
    ask(grid, "x")
    # As if another message were stuck in the middle.
    assert grid._seats[1]._sending.acquire()
    grid.close()
    assert (
        not flower.sites[2].processes[0].thread.is_alive()
        or flower.sites[2].processes[0].thread.join(5) is None
    )


# ---- when Flower carries them ------------------------------------------------------------------------------------


def test_a_participant_that_cannot_join_is_asked_by_flower_from_then_on(grid, flower, caplog) -> None:
    flower.sites[1].refuses = json.dumps(
        {"type": "JobError", "message": "the port is closed", "party": "bert"}
    )
    assert ask(grid, "x") == {node: {"to": "x", "n": 1} for node in NODES}
    assert ask(grid, "y")[2] == {"to": "y", "n": 2}
    assert grid.plain == {"bert": "the port is closed"}
    assert "bert is in no session, and Flower carries its messages: the port is closed" in caplog.text
    assert flower.sites[1].done == ["x", "y"] and flower.opened() == 2
    # Nobody else comes in by the name that was told to it.
    assert len(grid._hall._expected) == 1


def test_an_address_that_leads_nowhere_falls_back_to_flower(flower, monkeypatch) -> None:
    monkeypatch.setattr(answering, "CONNECT_WITHIN", 0.3)
    with contextlib.closing(SessionGrid(flower, door(address="127.0.0.1:1"))) as grid:
        assert ask(grid, "x") == {node: {"to": "x", "n": 1} for node in NODES}
        assert all("could not be reached" in why for why in grid.plain.values())


def test_a_port_that_is_taken_leaves_everything_to_flower(flower, caplog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        with contextlib.closing(SessionGrid(flower, door(bind))) as grid:
            for text in ("x", "y"):
                assert ask(grid, text) == {node: {"to": text, "n": 1} for node in NODES}
            assert set(grid.plain) == {"bert", "carl"} and flower.opened() == 0
    assert caplog.text.count("no sessions, and Flower carries every message: cannot listen at") == 1


def test_an_invitation_that_the_superlink_does_not_take_is_an_error_and_the_next_works(grid, flower) -> None:
    flower.takes = False
    assert "did not take the message" in ask(grid, "x", nodes=[1])[1]
    flower.takes = True
    assert ask(grid, "y", nodes=[1]) == {1: {"to": "y", "n": 1}}


def test_messages_that_are_pushed_and_pulled_go_to_flower(grid, flower) -> None:
    (number,) = grid.push_messages([asked("x", 1)])
    found: list[Message] = []
    within(lambda: found.extend(grid.pull_messages([number])) or found)
    assert said(found[0])["to"] == "x" and flower.opened() == 0


# ---- one seat ----------------------------------------------------------------------------------------------------


def seated() -> tuple[Seat, MemoryChannel]:
    seat = Seat(as_peer(BERT))
    here, there = MemoryChannel.pair("s", names=("anna", "bert"))
    assert seat.arrived(here)
    return seat, there


def numbered(number: str) -> Message:
    message = asked("x", 1)
    return message_of(engine._changed(message.metadata, message_id=number), content=message.content)


def reply_to(number: str) -> Message:
    return Message(RecordDict({"r": ConfigRecord({"to": number})}), reply_to=numbered(number))


def test_replies_to_what_nobody_asked_are_dropped() -> None:
    seat, there = seated()
    with pytest.raises(TimeoutError):
        seat.ask(numbered("m1"), time.monotonic() + 0.1)
    # Late, unasked, and what is asked.
    for number in ("m1", "unknown", "m2"):
        messages.send(there, reply_to(number))
    asker = threading.Thread(target=lambda: seat.ask(numbered("m3"), time.monotonic() + WAIT), daemon=True)
    asker.start()
    within(lambda: "m3" in seat._wanted)
    messages.send(there, reply_to("m3"))
    asker.join(WAIT)
    # The reader has seen them all, for it takes one after the other.
    assert not asker.is_alive() and seat._replies == {} and seat._wanted == set()


def test_a_second_connection_takes_the_place_of_the_first() -> None:
    seat, there = seated()
    here, again = MemoryChannel.pair("s")
    assert seat.arrived(here)
    with pytest.raises(PeerLost):
        there.recv("x", size=1)
    answer = threading.Thread(target=lambda: messages.send(again, reply_to("m1")), daemon=True)
    answer.start()
    with contextlib.suppress(TimeoutError):
        seat.ask(numbered("m1"), time.monotonic() + 0.5)
    assert messages.receive(again).metadata.message_id == "m1"


def test_a_connection_that_breaks_at_every_try_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(seats, "REPEATS", 3)
    seat, there = seated()
    came = 0

    def comes_and_goes() -> None:
        nonlocal came
        end = there
        while True:
            with contextlib.suppress(PeerLost):
                messages.receive(end)
            came += 1
            end.abort()
            here, end = MemoryChannel.pair("s")
            if not seat.arrived(here):
                return

    threading.Thread(target=comes_and_goes, daemon=True).start()
    with pytest.raises(Gone, match="lost 3 times over one message"):
        seat.ask(numbered("m1"), None)
    assert not seat.alive


def test_a_seat_that_is_over_lets_nobody_in_and_nobody_wait() -> None:
    seat, _ = seated()
    assert seat.joined and seat.alive
    waiting: list[Exception] = []

    def ask_and_tell() -> None:
        try:
            seat.ask(numbered("m1"), None)
        except Gone as error:
            waiting.append(error)

    thread = threading.Thread(target=ask_and_tell, daemon=True)
    thread.start()
    seat.end("enough", again=False)
    thread.join(WAIT)
    (error,) = waiting
    assert str(error) == "enough" and not error.again
    assert not seat.alive and not seat.arrived(MemoryChannel.pair("s")[0])


def test_a_reply_for_which_there_is_no_memory_is_an_error_and_not_a_silence(monkeypatch) -> None:
    def no_memory(channel: Any) -> Message:
        channel.recv(messages.STEP, limit=2**20)
        raise MemoryError

    monkeypatch.setattr(messages, "receive", no_memory)
    seat, there = seated()
    messages.send(there, reply_to("m1"))
    with pytest.raises(Gone, match="could not be read"):
        seat.ask(numbered("m1"), time.monotonic() + WAIT)
