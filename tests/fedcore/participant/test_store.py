"""The client half's memory: the right round's, of the right run and site, also after a crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedcore.jobs.participant import Participant
from fedcore.participant.store import load_state, save_state


@pytest.fixture
def site(tmp_path: Path) -> Participant:
    return Participant(name="site-0", catalogue={}, state=tmp_path / "state")


def state(value: float) -> dict[str, np.ndarray]:
    return {"c": np.full(3, value, np.float32)}


def rounds(site: Participant, run: str = "run-1") -> list[str]:
    return sorted(file.name for file in (site.state / "runs" / run).iterdir())


def test_arrays_of_every_kind_come_back_as_they_were(site) -> None:
    arrays = {
        "scalar": np.array(3, dtype=np.int64),
        "kept/1.running_mean": np.arange(4, dtype=np.float64),
        "not contiguous": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "empty": np.zeros((0, 2), np.float32),
        "flags": np.array([True, False]),
    }
    save_state(site, "run-1", 1, arrays)
    found = load_state(site, "run-1", 2)
    assert set(found) == set(arrays)
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        np.testing.assert_array_equal(found[name], value)


def test_a_round_sees_the_state_of_the_latest_round_before_it(site) -> None:
    assert load_state(site, "run-1", 1) == {}
    save_state(site, "run-1", 1, state(1))
    save_state(site, "run-1", 4, state(4))
    assert load_state(site, "run-1", 1) == {}
    assert load_state(site, "run-1", 4)["c"][0] == 1
    assert load_state(site, "run-1", 9)["c"][0] == 4


def test_only_the_last_two_rounds_are_kept(site) -> None:
    for number in (1, 2, 3, 10):
        save_state(site, "run-1", number, state(number))
    assert rounds(site) == ["round-00003.safetensors", "round-00010.safetensors"]


def test_a_repeated_round_replaces_its_first_attempt(site) -> None:
    for number in (1, 2, 3):
        save_state(site, "run-1", number, state(number))
    assert load_state(site, "run-1", 3)["c"][0] == 2
    save_state(site, "run-1", 3, state(33))
    assert load_state(site, "run-1", 4)["c"][0] == 33


def test_rounds_that_a_resumed_run_gave_up_neither_stay_nor_push_out_the_new_ones(site) -> None:
    for number in (7, 8):
        save_state(site, "run-1", number, state(number))
    # The checkpoints were lost: the run begins again.
    save_state(site, "run-1", 1, state(1))
    assert load_state(site, "run-1", 2)["c"][0] == 1
    save_state(site, "run-1", 2, state(2))
    assert load_state(site, "run-1", 9)["c"][0] == 2


def test_runs_and_sites_do_not_see_each_other_s_state(site, tmp_path) -> None:
    other = Participant(name="site-1", catalogue={}, state=tmp_path / "other")
    save_state(site, "run-1", 1, state(1))
    assert load_state(site, "run-2", 2) == {} and load_state(other, "run-1", 2) == {}


def test_a_file_that_was_not_finished_is_not_looked_at(site, monkeypatch) -> None:
    save_state(site, "run-1", 1, state(1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            save_state(site, "run-1", 2, state(2))
    assert load_state(site, "run-1", 3)["c"][0] == 1
