"""Two parties over gRPC and TLS: only the pinned keys meet, wrong frames are refused, a dead party is noticed."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crypto.channel import recv_array
from crypto.errors import ProtocolError
from fedcore.errors import IdentityError, JobError, PeerLost
from fedcore.peer import stream
from fedcore.peer.frames import MAX_FRAME
from fedcore.peer.grpc_channel import GrpcChannel
from fedcore.peer.link import Settings
from fedcore.peer.listening import Listener
from fedcore.peer.tls import new_certificate, signer, trust_anchor
from fedcore.trust.identity import load_identity, new_identity
from tests.fedcore.peer.parties import (
    ANNA,
    BERT,
    CARL,
    SESSION,
    SMALL,
    as_peer,
    both,
    direct,
    frame_of,
    in_thread,
    is_told,
    new_party,
    raw,
)

ROOT = Path(__file__).parents[3]


def connect(address, own=BERT, peer=ANNA, **changed):
    told = {"session": SESSION, "deadline": 10.0, "settings": SMALL, **changed}
    return GrpcChannel.connect(address, identity=own, peer=as_peer(peer), **told)


def listen(own=ANNA, peer=BERT, address="127.0.0.1:0", session=SESSION):
    return Listener(address, identity=own, peer=as_peer(peer), session=session, settings=SMALL)


# ---- messages --------------------------------------------------------------------------------------------------


def test_messages_larger_than_the_window_pass_both_ways_in_bounded_memory() -> None:
    anna, bert = direct()
    message = np.arange(60_000, dtype=np.uint64)

    def first() -> None:
        with anna:
            anna.send("there", message)
            assert np.array_equal(recv_array(anna, "back", np.uint64, 60_000), message)

    def second() -> None:
        with bert:
            assert np.array_equal(recv_array(bert, "there", np.uint64, 60_000), message)
            bert.send("back", message)

    both(first, second)
    for one, other in ((anna, bert), (bert, anna)):
        assert one.link.outgoing.highest <= 2 and one.link.incoming.highest <= 2
        assert one.counters.sent.bytes == other.counters.received.bytes == message.nbytes
        assert one.counters.sent.frame_bytes == other.counters.received.frame_bytes > message.nbytes


@pytest.mark.parametrize("closer", [0, 1])
def test_who_closes_first_leaves_nothing_behind(closer) -> None:
    ends = direct()
    one, other = ends[closer], ends[1 - closer]

    def late() -> bytes:
        time.sleep(0.3)
        with other:
            return bytes(other.recv("x", size=5_000))

    def early() -> None:
        with one:
            one.send("x", bytes(5_000))

    assert both(early, late)[1] == bytes(5_000)
    with pytest.raises(PeerLost, match="closed here"):
        one.send("y", b"")


def test_a_connection_waits_for_the_other_side_to_listen() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"

    def later() -> GrpcChannel:
        time.sleep(0.5)
        return listen(address=address).accept(20)

    anna, bert = both(later, lambda: connect(address, deadline=20))
    bert.send("x", b"there")
    assert bytes(anna.recv("x", size=5)) == b"there"
    both(anna.close, bert.close)


# ---- who may ---------------------------------------------------------------------------------------------------


def test_a_listener_with_another_key_is_refused() -> None:
    with listen(own=CARL) as listener, pytest.raises(IdentityError, match="pinned to anna") as caught:
        connect(listener.address)
    assert caught.value.step == "connect"


def test_a_caller_with_another_key_gets_no_connection_on_either_side() -> None:
    with listen() as listener:
        calling = in_thread(is_told(lambda: connect(listener.address, own=CARL, deadline=1.5)))
        with pytest.raises(PeerLost, match="pinned key") as caught:
            listener.accept(2)
        calling.join(10)
    assert caught.value.party == "bert" and not calling.is_alive()


def test_a_caller_without_a_certificate_is_refused() -> None:
    with listen() as listener:
        anchor = trust_anchor(ANNA.public_line).public_bytes(serialization.Encoding.PEM)
        with grpc.secure_channel(listener.address, grpc.ssl_channel_credentials(anchor)) as channel:
            call = channel.stream_stream("/fedcore.peer.Direct/Talk")(iter([]))
            assert call.code() == grpc.StatusCode.UNAVAILABLE


def test_a_third_party_that_took_the_address_sees_no_connection() -> None:
    with listen(own=CARL) as listener:
        with pytest.raises(IdentityError):
            connect(listener.address)
        with pytest.raises(PeerLost):
            listener.accept(0.1)


def test_a_party_does_not_talk_to_its_own_key() -> None:
    with pytest.raises(IdentityError, match="own key"):
        listen(own=ANNA, peer=ANNA)
    with pytest.raises(IdentityError, match="own key"):
        connect("127.0.0.1:1", own=ANNA, peer=ANNA)


def test_a_certificate_tells_which_key_signed_it() -> None:
    peers = [as_peer(ANNA), as_peer(BERT)]
    assert signer(new_certificate(BERT)[0], peers) == peers[1]
    for shown in (new_certificate(CARL)[0], b"nothing"):
        with pytest.raises(IdentityError):
            signer(shown, peers)


def test_a_certificate_with_the_right_name_and_another_signature_is_refused() -> None:
    shown = x509.load_pem_x509_certificate(new_certificate(BERT)[0])
    forged = (
        x509.CertificateBuilder()
        .subject_name(shown.subject)
        .issuer_name(shown.issuer)
        .public_key(shown.public_key())
        .serial_number(1)
        .not_valid_before(shown.not_valid_before_utc)
        .not_valid_after(shown.not_valid_after_utc)
        .sign(CARL.private_key, shown.signature_hash_algorithm)
    )
    with pytest.raises(IdentityError, match="none of the pinned keys"):
        signer(forged.public_bytes(serialization.Encoding.PEM), [as_peer(BERT)])


def test_an_anchor_holds_the_pinned_key_and_is_signed_by_nobody_known() -> None:
    anchor = trust_anchor(ANNA.public_line)
    assert anchor.public_key() == ANNA.private_key.public_key()
    with pytest.raises(InvalidSignature):
        anchor.verify_directly_issued_by(anchor)


# ---- agreement -------------------------------------------------------------------------------------------------


def test_another_session_is_told_at_once_to_the_caller() -> None:
    with listen(session="other") as listener:
        with pytest.raises(ProtocolError, match="different sessions"):
            connect(listener.address)
        with pytest.raises(PeerLost, match="different sessions"):
            listener.accept(0.1)


def test_another_version_is_named_beside_this_one(monkeypatch) -> None:
    with listen() as listener:
        monkeypatch.setattr(stream, "VERSION", 7)
        with pytest.raises(ProtocolError, match=r"version 7.*version 1"):
            connect(listener.address)


def test_nobody_there_is_told_with_party_and_cure() -> None:
    with pytest.raises(PeerLost, match="firewall") as caught:
        connect("127.0.0.1:1", deadline=0.5)
    assert (caught.value.party, caught.value.step) == ("anna", "connect")


def test_an_address_that_is_taken_or_none_is_refused() -> None:
    with listen() as listener, pytest.raises(JobError, match="cannot listen"):
        listen(address=listener.address)
    for address in ("nowhere", ":1", "host:", "host:99999", "host:x"):
        with pytest.raises(JobError, match="is no address"):
            connect(address)


def test_a_second_caller_is_turned_away() -> None:
    with listen() as listener:
        anna, bert = both(lambda: listener.accept(20), lambda: connect(listener.address))
        with pytest.raises(PeerLost, match="there already"):
            connect(listener.address, deadline=0.5)
        bert.send("x", b"")
        anna.recv("x", size=0)


# ---- wrong frames over a real connection -----------------------------------------------------------------------


@pytest.mark.parametrize("receiver", [0, 1], ids=["at the listener", "at the caller"])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda fine: fine[:-1], "should have"),
        (lambda fine: fine[:3], "cut off"),
        (lambda fine: b"\x00" * 60, "no frame"),
        (lambda fine: fine + bytes(MAX_FRAME), f"allowed are {MAX_FRAME}"),
    ],
    ids=["truncated", "cut off", "random", "oversized"],
)
def test_a_wrong_frame_is_refused_with_the_step_and_the_other_side_is_told(receiver, spoil, says) -> None:
    ends = direct()
    taker, giver = ends[receiver], ends[1 - receiver]
    raw(giver, spoil(frame_of(giver, "x", b"1234")))
    with pytest.raises(ProtocolError, match=says) as caught:
        taker.recv("x", size=4, deadline=20)
    assert caught.value.step == "x"
    with pytest.raises(PeerLost) as lost:
        giver.recv("y", size=1, deadline=20)
    assert lost.value.party == taker_name(receiver) and "deadline" not in str(lost.value)


def taker_name(receiver: int) -> str:
    return ("anna", "bert")[receiver]


@pytest.mark.parametrize("receiver", [0, 1], ids=["at the listener", "at the caller"])
def test_a_frame_too_long_for_the_transport_never_arrives(receiver) -> None:
    ends = direct()
    taker, giver = ends[receiver], ends[1 - receiver]
    raw(giver, bytes(MAX_FRAME + 2**17))
    with pytest.raises((ProtocolError, PeerLost)) as caught:
        taker.recv("x", size=4, deadline=20)
    assert caught.value.step == "x" and "deadline" not in str(caught.value)


@pytest.mark.parametrize("failing", [0, 1], ids=["the listener", "the caller"])
def test_an_error_of_one_side_ends_the_other(failing) -> None:
    ends = direct()
    with pytest.raises(ZeroDivisionError), ends[failing]:
        raise ZeroDivisionError
    other = ends[1 - failing]
    with pytest.raises(PeerLost) as caught:
        other.recv("vole.trees", size=1, deadline=20)
    assert caught.value.step == "vole.trees" and "deadline" not in str(caught.value)


# ---- a party that dies -----------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from fedcore.peer.grpc_channel import GrpcChannel
from fedcore.peer.listening import Listener
from fedcore.peer.tls import Peer
from fedcore.trust.identity import load_identity
folder, role, address = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
own = load_identity(folder / "child.key")
peer = Peer("parent", (folder / "parent.key.pub").read_text())
if role == "listen":
    listener = Listener(address, identity=own, peer=peer, session="s")
    print(listener.address, flush=True)
    channel = listener.accept(60)
else:
    channel = GrpcChannel.connect(address, identity=own, peer=peer, session="s", deadline=60)
while True:
    channel.send("endless", bytes(1 << 30))
"""


