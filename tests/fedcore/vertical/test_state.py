from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from fedcore.errors import DataError, JobError
from fedcore.vertical.state import State, open_state, read_json

STEPS = ("align", "bin", "model:champion")


@pytest.fixture
def state(tmp_path: Path) -> State:
    return open_state(tmp_path / "run-1", "digest", STEPS)


def finish(state: State, step: str, token: bytes = b"t" * 16, content: str = "x") -> str:
    with state.writing(step) as folder:
        (folder / "found.json").write_text(content)
        (folder / "tables").mkdir()
        (folder / "tables" / "a.csv").write_text("1")
        return state.finish(step, token)


def test_finished_steps_are_those_without_a_gap(state: State) -> None:
    assert state.finished() == {}
    commitment = finish(state, "align")
    finish(state, "model:champion")
    assert state.finished() == {"align": commitment}
    finish(state, "bin")
    assert list(state.finished()) == list(STEPS)


def test_a_step_that_fails_leaves_nothing(state: State) -> None:
    def fails() -> None:
        with state.writing("align") as folder:
            (folder / "found.json").write_text("half of")
            raise DataError("the disk is full")

    with pytest.raises(DataError):
        fails()
    assert state.finished() == {} and sorted(p.name for p in state.folder.iterdir()) == ["state.json"]


def test_a_step_that_was_killed_leaves_nothing_that_counts(state: State) -> None:
    folder = state.folder / ".align.partial"
    folder.mkdir()
    (folder / "found.json").write_text("half of")
    assert state.finished() == {}
    with state.writing("align") as again:
        assert list(again.iterdir()) == []


def test_the_commitment_is_opened_by_the_salt(state: State) -> None:
    commitment = finish(state, "align")
    folder = state.of("align")
    digest = hashlib.sha256((folder / "salt").read_bytes())
    digest.update(b"found.json\x001\x00x" + b"tables/a.csv\x001\x001")
    assert digest.hexdigest() == commitment
    finish(state, "align")
    assert state.finished()["align"] != commitment, "another salt"


def test_a_repeated_step_takes_what_was_made_of_it_along(state: State) -> None:
    for step in STEPS:
        finish(state, step)
    state.forget_from("bin")
    assert list(state.finished()) == ["align"]


def test_the_past_is_the_same_only_where_all_steps_are_of_the_same_attempts(
    state: State, tmp_path: Path
) -> None:
    other = open_state(tmp_path / "other" / "run-1", "digest", STEPS)
    finish(state, "align")
    finish(other, "align", content="of the other party")
    assert state.past("bin") == other.past("bin")
    finish(other, "align", token=b"u" * 16)
    assert state.past("bin") != other.past("bin")
    assert state.past("align") == other.past("align")


def test_a_step_needs_all_before_it(state: State) -> None:
    finish(state, "align")
    state.need("bin")
    with pytest.raises(
        JobError, match="step bin of this run is not finished here, so model:champion cannot begin"
    ):
        state.need("model:champion")


def test_what_was_kept_of_another_job_is_refused_and_named(state: State) -> None:
    open_state(state.folder, "digest", STEPS)
    with pytest.raises(JobError, match=r"run run-1 is of another job .*begin a new run"):
        open_state(state.folder, "another", STEPS)


def test_a_folder_that_cannot_be_made_is_told_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match="folder for results") as error:
        open_state(tmp_path / "file" / "run", "digest", STEPS)
    assert str(tmp_path) not in error.value.message and str(tmp_path) in (error.value.detail or "")


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_damaged_file_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match="begin a new run"):
        read_json(tmp_path / "x.json")


def test_numbers_that_are_not_finite_survive(tmp_path: Path, state: State) -> None:
    from fedcore.vertical.state import write_json

    write_json(tmp_path / "x.json", {"vif": float("inf")})
    assert read_json(tmp_path / "x.json")["vif"] == float("inf")
    assert json.loads((state.folder / "state.json").read_text())["digest"] == "digest"
