"""Client-level privacy in a train job: what leaves, what is charged, what a resumed run may still do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedcore.coordinator.checkpoint import write_json
from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.coordinator.terminal_protection import promised
from fedcore.coordinator.workflows import protection
from fedcore.engines.run import resume
from fedcore.errors import BudgetExhausted, DataError, JobError, PolicyRefused, ProtocolFailed
from fedcore.participant import private_training
from fedcore.trust import evidence
from tests.sites import Study, blobs, write_job, write_site

PROMISE = "level: client, epsilon: 8, delta: 1.0e-5, classes: [0, 1]"
BUDGET = "  privacy: {study: {epsilon: 12, delta: 1.0e-4, per: ever, neighbours: add-remove-row}}\n"
ROUNDS = 2


def private_job(folder: Path, promise: str = PROMISE, sums: str = "secagg+", **settings: Any) -> Path:
    """A job under privacy."""
    defaults = {
        "rounds": ROUNDS,
        "task": "{use: tabular-classifier, target: y, standardize: none}",
        "evaluation": "{federated: false, central: {connector: parquet, path: site-0.parquet}}",
        "protection": f"{{secure_aggregation: {sums}, differential_privacy: {{{promise}}}}}",
    }
    return write_job(folder, **{**defaults, **settings})


@pytest.fixture
def five(tmp_path: Path) -> Study:
    """Five sites, each with a budget for one run."""
    study = Study(tmp_path, sites=5)
    for i, name in enumerate(study.names):
        write_site(tmp_path, name, blobs(40 + 10 * i, i), extra=BUDGET)
    study.job = private_job(tmp_path)
    return study


class Watching:
    """A watcher whose every event goes to one function."""

    def __init__(self, told: Callable[[str, tuple[Any, ...]], None]) -> None:
        self.told = told

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values: self.told(name, values)


def charges(study: Study, name: str) -> list[dict[str, Any]]:
    """Of a site's ledger."""
    file = study.folder / ".fedcore" / name / "privacy" / "study.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in lines if line["kind"] == "charge"]


def test_a_run_keeps_its_promise_charges_each_site_once_and_says_so(five: Study) -> None:
    run = five.run()
    told = run.json["privacy"]
    assert run.json["status"] == "finished" and [r["privacy"]["summed"] for r in run.json["rounds"]] == [5, 5]
    assert told["neighbours"] == "replace-client" and told["rounds_begun"] == told["rounds_paid"] == ROUNDS
    assert told["lost_at_most"] == 2 and told["least_in_sum"] == 4
    assert 7.5 < told["spent"] <= 8 and told["accountants"]["apart"] < 0.01
    for name in five.names:
        assert [(c["request"], c["amount"], c["delta"]) for c in charges(five, name)] == [
            (run.json["run"], "8", "0.00001")
        ]
        sent = [
            e
            for e in evidence.read(five.folder / ".fedcore" / name / "evidence.jsonl")
            if e["event"] == "release" and e["step"] in ("train", "evaluate", "query.totals")
        ]
        # Nothing without noise: no evaluation, no sum of rows, no metric.
        assert {(e["step"], e.get("stage")) for e in sent} == {("train", "masked")}
        assert all("metrics" not in e for e in sent)
    receipt = json.loads((run.folder / "evidence" / "receipt.json").read_text())
    assert {layers["privacy"] for layers in receipt["layers"].values()} == {
        "client-level, epsilon 8, delta 1e-05"
    }
    assert {layers["budget"] for layers in receipt["layers"].values()} == {"charged"}
    report = (run.folder / "report.html").read_text()
    assert "Differential privacy" in report and "replace-client" in report
    assert "epsilon 8, delta 1e-05" in str(promised(told)[0]) and promised(None) == []
    # The sites' budget has 4 left.
    with pytest.raises(
        BudgetExhausted, match=r"requested epsilon 8.*remaining epsilon 4.*difference epsilon 4"
    ):
        five.run(folder=five.folder / "again")
    assert all(len(charges(five, name)) == 1 for name in five.names)


