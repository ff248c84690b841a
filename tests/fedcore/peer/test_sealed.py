"""Keys that two parties agree on are bound to both, and a frame that was touched does not open."""

from __future__ import annotations

import time

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from fedcore.errors import IdentityError
from fedcore.peer.channel import FramedChannel
from fedcore.peer.frames import session_id
from fedcore.peer.link import FrameQueue, Refused, Settings
from fedcore.peer.memory import MemoryLink
from fedcore.peer.sealed import Keys, SealedLink, agree, derive
from fedcore.trust.identity import public_blob
from tests.fedcore.peer.parties import ANNA, BERT, CARL, as_peer, both, vectors

VECTORS = vectors("sealed")
ID = session_id("s")


def links(room: int = 8) -> tuple[MemoryLink, MemoryLink]:
    there, back = FrameQueue(room), FrameQueue(room)
    return MemoryLink(there, back), MemoryLink(back, there)


def soon() -> float:
    return time.monotonic() + 20


def agreed(own=ANNA, other=BERT, *, ids=(ID, ID), pins=None):
    pins = pins or (other, own)
    one, two = links()
    return both(
        lambda: agree(one, identity=own, peer=as_peer(pins[0]), session=ids[0], until=soon()),
        lambda: agree(two, identity=other, peer=as_peer(pins[1]), session=ids[1], until=soon()),
    )


def from_vectors(side: str, theirs: str | None = None) -> Keys:
    own, other = VECTORS[side], VECTORS["b" if side == "a" else "a"]
    return derive(
        X25519PrivateKey.from_private_bytes(bytes.fromhex(own["ephemeral secret"])),
        bytes.fromhex(theirs or other["ephemeral public"]),
        mine=public_blob(own["public line"]),
        other=public_blob(other["public line"]),
        session=bytes.fromhex(VECTORS["session"]),
    )


# ---- keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "out", "back"), [("a", "key of a", "key of b"), ("b", "key of b", "key of a")]
)
def test_keys_are_those_of_the_vectors(side, out, back) -> None:
    keys = from_vectors(side)
    assert keys.transcript.hex() == VECTORS["transcript"]
    assert (keys.outgoing.hex(), keys.incoming.hex()) == (VECTORS[out], VECTORS[back])
    assert VECTORS[out] not in repr(keys) and keys.outgoing.hex() not in repr(keys)
    assert str(keys.outgoing) not in repr(keys) and str(keys.incoming) not in repr(keys)


def test_frames_are_sealed_and_opened_as_in_the_vectors() -> None:
    one, two = links()
    sealing, opening = SealedLink(one, from_vectors("a")), SealedLink(two, from_vectors("b"))
    for told in VECTORS["frames of a"]:
        sealing.put(bytes.fromhex(told["frame"]), None)
        sealed = one.outgoing.get(None)
        assert sealed.hex() == told["sealed"]
        one.outgoing.put(sealed, None)
        assert opening.get(None).hex() == told["frame"]


@pytest.mark.parametrize("one", VECTORS["bad ephemeral keys"], ids=lambda one: one["name"])
def test_a_point_of_small_order_is_refused(one) -> None:
    with pytest.raises(ProtocolError, match="small order"):
        from_vectors("a", one["hex"])


def test_every_connection_has_keys_of_its_own() -> None:
    one, two = agreed(), agreed()
    for first in one:
        for second in two:
            first.put(b"x", None)
            second.incoming.put(first.outgoing.get(None), None)
            with pytest.raises(Refused):
                second.get(None)


# ---- who -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(ANNA, BERT), (BERT, ANNA)])
def test_two_parties_that_pin_each_other_talk_both_ways(order) -> None:
    one, two = agreed(*order)
    for number in range(3):
        one.put(b"there %d" % number, None)
        two.put(b"back %d" % number, None)
        assert two.get(None) == b"there %d" % number
        assert one.get(None) == b"back %d" % number


@pytest.mark.parametrize("pins", [(CARL, ANNA), (BERT, CARL)])
def test_a_party_with_another_key_than_the_pinned_one_is_refused(pins) -> None:
    with pytest.raises(IdentityError, match="does not have the key that is pinned"):
        agreed(pins=pins)


def test_parties_in_different_sessions_do_not_meet() -> None:
    with pytest.raises(IdentityError, match="another session"):
        agreed(ids=(ID, session_id("t")))


