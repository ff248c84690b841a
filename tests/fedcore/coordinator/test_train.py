"""The train workflow on the embedded engine: results, faults, checkpoints, resuming, stopping."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

import fedcore
from fedcore.coordinator import checkpoint as checkpoints
from fedcore.engines.run import resume
from fedcore.errors import DataError, FedcoreError, JobError, PeerLost, PolicyRefused, RunInterrupted
from fedcore.trust import evidence
from tests.sites import Study, blobs, write_federation, write_job, write_site

HERE = "tests.fedcore.coordinator.test_train"


class Faulty(fedcore.Task):
    """Logistic regression that fails at one site from some round on, as `how` says."""

    classification = True
    release = threading.Event()
    calls: ClassVar[dict[str, int]] = {}

    def __init__(self, how: str = "nothing", rows: int = 0, after: int = 0) -> None:
        self.how, self.rows, self.after = how, rows, after

    def model(self) -> torch.nn.Module:
        return torch.nn.Linear(len(self.schema.features), 2)

    def loss(self, model: torch.nn.Module, batch: fedcore.Batch) -> torch.Tensor:
        loss = functional.cross_entropy(model(batch.x), batch.y)
        if len(batch) != self.rows:
            return loss
        Faulty.calls[self.how] = Faulty.calls.get(self.how, 0) + 1
        if Faulty.calls[self.how] <= self.after:
            return loss
        if self.how == "raise":
            raise ValueError("patient Zaphod is odd")
        if self.how == "hang":
            Faulty.release.wait(60)
        if self.how == "nan":
            return loss * float("nan")
        if self.how == "interrupt":
            raise KeyboardInterrupt
        return loss

    def metrics(self, model: torch.nn.Module, batches: Any) -> dict[str, float]:
        right = rows = 0
        for batch in batches:
            right += int((model(batch.x).argmax(1) == batch.y).sum())
            rows += len(batch)
        return {"accuracy": right / rows}


class Normed(Faulty):
    """With batch normalisation, which FedBN keeps at the sites; its counter is an integer array."""

    def model(self) -> torch.nn.Module:
        inputs = len(self.schema.features)
        return torch.nn.Sequential(
            torch.nn.Linear(inputs, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        )


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    Faulty.calls.clear()
    Faulty.release.clear()
    yield
    Faulty.release.set()


def use_faulty(study: Study, how: str, *, after: int = 0, **settings: Any) -> None:
    """Site 0 trains its 32 rows in one batch, which no other site has, and fails there."""
    for i, name in enumerate(study.names):
        write_site(study.folder, name, blobs(40 + 10 * i, i), extra="  code: [fedcore, strategies, tests]\n")
    study.job = write_job(
        study.folder,
        task=f"{{use: '{HERE}:Faulty', target: y, with: {{how: {how}, rows: 32, after: {after}}}}}",
        local="{lr: 0.1, batch_size: 100}",
        **settings,
    )


# ---- what a run gives --------------------------------------------------------------------------------------


def test_a_run_learns_and_writes_the_whole_run_folder(study: Study) -> None:
    run = study.run()
    result = run.json
    assert result["status"] == "finished"
    assert [r["round"] for r in result["rounds"]] == [1, 2, 3]
    assert result["final"]["evaluate"]["accuracy"] > 0.9
    assert set(result["final"]["sites"]) == set(study.names)
    for name in ("result.json", "model.safetensors", "model.json", "report.html", "run.log", "job.yaml"):
        assert (run.folder / name).stat().st_size > 0
    assert run.result.metrics[0]["round"] == 1
    assert "iframe" in run._repr_html_()


def test_the_same_seed_gives_the_same_model_and_another_seed_another(study: Study) -> None:
    first = load_file(study.run(folder=study.folder / "a").model)
    again = load_file(study.run(folder=study.folder / "b").model)
    study.job = write_job(study.folder, seed=4)
    other = load_file(study.run(folder=study.folder / "c").model)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedprox", "scaffold", "fednova", "fedmedian"])
def test_workers_and_serialisation_do_not_change_the_result(study: Study, strategy: str) -> None:
    study.job = write_job(study.folder, strategy=f"{{use: {strategy}}}")
    one = load_file(study.run(folder=study.folder / "one").model)
    study.federation = write_federation(
        study.folder, study.names, extra="embedded: {workers: 3, serialize: true}\n"
    )
    three = load_file(study.run(folder=study.folder / "three").model)
    for name in one:
        np.testing.assert_allclose(three[name], one[name], rtol=0, atol=1e-6)


def test_federated_scaling_equals_that_of_all_training_rows(study: Study) -> None:
    study.job = write_job(study.folder, local="{lr: 0.1, batch_size: 8, validation: 0}")
    run = study.run()
    card = json.loads((run.folder / "model.json").read_text())
    pooled = np.concatenate(
        [
            np.stack([blobs(40 + 10 * i, i)[f"f{j}"] for j in range(4)], axis=1).astype(np.float32)
            for i in range(3)
        ]
    ).astype(np.float64)
    np.testing.assert_allclose(card["schema"]["mean"], pooled.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(card["schema"]["scale"], pooled.std(axis=0), rtol=1e-9)


def test_full_batch_federated_logistic_regression_reaches_the_pooled_optimum(study: Study) -> None:
    # With one full-batch step per round, FedAvg is gradient descent on the pooled loss.
    tables = [blobs(40 + 10 * i, i, shift=0.5) for i in range(3)]
    for name, columns in zip(study.names, tables, strict=True):
        write_site(study.folder, name, columns)
    study.job = write_job(
        study.folder,
        task="{use: tabular-classifier, target: y, model: logistic, standardize: none}",
        local="{lr: 1.0, batch_size: 1000, validation: 0}",
        rounds=200,
        evaluation="{every: 200}",
    )
    weights = load_file(study.run().model)
    x = np.concatenate([np.stack([t[f"f{j}"] for j in range(4)], axis=1) for t in tables])
    y = np.concatenate([t["y"] for t in tables])
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(weights["0.weight"][1] - weights["0.weight"][0], reference.coef_[0], atol=1e-3)
    np.testing.assert_allclose(
        weights["0.bias"][1] - weights["0.bias"][0], reference.intercept_[0], atol=1e-3
    )


def test_baselines_are_measured_on_the_same_central_rows(study: Study) -> None:
    write_site(study.folder, "central", blobs(200, 99))
    study.job = write_job(
        study.folder,
        evaluation="{central: {connector: parquet, path: central.parquet}}",
        baselines="[local, pooled]",
        rounds=5,
    )
    told = study.run().json
    found = told["baselines"]
    assert found["measured_on"] == "central data"
    assert set(found["local"]) == set(study.names)
    assert found["pooled"]["accuracy"] > 0.9
    assert found["federated"] == told["rounds"][-1]["central"]


def test_evidence_at_each_site_and_at_the_coordinator_tells_the_same_release(study: Study) -> None:
    run = study.run()
    at_coordinator = [
        e for e in evidence.read(run.folder / "evidence" / "coordinator.jsonl") if "sha256" in e
    ]
    digests = {(e["party"], e["step"]): e["sha256"] for e in at_coordinator if e["step"].startswith("train")}
    assert len(digests) == 9
    for name in study.names:
        site = list(evidence.read(study.folder / ".fedcore" / name / "evidence.jsonl"))
        assert [e["event"] for e in site[:2]] == ["request", "release"]
        for entry in site:
            if entry["event"] == "release" and entry["step"] == "train":
                assert digests[name, f"train round {entry['round']}"] == entry["sha256"]
    receipt = json.loads((run.folder / "evidence" / "receipt.json").read_text())
    assert receipt["protection"] == {"secure_aggregation": "none"}
    assert receipt["layers"]["site-0"]["privacy"] == "off"


# ---- bad input, before any work ------------------------------------------------------------------------------


def refused(study: Study, kind: type[FedcoreError], *words: str) -> str:
    with pytest.raises(kind) as caught:
        study.run()
    told = str(caught.value)
    for word in words:
        assert word in told
    result = json.loads((study.folder / "run" / "result.json").read_text())
    assert result["status"] == "refused" and result["rounds"] == []
    return told


def test_a_missing_column_is_named_with_the_nearest(study: Study) -> None:
    study.job = write_job(study.folder, task="{use: tabular-classifier, target: y, features: [f0, f11]}")
    refused(study, DataError, "site-0", "f11", 'did you mean "f1"')


def test_a_site_without_rows_is_named(study: Study) -> None:
    write_site(study.folder, "site-1", {key: value[:0] for key, value in blobs(4, 0).items()})
    refused(study, DataError, "site-1", "0 rows")


def test_another_schema_at_one_site_is_refused_with_the_difference(study: Study) -> None:
    columns = blobs(40, 1)
    columns["age"] = columns.pop("f2")
    write_site(study.folder, "site-1", columns)
    refused(study, DataError, "site-1", "lacks f2", "has age")


def test_nan_in_the_data_names_the_column_and_no_value(study: Study) -> None:
    columns = blobs(40, 1)
    columns["f3"][5] = np.nan
    write_site(study.folder, "site-1", columns)
    refused(study, DataError, "site-1", "f3", "fill or remove")


def test_text_in_a_feature_is_refused(study: Study) -> None:
    columns = {**blobs(40, 1), "f1": ["x"] * 40}
    write_site(study.folder, "site-1", columns)
    study.job = write_job(study.folder, task="{use: tabular-classifier, target: y, features: [f0, f1]}")
    refused(study, DataError, "site-1", "f1", "numeric")


def test_one_class_over_all_sites_is_refused(study: Study) -> None:
    for i, name in enumerate(study.names):
        write_site(study.folder, name, {**blobs(40, i), "y": np.ones(40, dtype=int)})
    refused(study, DataError, "one class")


def test_one_class_at_one_site_is_a_warning_and_its_auc_is_left_out(study: Study) -> None:
    write_site(study.folder, "site-1", {**blobs(40, 1), "y": np.ones(40, dtype=int)})
    told = study.run().json
    assert any("site-1" in warning and "one class" in warning for warning in told["warnings"])
    assert told["final"]["sites"]["site-1"]["auc"] is None
    assert 0.5 < told["final"]["evaluate"]["auc"] <= 1


def test_fewer_participants_than_the_minimum_is_refused_before_anything_starts(study: Study) -> None:
    study.job = write_job(study.folder, participants="{min: 4}")
    with pytest.raises(JobError, match=r"participants.min is 4 but federation test-federation has 3"):
        study.run()


def test_a_site_whose_policy_denies_is_left_out_and_shown(study: Study) -> None:
    write_site(study.folder, "site-2", blobs(40, 2), rule="{jobs: [analytics], data: any}")
    told = study.run().json
    assert [p["name"] for p in told["participants"]] == ["site-0", "site-1"]
    assert told["left_out"][0]["party"] == "site-2" and "jobs allowed" in told["left_out"][0]["reason"]


def test_policy_denials_below_the_minimum_refuse_the_run(study: Study) -> None:
    for name in study.names[1:]:
        write_site(study.folder, name, blobs(40, 1), rule="{jobs: [train], data: any, purpose: audit}")
    refused(study, PolicyRefused, "1 of at least 2", "purpose must be 'audit'")


def test_code_that_a_site_does_not_allow_does_not_run_there(study: Study) -> None:
    study.job = write_job(study.folder, task=f"{{use: '{HERE}:Faulty', target: y}}")
    refused(study, PolicyRefused, "may not run here", "policy.code")


# ---- faults while it runs ------------------------------------------------------------------------------------


def test_a_participant_that_raises_is_left_out_and_its_text_stays_at_the_site(study: Study) -> None:
    use_faulty(study, "raise", after=1)
    told = study.run().json
    assert told["status"] == "finished"
    assert told["rounds"][0]["lost"] == []
    lost = told["rounds"][1]["lost"]
    assert [(one["party"], one["step"], one["kind"]) for one in lost] == [
        ("site-0", "train round 2", "TaskFailed")
    ]
    assert "ValueError" in lost[0]["reason"] and "Zaphod" not in json.dumps(told)


def test_a_participant_that_hangs_costs_one_deadline(study: Study) -> None:
    use_faulty(study, "hang", after=1, deadline=2)
    began = time.monotonic()
    told = study.run().json
    assert told["status"] == "finished" and time.monotonic() - began < 30
    assert {one["party"] for r in told["rounds"] for one in r["lost"]} == {"site-0"}
    assert "no reply within 2 s" in told["rounds"][1]["lost"][0]["reason"]


def test_an_update_with_nan_is_not_sent(study: Study) -> None:
    use_faulty(study, "nan", after=1)
    lost = study.run().json["rounds"][1]["lost"]
    assert (
        lost[0]["party"] == "site-0" and "not finite" in lost[0]["reason"] and "local.lr" in lost[0]["reason"]
    )


def test_below_the_minimum_the_run_stops_and_resumes_where_it_was(study: Study) -> None:
    use_faulty(study, "raise", after=2, participants="{min: 3}", rounds=4)
    with pytest.raises(
        RunInterrupted, match=r"train round 3: 2 usable replies of at least 3.*fedcore resume"
    ):
        study.run()
    folder = study.folder / "run"
    told = json.loads((folder / "result.json").read_text())
    assert told["status"] == "interrupted" and len(told["rounds"]) == 2
    Faulty.calls["raise"] = -100
    resumed = resume(folder).json
    assert [r["round"] for r in resumed["rounds"]] == [1, 2, 3, 4] and resumed["status"] == "finished"


@pytest.mark.parametrize("strategy", ["fedadam", "fedavgm", "scaffold", "fednova", "fedbn", "fedyogi"])
def test_a_resumed_run_equals_one_that_was_never_stopped(study: Study, strategy: str) -> None:
    use_faulty(study, "nothing")
    study.job = write_job(
        study.folder, strategy=f"{{use: {strategy}}}", rounds=5, task=f"{{use: '{HERE}:Normed', target: y}}"
    )
    whole = load_file(study.run(folder=study.folder / "whole").model)
    stopped = study.folder / "stopped"
    original = checkpoints.save

    def killed_after_three(folder: Path, checkpoint: checkpoints.Checkpoint) -> Path:
        written = original(folder, checkpoint)
        if checkpoint.number == 3:
            raise KeyboardInterrupt
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "save", killed_after_three)
        with pytest.raises(KeyboardInterrupt):
            study.run(folder=stopped)
    assert json.loads((stopped / "result.json").read_text())["status"] == "interrupted"
    resumed = load_file(resume(stopped).model)
    for name in whole:
        np.testing.assert_allclose(resumed[name], whole[name], rtol=0, atol=1e-7)


def test_a_strategy_that_does_not_fit_the_model_says_why(study: Study) -> None:
    study.job = write_job(study.folder, strategy="{use: fedbn}")
    with pytest.raises(RunInterrupted, match=r"strategy: .*batch norm"):
        study.run()


def test_a_finished_run_is_not_resumed(study: Study) -> None:
    folder = study.run().folder
    with pytest.raises(JobError, match="has finished"):
        resume(folder)


def test_early_stopping_keeps_the_best_round(study: Study) -> None:
    study.job = write_job(study.folder, rounds=40, stop="{metric: accuracy, patience: 2}")
    told = study.run().json
    assert told["status"] == "stopped-early" and "has not improved" in told["reason"]
    values = [r["evaluate"]["accuracy"] for r in told["rounds"]]
    assert told["best"]["value"] == max(values) and told["best"]["round"] == values.index(max(values)) + 1
    assert len(values) == told["best"]["round"] + 2
    assert told["final"]["round"] == told["best"]["round"]


def test_an_unknown_stop_metric_names_those_there_are(study: Study) -> None:
    study.job = write_job(study.folder, stop="{metric: acuracy}")
    with pytest.raises(JobError, match=r"no 'acuracy'; allowed: accuracy, auc, loss"):
        study.run()


def test_two_runs_at_once_do_not_disturb_each_other(study: Study) -> None:
    alone = load_file(study.run(folder=study.folder / "alone").model)
    found: dict[str, Any] = {}

    def go(name: str) -> None:
        found[name] = load_file(study.run(folder=study.folder / name).model)

    threads = [threading.Thread(target=go, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("a", "b"):
        for key in alone:
            np.testing.assert_allclose(found[name][key], alone[key], rtol=0, atol=1e-7)
    for site in study.names:
        assert len(list(evidence.read(study.folder / ".fedcore" / site / "evidence.jsonl"))) == 3 * 14


def test_one_run_folder_is_written_by_one_process_only(study: Study) -> None:
    import fcntl

    folder = study.folder / "run"
    folder.mkdir()
    with (folder / ".running").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunInterrupted, match="written by another process"):
            study.run()


def test_a_sample_of_the_cohort_is_drawn_by_name_and_seed(study: Study) -> None:
    study.job = write_job(study.folder, participants="{min: 1, fraction: 0.34}", rounds=6)

    def trained(folder: str) -> list[list[str]]:
        rounds = study.run(folder=study.folder / folder).json["rounds"]
        return [[name for name, site in r["sites"].items() if "examples" in site] for r in rounds]

    picked = trained("a")
    assert all(len(names) == 1 for names in picked) and len({names[0] for names in picked}) > 1
    assert trained("b") == picked


def test_nobody_online_is_said_after_the_deadline(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedcore.engines.embedded import EmbeddedGrid

    monkeypatch.setattr(EmbeddedGrid, "get_node_ids", lambda self: [])
    study.job = write_job(study.folder, deadline=1)
    refused(study, PeerLost, "0 participants are online after 1 s", "start the others")
