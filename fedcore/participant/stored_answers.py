"""Answers with noise as they lie on the disk before they leave: `<state>/answers/<run>/`."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fedcore.errors import DataError, JobError
from fedcore.jobs.common import Name
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import AnalyticsRequest
from fedcore.participant.mods.evidence import evidence_file
from fedcore.privacy.ledger_file import sync_folder

STEP = "privacy"
_name = TypeAdapter(Name)


def write(file: Path, raw: bytes) -> None:
    """Put a whole file on the disk, or nothing.

    Raises:
        DataError: The disk did not take it.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("wb") as out:
            out.write(raw)
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, file)
        sync_folder(file.parent)
    except OSError as error:
        raise DataError(
            f"the answer cannot be stored: {error.strerror}. Nothing is released; try again when there is room",
            step=STEP,
        ) from error


@contextmanager
def locked(participant: Participant, request: AnalyticsRequest) -> Iterator[Path]:
    """The folder of the run's answers; one request for a question at a time."""
    try:
        _name.validate_python(request.name)
    except ValidationError as error:
        raise JobError(
            "the request's question has no name of letters, digits, '.', '_' and '-'", step=STEP
        ) from error
    folder = evidence_file(participant).parent / "answers" / request.run
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        lock = (folder / f".{request.name}.lock").open("a")
    except OSError as error:
        raise DataError(f"answers cannot be stored: {error.strerror}", step=STEP) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
