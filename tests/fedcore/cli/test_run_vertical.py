"""Vertical jobs as a person and a machine give them: validate, run, show, resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedcore.cli.main import run as fedcore
from fedcore.errors import DataError, PolicyRefused
from fedcore.vertical import pipeline
from tests.banks import BANK, TELECOM, Banks

WORDS = ["run", "job.json", "--federation", "federation.yaml", "--folder", "out"]


@pytest.fixture(autouse=True)
def banks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Banks:
    banks = Banks(tmp_path)
    (tmp_path / "job.json").write_text(banks.job.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return banks


def test_a_run_for_people_shows_each_step_and_a_summary_and_is_shown_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fedcore(WORDS) == 0
    out, err = capsys.readouterr()
    for words in (
        "step align",
        f"{BANK}  align: reading the keys",
        f"{TELECOM}  report: done",
        "built one joint model of “bad” (net)",
        "model:net",
        "in its folder of results",
        "out/report.html",
    ):
        assert words in out, words
    assert err == ""
    assert fedcore(["show", "out"]) == 0
    assert "built one joint model" in capsys.readouterr().out
    assert fedcore(["show", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "vertical"


def test_a_job_is_validated_and_completed(capsys: pytest.CaptureFixture[str]) -> None:
    assert fedcore(["validate", "job.json"]) == 0
    capsys.readouterr()
    assert fedcore(["validate", "--show", "job.json"]) == 0
    assert "min_share: 0.05" in capsys.readouterr().out


def test_a_refusal_has_its_exit_code_party_and_step(banks: Banks, capsys: pytest.CaptureFixture[str]) -> None:
    banks.write(TELECOM, reveal="{rows: any}")
    assert fedcore(WORDS) == PolicyRefused.exit_code
    err = capsys.readouterr().err
    assert TELECOM in err and "may not learn the totals" in err


def test_an_interrupted_run_says_how_to_go_on_and_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*words: object) -> None:
        raise DataError("the disk is full", step="score")

    with monkeypatch.context() as patch:
        do = pipeline.do
        patch.setattr(pipeline, "do", lambda step, who: full() if step == "score" else do(step, who))
        assert fedcore([*WORDS, "--json"]) == DataError.exit_code
    assert "fedcore resume out" in capsys.readouterr().out
    assert fedcore(["resume", "out", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "finished" and told["steps"][-1]["step"] == "report"
