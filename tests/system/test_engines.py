"""The same job and seed on the three engines: one process, Ray, and a real federation over TLS."""

from __future__ import annotations

import json
import math
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from fedcore.engines.federation import down, up
from fedcore.jobs.load import LoadedFederation, load_federation
from fedcore.network.descriptor import describe, write_descriptor
from fedcore.network.plan import load_plan
from fedcore.trust import evidence
from tests.fedcore.network.nodes import found, node_file
from tests.fedcore.network.placing import network
from tests.sites import Study, blobs, write_federation, write_job, write_site
from tests.system.commands import fedcore, result, start, wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ALLOWS_TESTS = "  code: [fedcore, strategies, tests]\n"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Three sites of 40, 50 and 60 rows, each with a node on a map of three places."""
    folder = tmp_path_factory.mktemp("engines")
    study = Study(folder)
    for i, name in enumerate(study.names):
        node = describe(node_file(owner=name, site=f"s{i}"), found(), at=datetime.now(UTC))
        write_descriptor(node, folder / f"{name}-node.json")
        write_site(folder, name, blobs(40 + 10 * i, i), extra=f"{ALLOWS_TESTS}nodes: [{name}-node.json]\n")
    (folder / "map.json").write_text(network().file.model_dump_json())
    (folder / "policy.yaml").write_text("{name: three, aggregators: {standby: 0}}")
    return study


@pytest.fixture(scope="module")
def federation(study: Study) -> Any:
    """The study's federation, up: SuperLink and three SuperNodes over TLS with node authentication."""
    port = free_port()
    extra = f'coordinator: {{address: "localhost:{port}"}}\nnetwork: {{map: map.json, root: s0}}\n'
    write_federation(study.folder, study.names, extra=extra)
    loaded = load_federation(study.federation)
    up(loaded)
    yield loaded
    down(loaded)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_on(study: Study, engine: str, name: str) -> Path:
    folder = study.folder / name
    words = ["run", study.job, "--federation", study.federation, "--engine", engine, "--folder", folder]
    code, out, err = fedcore(*words, "--json", timeout=500)
    assert code == 0, out[-3000:] + err[-3000:]
    return folder


