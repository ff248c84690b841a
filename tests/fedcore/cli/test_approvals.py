"""`fedcore approvals`: what waits, what it asks, and what a person says to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedcore.cli.main import run
from fedcore.jobs.load import load_participant
from fedcore.participant.mods.policy_analytics import desk
from fedcore.trust.approvals import Asked, state_of, use

HASH, OTHER = "3f9a" + "0" * 60, "3f9b" + "0" * 60
ASKED = Asked(
    asker="anna",
    purpose="research",
    data="lung",
    text="lung: mean of age [bold] by sex\x1b[2J",
    columns=("age", "sex"),
    statistics=("mean",),
    protection="secagg+, only the sum is seen",
    lacking="'anna' may not ask (askers: bert)",
    run="run-1",
    job="lung-survival",
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A participant file at whose desk two requests wait."""
    (tmp_path / "lung.csv").write_text("age,sex\n60,1\n")
    file = tmp_path / "hospital.yaml"
    file.write_text(
        "name: hospital-1\ncatalogue:\n  lung: {connector: csv, path: lung.csv}\n"
        "policy:\n  approval: {by: data-office, for: [any]}\n"
    )
    for hash_ in (HASH, OTHER):
        use(desk(load_participant(file)), hash_, ASKED)
    return file


def words(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def status(file: Path, hash_: str = HASH) -> str:
    found = state_of(desk(load_participant(file)), hash_)
    assert found is not None
    return found.status


def test_the_list_shows_who_asks_what(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["approvals", "list", str(site)]) == 0
    shown = capsys.readouterr().out
    assert "3f9a000000000000" in shown and "3f9b000000000000" in shown and shown.count("waiting") == 2
    # What others wrote is text: no markup, and nothing that clears a terminal.
    assert "[bold]" in shown and "\x1b[2J" not in shown


def test_only_what_waits_on_request(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["approvals", "deny", str(site), "3f9b"]) == 0
    capsys.readouterr()
    assert run(["approvals", "list", str(site), "--waiting", "--json"]) == 0
    assert [each["hash"] for each in told(capsys)["requests"]] == [HASH]
    assert run(["approvals", "list", str(site), "--json"]) == 0
    assert [each["status"] for each in told(capsys)["requests"]] == ["waiting", "denied"]


def test_an_empty_desk_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("name: a\ncatalogue: {}\n")
    assert run(["approvals", "list", str(file)]) == 0
    assert words(capsys) == "No requests."


def test_a_request_is_shown_with_all_that_is_granted(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["approvals", "show", str(site), "3f9a"]) == 0
    shown = words(capsys)
    for part in (
        HASH,
        "status waiting",
        "asker anna",
        "purpose research",
        "columns age, sex",
        "statistics mean",
        "question lung: mean of age [bold] by sex?[2J",
        "protection secagg+",
        "no rule allows 'anna' may not ask",
        "in run run-1 of job lung-survival",
    ):
        assert part in shown


def test_a_grant_says_by_whom_until_when_and_how_often(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--until", "2999-03-31", "--uses", "2", "--by", "dr-x", "--reason", "seen"]
    assert run(["approvals", "grant", str(site), "3f9a", *options]) == 0
    shown = words(capsys)
    assert "status granted" in shown and "decided by dr-x" in shown and "reason seen" in shown
    assert "holds until 2999-04-01 00:00" in shown and "uses 0 of 2" in shown
    assert (status(site), status(site, OTHER)) == ("granted", "waiting")


def test_json_says_the_same_and_the_file_says_who_decides(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["approvals", "grant", str(site), HASH, "--json"]) == 0
    found = told(capsys)
    assert (found["status"], found["by"], found["until"], found["uses"]) == (
        "granted",
        "data-office",
        None,
        None,
    )
    assert found["asker"] == "anna" and found["columns"] == ["age", "sex"]
    assert run(["approvals", "deny", str(site), HASH, "--reason", "no", "--json"]) == 0
    assert told(capsys)["status"] == "denied" and status(site) == "denied"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["grant", "FILE", "3f9"], "begins 2 hashes: 3f9a000000000000, 3f9b000000000000"),
        (["grant", "FILE", "3f9a00000000000f"], 'no request with hash "3f9a00000000000f"; did you mean'),
        (["show", "FILE", "ffff"], 'no request with hash "ffff"'),
        (["deny", "FILE", "ffff"], 'no request with hash "ffff"'),
        (["grant", "FILE", "3f9a", "--until", "tomorrow"], "is no date; allowed: year-month-day"),
        (["grant", "FILE", "3f9a", "--until", "2020-01-01"], "which is past"),
        (["grant", "FILE", "3f9a", "--uses", "0"], "0 uses; allowed: 1 or more"),
        (["grant", "FILE", "3f9a", "--by", ""], "a decision names who made it"),
        (["garnt", "FILE", "3f9a"], 'did you mean "grant"'),
        (["list", "missing.yaml"], "missing.yaml"),
    ],
)
def test_what_cannot_be_done_is_said_with_exit_code_2(
    site: Path, capsys: pytest.CaptureFixture[str], line: list[str], said: str
) -> None:
    assert run(["approvals", *(str(site) if word == "FILE" else word for word in line)]) == 2
    assert said in capsys.readouterr().err
    assert status(site) == "waiting"


def test_where_nobody_may_approve_a_decision_is_refused(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.write_text(site.read_text().split("policy:")[0])
    assert run(["approvals", "grant", str(site), "3f9a"]) == 2
    assert "lets nobody approve anything" in capsys.readouterr().err


def test_a_desk_that_was_changed_ends_with_exit_code_3(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = desk(load_participant(site))
    file.write_bytes(file.read_bytes().split(b"\n", 1)[1])
    assert run(["approvals", "list", str(site), "--json"]) == 3
    assert told(capsys)["error"]["type"] == "DataError"