@pytest.mark.parametrize("sums", ["secagg+", "none"])
def test_without_noise_the_model_is_the_mean_of_clipped_updates_over_all_that_were_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sums: str
) -> None:
    monkeypatch.setattr(private_training, "draw_share", lambda shares, count: np.zeros(count, np.int64))
    study, norms = Study(tmp_path, sites=5), []
    clipped = private_training.clipped_steps

    def watched(change: Any, clip: float, steps: int) -> Any:
        found = clipped(change, clip, steps)
        norms.append(np.linalg.norm(change))
        parts.append(change * min(1.0, clip / np.linalg.norm(change)))
        return found

    parts: list[Any] = []
    monkeypatch.setattr(private_training, "clipped_steps", watched)
    promise = f"{PROMISE}, clip: 0.05" + (", mode: local" if sums == "none" else "")
    study.job = private_job(tmp_path, promise, sums, rounds=1)
    run = study.run()
    assert len(norms) == 5 and min(norms) > 0.05
    moved = np.sum(parts, axis=0) / 5
    after = np.concatenate([value.ravel() for value in _ordered(run)])
    started = np.concatenate([value.ravel() for value in _initial(run)])
    steps = json.loads((run.folder / "privacy.json").read_text())["plan"]["clip_steps"]
    assert steps >= 64
    np.testing.assert_allclose(after - started, moved, atol=0.05 / steps)


@pytest.mark.slow
def test_sampling_and_an_adaptive_clip_and_a_server_optimizer(tmp_path: Path) -> None:
    study = Study(tmp_path, sites=5)
    study.job = private_job(
        tmp_path,
        f"{PROMISE}, clipping: adaptive, rate: 0.5",
        participants="{min: 3, fraction: 0.5}",
        strategy="{use: fedadam}",
    )
    run = study.run()
    told = run.json["privacy"]
    assert told["neighbours"] == "add-remove-client" and told["sampling"] == 0.5
    rounds = [each["privacy"] for each in run.json["rounds"]]
    assert [each["summed"] for each in rounds] == [5, 5]
    for each in rounds:
        expected = each["clip"] * np.exp(-0.5 * (each["below"] - 0.5))
        assert each["next_clip"] == pytest.approx(expected)
    assert rounds[1]["clip"] == rounds[0]["next_clip"] != 1.0
    receipt = json.loads((run.folder / "evidence" / "receipt.json").read_text())
    assert {layers["budget"] for layers in receipt["layers"].values()} == {"none stated"}


def test_a_run_that_is_resumed_is_not_charged_again_and_a_round_that_was_cut_off_is_used(five: Study) -> None:
    five.job = private_job(five.folder, f"{PROMISE}, spare: 1", rounds=3)

    begun: list[str] = []

    def stops(name: str, values: tuple[Any, ...]) -> None:
        # The first confirms are of round 1; at the second the updates of round 2 have left.
        if name == "stage_started" and values[0] == "confirm":
            begun.append(name)
            if len(begun) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        five.run(watcher=Watching(stops))
    folder = five.folder / "run"
    assert len(json.loads((folder / "result.json").read_text())["rounds"]) == 1
    run = resume(folder)
    assert run.json["status"] == "finished" and len(run.json["rounds"]) == 3
    assert (run.json["privacy"]["rounds_begun"], run.json["privacy"]["rounds_paid"]) == (4, 4)
    for name in five.names:
        assert len(charges(five, name)) == 1
        file = five.folder / ".fedcore" / name / "privacy" / "runs" / f"{run.json['run']}.jsonl"
        assert len(file.read_text().splitlines()) == 2 + 4


def test_a_run_whose_paid_rounds_are_used_up_ends_with_what_it_has(five: Study) -> None:
    five.job = private_job(five.folder, rounds=2)

    def stops(name: str, values: tuple[Any, ...]) -> None:
        if name == "phase_started" and values[0] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        five.run(watcher=Watching(stops))
    run = resume(five.folder / "run")
    assert run.json["status"] == "stopped-early" and len(run.json["rounds"]) == 1
    assert "all 2 rounds that were paid for were begun, 1 completed" in run.json["reason"]


