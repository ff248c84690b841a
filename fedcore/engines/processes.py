"""Operating-system processes: start them so that none is ever lost, stop them, find what was left behind.

Three bands hold every process that fedcore starts:

1. it leads its own session, so that one signal reaches it and its children;
2. it is told by the kernel when the process that started it dies, however that died (Linux);
3. it carries `FEDCORE_FEDERATION=<mark>` in its environment, which its descendants inherit wherever they
   detach to, so that `sweep` finds them later.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from fedcore.errors import EngineError

MARK = "FEDCORE_FEDERATION"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PR_SET_PDEATHSIG = 1
_LOG_LIMIT = 16 * 2**20
try:
    _libc: ctypes.CDLL | None = ctypes.CDLL(None) if sys.platform == "linux" else None
except OSError:
    _libc = None


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be confused with a later one of the same number.

    Args:
        pid: Its number.
        born: When it began, seconds since the epoch, as the kernel tells it.
    """

    pid: int
    born: float

    @classmethod
    def of(cls, pid: int | None = None) -> ProcessId | None:
        """The living process with this number (this process when absent); None when there is none."""
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            return cls(process.pid, process.create_time())
        except psutil.Error:
            return None

    @property
    def alive(self) -> bool:
        """Whether this very process runs."""
        now = ProcessId.of(self.pid)
        return now is not None and abs(now.born - self.born) < 0.05


def new_mark(folder: Path) -> str:
    """A mark for the processes of one start; what stands before the dot is the folder's alone."""
    return f"{folder_mark(folder)}.{secrets.token_hex(6)}"


def folder_mark(folder: Path) -> str:
    """What the marks of all processes that belong to a folder begin with."""
    import hashlib

    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:20]


def flower_command(name: str) -> str:
    """The path of one of Flower's commands, of this Python's installation.

    Raises:
        EngineError: It is not installed.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise EngineError(
            f"Flower's command {name} is not installed beside {sys.executable}. Cure: pip install fedcore in "
            f"this environment"
        )
    return found


def child_environment(mark: str, **more: str) -> dict[str, str]:
    """The environment for a process of a federation.

    Flower's phone calls are switched off, this Python's commands come first on the PATH (Flower starts its
    helpers by name), and a web proxy of the institution is not used for this machine's own addresses.

    Args:
        mark: See `MARK`.
        more: Further variables.
    """
    from fedcore.flower import quiet_environment

    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    environment.update(quiet_environment())
    environment[MARK] = mark
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    environment["PYTHONUNBUFFERED"] = "1"
    # How long a message waits for its process: Flower's default is a second.
    environment["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] = "0.2"
    for name in ("NO_PROXY", "no_proxy"):
        listed = [host for host in environment.get(name, "").split(",") if host]
        environment[name] = ",".join(dict.fromkeys([*listed, *_LOOPBACK]))
    environment.update(more)
    return environment


def spawn(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, folder: Path
) -> subprocess.Popen[bytes]:
    """Start a process in its own session, its output appended to a file.

    Args:
        command: Program and arguments.
        environment: All of its environment.
        log: Where stdout and stderr go (mode 0600); cut when it has grown beyond 16 MiB.
        folder: Its working folder.

    Raises:
        EngineError: It cannot be started.
    """
    _rotate(log)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            # Runs between fork and exec: safe here because what calls `spawn` has one thread.
            preexec_fn=_die_with_parent,
        )
    except OSError as exc:
        raise EngineError(f"{command[0]} cannot be started: {exc.strerror}") from exc
    finally:
        os.close(descriptor)


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def stop(processes: Iterable[subprocess.Popen[bytes]], grace: float) -> None:
    """End processes and everything in their sessions: SIGTERM, then SIGKILL after `grace` seconds."""
    ending = list(processes)
    for process in ending:
        _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    for process in ending:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in ending:
        # The leader may be gone while its children still finish what they do.
        _signal_group(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5.0)


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def left_behind(mark: str, folder: Path | None = None) -> list[psutil.Process]:
    """Processes of this user whose mark begins with `mark`, this process and its ancestors excepted.

    Args:
        mark: A mark, or the beginning of one (`folder_mark`).
        folder: Also processes whose environment cannot be read (`flower-superexec` forbids it) but whose
            command line names a file below this folder.
    """
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        if process.pid in mine:
            continue
        try:
            if process.uids().real != os.getuid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if _belongs(process, mark, folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _belongs(process: psutil.Process, mark: str, folder: Path | None) -> bool:
    try:
        return bool(process.environ().get(MARK, "").startswith(mark))
    except psutil.AccessDenied:
        below = f"{folder.resolve()}{os.sep}" if folder is not None else None
        return below is not None and any(word.startswith(below) for word in process.cmdline())


def sweep(mark: str, folder: Path | None = None, grace: float = 3.0) -> int:
    """End every process that carries the mark; how many there were.

    Args:
        mark, folder: As for `left_behind`.
        grace: Seconds between SIGTERM and SIGKILL.
    """
    ended: set[int] = set()
    # What is being ended may start something in its last moment, so look again until nothing is found.
    for _ in range(5):
        found = left_behind(mark, folder)
        if not found:
            break
        ended.update(process.pid for process in found)
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, stubborn = psutil.wait_procs(found, timeout=grace)
        for process in stubborn:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(stubborn, timeout=2.0)
    return len(ended)


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nobody listens now."""
    with _socket_for(host) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def require_free(host: str, port: int, where: str) -> None:
    """Refuse a port on which somebody listens.

    Args:
        host: The address that will be bound.
        port: The port.
        where: The setting that names it, for the message.

    Raises:
        EngineError: It is taken, or may not be bound; names the port, who has it where that can be seen, and
            the cure.
    """
    with _socket_for(host) as probe:
        # As servers do: a connection of the last run that lingers in TIME_WAIT is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError as exc:
            raise EngineError(
                f"port {port} on {host} needs rights that this user has not; allowed: one above 1023. Cure: "
                f"change {where}"
            ) from exc
        except OSError as exc:
            raise EngineError(
                f"port {port} on {host} cannot be used ({exc.strerror}){_listener(port)}; "
                f"allowed: a free port. Cure: end that program, or change {where}"
            ) from exc


def _listener(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and getattr(connection.laddr, "port", None) == port
                and connection.pid
            ):
                return f": {psutil.Process(connection.pid).name()} (pid {connection.pid}) has it"
    except psutil.Error:
        pass
    return ""


def _socket_for(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)


def tail(log: Path, lines: int = 12, limit: int = 4000) -> str:
    """The last lines of a log, for the one who runs this machine."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])[-limit:]


def _rotate(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_LIMIT:
            log.replace(log.with_name(log.name + ".1"))
