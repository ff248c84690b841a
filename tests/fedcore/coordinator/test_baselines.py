"""What the federation is compared with, recomputed by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedcore.coordinator.baselines import CENTRAL, OWN, measure_baselines
from fedcore.coordinator.grids.cohort import CohortGrid
from fedcore.coordinator.grids.evidence import EvidenceGrid
from fedcore.coordinator.model import Model
from fedcore.coordinator.prepare import prepare
from fedcore.coordinator.watch import Silent
from fedcore.engines.embedded import EmbeddedGrid, Node
from fedcore.engines.local import by_index
from fedcore.errors import JobError
from fedcore.jobs.job import TrainJob
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import request_for
from fedcore.learning.examples import Examples
from fedcore.learning.training import load_arrays, take_arrays, train
from fedcore.participant import site as kept
from fedcore.participant.client_app import build_client_app
from fedcore.participant.site import Ready, ready_site
from tests.messages import a_job, a_site
from tests.sites import Study, blobs, write_job, write_site

CPU = torch.device("cpu")
TASK = {"use": "tabular-classifier", "target": "y", "standardize": "federated"}


@pytest.fixture(autouse=True)
def _nothing_kept():
    kept._cache.clear()


@dataclass
class Setting:
    """A run as it is when its rounds are over."""

    job: TrainJob
    people: list[Participant]
    cohort: CohortGrid
    evidence: EvidenceGrid
    model: Model
    ready: list[Ready]

    def measure(self, people: Any = None, rounds: Any = ()) -> dict[str, Any]:
        people = self.people if people is None else people
        arrays = self.model.initial_arrays()
        return measure_baselines(
            self.job, people, self.cohort, self.evidence, self.model, arrays, list(rounds)
        )

    def by_hand(self, rows: Examples, *seed: Any) -> dict[str, Any]:
        """The arrays after training alone for all rounds' epochs."""
        module = Model(self.job, self.model.schema).module
        load_arrays(module, self.model.initial_arrays())
        long = self.job.local.model_copy(update={"epochs": self.job.local.epochs * self.job.rounds})
        train(module, self.model.task, rows, long, seed=(self.job.seed, *seed))
        return take_arrays(module)


@pytest.fixture
def setting(tmp_path: Path):
    def make(central: bool = False, broken: int | None = None, **changes: Any) -> Setting:
        if central:
            write_site(tmp_path, "central", blobs(60, 99, shift=1.0))
            path = str(tmp_path / "central.parquet")
            changes["evaluation"] = {"central": {"connector": "parquet", "path": path}}
        changes = {"task": TASK, "rounds": 3, "local": {"epochs": 2, "lr": 0.1, "batch_size": 8}, **changes}
        job = a_job(**changes)
        people = [a_site(tmp_path, blobs(20 + 10 * i, i, shift=0.7), name=f"site-{i}") for i in range(3)]
        nodes = [Node({"partition-id": i}, {}) for i in range(3)]
        grid = EmbeddedGrid(build_client_app(by_index(people)), nodes, workers=1)
        known: dict[int, str] = {}
        evidence = EvidenceGrid(grid, lambda n: known.get(n, "?"), tmp_path / "e.jsonl", False, Silent())
        agreed = prepare(evidence, job, "run-1", grid.get_node_ids(), known.__setitem__)
        cohort = CohortGrid(evidence, agreed.members, 2, job.deadline)
        cohort.request = request_for(job, "run-1", 3, agreed.schema.as_dict())
        ready = [ready_site(person, cohort.request, CPU) for person in people]
        if broken is not None:
            grid.down.add(100 + broken)
        return Setting(job, people, cohort, evidence, Model(job, agreed.schema), ready)

    return make


def close(found: dict[str, float], expected: dict[str, float]) -> bool:
    return set(found) == set(expected) and all(
        found[name] == pytest.approx(expected[name], abs=1e-6) for name in expected
    )


