"""A run's state on the disk: the same when it comes back, whole or not there at all."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from fedcore.coordinator import checkpoint as module
from fedcore.coordinator.checkpoint import (
    Checkpoint,
    load,
    load_best,
    plain,
    restore_strategy_state,
    save,
    strategy_state,
    write_json,
)
from fedcore.coordinator.workflows.train import make_strategy
from fedcore.errors import RunInterrupted
from fedcore.flower import array_record, ndarrays
from strategies.registry import names
from tests.messages import a_job, message, reply_to

MODEL = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3, dtype=np.int64)}


def a_checkpoint(number: int = 1, **changes: Any) -> Checkpoint:
    made = {"arrays": MODEL, "strategy": {}, "progress": {"rounds": [], "array_order": ["w", "n"]}, **changes}
    return Checkpoint(number, **made)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        alike = isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape
        return alike and a.tobytes() == b.tobytes()
    if isinstance(a, ArrayRecord):
        return isinstance(b, ArrayRecord) and same(ndarrays(a), ndarrays(b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


# ---- round trips --------------------------------------------------------------------------------------------


def test_arrays_of_every_kind_come_back_in_their_order(tmp_path) -> None:
    arrays = {
        "z": np.array(3, dtype=np.int64),
        "a": np.array(0.5, dtype=np.float32),
        "flags": np.array([True, False]),
        "turned": np.arange(12, dtype=np.float64).reshape(3, 4).T,
        "empty": np.zeros((0, 4), np.float32),
        "half": np.ones(2, np.float16),
        "bytes": np.arange(3, dtype=np.uint8),
    }
    progress = {"rounds": [1], "array_order": list(arrays)}
    folder = save(tmp_path, a_checkpoint(arrays=arrays, progress=progress))
    assert folder.name == "round-0001"
    found = load(tmp_path)
    assert same(found.arrays, arrays) and found.progress == progress and found.number == 1


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        arrays_of.arrays(
            st.sampled_from([np.float32, np.float64, np.int64, np.bool_]),
            arrays_of.array_shapes(min_dims=0, max_side=3),
        ),
        max_size=4,
    ),
    st.dictionaries(
        st.text("abc_", min_size=1, max_size=4),
        st.none()
        | st.booleans()
        | st.integers(-(2**60), 2**60)
        | st.floats()
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
        | st.lists(st.floats(), max_size=2)
        | st.tuples(st.integers(0, 9), st.floats()),
        max_size=4,
    ),
)
@example({}, {"a": math.inf, "b": -math.inf, "c": [math.nan, 1.0], "ab": (1, math.inf)})
def test_any_state_of_a_strategy_comes_back_also_what_json_has_no_word_for(
    tmp_path_factory, record, settings
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    strategy = {**settings, "REC": array_record(record), "DICT": record, "LIST": list(record.values())}
    save(folder, a_checkpoint(strategy=strategy))
    found = load(folder).strategy
    assert same({**strategy, "DICT": dict(record)}, found)


@pytest.mark.parametrize("name", names())
def test_every_strategy_goes_on_from_its_checkpoint_as_if_nothing_had_happened(tmp_path, name) -> None:
    parameters = {"krum": {"malicious": 0}, "multikrum": {"malicious": 0}, "bulyan": {"malicious": 0}}
    job = a_job(strategy={"use": name, **parameters.get(name, {})})
    sent = {**MODEL, "w": MODEL["w"] / 10}

    def a_round(strategy: Any, number: int, model: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        grid = _Grid()
        asked = list(strategy.configure_train(number, array_record(model), _config(), grid))
        replies = []
        for i, one in enumerate(asked):
            record = ndarrays(one.content["arrays"])
            back = {k: v + np.asarray(0.01 * (i + number), v.dtype) for k, v in record.items()}
            if name in ("scaffold", "fednova"):
                back["extra/trained"] = np.array([0, 1], np.float32)
            back = {k: v for k, v in back.items() if not k.startswith("extra/share")}
            if name == "scaffold":
                back["extra/control/w"] = np.full_like(MODEL["w"], i + number)
            one.metadata.__dict__["_message_id"] = f"{number}-{i}"
            replies.append(reply_to(one, back, i + 1, loss=1.0 / (i + 1)))
        return ndarrays(strategy.aggregate_train(number, replies)[0])

    one = make_strategy(job)[1]
    after = [a_round(one, 1, sent)]
    after.append(a_round(one, 2, after[0]))
    save(tmp_path, a_checkpoint(2, arrays=after[1], strategy=strategy_state(one)))
    after.append(a_round(one, 3, after[1]))
    stored = load(tmp_path)
    other = make_strategy(job)[1]
    restore_strategy_state(other, stored.strategy)
    assert same(a_round(other, 3, stored.arrays), after[2])
    assert same(strategy_state(other), strategy_state(one))
    if name in ("fedadam", "fedyogi", "fedadagrad", "fedavgm"):
        forgetful = a_round(make_strategy(job)[1], 3, stored.arrays)
        assert not np.allclose(forgetful["w"], after[2]["w"]), "the state matters, or this proves nothing"


class _Grid:
    def get_node_ids(self) -> list[int]:
        return [1, 2, 3, 4, 5]


def _config() -> Any:
    return message(server_round=0).content["config"]


def test_what_only_the_constructor_knows_is_not_stored() -> None:
    class Own:
        def __init__(self) -> None:
            self.rate, self.function, self.grid = 0.5, len, _Grid()
            self.nested = {"a": {"b": np.zeros(2)}}
            self.arrays = {"a": np.zeros(2)}

    assert set(strategy_state(Own())) == {"rate", "arrays"}


# ---- whole or not at all ------------------------------------------------------------------------------------


def test_the_last_two_are_kept_and_the_last_is_loaded(tmp_path) -> None:
    for number in (1, 2, 3, 10):
        save(tmp_path, a_checkpoint(number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-0003", "round-0010"]
    assert load(tmp_path).number == 10


def test_without_any_there_is_none(tmp_path) -> None:
    assert load(tmp_path) is None and load(tmp_path / "nowhere") is None
    (tmp_path / "round-two").mkdir()
    assert load(tmp_path) is None


@pytest.mark.parametrize("when", ["_save_arrays", "_write"])
def test_one_that_was_killed_in_the_middle_is_not_looked_at_and_later_ones_work(
    tmp_path, monkeypatch, when
) -> None:
    save(tmp_path, a_checkpoint(1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, when, killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, a_checkpoint(2))
    assert load(tmp_path).number == 1
    save(tmp_path, a_checkpoint(2))
    assert load(tmp_path).number == 2


def damage_missing_state(folder):
    (folder / "state.json").unlink()


def damage_cut_state(folder):
    text = (folder / "state.json").read_text()
    (folder / "state.json").write_text(text[: len(text) // 2])


def damage_missing_arrays(folder):
    (folder / "arrays.safetensors").unlink()


def damage_cut_arrays(folder):
    data = (folder / "arrays.safetensors").read_bytes()
    (folder / "arrays.safetensors").write_bytes(data[:-5])


def damage_other_arrays(folder):
    module._save_arrays({"model/w": MODEL["w"]}, folder / "arrays.safetensors")


@pytest.mark.parametrize(
    "damage",
    [
        damage_missing_state,
        damage_cut_state,
        damage_missing_arrays,
        damage_cut_arrays,
        damage_other_arrays,
    ],
)
def test_a_torn_folder_is_passed_over_for_the_one_before(tmp_path, damage) -> None:
    save(tmp_path, a_checkpoint(1))
    damage(save(tmp_path, a_checkpoint(2)))
    assert load(tmp_path).number == 1
    damage(tmp_path / "round-0001")
    assert load(tmp_path) is None


@pytest.mark.parametrize("where", ["fsync", "mkdir", "replace"])
def test_a_full_disk_stops_the_run_resumable_and_leaves_the_earlier_ones(
    tmp_path, monkeypatch, where
) -> None:
    save(tmp_path, a_checkpoint(3))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        words = r"checkpoint of round 4 .*No space left on device.*make room .* goes on from round 3"
        with pytest.raises(RunInterrupted, match=words) as caught:
            save(tmp_path, a_checkpoint(4))
    assert caught.value.party == "coordinator" and caught.value.step == "checkpoint round 4"
    assert [path.name for path in tmp_path.iterdir()] == ["round-0003"] and load(tmp_path).number == 3


# ---- the best model -----------------------------------------------------------------------------------------


def better(value: float) -> dict[str, np.ndarray]:
    return {**MODEL, "w": np.full((2, 3), value, np.float32)}


def test_the_best_model_stays_until_a_checkpoint_names_a_better_one(tmp_path, monkeypatch) -> None:
    save(tmp_path, Checkpoint(1, better(1), {}, {}, best=True))
    for number in (2, 3, 4):
        save(tmp_path, Checkpoint(number, better(number), {}, {}))
    assert load_best(tmp_path, 1)["w"][0, 0] == 1, "its own checkpoint is long gone"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            module.shutil, "rmtree", lambda path, **_: killed() if path.name == "round-0005" else None
        )
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, Checkpoint(5, better(5), {}, {}, best=True))
    # The last checkpoint still names round 1 as the best.
    assert load(tmp_path).number == 4 and load_best(tmp_path, 1)["w"][0, 0] == 1
    save(tmp_path, Checkpoint(5, better(5), {}, {}, best=True))
    assert load_best(tmp_path, 5)["w"][0, 0] == 5 and load_best(tmp_path, 1) is None


# ---- JSON ---------------------------------------------------------------------------------------------------


def test_json_has_null_for_what_it_has_no_word_for_and_replaces_in_one_step(tmp_path, monkeypatch) -> None:
    file = tmp_path / "result.json"
    write_json(file, {"a": [math.nan, np.float32(0.5), np.int64(3)], 1: (True, math.inf)})
    assert json.loads(file.read_text()) == {"a": [None, 0.5, 3], "1": [True, None]}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_json(file, {"b": 1})
    assert "a" in json.loads(file.read_text())
    assert plain({"x": np.array([1.0])[0]}) == {"x": 1.0}


def test_each_round_is_written_once_and_those_that_are_missing_are_made_good(tmp_path) -> None:
    def of(*records: str) -> dict[str, Any]:
        return {"rounds": [{"told": record} for record in records], "array_order": ["w", "n"]}

    save(tmp_path, a_checkpoint(2, progress=of("one", "two")))
    written = (tmp_path / "rounds" / "0001.json").stat().st_mtime_ns
    save(tmp_path, a_checkpoint(3, progress=of("one", "two", "three")))
    assert (tmp_path / "rounds" / "0001.json").stat().st_mtime_ns == written
    assert load(tmp_path).progress == of("one", "two", "three")
    assert "three" not in (tmp_path / "round-0003" / "state.json").read_text()
