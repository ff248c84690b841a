"""A run's state after each completed round, so that a killed coordinator loses at most the round it was in."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fedcore.errors import RunInterrupted
from fedcore.flower import array_record, ndarrays

NDArray = npt.NDArray[Any]

log = logging.getLogger("fedcore.coordinator")

KEPT = 2
ROUNDS = "rounds"
_SCALARS = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on after a round.

    Args:
        number: The last completed round.
        arrays: The global model, by name.
        strategy: As from `strategy_state`.
        progress: JSON values of the workflow: agreed schema, early stopping, `rounds` so far. The record of
            each round is a file of its own, written once, so that a long run does not write all of its past
            after every round.
        best: Whether its model is the best so far.
    """

    number: int
    arrays: dict[str, NDArray]
    strategy: dict[str, Any]
    progress: dict[str, Any]
    best: bool = False


def strategy_state(strategy: object) -> dict[str, Any]:
    """All of a strategy's attributes that are arrays, scalars, or lists and dicts of them.

    Flower's strategies keep their moments and momentum in plain attributes and have no hook to save them.
    What cannot be stored (functions, settings objects) is what the constructor made, and is made again.

    Returns:
        Attribute name to value: scalars, ndarrays, `ArrayRecord`, or lists and dicts of ndarrays or scalars.
    """
    return {name: value for name, value in vars(strategy).items() if _storable(value)}


def _storable(value: Any) -> bool:
    if isinstance(value, (*_SCALARS, np.ndarray, np.generic, ArrayRecord)):
        return True
    if isinstance(value, list | tuple):
        return all(isinstance(item, (*_SCALARS, np.ndarray, np.generic)) for item in value)
    if isinstance(value, dict):
        return all(
            isinstance(key, str) and isinstance(item, (*_SCALARS, np.ndarray, np.generic))
            for key, item in value.items()
        )
    return False


def restore_strategy_state(strategy: object, state: Mapping[str, Any]) -> None:
    """Set the attributes that `strategy_state` took."""
    for name, value in state.items():
        setattr(strategy, name, value)


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint so that it is there as a whole or not at all; keep the last two.

    The best model is kept beside them, as `best-0003.safetensors`: it is there before a checkpoint names its
    round, and the best of before goes after that.

    Args:
        folder: The run's `checkpoints/`.
        checkpoint: To write.

    Returns:
        Its folder, `round-0003`.

    Raises:
        RunInterrupted: The disk does not take it; earlier checkpoints are whole.
    """
    final = folder / f"round-{checkpoint.number:04d}"
    partial = folder / f".{final.name}.{os.getpid()}.partial"
    arrays: dict[str, NDArray] = {f"model/{k}": v for k, v in checkpoint.arrays.items()}
    shape = {name: _flatten(value, f"strategy/{name}", arrays) for name, value in checkpoint.strategy.items()}
    progress = {name: value for name, value in checkpoint.progress.items() if name != ROUNDS}
    history = checkpoint.progress.get(ROUNDS, [])
    state = {"number": checkpoint.number, "strategy": shape, "progress": progress, ROUNDS: len(history)}
    try:
        shutil.rmtree(partial, ignore_errors=True)
        _save_history(folder / ROUNDS, history)
        partial.mkdir(parents=True)
        _save_arrays(arrays, partial / "arrays.safetensors")
        _write(partial / "state.json", json.dumps(plain(state), allow_nan=False))
        if checkpoint.best:
            save_model(_best(folder, checkpoint.number), checkpoint.arrays)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not _saved(folder):
            shutil.rmtree(folder / ROUNDS, ignore_errors=True)
        raise RunInterrupted(
            f"the checkpoint of round {checkpoint.number} could not be written to {folder} "
            f"({error.strerror or error}); make room there, then resume the run: it goes on from "
            f"round {max((n for n, _ in _saved(folder)), default=0)}",
            party="coordinator",
            step=f"checkpoint round {checkpoint.number}",
        ) from error
    for _, old in sorted(_saved(folder))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    if checkpoint.best:
        for file in set(folder.glob("best-*.safetensors")) - {_best(folder, checkpoint.number)}:
            file.unlink(missing_ok=True)
    return final


def load_best(folder: Path, number: int) -> dict[str, NDArray] | None:
    """The model of round `number` that was saved as the best; None when there is none."""
    file = _best(folder, number)
    return dict(load_file(file)) if file.exists() else None


def _best(folder: Path, number: int) -> Path:
    return folder / f"best-{number:04d}.safetensors"


def load(folder: Path) -> Checkpoint | None:
    """The last whole checkpoint; None when there is none."""
    for number, path in sorted(_saved(folder), reverse=True):
        try:
            return _load(number, path)
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            log.warning("checkpoint %s is damaged (%s); looking for an earlier one", path, error)
    return None


def _load(number: int, path: Path) -> Checkpoint:
    stored = load_file(path / "arrays.safetensors")
    state = json.loads((path / "state.json").read_text())
    strategy = {name: _unflatten(shape, stored) for name, shape in state["strategy"].items()}
    arrays = {name[len("model/") :]: value for name, value in stored.items() if name.startswith("model/")}
    files = [_record(path.parent / ROUNDS, each) for each in range(1, state[ROUNDS] + 1)]
    progress = {**state["progress"], ROUNDS: [json.loads(file.read_text()) for file in files]}
    order = progress.get("array_order")
    if order:
        arrays = {name: arrays[name] for name in order}
    return Checkpoint(number, arrays, strategy, progress)


def _save_history(folder: Path, history: Sequence[Any]) -> None:
    """Write the last round's record, and those before it that are not there."""
    for number in range(len(history), 0, -1):
        file = _record(folder, number)
        if number < len(history) and file.exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, history[number - 1], indent=None)


