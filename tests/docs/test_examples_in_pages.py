"""The examples in the pages run as they stand there."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedcore
from tests.docs.pages import ROOT, blocks


def write_files(page: Path, folder: Path) -> list[str]:
    """Write the blocks that name a file in their first line; their names."""
    written = []
    for block in blocks(page):
        if match := re.match(r"# (\w+\.(?:py|yaml))\n", block.text):
            (folder / match[1]).write_text(block.text)
            written.append(match[1])
    return written


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def test_the_task_of_the_page_trains(tmp_path: Path) -> None:
    assert write_files(ROOT / "docs" / "tasks.md", tmp_path) == [
        "progression.py",
        "job.yaml",
        "federation.yaml",
        "main.py",
    ]
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = re.fullmatch(r"round \d+: wrong by (\d+) on average, over all clinics\n", done.stdout)
    assert said is not None
    result = json.loads(next(tmp_path.glob("runs/*/result.json")).read_text())
    first, last = result["rounds"][0]["evaluate"]["mae"], result["final"]["evaluate"]["mae"]
    # Always answering the mean of the target is wrong by 66 on average.
    assert last < 55 < 66 < first
    assert int(said[1]) == round(last)


def test_the_strategy_of_the_page_conforms_and_does_something(importable: Path) -> None:
    from fedcore.testing import check_strategy

    assert write_files(ROOT / "docs" / "strategies.md", importable) == ["clipped.py", "job.yaml"]
    report = check_strategy("clipped:ClippedAverage", parameters={"limit": 0.5})
    assert report.passed, report
    assert report.summable is True


def test_the_strategy_of_the_page_is_refused_until_a_site_allows_it(importable: Path) -> None:
    import numpy as np

    from tests.sites import Study

    write_files(ROOT / "docs" / "strategies.md", importable)
    study = Study(importable)
    from tests.sites import write_job

    write_job(importable, strategy='{use: "clipped:ClippedAverage", limit: 0.01}', rounds=1)
    with pytest.raises(fedcore.errors.PolicyRefused, match="code of 'clipped' may not run here"):
        study.run()
    for name in study.names:
        file = importable / f"{name}.yaml"
        file.write_text(file.read_text() + "  code: [fedcore, strategies, clipped]\n")
    tight = load(study.run(folder=importable / "tight").model)
    write_job(importable, strategy='{use: "clipped:ClippedAverage", limit: 1000}', rounds=1)
    loose = load(study.run(folder=importable / "loose").model)
    write_job(importable, rounds=1)
    plain = load(study.run(folder=importable / "plain").model)
    assert all(np.array_equal(loose[name], plain[name]) for name in plain)
    assert not any(np.array_equal(tight[name], plain[name]) for name in plain)


def load(file: Path) -> dict[str, object]:
    from safetensors.numpy import load_file

    return dict(load_file(file))


def test_the_first_job_beats_the_mean_of_those_who_train_alone(tmp_path: Path) -> None:
    import shutil

    sites = tmp_path / "federations"
    shutil.copytree(ROOT / "configs" / "federations", sites, ignore=shutil.ignore_patterns(".fedcore"))
    run = fedcore.run(
        ROOT / "examples" / "first_job.yaml", sites / "five_hospitals.yaml", folder=tmp_path / "run"
    )
    compared = run.json["baselines"]
    alone = [found["accuracy"] for found in compared["local"].values()]
    assert len(alone) == 5
    assert compared["federated"]["accuracy"] > sum(alone) / 5 + 0.03
