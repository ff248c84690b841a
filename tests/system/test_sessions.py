"""Sessions on a real federation: SuperLink and three SuperNodes over TLS, and what holds when parts of it die.

One federation serves all tests of this file; the last one takes it down. Where a run finds the data port stands in the
federation file that the run is given, so a test writes its own beside the one that brought the federation up.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from fedcore.engines.federation import down, up
from fedcore.engines.node import ACCEPTED
from fedcore.engines.plan import work_folder
from fedcore.engines.processes import folder_mark, free_port, left_behind
from fedcore.engines.state import read_state
from fedcore.jobs.load import LoadedFederation, load_federation
from fedcore.trust import evidence
from tests.sites import Study, blobs, write_federation, write_job, write_site
from tests.system.commands import result, start, wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(200)]

ROUNDS = 3


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Three sites of 40, 50 and 60 rows, and a job in which the first (32 rows in one batch) can be held up."""
    study = Study(tmp_path_factory.mktemp("sessions"))
    for i, name in enumerate(study.names):
        write_site(study.folder, name, blobs(40 + 10 * i, i), extra="  code: [fedcore, strategies, tests]\n")
    study.job = held_job(study, after=1)
    return study


def held_job(study: Study, after: int, rounds: int = ROUNDS) -> Path:
    """A job whose first site waits while gate.hold exists, once its process has taken `after` steps, one a round."""
    gate = study.folder / "gate"
    held = f"{{gate: {gate}, rows: 32, after: {after}}}"
    return write_job(
        study.folder,
        task=f"{{use: 'tests.system.slow_task:Held', target: y, with: {held}}}",
        local="{lr: 0.1, batch_size: 100}",
        evaluation=f"{{every: {rounds}}}",
        deadline=60,
        rounds=rounds,
    )


@pytest.fixture(scope="module")
def federation(study: Study) -> Iterator[LoadedFederation]:
    write_federation(
        study.folder, study.names, extra=f"coordinator: {{address: 'localhost:{free_port()}'}}\n"
    )
    loaded = load_federation(study.federation)
    try:
        up(loaded)
        yield loaded
    finally:
        down(loaded)


@pytest.fixture(scope="module")
def expected(study: Study) -> dict[str, np.ndarray]:
    """The model of the same job in one process."""
    study.run(folder=study.folder / "embedded")
    return load_file(study.folder / "embedded" / "model.safetensors")


@pytest.fixture(autouse=True)
def _open_gate(study: Study) -> Iterator[None]:
    yield
    open_gate(study)


def open_gate(study: Study) -> None:
    for file in study.folder.glob("gate.*"):
        file.unlink()


def begin(study: Study, folder: Path, federation: Path | None = None) -> subprocess.Popen[str]:
    return start(
        *("run", study.job, "--federation", federation or study.federation),
        *("--engine", "deployment", "--folder", folder, "--json"),
    )


def finish(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait for a run that ends well with every participant in every round."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out[-2000:] + err[-2000:]
    told = result(folder)
    assert told["status"] == "finished" and [one.get("lost", []) for one in told["rounds"]] == [[]] * len(
        told["rounds"]
    )
    assert sessions(folder.parent) == []


def held_up(study: Study) -> psutil.Process:
    """The process that waits at the gate."""
    found = wait_for(lambda: [file for file in study.folder.glob("gate.*") if file.suffix != ".hold"])
    return psutil.Process(int(found[0].suffix[1:]))


def processes(folder: Path) -> list[psutil.Process]:
    root = folder / ".fedcore" / "test-federation"
    return left_behind(folder_mark(root), root)


def sessions(folder: Path) -> list[int]:
    """Processes of sessions: forks of the host that belong to no message of Flower's."""
    found = []
    for process in processes(folder):
        parent = process.parent()
        if parent is not None and "--host" in parent.cmdline() and "--host" in process.cmdline():
            found.append(process.pid)
    return found


def same(folder: Path, expected: dict[str, np.ndarray]) -> None:
    found = load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6)


def opened(study: Study, folder: Path) -> dict[str, int]:
    """How many sessions each site was asked into, by its own log."""
    run = result(folder)["run"]
    return {
        name: sum(
            entry["event"] == "request" and entry["step"] == "query.session" and entry["run"] == run
            for entry in evidence.read(study.folder / ".fedcore" / name / "evidence.jsonl")
        )
        for name in study.names
    }


def test_a_session_whose_process_is_killed_in_a_round_is_opened_again_and_the_round_goes_on(
    study: Study, federation: LoadedFederation, expected: dict[str, np.ndarray]
) -> None:
    (study.folder / "gate.hold").touch()
    folder = study.folder / "killed"
    process = begin(study, folder)
    victim = held_up(study)
    # One at each site, the others' between two messages.
    assert len(sessions(study.folder)) == 3 and victim.pid in sessions(study.folder)
    open_gate(study)
    victim.kill()
    finish(process, folder)
    same(folder, expected)
    assert opened(study, folder) == {"site-0": 2, "site-1": 1, "site-2": 1}
    log = (folder / "run.log").read_text()
    assert "the session of site-0 is lost" in log and "Flower carries" not in log


