from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crypto.errors import ProtocolError
from fedcore.errors import FedcoreError, IdentityError, JobError, PeerLost
from fedcore.jobs.load import load_participant
from fedcore.jobs.participant import Inbound, Participant, PinnedPeer
from fedcore.jobs.psi import PsiJob
from fedcore.jobs.request import Meeting, PsiRequest, psi_request_for
from fedcore.participant.meeting import InMemory, Meetings, OverNetwork, met
from fedcore.peer.relay import Relay
from fedcore.peer.tls import Peer
from fedcore.trust.identity import Identity, load_identity, new_identity
from tests.pairs import BANK, KEYS, TELECOM, write_party

OTHER = {BANK: TELECOM, TELECOM: BANK}


def asked(meeting: Meeting | None = None, deadline: float = 20) -> PsiRequest:
    written = {
        "kind": "psi",
        "name": "shared",
        "parties": {BANK: {"data": "customers", "key": "person"}, TELECOM: {"data": "subscribers", "key": "person"}},
        "reveal": {"what": "rows", "to": (BANK,)},
        "deadline": deadline,
    }  # fmt: skip
    return psi_request_for(PsiJob.model_validate(written), "run-1", meeting)


@pytest.fixture
def parties(tmp_path: Path) -> dict[str, Participant]:
    """Both, with keys and the other's key pinned; the bank can be called."""
    keys = {name: new_identity(tmp_path / "keys" / f"{name}.key", name) for name in KEYS}
    found = {}
    for name in KEYS:
        site = load_participant(write_party(tmp_path, name, KEYS[name]))
        other = OTHER[name]
        changes: dict[str, Any] = {
            "identity": keys[name].path,
            "peers": {other: PinnedPeer(public_key=keys[other].public_line)},
        }
        if name == BANK:
            offered = OverNetwork(loopback=True).offer(site, asked())["address"]
            changes["inbound"] = Inbound(address=offered)
        found[name] = site.model_copy(update=changes)
    return found


def key_of(participant: Participant) -> Identity:
    assert participant.identity is not None
    return load_identity(participant.identity, participant.name)


def direct(parties: dict[str, Participant], **changes: Any) -> Meeting:
    inbound = parties[BANK].inbound
    assert inbound is not None
    keys = {name: key_of(site).public_line for name, site in parties.items()}
    told = {
        "session": "s",
        "how": "direct",
        "keys": keys,
        "listens": BANK,
        "address": inbound.address,
        **changes,
    }
    return Meeting.model_validate(told)


