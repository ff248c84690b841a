"""A PostgreSQL server of this machine's own packages, started for the tests and removed after them."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "right horse"


@dataclass(frozen=True)
class Postgres:
    """A server on this machine: user `fedcore` is trusted over TCP, `guarded` needs PASSWORD.

    Args:
        host: With the port.
    """

    host: str

    def url(self, user: str = "fedcore", database: str = "postgres") -> str:
        return f"postgresql://{user}@{self.host}/{database}"


@contextmanager
def running() -> Iterator[Postgres]:
    """A fresh server in a folder of its own; skips the test where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [
        Path(path) for path in [shutil.which("initdb")] if path
    ]
    if not found:
        pytest.skip("no PostgreSQL server here; install it with: apt-get install -y postgresql")
    binaries = found[-1].parent
    as_owner: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="fedcore-pg-"))
    if os.geteuid() == 0:  # the server refuses to run as root
        owner = next((name for name in ("postgres", "nobody") if _user(name)), None)
        if owner is None:
            pytest.skip("PostgreSQL does not run as root and there is no user postgres or nobody")
        shutil.chown(folder, owner)
        as_owner = ["setpriv", f"--reuid={owner}", f"--regid={pwd.getpwnam(owner).pw_gid}", "--clear-groups"]

    def run(*command: str | Path) -> None:
        done = subprocess.run(
            [*as_owner, *map(str, command)], cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    try:
        run(binaries / "initdb", "-D", data, "-U", "fedcore", "-A", "trust", "-E", "UTF8", "--no-sync")
        (data / "pg_hba.conf").write_text(
            "local all fedcore trust\n"
            "host all guarded 127.0.0.1/32 scram-sha-256\n"
            "host all all 127.0.0.1/32 trust\n"
        )
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run(binaries / "pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "start")
        try:
            yield Postgres(f"127.0.0.1:{port}")
        finally:
            run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user(name: str) -> bool:
    return any(entry.pw_name == name for entry in pwd.getpwall())
