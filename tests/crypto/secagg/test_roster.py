"""Who takes part: keys, identities and rosters that were changed, repeated or are of another run are refused."""

from __future__ import annotations

import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from crypto.errors import ProtocolError
from crypto.secagg import keys
from crypto.secagg.coordinator import Coordinator
from crypto.secagg.graph import Assumptions
from crypto.secagg.keys import Advert, OwnKey
from crypto.secagg.messages import Roster, pack_advert, unpack_advert
from crypto.secagg.participant import Participant
from crypto.secagg.protocol import RoundFailed, cohort_of
from crypto.signatures import Authenticator
from tests.crypto.secagg.cohorts import (
    ANY,
    identities,
)

NAMES = ["ann", "bob", "cy", "dan"]


def flipped(raw: bytes, at: int) -> bytes:
    """With one bit changed."""
    changed = bytearray(raw)
    changed[at] ^= 1
    return bytes(changed)


def introduced(run: bytes, known: dict[str, Authenticator]) -> tuple[Coordinator, dict[str, Participant]]:
    """Participants that have advertised, and no roster yet."""
    participants = {name: Participant(name, run, ANY, known.get(name)) for name in NAMES}
    coordinator = Coordinator(run, ANY)
    return coordinator, participants


def rosters_of(coordinator: Coordinator, adverts: dict[str, bytes]) -> dict[str, bytes]:
    """What a coordinator that checks nothing makes of adverts."""
    for name, advert in adverts.items():
        coordinator._adverts[name] = unpack_advert(advert)
    return coordinator.rosters()


def test_a_key_in_the_middle_is_refused_by_everybody_who_pinned_the_identity() -> None:
    run, known = secrets.token_bytes(32), identities(NAMES)
    coordinator, participants = introduced(run, known)
    adverts = {name: each.advert() for name, each in participants.items()}
    real = unpack_advert(adverts["bob"])
    mine = OwnKey("bob", X25519PrivateKey.generate())
    adverts["bob"] = pack_advert(Advert("bob", mine.public, real.signature))
    with pytest.raises(ProtocolError, match="key that came for bob was not signed for this run"):
        Coordinator(run, ANY, known["ann"]).take_advert("bob", adverts["bob"])
    rosters = rosters_of(coordinator, adverts)
    for name in ("ann", "cy", "dan"):
        with pytest.raises(ProtocolError, match="key that came for bob was not signed for this run"):
            participants[name].meet(rosters[name])
    with pytest.raises(ProtocolError, match="does not have the key of bob in its place"):
        participants["bob"].meet(rosters["bob"])


@pytest.mark.parametrize("at", [0, 31, 63])
def test_a_tampered_signature_is_refused(at: int) -> None:
    run, known = secrets.token_bytes(32), identities(NAMES)
    coordinator, participants = introduced(run, known)
    adverts = {name: each.advert() for name, each in participants.items()}
    real = unpack_advert(adverts["cy"])
    adverts["cy"] = pack_advert(Advert("cy", real.public, flipped(real.signature, at)))
    rosters = rosters_of(coordinator, adverts)
    with pytest.raises(ProtocolError, match="came for cy was not signed"):
        participants["ann"].meet(rosters["ann"])


def test_a_signature_for_another_run_is_refused() -> None:
    known = identities(NAMES)
    _, before = introduced(secrets.token_bytes(32), known)
    run = secrets.token_bytes(32)
    coordinator, participants = introduced(run, known)
    adverts = {name: each.advert() for name, each in participants.items()}
    adverts["cy"] = before["cy"].advert()
    rosters = rosters_of(coordinator, adverts)
    with pytest.raises(ProtocolError, match="came for cy was not signed for this run"):
        participants["ann"].meet(rosters["ann"])


def test_one_side_with_signatures_and_the_other_without_is_refused() -> None:
    run, known = secrets.token_bytes(32), identities(NAMES)
    coordinator, participants = introduced(run, known)
    unsigned = Participant("bob", run, ANY)
    rosters = rosters_of(
        coordinator, {name: each.advert() for name, each in (participants | {"bob": unsigned}).items()}
    )
    with pytest.raises(ProtocolError, match="came for bob was not signed"):
        participants["ann"].meet(rosters["ann"])
    with pytest.raises(ProtocolError, match="is signed and this side checks no signatures"):
        unsigned.meet(rosters["bob"])


def test_a_key_that_two_advertise_is_refused() -> None:
    run = secrets.token_bytes(32)
    coordinator, participants = introduced(run, {})
    adverts = {name: each.advert() for name, each in participants.items()}
    adverts["dan"] = pack_advert(Advert("dan", unpack_advert(adverts["cy"]).public, b""))
    checking = Coordinator(run, ANY)
    checking.take_advert("cy", adverts["cy"])
    with pytest.raises(ProtocolError, match="the key of dan came before"):
        checking.take_advert("dan", adverts["dan"])
    rosters = rosters_of(coordinator, adverts)
    with pytest.raises(ProtocolError, match="another participant has"):
        participants["ann"].meet(rosters["ann"])
    # And who is given its own key back as that of another.
    with pytest.raises(ProtocolError, match="two participants cannot have one"):
        participants["cy"].meet(rosters["cy"])


def test_a_public_key_of_small_order_is_refused() -> None:
    run = secrets.token_bytes(32)
    coordinator, participants = introduced(run, {})
    adverts = {name: each.advert() for name, each in participants.items()}
    adverts["dan"] = pack_advert(Advert("dan", bytes(32), b""))
    rosters = rosters_of(coordinator, adverts)
    with pytest.raises(ProtocolError, match="came for dan is no proper public key"):
        participants["ann"].meet(rosters["ann"])


