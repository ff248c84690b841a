"""`fedcore identity`, `federation` and `participant`: what they print and how they end, without a process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedcore.cli.main import run
from fedcore.engines.plan import work_folder
from fedcore.engines.state import owner, write_state
from fedcore.jobs.load import load_federation


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    (tmp_path / "d.csv").write_text("a\n1\n")
    (tmp_path / "north.yaml").write_text("name: north\ncatalogue:\n  d: {connector: csv, path: d.csv}\n")
    file = tmp_path / "fed.yaml"
    file.write_text("name: fed\nengine: deployment\nparticipants: [north.yaml]\n")
    return file


def test_new_key_is_shown_with_the_line_for_the_roster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["identity", "new", str(tmp_path / "north.key")]) == 0
    printed = capsys.readouterr().out
    public = (tmp_path / "north.key.pub").read_text().strip()
    assert f'north: {{public_key: "{public}"}}' in printed
    assert run(["identity", "show", str(tmp_path / "north.key"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["public_key"] == public
    assert told["fingerprint"] in printed
    assert "PRIVATE" not in printed


def test_readable_key_ends_with_the_code_of_identity_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["identity", "new", str(tmp_path / "k.key")])
    (tmp_path / "k.key").chmod(0o640)
    capsys.readouterr()
    assert run(["identity", "show", str(tmp_path / "k.key"), "--json"]) == 8
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "IdentityError" and "chmod 600" in error["message"]


def test_status_and_down_of_a_federation_that_never_was_up(
    federation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["federation", "status", str(federation), "--json"]) == 9
    assert json.loads(capsys.readouterr().out)["status"] == "down"
    assert run(["federation", "down", str(federation), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"federation": "fed", "was_up": False, "swept": 0}


def test_status_shows_what_the_keeper_wrote_while_it_lives(
    federation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = work_folder(load_federation(federation))
    state = {
        "federation": "fed",
        "status": "up",
        "error": None,
        "address": "localhost:8443",
        "authority": "/somewhere/ca.crt",
        "participants": [{"name": "north", "node": "1", "online": True, "here": True}],
        "processes": [{"name": "supernode north", "status": "running", "pid": 1, "restarts": 2}],
    }
    with owner(folders) as mine:
        assert mine
        write_state(folders, state)
        assert run(["federation", "status", str(federation)]) == 0
    printed = capsys.readouterr().out
    for part in ("fed: up", "localhost:8443", "/somewhere/ca.crt", "supernode north"):
        assert part in printed
    # The same file without a keeper that lives means that nothing runs.
    assert run(["federation", "status", str(federation), "--json"]) == 9
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "down" and told["participants"][0]["online"] is False


def test_second_owner_of_a_work_folder_is_told_so(federation: Path) -> None:
    folders = work_folder(load_federation(federation))
    with owner(folders) as first, owner(folders) as second:
        assert first and not second


def test_virtual_participants_cannot_be_deployed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d.csv").write_text("a\n1\n")
    file = tmp_path / "many.yaml"
    file.write_text("name: many\nvirtual: {count: 3, name: d, data: {connector: csv, path: d.csv}}\n")
    assert run(["federation", "up", str(file), "--json"]) == 2
    assert "virtual" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_participant_start_without_a_coordinator_says_what_to_give(
    federation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["participant", "start", str(federation.parent / "north.yaml"), "--json"]) == 2
    assert "--coordinator" in json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize(
    "words", [["identity", "new"], ["federation", "up"], ["federation", "down"], ["participant", "start"]]
)
def test_help_has_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--help"]) == 0
    assert "Example: fedcore" in " ".join(capsys.readouterr().out.split())
