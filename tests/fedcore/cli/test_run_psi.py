"""psi jobs as a person and a machine give them: validate, run, show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedcore.cli.main import run as fedcore
from fedcore.errors import JobError, PolicyRefused
from tests.pairs import BANK, KEYS, TELECOM, Pair, rule_of, write_party, write_psi_job

WORDS = ["run", "job.yaml", "--federation", "federation.yaml", "--folder", "out"]


@pytest.fixture(autouse=True)
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    pair = Pair(tmp_path)
    write_psi_job(tmp_path, protocol="ecdh")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    return pair


def test_a_run_for_people_shows_both_parties_and_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert fedcore(WORDS) == 0
    out, err = capsys.readouterr()
    for words in (f"{BANK}  reading the keys", f"{TELECOM}  done  65 rows", "which of their rows they share"):
        assert words in out
    assert "out/report.html" in out and err == ""


def test_a_run_for_machines_is_the_result_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert fedcore([*WORDS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("folder") == "out" and found == json.loads(Path("out/result.json").read_text())
    assert (
        found["receipts"][TELECOM]["rows"] == 65 and found["receipts"][BANK]["phases"]["read"]["seconds"] >= 0
    )


def test_a_run_is_shown_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert fedcore([*WORDS, "--json"]) == 0
    capsys.readouterr()
    assert fedcore(["show", "out"]) == 0
    assert "which of their rows they share" in capsys.readouterr().out
    assert fedcore(["show", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "psi"
    assert fedcore(["compare", "out", "out"]) == 0


def test_a_refusal_has_its_exit_code_party_and_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_party(tmp_path, TELECOM, KEYS[TELECOM], rule=rule_of(TELECOM, peers="[shop-c]"))
    assert fedcore([*WORDS, "--json"]) == PolicyRefused.exit_code
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["type"], error["party"], error["step"]) == ("PolicyRefused", TELECOM, "prepare")
    assert "peer 'bank-a' is not allowed (peers: shop-c)" in error["message"]


def test_a_job_file_is_validated_and_shown_with_its_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fedcore(["validate", "job.yaml", "--show"]) == 0
    assert "coordinator: sizes" in capsys.readouterr().out
    write_psi_job(tmp_path, extra="protection: none\n")
    assert fedcore(["validate", "job.yaml"]) == JobError.exit_code
    assert "protection: unknown key" in capsys.readouterr().err


def test_a_finished_run_is_not_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert fedcore([*WORDS, "--json"]) == 0
    assert fedcore(["resume", "out"]) == JobError.exit_code
    assert "has finished" in capsys.readouterr().err
