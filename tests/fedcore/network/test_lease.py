"""Leases: all or none, once, for a while, and never for a plan that was replaced."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fedcore.errors import PeerLost, PolicyRefused
from fedcore.network.acquisition import acquire, give_back
from fedcore.network.lease import REQUEST, Lease, LeaseBook, Refusal, new_request
from fedcore.network.signed import sign
from tests.fedcore.network.nodes import ANNA, BERT, HUB, NOW, PINS, later, party


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def book(owner=ANNA, slots=None, log=None, clock=None) -> LeaseBook:
    return LeaseBook(owner, slots or {"n1": 1}, {"hub": HUB.public_line}, log=log, clock=clock or Clock())


def asked(owner="anna", node="n1", version=1, plan="p", seconds=600, by=HUB, at=NOW):
    return new_request(
        by,
        plan=plan,
        version=version,
        owner=owner,
        node=node,
        offer=f"{owner}/{node}/cpu",
        seconds=seconds,
        at=at,
    )


def granted(one: LeaseBook, **told) -> Lease:
    answer = one.ask(asked(**told))
    assert isinstance(answer, Lease), answer
    return answer


def refused(one: LeaseBook, request) -> str:
    answer = one.ask(request)
    assert isinstance(answer, Refusal)
    assert one.events[-1]["event"] == "refused" and one.events[-1]["reason"] == answer.reason
    return answer.reason


# ---- at an owner -------------------------------------------------------------------------------------------------


def test_a_lease_holds_until_it_ends_and_work_needs_it_bound() -> None:
    clock = Clock()
    one = book(clock=clock)
    lease = granted(one)
    with pytest.raises(PolicyRefused, match="was not bound"):
        one.check(lease.id, 1)
    one.bind(lease.id)
    assert one.check(lease.id, 1) == lease and one.held == (lease,)
    clock.now = later(599)
    one.check(lease.id, 1)
    clock.now = later(600)
    with pytest.raises(PolicyRefused, match="ended"):
        one.check(lease.id, 1)
    assert one.held == () and one.events[-1] == {"event": "expired", "id": lease.id}


def test_a_request_is_used_once_whatever_became_of_it() -> None:
    one = book()
    first = asked()
    lease = one.ask(first)
    assert isinstance(lease, Lease)
    assert "came before" in refused(one, first)
    one.release(lease.id)
    assert "came before" in refused(one, first)
    busy = book()
    granted(busy, plan="other")
    second = asked()
    assert "none free" in refused(busy, second)
    busy.release(busy.held[0].id)
    assert "came before" in refused(busy, second)


def test_a_replay_is_known_after_a_restart(tmp_path: Path) -> None:
    log = tmp_path / "leases.jsonl"
    one = book(log=log)
    first = asked()
    lease = one.ask(first)
    assert isinstance(lease, Lease)
    one.bind(lease.id)
    again = book(log=log)
    assert again.held == (lease,) and again.check(lease.id, 1) == lease
    assert "came before" in refused(again, first)
    again.release(lease.id)
    third = book(log=log)
    assert third.held == () and "came before" in refused(third, first)


def test_what_the_coordinator_did_not_sign_is_refused_and_uses_nothing_up() -> None:
    one = book()
    good = asked()
    for bad, said in (
        (replace(good, seconds=86400), "not signed by hub"),
        (replace(good, node="n2"), "not signed by hub"),
        (replace(good, signature=""), "not signed"),
        (asked(by=BERT), "not in the roster"),
        (asked(by=party("hub")), "another key signed it"),
    ):
        assert said in refused(one, bad)
    assert isinstance(one.ask(good), Lease)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (asked(owner="bert"), "asks for a node of bert"),
        (asked(node="n7"), "no node n7"),
        (asked(at=later(-120)), "expired"),
        (asked(at=later(600)), "set the clocks"),
    ],
)
def test_what_is_not_for_this_owner_or_not_of_now_is_refused(request_, said: str) -> None:
    assert said in refused(book(), request_)


def test_a_signed_request_with_impossible_values_is_refused() -> None:
    bare = replace(asked(), seconds=10**9)
    assert "allowed: 1 to 86400" in refused(
        book(), replace(bare, signature=sign(HUB, REQUEST, bare.payload()))
    )
    for wrong in ({"seconds": 0}, {"seconds": 10**6}, {"version": 0}):
        with pytest.raises(ValueError, match=r"allowed|counted from 1"):
            asked(**wrong)


def test_a_full_node_is_refused_and_free_again_when_it_is_given_back() -> None:
    one = book(slots={"n1": 2})
    first = granted(one, plan="a")
    granted(one, plan="b")
    assert "bears 2 leases and has none free" in refused(one, asked(plan="c"))
    assert one.release(first.id) and not one.release(first.id)
    granted(one, plan="c")


def test_a_bound_version_fences_off_older_ones() -> None:
    one = book()
    old = granted(one, version=1)
    one.bind(old.id)
    new = granted(one, version=2)
    assert one.check(old.id, 1), "an attempt that is not bound yet breaks nothing"
    one.bind(new.id)
    for use in (lambda: one.check(old.id, 1), lambda: one.bind(old.id), lambda: one.check(old.id, 2)):
        with pytest.raises(PolicyRefused, match="version 1 of plan p, which is at version 2 here"):
            use()
    assert "version 1 is fenced off" in refused(one, asked(version=1))
    assert one.check(new.id, 2) == new
    with pytest.raises(PolicyRefused, match="the work is of version 1"):
        one.check(new.id, 1)


def test_two_nodes_of_an_owner_work_under_one_version_of_a_plan() -> None:
    one = book(slots={"n1": 1, "n2": 1})
    leases = [granted(one, node=node, version=3) for node in ("n1", "n2")]
    for lease in leases:
        one.bind(lease.id)
    assert [one.check(lease.id, 3) for lease in leases] == leases


def test_one_plans_version_is_nothing_to_another_plan_or_coordinator() -> None:
    other = party("hub2")
    one = LeaseBook(ANNA, {"n1": 3}, {"hub": HUB.public_line, "hub2": other.public_line}, clock=Clock())
    one.bind(granted(one, version=9).id)
    one.bind(granted(one, plan="q", version=1).id)
    one.bind(granted(one, by=other, version=1).id)
    assert len(one.held) == 3


def test_the_fence_is_known_after_a_restart(tmp_path: Path) -> None:
    log = tmp_path / "leases.jsonl"
    one = book(log=log)
    old = granted(one, version=1)
    one.bind(granted(one, version=2).id)
    again = book(log=log)
    assert "version 1 is fenced off" in refused(again, asked(version=1))
    with pytest.raises(PolicyRefused, match="fenced off"):
        again.bind(old.id)


def test_a_lease_that_never_was_is_refused() -> None:
    with pytest.raises(PolicyRefused, match="never granted"):
        book().check("0" * 32, 1)


# ---- at the coordinator ------------------------------------------------------------------------------------------


class Owners:
    """Two owners, and whom the coordinator can reach."""

    def __init__(self) -> None:
        self.books = {"anna": book(ANNA), "bert": book(BERT)}
        self.gone: set[str] = set()

    def ask(self, request):
        if request.owner in self.gone:
            raise PeerLost("does not answer", party=request.owner)
        return self.books[request.owner].ask(request)

    def release(self, lease: Lease) -> None:
        if lease.owner in self.gone:
            raise PeerLost("does not answer", party=lease.owner)
        self.books[lease.owner].release(lease.id)

    def acquire(self, *requests):
        return acquire(requests, self.ask, self.release, PINS, at=NOW)


def test_all_are_leased() -> None:
    owners = Owners()
    done = owners.acquire(asked("bert"), asked("anna"))
    assert [each.owner for each in done.leases] == ["anna", "bert"] and done.refusals == ()


def test_one_refusal_gives_everything_back_and_names_who_refused() -> None:
    owners = Owners()
    granted(owners.books["bert"], owner="bert", plan="other")
    done = owners.acquire(asked("anna"), asked("bert"))
    assert done.leases == () and [(each.owner, each.offer) for each in done.refusals] == [
        ("bert", "bert/n1/cpu")
    ]
    assert owners.books["anna"].held == ()
    assert isinstance(owners.books["anna"].ask(asked()), Lease)


def test_every_refusal_is_told_so_that_the_next_plan_leaves_all_of_them_out() -> None:
    owners = Owners()
    granted(owners.books["anna"], plan="other")
    owners.gone = {"bert"}
    done = owners.acquire(asked("anna"), asked("bert"))
    assert [each.owner for each in done.refusals] == ["anna", "bert"] and "does not answer" in done.refusals[
        1
    ].reason


def test_an_owner_that_cannot_be_told_keeps_its_lease_until_it_ends() -> None:
    owners = Owners()
    lease = granted(owners.books["anna"])
    owners.gone = {"anna"}
    give_back([lease], owners.release)
    assert owners.books["anna"].held == (lease,)


def test_a_lease_for_something_else_or_by_somebody_else_is_a_refusal() -> None:
    other = book(ANNA, {"n1": 1, "n2": 1}).ask(asked(node="n2"))
    forged = replace(book().ask(asked()), expires="2027-01-01T00:00:00+00:00")
    for answer, said in ((other, "not for what was asked"), (forged, "not signed by anna")):
        done = acquire([asked()], lambda request, answer=answer: answer, lambda lease: None, PINS, at=NOW)
        assert done.leases == () and said in done.refusals[0].reason


class Books(RuleBasedStateMachine):
    """Whatever is asked, given back and bound, in any order: no node is promised more often than it bears."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.book = book(slots={"n1": 2}, clock=self.clock)
        self.leases: list[Lease] = []
        self.newest: dict[str, int] = {}

    @rule(plan=st.sampled_from("pqr"), version=st.integers(1, 4), seconds=st.integers(1, 50))
    def ask(self, plan: str, version: int, seconds: int) -> None:
        answer = self.book.ask(asked(plan=plan, version=version, seconds=seconds, at=self.clock.now))
        if isinstance(answer, Lease):
            assert version >= self.newest.get(plan, 0)
            self.leases.append(answer)

    @rule(data=st.data())
    def bind(self, data: st.DataObject) -> None:
        if self.leases:
            lease = data.draw(st.sampled_from(self.leases))
            try:
                self.book.bind(lease.id)
            except PolicyRefused:
                return
            assert lease.version >= self.newest.get(lease.plan, 0)
            self.newest[lease.plan] = lease.version

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.leases:
            self.book.release(data.draw(st.sampled_from(self.leases)).id)

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        from datetime import timedelta

        self.clock.now += timedelta(seconds=seconds)

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        held = self.book.held
        assert len({(each.coordinator, each.plan) for each in held}) <= 2
        for each in held:
            assert datetime.fromisoformat(each.expires) > self.clock.now
        for lease in self.leases:
            if lease.version < self.newest.get(lease.plan, 0):
                with pytest.raises(PolicyRefused):
                    self.book.check(lease.id, lease.version)


Books.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
test_no_order_of_events_promises_a_node_twice = Books.TestCase
