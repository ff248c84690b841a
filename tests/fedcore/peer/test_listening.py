"""A hall for many parties: each gets into the session that was named for its key, and into no other."""

from __future__ import annotations

import queue

import pytest

from crypto.errors import ProtocolError
from fedcore.errors import IdentityError, JobError, PeerLost
from fedcore.peer.grpc_channel import GrpcChannel
from fedcore.peer.listening import Hall
from fedcore.trust.identity import Identity
from tests.fedcore.peer.parties import ANNA, BERT, CARL, SMALL, as_peer, both, new_party

DORA = new_party("dora")


class Waiting:
    """Anna's hall, and who came into which session."""

    def __init__(self, *peers: Identity, **options) -> None:
        self.hall = Hall(
            "127.0.0.1:0", identity=ANNA, peers=[as_peer(one) for one in peers], settings=SMALL, **options
        )
        self.came: dict[str, queue.SimpleQueue[GrpcChannel]] = {}
        self.welcome = True

    def expect(self, session: str, party: Identity) -> None:
        arrived = self.came[session] = queue.SimpleQueue()

        def take(channel: GrpcChannel) -> bool:
            arrived.put(channel)
            return self.welcome

        self.hall.expect(session, as_peer(party), take)

    def connect(self, own: Identity, session: str, deadline: float = 10.0) -> GrpcChannel:
        return GrpcChannel.connect(
            self.hall.address,
            identity=own,
            peer=as_peer(ANNA),
            session=session,
            deadline=deadline,
            settings=SMALL,
        )

    def here(self, session: str) -> GrpcChannel:
        return self.came[session].get(timeout=10)


@pytest.fixture
def waiting():
    found = Waiting(BERT, CARL)
    yield found
    found.hall.close()


def exchange(one: GrpcChannel, other: GrpcChannel, text: bytes) -> None:
    one.send("x", text)
    assert bytes(other.recv("x", limit=100, deadline=10)) == text


def test_many_parties_each_have_a_channel_of_their_own(waiting) -> None:
    waiting.expect("for bert", BERT)
    waiting.expect("for carl", CARL)
    bert, carl = both(lambda: waiting.connect(BERT, "for bert"), lambda: waiting.connect(CARL, "for carl"))
    for end, session, name in ((bert, "for bert", "bert"), (carl, "for carl", "carl")):
        here = waiting.here(session)
        assert (here.peer, here.session) == (name, session)
        exchange(here, end, f"to {name}".encode())
        exchange(end, here, f"from {name}".encode())


def test_one_party_may_be_in_two_sessions(waiting) -> None:
    waiting.expect("first", BERT)
    waiting.expect("second", BERT)
    ends = [waiting.connect(BERT, session) for session in ("first", "second")]
    for end, session in zip(ends, ("first", "second"), strict=True):
        exchange(waiting.here(session), end, session.encode())


def test_a_party_whose_key_is_not_pinned_does_not_get_past_the_handshake(waiting) -> None:
    waiting.expect("for bert", BERT)
    with pytest.raises(PeerLost, match="refused this one's key"):
        waiting.connect(DORA, "for bert", deadline=1.0)
    assert waiting.came["for bert"].empty() and waiting.hall.refused == ""


def test_another_partys_session_is_refused_though_its_name_is_known(waiting) -> None:
    waiting.expect("for bert", BERT)
    with pytest.raises(IdentityError, match="another party's"):
        waiting.connect(CARL, "for bert")
    assert waiting.came["for bert"].empty() and "another party's" in waiting.hall.refused


def test_a_session_that_nobody_named_is_refused_at_once(waiting) -> None:
    waiting.expect("for bert", BERT)
    with pytest.raises(ProtocolError, match="not one that is expected"):
        waiting.connect(BERT, "no such session")


def test_a_forgotten_session_lets_nobody_in_and_keeps_who_is_there(waiting) -> None:
    waiting.expect("for bert", BERT)
    bert = waiting.connect(BERT, "for bert")
    here = waiting.here("for bert")
    waiting.hall.forget("for bert")
    waiting.hall.forget("never there")
    with pytest.raises(ProtocolError, match="has ended"):
        waiting.connect(BERT, "for bert")
    exchange(here, bert, b"still")


def test_a_party_may_come_again_and_gets_a_new_channel(waiting) -> None:
    waiting.expect("for bert", BERT)
    first = waiting.connect(BERT, "for bert")
    waiting.here("for bert").abort()
    with pytest.raises(PeerLost):
        first.recv("x", size=1)
    second = waiting.connect(BERT, "for bert")
    exchange(waiting.here("for bert"), second, b"again")


def test_who_is_turned_away_has_no_channel(waiting) -> None:
    waiting.hall.expect("for bert", as_peer(BERT), lambda channel: True, welcome=lambda: False)
    with pytest.raises(PeerLost, match="there already"):
        waiting.connect(BERT, "for bert", deadline=3.0)


def test_a_channel_that_nobody_takes_is_ended(waiting) -> None:
    waiting.expect("for bert", BERT)
    waiting.welcome = False
    bert = waiting.connect(BERT, "for bert")
    with pytest.raises(PeerLost):
        bert.recv("x", size=1)


def test_more_connections_than_allowed_are_not_served() -> None:
    crowded = Waiting(BERT, calls=1)
    crowded.expect("for bert", BERT)
    bert = crowded.connect(BERT, "for bert")
    with pytest.raises(PeerLost):
        crowded.connect(BERT, "for bert", deadline=1.0)
    exchange(crowded.here("for bert"), bert, b"the first is served")
    crowded.hall.close()


def test_a_closed_hall_ends_who_is_there_and_frees_its_port() -> None:
    with Waiting(BERT).hall as hall:
        came = queue.SimpleQueue()
        hall.expect("for bert", as_peer(BERT), lambda channel: came.put(channel) or True)
        bert = GrpcChannel.connect(
            hall.address, identity=BERT, peer=as_peer(ANNA), session="for bert", deadline=10, settings=SMALL
        )
        with pytest.raises(JobError, match="cannot listen"):
            Hall(hall.address, identity=ANNA, peers=[as_peer(BERT)])
    for end in (bert, came.get()):
        with pytest.raises(PeerLost):
            end.recv("x", size=1, deadline=10)
    Hall(hall.address, identity=ANNA, peers=[as_peer(BERT)]).close()


def test_a_hall_expects_nobody_with_its_own_key() -> None:
    with pytest.raises(IdentityError, match="own key"):
        Hall("127.0.0.1:0", identity=ANNA, peers=[as_peer(BERT), as_peer(ANNA)])
