"""The coordinator's process is killed, interrupted, or cannot write; then the run goes on where it was."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedcore.errors import RunInterrupted
from tests.sites import Study, blobs, write_job, write_site
from tests.system.commands import fedcore, result, start, wait_for

pytestmark = pytest.mark.system

ROUNDS = 4


@pytest.fixture
def held(tmp_path: Path) -> Study:
    """A study whose sites can be held up in the middle of a step."""
    study = Study(tmp_path)
    for i, name in enumerate(study.names):
        write_site(tmp_path, name, blobs(40 + 10 * i, i), extra="  code: [fedcore, strategies, tests]\n")
    study.job = write_job(
        tmp_path,
        task=f"{{use: 'tests.system.slow_task:Held', target: y, with: {{gate: {tmp_path / 'gate'}, after: 20}}}}",
        strategy="{use: fedadam}",
        rounds=ROUNDS,
    )
    return study


def run_words(study: Study, folder: Path) -> list[str | Path]:
    return ["run", study.job, "--federation", study.federation, "--folder", folder, "--json"]


def whole_run(study: Study) -> dict[str, np.ndarray]:
    code, _, err = fedcore(*run_words(study, study.folder / "whole"))
    assert code == 0, err
    return load_file(study.folder / "whole" / "model.safetensors")


def same(folder: Path, expected: dict[str, np.ndarray]) -> None:
    found = load_file(folder / "model.safetensors")
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-7)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_coordinator_stopped_inside_a_round_resumes_to_the_same_model(
    held: Study, how: signal.Signals
) -> None:
    expected = whole_run(held)
    folder = held.folder / "run"
    # A round is 15 steps: the run is held in its second.
    (held.folder / "gate.hold").touch()
    process = start(*run_words(held, folder))
    wait_for(
        lambda: [f for f in held.folder.glob("gate.*") if f.suffix != ".hold"] or process.poll() is not None
    )
    process.send_signal(how)
    code = process.wait(30)
    assert (folder / "checkpoints" / "round-0001").exists()
    if how == signal.SIGINT:
        assert code == 130 and result(folder)["status"] == "interrupted"
        assert "fedcore resume" in result(folder)["reason"]
    (held.folder / "gate.hold").unlink()
    code, _, err = fedcore("resume", folder, "--json")
    assert code == 0, err
    told = result(folder)
    assert [r["round"] for r in told["rounds"]] == list(range(1, ROUNDS + 1))
    same(folder, expected)


def test_a_checkpoint_that_does_not_fit_stops_the_run_and_it_resumes_once_there_is_room(
    tmp_path: Path,
) -> None:
    study = Study(tmp_path)
    study.job = write_job(
        tmp_path, task="{use: tabular-classifier, target: y, model: mlp, hidden: [128, 128]}", rounds=2
    )
    expected = whole_run(study)
    folder = tmp_path / "run"
    # As on a full disk, the write of the weights begins and fails in its middle.
    limit = (40_000, 40_000)
    process = start(
        *run_words(study, folder), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == RunInterrupted.exit_code, out + err
    told = json.loads(out)["error"]
    assert "checkpoint of round 1 could not be written" in told["message"] and "resume" in told["message"]
    assert result(folder)["status"] == "interrupted"
    assert list((folder / "checkpoints").iterdir()) == []
    code, _, err = fedcore("resume", folder, "--json")
    assert code == 0, err
    same(folder, expected)
