"""The benchmarks of the simulated clock and of predicted rounds: what they compare, and a toy run."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from benchmarks import placement_clock, placement_prediction
from benchmarks.placement_prediction import Case, compare, write_case
from examples.compute_network.courses import policy
from fedcore.jobs.load import load_federation, load_job
from fedcore.network.node import load_node
from fedcore.network.policy import load_policy
from fedcore.network.topology import load_topology


@pytest.fixture(autouse=True)
def same_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda *_: [0, 1])


# ---- the clock -----------------------------------------------------------------------------------------------------


def test_the_blind_policy_differs_in_the_weight_of_carbon_alone_which_time_gets() -> None:
    green, blind = policy("green"), placement_clock.blind(policy("green"))
    assert blind.weights.carbon == 0
    assert blind.weights.time == pytest.approx(green.weights.time + green.weights.carbon)
    assert blind.model_copy(update={"weights": green.weights}) == green
    type(blind).model_validate(blind.model_dump(by_alias=True))


def test_a_toy_run_reports_figures_and_targets_that_say_they_are_simulated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(placement_clock, "PLAYED", 2)
    monkeypatch.setattr(placement_clock, "UNLIKE", {"as drawn": 1.0})
    report = placement_clock.main(["--seeds", "1", "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(report.as_dict()))
    assert all("SIMULATED" in str(row["part"]) for row in report.figures)
    assert all(target.name.startswith("simulated") for target in report.targets)
    assert report.targets[0].met


# ---- predictions ---------------------------------------------------------------------------------------------------


def rounds(train: list[float], rest: float, predicted: float | None = None) -> dict[str, object]:
    each = [{"seconds": {"train": seconds}, "elapsed": seconds + rest} for seconds in train]
    if predicted is not None:
        for one in each:
            one["placement"] = {"predicted": {"round_s": predicted}}  # type: ignore[assignment]
    return {"rounds": each}


def test_errors_are_relative_to_what_came_and_leave_the_first_round_out() -> None:
    first, placed = rounds([9.0, 1.0, 1.0], 0.5), rounds([9.0, 1.0, 2.0], 0.5, predicted=1.0)
    figure, errors = compare(Case("c", "embedded", (10,) * 3, 3), first, placed)
    assert errors["training"] == [0.0, 0.5]
    assert errors["the whole round"] == pytest.approx([0.0, 1.0 / 2.5])
    assert figure["MAPE of train %"] == 25.0 and figure["train, came"] == 1.5


def test_the_files_of_a_case_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(folder: Path, name: str) -> str:
        from fedcore.trust.identity import new_identity

        return new_identity(folder / "keys" / f"{name}.key", name).public_line

    monkeypatch.setattr(placement_prediction, "new_key", key)
    case = Case("c", "embedded", (50, 60, 70), 3, (1, 3), "secagg+")
    names = write_case(case, tmp_path / "case", 4, 1.0)
    home = tmp_path / "case"
    assert [each.name for each in load_federation(home / "federation.yaml").participants] == names
    assert [load_job(home / f"{name}.yaml").local.epochs for name in ("first", "placed")] == [1, 3]
    assert load_job(home / "placed.yaml").placement is not None
    assert load_policy(home / "policy.yaml").participants.pick == 3
    assert load_topology(home / "map.yaml").names == ("here",)
    assert {load_node(home / f"{name}.node.yaml").owner for name in names} == set(names)
