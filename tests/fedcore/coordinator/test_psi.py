"""psi jobs from their file to the run folder, on the embedded engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict

import fedcore
from fedcore.coordinator.watch import Silent
from fedcore.coordinator.workflows import psi as workflow
from fedcore.coordinator.workflows.parties import cause
from fedcore.coordinator.workflows.settings import RelayAt, Settings
from fedcore.engines.embedded import EmbeddedGrid
from fedcore.errors import (
    DataError,
    FedcoreError,
    IdentityError,
    JobError,
    PeerLost,
    PolicyRefused,
    ProtocolFailed,
)
from fedcore.jobs.load import load_job
from fedcore.participant import intersection
from fedcore.trust import evidence
from fedcore.trust.identity import new_identity
from tests.pairs import BANK, KEYS, SHARED, TELECOM, Pair, rule_of, write_party, write_psi_job


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    pair = Pair(tmp_path)
    pair.job = write_psi_job(tmp_path, protocol="ecdh")
    return pair


class Watching(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def phase_started(self, number: int, phase: str, cohort: int) -> None:
        self.told.append(("phase", phase, cohort))

    def progress(self, party: str, phase: str, done: int, of: int) -> None:
        self.told.append((party, phase, done))


def failing(pair: Pair, kind: type[FedcoreError]) -> tuple[FedcoreError, dict[str, Any]]:
    """The error of a run, and what stands in its result."""
    with pytest.raises(kind) as error:
        pair.run()
    return error.value, json.loads((pair.folder / "run" / "result.json").read_text())


def words(content: RecordDict) -> str:
    """Everything in a message, as text."""
    return "\n".join(
        f"{name} {key} {value!r}" for name, record in content.items() for key, value in record.items()
    )


def values(found: Any) -> Iterator[Any]:
    """Every value in JSON values, lists as they are."""
    if isinstance(found, Mapping):
        for each in found.values():
            yield from values(each)
    else:
        yield found


# ---- who learns what ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["vole", "vole-compact", "ecdh"])
def test_both_learn_the_rows_in_the_same_order(pair: Pair, protocol: str) -> None:
    pair.job = write_psi_job(
        pair.folder, protocol=protocol, reveal=f"{{what: rows, to: [{TELECOM}, {BANK}]}}"
    )
    run = pair.run()
    assert pair.matched(BANK) == pair.matched(TELECOM)
    assert sorted(pair.matched(BANK)) == SHARED
    told = run.json
    assert told["status"] == "finished" and told["kind"] == "psi" and "intersection" not in told
    assert [(each["name"], each["role"], each["rows"]) for each in told["participants"]] == [
        (BANK, "sender", 40),
        (TELECOM, "receiver", 65),
    ]
    assert told["receipts"][BANK]["commitment"] != told["receipts"][TELECOM]["commitment"]


def test_cardinality_reaches_one_party_and_the_coordinator_where_allowed(pair: Pair) -> None:
    pair.job = write_psi_job(
        pair.folder, protocol="ecdh", reveal=f"{{what: cardinality, to: [{TELECOM}], coordinator: count}}"
    )
    assert pair.run().json["intersection"] == len(SHARED)
    kept = json.loads((pair.results(BANK)[0] / "result.json").read_text())
    assert kept["intersection"] is None
    assert not list(pair.folder.glob(".fedcore/*/results/*/rows.parquet"))


def test_the_coordinator_sees_no_key_no_item_and_no_row(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Message] = []
    answer = EmbeddedGrid.answer

    def recorded(self: EmbeddedGrid, work: Any) -> Message:
        reply = answer(self, work)
        seen.extend((work.asked, reply))
        return reply

    monkeypatch.setattr(EmbeddedGrid, "answer", recorded)
    pair.job = write_psi_job(pair.folder, reveal=f"{{what: rows, to: [{BANK}, {TELECOM}]}}")
    pair.run()
    assert len(seen) == 8, "two requests and two replies in each of two exchanges"
    items = {bytes(block).hex() for name in KEYS for block in _blocks(pair.folder / f"{name}.parquet")}
    for one in seen:
        text = words(one.content)
        assert "person-" not in text and not any(item in text for item in items)
    receipts = [one for one in seen if "party" in one.content]
    assert len(receipts) == 4
    for one in receipts:
        told = json.loads(str(one.content["party"]["about"]))  # type: ignore[call-overload, index]
        assert not any(isinstance(value, list | tuple | bytes) for value in values(told))
        # 15 rows match, and no number says so.
        assert "intersection" not in told and len(SHARED) not in list(values(told))
    for file in (pair.folder / "run").rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert b"person-" not in content and b'"intersection"' not in content, file
        assert not any(item.encode() in content for item in items)


def _blocks(file: Path) -> Any:
    import pyarrow.parquet as pq

    from crypto.psi.items import ItemRules, keys_of

    column = pq.read_table(file).column("person").combine_chunks()
    return keys_of([column], ItemRules(), first_row=0).blocks


def test_a_third_participant_is_left_alone(pair: Pair) -> None:
    write_party(pair.folder, "shop-c", ["person-30"], rule="{jobs: [psi], data: any, peers: any}")
    pair.federation.write_text(f"name: three\nparticipants: [shop-c.yaml, {BANK}.yaml, {TELECOM}.yaml]\n")
    assert pair.run().json["status"] == "finished"
    assert sorted(pair.matched(BANK)) == SHARED
    entries = list(evidence.read(pair.folder / ".fedcore" / "shop-c" / "evidence.jsonl"))
    assert [entry["event"] for entry in entries] == ["request", "refused"]


def test_each_site_writes_down_with_whom_and_what_was_revealed(pair: Pair) -> None:
    pair.run()
    entries = list(evidence.read(pair.folder / ".fedcore" / TELECOM / "evidence.jsonl"))
    asked = [entry for entry in entries if entry["event"] == "request"]
    assert [entry["step"] for entry in asked] == ["query.prepare", "query.intersect"]
    assert asked[1]["peer"] == BANK and asked[1]["key"] == ["person"] and asked[1]["protocol"] == "ecdh"
    assert asked[1]["reveal"] == {"what": "rows", "to": [BANK], "coordinator": "sizes"}
    released = [entry for entry in entries if entry["event"] == "release"]
    receipt = json.loads((pair.folder / "run" / "result.json").read_text())["receipts"][TELECOM]
    assert (
        released[1]["peer_bytes"] == receipt["bytes"] and released[1]["commitment"] == receipt["commitment"]
    )
    assert asked[0]["session"] is None and str(asked[1]["session"]).startswith(asked[1]["run"])


def test_progress_of_both_parties_is_told(pair: Pair) -> None:
    watching = Watching()
    pair.run(watcher=watching)
    assert [one for one in watching.told if one[0] == "phase"] == [
        ("phase", "prepare", 2),
        ("phase", "intersect", 2),
    ]
    for name, rows in ((BANK, 40), (TELECOM, 65)):
        assert (name, "read", rows) in watching.told and (name, "done", rows) in watching.told


# ---- refusals and faults --------------------------------------------------------------------------------------------


def test_a_refusal_names_party_step_what_is_allowed_and_ends_it_before_the_other_has_read(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intersection, "intersect", lambda *words: pytest.fail("something was read"))
    write_party(pair.folder, TELECOM, KEYS[TELECOM], rule=rule_of(TELECOM, protocols="[vole]"))
    error, told = failing(pair, PolicyRefused)
    assert (error.party, error.step) == (TELECOM, "prepare")
    assert "protocol 'ecdh' is not allowed (protocols: vole)" in error.message
    assert "can add a rule to policy.rules" in error.message
    assert told["status"] == "refused" and told["error"]["exit_code"] == PolicyRefused.exit_code


def test_data_that_cannot_be_read_is_told_by_its_party_and_not_by_the_one_left_alone(pair: Pair) -> None:
    pair.job = write_psi_job(
        pair.folder,
        deadline=3600,
        parties=f"{{{BANK}: {{data: customers, key: person}}, {TELECOM}: {{data: subscribers, key: telephone}}}}",
    )
    write_party(pair.folder, TELECOM, KEYS[TELECOM], rule=rule_of(TELECOM, columns="all"))
    error, told = failing(pair, DataError)
    assert error.party == TELECOM and "telephone" in error.message
    assert told["status"] == "failed" and told["error"]["exit_code"] == DataError.exit_code
    assert not list(pair.folder.glob(".fedcore/*/results/*"))


def test_settings_that_do_not_fit_are_a_failure_of_the_protocol(pair: Pair) -> None:
    write_party(pair.folder, TELECOM, list(range(50)))
    error, told = failing(pair, ProtocolFailed)
    assert error.step == "hello" and "types of the key" in error.message
    assert told["error"]["exit_code"] == ProtocolFailed.exit_code


def test_a_party_that_fails_in_the_middle_stops_the_other(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crypto.psi import ecdh

    def full(*words: Any, **options: Any) -> Any:
        raise DataError("the disk is full; make room", step="ecdh")

    monkeypatch.setattr(ecdh, "send", full)
    error, told = failing(pair, DataError)
    assert (error.party, error.step) == (TELECOM, "ecdh")
    assert told["error"]["party"] == TELECOM and not list(
        pair.folder.glob(".fedcore/*/results/*/rows.parquet")
    )


def test_nobody_of_that_name_is_told_before_anything_starts(pair: Pair) -> None:
    pair.job = write_psi_job(
        pair.folder,
        parties=f"{{{BANK}: {{data: customers, key: person}}, telecom-c: {{data: subscribers, key: person}}}}",
    )
    with pytest.raises(JobError, match="parties: nobody is called 'telecom-c'; did you mean \"telecom-b\""):
        pair.run()


def test_a_run_that_failed_can_begin_again_and_keeps_what_is_there(pair: Pair) -> None:
    write_party(pair.folder, TELECOM, KEYS[TELECOM], rule=rule_of(TELECOM, peers=""))
    failing(pair, PolicyRefused)
    write_party(pair.folder, TELECOM, KEYS[TELECOM])
    from fedcore.engines.run import resume

    assert resume(pair.folder / "run").json["status"] == "finished"
    with pytest.raises(JobError, match="has finished"):
        resume(pair.folder / "run")


def test_report_and_summary_tell_what_the_result_tells(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedcore.coordinator.terminal import print_summary

    run = pair.run()
    page = (run.folder / "report.html").read_text()
    assert "report of an intersection" in page and run.json["receipts"][BANK]["commitment"] in page
    assert "secure aggregation" not in page.lower()
    print_summary(run.json)
    shown = capsys.readouterr().out
    assert "which of their rows they share" in shown and "exchanging masked keys" in shown


def test_in_python_a_run_has_its_result(pair: Pair) -> None:
    found = fedcore.run(pair.job, pair.federation, folder=pair.folder / "run").result
    assert found.receipts[TELECOM]["rows"] == 65 and found.metrics == []


# ---- the meeting, from what parties offer ---------------------------------------------------------------------------


def arranged(
    pair: Pair, offers: dict[str, dict[str, str]], *, keys: dict[str, str] | None = None, relay: bool = False
) -> Any:
    job = load_job(write_psi_job(pair.folder))
    station = RelayAt("relay.example:9443", offers[BANK]["key"]) if relay else None
    settings = Settings("run-1", pair.folder, "deployment", 2, Silent(), keys=keys or {}, relay=station)
    return workflow._arrange(job, offers, settings)  # type: ignore[arg-type]


@pytest.fixture
def offers(tmp_path: Path) -> dict[str, dict[str, str]]:
    return {
        name: {
            "how": "network",
            "key": new_identity(tmp_path / f"{name}.key", name).public_line,
            "address": "",
        }
        for name in KEYS
    }


def test_whoever_can_be_called_waits(pair: Pair, offers: dict[str, dict[str, str]]) -> None:
    offers[TELECOM]["address"] = "telecom.example:9443"
    meeting = arranged(pair, offers, relay=True)
    assert (meeting.how, meeting.listens, meeting.address) == ("direct", TELECOM, "telecom.example:9443")
    offers[BANK]["address"] = "bank.example:9443"
    assert arranged(pair, offers).listens == BANK


def test_two_that_cannot_be_called_meet_at_the_relay_or_not_at_all(
    pair: Pair, offers: dict[str, dict[str, str]]
) -> None:
    meeting = arranged(pair, offers, relay=True)
    assert (meeting.how, meeting.address) == ("relay", "relay.example:9443")
    with pytest.raises(JobError, match="can be called by the other, and the federation has no relay"):
        arranged(pair, offers)


def test_a_party_that_answers_with_another_key_than_the_roster_pins_is_refused(
    pair: Pair, offers: dict[str, dict[str, str]]
) -> None:
    with pytest.raises(IdentityError, match="telecom-b, prepare: it answers with another key"):
        arranged(pair, offers, keys={TELECOM: offers[BANK]["key"]}, relay=True)
    told = {name: offer["key"] for name, offer in offers.items()}
    assert arranged(pair, offers, keys=told, relay=True).keys == told


def test_every_run_has_a_session_of_its_own(pair: Pair, offers: dict[str, dict[str, str]]) -> None:
    assert arranged(pair, offers, relay=True).session != arranged(pair, offers, relay=True).session


# ---- whose failure it is --------------------------------------------------------------------------------------------


def told(kind: str, message: str = "why", **more: str) -> dict[str, str]:
    return {"type": kind, "message": message, **more}


@pytest.mark.parametrize(
    ("failures", "kind", "party", "step"),
    [
        ({BANK: told("PeerLost", step="psi.tags", about=TELECOM), TELECOM: told("NoReply")}, PeerLost, TELECOM, "psi.tags"),
        ({BANK: told("PeerLost", step="connect", about=TELECOM)}, PeerLost, TELECOM, "connect"),
        ({BANK: told("PeerLost", step="vole", about=TELECOM), TELECOM: told("DataError", step="write")}, DataError, TELECOM, "write"),
        ({BANK: told("NoReply", "no reply within 60 s"), TELECOM: told("NoReply")}, PeerLost, BANK, "intersect"),
        ({TELECOM: told("TaskFailed")}, fedcore.errors.TaskFailed, TELECOM, "intersect"),
        ({TELECOM: told("SomethingElse")}, FedcoreError, TELECOM, "intersect"),
    ],
)  # fmt: skip
def test_the_party_with_the_cause_is_named(
    failures: dict[str, dict[str, str]], kind: type[FedcoreError], party: str, step: str
) -> None:
    found = cause(failures, {})
    assert type(found) is kind and (found.party, found.step) == (party, step)


def test_the_result_of_a_party_that_finished_alone_is_not_to_be_used() -> None:
    found = cause({BANK: told("DataError", "the disk is full")}, {TELECOM: {}})
    assert "telecom-b had finished; its result is not to be used" in found.message


def test_a_deadline_that_passes_is_told_as_such() -> None:
    found = cause({BANK: told("NoReply", "no reply within 60 s")}, {})
    assert (
        "it gave no answer (no reply within 60 s); look at its own log, or raise the job's deadline"
        in str(found)
    )
