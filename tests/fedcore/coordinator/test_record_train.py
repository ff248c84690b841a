"""Record-level privacy in a train job: what leaves, what is charged, what is refused, what is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from fedcore.coordinator.terminal_protection import promised
from fedcore.errors import BudgetExhausted, JobError, PolicyRefused
from fedcore.learning.builtin import Classifier
from fedcore.learning.private import loop, noise, step
from fedcore.learning.task import Task
from fedcore.trust import evidence
from tests.sites import Study, blobs, write_job, write_site

HERE = "tests.fedcore.coordinator.test_record_train"
# A small epsilon: its noise is found in a tenth of the time.
PROMISE = "level: record, epsilon: 1, delta: 1.0e-3, classes: [0, 1]"
BUDGET = "  privacy: {study: {epsilon: 1.5, delta: 5.0e-2, per: ever, neighbours: add-remove-row}}\n"
LOCAL = "{lr: 0.5, batch_size: 20, validation: 0}"


def record_job(folder: Path, promise: str = PROMISE, sums: str = "none", **settings: Any) -> Path:
    """A job that promises privacy to each row."""
    defaults = {
        "rounds": 2,
        "task": "{use: tabular-classifier, target: y, standardize: none}",
        "local": LOCAL,
        "evaluation": "{federated: false, central: {connector: parquet, path: site-0.parquet}}",
        "protection": f"{{secure_aggregation: {sums}, differential_privacy: {{{promise}}}}}",
    }
    return write_job(folder, **{**defaults, **settings})


@pytest.fixture
def three(tmp_path: Path) -> Study:
    """Three sites of as many rows, each with a budget for one run."""
    study = Study(tmp_path, sites=3)
    for i, name in enumerate(study.names):
        write_site(tmp_path, name, blobs(60, i), extra=BUDGET)
    study.job = record_job(tmp_path)
    return study


def charges(study: Study, name: str) -> list[dict[str, Any]]:
    """Of a site's ledger."""
    file = study.folder / ".fedcore" / name / "privacy" / "study.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in lines if line["kind"] == "charge"]


@pytest.mark.parametrize("sums", ["none", "secagg+"])
def test_a_run_keeps_its_promise_charges_each_site_once_and_says_so(three: Study, sums: str) -> None:
    three.job = record_job(three.folder, sums=sums)
    run = three.run()
    told = run.json["privacy"]
    assert run.json["status"] == "finished" and [r["empty"] for r in run.json["rounds"]] == [False, False]
    assert told["neighbours"] == "add-remove-row" and told["rounds_completed"] == told["rounds_paid"] == 2
    if sums == "none":
        # Two rounds of 3 steps with a third of the rows each.
        assert {(each["steps"], round(each["sampling"], 3)) for each in told["sites"].values()} == {
            (6, 0.333)
        }
    else:
        assert told["sites"] == {}, "the noise tells the number of rows, which is protected"
    for name in three.names:
        assert [(c["request"], c["amount"], c["delta"]) for c in charges(three, name)] == [
            (run.json["run"], "1", "0.001")
        ]
        sent = [
            e
            for e in evidence.read(three.folder / ".fedcore" / name / "evidence.jsonl")
            if e["event"] == "release" and e["step"] == "train"
        ]
        assert sent and all(set(e.get("metrics", {"num-examples"})) <= {"num-examples"} for e in sent)
    assert all(set(each["train"]) <= {"num-examples"} for each in run.json["rounds"]), "no loss leaves"
    receipt = json.loads((run.folder / "evidence" / "receipt.json").read_text())
    assert {layers["privacy"] for layers in receipt["layers"].values()} == {
        "record-level, epsilon 1, delta 0.001"
    }
    assert {layers["budget"] for layers in receipt["layers"].values()} == {"charged"}
    report = (run.folder / "report.html").read_text()
    assert "add-remove-row" in report and "record-level" in report
    assert "would leave it without noise" in report and "baselines: [local" not in report
    assert "one row of a site is there or is not" in str(promised(told)[0])
    if sums == "none":
        with pytest.raises(BudgetExhausted, match=r"requested epsilon 1.*remaining epsilon 0\.5"):
            three.run(folder=three.folder / "again")


