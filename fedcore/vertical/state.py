"""What a party keeps of a run between its steps: one folder per finished step, there as a whole or not at all.

A step is written beside its place and takes its name when it is finished, so that a party that is killed in it has the
steps before it, and nothing of this one. `step.json` in each folder holds the token that all parties got in that step:
parties whose folders are of different attempts notice it when they next meet.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcore.errors import DataError, JobError
from fedcore.vertical.steps import folder_name

ABOUT = "state.json"
STEP = "step.json"
SALT = "salt"
TOKEN = 16
"""Bytes of a step's token."""
VERSION = 1


@dataclass(frozen=True)
class State:
    """A run's folder at a party; `open_state` gives it.

    Args:
        folder: Of the run.
        steps: Of the job, in order.
    """

    folder: Path
    steps: tuple[str, ...]

    def finished(self) -> dict[str, str]:
        """The steps that are done without a gap, with the commitment of each."""
        found: dict[str, str] = {}
        for step in self.steps:
            about = read_json(self.of(step) / STEP) if (self.of(step) / STEP).exists() else None
            if about is None:
                break
            found[step] = str(about["commitment"])
        return found

    def of(self, step: str) -> Path:
        """The folder of a step's result."""
        return self.folder / folder_name(step)

    def need(self, step: str) -> None:
        """Refuse a step whose predecessors are not all here.

        Raises:
            JobError: Names the first that is missing.
        """
        done = self.finished()
        for earlier in self.steps[: self.steps.index(step)]:
            if earlier not in done:
                raise JobError(
                    f"step {earlier} of this run is not finished here, so {step} cannot begin; go on with `fedcore "
                    "resume`, which begins where all parties can",
                    step=step,
                )

    def past(self, step: str) -> str:
        """SHA-256 over the tokens of the steps before this one; the same at all parties of one run."""
        digest = hashlib.sha256()
        for earlier in self.steps[: self.steps.index(step)]:
            digest.update(bytes.fromhex(str(read_json(self.of(earlier) / STEP)["token"])))
        return digest.hexdigest()

    def forget_from(self, step: str) -> None:
        """Remove the results of a step that is repeated, and of those that were made of it."""
        for later in self.steps[self.steps.index(step) :]:
            shutil.rmtree(self.of(later), ignore_errors=True)
            shutil.rmtree(_partial(self.of(later)), ignore_errors=True)

    @contextmanager
    def writing(self, step: str) -> Iterator[Path]:
        """A new folder for a step's files, which `finish` gives its name; gone where the block fails.

        Raises:
            DataError: It cannot be made.
        """
        partial = _partial(self.of(step))
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            raise _unwritten(step, error) from error
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def finish(self, step: str, token: bytes) -> str:
        """Give the folder of `writing` its name.

        Args:
            step: The step.
            token: Of this attempt, the same at all parties.

        Returns:
            SHA-256 over a salt, which stays here, and the step's files: it proves later that they were not changed, and
            tells nothing of them before.

        Raises:
            DataError: The disk does not take it.
        """
        final, partial = self.of(step), _partial(self.of(step))
        try:
            (partial / SALT).write_bytes(secrets.token_bytes(32))
            commitment = _digest(partial)
            (partial / STEP).write_text(
                json.dumps({"step": step, "token": token.hex(), "commitment": commitment})
            )
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
        except OSError as error:
            raise _unwritten(step, error) from error
        return commitment


def open_state(folder: Path, digest: str, steps: Sequence[str], *, begin: bool = True) -> State:
    """The state of a run; begun where there is none.

    Args:
        folder: Of the run at this party.
        digest: SHA-256 of the job, as the request has it.
        steps: Of the job, in order.
        begin: Whether one that is not there is begun, or only looked for.

    Raises:
        JobError: The folder is of another job, or cannot be made.
    """
    about = folder / ABOUT
    if about.exists():
        known = read_json(about)
        if known.get("digest") != digest or known.get("version") != VERSION:
            raise JobError(
                f"what this party kept of run {folder.name} is of another job (its digest is "
                f"{str(known.get('digest'))[:16]}, the request's {digest[:16]}); begin a new run with `fedcore run`"
            )
        return State(folder, tuple(steps))
    if not begin:
        return State(folder, tuple(steps))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(about, {"digest": digest, "version": VERSION})
    except OSError as error:
        raise JobError(
            f"the folder for results (output) cannot be made: {error.strerror}; choose another place",
            detail=str(folder),
        ) from error
    return State(folder, tuple(steps))


def read_json(file: Path) -> dict[str, Any]:
    """An object that a step wrote.

    Raises:
        DataError: It is not there, or is none.
    """
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file.parent.name}/{file.name} of this run cannot be read ({type(error).__name__}); begin a new run",
            detail=str(file),
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{file.parent.name}/{file.name} of this run holds no object; begin a new run")
    return found


def write_json(file: Path, value: Any) -> None:
    """Write an object whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(partial, file)


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _digest(folder: Path) -> str:
    digest = hashlib.sha256((folder / SALT).read_bytes())
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    for name, file in sorted(files.items()):
        if name != SALT:
            digest.update(f"{name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as content:
                while block := content.read(2**20):
                    digest.update(block)
    return digest.hexdigest()


def _unwritten(step: str, error: OSError) -> DataError:
    return DataError(
        f"the result of step {step} could not be written ({error.strerror or error}); make room and go on with "
        "`fedcore resume`",
        step=step,
    )
