"""`fedcore demo`: the comparison it prints, and that what it claims is so."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedcore.cli import demo
from fedcore.cli.demo import compare_accuracy
from fedcore.cli.main import run as fedcore
from fedcore.coordinator.record_analytics import answers_of
from fedcore.errors import JobError
from tests.fedcore.coordinator.result_factory import make_result


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def result(federated: float, pooled: float, *local: float) -> dict[str, Any]:
    made = make_result(rounds=2)
    made["baselines"] = {
        "measured_on": "central data",
        "metric": "accuracy",
        "federated": {"accuracy": federated},
        "pooled": {"accuracy": pooled},
        "local": {f"hospital-{i}": {"accuracy": value} for i, value in enumerate(local)},
    }
    return made


@pytest.mark.parametrize(
    ("federated", "pooled", "local", "near", "above"),
    [
        (0.95, 0.955, (0.9, 0.8), True, True),
        (0.97, 0.95, (0.99, 0.9), True, True),
        (0.93, 0.945, (0.9, 0.8), False, True),
        (0.90, 0.90, (0.96, 0.86), True, False),
    ],
)
def test_the_comparison_is_with_pooled_and_the_mean_of_those_alone(
    federated, pooled, local, near, above
) -> None:
    found = compare_accuracy(result(federated, pooled, *local))
    assert found["local_only_mean"] == pytest.approx(sum(local) / len(local))
    assert (found["federated"], found["pooled"]) == (federated, pooled)
    assert (found["within_a_point_of_pooled"], found["above_local_only"]) == (near, above)
    assert found["job"] == "hospital-tabular"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Jobs and federations that were asked for; each ends at once with made-up numbers."""
    asked: list[tuple[str, str]] = []

    def run(job: Path, federation: Path, *, watcher: Any) -> Any:
        assert job.exists() and federation.exists()
        asked.append((job.name, federation.name))
        return SimpleNamespace(folder=Path("runs") / job.stem, json=result(0.95, 0.955, 0.9, 0.8))

    monkeypatch.setattr("fedcore.engines.run.run", run)
    return asked


def test_both_demos_run_and_their_comparison_is_printed(runs, capsys) -> None:
    assert fedcore(["demo"]) == 0
    out = capsys.readouterr().out
    assert runs == [("hospital_tabular.yaml", "five_hospitals.yaml"), ("digits.yaml", "five_hospitals.yaml")]
    rows = [line for line in out.splitlines() if "points" in line]
    assert len(rows) == 2
    for part in ("85.0%", "95.0%", "95.5%", "-0.5 points"):
        assert part in rows[0]


def test_for_machines_it_is_one_json_document(runs, capsys) -> None:
    assert fedcore(["demo", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] == ["runs/hospital_tabular", "runs/digits"]
    assert [one["within_a_point_of_pooled"] for one in told["compared"]] == [True, True]


def test_the_ready_files_are_copied_so_that_the_installed_ones_stay_as_they_are(runs, capsys) -> None:
    fedcore(["demo", "--json"])
    copied = {str(path.relative_to(demo.WORK)) for path in demo.WORK.rglob("*") if path.is_file()}
    assert {"jobs/digits.yaml", "federations/five_hospitals.yaml", "federations/hospital-1.yaml"} < copied
    assert "federations/data/digits/central.parquet" in copied
    assert not any(".fedcore" in path for path in copied)
    assert fedcore(["demo", "--json"]) == 0, "a second time too"


def test_the_survival_demo_asks_eighteen_hospitals_and_compares_no_accuracy(runs, capsys) -> None:
    assert fedcore(["demo", "survival"]) == 0
    assert runs == [("lung_survival.yaml", "eighteen_hospitals.yaml")]
    assert "points" not in capsys.readouterr().out
    assert (demo.WORK / "federations" / "data" / "lung.csv").exists()


def test_the_survival_demo_prints_its_answers_for_machines(capsys, monkeypatch) -> None:
    small = "kind: analytics\nname: small\ndata: lung\nask: {by_sex: 'SELECT sex, count(*) FROM lung GROUP BY sex'}\n"
    small += (
        "participants: {min: 10}\nprotection: {secure_aggregation: {protocol: secagg+, least_cohort: 10}}\n"
    )
    copied = demo._copy_files()
    (copied / "jobs" / "lung_survival.yaml").write_text(small)
    monkeypatch.setattr(demo, "_copy_files", lambda: copied)
    assert fedcore(["demo", "survival", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = answers_of(told)["by_sex"]
    assert [found.value("count(*)", sex) for sex in (1, 2)] == [137, 90] and found.summed == 18
    assert (Path(told["runs"][0]) / "report.html").exists()


def test_an_unknown_demo_is_answered_with_those_there_are(capsys) -> None:
    assert fedcore(["demo", "hospitl"]) == JobError.exit_code
    assert "no demo 'hospitl'; did you mean \"hospital\"" in capsys.readouterr().err


def test_the_tabular_demo_is_within_a_point_of_pooled_and_above_each_alone(capsys, monkeypatch) -> None:
    monkeypatch.setattr(demo, "DEMOS", {"hospital": ("hospital_tabular.yaml",)})
    assert fedcore(["demo", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (found,) = told["compared"]
    assert found["within_a_point_of_pooled"] and found["above_local_only"], found
    central = json.loads((Path(told["runs"][0]) / "result.json").read_text())["baselines"]
    assert central["measured_on"] == "central data" and len(central["local"]) == 5
