"""What passes with the owners of nodes over time: offers that end, leases that are begun anew, and who does not answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.owners import AGAIN, Owners
from fedcore.errors import FedcoreError
from fedcore.flower import enter_process, error_reply, stamp
from fedcore.jobs.load import load_participant
from fedcore.network.descriptor import write_descriptor
from fedcore.network.lease import Refusal
from fedcore.network.offers import make_offers
from fedcore.network.place import make_plan
from fedcore.network.plan import Plan, renumbered
from fedcore.network.policy import Needed, Policy
from fedcore.network.problem import Work
from fedcore.network.topology import load_topology
from fedcore.participant import nodes
from fedcore.trust.identity import new_identity
from tests.fedcore.coordinator.placed import SITES, Placed
from tests.fedcore.network.nodes import request

NAMES = ("site-0", "site-1", "site-2")


class Asked(Layer):
    """Participants that answer for themselves; `away` of them do not."""

    def __init__(self, study: Placed) -> None:
        self.study = study
        self.away: set[str] = set()
        self.asked: list[tuple[str, ...]] = []

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        sent = list(messages)
        self.asked.append(tuple(NAMES[one.metadata.dst_node_id] for one in sent))
        for one in sent:
            name = NAMES[one.metadata.dst_node_id]
            stamp(one)
            try:
                if name in self.away:
                    raise FedcoreError("no reply within a second")
                yield nodes.answer(load_participant(self.study.folder / f"{name}.yaml"), one)
            except FedcoreError as error:
                yield error_reply(one, error.message)


class Clock:
    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    enter_process()
    return Asked(Placed(tmp_path, sites=3))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of the coordinator, and of owners when they make offers."""
    now = Clock()
    monkeypatch.setattr(nodes, "make_offers", lambda *about: make_offers(*about, at=now()))
    return now


@pytest.fixture
def owners(asked: Asked, clock: Clock) -> Owners:
    folder = asked.study.folder
    return Owners(
        asked,
        members=dict(enumerate(NAMES)),
        request=request(job="digits", protocol="none", neighbours=0),
        identity=new_identity(folder / "coordinator.key", "coordinator"),
        pins={name: asked.study.keys[name].public_line for name in NAMES},
        sites=SITES,
        needed=Needed(),
        plan="run-1",
        lease_s=600,
        clock=clock,
    )


def plan_of(owners: Owners, study: Placed, version: int = 1) -> Plan:
    offers = owners.offers(NAMES)
    topology = load_topology(study.folder / "map.json")
    made = make_plan(offers, topology, Policy(aggregators={"standby": 0}), Work(1, 1, 1, 0.1), "s0")  # type: ignore[arg-type]
    return renumbered(made, version, "a test")


def owners_of(offers: Iterable[Any]) -> list[str]:
    return [offer.owner for offer in offers]


def test_offers_are_asked_for_once_and_again_when_they_end(
    owners: Owners, asked: Asked, clock: Clock
) -> None:
    assert owners_of(owners.offers(NAMES)) == list(NAMES)
    owners.offers(NAMES)
    assert asked.asked == [NAMES]
    clock.ahead = timedelta(seconds=901)
    # The old ones have ended; the descriptors still hold.
    assert owners_of(owners.offers(NAMES)) == list(NAMES)
    assert asked.asked == [NAMES, NAMES] and owners.rejected == ()


def test_offers_of_who_is_not_online_are_not_used_and_who_comes_back_is_asked(
    owners: Owners, asked: Asked
) -> None:
    assert owners_of(owners.offers(NAMES[:2])) == ["site-0", "site-1"]
    assert owners_of(owners.offers(NAMES)) == list(NAMES)
    assert owners_of(owners.offers(NAMES[1:])) == ["site-1", "site-2"]
    assert owners_of(owners.offers(NAMES)) == list(NAMES)
    assert asked.asked == [NAMES[:2], NAMES[2:]]