def test_a_roster_with_changed_leaves_or_neighbours_is_refused() -> None:
    run = secrets.token_bytes(32)
    coordinator, participants = introduced(run, {})
    rosters = rosters_of(coordinator, {name: each.advert() for name, each in participants.items()})
    told = Roster.decode(rosters["ann"])
    own = coordinator.names.index("ann")
    other = next(iter(told.neighbours))
    wrong = [
        (Roster(told.leaves[::-1], told.neighbours), "does not have the key of ann in its place"),
        (Roster((*told.leaves[1:], told.leaves[1]), told.neighbours), "twice"),
        (Roster(told.leaves[:2], {}), "at least|does not have the key|others than the neighbours"),
        (
            Roster(told.leaves, {i: each for i, each in told.neighbours.items() if i != other}),
            "others than the neighbours",
        ),
        (Roster(told.leaves, told.neighbours | {own: told.neighbours[other]}), "others than the neighbours"),
        (
            Roster(told.leaves, told.neighbours | {other: Advert("eve", told.neighbours[other].public, b"")}),
            "the key of eve is not that of the roster",
        ),
    ]
    for roster, why in wrong:
        with pytest.raises(ProtocolError, match=why):
            participants["ann"].meet(roster.encode())
    participants["ann"].meet(rosters["ann"])
    with pytest.raises(ProtocolError, match="a second roster came"):
        participants["ann"].meet(rosters["ann"])


def test_participants_with_other_assumptions_do_not_understand_each_other() -> None:
    # A coordinator cannot lower the threshold: it follows from what each participant assumes itself.
    run = secrets.token_bytes(32)
    coordinator = Coordinator(run, ANY)
    participants = {name: Participant(name, run, ANY) for name in NAMES[:3]}
    participants["dan"] = Participant("dan", run, Assumptions(0.0, 0.0, "curious", least_cohort=2))
    for name, each in participants.items():
        coordinator.take_advert(name, each.advert())
    for name, roster in coordinator.rosters().items():
        participants[name].meet(roster)
    with pytest.raises(ProtocolError, match="another run or cohort"):
        coordinator.take_shares("dan", participants["dan"].shares(1))


def test_a_cohort_of_two_is_refused_by_both_sides_unless_allowed() -> None:
    run = secrets.token_bytes(32)
    coordinator = Coordinator(run, Assumptions())
    lenient = Coordinator(run, ANY)
    participants = {name: Participant(name, run, Assumptions()) for name in NAMES[:2]}
    for name, each in participants.items():
        coordinator.take_advert(name, each.advert())
        lenient.take_advert(name, each.advert())
    with pytest.raises(RoundFailed, match="2 of 2 participants are left and 3 are needed"):
        coordinator.rosters()
    rosters = lenient.rosters()
    for name, each in participants.items():
        with pytest.raises(ProtocolError, match="a sum of few shows each to the others"):
            each.meet(rosters[name])


def test_adverts_of_others_or_late_or_twice_are_refused() -> None:
    run = secrets.token_bytes(32)
    coordinator, participants = introduced(run, {})
    with pytest.raises(ProtocolError, match="ann sent the key of bob"):
        coordinator.take_advert("ann", participants["bob"].advert())
    for name, each in participants.items():
        coordinator.take_advert(name, each.advert())
    with pytest.raises(ProtocolError, match="the key of ann came before"):
        coordinator.take_advert("ann", participants["ann"].advert())
    coordinator.rosters()
    with pytest.raises(ProtocolError, match="after the roster was made"):
        coordinator.take_advert("eve", Participant("eve", run, ANY).advert())


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 65, "\x1b[31mred"])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match="no name of a participant"):
        Participant(name, bytes(32), ANY)


def test_one_that_colludes_does_not_stand_in_a_roster_many_times() -> None:
    # A cohort of its own keys around one honest participant would have that one's vector.
    run, known = secrets.token_bytes(32), identities(["ann", "eve"])
    ann = Participant("ann", run, ANY, known["ann"])
    clones = [Participant("eve", run, ANY, known["eve"]) for _ in range(4)]
    adverts = [unpack_advert(each.advert()) for each in (ann, *clones)]
    with pytest.raises(ValueError, match="stands in the roster twice"):
        cohort_of(run, [keys.leaf(each.name, each.public) for each in adverts], ANY)


@pytest.mark.parametrize("half", ["name", "key"])
def test_a_leaf_that_hides_whose_it_is_is_refused_by_its_neighbour(half: str) -> None:
    run, known = secrets.token_bytes(32), identities(["ann", "eve", "bob"])
    people = [Participant(name, run, ANY, known[name]) for name in ("ann", "eve", "bob")]
    adverts = [unpack_advert(each.advert()) for each in people]
    leaves = [keys.leaf(each.name, each.public) for each in adverts]
    other = secrets.token_bytes(keys.PERSON)
    false = other + leaves[1][keys.PERSON :] if half == "name" else leaves[1][: keys.PERSON] + other
    ordered = sorted([leaves[0], false, leaves[2]])
    own = ordered.index(leaves[0])
    neighbours = {
        place: adverts[[leaves[0], false, leaves[2]].index(leaf)]
        for place, leaf in enumerate(ordered)
        if place != own
    }
    with pytest.raises(ProtocolError, match="key of eve is not that of the roster"):
        people[0].meet(Roster(tuple(ordered), neighbours).encode())
