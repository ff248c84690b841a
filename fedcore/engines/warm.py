"""A host for ClientApps: everything is imported once, each message gets a process forked from it.

Flower starts a Python process per message; importing Flower, torch and fedcore takes it seconds of processor
time, which on a machine with several sites is most of a round. The host imports them once and then only forks.
It computes nothing itself, so that what a fork cannot inherit (threads, CUDA) does not exist yet.

A fork ends soon after the process that its arguments name as its parent, and without such an argument soon after the
host itself: a fork that outlives the message it was made for is never without somebody who ends it.

The command `flwr-clientapp` of a site hands its arguments, environment, working folder and open files to the host
through a Unix socket in the site's own folder (mode 0700), and runs the app itself when no host answers.
"""

from __future__ import annotations

import gc
import json
import os
import shlex
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

SOCKET = "clientapps.sock"
_FILES = 3
_LARGEST = 4 * 2**20
_AFTER_PARENT = 3.0

# Runs without site-packages, in some 15 ms. The folder is entered first: a socket's path may not be long.
_HAND_OVER = f"""
import json, os, socket, sys
there = os.getcwd()
os.chdir(sys.argv[1])
host = socket.socket(socket.AF_UNIX)
try:
    host.connect({SOCKET!r})
    socket.send_fds(host, [b"x"], [0, 1, 2])
    host.sendall(json.dumps([sys.argv[2:], dict(os.environ), there]).encode())
    host.shutdown(socket.SHUT_WR)
    sys.exit(host.recv(1) != b"k")
except OSError:
    sys.exit(1)
""".strip()


def client_command(folder: Path) -> str:
    """A shell command that lets the host in `folder` run `flwr-clientapp "$@"`; it fails when none answers."""
    words = [sys.executable, "-I", "-S", "-c", _HAND_OVER, str(folder)]
    return f'{shlex.join(words)} "$@"'


def host(folder: Path, prepare: Callable[[], object], serve: Callable[[], None]) -> NoReturn:
    """Serve for ever.

    Args:
        folder: Where the socket goes; only its owner may enter it.
        prepare: Imports everything. Requests that come before it has ended wait.
        serve: Runs one ClientApp process with `sys.argv`; called in each fork.
    """
    there = Path.cwd()
    os.chdir(folder)
    Path(SOCKET).unlink(missing_ok=True)
    door = socket.socket(socket.AF_UNIX)
    door.bind(SOCKET)
    os.chmod(SOCKET, 0o600)
    os.chdir(there)
    door.listen(64)
    door.settimeout(1.0)
    prepare()
    # Objects that exist now are never collected: collecting would touch, and so copy, pages that forks share.
    gc.collect()
    gc.freeze()
    while True:
        try:
            asked, _ = door.accept()
        except TimeoutError:
            asked = None
        _reap()
        if asked is not None:
            with asked:
                _answer(door, asked, serve)


def _answer(door: socket.socket, asked: socket.socket, serve: Callable[[], None]) -> None:
    """Fork a process for one request."""
    asked.settimeout(5.0)
    try:
        if not _is_me(asked):
            return
        request, files = _receive(asked)
    except (OSError, ValueError) as exc:
        print(f"request not understood: {exc}", file=sys.stderr, flush=True)
        return
    here = os.getpid()
    child = os.fork()
    if child == 0:
        door.close()
        asked.close()
        _become(request, files, serve, here)
    for file in files:
        os.close(file)
    asked.sendall(b"k")


def _is_me(asked: socket.socket) -> bool:
    """Whether the one who asks is the user that the host runs as."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", credentials)[1] == os.getuid())


def _receive(asked: socket.socket) -> tuple[list[Any], list[int]]:
    """Arguments, environment and working folder; and the three open files."""
    _, files, _, _ = socket.recv_fds(asked, 1, _FILES)
    content = b""
    while chunk := asked.recv(65536):
        content += chunk
        if len(content) > _LARGEST:
            raise ValueError("request too long")
    request = json.loads(content)
    if len(files) != _FILES or not isinstance(request, list) or len(request) != 3:
        raise ValueError("request incomplete")
    return request, files


def _become(request: list[Any], files: list[int], serve: Callable[[], None], host: int) -> NoReturn:
    """Be the process that was asked for; never returns into the host."""
    code = 1
    try:
        arguments, environment, folder = request
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = ["flwr-clientapp", *arguments]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _reseed()
        _end_with(arguments, host)
        serve()
        code = 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:  # noqa: BLE001 - the stack above belongs to the host and must not be unwound into
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _reseed() -> None:
    """Give the fork its own global NumPy generator, as a process of its own would have had."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _end_with(arguments: list[str], host: int) -> None:
    """End this process soon after the one that it belongs to has ended, whatever it is doing."""
    parent = int(arguments[arguments.index("--parent-pid") + 1]) if "--parent-pid" in arguments else None

    def ended() -> bool:
        if parent is None:
            return os.getppid() != host
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            return True
        return False

    def watch() -> None:
        while not ended():
            time.sleep(1.0)
        # Flower's own watch asks politely first.
        time.sleep(_AFTER_PARENT if parent is not None else 0.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _reap() -> None:
    while True:
        try:
            child, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if child == 0:
            return
