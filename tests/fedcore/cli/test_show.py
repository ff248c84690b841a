"""`fedcore show` and `fedcore compare` as a person and a machine use them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedcore.cli.main import run as fedcore
from fedcore.cli.show import differences, find_run
from fedcore.coordinator.record import parse
from fedcore.errors import JobError
from tests.fedcore.coordinator.result_factory import make_result, write_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two runs in runs/; `b-two` is the later one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for age, (name, seed, rounds) in enumerate([("a-one", 7, 12), ("b-two", 3, 20)]):
        result = make_result(seed=seed, rounds=rounds)
        result["job"]["local"]["lr"] = [0.01, 0.1][age]
        folder = write_run(tmp_path / "runs" / name, result)
        os.utime(folder / "result.json", (1000 + age, 1000 + age))
    return tmp_path / "runs"


Output = Callable[[], tuple[str, str]]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    """Standard output and standard error since the last call."""
    return lambda: tuple(capsys.readouterr())


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("name", ["runs/a-one", "runs/a-one/result.json", "a-one", "a"])
def test_a_run_is_found_by_folder_result_name_and_beginning(runs, name):
    assert find_run(name).resolve() == (runs / "a-one").resolve()


def test_last_is_the_run_whose_result_was_written_last(runs):
    assert find_run("last").name == "b-two"
    os.utime(runs / "a-one" / "result.json", (2000, 2000))
    assert find_run("last").name == "a-one"


def test_a_wrong_name_is_answered_with_the_nearest_run(runs):
    with pytest.raises(JobError, match=r'no run "b-twoo".*did you mean "b-two"'):
        find_run("b-twoo")


def test_a_beginning_of_several_runs_is_refused_with_their_names(runs):
    write_run(runs / "a-three", make_result(rounds=1))
    with pytest.raises(JobError, match=r"beginning of 2 runs.*a-"):
        find_run("a-")


def test_without_any_run_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JobError, match='no run "last"'):
        find_run("last")


def test_show_prints_the_summary_and_writes_a_missing_report(runs, output):
    assert fedcore(["show", "a-one"]) == 0
    told, _ = output()
    assert "Five participants trained" in told and "federated" in told
    assert (runs / "a-one" / "report.html").read_text().startswith("<!doctype html>")


def test_show_writes_an_old_report_again_and_keeps_a_fresh_one(runs, output):
    report = runs / "a-one" / "report.html"
    report.write_text("mine")
    assert fedcore(["show", "a-one"]) == 0
    assert report.read_text() == "mine"
    os.utime(report, (1, 1))
    assert fedcore(["show", "a-one"]) == 0
    assert report.read_text() != "mine"


def test_show_for_machines_is_the_result_and_json_that_any_reader_takes(runs, output):
    result = result_of(runs / "a-one")
    result["rounds"][2]["evaluate"]["loss"] = math.nan
    (runs / "a-one" / "result.json").write_text(json.dumps(result))
    assert fedcore(["show", "a-one", "--json"]) == 0
    told = json.loads(output()[0], parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert told["folder"] == "runs/a-one"
    assert told["rounds"][2]["evaluate"]["loss"] is None
    assert told["final"] == result["final"]
    assert not (runs / "a-one" / "report.html").exists(), "a machine that reads changes nothing"


def test_show_open_hands_the_report_to_the_browser(runs, output, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert fedcore(["show", "--open"]) == 0
    assert opened == [(runs / "b-two" / "report.html").resolve().as_uri()]


def test_show_of_a_run_that_is_not_there_exits_with_the_code_of_a_job_error(runs, output):
    assert fedcore(["show", "c-three"]) == JobError.exit_code
    assert 'no run "c-three"' in output()[1]


def test_show_of_a_damaged_result_names_the_file(runs, output):
    (runs / "a-one" / "result.json").write_text("{")
    assert fedcore(["show", "a-one"]) == JobError.exit_code
    assert "a-one/result.json cannot be read as JSON" in output()[1]


def test_compare_lists_only_settings_that_differ(runs, output):
    assert fedcore(["compare", "a-one", "b-two", "--json"]) == 0
    told = json.loads(output()[0])
    assert told["runs"] == ["runs/a-one", "runs/b-two"]
    assert told["settings"]["job.local.lr"] == [0.01, 0.1]
    assert told["settings"]["job.rounds"] == [12, 20]
    assert "job.local.epochs" not in told["settings"]


def test_compare_gives_second_minus_first_for_metrics_and_sites(runs, output):
    first, second = (result_of(runs / name)["final"] for name in ("a-one", "b-two"))
    fedcore(["compare", "a-one", "b-two", "--json"])
    told = json.loads(output()[0])
    for name, value in first["evaluate"].items():
        assert told["final"][name]["difference"] == pytest.approx(second["evaluate"][name] - value)
    for site, values in first["sites"].items():
        expected = second["sites"][site]["accuracy"] - values["accuracy"]
        assert told["sites"][site]["accuracy"]["difference"] == pytest.approx(expected)


def test_compare_for_people_shows_the_same_numbers(runs, output):
    assert fedcore(["compare", "a-one", "b-two"]) == 0
    told = output()[0]
    first, second = (result_of(runs / name)["final"]["evaluate"]["accuracy"] for name in ("a-one", "b-two"))
    row = next(line for line in told.splitlines() if line.startswith("accuracy "))
    assert row.split()[1:3] == [f"{first:.4f}", f"{second:.4f}"]
    assert "job.local.lr" in told and "hospital-3" in told


def test_two_equal_runs_differ_in_nothing(runs):
    record = parse(make_result())
    found = differences(record, parse(make_result()))
    assert found["settings"] == {}
    assert {each["difference"] for each in found["final"].values()} == {0.0}


def test_a_site_or_metric_of_one_run_only_has_no_difference(runs, output):
    result = result_of(runs / "b-two")
    result["final"]["sites"]["hospital-9"] = {"accuracy": 0.5}
    result["final"]["evaluate"]["f1"] = 0.7
    (runs / "b-two" / "result.json").write_text(json.dumps(result))
    assert fedcore(["compare", "a-one", "b-two", "--json"]) == 0
    told = json.loads(output()[0])
    assert told["sites"]["hospital-9"]["accuracy"] == {"first": None, "second": 0.5, "difference": None}
    assert told["final"]["f1"]["difference"] is None
    assert fedcore(["compare", "a-one", "b-two"]) == 0


def test_compare_serves_runs_that_have_nothing(runs, output):
    write_run(runs / "empty", {})
    assert fedcore(["compare", "empty", "a-one"]) == 0
    assert fedcore(["compare", "empty", "empty"]) == 0
    assert "none" in output()[0]


def test_compare_of_a_thousand_sites_shows_the_extremes_and_counts_the_rest(runs, output):
    for name, seed in (("big-one", 1), ("big-two", 2)):
        write_run(runs / name, make_result(sites=1000, rounds=1, seed=seed, baselines=False))
    assert fedcore(["compare", "big-one", "big-two"]) == 0
    told = output()[0]
    assert "980 sites between are not shown" in told
    assert sum(line.startswith("hospital-") for line in told.splitlines()) == 20


def test_names_are_neither_markup_nor_control_codes(runs, output):
    result = make_result(rounds=1)
    result["final"]["sites"] = {"[red]x\x1b]0;t\x07": {"accuracy": 0.5}}
    result["job"]["data"] = "[bold]y\x1b[2J"
    write_run(runs / "hostile", result)
    assert fedcore(["compare", "a-one", "hostile"]) == 0
    told = output()[0]
    assert "[red]x" in told and "[bold]y" in told and "\x1b" not in told
