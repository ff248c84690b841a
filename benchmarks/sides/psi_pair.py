"""Run two parties beside each other and measure them from outside: `python psi_pair.py PLAN TOLD`, both JSON files.

PLAN has `commands` (two lists of words), `logs` (two files) and `deadline` (seconds). TOLD gets the wall time from
before the first starts until both have ended, for each party its processor time (that of its whole process tree, from
the system when it has ended), its peak resident size, its seconds and its status, and the bytes on the loopback
device meanwhile.

Started as `unshare --net` the parties are alone on their loopback device, and its counter is exact: it has all that
the connection takes, with heads and acknowledgements of TCP. This is a small process for a reason: the peak that a
process reports of itself begins with the size of the one that started it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

EVERY = 0.05  # seconds between two looks at the memory
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def loopback_up() -> None:
    """Switch the loopback device on, which is off in a new network namespace."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = fcntl.ioctl(probe, SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", request)[1]
        if not flags & IFF_UP:
            fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def loopback_bytes() -> int | None:
    """Bytes that the loopback device carried so far; None where the system does not tell."""
    counters = psutil.net_io_counters(pernic=True).get("lo")
    return None if counters is None else counters.bytes_recv


class Party:
    """A process, watched until it has ended."""

    def __init__(self, command: list[str], log: str) -> None:
        with Path(log).open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        self.peak = 0
        self.status: int | None = None
        self.cpu = self.ended = 0.0
        self.thread = threading.Thread(target=self._wait, daemon=True)
        self.thread.start()

    def _wait(self) -> None:
        _, status, used = os.wait4(self._process.pid, 0)
        self.ended = time.monotonic()
        self.cpu = used.ru_utime + used.ru_stime
        self.status = self._process.returncode = os.waitstatus_to_exitcode(status)

    def look(self) -> None:
        """Note how large it has been: itself, as the system keeps it, or with its children at this moment."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            family = [root, *root.children(recursive=True)]
            self.peak = max(self.peak, _highest(root.pid), sum(map(_resident, family)))

    def kill(self) -> None:
        """End it."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)


def _highest(pid: int) -> int:
    """The peak resident size of a process, bytes; 0 where the system does not keep it."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def _resident(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Start both, wait for both; the first that fails, or the deadline, ends the other."""
    before, began = loopback_bytes(), time.monotonic()
    parties = [Party(*both) for both in zip(plan["commands"], plan["logs"], strict=True)]
    while any(party.thread.is_alive() for party in parties):
        for party in parties:
            party.look()
        late = time.monotonic() - began > plan["deadline"]
        if late or any(party.status not in (None, 0) for party in parties):
            for party in parties:
                party.kill()
        parties[0].thread.join(EVERY if parties[0].thread.is_alive() else 0)
        if not parties[0].thread.is_alive():
            parties[1].thread.join(EVERY)
    after = loopback_bytes()
    return {
        "seconds": max(party.ended for party in parties) - began,
        "loopback bytes": None if before is None or after is None else after - before,
        "parties": [
            {
                "status": party.status,
                "seconds": party.ended - began,
                "cpu": party.cpu,
                "peak": party.peak,
            }
            for party in parties
        ],
    }


if __name__ == "__main__":
    loopback_up()
    Path(sys.argv[2]).write_text(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
