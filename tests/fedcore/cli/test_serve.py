"""`fedcore serve` and `fedcore score` as two programs, and what their words may be."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.csv as pacsv
import pytest

from fedcore.cli.main import run
from tests.fedcore.participant.serving_sites import KNOWN, Sites
from tests.fedcore.participant.test_serving import WANTED
from tests.fedcore.vertical.scored import BANK, CUSTOMERS, ROWS, TELECOM, package
from tests.fedcore.vertical.test_scoring import points


@contextmanager
def serving(sites: Sites, *words: str) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """The telecom's program; what it said at first, and in the list, at the end, what it said last."""
    command = [sys.executable, "-m", "fedcore", "serve", str(sites.file(TELECOM))]
    command += ["--model", str(sites.model(TELECOM)), "--listen", "127.0.0.1:0", "--json", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        while not lines or lines[-1] != "}\n":
            lines.append(process.stdout.readline())
            assert lines[-1], "it ended"
        last: list[str] = []
        try:
            yield json.loads("".join(lines)), last
        finally:
            process.send_signal(signal.SIGINT)
            last.append(process.communicate(timeout=30)[0])
    assert process.returncode == 0


def test_two_programs_score_new_customers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites = Sites(tmp_path)
    out = tmp_path / "out" / "scores.csv"
    with serving(sites) as (told, last):
        assert (told["rows"], told["for"], told["model"]) == (KNOWN, BANK, "champion")
        words = ["score", str(sites.file(BANK)), "--model", str(sites.model(BANK)), "--in", str(sites.new)]
        words += ["--out", str(out), "--at", told["address"], "--single", "20", "--reasons", "1", "--json"]
        assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["unknown"]) == (ROWS, {TELECOM: ROWS - KNOWN})
    assert found["single"]["requests"] == 20
    assert 0 < found["single"]["p50_ms"] <= found["single"]["p99_ms"]
    scores = pacsv.read_csv(out)
    assert scores.column_names == ["person", "score", "expected", "reasons"]
    assert scores["person"].to_pylist() == CUSTOMERS
    assert scores["score"].to_pylist() == WANTED
    # The best bin of the bank's one variable has 350 points.
    lost = [350 - points(BANK, row) for row in range(ROWS)]
    assert [
        int(text.rpartition("-")[2].rstrip(")")) if text else 0 for text in scores["reasons"].to_pylist()
    ] == lost
    served = json.loads(last[0])
    # The batch, the single ones, and five before them that are not measured.
    assert served == {"requests": 26, "rows": ROWS + 25, "unknown": served["unknown"]}


def test_a_changed_part_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites = Sites(tmp_path)
    model = sites.model(TELECOM) / "model.json"
    model.write_text(model.read_text().replace("-20", "-19"))
    words = ["serve", str(sites.file(TELECOM)), "--model", str(sites.model(TELECOM)), "--json"]
    assert run(words) == 3
    assert "not as it was written" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_part_that_is_not_signed_needs_the_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fedcore.vertical.package import save_package

    sites = Sites(tmp_path)
    save_package(sites.model(TELECOM), package(TELECOM))
    words = ["serve", str(sites.file(TELECOM)), "--model", str(sites.model(TELECOM)), "--json"]
    assert run(words) == 8
    assert "is not signed" in json.loads(capsys.readouterr().out)["error"]["message"]
    with serving(sites, "--unsigned") as (told, _):
        assert told["party"] == TELECOM


def test_a_policy_without_a_rule_refuses_with_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sites = Sites(tmp_path, reveal="")
    words = ["serve", str(sites.file(TELECOM)), "--model", str(sites.model(TELECOM)), "--json"]
    assert run(words) == 4
    assert "reveal.scores" in json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (["shop-c=127.0.0.1:1"], "no partner"),
        (["127.0.0.1:1", "127.0.0.1:2"], "stands twice"),
        ([], "give --at"),
    ],
)
def test_places_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at: list[str], said: str
) -> None:
    sites = Sites(tmp_path)
    words = ["score", str(sites.file(BANK)), "--model", str(sites.model(BANK)), "--in", str(sites.new)]
    words += ["--out", str(tmp_path / "s.csv"), "--json"]
    for each in at:
        words += ["--at", each]
    assert run(words) == 2
    assert said in json.loads(capsys.readouterr().out)["error"]["message"]
    assert not (tmp_path / "s.csv").exists()


def test_reasons_are_for_scorecards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fedcore.vertical.package import save_package

    sites = Sites(tmp_path)
    save_package(sites.model(BANK), package(BANK, kind="linear"), sites.keys[BANK])
    words = ["score", str(sites.file(BANK)), "--model", str(sites.model(BANK)), "--in", str(sites.new)]
    assert run([*words, "--out", "s.csv", "--at", "127.0.0.1:1", "--reasons", "2", "--json"]) == 2
    assert "only a scorecard has reasons" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_new_customers_of_another_kind_of_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sites = Sites(tmp_path)
    words = ["score", str(sites.file(BANK)), "--model", str(sites.model(BANK)), "--in", "new.xlsx"]
    assert run([*words, "--out", "s.csv", "--at", "127.0.0.1:1", "--json"]) == 2
    assert "neither .csv nor .parquet" in json.loads(capsys.readouterr().out)["error"]["message"]
