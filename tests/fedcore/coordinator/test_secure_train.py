"""Secure aggregation in a train job: one line in the job, the same result, and what the record says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from flwr.serverapp import strategy as flower
from safetensors.numpy import load_file
from torch.nn import functional

import fedcore
from fedcore.errors import JobError, PolicyRefused, ProtocolFailed, RunInterrupted
from fedcore.network.usage_log import FILE, read_log
from fedcore.trust import evidence
from tests.sites import Study, blobs, write_federation, write_job, write_site

HERE = "tests.fedcore.coordinator.test_secure_train"
ON = "{secure_aggregation: secagg+}"


class Sometimes(fedcore.Task):
    """Logistic regression whose loss is NaN at the site with 32 training rows, in the second round only."""

    classification = True
    calls: ClassVar[list[int]] = []

    def model(self) -> torch.nn.Module:
        return torch.nn.Linear(len(self.schema.features), 2)

    def loss(self, model: torch.nn.Module, batch: fedcore.Batch) -> torch.Tensor:
        loss = functional.cross_entropy(model(batch.x), batch.y)
        if len(batch) == 32:
            Sometimes.calls.append(1)
            # A round whose loss is not finite is done once more, step by step.
            if len(Sometimes.calls) in (2, 3):
                return loss * float("nan")
        return loss

    def metrics(self, model: torch.nn.Module, batches: Any) -> dict[str, float]:
        right = rows = 0
        for batch in batches:
            right += int((model(batch.x).argmax(1) == batch.y).sum())
            rows += len(batch)
        return {"accuracy": right / rows}


class Undeclared(flower.FedAvg):
    """Replaces the aggregation and does not say what it needs."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        return super().aggregate_train(server_round, replies)


class Renamed(flower.FedAvg):
    """FedAvg under another name: what aggregates is Flower's."""


class Declared(Undeclared):
    """Says it."""

    summable = True


@pytest.fixture
def five(tmp_path: Path) -> Study:
    """Five sites, of which one may drop out."""
    return Study(tmp_path, sites=5)


def both(study: Study, **settings: Any) -> tuple[Any, Any]:
    study.job = write_job(study.folder, **settings)
    plain = study.run(folder=study.folder / "plain")
    study.job = write_job(study.folder, **settings, protection=ON)
    return plain, study.run(folder=study.folder / "masked")


@pytest.mark.parametrize(
    "strategy",
    ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox", "scaffold", "fednova"],
)
def test_a_protected_run_gives_the_result_of_the_same_run_without(five: Study, strategy: str) -> None:
    plain, masked = both(five, strategy=f"{{use: {strategy}}}", rounds=2)
    one, other = load_file(plain.model), load_file(masked.model)
    assert set(one) == set(other)
    # Adaptive strategies divide by the root of a squared change, which enlarges the error of a small one.
    slack = 2e-3 if strategy in ("fedadam", "fedyogi", "fedadagrad") else 2e-5
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=0, atol=slack)
    for before, after in zip(plain.json["rounds"], masked.json["rounds"], strict=True):
        for phase in ("train", "evaluate"):
            assert set(after[phase]) == set(before[phase])
            for metric, value in before[phase].items():
                assert after[phase][metric] == pytest.approx(value, abs=2e-3), (phase, metric)


