"""Secure aggregation over a real federation, whose sites are killed at every stage of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedcore.engines import installed
from fedcore.engines.federation import down, up
from fedcore.jobs.load import load_federation
from fedcore.network.descriptor import describe, sign_descriptor, write_descriptor
from fedcore.network.node import load_node
from fedcore.network.quantity import declared, measured
from fedcore.trust import evidence
from fedcore.trust.identity import load_identity, new_identity
from tests.sites import Study, blobs, write_federation, write_job, write_site
from tests.system import stage_killer
from tests.system.commands import fedcore, result
from tests.system.test_engines import free_port, same_numbers

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

SITES = 6
MAP = Path(__file__).resolve().parents[2] / "configs" / "networks" / "eight_hubs.yaml"
HIDDEN = "{secure_aggregation: {protocol: secagg+, dropout: 0.34, corrupt: 0.1}}"
PROTECTION = HIDDEN.replace("}}", ", examples: clear}}")
"""With numbers of rows in clear, so that keys are made in round 1, where sites are killed."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Six sites that pin each other's keys, in a federation that is up."""
    folder = tmp_path_factory.mktemp("secure")
    study = Study(folder, SITES)
    (folder / "keys").mkdir()
    lines = {name: new_identity(folder / "keys" / f"{name}.key", name).public_line for name in study.names}
    for i, name in enumerate(study.names):
        peers = {other: {"public_key": line} for other, line in lines.items() if other != name}
        extra = f"identity: keys/{name}.key\npeers: {json.dumps(peers)}\nnodes: [{name}.json]\n"
        write_site(folder, name, blobs(40 + 10 * i, i), extra=extra)
        write_node(folder, name)
    (folder / "policy.yaml").write_text(
        "name: near\nweights: {time: 0.2, carbon: 0.1, cost: 0.1, latency: 0.5, security: 0.1}\n"
    )
    network = f"network: {{map: {MAP}, root: zhangjiakou}}\n"
    coordinator = f'coordinator: {{address: "localhost:{free_port()}"}}\n'
    write_federation(folder, study.names, extra=coordinator + network)
    loaded = load_federation(study.federation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(installed.APP, "tests.system.stage_killer:app")
        patch.setenv(stage_killer.FOLDER, str(folder))
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
        up(loaded)
        yield study
        down(loaded)


def write_node(folder: Path, name: str) -> None:
    """A descriptor of the site's one machine, as a probe would write it."""
    file = folder / f"node-{name}.yaml"
    file.write_text(
        f"node: {name}-a\nowner: {name}\nsite: wuhu\ntier: edge\njurisdiction: CN\n"
        "location: {country: CN, region: Anhui}\npue: 1.25\nsecurity: {level: 3}\nline: {up: 200, down: 500}\n"
        "price: {currency: CNY, compute: 0.9, egress: 0.5}\n"
    )
    found = {
        "gemm.cpu.fp32": measured([200.0] * 3, "GFLOP/s", "given by a test"),
        "cipher.keystream": measured([10.0] * 3, "GB/s", "given by a test"),
        "ecc.x25519": measured([20_000.0] * 3, "op/s", "given by a test"),
        "memory.cpu": measured([8.0] * 3, "GB", "given by a test"),
        "power.idle": declared(20.0, "W", "given by a test"),
        "power.load": declared(60.0, "W", "given by a test"),
    }
    node = describe(load_node(file), found)
    write_descriptor(
        sign_descriptor(node, load_identity(folder / "keys" / f"{name}.key", name)), folder / f"{name}.json"
    )


def run(study: Study, name: str, engine: str = "deployment", **settings: Any) -> dict[str, Any]:
    """Run a job under protection; its result."""
    job = write_job(
        study.folder,
        **{"protection": PROTECTION, "rounds": 1, "deadline": 60, "participants": "{min: 3}", **settings},
    )
    folder = study.folder / name
    words = ["run", job, "--federation", study.federation, "--engine", engine, "--folder", folder]
    code, out, err = fedcore(*words, "--json", timeout=300)
    assert code == 0, out[-2000:] + err[-3000:]
    return result(folder)


def test_a_protected_job_gives_what_it_gives_in_one_process(study: Study) -> None:
    settings = {"rounds": 2, "protection": HIDDEN}
    deployed, embedded = run(study, "deployed", **settings), run(study, "embedded", "embedded", **settings)
    same_numbers(deployed["final"]["evaluate"], embedded["final"]["evaluate"], 1e-5)
    models = [load_file(study.folder / name / "model.safetensors") for name in ("deployed", "embedded")]
    for name in models[0]:
        # The seeds of stochastic rounding differ: two steps of the grid that a mean can lie on.
        np.testing.assert_allclose(models[0][name], models[1][name], rtol=0, atol=1e-5)
    before, train = deployed["prepare"]["protection"], deployed["rounds"][0]["protection"]["train"]
    assert [*before["stages"]] == ["keys", "roster", *train["stages"]]
    assert [*train["stages"]] == ["masked", "confirm", "reveal"]
    assert all(stage["answered"] == SITES for told in (before, train) for stage in told["stages"].values())
    assert deployed["prepare"]["totals"] == embedded["prepare"]["totals"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "before", "summed"),
    [
        ("keys", 0, SITES),
        ("roster", 0, SITES - 1),
        ("masked", 0, SITES - 1),
        ("confirm", 0, SITES),
        ("reveal", 0, SITES),
    ],
)
def test_a_site_killed_at_a_stage_loses_no_more_than_that_stage_and_the_sum_is_made(
    study: Study, stage: str, before: int, summed: int
) -> None:
    victim = study.names[1]
    (study.folder / f"{victim}.dies").write_text(f"{stage} {before}")
    told = run(study, f"killed-{stage}")
    train = told["rounds"][0]["protection"]["train"]
    assert not (study.folder / f"{victim}.dies").exists(), "nobody was killed"
    assert train["failed"] == "" and train["summed"] == summed
    # A site that is killed before it has sent its keys has nothing to lose: the new session asks it again.
    assert train["dropped"] == ({} if stage == "keys" else {victim: stage})


