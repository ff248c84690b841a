"""An append-only log in which each line carries the hash of the one before it.

Whoever holds a copy of the last hash can tell whether an earlier line was changed or removed. The log of a
participant lies at the participant; the coordinator keeps one of its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedcore.errors import DataError

START = "0" * 64
_TAIL = 64 * 1024


def append(file: Path, entry: Mapping[str, Any], *, durable: bool = True) -> str:
    """Add one line; several processes and threads may do so at a time.

    Args:
        file: The log; made, with its folder, on first use.
        entry: JSON values. `time` and `previous` are added.
        durable: Wait until the line is on the disk.

    Returns:
        SHA-256 of the line, hex; the next line's `previous`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        previous, whole = _last_line(log)
        # A full disk leaves half a line; what it was to record did not happen, for its `append` raised.
        log.truncate(whole)
        chain = {"time": datetime.now(UTC).isoformat(), "previous": previous}
        line = _line({**chain, **entry, **chain})
        log.write(line)
        log.flush()
        if durable:
            os.fsync(log.fileno())
    return hashlib.sha256(line).hexdigest()


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _last_line(log: Any) -> tuple[str, int]:
    """Hash of the last whole line, and where it ends in the file."""
    end = log.seek(0, os.SEEK_END)
    size = _TAIL
    while end:
        at = max(0, end - size)
        log.seek(at)
        tail = log.read()
        stop = tail.rfind(b"\n") + 1
        start = tail.rfind(b"\n", 0, max(stop - 1, 0)) + 1
        if start or size >= end:
            return (hashlib.sha256(tail[start:stop]).hexdigest(), at + stop) if stop else (START, 0)
        size *= 2
    return START, 0


def read(file: Path, last: str | None = None) -> Iterator[dict[str, Any]]:
    """The entries, in order, each checked against the hash of the one before.

    Args:
        file: The log. Half a line at its end, as a full disk leaves it, is no entry.
        last: A copy of an `append`'s result. Without one, nobody can tell whether the last lines are missing
            or the very last one was changed.

    Raises:
        DataError: A line was changed, removed or inserted.
    """
    previous, seen = START, last in (None, START)
    with file.open("rb") as log:
        for number, line in enumerate(log, start=1):
            if not line.endswith(b"\n"):
                break
            entry = _entry(line)
            if entry.get("previous") != previous:
                raise DataError(
                    f"{file.name}: line {number} does not follow line {number - 1}: the log was changed "
                    "after it was written; compare it with a copy"
                )
            previous = hashlib.sha256(line).hexdigest()
            seen = seen or previous == last
            yield entry
    if not seen:
        raise DataError(
            f"{file.name}: the line whose hash was kept is not there: the log was cut or changed after it was "
            "written; compare it with a copy"
        )


def _entry(line: bytes) -> dict[str, Any]:
    """The entry in a line; empty when there is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