def test_who_does_not_answer_is_left_out_and_asked_again_later_or_when_it_was_away(
    owners: Owners, asked: Asked, clock: Clock
) -> None:
    asked.away = {"site-1"}
    assert owners_of(owners.offers(NAMES)) == ["site-0", "site-2"]
    (one,) = owners.rejected
    assert (one.owner, one.reason) == ("site-1", "no reply within a second")
    asked.away.clear()
    assert owners_of(owners.offers(NAMES)) == ["site-0", "site-2"]
    owners.offers(["site-0", "site-2"])
    assert owners_of(owners.offers(NAMES)) == list(NAMES)
    assert owners.rejected == () and asked.asked == [NAMES, ("site-1",)]
    clock.ahead = AGAIN + timedelta(seconds=1)
    owners.offers(NAMES)
    assert asked.asked[-1] == NAMES


def test_a_descriptor_that_ends_during_a_run_takes_its_node_out(
    owners: Owners, asked: Asked, clock: Clock
) -> None:
    soon = asked.study.node("site-2", valid=1200)
    write_descriptor(soon, asked.study.folder / "nodes" / "site-2-n1.json")
    assert owners_of(owners.offers(NAMES)) == list(NAMES)
    clock.ahead = timedelta(seconds=1300)
    assert owners_of(owners.offers(NAMES)) == ["site-0", "site-1"]
    assert "this node descriptor expired" in owners.rejected[0].reason


def test_leases_are_all_or_none(owners: Owners, asked: Asked) -> None:
    plan = plan_of(owners, asked.study)
    asked.away = {"site-2"}
    assert owners.lease(plan, NAMES) == {"site-2/n1/cpu"}
    assert owners.leases == {} and asked.study.still_leased() == set()
    assert owners.refusals == [
        Refusal(owners.refusals[0].id, "site-2", "n1", "site-2/n1/cpu", "no reply within a second")
    ]


def test_who_refuses_a_lease_is_trusted_less_and_who_binds_one_more(
    owners: Owners, asked: Asked, clock: Clock
) -> None:
    plan = plan_of(owners, asked.study)
    before = {offer.owner: offer.trust for offer in owners.offers(NAMES)}
    assert len(set(before.values())) == 1
    asked.away = {"site-2"}
    owners.lease(plan, NAMES)
    asked.away = set()
    assert owners.lease(plan, NAMES) == frozenset()
    clock.ahead = timedelta(seconds=1000)
    after = {offer.owner: offer.trust for offer in owners.offers(NAMES)}
    assert after["site-0"] == after["site-1"] > before["site-0"]
    assert after["site-2"] == before["site-2"]


def test_a_lease_begun_anew_takes_the_place_of_the_old_one(
    owners: Owners, asked: Asked, clock: Clock
) -> None:
    plan = plan_of(owners, asked.study)
    assert owners.lease(plan, NAMES) == frozenset()
    first = {each.id for each in owners.leases.values()}
    assert asked.study.still_leased() == first and not owners.ends_within(500)
    assert owners.ends_within(700)
    assert owners.lease(plan, NAMES) == frozenset()
    second = {each.id for each in owners.leases.values()}
    assert first.isdisjoint(second) and asked.study.still_leased() == second
    owners.close()
    assert asked.study.still_leased() == set() and owners.leases == {}


def test_who_leaves_the_plan_gets_its_node_back(owners: Owners, asked: Asked) -> None:
    plan = plan_of(owners, asked.study)
    owners.lease(plan, NAMES)
    smaller = renumbered(plan, 2, "one less")
    smaller = type(plan)(**{**smaller.__dict__, "participants": plan.participants[:2]})
    assert owners.lease(smaller, NAMES) == frozenset()
    assert asked.study.still_leased() == {each.id for each in owners.leases.values()}
    assert set(owners.leases) == {"site-0", "site-1"}
    # The third owner may not be reached at all: its lease ends by itself.
    owners.close()
    assert asked.study.still_leased() == set()


def test_an_owner_of_another_key_than_the_pinned_one_gets_no_lease(owners: Owners, asked: Asked) -> None:
    plan = plan_of(owners, asked.study)
    owners._keys["site-1"] = asked.study.keys["site-0"].public_line
    assert owners.lease(plan, NAMES) == {"site-1/n1/cpu"}
    assert "not signed by site-1" in owners.refusals[0].reason
