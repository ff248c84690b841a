"""What a run costs: seconds of each phase, memory, and what compiling took."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crypto.kernels.compiled import compile_seconds
from fedcore.participant.intersection.keys import Watch


class Phases:
    """Seconds and CPU seconds of each phase, in order."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.taken: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[Watch]:
        self._watch(name, 0, 0)
        wall, cpu = time.monotonic(), time.process_time()
        yield lambda _, done, of: self._watch(name, done, of)
        self.taken[name] = {"seconds": time.monotonic() - wall, "cpu_seconds": time.process_time() - cpu}


def peak_memory() -> int:
    """Of this process. Linux counts in `ru_maxrss` what the process that started this one had, too."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class CompileClock:
    """Seconds spent compiling kernels, which a first run on a machine pays and later ones do not."""

    def __init__(self) -> None:
        self._before = compile_seconds()

    @property
    def seconds(self) -> float:
        """So far; of this process, whoever had them compiled."""
        return compile_seconds() - self._before