def test_who_carries_the_frames_cannot_take_the_place_of_a_party() -> None:
    # The one in the middle agrees with each side under a key of its own; the pins stop it at both.
    to_anna, anna = links()
    to_bert, bert = links()

    def middle() -> None:
        for link, victim in ((to_anna, ANNA), (to_bert, BERT)):
            # Nor does it get keys itself: a party signs for whom it means to talk to.
            with pytest.raises(IdentityError):
                agree(link, identity=CARL, peer=as_peer(victim), session=ID, until=soon())

    def parties() -> None:
        for own, link, other in ((ANNA, anna, BERT), (BERT, bert, ANNA)):
            with pytest.raises(IdentityError):
                agree(link, identity=own, peer=as_peer(other), session=ID, until=soon())

    both(middle, parties)


@pytest.mark.parametrize(
    ("first", "second", "error", "says"),
    [
        (b"", b"", ProtocolError, "ephemeral key"),
        (b"FCPK\x01" + b"\x09" * 31, b"", ProtocolError, "ephemeral key"),
        (b"FCPK\x02" + b"\x09" * 32, b"", ProtocolError, "version 2, this side's version 1"),
        (b"FCPK\x01" + bytes(32), b"", ProtocolError, "small order"),
        (b"FCPK\x01" + b"\x09" * 32, b"", IdentityError, "pinned to bert"),
        (b"FCPK\x01" + b"\x09" * 32, b"no signature", IdentityError, "pinned to bert"),
        (b"FCPK\x01" + b"\x09" * 32, bytes(105), ProtocolError, "105 bytes"),
    ],
)
def test_wrong_messages_of_the_agreement_are_refused_with_its_step(first, second, error, says) -> None:
    link, other = links()
    other.put(first, None)
    other.put(second, None)
    with pytest.raises(error, match=says) as caught:
        agree(link, identity=ANNA, peer=as_peer(BERT), session=ID, until=soon())
    assert caught.value.step == "relay.keys"


def test_a_signature_over_other_keys_does_not_count() -> None:
    # Bert's true signature, from another connection.
    one, two = links()
    _, spied = both(
        lambda: agree(one, identity=ANNA, peer=as_peer(BERT), session=ID, until=soon()),
        lambda: spy(two),
    )
    link, replayed = links()
    for message in spied:
        replayed.put(message, None)
    with pytest.raises(IdentityError):
        agree(link, identity=ANNA, peer=as_peer(BERT), session=ID, until=soon())


def spy(link: MemoryLink) -> list[bytes]:
    """Take part as Bert, and keep what Bert says."""
    said: list[bytes] = []

    class Spied(MemoryLink):
        def put(self, frame: bytes, until: float | None) -> None:
            said.append(frame)
            super().put(frame, until)

    agree(Spied(link.outgoing, link.incoming), identity=BERT, peer=as_peer(ANNA), session=ID, until=soon())
    return said


def test_a_signature_has_at_most_104_bytes() -> None:
    kind = ec.ECDSA(hashes.SHA384())
    assert max(len(ANNA.private_key.sign(bytes([n]), kind)) for n in range(50)) <= 104


# ---- frames ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(at=st.integers(0, 10**6), change=st.integers(1, 255))
def test_a_frame_with_any_changed_byte_does_not_open(at, change) -> None:
    one, two = links()
    sealing, opening = SealedLink(one, from_vectors("a")), SealedLink(two, from_vectors("b"))
    sealing.put(b"contents", None)
    spoilt = bytearray(one.outgoing.get(None))
    spoilt[at % len(spoilt)] ^= change
    two.incoming.put(bytes(spoilt), None)
    with pytest.raises(Refused, match="does not decrypt"):
        opening.get(None)


@pytest.mark.parametrize("order", [(0, 0), (1, 0), (0, 2)], ids=["repeated", "overtaken", "lost"])
def test_frames_open_in_their_order_only_and_the_channel_names_the_step(order) -> None:
    one, two = links()
    sealing = SealedLink(one, from_vectors("a"))
    chosen = Settings()
    sender = FramedChannel(sealing, session="s", peer="bert", settings=chosen)
    taker = FramedChannel(SealedLink(two, from_vectors("b")), session="s", peer="anna", settings=chosen)
    for _ in range(3):
        sender.send("x", b"12")
    sealed = [one.outgoing.get(None) for _ in range(3)]
    for number in order:
        one.outgoing.put(sealed[number], None)

    def take() -> None:
        for _ in order:
            taker.recv("x", size=2)

    with pytest.raises(ProtocolError, match="changed, repeated, lost or overtaken") as caught:
        take()
    assert caught.value.step == "x"
