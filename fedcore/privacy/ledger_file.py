"""A file that only grows: JSON lines in a hash chain, one writer at a time, and an anchor that tells when it was cut.

Each line carries the hash of the one before, so that a changed line is found. That the last lines are missing, or that
an older copy was put back, cannot be found in the file itself: the anchor, a small file kept elsewhere (another disk,
another owner, the evidence log), holds the newest hash. The line is on the disk before the anchor moves, so that after a
crash the file may be ahead of the anchor and never behind it. Who puts back older copies of both at once is not found.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from fedcore.errors import DataError

START = "0" * 64


@dataclass(frozen=True)
class Lines:
    """What stands in a file.

    Args:
        name: Of the file.
        entries: In order.
        last: Hash of the last line, hex; `START` of an empty file.
        end: Bytes of whole lines.
        hashes: Of all lines.
    """

    name: str
    entries: tuple[dict[str, Any], ...]
    last: str
    end: int
    hashes: frozenset[str]


@contextmanager
def locked(file: Path, how: Literal["read", "write", "make"] = "write") -> Iterator[IO[bytes]]:
    """The file, held until the end of the block: with other readers, or by this process alone.

    Args:
        file: Its folder is made with it.
        how: To read, to append, or to append to one that need not be there.

    Raises:
        DataError: It is not there, or cannot be opened.
    """
    flags = {
        "read": os.O_RDONLY,
        "write": os.O_RDWR | os.O_APPEND,
        "make": os.O_RDWR | os.O_APPEND | os.O_CREAT,
    }
    while True:
        try:
            if how == "make":
                file.parent.mkdir(parents=True, exist_ok=True)
            log = os.fdopen(os.open(file, flags[how], 0o600), "rb" if how == "read" else "r+b")
        except FileNotFoundError:
            raise lost(file) from None
        except OSError as error:
            raise DataError(f"{file.name} cannot be opened: {error.strerror}") from error
        with log:
            fcntl.flock(log, fcntl.LOCK_SH if how == "read" else fcntl.LOCK_EX)
            # While this process waited, another file may have taken the name.
            if _same(log, file):
                yield log
                return


def lost(file: Path) -> DataError:
    """The error of a ledger that is not there."""
    return DataError(
        f"{file.name}: there is no such ledger. Cure: put back the newest copy; a data set that was never asked gets one from "
        "open_ledger"
    )


def _same(log: IO[bytes], file: Path) -> bool:
    try:
        there, here = file.stat(), os.fstat(log.fileno())
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def lines(log: IO[bytes], name: str) -> Lines:
    """Read all lines and check the chain.

    Args:
        log: Open; what stands behind its last line end is no entry, as a full disk or a crash leaves it.
        name: For the error.

    Raises:
        DataError: A line was changed, removed or put in.
    """
    log.seek(0)
    entries, hashes, previous, end = [], [], START, 0
    for number, line in enumerate(log, start=1):
        if not line.endswith(b"\n"):
            break
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or entry.get("previous") != previous:
            raise DataError(
                f"{name}: line {number} does not follow line {number - 1}: the file was changed after it was written. "
                "Cure: put back the newest copy; nothing is released until then"
            )
        previous = hashlib.sha256(line).hexdigest()
        end += len(line)
        entries.append(entry)
        hashes.append(previous)
    return Lines(name, tuple(entries), previous, end, frozenset(hashes))


def append(log: IO[bytes], found: Lines, entry: Mapping[str, Any]) -> tuple[str, str]:
    """Add a line, and wait until it is on the disk.

    Args:
        log: As `locked` gave it.
        found: What `lines` found in it.
        entry: JSON values; `time` and `previous` are added.

    Returns:
        Hash of the line, and its time.

    Raises:
        DataError: The disk did not take it.
    """
    chain = {"time": datetime.now(UTC).isoformat(), "previous": found.last}
    line = json.dumps({**chain, **entry, **chain}, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    try:
        log.truncate(found.end)
        log.seek(0, os.SEEK_END)
        log.write(line)
        log.flush()
        os.fsync(log.fileno())
    except OSError as error:
        raise DataError(
            f"{found.name} cannot be written: {error.strerror}. Nothing is released; try again when there is "
            "room"
        ) from error
    return hashlib.sha256(line).hexdigest(), chain["time"]


def write_anchor(anchor: Path, last: str) -> None:
    """Keep a hash in a second place; the old one stays until the new one is on the disk.

    Raises:
        DataError: The place cannot be written.
    """
    fresh = anchor.with_name(f".{anchor.name}.new")
    try:
        anchor.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as out:
            out.write(last.encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(anchor)
        sync_folder(anchor.parent)
    except OSError as error:
        raise DataError(
            f"anchor {anchor.name} cannot be written: {error.strerror}. Nothing is released; try again when it can be"
        ) from error


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def read_anchor(anchor: Path) -> str | None:
    """The hash that was kept; None where there is no such file.

    Raises:
        DataError: It holds no hash.
    """
    try:
        found = anchor.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"anchor {anchor.name} cannot be read: {error.strerror}") from error
    if len(found) != len(START) or set(found) - set("0123456789abcdef"):
        raise DataError(
            f"anchor {anchor.name} holds no SHA-256; allowed: 64 hex digits. Cure: put back a copy"
        )
    return found


def check_anchor(found: Lines, last: str | None) -> None:
    """Refuse a file that does not hold the line whose hash was kept.

    Args:
        found: What stands in the file.
        last: The hash that was kept; nothing is checked when None.

    Raises:
        DataError: It was cut, changed or replaced by an older copy.
    """
    if last is not None and last != START and last not in found.hashes:
        raise DataError(
            f"{found.name}: its {len(found.entries)} entries do not hold the newest one that was recorded elsewhere "
            f"({last[:12]}...): the file was cut, or an older copy was put back. Cure: put back the newest copy; nothing is "
            "released until then"
        )
