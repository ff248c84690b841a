"""Several parties that meet pairwise in one step: in memory, and over loopback with one that is called by two."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fedcore.engines.processes import free_port
from fedcore.errors import FedcoreError, IdentityError, PeerLost
from fedcore.jobs.participant import Inbound, Participant, PinnedPeer
from fedcore.jobs.request import PairMeeting
from fedcore.participant import gathering
from fedcore.participant.gathering import appointments_of, gathered
from fedcore.participant.meeting import InMemory, Meetings, OverNetwork
from fedcore.trust.identity import new_identity

NAMES = ("bank", "telecom", "shop")
PAIRS = (("bank", "telecom"), ("bank", "shop"), ("telecom", "shop"))


class Three:
    """A bank that the others call, a telecom that the shop calls, and their meetings."""

    def __init__(self, folder: Path) -> None:
        keys = {name: new_identity(folder / f"{name}.key", name).public_line for name in NAMES}
        self.where = {name: f"127.0.0.1:{free_port()}" for name in ("bank", "telecom")}
        self.parties = {
            name: Participant(
                name=name,
                identity=folder / f"{name}.key",
                catalogue={},
                peers={other: PinnedPeer(public_key=key) for other, key in keys.items() if other != name},
                inbound=Inbound(address=self.where[name]) if name in self.where else None,
            )
            for name in NAMES
        }
        self.keys = keys

    def meetings(self, round_: int) -> tuple[PairMeeting, ...]:
        return tuple(
            PairMeeting(
                session=f"s-{round_}-{one}-{other}",
                how="direct",
                keys={one: self.keys[one], other: self.keys[other]},
                listens=one,
                address=self.where[one],
                between=(one, other),
            )
            for one, other in PAIRS
        )

    def together(
        self, meet: Meetings, meetings: tuple[PairMeeting, ...], missing: str = "", deadline: float = 20
    ) -> dict[str, Any]:
        """Each tells each other its name; what each heard, or its error."""

        def one(name: str) -> Any:
            try:
                with gathered(
                    meet, self.parties[name], appointments_of(name, meetings, deadline)
                ) as channels:
                    for channel in channels.values():
                        channel.send("name", name.encode())
                    return {
                        peer: bytes(channel.recv("name", limit=20)).decode()
                        for peer, channel in channels.items()
                    }
            except FedcoreError as error:
                return error

        names = [name for name in NAMES if name != missing]
        with ThreadPoolExecutor(len(names)) as pool:
            return dict(zip(names, pool.map(one, names), strict=True))


@pytest.fixture
def three(tmp_path: Path) -> Three:
    return Three(tmp_path)


HEARD = {name: {other: other for other in NAMES if other != name} for name in NAMES}


def test_all_pairs_meet_in_memory(three: Three) -> None:
    meetings = tuple(
        PairMeeting(session=f"{one}-{other}", how="memory", between=(one, other)) for one, other in PAIRS
    )
    assert three.together(InMemory(), meetings) == HEARD


def test_a_party_waits_for_two_at_one_address_in_each_step_anew(three: Three) -> None:
    for step in range(3):
        assert three.together(OverNetwork(), three.meetings(step)) == HEARD


def test_one_that_does_not_come_is_named_by_the_others(three: Three, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PATIENCE", 1.0)
    told = three.together(OverNetwork(), three.meetings(0), missing="shop", deadline=1)
    assert all(isinstance(each, PeerLost) for each in told.values())
    assert told["bank"].party == "shop" and told["bank"].step == "meet"


def test_a_party_meets_nobody_whose_key_it_does_not_pin(three: Three) -> None:
    pins = dict(three.parties["telecom"].peers)
    del pins["shop"]
    three.parties["telecom"] = three.parties["telecom"].model_copy(update={"peers": pins})
    told = three.together(OverNetwork(), three.meetings(0), deadline=2)
    assert isinstance(told["telecom"], IdentityError) and "no key of 'shop' is pinned here" in str(
        told["telecom"]
    )


def test_a_block_that_fails_ends_the_others_channels_at_once(three: Three) -> None:
    meetings = three.meetings(0)

    def fails(name: str) -> Any:
        appointments = appointments_of(name, meetings, 20)
        try:
            with gathered(OverNetwork(), three.parties[name], appointments) as channels:
                if name == "shop":
                    raise PeerLost("stopped", party="shop")
                return bytes(channels["shop"].recv("name", limit=20))
        except FedcoreError as error:
            return error

    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(fails, NAMES))
    assert all(isinstance(each, PeerLost) for each in told)
