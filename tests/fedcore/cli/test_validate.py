"""`fedcore validate` as a person and as a machine reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedcore.cli.main import run
from fedcore.jobs.load import load_job
from fedcore.network.policy import load_policy

CONFIGS = Path(__file__).parents[3] / "configs"
JOB = "kind: train\nname: a\ndata: rows\ntask: {use: tabular-classifier, target: y}\n"


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    (tmp_path / "sound.yaml").write_text(JOB)
    return tmp_path / "sound.yaml"


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    (tmp_path / "wrong.yaml").write_text(JOB + "rouns: 3\nlocal: {lr: -1}\n")
    return tmp_path / "wrong.yaml"


def test_sound_files_end_with_0(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready = [str(file) for file in sorted(CONFIGS.glob("*/*.yaml"))]
    assert run(["validate", str(sound), *ready]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"{len(ready) + 1} files, no problems\n"


def test_problems_are_listed_one_per_line_and_end_with_2(
    wrong: Path, sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["validate", str(sound), str(wrong)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f'{wrong}:5: rouns: unknown key; did you mean "rounds"? allowed: ')
    assert lines[1:] == [
        f"{wrong}:6: local.lr: must be greater than 0, not the number -1",
        "2 problems in 2 files",
    ]


def test_json_has_every_field_of_a_problem(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", str(wrong), "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.err == ""
    answer = json.loads(printed.out)
    assert answer["files"] == [{"file": str(wrong), "kind": "job", "valid": False}]
    assert answer["error"]["exit_code"] == 2
    assert answer["problems"][1] == {
        "file": str(wrong),
        "line": 6,
        "column": 9,
        "key": "local.lr",
        "value": -1,
        "message": "must be greater than 0, not the number -1",
        "allowed": [],
        "nearest": None,
        "text": f"{wrong}:6: local.lr: must be greater than 0, not the number -1",
    }


def test_shown_job_has_every_default_and_is_the_same_job(
    sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["validate", "--show", str(sound)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "  optimizer: sgd\n" in printed.out and "deadline: 600.0\n" in printed.out
    shown = sound.with_name("shown.yaml")
    shown.write_text(printed.out)
    assert load_job(shown) == load_job(sound)


def test_several_files_are_shown_with_their_names_and_wrong_ones_are_told(
    sound: Path, wrong: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["validate", "--show", str(sound), str(wrong), str(sound)]) == 2
    printed = capsys.readouterr()
    assert printed.out.count(f"# {sound}\nkind: train\n") == 2 and printed.out.count("---\n") == 1
    assert "2 problems in 3 files" in printed.err


def test_shown_json_holds_the_content(sound: Path, wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["validate", "--show", "--json", str(sound), str(wrong)])
    first, second = json.loads(capsys.readouterr().out)["files"]
    assert first["content"]["local"]["batch_size"] == 32
    assert second["content"] is None


def test_problem_of_a_file_that_two_files_name_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text("name: s\ncatalogue: {}\nresources: {gpus: all}\n")
    (tmp_path / "f.yaml").write_text("name: f\nparticipants: [s.yaml]\n")
    assert run(["validate", str(tmp_path / "f.yaml"), str(tmp_path / "s.yaml")]) == 2
    assert capsys.readouterr().err.count("resources.gpus") == 1


def test_maps_policies_and_nodes_are_checked_beside_jobs(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "node.yaml").write_text("node: n\nowner: a\nsite: s\njurisdiction: CN\npue: 0.8\n")
    (tmp_path / "policy.yaml").write_text("name: p\nweights: {time: 1, carbon: 1}\n")
    files = [
        str(CONFIGS / "networks" / "eight_hubs.yaml"),
        str(tmp_path / "node.yaml"),
        str(tmp_path / "policy.yaml"),
    ]
    assert run(["validate", str(sound), *files, "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert [(each["kind"], each["valid"]) for each in answer["files"]] == [
        ("job", True),
        ("network", True),
        ("node", False),
        ("policy", False),
    ]
    assert [problem["key"] for problem in answer["problems"]] == ["pue", "weights"]


def test_a_policy_is_shown_with_every_default_and_is_the_same_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy.yaml").write_text("name: p\nparticipants: {pick: 4}\n")
    assert run(["validate", "--show", str(tmp_path / "policy.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "  from: random\n" in shown and "  children_min: 3\n" in shown
    (tmp_path / "shown.yaml").write_text(shown)
    assert load_policy(tmp_path / "shown.yaml") == load_policy(tmp_path / "policy.yaml")