def test_alone_each_site_trains_all_epochs_from_the_same_start_and_is_measured_on_the_central_rows(
    setting,
) -> None:
    run = setting(central=True, baselines=["local"])
    found = run.measure()
    assert (
        found["measured_on"] == CENTRAL
        and found["pooled"] is None
        and list(found["local"])
        == [
            "site-0",
            "site-1",
            "site-2",
        ]
    )
    for i, ready in enumerate(run.ready):
        arrays = run.by_hand(ready.train, f"site-{i}", "solo", 1)
        assert close(found["local"][f"site-{i}"], run.model.evaluate_central(arrays))


def test_without_central_rows_each_is_measured_on_its_own_validation_rows(setting) -> None:
    run = setting(baselines=["local"])
    found = run.measure()
    assert found["measured_on"] == OWN
    for i, ready in enumerate(run.ready):
        arrays = run.by_hand(ready.train, f"site-{i}", "solo", 1)
        assert close(found["local"][f"site-{i}"], run.model.evaluate_on(arrays, ready.validation))


def test_local_patience_does_not_shorten_a_baseline(setting) -> None:
    local = {"epochs": 2, "lr": 5.0, "batch_size": 8}
    plain = setting(baselines=["local"], local=local).measure()
    kept._cache.clear()
    assert setting(baselines=["local"], local={**local, "patience": 1}).measure() == plain


def test_pooled_is_training_on_all_rows_in_one_place(setting) -> None:
    run = setting(central=True, baselines=["pooled"])
    rows = Examples(
        torch.cat([ready.train.x for ready in run.ready]), torch.cat([ready.train.y for ready in run.ready])
    )
    found = run.measure()
    assert found["local"] is None
    assert close(found["pooled"], run.model.evaluate_central(run.by_hand(rows, "pooled")))


def test_pooled_without_central_rows_is_measured_on_all_validation_rows(setting) -> None:
    run = setting(baselines=["pooled"])
    rows, held_out = (
        Examples(*(torch.cat([getattr(getattr(r, side), axis) for r in run.ready]) for axis in "xy"))
        for side in ("train", "validation")
    )
    expected = run.model.evaluate_on(run.by_hand(rows, "pooled"), held_out)
    found = run.measure()["pooled"]
    for name in ("loss", "accuracy"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)


def test_pooled_needs_all_rows_on_this_machine(setting) -> None:
    with pytest.raises(JobError, match="pooled needs every site's rows on one machine"):
        setting(baselines=["pooled"]).measure(people=[])


def test_pooled_runs_on_this_machine_s_cpu_whatever_precision_the_sites_have(setting) -> None:
    local = {"epochs": 2, "lr": 0.1, "batch_size": 8}
    expected = setting(baselines=["pooled"], local=local).measure()
    kept._cache.clear()
    assert setting(baselines=["pooled"], local={**local, "precision": "float16"}).measure() == expected


def test_a_site_that_is_lost_is_left_out_and_the_others_are_measured(setting) -> None:
    run = setting(baselines=["local"], broken=1)
    assert list(run.measure()["local"]) == ["site-0", "site-2"]


def test_the_federation_is_measured_where_the_baselines_are(setting) -> None:
    run = setting(central=True, baselines=["local"])
    rounds = [{"evaluate": {"accuracy": 0.1}}]
    found = run.measure(rounds=rounds)
    assert found["federated"] == run.model.evaluate_central(run.model.initial_arrays())
    assert found["metric"] == "accuracy"
    kept._cache.clear()
    run = setting(baselines=["local"])
    assert run.measure(rounds=rounds)["federated"] == {"accuracy": 0.1}
    assert run.measure()["metric"] is None and run.measure()["federated"] == {}


def test_with_early_stopping_the_federation_is_the_model_that_was_kept(tmp_path) -> None:
    study = Study(tmp_path, columns=lambda i: blobs(30, i, shift=0.3))
    study.job = write_job(
        tmp_path,
        rounds=12,
        local="{lr: 6.0, batch_size: 4}",
        stop="{metric: loss, patience: 2}",
        baselines="[local]",
    )
    told = study.run().json
    best, last = (told["rounds"][i]["evaluate"] for i in (told["best"]["round"] - 1, -1))
    assert best != last, "the example does not get worse"
    assert told["baselines"]["federated"] == best == told["final"]["evaluate"]
    assert np.isfinite(told["baselines"]["local"]["site-0"]["accuracy"])
