"""What an owner answers about its nodes: offers, leases, and no work but under one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedcore.errors import DataError, JobError, PolicyRefused
from fedcore.flower import empty_run
from fedcore.jobs.load import load_participant
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import NODES, RECORD, request_for
from fedcore.network.descriptor import Descriptor, check_descriptor
from fedcore.network.lease import Lease, new_request
from fedcore.network.signed_offer import check_signed_offer, from_json
from fedcore.network.work import Request
from fedcore.participant import nodes
from fedcore.participant.mods.leased import leased
from fedcore.trust.identity import Identity, new_identity
from tests.fedcore.coordinator.placed import Placed
from tests.fedcore.network.nodes import found, party, request
from tests.messages import a_job
from tests.messages import message as plain

PLAN = "study-job-1"


@pytest.fixture
def placed(tmp_path: Path) -> Placed:
    return Placed(tmp_path, sites=3)


@pytest.fixture
def site(placed: Placed) -> Participant:
    return load_participant(placed.folder / "site-0.yaml")


@pytest.fixture
def coordinator(tmp_path: Path) -> Identity:
    return new_identity(tmp_path / "coordinator.key", "coordinator")


def about_nodes(about: Any, kind: str = "query.nodes") -> Message:
    text = about if isinstance(about, str) else json.dumps(about)
    made = plain(kind)
    made.content[NODES] = ConfigRecord({"about": text})
    return made


def told(site: Participant, what: str, body: Any, key: str = "") -> Any:
    reply = nodes.answer(site, about_nodes({"what": what, "body": body, "key": key}))
    return json.loads(str(reply.content[NODES]["about"]))  # type: ignore[index]


def asked(by: Identity, version: int = 1, plan: str = PLAN, **changes: Any) -> dict[str, Any]:
    details = {"owner": "site-0", "node": "n1", "offer": "site-0/n1/cpu", "seconds": 600, **changes}
    return asdict(new_request(by, plan=plan, version=version, **details))


def granted(site: Participant, by: Identity, version: int = 1, plan: str = PLAN, bind: bool = True) -> str:
    (answer,) = told(site, "lease", [asked(by, version, plan)], by.public_line)
    assert answer["granted"] is True, answer
    if bind:
        assert told(site, "bind", [answer["id"]]) == {answer["id"]: {"bound": True}}
    return str(answer["id"])


def refusal(site: Participant, request: dict[str, Any], key: str) -> str:
    (answer,) = told(site, "lease", [request], key)
    assert answer["granted"] is False
    return str(answer["reason"])


# ---- offers -----------------------------------------------------------------------------------------------


def test_offers_are_signed_for_the_request_and_come_with_their_descriptors(
    placed: Placed, site: Participant
) -> None:
    wanted = request(job="digits")
    answer = told(site, "offers", asdict(wanted))
    key = placed.keys["site-0"].public_line
    assert answer["key"] == key and answer["left_out"] == {}
    (offer,) = (from_json(each) for each in answer["offers"])
    check_signed_offer(offer, wanted, {"site-0": key})
    (descriptor,) = (Descriptor.model_validate(each) for each in answer["descriptors"])
    check_descriptor(descriptor, {"site-0": key})
    assert (offer.offer.owner, offer.offer.node) == (descriptor.owner, descriptor.node) == ("site-0", "n1")


def test_a_node_that_cannot_do_the_work_is_left_out_with_its_reason(placed: Placed) -> None:
    bare = {name: each for name, each in found().items() if not name.startswith(("gemm", "work"))}
    placed.site("site-0", [placed.node("site-0"), placed.node("site-0", node="n2", quantities=bare)])
    site = load_participant(placed.folder / "site-0.yaml")
    answer = told(site, "offers", asdict(request(job="digits")))
    assert [each["offer"]["node"] for each in answer["offers"]] == ["n1"]
    assert "n2" in answer["left_out"] and "no rate of digits" in answer["left_out"]["n2"]


def test_a_participant_without_nodes_and_one_with_anothers_say_so(placed: Placed) -> None:
    placed.site("site-1", [])
    with pytest.raises(DataError, match=r"names no node.*fedcore network probe"):
        told(load_participant(placed.folder / "site-1.yaml"), "offers", asdict(request()))
    placed.site("site-2", [placed.node("site-0")])
    with pytest.raises(JobError, match="describes a node of site-0, not of site-2"):
        told(load_participant(placed.folder / "site-2.yaml"), "offers", asdict(request()))


@pytest.mark.parametrize(
    "about",
    [
        "{",
        "[]",
        "null",
        {"what": "offers"},
        {"what": "everything", "body": {}, "key": ""},
        {"what": "offers", "body": {"id": "r"}, "key": ""},
        {"what": "offers", "body": 3, "key": ""},
        {"what": "lease", "body": [], "key": ""},
        {"what": "lease", "body": [{"id": "x"}], "key": ""},
        {"what": "bind", "body": 3, "key": ""},
    ],
)
def test_a_message_that_cannot_be_read_is_refused(site: Participant, about: Any) -> None:
    with pytest.raises(JobError, match="message about nodes cannot be read"):
        nodes.answer(site, about_nodes(about))
    with pytest.raises(JobError, match="message about nodes cannot be read"):
        nodes.answer(site, plain("query.nodes"))


def test_a_request_with_impossible_values_is_refused(site: Participant) -> None:
    wrong = {**asdict(request()), "samples": -1}
    with pytest.raises(DataError, match="samples is -1"):
        told(site, "offers", wrong)
    assert Request(**{**wrong, "samples": 1})


# ---- leases -----------------------------------------------------------------------------------------------


def test_a_lease_request_is_used_once(site: Participant, coordinator: Identity) -> None:
    one = asked(coordinator)
    (answer,) = told(site, "lease", [one], coordinator.public_line)
    assert answer["granted"] is True
    assert "came before" in refusal(site, one, coordinator.public_line)
    told(site, "release", [answer["id"]])
    assert "came before" in refusal(site, one, coordinator.public_line)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"seconds": 60}, "changed"),
        ({"owner": "site-1"}, "a node of site-1"),
        ({"node": "n9"}, "no node n9"),
    ],
)
def test_a_request_that_was_changed_or_is_for_others_is_refused(
    site: Participant, coordinator: Identity, change: dict[str, Any], why: str
) -> None:
    if "seconds" in change:
        one = {**asked(coordinator), **change}
    else:
        one = asked(coordinator, **change)
    assert why in refusal(site, one, coordinator.public_line)
    assert "not signed by coordinator" in refusal(site, asked(party("coordinator")), coordinator.public_line)


def test_an_old_request_is_refused(
    site: Participant, coordinator: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime

    late = new_request(
        coordinator,
        plan=PLAN,
        version=1,
        owner="site-0",
        node="n1",
        offer="o",
        seconds=60,
        at=datetime.now(UTC) - timedelta(seconds=90),
    )
    assert "expired" in refusal(site, asdict(late), coordinator.public_line)


def test_a_node_bears_so_many_runs_and_what_is_given_back_is_free(
    site: Participant, coordinator: Identity
) -> None:
    held = [granted(site, coordinator, plan=f"run-{i}") for i in range(nodes.SLOTS)]
    assert "has none free" in refusal(site, asked(coordinator, plan="one-more"), coordinator.public_line)
    # The plan's own older lease takes no second place.
    granted(site, coordinator, version=2, plan="run-0")
    assert told(site, "release", [held[1], "nothing"]) == {held[1]: True, "nothing": False}
    granted(site, coordinator, plan="one-more")


def test_two_coordinators_at_once_do_not_get_the_same_place(site: Participant, coordinator: Identity) -> None:
    answers: list[bool] = []

    def ask(number: int) -> None:
        (one,) = told(site, "lease", [asked(coordinator, plan=f"run-{number}")], coordinator.public_line)
        answers.append(one["granted"])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(2 * nodes.SLOTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(answers) == nodes.SLOTS


def test_what_was_promised_holds_in_another_process_of_the_site(
    site: Participant, coordinator: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted(site, coordinator, version=2)
    monkeypatch.setattr(nodes, "_books", type(nodes._books)())
    nodes.check_work(site, PLAN, 2)
    assert "version 1 is fenced off" in refusal(site, asked(coordinator, 1), coordinator.public_line)


def test_binding_what_was_never_granted_says_why(site: Participant, coordinator: Identity) -> None:
    answer = told(site, "bind", ["nothing"])
    assert answer["nothing"]["bound"] is False and "never granted" in answer["nothing"]["reason"]


# ---- work -------------------------------------------------------------------------------------------------


def test_work_is_done_under_the_version_that_is_bound_only(site: Participant, coordinator: Identity) -> None:
    with pytest.raises(PolicyRefused, match="no lease of plan"):
        nodes.check_work(site, PLAN, 1)
    first = granted(site, coordinator, 1)
    nodes.check_work(site, PLAN, 1)
    with pytest.raises(PolicyRefused, match="version 2"):
        nodes.check_work(site, PLAN, 2)
    with pytest.raises(PolicyRefused, match="no lease of plan another"):
        nodes.check_work(site, "another", 1)
    # The next version is asked for and not yet bound: the one that runs goes on.
    second = granted(site, coordinator, 2, bind=False)
    nodes.check_work(site, PLAN, 1)
    with pytest.raises(PolicyRefused, match="was not bound"):
        nodes.check_work(site, PLAN, 2)
    told(site, "bind", [second])
    nodes.check_work(site, PLAN, 2)
    with pytest.raises(PolicyRefused, match=r"the work is of version 1 .* of version 2"):
        nodes.check_work(site, PLAN, 1)
    assert "fenced off" in told(site, "bind", [first])[first]["reason"]
    told(site, "release", [second])
    with pytest.raises(PolicyRefused, match="given back"):
        nodes.check_work(site, PLAN, 2)


def test_a_lease_that_has_ended_holds_no_more(
    site: Participant, coordinator: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted(site, coordinator, 1)
    with nodes._book(site) as book:
        honest = book._clock
        monkeypatch.setattr(book, "_clock", lambda: honest() + timedelta(seconds=601))
    with pytest.raises(PolicyRefused, match="has ended"):
        nodes.check_work(site, PLAN, 1)


def worked(site: Participant, kind: str, record: ConfigRecord | None) -> list[list[str]]:
    """What the layers below get to see."""
    asked = plain(kind, request=request_for(a_job(), PLAN, 3, None))
    if record is not None:
        asked.content[NODES] = record
    seen: list[list[str]] = []

    def below(message: Message, context: Context) -> Message:
        seen.append(sorted(message.content))
        return Message(RecordDict(), reply_to=message)

    resolve: Callable[[Context], Participant] = lambda context: site  # noqa: E731
    context = Context(empty_run().run_id, 7, {}, RecordDict(), {})
    leased(resolve)(asked, context, below)
    return seen


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_the_version_is_checked_before_the_work_and_the_work_does_not_see_it(
    site: Participant, coordinator: Identity, kind: str
) -> None:
    with pytest.raises(PolicyRefused, match="no lease"):
        worked(site, kind, ConfigRecord({"version": 1}))
    granted(site, coordinator, 1)
    assert worked(site, kind, ConfigRecord({"version": 1})) == [[RECORD]]
    with pytest.raises(PolicyRefused, match="version 0"):
        worked(site, kind, ConfigRecord({"version": 0}))
    with pytest.raises(JobError, match="cannot be read"):
        worked(site, kind, ConfigRecord({"version": "one"}))
    # A job that is not placed needs no lease, and other messages are not looked at.
    assert worked(site, kind, None) == [[RECORD]]
    assert worked(site, "query.nodes", ConfigRecord({"about": ""})) == [[RECORD, NODES]]


def test_a_lease_is_the_owners_word(placed: Placed, site: Participant, coordinator: Identity) -> None:
    from fedcore.network.signed import check_signature

    (answer,) = told(site, "lease", [asked(coordinator)], coordinator.public_line)
    lease = Lease(**{key: value for key, value in answer.items() if key != "granted"})
    pins = {"site-0": placed.keys["site-0"].public_line}
    check_signature("lease", lease.payload(), lease.signature, "site-0", pins)
    with pytest.raises(Exception, match="not signed by site-0"):
        check_signature("lease", replace(lease, version=9).payload(), lease.signature, "site-0", pins)
