"""`fedcore run` of an analytics job: what is shown, and which exit code a run has that answered some questions only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedcore.cli.main import run as fedcore
from fedcore.cli.run import shown
from fedcore.coordinator.terminal_analytics import AnswerProgress
from fedcore.engines.run import Run
from fedcore.errors import FedcoreError, PolicyRefused
from fedcore.jobs.load import load_job
from tests.fedcore.coordinator.answered_result import a_refusal, a_result, an_answer, write_run

JOB = """\
kind: analytics
name: lung-survival
data: lung
ask:
  by_sex: "SELECT sex, count(*) FROM lung GROUP BY sex"
  hazard: {cox: {time: time, event: status, covariates: [age]}}
"""


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    return ["run", "job.yaml", "--federation", "federation.yaml"]


def ends_with(monkeypatch: pytest.MonkeyPatch, result: dict[str, Any]) -> None:
    folder = write_run(Path("made").resolve(), result)
    monkeypatch.setattr("fedcore.engines.run.run", lambda *_, **__: Run(folder))


def test_all_answered_is_exit_code_0(words, monkeypatch, capsys) -> None:
    ends_with(monkeypatch, a_result())
    assert fedcore(words) == 0
    assert "two cells suppressed" in capsys.readouterr().out


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_some_answered_is_printed_and_has_the_exit_code_of_the_first_that_is_not(
    words, monkeypatch, capsys, how
) -> None:
    ends_with(monkeypatch, a_result({"hazard": a_refusal(), "by_sex": an_answer()}, status="partial"))
    assert fedcore([*words, *how]) == PolicyRefused.exit_code
    out = capsys.readouterr().out
    assert "statistic cox is not allowed here" in out and "138" in out
    if how:
        assert json.loads(out)["answers"]["hazard"]["status"] == "refused"


@pytest.mark.parametrize("error", [None, {}, {"exit_code": "x"}, {"exit_code": 0}, {"exit_code": True}])
def test_an_error_without_a_code_of_its_own_is_still_no_success(words, monkeypatch, error) -> None:
    ends_with(
        monkeypatch, a_result({"hazard": a_refusal(error=error), "by_sex": an_answer()}, status="partial")
    )
    assert fedcore(words) == FedcoreError.exit_code


def test_a_run_is_shown_again(words, monkeypatch, capsys) -> None:
    write_run(Path("made"), a_result({"by_sex": an_answer(), "hazard": a_refusal()}, status="partial"))
    assert fedcore(["show", "made"]) == 0
    out = capsys.readouterr().out
    assert "refused" in out and "138" in out
    assert "statistic cox is not allowed here" in Path("made/report.html").read_text()


def test_progress_is_that_of_questions(words) -> None:
    with shown(load_job("job.yaml"), as_json=False) as watcher:
        assert isinstance(watcher, AnswerProgress) and watcher.questions == ["by_sex", "hazard"]
    with shown(load_job("job.yaml"), as_json=True) as watcher:
        assert watcher is None
