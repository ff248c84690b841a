"""DuckDB at a site: without files, network, extensions or settings that could be changed, and on one thread.

To open a database takes longer than most queries. A query therefore takes one that an earlier query gave back, where
there is one, and has it alone until it is done. Each query has a connection of its own: what it registers and makes is
temporary, is seen by no other connection, and goes with it. A database in which anything failed is not used again.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KEPT = 2
"""Databases that wait, of each size of memory."""
_OPEN = {
    # One thread: sums come out the same each time.
    "threads": 1,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    # Here and not by a SET, which would hold for one connection only.
    "python_enable_replacements": False,
}
_CLOSE = (
    "SET temp_directory = ''",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)

_waiting: dict[tuple[int, int], list[Any]] = {}
_lock = threading.Lock()


@contextmanager
def connected(memory: int) -> Iterator[Any]:
    """A connection to a database that holds nothing.

    Args:
        memory: That the database may take, in MiB.

    Yields:
        A connection of DuckDB, closed at the end.
    """
    # A process that was forked off has copies of its parent's databases, and must not use them.
    place = os.getpid(), memory
    with _lock:
        waiting = _waiting.setdefault(place, [])
        database = waiting.pop() if waiting else None
    if database is None:
        database = _opened(memory)
    try:
        with database.cursor() as connection:
            yield connection
    except BaseException:
        database.close()
        raise
    with _lock:
        kept = len(waiting) < KEPT
        if kept:
            waiting.append(database)
    if not kept:
        database.close()


@atexit.register
def _close_all() -> None:
    """At the end of the process, before the interpreter takes its modules apart."""
    with _lock:
        for waiting in _waiting.values():
            while waiting:
                waiting.pop().close()


def _opened(memory: int) -> Any:
    import duckdb

    database = duckdb.connect(":memory:", config={**_OPEN, "memory_limit": f"{int(memory)}MiB"})
    for setting in _CLOSE:
        database.execute(setting)
    return database
