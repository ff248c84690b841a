"""Processes: marked, found, ended, and never confused with others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fedcore.engines.processes import (
    MARK,
    ProcessId,
    child_environment,
    folder_mark,
    free_port,
    left_behind,
    new_mark,
    require_free,
    spawn,
    stop,
    sweep,
    tail,
)
from fedcore.errors import EngineError

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
# Ignores SIGTERM, and says so when it is ready to.
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
# Starts a child in a session of its own, as Flower's SuperLink does, and ends.
DETACH = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)"


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    yield new_mark(tmp_path)
    for process in left_behind(folder_mark(tmp_path)):
        process.kill()


def start(command: list[str], mark: str, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, MARK: mark}
    return spawn(command, environment=environment, log=folder / "logs" / "x.log", folder=folder)


def until(condition: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_sweep_ends_a_process_that_left_its_parents_session(mark: str, tmp_path: Path) -> None:
    start([sys.executable, "-c", DETACH], mark, tmp_path).wait(10)
    assert len(left_behind(mark)) == 1
    assert sweep(mark) == 1
    assert left_behind(mark) == []


def test_sweep_ends_what_ignores_a_polite_request(mark: str, tmp_path: Path) -> None:
    process = start([sys.executable, "-c", DEAF], mark, tmp_path)
    until(lambda: "deaf" in tail(tmp_path / "logs" / "x.log"))
    assert sweep(mark, grace=0.2) == 1
    assert ProcessId.of(process.pid) is None


def test_sweep_finds_every_start_of_a_folder_and_none_of_another(mark: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    mine, again, others = (start(SLEEP, m, tmp_path) for m in (mark, new_mark(tmp_path), new_mark(other)))
    try:
        assert sweep(folder_mark(tmp_path)) == 2
        assert ProcessId.of(mine.pid) is None and ProcessId.of(again.pid) is None
        assert others.poll() is None
    finally:
        others.kill()
        others.wait()


def test_process_that_hides_its_environment_is_found_by_the_files_it_names(
    mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`flower-superexec` makes itself undumpable; its owner cannot read its environment then."""
    secret = tmp_path / "secrets" / "site"
    hidden = start([*SLEEP, str(secret)], mark, tmp_path)

    def denied(self: psutil.Process) -> dict[str, str]:
        raise psutil.AccessDenied(self.pid)

    until(lambda: psutil.Process(hidden.pid).cmdline()[-1:] == [str(secret)])
    monkeypatch.setattr(psutil.Process, "environ", denied)
    assert [process.pid for process in left_behind(mark, tmp_path)] == [hidden.pid]
    assert left_behind(mark, tmp_path / "secrets" / "site2") == []
    stop([hidden], 1.0)


def test_child_ends_when_its_parent_is_killed(mark: str, tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path; from fedcore.engines.processes import spawn\n"
        "folder = Path(sys.argv[1])\n"
        "child = spawn([sys.executable, '-c', 'import time; time.sleep(60)'], environment=os.environ, "
        "log=folder / 'c.log', folder=folder)\n"
        "(folder / 'pid').write_text(str(child.pid)); time.sleep(60)\n"
    )
    parent = start([sys.executable, "-c", script, str(tmp_path)], mark, tmp_path)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    child = ProcessId.of(int((tmp_path / "pid").read_text()))
    assert child is not None
    parent.kill()
    parent.wait()
    until(lambda: not child.alive)


def test_stop_reaches_the_children_and_kills_what_stays(mark: str, tmp_path: Path) -> None:
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {DEAF!r}])"
    leader = start([sys.executable, "-c", script], mark, tmp_path)
    until(lambda: "deaf" in tail(tmp_path / "logs" / "x.log"))
    stop([leader], 0.2)
    # A killed child stays a zombie until it is reaped, by whoever adopts orphans here.
    until(lambda: left_behind(mark) == [])


def test_process_is_not_confused_with_a_later_one_of_the_same_number() -> None:
    me = ProcessId.of()
    assert me is not None and me.alive
    assert not ProcessId(me.pid, me.born - 5.0).alive
    assert ProcessId.of(2**22 + 1) is None


def test_ended_process_that_nobody_waited_for_counts_as_dead(mark: str, tmp_path: Path) -> None:
    process = start([sys.executable, "-c", "pass"], mark, tmp_path)
    until(lambda: ProcessId.of(process.pid) is None)
    process.wait()


def test_taken_port_is_named_with_its_owner_and_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(EngineError) as refused:
            require_free("127.0.0.1", port, "coordinator.address")
    for part in (str(port), f"pid {os.getpid()}", "change coordinator.address"):
        assert part in str(refused.value)
    require_free("127.0.0.1", port, "coordinator.address")


def test_free_port_can_be_bound() -> None:
    require_free("127.0.0.1", free_port(), "x")


def test_environment_sends_nothing_home_and_keeps_loopback_off_a_web_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.hospital:3128")
    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.setenv("FLWR_HOME", "/someone/elses")
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    environment = child_environment("m.1", FLWR_HOME="/ours")
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_HOME"] == "/ours"
    assert environment["HTTPS_PROXY"] == "http://proxy.hospital:3128"
    assert environment["NO_PROXY"].split(",") == ["intranet", "127.0.0.1", "localhost", "::1"]
    assert environment[MARK] == "m.1"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_program_that_does_not_exist_is_an_engine_error(mark: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be started"):
        start(["/nowhere/program"], mark, tmp_path)