def test_the_record_says_what_was_protected_and_what_it_cost(five: Study) -> None:
    five.job = write_job(five.folder, protection=ON, rounds=2)
    run = five.run()
    first, second = run.json["rounds"]
    account = first["protection"]["train"]
    before = run.json["prepare"]
    assert list(before["protection"]["stages"]) == ["keys", "roster", "masked", "confirm", "reveal"]
    assert list(account["stages"]) == list(second["protection"]["train"]["stages"])
    assert list(second["protection"]["train"]["stages"]) == ["masked", "confirm", "reveal"]
    assert account["summed"] == 5 and account["dropped"] == {} and account["failed"] == ""
    assert account["stages"]["masked"]["up"] > account["stages"]["reveal"]["up"] > 0
    protocol = sum(
        int(stage["up"]) for phase in first["protection"].values() for stage in phase["stages"].values()
    )
    records = [each for each in read_log(run.folder / "evidence" / FILE) if each.said.round == 1]
    # Beside the protocol's messages each reply brings its half of a usage record.
    halves = sum(len(each.said.model_dump_json(exclude_none=True)) for each in records)
    assert first["bytes"]["up"] == protocol + halves + len(records) * len("saidsignature")
    # No metric and no number of examples of a single site is known.
    assert all(set(site) == {"bytes", "seconds"} for site in first["sites"].values())
    receipt = json.loads((run.folder / "evidence" / "receipt.json").read_text())
    assert receipt["protection"] == {"secure_aggregation": "secagg+"}
    assert {layers["protection"] for layers in receipt["layers"].values()} == {"secagg+"}
    report = (run.folder / "report.html").read_text()
    assert "the coordinator can read the sum over the sites, not one site" in report


def test_the_logs_of_site_and_coordinator_tell_the_stages_and_the_same_masked_bytes(five: Study) -> None:
    five.job = write_job(five.folder, protection=ON, rounds=1)
    run = five.run()
    log = list(evidence.read(run.folder / "evidence" / "coordinator.jsonl"))
    stages = [e["stage"] for e in log if e.get("party") == "site-0" and e["step"] == "train round 1"]
    assert stages == ["masked", "confirm", "reveal"]
    before = [e["stage"] for e in log if e.get("party") == "site-0" and e["step"] == "totals"]
    assert before == ["keys", "roster", *stages]
    masked = {
        e["party"]: e["sha256"] for e in log if e.get("stage") == "masked" and e["step"] == "train round 1"
    }
    for name in five.names:
        own = [
            e
            for e in evidence.read(five.folder / ".fedcore" / name / "evidence.jsonl")
            if e["event"] == "release" and e["step"] == "train"
        ]
        assert own[0]["stage"] == "masked" and own[0]["sha256"] == masked[name]
        assert "metrics" not in own[0]


def test_a_site_with_nan_is_named_and_the_round_goes_on(five: Study) -> None:
    Sometimes.calls.clear()
    for i, name in enumerate(five.names):
        write_site(five.folder, name, blobs(40 + 10 * i, i), extra="  code: [fedcore, strategies, tests]\n")
    five.job = write_job(
        five.folder,
        protection=ON,
        task=f"{{use: '{HERE}:Sometimes', target: y}}",
        local="{lr: 0.1, batch_size: 100}",
    )
    told = five.run().json
    assert told["status"] == "finished"
    assert [round_["empty"] for round_ in told["rounds"]] == [False, False, False]
    lost = told["rounds"][1]["lost"]
    assert [(one["party"], one["kind"]) for one in lost] == [("site-0", "DataError")]
    assert "not finite" in lost[0]["reason"]
    assert told["rounds"][1]["protection"]["train"]["dropped"] == {"site-0": "masked"}
    assert told["rounds"][2]["lost"] == []


def test_a_round_below_the_threshold_is_empty_and_the_next_goes_on(study: Study) -> None:
    # Of three nobody may drop out.
    Sometimes.calls.clear()
    for i, name in enumerate(study.names):
        write_site(study.folder, name, blobs(40 + 10 * i, i), extra="  code: [fedcore, strategies, tests]\n")
    study.job = write_job(
        study.folder,
        protection=ON,
        task=f"{{use: '{HERE}:Sometimes', target: y}}",
        local="{lr: 0.1, batch_size: 100}",
    )
    told = study.run().json
    assert told["status"] == "finished"
    assert [round_["empty"] for round_ in told["rounds"]] == [False, True, False]
    lost = {one["party"]: one for one in told["rounds"][1]["lost"]}
    assert set(lost) == {"site-0", "coordinator"}
    assert "2 of 3 participants are left and 3 are needed" in lost["coordinator"]["reason"]


