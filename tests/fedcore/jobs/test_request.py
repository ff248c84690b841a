"""The request as it travels: strict, versioned, the same when it arrives."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import JobError
from fedcore.jobs.psi import PsiJob
from fedcore.jobs.request import VERSION, Meeting, PsiRequest, parse_request, psi_request_for
from tests.messages import a_job, a_request

SCHEMA = {"features": ["a"], "shape": [1], "classes": [0, 1], "mean": [0.5], "scale": [1.0]}


def changed(**changes: object) -> str:
    return json.dumps({**json.loads(a_request().to_json()), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"task": {"use": "image-classifier", "model": "resnet18"}},
        {"task": {"use": "lab.tasks:Net", "with": {"depth": 3, "names": ["a"]}, "features": ["a"]}},
        {"strategy": {"use": "fedadam", "server_lr": 0.3}, "local": {"patience": 2, "precision": "bfloat16"}},
    ],
)
def test_a_request_arrives_as_it_was_sent(changes) -> None:
    for schema in (None, SCHEMA):
        sent = a_request(schema=schema, **changes)
        arrived = parse_request(sent.to_json())
        assert arrived == sent and arrived.strategy.parameters == sent.strategy.parameters


def test_it_says_what_the_job_says_and_nothing_of_others() -> None:
    job = a_job(purpose="care", seed=11)
    told = json.loads(a_request(purpose="care", seed=11, cohort=5).to_json())
    assert (told["job"], told["kind"], told["data"], told["purpose"]) == (job.name, "train", "study", "care")
    assert (told["seed"], told["cohort"], told["version"]) == (11, 5, VERSION)
    assert "participants" not in told and "evaluation" not in told and "baselines" not in told


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_told_with_both_numbers_and_the_cure(version) -> None:
    words = rf"speaks request version {version!r}, this participant {VERSION}; install the same version"
    with pytest.raises(JobError, match=words):
        parse_request(changed(version=version))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "5",
        "null",
        changed(more=1),
        changed(kind="psi"),
        changed(cohort="many"),
        changed(run="../../etc"),
        changed(task={"use": "os.system"}),
        changed(local={"lr": -1}),
    ],
)
def test_what_is_no_request_of_this_version_is_refused_without_quoting_it(text) -> None:
    with pytest.raises(JobError) as caught:
        parse_request(text)
    assert text not in str(caught.value) or text in ("", "5")


@given(st.text() | st.dictionaries(st.text(max_size=5), st.integers(), max_size=3).map(json.dumps))
def test_no_text_makes_the_parser_raise_anything_else(text) -> None:
    with pytest.raises(JobError):
        parse_request(text)


def test_what_decides_the_rows_is_the_same_in_prepare_and_in_the_rounds() -> None:
    first, later = a_request(cohort=5), a_request(cohort=3, schema=SCHEMA)
    assert first.rows_key == later.rows_key and first.work_key != later.work_key
    assert later.work_key == a_request(cohort=2, schema=SCHEMA).work_key
    for other in (a_request(purpose="care"), a_request(seed=4), a_request(data="more")):
        assert other.rows_key != first.rows_key


def a_psi_request() -> PsiRequest:
    job = PsiJob.model_validate(
        {
            "kind": "psi",
            "name": "shared",
            "parties": {
                "bank-a": {"data": "d", "key": ("a", "b")},
                "telecom-b": {"data": "e", "key": ("c", "d")},
            },
            "reveal": {"what": "rows", "to": ("bank-a",)},
        }
    )
    return psi_request_for(job, "run-1", Meeting(session="s", how="relay", address="centre.example:9445"))


def test_a_request_of_a_pair_arrives_as_it_was_sent() -> None:
    sent = a_psi_request()
    arrived = parse_request(sent.to_json())
    assert arrived == sent and isinstance(arrived, PsiRequest)
    assert (arrived.data_of("bank-a"), arrived.data_of("telecom-b"), arrived.data_of("x")) == ("d", "e", None)
    assert arrived.other("bank-a") == "telecom-b" and arrived.cohort == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "train"},
        {"kind": "graph"},
        {"kind": ["psi"]},
        {"protocol": "plain"},
        {"reveal": {"what": "everything", "to": ["bank-a"]}},
        {"keys": ["person-1"]},
        {"meeting": {"session": "s", "how": "by post"}},
        {"meeting": {"session": "../s", "how": "memory"}},
        {"deadline": -1},
    ],
)
def test_what_is_no_request_of_a_pair_is_refused(changes: dict[str, object]) -> None:
    text = json.dumps({**json.loads(a_psi_request().to_json()), **changes})
    with pytest.raises(JobError, match="not a request this version of fedcore knows"):
        parse_request(text)
