"""An append-only log in which each line carries the hash of the one before it.

Whoever holds a copy of the last hash can tell whether an earlier line was changed or removed. The log of a
participant lies at the participant; the coordinator keeps one of its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from fedcore.errors import DataError

START = "0" * 64
_TAIL = 64 * 1024

# File, inode and end to the hash of the line that ends there: a log that only this process writes is not read
# back for each line. Another writer moves the end, and the line is then read.
_ends: OrderedDict[tuple[Path, int, int], str] = OrderedDict()
_ends_lock = threading.Lock()
_ENDS_KEPT = 4096


def append(file: Path, *entries: Mapping[str, Any], durable: bool = True) -> str:
    """Add a line for each entry, all or none; several processes and threads may do so at a time.

    Args:
        file: The log; made, with its folder, on first use.
        entries: One or more, of JSON values. `time` and `previous` are added to each.
        durable: Wait until the lines are on the disk.

    Returns:
        SHA-256 of the last line, hex; the next line's `previous`.
    """
    with _opened(file) as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        status = os.fstat(log.fileno())
        with _ends_lock:
            previous = _ends.pop((file, status.st_ino, status.st_size), None)
        whole = status.st_size
        if previous is None:
            previous, whole = _last_line(log)
            # A full disk leaves half a line; what it was to record did not happen, for its `append` raised.
            log.truncate(whole)
        lines = []
        for entry in entries:
            chain = {"time": datetime.now(UTC).isoformat(), "previous": previous}
            lines.append(_line({**chain, **entry, **chain}))
            previous = hashlib.sha256(lines[-1]).hexdigest()
        text = b"".join(lines)
        log.write(text)
        log.flush()
        if durable:
            os.fsync(log.fileno())
        with _ends_lock:
            _ends[file, status.st_ino, whole + len(text)] = previous
            while len(_ends) > _ENDS_KEPT:
                _ends.popitem(last=False)
    return previous


def _opened(file: Path) -> IO[bytes]:
    try:
        return file.open("a+b")
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open("a+b")


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
