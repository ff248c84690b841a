"""How many items a published set was asked for: a file beside its secret, added to before anything is answered.

Each line is one JSON object; the first says of which set, each further one what a query was charged:

    {"set": "5f..."}
    {"asked": 1064, "total": 1064, "session": "psi", "by": "SHA256:...", "at": "2026-03-01T09:00:00+00:00"}

A charge is on the disk before the query is answered, and two queries at once are charged one after the other (a
lock on the file). A line that was cut short by a crash belongs to a query that was not answered; it is removed by the
next charge. A counter that is missing or damaged answers nothing.

What it does not notice: an older copy of the file put back in its place, or a copy of secret and counter that
answers elsewhere. Who restores a backup of the folder publishes the set again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fedcore.errors import DataError, PolicyRefused
from fedcore.trust.identity import write_secret

STEP = "charge"


def spent_file(secret: Path) -> Path:
    """The counter of a secret."""
    return secret.with_name(f"{secret.name}.spent")


def start_counting(secret: Path, identity: bytes) -> None:
    """Make the counter of a new set.

    Raises:
        FileExistsError: It is there.
        OSError: It cannot be written.
    """
    write_secret(spent_file(secret), _line({"set": identity.hex()}))


def spent(secret: Path, identity: bytes) -> int:
    """Items asked for so far.

    Raises:
        DataError: The counter is not there, is damaged, or of another set.
    """
    with _locked(spent_file(secret), write=False) as descriptor:
        return _total(_read(descriptor), spent_file(secret), identity)[0]


def charge(secret: Path, identity: bytes, asked: int, lifetime: int, *, session: str, by: str) -> int:
    """Take items off what is left, durably.

    Args:
        secret: Whose counter.
        identity: Of its set.
        asked: Items of this query, at least 0.
        lifetime: Items that may be asked for in all.
        session: Name of the meeting, for the record.
        by: Who asks.

    Returns:
        Items left after it.

    Raises:
        PolicyRefused: Fewer are left; nothing was charged.
        DataError: The counter is not there, is damaged or of another set, or cannot be written.
    """
    file = spent_file(secret)
    with _locked(file, write=True) as descriptor:
        total, whole = _total(_read(descriptor), file, identity)
        left = lifetime - total
        if not 0 <= asked <= left:
            raise PolicyRefused(
                f"{asked:,} items are asked for and {max(left, 0):,} of the set's lifetime of {lifetime:,} are left; "
                "publish the set again, with a longer lifetime where that is meant",
                step=STEP,
            )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = _line({"asked": asked, "total": total + asked, "session": session, "by": by, "at": now})
        try:
            os.ftruncate(descriptor, whole)
            done = 0
            while done < len(record):
                done += os.pwrite(descriptor, record[done:], whole + done)
            os.fsync(descriptor)
        except OSError as error:
            raise DataError(
                f"{file} could not be written ({error.strerror}), so nothing is answered; make room and ask again",
                step=STEP,
            ) from error
        return left - asked


def _line(told: dict[str, str | int]) -> bytes:
    return (json.dumps(told) + "\n").encode("ascii")


@contextmanager
def _locked(file: Path, *, write: bool) -> Iterator[int]:
    try:
        descriptor = os.open(file, os.O_RDWR if write else os.O_RDONLY)
    except OSError as error:
        raise DataError(
            f"the counter {file} cannot be opened ({error.strerror}); without it nothing is answered. Bring the file "
            "back if nobody asked since, or publish the set again",
            step=STEP,
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if write else fcntl.LOCK_SH)
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> bytes:
    raw = bytearray()
    while part := os.pread(descriptor, 2**20, len(raw)):
        raw += part
    return bytes(raw)


def _total(raw: bytes, file: Path, identity: bytes) -> tuple[int, int]:
    """What was asked for in all, and where the last whole line ends."""
    whole = raw.rfind(b"\n") + 1
    total = 0
    try:
        first, *lines = [json.loads(line) for line in raw[:whole].splitlines()]
        of = first["set"]
        for line in lines:
            total += line["asked"]
            if line["asked"] < 0 or line["total"] != total:
                raise ValueError
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"the counter {file} is damaged; without it nothing is answered: publish the set again", step=STEP
        ) from None
    if of != identity.hex():
        raise DataError(
            f"the counter {file} is of another set; bring the one that was made with the secret", step=STEP
        )
    return total, whole