@pytest.mark.system
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
@pytest.mark.parametrize("role", ["listen", "connect"])
@pytest.mark.parametrize("doing", ["receiving", "sending"])
def test_a_party_that_dies_in_a_transfer_is_lost_within_ten_seconds(blow, role, doing, tmp_path) -> None:
    parent = new_identity(tmp_path / "parent.key", "parent")
    child = new_identity(tmp_path / "child.key", "child")
    peer = as_peer(load_identity(tmp_path / "child.key"))
    assert peer.public_line == child.public_line
    command = [sys.executable, "-c", CHILD, str(tmp_path), role]
    if role == "listen":
        process = subprocess.Popen([*command, "127.0.0.1:0"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        address = process.stdout.readline().strip()
        channel = GrpcChannel.connect(address, identity=parent, peer=peer, session="s", deadline=60)
    else:
        listener = Listener("127.0.0.1:0", identity=parent, peer=peer, session="s")
        process = subprocess.Popen([*command, listener.address], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        channel = listener.accept(60)
    try:
        # In the middle of a message of a gibibyte.
        sending = in_thread(is_told(lambda: channel.send("other", bytes(1 << 30))))
        while channel.link.incoming.highest < 1:
            time.sleep(0.01)
        process.send_signal(blow)
        began = time.monotonic()
        if doing == "receiving":
            with pytest.raises(PeerLost) as caught:
                channel.recv("endless", size=1 << 30)
            assert (caught.value.party, caught.value.step) == ("child", "endless")
        sending.join(10)
        assert not sending.is_alive() and time.monotonic() - began < 10
    finally:
        process.kill()
        process.wait()


def test_liveness_is_asked_within_ten_seconds_by_default() -> None:
    chosen = Settings()
    assert chosen.keepalive + chosen.answer < 10
    assert dict(stream.options(chosen))["grpc.keepalive_time_ms"] == 3000


def test_a_new_party_has_a_key_of_the_only_kind() -> None:
    assert isinstance(new_party("x").private_key.curve, ec.SECP384R1)
