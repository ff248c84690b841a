"""The benchmark of private training runs its way from the data to the targets, on few participants."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.private_training import main


def test_it_tells_what_was_run_and_whether_the_targets_are_met(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--participants", "8", "--rounds", "1", "--folder", str(tmp_path), "--json"]
    told = main(words).as_dict()
    assert told["settings"]["participants"] == 8 and told["settings"]["neighbours"] == "add-remove"
    targets = {each["name"]: each for each in told["targets"]}
    assert set(targets) == {"accuracy_gap", "accountants_apart"}
    # Eight are too few to hide in: the model is all noise, and the benchmark says so.
    assert targets["accuracy_gap"]["value"] > 0.02 and targets["accuracy_gap"]["met"] is False
    assert targets["accountants_apart"]["met"] is True
    assert 7 < told["figures"][0]["epsilon, PLD"] <= 8
    assert '"private_training"' in capsys.readouterr().out
