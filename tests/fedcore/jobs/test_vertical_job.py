"""Vertical jobs as files: what is told of mistakes, what others learn, what travels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import JobError
from fedcore.jobs.job import parse_job
from fedcore.jobs.load import check_file, load_job
from fedcore.jobs.request import VerticalRequest, parse_request, vertical_request_for
from fedcore.jobs.reveals import asked_columns, is_binary, learned_by
from fedcore.jobs.show import filled_in
from fedcore.jobs.vertical import VerticalJob
from fedcore.vertical.steps import check_models, folder_name, pairs_of, steps_of

JOB = """\
kind: vertical
name: bank-risk
label: {party: bank-a, column: bad}
parties:
  bank-a: {data: applications, key: id}
  telecom-b: {data: usage, key: id, columns: [calls]}
split: {test: 0.2, out_of_time: {column: month, from: 2026-07}}
models:
  champion: {use: logistic}
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "job.yaml"
    file.write_text(text)
    return file


def job_of(models: dict[str, Any], *names: str) -> VerticalJob:
    parties = {name: {"data": "d", "key": "id"} for name in ("bank-a", *(names or ("telecom-b",)))}
    told = {
        "kind": "vertical",
        "name": "joint",
        "label": {"party": "bank-a", "column": "bad"},
        "parties": parties,
        "models": models,
    }
    return VerticalJob.model_validate(told)


LOGISTIC, TREES, NETWORK = {"use": "logistic"}, {"use": "boosting"}, {"use": "split-network"}
LINEAR = {"use": "logistic", "link": "linear", "on": "values"}


def problems(folder: Path, text: str) -> str:
    return "\n".join(str(each) for each in check_file(written(folder, text)).problems)


def test_a_job_is_read_completed_and_read_again(tmp_path: Path) -> None:
    job = load_job(written(tmp_path, JOB))
    assert isinstance(job, VerticalJob) and job.partners == ("telecom-b",)
    assert job.split.out_of_time is not None and job.split.out_of_time.from_ == "2026-07"
    assert parse_job(json.loads(json.dumps(job.model_dump(mode="json", by_alias=True)))) == job
    assert filled_in(job)["bin"]["min_rows"] == 20


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("party: bank-a", "party: bank-b"), "'bank-b' is no party"),
        (("use: logistic", "use: logistics"), "logistics"),
        (("models:", "modles:"), 'unknown key; did you mean "models"'),
        (("  telecom-b: {data: usage, key: id, columns: [calls]}\n", ""), "at least one partner"),
        (("key: id, columns", "key: [id, type], columns"), "different numbers of columns"),
        (("use: logistic}", "use: logistic, on: values, scorecard: {}}"), "on weights of evidence"),
        (("test: 0.2", "test: 1.0"), "split.test"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, change: tuple[str, str], why: str) -> None:
    assert change[0] in JOB
    assert why in problems(tmp_path, JOB.replace(*change))


def test_a_job_without_its_kind_is_judged_as_what_it_most_likely_is(tmp_path: Path) -> None:
    found = problems(tmp_path, JOB.replace("kind: vertical\n", ""))
    assert "kind: missing" in found and found.count("\n") == 0


def test_steps_follow_from_the_models() -> None:
    assert steps_of(job_of({"a": LOGISTIC, "b": TREES})) == (
        "align", "bin", "select", "model:a", "model:b", "score", "report",
    )  # fmt: skip
    assert steps_of(job_of({"a": LINEAR})) == ("align", "model:a", "score", "report")
    assert folder_name("model:a") == "model-a"


def test_the_first_partner_also_meets_the_others() -> None:
    job = job_of({"a": LOGISTIC}, "telecom-b", "shop-c", "shop-d")
    assert pairs_of(job) == (
        ("bank-a", "telecom-b"), ("bank-a", "shop-c"), ("bank-a", "shop-d"),
        ("telecom-b", "shop-c"), ("telecom-b", "shop-d"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("models", "partner", "holder"),
    [
        ({"a": LOGISTIC}, {"rows", "totals", "correlation", "scores"}, {"rows", "woe", "correlation"}),
        ({"a": LINEAR}, {"rows", "correlation", "scores"}, {"rows", "correlation"}),
        ({"a": TREES}, {"rows", "totals", "correlation", "splits"}, {"rows", "woe", "splits"}),
        ({"a": {**TREES, "loss": "regression"}}, {"rows", "totals", "splits"}, {"rows", "splits"}),
        ({"a": NETWORK}, {"rows", "totals", "correlation", "activations"}, {"rows", "woe", "activations"}),
    ],
)
def test_what_others_learn_follows_from_the_models(
    models: dict[str, Any], partner: set[str], holder: set[str]
) -> None:
    job = job_of(models)
    assert set(learned_by(job, "telecom-b")) == {(what, "bank-a") for what in partner}
    assert set(learned_by(job, "bank-a")) == {(what, "telecom-b") for what in holder}


def test_of_several_partners_the_first_sees_correlations_and_a_further_one_does_not() -> None:
    job = job_of({"a": LOGISTIC}, "telecom-b", "shop-c")
    assert ("correlation", "telecom-b") in learned_by(job, "shop-c")
    assert ("correlation", "shop-c") not in learned_by(job, "telecom-b")
    assert ("scores", "telecom-b") not in learned_by(job, "shop-c")


def test_models_that_cannot_be_together_or_with_so_many_are_refused() -> None:
    assert is_binary(job_of({"a": LOGISTIC, "b": NETWORK}))
    with pytest.raises(JobError, match="put them into two jobs"):
        is_binary(job_of({"a": TREES, "b": LINEAR}))
    with pytest.raises(JobError, match=r"models\.a: p_values: for one partner only"):
        check_models(job_of({"a": {**LOGISTIC, "p_values": True}}, "telecom-b", "shop-c"))


def test_a_policy_is_asked_about_all_columns_that_are_read() -> None:
    told = job_of({"a": LOGISTIC}).model_dump(by_alias=True)
    told["parties"]["bank-a"]["columns"] = ("age",)
    told["split"]["out_of_time"] = {"column": "month", "from": "2026-07"}
    job = VerticalJob.model_validate(told)
    assert asked_columns(job, "bank-a") == ["id", "age", "bad", "month"]
    assert asked_columns(job, "telecom-b") is None


def test_a_request_travels_and_its_digest_is_that_of_the_work() -> None:
    job = job_of({"a": LOGISTIC})
    request = vertical_request_for(job, "run-1", "bin")
    again = parse_request(request.to_json())
    assert isinstance(again, VerticalRequest) and again == request
    assert again.data_of("telecom-b") == "d" and again.data_of("nobody") is None
    assert vertical_request_for(job, "run-1", "select").digest == request.digest
    longer = job.model_copy(update={"deadline": 5.0})
    assert vertical_request_for(longer, "run-1").digest == request.digest
    assert vertical_request_for(job, "run-2").digest != request.digest
    assert vertical_request_for(job_of({"a": TREES}), "run-1").digest != request.digest
