"""One at a time: what is read of a file, decided on and added to it is not interleaved with another's."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a file until the end of the block, against other threads and processes that do the same.

    Args:
        file: It need not be there; its folder is made. What is locked is `<file>.lock` beside it, so that the file may also
            be written by what locks it by itself, such as `fedcore.trust.evidence.append`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(file.name + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
