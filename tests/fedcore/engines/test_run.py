"""`fedcore.run` and `resume`: what is refused before anything starts, and what the run folder holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fedcore
from fedcore.engines import local as embedded
from fedcore.engines import run as module
from fedcore.engines.run import Run, check_together, job_of, resume
from fedcore.errors import JobError
from fedcore.jobs.load import load_federation
from tests.messages import a_job
from tests.sites import write_federation, write_job


@pytest.fixture
def started(monkeypatch) -> list[dict]:
    """What the engines were asked for; nothing is run."""
    calls: list[dict] = []

    def engine(home, job, federation, run, *, resume, watcher):
        calls.append({"home": home, "job": job, "run": run, "resume": resume, "watcher": watcher})
        (home / "result.json").write_text(json.dumps({"status": "interrupted"}))

    monkeypatch.setattr(embedded, "run_embedded", engine)
    return calls


# ---- refused before anything starts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "engine", "words"),
    [
        (
            {"participants": {"min": 4}},
            "embedded",
            r"min is 4 but federation test-federation has 3 \(site-0, site-1, site-2\)",
        ),
        (
            {"participants": {"names": ["site-0", "site-11"]}},
            "embedded",
            r"'site-11'; did you mean \"site-1\"",
        ),
        ({"baselines": ["pooled"]}, "deployment", "engine deployment keeps them at the sites"),
    ],
)
def test_a_job_that_the_federation_cannot_run_says_why(study, job, engine, words) -> None:
    loaded = load_federation(study.federation)
    with pytest.raises(JobError, match=words):
        check_together(a_job(**job), loaded.spec, engine, [p.name for p in loaded.participants])


def test_what_fits_is_not_refused(study) -> None:
    loaded = load_federation(study.federation)
    names = [p.name for p in loaded.participants]
    check_together(a_job(participants={"names": ["site-0", "site-2"]}), loaded.spec, "deployment", names)
    check_together(a_job(baselines=["local", "pooled"]), loaded.spec, "simulation", names)


def test_virtual_participants_are_not_deployed(study) -> None:
    virtual = "{count: 4, name: study, data: {connector: parquet, path: site-0.parquet}}"
    file = study.folder / "virtual.yaml"
    file.write_text(f"name: many\nvirtual: {virtual}\n")
    loaded = load_federation(file)
    with pytest.raises(JobError, match="embedded or simulation, not deployment"):
        check_together(a_job(), loaded.spec, "deployment", [p.name for p in loaded.participants])


# ---- the run folder -------------------------------------------------------------------------------------------


def test_a_run_writes_down_what_is_needed_to_resume_it(study, started) -> None:
    watcher = object()
    run = study.run(watcher=watcher)
    about = json.loads((run.folder / "run.json").read_text())
    assert about["run"] == started[0]["run"] and about["run"].startswith("study-job-")
    assert about["engine"] == "embedded" and about["expected"] == 3
    assert about["federation"] == str(study.federation.resolve())
    assert job_of(run.folder) == started[0]["job"]
    assert (run.folder / "job.yaml").read_text() == study.job.read_text()
    assert (run.folder / "federation.yaml").read_text() == study.federation.read_text()
    assert started[0]["watcher"] is watcher and started[0]["resume"] is False


def test_two_runs_have_different_ids(study, started) -> None:
    study.run(folder=study.folder / "a")
    study.run(folder=study.folder / "b")
    assert started[0]["run"] != started[1]["run"]


def test_without_a_folder_runs_are_named_by_job_and_time_and_never_share_one(
    study, started, monkeypatch
) -> None:
    monkeypatch.chdir(study.folder)
    folders = {fedcore.run(study.job, study.federation).folder for _ in range(3)}
    assert len(folders) == 3
    assert all(f.parent == Path("runs") and f.name.startswith("study-job-20") for f in folders)


def test_a_folder_that_holds_a_run_is_not_used_for_another(study, started) -> None:
    study.run()
    before = (study.folder / "run" / "run.json").read_text()
    with pytest.raises(JobError, match=r"holds a run already; go on with it by `fedcore resume .*run`"):
        study.run()
    assert len(started) == 1 and (study.folder / "run" / "run.json").read_text() == before


def test_a_wrong_file_leaves_no_run_folder(study, started) -> None:
    study.job = write_job(study.folder, rounds=0)
    with pytest.raises(JobError):
        study.run()
    assert not (study.folder / "run").exists() and started == []


def test_a_virtual_federation_runs_and_its_sites_are_told_apart(study) -> None:
    virtual = "{count: 4, name: study, data: {connector: parquet, path: site-2.parquet}}"
    study.federation.write_text(f"name: many\nvirtual: {virtual}\n")
    study.job = write_job(study.folder, rounds=1)
    told = study.run().json
    assert [p["name"] for p in told["participants"]] == [f"site-000{i}" for i in range(4)]
    assert sum(p["rows"] for p in told["participants"]) == 60


# ---- resuming -------------------------------------------------------------------------------------------------


def test_a_run_is_resumed_with_its_own_job_whatever_the_file_says_by_now(study, started) -> None:
    run = study.run()
    write_job(study.folder, rounds=50, name="changed")
    (run.folder / "job.yaml").write_text("nonsense")
    resume(run.folder)
    assert started[1]["resume"] is True and started[1]["run"] == started[0]["run"]
    assert started[1]["job"] == started[0]["job"]


def test_a_run_may_go_on_on_another_engine(study, started, monkeypatch) -> None:
    run = study.run()
    asked: list[str] = []
    monkeypatch.setattr(
        "fedcore.engines.simulation.run_simulated", lambda *_, **__: asked.append("simulation")
    )
    resume(run.folder, engine="simulation")
    assert asked == ["simulation"] and len(started) == 1


def test_what_is_no_run_folder_is_not_resumed(tmp_path) -> None:
    for call in (resume, job_of):
        with pytest.raises(JobError, match=r"is not a run folder \(no run.json\)"):
            call(tmp_path)


@pytest.mark.parametrize("status", ["finished", "stopped-early"])
def test_a_run_that_has_ended_is_not_resumed(study, started, status) -> None:
    run = study.run()
    (run.folder / "result.json").write_text(json.dumps({"status": status}))
    with pytest.raises(JobError, match="has finished; there is nothing to resume"):
        resume(run.folder)


@pytest.mark.parametrize("status", ["refused", "interrupted", "failed"])
def test_any_other_run_is(study, started, status) -> None:
    run = study.run()
    (run.folder / "result.json").write_text(json.dumps({"status": status}))
    resume(run.folder)
    assert len(started) == 2


def test_a_killed_run_without_a_result_is_resumed(study, started) -> None:
    run = study.run()
    (run.folder / "result.json").unlink()
    resume(run.folder)
    assert started[1]["resume"] is True


def test_a_federation_that_shrank_below_the_minimum_is_refused(study, started) -> None:
    run = study.run()
    write_federation(study.folder, ["site-0"])
    with pytest.raises(JobError, match=r"participants.min is 2 but federation test-federation has 1"):
        resume(run.folder)


# ---- what a run shows -----------------------------------------------------------------------------------------


def test_a_run_gives_its_result_by_attribute_and_shows_its_report(tmp_path) -> None:
    rounds = [
        {"round": 1, "train": {"loss": 1.0}, "evaluate": {}, "sites": {}, "bytes": {"up": 3, "down": 4}}
    ]
    (tmp_path / "result.json").write_text(json.dumps({"status": "finished", "rounds": rounds}))
    (tmp_path / "report.html").write_text('<p class="x">"a" & b</p>')
    run = Run(tmp_path)
    assert run.result.status == "finished"
    assert run.result.metrics == [{"round": 1, "train": {"loss": 1.0}, "evaluate": {}, "sites": {}}]
    assert run.model == tmp_path / "model.safetensors"
    shown = run._repr_html_()
    assert "&lt;p class=&quot;x&quot;&gt;" in shown and shown.startswith("<iframe srcdoc=")
    assert module.Run is fedcore.Run
