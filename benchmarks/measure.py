"""Run a command as a fresh process and measure it from outside: wall time and the memory of its whole tree.

Peak memory is the largest sum, over the processes that are alive at one moment, of their proportional set
size (PSS): a page that n processes share counts 1/n in each, so that Ray's object store and shared libraries
are counted once. Where the system has no PSS it is the unique set size (USS), which leaves shared pages out.

Asking the kernel for the PSS of a process with torch in it costs milliseconds and holds the process up. The
resident size, which costs microseconds, is therefore looked at every 0.1 s, and the PSS whenever the resident
size is a hundredth above where it was at any look before, and at least every second.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import psutil

EVERY = 0.1  # seconds between two looks at the resident size
AT_LEAST_EVERY = 1.0  # seconds between two looks at the PSS
GROWTH = 1.01
MIB = 2**20

T = TypeVar("T")


class MeasurementFailed(RuntimeError):
    """A measured command did not end as it should."""


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Args:
        seconds: Wall time from before its start until it has ended.
        cpu: Seconds of processor time of its process tree, as far as the looks saw it; depends far less than
            `seconds` on what else the machine does.
        peak: Bytes, the largest sum over its process tree.
        processes: The largest number of processes alive at one look.
    """

    seconds: float
    cpu: float
    peak: int
    processes: int


def memory_kind() -> str:
    """The figure that is summed over processes: `PSS`, or `USS` where there is none."""
    return "PSS" if hasattr(psutil.Process().memory_full_info(), "pss") else "USS"


class TreeMemory:
    """Samples the memory of a process and its descendants in a thread until it is stopped.

    A process that was seen once stays in the tree when its parent ends before it, as Ray's helpers do.

    Args:
        root: The process at the top.
        every: Seconds between two looks.
    """

    def __init__(self, root: psutil.Process, every: float = EVERY) -> None:
        self._seen = {root}
        self._root = root
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._cpu: dict[psutil.Process, float] = {}
        self._highest = 0
        self._last = -math.inf
        self.peak = self.processes = 0

    def __enter__(self) -> TreeMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.look()
            self._stop.wait(max(0.0, self._every - (time.monotonic() - began)))

    def look(self) -> None:
        """Note the tree's processor time and, when it is due, its memory."""
        alive = self.alive()
        self.processes = max(self.processes, len(alive))
        resident = 0
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                resident += process.memory_info().rss
                self._cpu[process] = sum(process.cpu_times()[:2])
        now = time.monotonic()
        if resident > self._highest * GROWTH or now - self._last >= AT_LEAST_EVERY:
            self._highest, self._last = max(resident, self._highest), now
            self.peak = max(self.peak, sum(map(_memory, alive)))

    @property
    def cpu(self) -> float:
        """Seconds of processor time of all processes that were seen."""
        return sum(self._cpu.values())

    def alive(self) -> list[psutil.Process]:
        """The processes of the tree that are alive."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._seen.update(self._root.children(recursive=True))
        self._seen = {process for process in self._seen if process.is_running()}
        return list(self._seen)


def _memory(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0
    return int(getattr(info, "pss", info.uss))


def measure(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    deadline: float = 3600.0,
) -> Measured:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        folder: Its working folder; its output goes to `output.log` there.
        environment: Beside this process's own.
        deadline: Seconds after which it is ended.

    Returns:
        What it took.

    Raises:
        MeasurementFailed: It ended with an error, or not in time; with the end of its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "output.log"
    with log.open("wb") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        with TreeMemory(psutil.Process(process.pid)) as memory:
            try:
                code: int | None = process.wait(deadline)
            except subprocess.TimeoutExpired:
                code = None
            except BaseException:
                end(memory.alive())
                raise
            seconds = time.monotonic() - began
    end([left for left in memory.alive() if left.pid != process.pid or code is None])
    process.wait()
    if code != 0:
        how = f"did not end within {deadline:g} s" if code is None else f"ended with status {code}"
        raise MeasurementFailed(f"{' '.join(command[:4])} {how}:\n{tail(log)}")
    return Measured(seconds, memory.cpu, memory.peak, memory.processes)


def end(processes: Sequence[psutil.Process], grace: float = 5.0) -> None:
    """End processes of ours that are still there: ask first, then insist."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(list(processes), timeout=grace)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def tail(log: Path, lines: int = 25) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def alternate(sides: Mapping[str, Callable[[int], T]], repeats: int) -> dict[str, list[T]]:
    """Measure sides in turn, A B A B, so that a machine that slows down slows all of them.

    Args:
        sides: What measures each side, given the repeat's number.
        repeats: How often each.
    """
    found: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(repeats):
        for name, run in sides.items():
            found[name].append(run(number))
    return found


def middle(values: Sequence[float]) -> float:
    """The median."""
    return float(median(values))


def use_cores(count: int) -> int:
    """Let this process and all that it starts use `count` cores only, where the system allows it.

    Returns:
        How many cores they can use.
    """
    process = psutil.Process()
    if not hasattr(process, "cpu_affinity"):
        return os.cpu_count() or 1
    allowed = process.cpu_affinity()[:count]
    process.cpu_affinity(allowed)
    return len(allowed)
