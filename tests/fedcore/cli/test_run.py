"""`fedcore run` and `fedcore resume` as a person and a machine use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedcore.cli.main import run as fedcore
from fedcore.coordinator import checkpoint as checkpoints
from fedcore.errors import DataError, JobError, RunInterrupted
from tests.sites import Study, blobs, write_job, write_site


@pytest.fixture
def words(study: Study, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`run JOB --federation FED --folder DIR`, from the study's folder."""
    monkeypatch.chdir(study.folder)
    monkeypatch.setenv("COLUMNS", "100")
    study.job = write_job(study.folder, rounds=2)
    return ["run", "job.yaml", "--federation", "federation.yaml", "--folder", "out"]


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_a_run_for_people_shows_progress_a_summary_and_where_the_report_is(words, capsys) -> None:
    assert fedcore(words) == 0
    out, err = capsys.readouterr()
    assert "study-job" in out and "accuracy" in out and "out/report.html" in out and err == ""


def test_a_run_for_machines_is_the_result_with_its_folder_and_nothing_else(words, capsys) -> None:
    assert fedcore([*words, "--json"]) == 0
    found = told(capsys)
    assert found.pop("folder") == "out"
    assert found == json.loads(Path("out/result.json").read_text())
    assert found["status"] == "finished" and len(found["rounds"]) == 2


def test_short_options_and_the_engine_reach_the_run(words, capsys, monkeypatch) -> None:
    asked: dict[str, Any] = {}

    def run(job, federation, **options):
        asked.update(options, job=job, federation=federation)
        raise JobError("enough")

    monkeypatch.setattr("fedcore.engines.run.run", run)
    assert fedcore(["run", "job.yaml", "-f", "federation.yaml", "-e", "simulation", "--json"]) == 2
    assert asked == {
        "job": Path("job.yaml"),
        "federation": Path("federation.yaml"),
        "engine": "simulation",
        "folder": None,
        "watcher": None,
    }


@pytest.mark.parametrize("command", ["run", "resume"])
def test_a_wrong_engine_is_answered_with_the_nearest_before_any_file_is_read(command, capsys) -> None:
    assert fedcore([command, "nothing", "--engine", "embeded"]) == JobError.exit_code
    assert "no engine 'embeded'; did you mean \"embedded\"?" in capsys.readouterr().err


def test_a_job_with_mistakes_lists_them_and_makes_no_folder(words, capsys) -> None:
    Path("job.yaml").write_text(
        "kind: train\nname: x\ndata: study\nroundz: 3\ntask: {use: tabular-classifier}\n"
    )
    assert fedcore(words) == JobError.exit_code
    err = capsys.readouterr().err
    assert "roundz" in err and 'did you mean "rounds"' in err and "target" in err
    assert not Path("out").exists()


def test_wrong_data_at_a_site_has_its_own_exit_code_and_names_the_site(words, capsys, study) -> None:
    write_site(study.folder, "site-1", {key: value[:0] for key, value in blobs(4, 0).items()})
    assert fedcore([*words, "--json"]) == DataError.exit_code
    error = told(capsys)["error"]
    assert (error["type"], error["party"], error["step"]) == ("DataError", "site-1", "prepare")
    assert json.loads(Path("out/result.json").read_text())["status"] == "refused"


def test_an_interrupted_run_tells_how_to_go_on_and_resume_goes_on(words, capsys, monkeypatch) -> None:
    original = checkpoints.save

    def full(folder: Path, checkpoint: checkpoints.Checkpoint) -> Path:
        if checkpoint.number == 2:
            raise RunInterrupted("no room", party="coordinator", step="checkpoint round 2")
        return original(folder, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", full)
        assert fedcore(words) == RunInterrupted.exit_code
    assert "Go on with `fedcore resume out`" in capsys.readouterr().err
    assert fedcore(["resume", "out", "--json"]) == 0
    found = told(capsys)
    assert found["folder"] == "out" and [r["round"] for r in found["rounds"]] == [1, 2]
    assert found["status"] == "finished"
    assert fedcore(["resume", "out"]) == JobError.exit_code
    assert "nothing to resume" in capsys.readouterr().err


def test_resume_of_something_else_says_what_a_run_folder_is(tmp_path, capsys) -> None:
    assert fedcore(["resume", str(tmp_path)]) == JobError.exit_code
    assert "is not a run folder" in capsys.readouterr().err


def test_a_second_run_into_the_same_folder_is_refused(words, capsys) -> None:
    assert fedcore([*words, "--json"]) == 0
    assert fedcore([*words, "--json"]) == JobError.exit_code
    assert "holds a run already" in capsys.readouterr().out
