"""Keep a set of processes alive: start them in order, restart the dead with back-off, end them all.

One thread, one loop: `tick` looks at every unit once. A unit that dies is started again after 0.5, 1, 2, 4, 8
seconds, then every 8 seconds, for as long as the supervisor lives: Flower refuses a SuperNode that was killed
until the lease of its predecessor has lapsed, which takes up to a minute. A unit that stays up for 20
seconds begins again at 0.5.
"""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedcore.engines.processes import spawn, stop

_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
_STEADY = 20.0
_HEALTH_EVERY = 5.0
_HEALTH_WAIT = 2.0


@dataclass(eq=False)
class Unit:
    """One process to keep alive.

    Args:
        name: For people and logs.
        command: Makes the command, anew at each start (a fresh port, for instance).
        environment: All of its environment.
        log: Where its output goes.
        folder: Its working folder.
        health: The address that answers when it is ready; asked anew at each look. None: alive is ready.
        context: TLS for `health`.
        after: Started only once that unit is ready.
        settle: Seconds that `after` must have been ready before.
        falls_with: Ended when that unit ends, and started again after it.
        patience: Seconds without a healthy answer after which it is taken for hung and restarted.
        on_end: Called when it has ended by itself, before it is started again.
    """

    name: str
    command: Callable[[], list[str]]
    environment: Mapping[str, str]
    log: Path
    folder: Path
    health: Callable[[], str] | None = None
    context: ssl.SSLContext | None = None
    after: Unit | None = None
    settle: float = 0.0
    falls_with: Unit | None = None
    patience: float = 120.0
    on_end: Callable[[], object] | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    restarts: int = field(default=0, init=False)
    last_exit: int | None = field(default=None, init=False)
    ready_since: float | None = field(default=None, init=False)
    _log_from: int = field(default=0, init=False)
    _started: float = field(default=0.0, init=False)
    _next_start: float = field(default=0.0, init=False)
    _failures: int = field(default=0, init=False)
    _looked: float = field(default=0.0, init=False)
    _answered: float = field(default=0.0, init=False)

    @property
    def ready(self) -> bool:
        """Whether it runs and, as far as it can be asked, answers."""
        return self.process is not None and self.ready_since is not None

    @property
    def failures(self) -> int:
        """How often in a row it ended before it had been up for a while."""
        return self._failures

    def start(self, now: float) -> None:
        """Start the process."""
        self._log_from = self.log.stat().st_size if self.log.exists() else 0
        self.process = spawn(self.command(), environment=self.environment, log=self.log, folder=self.folder)
        self._started = self._answered = now
        self._looked = 0.0
        self.ready_since = now if self.health is None else None

    def said(self, words: str) -> bool:
        """Whether its log has these words since it was started."""
        if self.process is None:
            return False
        with contextlib.suppress(FileNotFoundError), self.log.open("rb") as file:
            file.seek(min(self._log_from, self.log.stat().st_size))
            return words.encode() in file.read(256 * 1024)
        return False

    def gone(self, now: float, code: int) -> None:
        """Take note that it ended."""
        self.process, self.ready_since, self.last_exit = None, None, code
        self._failures = 0 if now - self._started > _STEADY else self._failures + 1
        self.restarts += 1
        self._next_start = now + _DELAYS[min(max(self._failures - 1, 0), len(_DELAYS) - 1)]

    def may_start(self, now: float) -> bool:
        """Whether its time has come."""
        if self.process is not None or now < self._next_start:
            return False
        needed = self.after
        return needed is None or (needed.ready_since is not None and now - needed.ready_since >= self.settle)

    def look(self, now: float) -> bool:
        """Ask after its health when that is due; False when it has been silent for too long."""
        if self.health is None or self.process is None:
            return True
        every = _HEALTH_EVERY if self.ready_since is not None else 0.2
        if now - self._looked < every:
            return True
        self._looked = now
        if answers(self.health(), self.context):
            self._answered = now
            self.ready_since = self.ready_since or now
            return True
        return now - self._answered < self.patience

    def describe(self) -> dict[str, Any]:
        """What `status` shows of it."""
        if self.process is None:
            status = "waiting" if self._started == 0.0 else "restarting"
        else:
            status = "running" if self.ready else "starting"
        return {
            "name": self.name,
            "status": status,
            "pid": self.process.pid if self.process is not None else None,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            "log": str(self.log),
        }


class Supervisor:
    """Keeps units alive, in the order in which they were added."""

    def __init__(self) -> None:
        self.units: list[Unit] = []

    def add(self, *units: Unit) -> None:
        """Take over more units."""
        self.units.extend(units)

    def tick(self) -> None:
        """Look at every unit once: note the dead, end what fell with them, start what is due."""
        for unit in self.units:
            process = unit.process
            if process is None:
                continue
            code = process.poll()
            if code is None and not unit.look(time.monotonic()):
                stop([process], grace=3.0)
                code = process.poll()
            if code is not None:
                self._bury(unit, code)
        for unit in self.units:
            now = time.monotonic()
            if unit.may_start(now):
                unit.start(now)

    def _bury(self, unit: Unit, code: int) -> None:
        dead = [process for process in (unit.process,) if process is not None]
        fallen = [other for other in self.units if other.falls_with is unit and other.process is not None]
        # The leader is gone; its children and its companions go now.
        stop([*dead, *(other.process for other in fallen if other.process is not None)], grace=2.0)
        if unit.on_end is not None:
            unit.on_end()
        now = time.monotonic()
        unit.gone(now, code)
        for other in fallen:
            other.gone(now, other.process.returncode if other.process is not None else 0)

    def shut_down(self, grace: float = 6.0) -> None:
        """End everything."""
        stop([unit.process for unit in self.units if unit.process is not None], grace)
        for unit in self.units:
            unit.process, unit.ready_since = None, None


def answers(address: str, context: ssl.SSLContext | None) -> bool:
    """Whether `GET address` is answered with success within two seconds."""
    # This machine's own address: no proxy has a say in it.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(address, timeout=_HEALTH_WAIT) as reply:
            return bool(200 <= reply.status < 300)
    except (urllib.error.URLError, OSError, ValueError):
        return False