def test_a_sampled_cohort_meets_in_each_round(tmp_path: Path) -> None:
    study = Study(tmp_path, sites=6)
    study.job = write_job(study.folder, protection=ON, participants="{min: 3, fraction: 0.5}", rounds=2)
    told = study.run().json
    assert [r["protection"]["train"]["summed"] for r in told["rounds"]] == [3, 3]
    assert [r["protection"]["evaluate"]["asked"] for r in told["rounds"]] == [6, 6]
    assert "keys" in told["rounds"][1]["protection"]["train"]["stages"]
    assert "keys" not in told["rounds"][1]["protection"]["evaluate"]["stages"]


def test_a_run_goes_on_after_its_checkpoint_with_new_keys(
    five: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedcore.coordinator.workflows import train
    from fedcore.engines.run import resume

    whole = train.Rounds._round

    def stopping(self: Any, number: int, arrays: Any) -> Any:
        if number == 3:
            raise RunInterrupted("the power went")
        return whole(self, number, arrays)

    five.job = write_job(five.folder, protection=ON, rounds=3)
    with monkeypatch.context() as patch:
        patch.setattr(train.Rounds, "_round", stopping)
        with pytest.raises(RunInterrupted):
            five.run()
    resume(five.folder / "run")
    told = json.loads((five.folder / "run" / "result.json").read_text())
    assert "keys" in told["prepare"]["protection"]["stages"]
    assert [one["protection"]["train"]["summed"] for one in told["rounds"]] == [5, 5, 5]


@pytest.mark.parametrize("scaled", ["federated", "none"])
def test_no_site_tells_its_number_of_rows_and_the_result_is_the_same(five: Study, scaled: str) -> None:
    task = f"{{use: tabular-classifier, target: y, model: mlp, hidden: [8], standardize: {scaled}}}"
    plain, masked = both(five, task=task, rounds=1)
    told = masked.json
    assert all(site["rows"] is site["train_rows"] is None for site in told["participants"])
    assert told["prepare"]["totals"]["rows"] == sum(site["rows"] for site in plain.json["participants"])
    one, other = (json.loads((run.folder / "model.json").read_text())["schema"] for run in (plain, masked))
    assert bool(one["mean"]) == (scaled == "federated")
    for what in ("mean", "scale"):
        np.testing.assert_allclose(other[what], one[what], rtol=1e-12)
    logs = "".join(file.read_text() for file in masked.folder.rglob("*.json*"))
    for site in plain.json["participants"]:
        assert f'"rows": {site["rows"]}' not in logs and f'"train_rows": {site["train_rows"]}' not in logs


def test_a_job_may_have_each_site_tell_its_number_of_rows(five: Study) -> None:
    clear = "{secure_aggregation: {protocol: secagg+, examples: clear}}"
    five.job = write_job(five.folder, protection=clear, rounds=1)
    told = five.run().json
    assert [site["rows"] for site in told["participants"]] == [40, 50, 60, 70, 80]
    assert "totals" not in told["prepare"]


# ---- refused before round 1 ----------------------------------------------------------------------------------


def refused(study: Study, kind: type[Exception], *words: str) -> None:
    with pytest.raises(kind) as caught:
        study.run()
    for word in words:
        assert word in str(caught.value)
    assert not (study.folder / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("strategy", ["fedmedian", "fedtrimmedavg", "bulyan", "qfedavg"])
def test_a_strategy_that_needs_each_update_is_refused_and_others_are_named(
    study: Study, strategy: str
) -> None:
    study.job = write_job(study.folder, protection=ON, strategy=f"{{use: {strategy}}}")
    refused(study, JobError, strategy, "update of each participant", "fedavg", "scaffold")


def test_krum_is_refused(study: Study) -> None:
    study.job = write_job(study.folder, protection=ON, strategy="{use: krum, malicious: 0}")
    refused(study, JobError, "krum", "update of each participant")


def test_a_strategy_of_unknown_algebra_is_refused_with_how_to_declare(study: Study) -> None:
    study.job = write_job(study.folder, protection=ON, strategy=f"{{use: '{HERE}:Undeclared'}}")
    refused(study, JobError, "Undeclared", "summable = True")


@pytest.mark.parametrize("name", ["Declared", "Renamed"])
def test_one_that_declares_itself_or_replaces_nothing_is_taken(study: Study, name: str) -> None:
    for i, site in enumerate(study.names):
        write_site(study.folder, site, blobs(40 + 10 * i, i), extra="  code: [fedcore, strategies, tests]\n")
    study.job = write_job(study.folder, protection=ON, strategy=f"{{use: '{HERE}:{name}'}}", rounds=1)
    assert study.run().json["rounds"][0]["protection"]["train"]["summed"] == 3


def test_a_cohort_of_two_is_refused_unless_policy_and_job_allow_it(tmp_path: Path) -> None:
    study = Study(tmp_path, sites=2)
    study.job = write_job(study.folder, protection=ON)
    refused(study, JobError, "a cohort of 2", "least_cohort")
    two = "{secure_aggregation: {protocol: secagg+, least_cohort: 2}}"
    study.job = write_job(study.folder, protection=two)
    with pytest.raises(PolicyRefused, match="least_cohort is 2, at least 3 is required"):
        study.run(folder=tmp_path / "other")
    for i, site in enumerate(study.names):
        write_site(
            study.folder, site, blobs(40 + 10 * i, i), extra="  secure_aggregation: {least_cohort: 2}\n"
        )
    assert study.run(folder=tmp_path / "allowed").json["rounds"][0]["protection"]["train"]["summed"] == 2


def test_a_site_that_requires_protection_refuses_a_plain_job(study: Study) -> None:
    for i, site in enumerate(study.names):
        write_site(
            study.folder, site, blobs(40 + 10 * i, i), extra="  secure_aggregation: {required: true}\n"
        )
    refused(study, PolicyRefused, "under secure aggregation only")
    study.job = write_job(study.folder, protection=ON, rounds=1)
    assert study.run(folder=study.folder / "on").json["status"] == "finished"


def test_a_rule_s_least_cohort_holds_for_the_sum(five: Study) -> None:
    for i, site in enumerate(five.names):
        write_site(five.folder, site, blobs(40 + 10 * i, i), rule="{jobs: [train], data: any, min_cohort: 4}")
    five.job = write_job(five.folder, protection=ON)
    refused(five, PolicyRefused, "at least 4 participants", "least_cohort")


def test_the_local_baseline_and_protection_exclude_each_other(study: Study) -> None:
    study.job = write_job(study.folder, protection=ON, baselines="[local]")
    with pytest.raises(JobError, match="model of each single site"):
        study.run()


def test_a_run_in_which_no_round_gave_a_sum_has_failed(study: Study) -> None:
    # The weight of 0.5 leaves no whole number of examples anywhere: every site refuses.
    from fedcore.participant import work

    before = work.train_round

    def halved(*args: Any) -> Any:
        reply = before(*args)
        reply.content["metrics"]["num-examples"] = 0.5
        return reply

    study.job = write_job(study.folder, protection=ON, rounds=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "train_round", halved)
        with pytest.raises(ProtocolFailed, match="no round gave a sum"):
            study.run()


@pytest.mark.parametrize("written", ["secagg", "{protocol: secagg+, clip: 0}", "{protokol: secagg+}"])
def test_a_misspelt_protection_is_told(study: Study, written: str) -> None:
    study.job = write_job(study.folder, protection=f"{{secure_aggregation: {written}}}")
    with pytest.raises(JobError, match="secure_aggregation"):
        study.run()


@pytest.mark.slow
def test_the_simulation_engine_gives_the_same_model(five: Study) -> None:
    five.job = write_job(five.folder, protection=ON, rounds=2)
    one = load_file(five.run(folder=five.folder / "embedded").model)
    five.federation = write_federation(five.folder, five.names)
    run = five.run(folder=five.folder / "simulated", engine="simulation")
    other = load_file(run.model)
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=0, atol=2e-5)
    assert "keys" not in run.json["rounds"][1]["protection"]["train"]["stages"]
