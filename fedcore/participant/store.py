"""What the client half of a strategy remembers at the site from round to round; it never leaves the site."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from fedcore.jobs.participant import Participant

NDArray = npt.NDArray[Any]

ROUNDS_KEPT = 2
"""The round before the last is kept so that a coordinator that resumes one round earlier finds its state."""


def save_state(participant: Participant, run: str, number: int, arrays: dict[str, NDArray]) -> None:
    """Store the state after round `number`, atomically; older rounds than the last two are removed.

    Later rounds are removed too: they are of an attempt that a resumed run has given up.
    """
    folder = _folder(participant, run)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"round-{number:05d}.safetensors"
    partial = file.with_suffix(f".{os.getpid()}.partial")
    save_file({name: np.asarray(value, order="C") for name, value in arrays.items()}, partial)
    os.replace(partial, file)
    stored = sorted(_rounds(folder))
    kept = [(n, old) for n, old in stored if n <= number][-ROUNDS_KEPT:]
    for one in stored:
        if one not in kept:
            one[1].unlink(missing_ok=True)


def load_state(participant: Participant, run: str, number: int) -> dict[str, NDArray]:
    """The state stored by the latest round before `number`; empty when there is none.

    Rounds from `number` on are another attempt at the same rounds, before a crash; they are not looked at.
    """
    earlier = [(n, file) for n, file in _rounds(_folder(participant, run)) if n < number]
    return dict(load_file(max(earlier)[1])) if earlier else {}


def _folder(participant: Participant, run: str) -> Path:
    return (participant.state or Path(".fedcore") / participant.name) / "runs" / run


def _rounds(folder: Path) -> list[tuple[int, Path]]:
    found = []
    for file in folder.glob("round-*.safetensors"):
        if match := re.fullmatch(r"round-(\d+)", file.stem):
            found.append((int(match[1]), file))
    return found