def test_without_noise_and_with_a_large_clip_a_run_is_plain_training(
    three: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        step, "released", lambda values, deviation, over=1.0: [each / over for each in values]
    )
    plain = record_job(three.folder, local="{lr: 0.5, batch_size: 60, validation: 0}", protection="{}")
    write_job_text = plain.read_text()
    three.job = plain
    for name in three.names:
        write_site(three.folder, name, blobs(60, int(name[-1])))
    expected = load_file(three.run(folder=three.folder / "plain").folder / "model.safetensors")
    assert "differential_privacy" not in write_job_text
    # Every row is in every step: a rate of one.
    three.job = record_job(
        three.folder, f"{PROMISE}, clip: 1.0e+6", local="{lr: 0.5, batch_size: 60, validation: 0}"
    )
    found = load_file(three.run(folder=three.folder / "private").folder / "model.safetensors")
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_the_noise_in_an_update_is_what_the_promise_takes(
    three: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []
    real = noise.released

    def watched(values: Any, deviation: float, over: float = 1.0) -> Any:
        drawn.append(deviation)
        return real(values, deviation, over)

    monkeypatch.setattr(step, "released", watched)
    three.job = record_job(three.folder, f"{PROMISE}, clip: 0.25")
    run = three.run()
    expected = {0.25 * each["noise"] for each in run.json["privacy"]["sites"].values()}
    assert len(drawn) == 3 * 6 and set(drawn) == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"local": "{batch_size: 8}"}, "local.validation"),
        ({"local": "{batch_size: 8, validation: 0, patience: 2}"}, "local.patience"),
        ({"local": "{batch_size: 8, validation: 0, precision: float16}"}, "float16"),
        ({"evaluation": "{federated: true}"}, "evaluation.federated"),
        ({"baselines": "[local]"}, "baselines"),
        ({"task": "{use: tabular-classifier, target: y}"}, "standardize"),
        ({"promise": "level: record, epsilon: 1, delta: 1.0e-3"}, "classes"),
        ({"promise": f"{PROMISE}, mode: local"}, "mode"),
        ({"promise": f"{PROMISE}, clip: 0"}, "clip"),
        ({"strategy": "{use: qfedavg}"}, "loss"),
    ],
)
def test_what_cannot_be_promised_is_refused_before_anything_is_trained(
    three: Study, settings: dict[str, str], words: str
) -> None:
    three.job = record_job(three.folder, **settings)
    with pytest.raises(JobError, match=words):
        three.run()
    assert not any(charges(three, name) for name in three.names)


def test_a_delta_above_one_over_a_sites_rows_is_refused_at_the_site(three: Study) -> None:
    three.job = record_job(three.folder, PROMISE.replace("1.0e-3", "0.02"), participants="{min: 3}")
    with pytest.raises(JobError, match=r"number of rows \(60\), 0\.0167"):
        three.run()


def test_a_budget_that_protects_more_than_rows_refuses_the_promise_to_a_row(three: Study) -> None:
    for name in three.names:
        budget = BUDGET.replace("add-remove-row", "replace-client")
        write_site(three.folder, name, blobs(60, 1), extra=budget)
    with pytest.raises(PolicyRefused, match="level: client"):
        three.run()


class Shared(Classifier):
    """Rows share two of its layers."""

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 2)
        )


class Whole(Classifier):
    """Says one loss for all rows together."""

    losses = Task.losses

    def model(self) -> nn.Module:
        return nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("Shared", r"2 layers break.*1 \(BatchNorm1d\).*3 \(BatchNorm1d\)"),
        ("Whole", r"says no loss for each row.*losses\(outputs, y\)"),
    ],
)
def test_a_model_or_a_task_whose_rows_are_not_apart_is_refused_before_round_1(
    three: Study, task: str, words: str
) -> None:
    three.job = record_job(three.folder, task=f"{{use: '{HERE}:{task}', target: y}}")
    for i, name in enumerate(three.names):
        extra = f"  code: [fedcore, strategies, {HERE}]\n"
        write_site(three.folder, name, blobs(60, i), extra=extra)
    with pytest.raises(JobError, match=words):
        three.run()


def test_rows_that_cannot_be_used_are_counted_and_count_as_nothing(
    three: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        step, "released", lambda values, deviation, over=1.0: [each / over for each in values]
    )
    monkeypatch.setattr(loop, "poisson_batch", lambda rows, rate: torch.arange(rows))
    monkeypatch.setattr(loop, "steps_of_round", lambda rows, local: 3)

    def rows(i: int, bad: bool) -> dict[str, Any]:
        found = blobs(60, i)
        if bad:
            # Beside the sixty: one without a value, one of no class.
            found = {name: np.append(values, values[:2]) for name, values in found.items()}
            found["f1"][60], found["y"][61] = np.nan, 7
        return found

    models = []
    for bad in (False, True):
        for i, name in enumerate(three.names):
            write_site(three.folder, name, rows(i, bad))
        # The central data are the first site's own.
        three.job = record_job(
            three.folder,
            local="{lr: 0.5, batch_size: 60, validation: 0}",
            evaluation="{federated: false, central: {connector: parquet, path: central.parquet}}",
        )
        write_site(three.folder, "central", rows(0, False))
        run = three.run(folder=three.folder / f"run-{bad}")
        assert [site["train_rows"] for site in run.json["participants"]] == [62 if bad else 60] * 3
        models.append(load_file(run.folder / "model.safetensors"))
    assert "2 of 62 rows of study cannot be used" in caplog.text
    for name, value in models[0].items():
        np.testing.assert_allclose(models[1][name], value, atol=1e-6)