@pytest.mark.slow
def test_a_supernode_that_is_killed_and_started_again_does_not_disturb_a_session(
    study: Study, federation: LoadedFederation, expected: dict[str, np.ndarray]
) -> None:
    (study.folder / "gate.hold").touch()
    folder = study.folder / "supernode"
    process = begin(study, folder)
    working = held_up(study)
    log = work_folder(federation).log("supernode site-0")
    accepted = log.read_text().count(ACCEPTED)
    os.kill(unit(federation, "supernode site-0"), signal.SIGKILL)
    # The strategy asks the SuperLink anew who is there in each round.
    wait_for(lambda: log.read_text().count(ACCEPTED) > accepted)
    assert working.is_running()
    open_gate(study)
    finish(process, folder)
    same(folder, expected)
    assert opened(study, folder)["site-0"] == 1


def unit(federation: LoadedFederation, name: str) -> int:
    told = read_state(work_folder(federation)).get("processes", [])
    return next((int(one["pid"] or 0) for one in told if one["name"] == name), 0)


def beside(study: Study, coordinator: str) -> Path:
    """A file of the same federation with another coordinator's line."""
    file = study.folder / "other.yaml"
    file.write_text(
        f"name: test-federation\nparticipants: [{', '.join(f'{name}.yaml' for name in study.names)}]\n"
        f"coordinator: {coordinator}\n"
    )
    return file


@pytest.mark.slow
def test_a_data_port_that_another_process_holds_leaves_the_messages_to_flower(
    study: Study, federation: LoadedFederation
) -> None:
    study.job = held_job(study, after=1, rounds=1)
    folder = study.folder / "taken"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        address = federation.spec.coordinator.address
        finish(begin(study, folder, beside(study, f"{{address: '{address}', data_port: {port}}}")), folder)
    log = (folder / "run.log").read_text()
    assert log.count(f"no sessions, and Flower carries every message: cannot listen at 127.0.0.1:{port}") == 1
    assert opened(study, folder) == dict.fromkeys(study.names, 0)


@pytest.mark.slow
def test_participants_that_cannot_reach_the_data_port_are_asked_by_flower(
    study: Study, federation: LoadedFederation
) -> None:
    study.job = held_job(study, after=1, rounds=1)
    folder = study.folder / "nowhere"
    # Nobody listens at this address of the same machine; only the data port is looked for there.
    where = f"{{address: '127.0.0.2:{federation.spec.coordinator.port}', data_port: {free_port()}}}"
    finish(begin(study, folder, beside(study, where)), folder)
    log = (folder / "run.log").read_text()
    for name in study.names:
        assert f"{name} is in no session, and Flower carries its messages: no session: " in log
    assert "could not be reached within" in log


@pytest.mark.slow
def test_a_site_whose_host_of_clientapps_does_not_answer_is_asked_by_flower(
    study: Study, federation: LoadedFederation
) -> None:
    study.job = held_job(study, after=1, rounds=1)
    folder = study.folder / "no host"
    door = work_folder(federation).root / "commands" / "clientapps.sock"
    aside = door.with_suffix(".aside")
    door.rename(aside)
    try:
        finish(begin(study, folder), folder)
    finally:
        aside.rename(door)
    assert "the host of this site's ClientApps does not answer" in (folder / "run.log").read_text()


@pytest.mark.slow
def test_data_port_off_is_plain_messages_and_the_same_model(
    study: Study, federation: LoadedFederation, expected: dict[str, np.ndarray]
) -> None:
    study.job = held_job(study, after=1)
    folder = study.folder / "off"
    address = federation.spec.coordinator.address
    finish(begin(study, folder, beside(study, f"{{address: '{address}', data_port: 'off'}}")), folder)
    same(folder, expected)
    assert opened(study, folder) == dict.fromkeys(study.names, 0)


@pytest.mark.slow
def test_work_in_a_session_ends_with_a_killed_coordinator(study: Study, federation: LoadedFederation) -> None:
    study.job = held_job(study, after=1)
    (study.folder / "gate.hold").touch()
    process = begin(study, study.folder / "lost")
    working = held_up(study)
    (coordinator,) = [one for one in processes(study.folder) if "flwr-serverapp" in " ".join(one.cmdline())]
    coordinator.kill()
    # It is in the middle of a step that would take two minutes.
    wait_for(lambda: not working.is_running() or working.status() == psutil.STATUS_ZOMBIE, 40)
    process.kill()
    process.communicate()


def test_nothing_of_a_session_outlives_the_keeper_of_its_supernode(
    study: Study, federation: LoadedFederation
) -> None:
    study.job = held_job(study, after=1)
    (study.folder / "gate.hold").touch()
    process = begin(study, study.folder / "down")
    working = held_up(study)
    os.kill(read_state(work_folder(federation))["supervisor"]["pid"], signal.SIGKILL)
    wait_for(lambda: not working.is_running() or working.status() == psutil.STATUS_ZOMBIE, 20)
    assert down(federation)["was_up"] is False
    assert processes(study.folder) == []
    process.kill()
    process.communicate()
    shutil.rmtree(study.folder / "down", ignore_errors=True)
