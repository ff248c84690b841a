"""What benchmarks share: targets are judged, JSON has its shape, memory and time are those of the whole tree."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.common import Report, Target, greatest_difference, parser, ratio, report_from
from benchmarks.measure import MIB, MeasurementFailed, alternate, measure
from benchmarks.regenerate import BENCHMARKS, PAGE, tables, write

# ---- targets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "bound", "met", "verdict"),
    [
        (5.0, {"at_least": 5.0}, True, "met"),
        (4.999, {"at_least": 5.0}, False, "**missed**"),
        (1.02, {"at_most": 1.02}, True, "met"),
        (1.03, {"at_most": 1.02}, False, "**missed**"),
        (None, {"at_most": 1.02}, False, "not measured"),
        (math.nan, {"at_least": 0.0}, False, "not measured"),
    ],
)
def test_a_target_is_met_or_stays_in_the_list_as_missed(value, bound, met, verdict) -> None:
    target = Target("speed", value, **bound)
    told = target.as_dict()
    assert target.met is met and target.verdict == verdict
    assert told["met"] is met and {k: told[k] for k in bound} == bound
    assert told["value"] == (None if verdict == "not measured" else value)


@pytest.mark.parametrize("bounds", [{}, {"at_least": 1.0, "at_most": 2.0}])
def test_a_target_has_one_bound(bounds) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Target("speed", 1.0, **bounds)


def test_a_ratio_to_nothing_is_no_number() -> None:
    assert ratio(6.0, 2.0) == 3.0
    assert ratio(None, 2.0) is ratio(6.0, None) is ratio(6.0, 0.0) is None


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ({"a": np.array([1.0, 2.0])}, {"a": np.array([1.0, 2.5])}, 0.5),
        ({"a": math.nan}, {"a": math.nan}, 0.0),
        ({"a": math.nan}, {"a": 1.0}, math.inf),
        ({"a": np.zeros(2)}, {"a": np.zeros(3)}, math.inf),
        ({"a": 1.0}, {"b": 1.0}, math.inf),
        ({}, {}, 0.0),
    ],
)
def test_models_are_equal_only_when_all_their_arrays_are(one, other, apart) -> None:
    assert greatest_difference(one, other) == apart


# ---- what is printed -------------------------------------------------------------------------------------------


def a_report() -> Report:
    return Report(
        "toy",
        {"rows": 3},
        [{"side": "ours", "seconds": 1.5}, {"side": "theirs", "seconds": 3.0, "note": "slow"}],
        [Target("faster", 2.0, at_least=1.5), Target("smaller", None, at_most=1.0)],
        {"third": "it does not install here"},
    )


def test_json_holds_settings_figures_targets_and_what_is_absent(capsys) -> None:
    a_report().tell(as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"benchmark", "settings", "figures", "targets", "absent"}
    assert [one["name"] for one in told["targets"]] == ["faster", "smaller"]
    assert report_from(told) == a_report()


def test_a_person_sees_the_missed_and_the_absent(capsys) -> None:
    a_report().tell(as_json=False)
    printed = capsys.readouterr().out
    assert "not measured" in printed and "it does not install here" in printed


def test_the_page_gets_the_tables_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- toy: begin -->\nold\n<!-- toy: end -->\nbelow\n")
    write(page, "toy", tables(json.dumps(a_report().as_dict())))
    text = page.read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "old" not in text
    assert "| faster | 2 | at least 1.5 | met |" in text and "| ours | 1.5 |" in text
    with pytest.raises(ValueError, match="no place for other"):
        write(page, "other", "")


def test_the_page_has_a_place_for_every_benchmark() -> None:
    text = PAGE.read_text()
    for name in BENCHMARKS:
        assert f"<!-- {name}: begin -->" in text and f"{name}.py" in text


@pytest.mark.parametrize("words", [["--repeats", "0"], ["--rep", "1"], ["--cores", "none"]])
def test_wrong_options_are_refused(words, capsys) -> None:
    with pytest.raises(SystemExit):
        parser("text").parse_args(words)
    assert "error" in capsys.readouterr().err


# ---- measuring -------------------------------------------------------------------------------------------------


def test_memory_is_the_sum_over_parent_and_child(tmp_path: Path) -> None:
    hold = "import time; kept = b'x' * (96 << 20); time.sleep(1.5)"
    both = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}; child.wait()"
    one = measure([sys.executable, "-c", hold], folder=tmp_path / "one")
    two = measure([sys.executable, "-c", both], folder=tmp_path / "two")
    assert 96 < one.peak / MIB < 150
    assert 192 < two.peak / MIB < 250
    assert (one.processes, two.processes) == (1, 2)


def test_a_command_that_fails_says_so_with_the_end_of_its_output(tmp_path: Path) -> None:
    with pytest.raises(MeasurementFailed, match="no luck"):
        measure([sys.executable, "-c", "raise SystemExit('no luck')"], folder=tmp_path)


def test_sides_take_turns() -> None:
    order: list[tuple[str, int]] = []

    def side(name: str):
        def run(number: int) -> int:
            order.append((name, number))
            return number

        return run

    measured = alternate({"a": side("a"), "b": side("b")}, 3)
    assert {name: sorted(numbers) for name, numbers in measured.items()} == {"a": [0, 1, 2], "b": [0, 1, 2]}
    assert [number for _, number in order] == [0, 0, 1, 1, 2, 2]


# ---- the benchmarks themselves, at the size of a toy -----------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("engines", ["--participants", "3", "--rounds", "1", "--sides", "embedded"]),
        (
            "pfl_cifar_shape",
            ["--sides", "fedcore", "--central", "20", "--rounds", "1", "--users", "4", "--cohort", "2"],
        ),
        ("psi", ["--items", "501", "--protocol", "vole"]),
        pytest.param("psi", ["--items", "501", "--protocol", "ecdh"], marks=pytest.mark.slow),
    ],
)
def test_a_toy_run_prints_one_object_and_names_what_it_left_out(
    module, words, tmp_path, capsys, monkeypatch
) -> None:
    # A benchmark keeps itself to its cores; the tests go on after it.
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda *_: [0, 1])
    main = importlib.import_module(f"benchmarks.{module}").main
    report = main([*words, "--folder", str(tmp_path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(report.as_dict()))
    assert told["figures"][0]["seconds"] > 0 and told["absent"]
    assert told["targets"] and not any(target["met"] for target in told["targets"])