def _record(folder: Path, number: int) -> Path:
    return folder / f"{number:04d}.json"


def _saved(folder: Path) -> list[tuple[int, Path]]:
    found = [(re.fullmatch(r"round-(\d+)", path.name), path) for path in folder.glob("round-*")]
    return [(int(match[1]), path) for match, path in found if match]


def _save_arrays(arrays: Mapping[str, NDArray], file: Path) -> None:
    try:
        save_file({name: np.asarray(value, order="C") for name, value in arrays.items()}, file)
    except Exception as error:
        # safetensors reports a full disk as an error of its own type, with the system's text in it.
        if isinstance(error, OSError):
            raise
        raise OSError(str(error)) from error
    with file.open("rb+") as written:
        os.fsync(written.fileno())


def _write(file: Path, text: str) -> None:
    with file.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def write_json(file: Path, value: Any, indent: int | None = 1) -> None:
    """Write JSON atomically; NaN becomes null."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        _write(partial, json.dumps(plain(value), indent=indent, allow_nan=False))
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def save_model(file: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write a model as safetensors, atomically."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    _save_arrays(arrays, partial)
    os.replace(partial, file)


def plain(value: Any) -> Any:
    """The value with NaN and infinities as None and numpy numbers as Python's, for JSON."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _flatten(value: Any, name: str, arrays: dict[str, NDArray]) -> dict[str, Any]:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name}
    if isinstance(value, ArrayRecord):
        held = ndarrays(value)
        return {"record": {key: _flatten(item, f"{name}/{key}", arrays) for key, item in held.items()}}
    if isinstance(value, dict):
        return {"dict": {key: _flatten(item, f"{name}/{key}", arrays) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_flatten(item, f"{name}/{i}", arrays) for i, item in enumerate(value)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}  # JSON has no word for it
    return {"value": value}


def _unflatten(shape: dict[str, Any], stored: Mapping[str, NDArray]) -> Any:
    kind, held = next(iter(shape.items()))
    if kind == "array":
        return stored[held]
    if kind == "record":
        return array_record({key: _unflatten(item, stored) for key, item in held.items()})
    if kind == "dict":
        return {key: _unflatten(item, stored) for key, item in held.items()}
    if kind in ("list", "tuple"):
        items = [_unflatten(item, stored) for item in held]
        return items if kind == "list" else tuple(items)
    return float(held) if kind == "float" else held
