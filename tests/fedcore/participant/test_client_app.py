"""The participant's app as a whole: nothing is done and nothing leaves but through its layers, in their order."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from fedcore.errors import DataError
from fedcore.participant import app as deployed
from fedcore.participant import client_app, work
from fedcore.participant import site as kept
from fedcore.participant.client_app import build_client_app
from fedcore.trust import evidence
from tests.messages import CONTEXT, a_request, a_site, message
from tests.sites import blobs, write_site


@pytest.fixture(autouse=True)
def _nothing_kept():
    kept._cache.clear()


@pytest.fixture
def site(tmp_path):
    return a_site(tmp_path)


def asked(site, kind: str, request=None, **more):
    return build_client_app(lambda context: site)(message(kind, request=request, **more), CONTEXT)


def told(reply) -> dict:
    return json.loads(reply.error.reason)


def log_of(site) -> list[dict]:
    return list(evidence.read(site.state / "evidence.jsonl"))


def test_each_kind_of_message_is_served_and_recorded(site) -> None:
    request = a_request()
    about = json.loads(asked(site, "query.prepare", request).content["site"]["about"])
    schema = {"features": about["features"], "shape": about["shape"], "classes": about["classes"]}
    agreed = a_request(schema={**schema, "mean": [], "scale": []})
    arrays = {"0.weight": np.zeros((2, 4), np.float32), "0.bias": np.zeros(2, np.float32)}
    trained = asked(site, "train", agreed, arrays=arrays, server_round=1)
    tested = asked(site, "evaluate", agreed, arrays=arrays, server_round=1)
    assert set(trained.content) == {"arrays", "metrics"} and set(tested.content) == {"metrics"}
    steps = [(entry["event"], entry["step"]) for entry in log_of(site)]
    assert steps == [(e, s) for s in ("query.prepare", "train", "evaluate") for e in ("request", "release")]


def test_a_message_without_a_request_is_refused_recorded_and_does_nothing(site, monkeypatch) -> None:
    monkeypatch.setattr(work, "prepare", lambda *_: pytest.fail("the work was begun"))
    reply = asked(site, "query.prepare")
    assert told(reply)["type"] == "JobError" and "no fedcore request" in told(reply)["message"]
    assert [entry["event"] for entry in log_of(site)] == ["request", "refused"]


@pytest.mark.parametrize("kind", ["query.prepare", "train", "evaluate"])
def test_what_the_policy_denies_never_reaches_the_work(site, monkeypatch, kind) -> None:
    for name in ("prepare", "train_round", "evaluate_round"):
        monkeypatch.setattr(work, name, lambda *_: pytest.fail("the work was begun"))
    reply = asked(site, kind, a_request(purpose="marketing", data="salaries"))
    assert told(reply)["type"] == "PolicyRefused" and told(reply)["party"] == "site-0"
    assert [entry["event"] for entry in log_of(site)] == ["request", "refused"]


def test_what_the_work_raises_leaves_as_its_message_without_its_detail(site, monkeypatch) -> None:
    def fails(*_):
        raise DataError("a column is missing", detail="patient 4711")

    monkeypatch.setattr(work, "prepare", fails)
    reply = asked(site, "query.prepare", a_request())
    assert told(reply) == {"type": "DataError", "message": "a column is missing", "party": "site-0"}
    assert "patient" not in (site.state / "evidence.jsonl").read_text()


def test_the_layers_are_guard_evidence_policy_from_outside_inwards(site, monkeypatch) -> None:
    order = []

    def layer(name):
        def made(resolve):
            def mod(received, context, call_next):
                order.append(name)
                return call_next(received, context)

            return mod

        return made

    for name in ("guard", "evidence", "policy"):
        monkeypatch.setattr(client_app, name, layer(name))
    asked(site, "query.prepare", a_request())
    assert order == ["guard", "evidence", "policy"]


def test_a_deployment_s_app_reads_the_file_that_its_node_names(tmp_path) -> None:
    file = write_site(tmp_path, "site-7", blobs(20, 0))
    context = Context(1, 7, {"participant": str(file)}, RecordDict(), {})
    reply = deployed.app(message("query.prepare", request=a_request()), context)
    assert json.loads(reply.content["site"]["about"])["name"] == "site-7"


def test_a_node_without_a_participant_file_says_how_to_start_one() -> None:
    reply = deployed.app(message("query.prepare", request=a_request()), CONTEXT)
    assert "fedcore participant start" in told(reply)["message"] and told(reply)["party"] is None
