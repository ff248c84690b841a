"""Small files, and what is told of them."""

from __future__ import annotations

from pathlib import Path

from fedcore.jobs.load import check_files

KEY = "ecdsa-sha2-nistp384 AAAA"

JOB = """kind: train
name: a
data: rows
task: {use: tabular-classifier, target: y}
"""

PARTICIPANT = """name: site-a
catalogue:
  rows: {connector: csv, path: rows.csv}
"""


def told(folder: Path, text: str) -> list[str]:
    """The problems of a file `a.yaml` with this text, each without the folder."""
    (folder / "a.yaml").write_text(text)
    return [str(problem).removeprefix(f"{folder}/") for problem in check_files([folder / "a.yaml"])]


def only(folder: Path, text: str) -> str:
    """The single problem of a file with this text."""
    problems = told(folder, text)
    assert len(problems) == 1, problems
    return problems[0]
