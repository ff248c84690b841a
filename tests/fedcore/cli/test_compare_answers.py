"""`fedcore compare` of two analytics runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedcore.cli.main import run as fedcore
from tests.fedcore.coordinator.answered_result import a_model, a_refusal, a_result, an_answer, write_run


def two_runs(folder: Path, second: dict[str, Any]) -> list[str]:
    write_run(folder / "one", a_result())
    write_run(folder / "two", a_result(second))
    return ["compare", str(folder / "one"), str(folder / "two")]


def test_only_what_differs_is_shown_and_suppressed_is_no_number(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    answer = an_answer()
    answer["tables"][0]["rows"][0]["mean(age)"] = 64.5
    answer["tables"][0]["rows"][1]["count(*)"] = 90
    words = two_runs(tmp_path, {"by_sex": answer, "hazard": a_refusal()})
    assert fedcore(words) == 0
    out = capsys.readouterr().out
    lines = {line.split("  ")[0]: line.split()[-2:] for line in out.splitlines() if line.startswith("by_sex")}
    assert lines == {
        "by_sex: 1, mean(age)": ["63.3406", "64.5000"],
        "by_sex: 2, count(*)": ["suppressed", "90"],
    }
    assert "hazard: age, p" in out and "(absent)" in out
    assert fedcore([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["answers"]
    assert found["by_sex: 2, count(*)"] == [{"suppressed": True}, 90]
    assert found["hazard"] == ["(absent)", "refused"]


def test_equal_answers_differ_in_nothing(tmp_path, capsys) -> None:
    assert fedcore(two_runs(tmp_path, {"by_sex": an_answer(), "hazard": a_model()})) == 0
    out = capsys.readouterr().out
    assert "Answers that differ" in out and "by_sex:" not in out


def test_rows_that_begin_alike_are_told_apart(tmp_path, capsys) -> None:
    rows = [{"group": "a", "time": place, "survival": 1 / (1 + place)} for place in range(3)]
    changed = [dict(row) for row in rows]
    changed[2]["survival"] = 0.25
    runs = []
    for name, each in (("one", rows), ("two", changed)):
        answer = an_answer(tables=[{"title": "", "rows": each}], files=[])
        runs.append(str(write_run(tmp_path / name, a_result({"curve": answer}))))
    assert fedcore(["compare", *runs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"] == {
        "curve: a 2, survival": [pytest.approx(1 / 3), 0.25]
    }
