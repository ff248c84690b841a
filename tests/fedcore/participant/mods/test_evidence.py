"""The site's own log: every request and every release, before and after the work, whatever becomes of it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from fedcore.errors import DataError
from fedcore.flower import error_reply, payload_bytes
from fedcore.jobs.participant import Participant
from fedcore.participant.mods.evidence import evidence, evidence_file
from fedcore.trust import evidence as log
from tests.fedcore.participant.mods.asked import a_question
from tests.messages import CONTEXT, a_request, message, reply_to

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(4711, dtype=np.int64)}


@pytest.fixture
def site(tmp_path) -> Participant:
    return Participant(name="site-0", catalogue={}, state=tmp_path / "state")


def passed(site, sent, work) -> Message:
    return evidence(lambda context: site)(sent, CONTEXT, work)


def entries(site) -> list[dict]:
    return list(log.read(evidence_file(site)))


def test_a_request_is_on_the_disk_before_the_work_begins(site) -> None:
    def work(received, context):
        (entry,) = entries(site)
        assert entry["event"] == "request"
        return reply_to(received)

    sent = message(request=a_request(), arrays=ARRAYS, server_round=3)
    passed(site, sent, work)
    asked, _ = entries(site)
    about = {k: asked[k] for k in ("step", "run", "job", "kind", "purpose", "data", "round")}
    assert about == {
        "step": "train",
        "run": "run-1",
        "job": "study-job",
        "kind": "train",
        "purpose": "research",
        "data": "study",
        "round": 3,
    }
    assert asked["bytes"] == payload_bytes(sent.content) > 6 * 4 + 8


def test_a_release_is_told_by_size_names_and_digest_without_a_value(site) -> None:
    passed(site, message(request=a_request()), lambda m, c: reply_to(m, ARRAYS, 3, loss=0.123456))
    release = entries(site)[1]
    by_hand = hashlib.sha256()
    for name, value in ARRAYS.items():
        by_hand.update(f"{name}\x1f{value.dtype.str}\x1f{value.shape}\x1f".encode() + value.tobytes())
    assert release["event"] == "release" and release["sha256"] == by_hand.hexdigest()
    assert (release["arrays"], release["values"], release["metrics"]) == (2, 7, ["loss", "num-examples"])
    assert release["bytes"] == 6 * 4 + 8 + len("wb") + len("loss") + len("num-examples") + 16
    told = json.dumps(
        [{k: v for k, v in e.items() if k not in ("previous", "sha256")} for e in entries(site)]
    )
    assert "0.123456" not in told and "4711" not in told


def test_what_was_refused_and_what_failed_is_told_by_type_only(site) -> None:
    for error in (DataError("secret 4711"), ValueError("secret 4711")):

        def work(*_, error=error):
            raise error

        with pytest.raises(type(error)):
            passed(site, message(request=a_request()), work)
    told = [(entry["event"], entry.get("why")) for entry in entries(site)]
    assert told == [("request", None), ("refused", "DataError"), ("request", None), ("failed", "ValueError")]
    assert "secret" not in evidence_file(site).read_text()


def test_a_message_that_is_no_request_is_recorded_too(site) -> None:
    passed(site, message("query.prepare"), lambda m, c: reply_to(m))
    assert entries(site)[0]["run"] is None and entries(site)[0]["step"] == "query.prepare"


def test_virtual_participants_count_but_do_not_digest(site) -> None:
    site = site.model_copy(update={"evidence": "counts"})
    passed(site, message(request=a_request()), lambda m, c: reply_to(m, ARRAYS))
    release = entries(site)[1]
    assert "sha256" not in release and release["values"] == 7


def test_nothing_is_done_when_it_cannot_be_recorded(site, monkeypatch) -> None:
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(log, "append", full)
    with pytest.raises(OSError, match="no space"):
        passed(site, message(request=a_request()), lambda *_: pytest.fail("the work was begun"))


def test_an_answer_without_arrays_has_no_digest(site) -> None:
    passed(site, message("evaluate", request=a_request()), lambda m, c: reply_to(m, None, 5, auc=0.9))
    release = entries(site)[1]
    assert (
        "sha256" not in release and "arrays" not in release and release["metrics"] == ["auc", "num-examples"]
    )


def test_an_error_reply_is_no_release(site) -> None:
    passed(site, message(request=a_request()), lambda m, c: error_reply(m, "no"))
    assert [entry["event"] for entry in entries(site)] == ["request"]


def test_the_log_lies_in_the_site_s_state(site) -> None:
    assert evidence_file(site) == site.state / "evidence.jsonl"
    passed(site, message(request=a_request()), lambda m, c: Message(RecordDict(), reply_to=m))
    assert json.loads(evidence_file(site).read_text().splitlines()[0])["event"] == "request"


def test_a_question_is_told_with_its_asker_columns_and_the_hash_that_is_approved(site) -> None:
    asked = a_question({"describe": {"columns": ["age"], "where": "sex = 1"}})
    passed(site, message("query.totals", request=asked), lambda m, c: reply_to(m))
    for entry in entries(site):
        assert (entry["asker"], entry["question"], entry["request"]) == ("anna", "q", asked.digest)
        assert sorted(entry["columns"]) == ["age", "sex"] and "age" in entry["text"]


def test_while_preparing_only_the_asker_is_told(site) -> None:
    prepared = a_question({"describe": {"columns": ["age"]}}).model_copy(update={"question": {}, "name": ""})
    passed(site, message("query.prepare", request=prepared), lambda m, c: reply_to(m))
    assert entries(site)[0]["asker"] == "anna" and "text" not in entries(site)[0]


@pytest.mark.parametrize(
    "question", [{"kind": "meen"}, {"kind": "describe", "agreed": 5, "asked": []}, {"a": 1}]
)
def test_a_question_that_cannot_be_read_is_recorded_all_the_same(site, question) -> None:
    broken = a_question({"describe": {"columns": ["age"]}}).model_copy(update={"question": question})
    passed(site, message("query.totals", request=broken), lambda m, c: reply_to(m))
    assert entries(site)[0]["request"] == broken.digest


def test_a_long_question_does_not_fill_the_log(site) -> None:
    where = " or ".join(f"age = {each}" for each in range(300))
    asked = a_question({"describe": {"columns": ["age"], "where": where}})
    passed(site, message("query.totals", request=asked), lambda m, c: reply_to(m))
    assert len(entries(site)[0]["text"]) < 600