def same_numbers(one: Any, other: Any, tolerance: float) -> None:
    """Equal structure, and numbers within the tolerance."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same_numbers(one[key], other[key], tolerance)
    elif isinstance(one, float):
        assert math.isclose(one, other, rel_tol=0, abs_tol=tolerance), (one, other)
    else:
        assert one == other


def test_three_engines_give_the_same_metrics_and_the_same_model(
    study: Study, federation: LoadedFederation
) -> None:
    study.job = write_job(study.folder, strategy="{use: scaffold}", rounds=2, deadline=120)
    folders = {engine: run_on(study, engine, engine) for engine in ("embedded", "simulation", "deployment")}
    base = folders.pop("embedded")
    for folder in folders.values():
        same_numbers(result(base)["final"], result(folder)["final"], 1e-6)
        one, other = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(other[name], one[name], rtol=0, atol=1e-5)
    told = result(folders["deployment"])
    assert told["engine"] == "deployment" and told["status"] == "finished"
    assert (folders["deployment"] / "report.html").stat().st_size > 0
    # The site's own log has the digest of what the coordinator says it got.
    log = evidence.read(study.folder / ".fedcore" / study.names[0] / "evidence.jsonl")
    left = {
        (e["run"], e["round"]): e["sha256"] for e in log if e["event"] == "release" and e["step"] == "train"
    }
    received = list(evidence.read(folders["deployment"] / "evidence" / "coordinator.jsonl"))
    arrived = [e for e in received if e.get("party") == study.names[0] and e.get("step") == "train round 2"]
    assert left[told["run"], 2] == arrived[0]["sha256"]


@pytest.mark.slow
def test_a_placed_job_leases_its_nodes_and_gives_the_same_model(
    study: Study, federation: LoadedFederation
) -> None:
    study.job = write_job(study.folder, rounds=2, deadline=120)
    base = run_on(study, "embedded", "unplaced")
    study.job = write_job(study.folder, rounds=2, deadline=120, placement="policy.yaml")
    folder = run_on(study, "deployment", "placed")
    one, other = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=0, atol=1e-5)
    told = result(folder)
    assert [record["placement"]["participants"] for record in told["rounds"]] == [study.names] * 2
    plan = load_plan(folder / "plan.json")
    assert plan.version == 1 and [each.owner for each in plan.participants] == study.names
    for name in study.names:
        events = list(evidence.read(study.folder / ".fedcore" / name / "leases.jsonl"))
        assert [each["event"] for each in events] == ["seen", "granted", "bound", "released"]
        lease = events[1]["lease"]
        assert (lease["plan"], lease["version"]) == (told["run"], 1)


def held_job(study: Study, after: int = 0, **settings: Any) -> Path:
    """A job in which the first site (32 rows in one batch) waits while gate.hold exists, after so many steps."""
    held = f"{{gate: {study.folder / 'gate'}, rows: 32, after: {after}}}"
    return write_job(
        study.folder,
        task=f"{{use: 'tests.system.slow_task:Held', target: y, with: {held}}}",
        local="{lr: 0.1, batch_size: 100}",
        **settings,
    )


def waiting_pid(study: Study) -> int | None:
    found = [f.suffix[1:] for f in study.folder.glob("gate.*") if f.suffix != ".hold"]
    return int(found[0]) if found else None


def clear_gate(study: Study) -> None:
    for file in study.folder.glob("gate.*"):
        file.unlink()


@pytest.mark.slow
def test_a_participant_killed_in_training_is_lost_over_plain_messages_and_the_others_finish(
    study: Study, federation: LoadedFederation
) -> None:
    """Over sessions it is asked again: `test_sessions.py`."""
    study.job = held_job(study, rounds=2, deadline=30, evaluation="{every: 2}")
    (study.folder / "gate.hold").touch()
    folder = study.folder / "killed"
    plain = study.folder / "plain.yaml"
    address = federation.spec.coordinator.address
    plain.write_text(
        study.federation.read_text().replace(f'"{address}"', f'"{address}", data_port: "off"', 1)
    )
    assert load_federation(plain).spec.coordinator.data_port == "off"
    words = ("--engine", "deployment", "--folder", folder, "--json")
    process = start("run", study.job, "--federation", plain, *words)
    pid = wait_for(lambda: waiting_pid(study), 120)
    clear_gate(study)
    psutil.Process(pid).send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out[-2000:] + err[-2000:]
    told = result(folder)
    assert told["status"] == "finished" and len(told["rounds"]) == 2
    lost = told["rounds"][0]["lost"]
    assert {one["party"] for one in lost} == {"site-0"} and lost[0]["step"] == "train round 1"
    assert sorted(name for name, site in told["rounds"][0]["sites"].items() if "examples" in site) == [
        "site-1",
        "site-2",
    ]


@pytest.mark.slow
def test_ctrl_c_stops_a_deployed_run_and_it_resumes(study: Study, federation: LoadedFederation) -> None:
    clear_gate(study)
    study.job = held_job(study, after=1, rounds=2, deadline=90, evaluation="{every: 2}")
    folder = study.folder / "interrupted"
    (study.folder / "gate.hold").touch()
    words = ("--engine", "deployment", "--folder", folder, "--json")
    process = start("run", study.job, "--federation", study.federation, *words)
    # Its process took its one step in round 1.
    working = psutil.Process(wait_for(lambda: waiting_pid(study), 120))
    assert (folder / "checkpoints" / "round-0001").exists()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert result(folder)["status"] == "interrupted"
    # What was being computed for the run is given up too, though nothing opened the gate.
    wait_for(lambda: not working.is_running() or working.status() == psutil.STATUS_ZOMBIE, 30)
    clear_gate(study)
    code, out, err = fedcore("resume", folder, "--json", timeout=300)
    assert code == 0, out + err
    assert [r["round"] for r in json.loads(out)["rounds"]] == [1, 2]
