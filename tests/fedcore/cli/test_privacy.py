"""`fedcore privacy ledger`: entries, spent, remaining; and an older copy is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedcore.cli.main import run
from fedcore.privacy.budget import epsilon_cost, rho_cost
from fedcore.privacy.ledger import Ledger, open_ledger
from fedcore.privacy.sensitivity import Neighbours


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = open_ledger(
        tmp_path / "lung.jsonl", "lung", rho_cost(1, "1e-6"), Neighbours("person"), anchor=tmp_path / "anchor"
    )
    made.charge("q1", rho_cost("1/3"), "count by sex [bold]")
    made.charge("t1", epsilon_cost("0.5"), "20 rounds", source="training", digest="ab")
    made.release("q1", b"41.2")
    return made


def test_the_table_shows_entries_spent_and_remaining(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["privacy", "ledger", str(ledger.file), "--anchor", str(ledger.anchor)]) == 0
    shown = capsys.readouterr().out
    words = " ".join(shown.split())
    assert "lung budget in rho, neighbours: add or remove one person" in words
    assert "[bold]" in shown and "none yet" in shown
    # 1/3 + 1/8 = 11/24: spent is rounded up, what is left is rounded down.
    assert "spent rho 0.458334" in words and "remaining rho 0.541666" in words
    assert "Not compared" not in shown


def test_json_has_the_exact_numbers(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["privacy", "ledger", str(ledger.file), "--delta", "1e-5", "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["spent"] == {"amount": "11/24", "delta": "0"}
    assert told["remaining"] == {"amount": "13/24", "delta": "0.000001"}
    assert [each["request"] for each in told["entries"]] == ["q1", "t1"]
    assert [each["answer"] is None for each in told["entries"]] == [False, True]
    assert told["neighbours"] == "add-remove-person" and told["last"] == ledger.account().last
    assert told["checked_against_second_place"] is False
    assert 5 < told["spent_as_epsilon"] < 5.1


def test_without_a_second_place_the_table_says_so(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["privacy", "ledger", str(ledger.file)]) == 0
    assert "Not compared with a second place" in capsys.readouterr().out
    assert (
        run(["privacy", "ledger", str(ledger.file), "--known", ledger.account().last, "--delta", "1e-5"]) == 0
    )
    shown = capsys.readouterr().out
    assert "Not compared" not in shown and "Spent is epsilon 5.0" in shown


def test_an_older_copy_ends_with_the_code_of_bad_data(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    older = ledger.file.read_bytes()
    ledger.charge("q2", rho_cost("0.1"), "mean")
    ledger.file.write_bytes(older)
    assert run(["privacy", "ledger", str(ledger.file), "--anchor", str(ledger.anchor), "--json"]) == 3
    assert "older copy was put back" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_file_that_is_not_there_and_a_delta_that_means_nothing_are_refused(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["privacy", "ledger", str(tmp_path / "no.jsonl")]) == 3
    for wrong in ("0", "-1", "nan", "inf", "x"):
        assert run(["privacy", "ledger", str(ledger.file), "--delta", wrong]) == 2
    plain = open_ledger(tmp_path / "plain", "lung", epsilon_cost(1), Neighbours())
    assert run(["privacy", "ledger", str(plain.file), "--delta", "1e-5"]) == 2
    assert "in epsilon as it stands" in capsys.readouterr().err