@pytest.mark.slow
def test_two_sites_killed_at_two_stages_of_one_round_are_dropped_and_the_next_round_has_all_others(
    study: Study,
) -> None:
    one, other = study.names[2], study.names[3]
    (study.folder / f"{one}.dies").write_text("masked 0")
    (study.folder / f"{other}.dies").write_text("confirm 0")
    told = run(study, "killed-twice", rounds=3, evaluation="{every: 3}")
    first, *_, last = (each["protection"]["train"] for each in told["rounds"])
    assert first["dropped"] == {one: "masked", other: "confirm"}
    assert first["summed"] == SITES - 1 and not first["failed"]
    assert last["summed"] >= SITES - 2 and not last["failed"]


@pytest.mark.slow
def test_more_sites_killed_than_may_drop_out_fail_the_round_with_the_numbers_and_the_next_goes_on(
    study: Study,
) -> None:
    for name in study.names[:3]:
        (study.folder / f"{name}.dies").write_text("masked 0")
    told = run(study, "killed-three", rounds=3, evaluation="{every: 3}")
    first, *_, last = (each["protection"]["train"] for each in told["rounds"])
    assert first["summed"] == 0 and "3 " in first["failed"] and "4" in first["failed"]
    assert last["summed"] >= 4 and not last["failed"]


# ---- through an aggregator -------------------------------------------------------------------------------------------


def aggregated(study: Study, run: str) -> dict[str, int]:
    """How often each site was asked to add up its region in a run."""
    found = {}
    for name in study.names:
        log = evidence.read(study.folder / ".fedcore" / name / "evidence.jsonl")
        found[name] = sum(
            e["step"] == "query.aggregate" and e["event"] == "request" and e["run"] == run for e in log
        )
    return found


@pytest.mark.slow
def test_a_placed_round_goes_through_an_aggregator_and_stays_exact(study: Study) -> None:
    placed = run(study, "placed", rounds=2, placement="policy.yaml")
    star = run(study, "star", "embedded", rounds=2)
    same_numbers(placed["final"]["evaluate"], star["final"]["evaluate"], 1e-5)
    for one in placed["rounds"]:
        assert one["protection"]["train"]["summed"] == SITES
        assert one["placement"]["aggregators"] == {"wuhu": study.names}
    # Two rounds, each of train and evaluate, by one site.
    assert sorted(aggregated(study, placed["run"]).values()) == [0] * (SITES - 1) + [4]


@pytest.mark.slow
def test_a_region_whose_aggregator_is_killed_in_mid_round_is_asked_directly_and_the_round_is_not_lost(
    study: Study,
) -> None:
    aggregator = study.names[0]
    (study.folder / f"{aggregator}.dies").write_text("query.aggregate 0")
    told = run(study, "aggregator-killed", placement="policy.yaml")
    train = told["rounds"][0]["protection"]["train"]
    assert not (study.folder / f"{aggregator}.dies").exists(), "nobody was killed"
    assert train["failed"] == "" and train["summed"] == SITES - 1
    assert set(train["dropped"]) == {aggregator}
    assert "its region is asked directly" in (study.folder / "aggregator-killed" / "run.log").read_text()
