"""The example of a developer's own strategy is as short as it claims, is what its page shows, and runs."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parents[2] / "examples" / "custom_strategy"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(HERE), *sys.path])
    yield
    sys.modules.pop("steady_average", None)


def test_the_strategy_is_under_25_lines_and_the_page_shows_all_of_them():
    source = (HERE / "steady_average.py").read_text()
    assert len(source.splitlines()) < 25
    assert source in (HERE / "README.md").read_text()


def test_a_round_that_leaps_is_shortened_to_the_usual_length(example):
    from steady_average import SteadyAverage

    strategy, model = SteadyAverage(limit=2.0), {"w": np.zeros(2)}
    lengths = []
    for leap in (1.0, 1.0, 50.0):
        sent = strategy.outgoing(model)
        new = strategy.incoming(sent, {"w": model["w"] + np.array([0.6, 0.8]) * leap})
        lengths.append(float(np.linalg.norm(new["w"] - model["w"])))
        model = new
    assert lengths == pytest.approx([1.0, 1.0, 2.0])


def test_the_example_passes_its_check_and_learns(example, tmp_path, capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location("custom_strategy_run", HERE / "run.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    run.main(tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "steady_average:SteadyAverage: passed"
    first, last = (float(line.split()[-1]) for line in (lines[-8], lines[-1]))
    assert last > 0.7
    assert last > first
