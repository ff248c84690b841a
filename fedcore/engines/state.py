"""What a federation's keeper leaves for others to read: its lock and its state file.

The lock is an `flock` that the kernel releases when the keeper ends, however it ends, so that a stale one
cannot exist. The state file is replaced in one step, so that a reader never sees half of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any

from fedcore.engines.plan import Folders


@contextlib.contextmanager
def owner(folders: Folders) -> Iterator[bool]:
    """Hold the work folder's lock; yields False when another process holds it.

    The kernel releases it when this process ends, however it ends, so a stale lock cannot exist.
    """
    folders.make()
    with folders.lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextlib.contextmanager
def starting(folders: Folders) -> Iterator[None]:
    """Let one start of a federation happen at a time; a second waits for the first to be up or to fail."""
    folders.make()
    with (folders.root / "starting").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def owned(folders: Folders) -> bool:
    """Whether a supervisor holds the work folder's lock."""
    try:
        with folders.lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def read_state(folders: Folders) -> dict[str, Any]:
    """What the supervisor last wrote; empty when there is nothing readable."""
    try:
        found = json.loads(folders.state.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def write_state(folders: Folders, state: dict[str, Any]) -> None:
    """Replace `state.json` in one step."""
    fresh = folders.state.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(state, indent=1))
    fresh.replace(folders.state)