def test_a_coordinator_that_asks_a_site_for_more_is_refused_there(five: Study) -> None:
    run = five.run()
    # As if the coordinator had forgotten that rounds were begun.
    file = run.folder / "privacy.json"
    told = json.loads(file.read_text())
    for path in sorted((run.folder / "checkpoints").glob("round-0002")):
        for each in path.iterdir():
            each.unlink()
        path.rmdir()
    write_json(file, {**told, "started": 1})
    (run.folder / "result.json").unlink()
    again = resume(run.folder).json["rounds"][1]
    assert again["empty"] and again["privacy"]["summed"] == 0
    assert len(again["lost"]) >= 5
    assert all("2 updates that were paid for" in one["reason"] for one in again["lost"][:5])


@pytest.mark.parametrize(
    ("promise", "settings", "kind", "told"),
    [
        (PROMISE, {"strategy": "{use: scaffold}"}, JobError, "fedavg, fedprox"),
        (PROMISE, {"strategy": "{use: fedmedian}"}, JobError, "single updates"),
        (PROMISE.replace("1.0e-5", "0.3"), {}, BudgetExhausted, r"requested epsilon 8, delta 0\.3"),
        (PROMISE.replace("[0, 1]", "[0, 2]"), {}, DataError, "name all values"),
        (f"{PROMISE}, neighbours: add-remove", {}, PolicyRefused, "neighbours: replace"),
    ],
)
def test_what_cannot_be_promised_is_refused_before_anything_is_trained(
    five: Study, promise: str, settings: dict[str, str], kind: type[Exception], told: str
) -> None:
    five.job = private_job(five.folder, promise, **settings)
    with pytest.raises(kind, match=told):
        five.run()
    assert all(charges(five, name) == [] for name in five.names)


def test_a_delta_above_one_over_the_participants_that_are_there_is_refused(tmp_path: Path) -> None:
    study = Study(tmp_path, sites=5)
    study.job = private_job(tmp_path, PROMISE.replace("1.0e-5", "0.2"))
    with pytest.raises(JobError, match=r"delta is 0\.2 with 5 participants"):
        study.run()
    study.job = private_job(tmp_path, PROMISE.replace("1.0e-5", "0.3"))
    with pytest.raises(JobError, match=r"delta is 0\.3 with 5 rows"):
        study.run(folder=tmp_path / "again")


@pytest.mark.parametrize("how", ["fewer", "rounded"])
def test_a_sum_with_less_noise_than_was_promised_gets_no_update(
    five: Study, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    five.job = private_job(five.folder, rounds=1)
    if how == "fewer":
        # The session allows sums of three, the plan of noise asks for four.
        monkeypatch.setattr(protection, "losses", lambda job, participants: (0, 0))
    else:
        steps = SecureAggregationGrid.__init__

        def rounds(self: Any, *values: Any, **named: Any) -> None:
            steps(self, *values, **{**named, "steps": False})

        monkeypatch.setattr(SecureAggregationGrid, "__init__", rounds)
    with pytest.raises(ProtocolFailed, match="no round gave a sum"):
        five.run()
    log = (five.folder / "run" / "evidence" / "coordinator.jsonl").read_text()
    assert log.count("noise is enough in an exact sum of 4 participants or more") == 5


def test_too_few_to_draw_noise_for_each_other_are_refused(tmp_path: Path) -> None:
    study = Study(tmp_path, sites=3)
    study.job = private_job(tmp_path, sums="{protocol: secagg+, dropout: 0.5}")
    with pytest.raises(JobError, match="nobody is left to draw it"):
        study.run()


def test_a_site_may_require_privacy(five: Study) -> None:
    write_site(
        five.folder,
        "site-0",
        blobs(40, 0),
        extra="  privacy: {study: {epsilon: 12, delta: 1.0e-4, required_for: [train]}}\n",
    )
    five.job = write_job(five.folder, participants="{min: 5}")
    with pytest.raises(PolicyRefused, match="required_for"):
        five.run()


def _ordered(run: Any) -> list[Any]:
    found = load_file(run.model)
    return [found[name] for name in _names(run)]


def _names(run: Any) -> list[str]:
    return list(_model(run).initial_arrays())


def _initial(run: Any) -> list[Any]:
    return list(_model(run).initial_arrays().values())


def _model(run: Any) -> Any:
    from fedcore.coordinator.model import Model
    from fedcore.jobs.load import load_job
    from fedcore.learning.task import Schema

    job: Any = load_job(run.folder.parent / "job.yaml")
    return Model(job, Schema(("f0", "f1", "f2", "f3"), (4,), (0, 1)))
