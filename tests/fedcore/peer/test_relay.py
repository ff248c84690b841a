"""A relay joins two parties, sees nothing of what they say, and what it changes is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from crypto.channel import recv_array
from crypto.errors import ProtocolError
from fedcore.errors import IdentityError, PeerLost
from fedcore.peer import relay as relay_module
from fedcore.peer.link import FrameQueue
from fedcore.peer.relay import Relay, RelayedChannel
from fedcore.trust.identity import new_identity
from tests.fedcore.peer.parties import (
    ANNA,
    BERT,
    CARL,
    SMALL,
    STATION,
    as_peer,
    both,
    in_thread,
    is_told,
    meet,
    relayed,
)

ROOT = Path(__file__).parents[3]


class Carried(FrameQueue):
    """A queue of the relay, open to what a relay could do."""

    seen: list[bytes] = []  # noqa: RUF012 - one relay at a time
    touch = staticmethod(lambda number, frame: [frame])

    def put(self, frame: bytes, until: float | None) -> None:
        self.seen.append(frame)
        # An empty frame is a party's goodbye: it holds nothing to protect, and ends the connection either way.
        for changed in type(self).touch(len(self.seen), frame) if frame else [frame]:
            super().put(changed, until)


@pytest.fixture
def carried(monkeypatch) -> type[Carried]:
    monkeypatch.setattr(Carried, "seen", [])
    monkeypatch.setattr(Carried, "touch", staticmethod(lambda number, frame: [frame]))
    monkeypatch.setattr(relay_module, "FrameQueue", Carried)
    return Carried


@pytest.fixture
def relay(carried):
    parties = [as_peer(one) for one in (ANNA, BERT)]
    with Relay("127.0.0.1:0", identity=STATION, parties=parties, settings=SMALL) as running:
        yield running


# ---- messages --------------------------------------------------------------------------------------------------


def test_messages_larger_than_the_window_pass_both_ways_in_bounded_memory(relay) -> None:
    anna, bert = relayed(relay)
    message = np.arange(30_000, dtype=np.uint64)

    def first() -> None:
        with anna:
            anna.send("there", message)
            assert np.array_equal(recv_array(anna, "back", np.uint64, 30_000), message)

    def second() -> None:
        with bert:
            assert np.array_equal(recv_array(bert, "there", np.uint64, 30_000), message)
            bert.send("back", message)

    both(first, second)
    assert anna.counters.sent.bytes == anna.counters.received.bytes == message.nbytes
    assert max(end.link.outgoing.highest for end in (anna, bert)) <= 2
    assert relay.frames > 480 and relay.bytes > 2 * message.nbytes


def test_the_relay_sees_neither_contents_nor_steps(relay, carried) -> None:
    anna, bert = relayed(relay)
    secret = b"the customer 4711 of both banks " * 20
    both(lambda: anna.send("secret.step", secret), lambda: bert.recv("secret.step", size=len(secret)))
    both(anna.close, bert.close)
    passed = b"".join(carried.seen)
    assert len(passed) > len(secret)
    for word in (secret[:16], b"4711", b"secret.step", b"FCPF"):
        assert word not in passed


@pytest.mark.parametrize("closer", [0, 1])
def test_who_closes_first_leaves_nothing_behind(relay, closer) -> None:
    ends = relayed(relay)
    one, other = ends[closer], ends[1 - closer]

    def early() -> None:
        with one:
            one.send("x", bytes(5_000))

    def late() -> bytes:
        time.sleep(0.3)
        with other:
            return bytes(other.recv("x", size=5_000))

    assert both(early, late)[1] == bytes(5_000)


def test_the_same_parties_meet_again_and_two_sessions_do_not_mix(relay) -> None:
    for _ in range(2):
        anna, bert = relayed(relay)
        again, back = both(
            lambda: meet(relay, ANNA, BERT, session="other"), lambda: meet(relay, BERT, ANNA, session="other")
        )
        anna.send("x", b"1")
        again.send("x", b"2")
        assert bytes(bert.recv("x", size=1)) + bytes(back.recv("x", size=1)) == b"12"
        both(anna.close, bert.close)
        both(again.close, back.close)


# ---- a dishonest relay -----------------------------------------------------------------------------------------


def flipped(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


@pytest.mark.parametrize(
    "touch",
    [
        lambda number, frame: [flipped(frame)],
        lambda number, frame: [frame, frame],
        lambda number, frame: [] if number == 5 else [frame],
        lambda number, frame: [frame[:20]],
        lambda number, frame: [b"made up by the relay"],
    ],
    ids=["changed", "repeated", "lost", "cut off", "made up"],
)
def test_a_frame_that_the_relay_touches_is_refused_with_the_step(relay, carried, monkeypatch, touch) -> None:
    anna, bert = relayed(relay)
    monkeypatch.setattr(carried, "touch", staticmethod(touch))
    for _ in range(2):
        anna.send("vole.trees", b"12345678")

    def take() -> None:
        for _ in range(2):
            bert.recv("vole.trees", size=8, deadline=20)

    with pytest.raises(ProtocolError, match="does not decrypt") as caught:
        take()
    assert caught.value.step == "vole.trees"
    with pytest.raises(PeerLost):
        anna.recv("y", size=1, deadline=20)


def test_keys_that_the_relay_exchanges_for_its_own_are_refused(relay, carried, monkeypatch) -> None:
    own = b"FCPK\x01" + b"\x09" + bytes(31)
    monkeypatch.setattr(carried, "touch", staticmethod(lambda n, f: [own if f[:4] == b"FCPK" else f]))

    def refused(own_party, other) -> None:
        with pytest.raises((IdentityError, PeerLost)):
            meet(relay, own_party, other)

    both(lambda: refused(ANNA, BERT), lambda: refused(BERT, ANNA))


# ---- who may ---------------------------------------------------------------------------------------------------


def test_a_relay_with_another_key_is_refused(relay) -> None:
    with pytest.raises(IdentityError, match="pinned to"):
        meet(relay, ANNA, BERT, relay=as_peer(CARL))


def test_a_party_that_the_relay_does_not_know_gets_no_further_than_the_handshake(relay) -> None:
    with pytest.raises(PeerLost, match="refused this one's key"):
        meet(relay, CARL, ANNA, deadline=1.0)


def test_a_peer_that_the_relay_does_not_know_is_told(relay) -> None:
    with pytest.raises(IdentityError, match="does not serve"):
        meet(relay, ANNA, CARL)


def test_a_peer_that_does_not_come_is_lost_and_its_place_is_free_again(relay) -> None:
    with pytest.raises(PeerLost) as caught:
        meet(relay, ANNA, BERT, deadline=0.5)
    assert caught.value.party.startswith("bert through station")
    anna, bert = relayed(relay)
    both(anna.close, bert.close)


# ---- the end ---------------------------------------------------------------------------------------------------


def test_an_error_of_one_party_ends_the_other(relay) -> None:
    anna, bert = relayed(relay)
    with pytest.raises(ZeroDivisionError), anna:
        raise ZeroDivisionError
    with pytest.raises(PeerLost) as caught:
        bert.recv("vole.trees", size=1, deadline=20)
    assert (caught.value.party, caught.value.step) == ("anna", "vole.trees")
    assert "deadline" not in str(caught.value)


def test_when_the_relay_ends_both_parties_are_told(relay) -> None:
    ends = relayed(relay)
    relay.close()
    for end in ends:
        with pytest.raises(PeerLost) as caught:
            end.recv("x", size=1, deadline=20)
        assert "deadline" not in str(caught.value)


CHILD = """
import sys
from pathlib import Path
from fedcore.peer.relay import RelayedChannel
from fedcore.peer.tls import Peer
from fedcore.trust.identity import load_identity
folder = Path(sys.argv[1])
peers = {name: Peer(name, (folder / f"{name}.key.pub").read_text()) for name in ("parent", "station")}
channel = RelayedChannel.connect(
    sys.argv[2], relay=peers["station"], identity=load_identity(folder / "child.key"), peer=peers["parent"],
    session="s", deadline=60,
)
while True:
    channel.send("endless", bytes(1 << 30))
"""


@pytest.mark.system
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_party_that_dies_behind_the_relay_is_lost_within_ten_seconds(blow, tmp_path) -> None:
    parent, child, station = (new_identity(tmp_path / f"{n}.key", n) for n in ("parent", "child", "station"))
    parties = [as_peer(parent), as_peer(child)]
    with Relay("127.0.0.1:0", identity=station, parties=parties) as relay:
        process = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), relay.address], cwd=ROOT)
        try:
            channel = RelayedChannel.connect(
                relay.address,
                relay=as_peer(station),
                identity=parent,
                peer=parties[1],
                session="s",
                deadline=60,
            )
            sending = in_thread(is_told(lambda: channel.send("other", bytes(1 << 30))))
            while channel.link.incoming.highest < 1:
                time.sleep(0.01)
            process.send_signal(blow)
            began = time.monotonic()
            with pytest.raises(PeerLost) as caught:
                channel.recv("endless", size=1 << 30)
            assert (caught.value.party, caught.value.step) == ("child", "endless")
            sending.join(10)
            assert not sending.is_alive() and time.monotonic() - began < 10
        finally:
            process.kill()
            process.wait()