def both(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(first), pool.submit(second)
        return running[0].result(), running[1].result()


def meet_both(meetings: Meetings, parties: dict[str, Participant], request: PsiRequest) -> None:
    """Both meet, and each hears the other."""

    def one(name: str) -> bytes:
        with meetings.meet(parties[name], request) as channel:
            channel.send("hello", name.encode())
            return bytes(channel.recv("hello", limit=100))

    assert both(lambda: one(BANK), lambda: one(TELECOM)) == (TELECOM.encode(), BANK.encode())


def test_threads_of_one_process_meet_in_memory_by_session(parties: dict[str, Participant]) -> None:
    meetings = InMemory()
    for session in ("one", "two"):
        meet_both(meetings, parties, asked(Meeting(session=session, how="memory")))


def test_who_comes_alone_in_memory_is_told_who_did_not(parties: dict[str, Participant]) -> None:
    meetings = InMemory()
    request = asked(Meeting(session="s", how="memory"), deadline=0.05)
    with pytest.raises(PeerLost, match=r"telecom-b, meet: did not come within 0\.05 s"):
        meetings.meet(parties[BANK], request)
    # Who comes now is not given the end that was left.
    with pytest.raises(PeerLost):
        meetings.meet(parties[TELECOM], request)


def test_one_listens_and_the_other_calls(parties: dict[str, Participant]) -> None:
    meet_both(OverNetwork(), parties, asked(direct(parties)))


def test_the_address_that_a_site_pins_goes_before_the_coordinators(parties: dict[str, Participant]) -> None:
    request = asked(direct(parties, address="localhost:1"))
    pinned = parties[TELECOM].peers[BANK]
    inbound = parties[BANK].inbound
    assert inbound is not None
    parties[TELECOM] = parties[TELECOM].model_copy(
        update={"peers": {BANK: pinned.model_copy(update={"address": inbound.address})}}
    )
    meet_both(OverNetwork(), parties, request)


def test_a_site_listens_at_its_own_address_whatever_the_coordinator_says(
    parties: dict[str, Participant],
) -> None:
    nowhere = parties[BANK].model_copy(update={"inbound": None})
    for loopback in (False, True):
        with pytest.raises(JobError, match="no inbound address"):
            OverNetwork(loopback).meet(nowhere, asked(direct(parties, address="0.0.0.0:9443")))


def test_parties_without_an_inbound_address_meet_at_a_relay(
    parties: dict[str, Participant], tmp_path: Path
) -> None:
    station = new_identity(tmp_path / "relay.key", "relay")
    peers = [Peer(name, key_of(site).public_line) for name, site in parties.items()]
    parties[BANK] = parties[BANK].model_copy(update={"inbound": None})
    with Relay("127.0.0.1:0", identity=station, parties=peers) as relay:
        meeting = Meeting(session="s", how="relay", address=relay.address, relay_key=station.public_line)
        meet_both(OverNetwork(), parties, asked(meeting))
        assert relay.frames > 0


def test_a_site_without_a_pinned_key_for_the_other_does_not_even_offer_to_meet(
    parties: dict[str, Participant],
) -> None:
    alone = parties[BANK].model_copy(update={"peers": {"shop-c": parties[BANK].peers[TELECOM]}})
    with pytest.raises(
        IdentityError, match=r"no key of 'telecom-b' is pinned here \(peers\); allowed: shop-c"
    ):
        OverNetwork().offer(alone, asked())
    with pytest.raises(IdentityError, match="no key of 'telecom-b' is pinned"):
        OverNetwork().meet(alone, asked(direct(parties)))


@pytest.mark.parametrize("loopback", [False, True])
def test_the_coordinator_cannot_put_another_key_in_the_place_of_a_pinned_one(
    parties: dict[str, Participant], tmp_path: Path, loopback: bool
) -> None:
    forged = new_identity(tmp_path / "forged.key", TELECOM)
    meeting = direct(parties, keys={TELECOM: forged.public_line})
    with pytest.raises(IdentityError, match="the coordinator says that the key of telecom-b is SHA256"):
        OverNetwork(loopback).meet(parties[BANK], asked(meeting))


def test_a_caller_with_another_key_than_the_pinned_one_is_not_met(
    parties: dict[str, Participant], tmp_path: Path
) -> None:
    impostor = parties[TELECOM].model_copy(
        update={"identity": new_identity(tmp_path / "impostor.key", TELECOM).path}
    )
    request = asked(direct(parties), deadline=2)

    def lost(site: Participant) -> str:
        with pytest.raises((FedcoreError, ProtocolError)) as error:
            OverNetwork().meet(site, request)
        return type(error.value).__name__

    ended = both(lambda: lost(parties[BANK]), lambda: lost(impostor))
    assert ended[0] == "PeerLost" and ended[1] in ("PeerLost", "IdentityError")


def test_a_trial_on_one_machine_makes_keys_and_takes_them_from_the_coordinator(tmp_path: Path) -> None:
    parties = {name: load_participant(write_party(tmp_path, name, KEYS[name])) for name in KEYS}
    meetings = OverNetwork(loopback=True)
    offers = {name: meetings.offer(site, asked()) for name, site in parties.items()}
    assert offers[BANK]["key"] == meetings.offer(parties[BANK], asked())["key"] != offers[TELECOM]["key"]
    meeting = Meeting(
        session="s",
        how="direct",
        keys={name: offer["key"] for name, offer in offers.items()},
        listens=BANK,
        address=offers[BANK]["address"],
    )
    meet_both(meetings, parties, asked(meeting))
    with pytest.raises(IdentityError, match="no key of"):
        OverNetwork().meet(parties[BANK], asked(meeting))


@pytest.mark.parametrize("meetings", [OverNetwork(), OverNetwork(loopback=True)])
def test_a_meeting_in_memory_cannot_take_place_over_a_network(
    parties: dict[str, Participant], meetings: OverNetwork
) -> None:
    with pytest.raises(
        JobError, match="kind 'memory' cannot take place on this engine; allowed: direct, relay"
    ):
        meetings.meet(parties[BANK], asked(Meeting(session="s", how="memory")))
    with pytest.raises(JobError, match="kind 'none'"):
        InMemory().meet(parties[BANK], asked())


@pytest.mark.parametrize("network", [False, True])
def test_a_party_that_fails_before_the_meeting_hangs_up_so_that_the_other_notices(
    parties: dict[str, Participant], network: bool
) -> None:
    meetings: Meetings = OverNetwork() if network else InMemory()
    request = asked(direct(parties) if network else Meeting(session="s", how="memory"))

    def fails() -> None:
        with (
            pytest.raises(ZeroDivisionError),
            met(meetings, parties[BANK], request, patience=20),
        ):
            raise ZeroDivisionError

    def watches() -> None:
        with met(meetings, parties[TELECOM], request, patience=20) as rendezvous:
            while True:
                rendezvous.check("read")
                time.sleep(0.01)

    def reads() -> None:
        with pytest.raises(PeerLost, match="bank-a, read:"):
            watches()

    both(fails, reads)


def test_a_party_that_no_longer_waits_to_hang_up_still_does_when_the_other_comes(
    parties: dict[str, Participant],
) -> None:
    meetings = InMemory()
    request = asked(Meeting(session="s", how="memory"))
    with pytest.raises(ZeroDivisionError), met(meetings, parties[BANK], request, patience=0.0):
        raise ZeroDivisionError
    with pytest.raises(PeerLost, match="stopped in the middle"):
        meetings.meet(parties[TELECOM], request).recv("hello", limit=10)
