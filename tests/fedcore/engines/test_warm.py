"""The host of ClientApps: a fork is the process that was asked for, in everything that can be told apart."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fedcore.engines.installed import write_commands
from fedcore.engines.warm import SOCKET, client_command

HOST = """
import json, os, sys, time
from pathlib import Path
import numpy as np
from fedcore.engines.warm import host

def prepare():
    np.random.seed(0)
    while not Path(sys.argv[2]).exists():
        time.sleep(0.01)

def serve():
    print(json.dumps({"argv": sys.argv, "cwd": os.getcwd(), "site": os.environ.get("SITE"), "old": "OLD" in os.environ,
                      "pid": os.getpid(), "random": float(np.random.random())}), flush=True)
    print("to stderr", file=sys.stderr)
    if "raise" in sys.argv:
        raise ValueError("as asked")
    if "exit" in sys.argv:
        sys.exit(3)
    if "sleep" in sys.argv:
        time.sleep(60)

host(Path(sys.argv[1]), prepare, serve)
"""


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """The host has finished its imports when this file exists."""
    file = tmp_path / "go"
    file.touch()
    return file


@pytest.fixture
def host(tmp_path: Path, go: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    place = tmp_path / ("deep" * 30) / "commands"
    place.mkdir(parents=True, mode=0o700)
    process = subprocess.Popen(
        [sys.executable, "-c", HOST, str(place), str(go)],
        env={**os.environ, "OLD": "1"},
        start_new_session=True,
    )
    try:
        wait_for(lambda: (place / SOCKET).exists())
        yield place, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def folder(host: tuple[Path, subprocess.Popen[bytes]]) -> Path:
    return host[0]


def wait_for(condition: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the client command as a site's `flwr-clientapp` does; waits until the fork has closed its output."""
    return subprocess.run(
        ["/bin/sh", "-c", client_command(folder), "flwr-clientapp", *words],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=folder.parent.parent,
        capture_output=True,
        text=True,
        timeout=20,
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_fork_has_the_callers_arguments_environment_folder_and_output(folder: Path) -> None:
    done = ask(folder, "--token", "two words", "$x", SITE="north")
    assert done.returncode == 0, done.stderr
    answer = told(done)
    assert answer["argv"] == ["flwr-clientapp", "--token", "two words", "$x"]
    assert answer["cwd"] == str(folder.parent.parent)
    assert answer["site"] == "north"
    assert answer["old"] is False
    assert done.stderr == "to stderr\n"


def test_each_message_gets_a_process_of_its_own_with_randomness_of_its_own(folder: Path) -> None:
    answers = [told(ask(folder)) for _ in range(3)]
    assert len({answer["pid"] for answer in answers}) == 3
    assert len({answer["random"] for answer in answers}) == 3


def test_app_that_raises_or_exits_does_not_end_the_host(folder: Path) -> None:
    raised = ask(folder, "raise")
    assert "ValueError: as asked" in raised.stderr
    ask(folder, "exit")
    assert told(ask(folder))["argv"] == ["flwr-clientapp"]


def test_no_zombie_is_left(folder: Path) -> None:
    pid = int(str(told(ask(folder))["pid"]))
    wait_for(lambda: not psutil.pid_exists(pid))


def test_fork_ends_soon_after_the_process_that_asked_for_it(folder: Path, tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    fork = sleeping(folder, tmp_path / "out", "--parent-pid", str(parent.pid))
    parent.kill()
    parent.wait()
    wait_for(lambda: ended(fork))


def test_fork_that_belongs_to_no_message_ends_soon_after_the_host(
    host: tuple[Path, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    folder, process = host
    fork = sleeping(folder, tmp_path / "out")
    # The host alone: nothing reaches the fork but its own watch.
    process.kill()
    process.wait()
    wait_for(lambda: ended(fork))


def sleeping(folder: Path, output: Path, *words: str) -> psutil.Process:
    """A fork that would go on for a minute."""
    with output.open("w") as out:
        subprocess.run(
            ["/bin/sh", "-c", client_command(folder), "x", "sleep", *words],
            stdout=out,
            stderr=out,
            check=True,
            timeout=20,
        )
    wait_for(lambda: "pid" in output.read_text())
    fork = psutil.Process(json.loads(output.read_text().splitlines()[0])["pid"])
    assert not ended(fork)
    return fork


def ended(fork: psutil.Process) -> bool:
    return not fork.is_running() or fork.status() == psutil.STATUS_ZOMBIE


def test_socket_is_for_its_owner_only(folder: Path) -> None:
    assert stat.S_IMODE((folder / SOCKET).stat().st_mode) == 0o600


def test_request_that_is_garbage_does_not_end_the_host(folder: Path) -> None:
    import socket

    before = Path.cwd()
    os.chdir(folder)
    try:
        for content in (b"", b"x", b"x{not json", b'x["too", "short"]'):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(SOCKET)
                client.sendall(content)
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
    finally:
        os.chdir(before)
    assert ask(folder).returncode == 0


def test_request_waits_while_the_host_imports(folder: Path, go: Path) -> None:
    """Covered for the case that it is ready at once by the tests above; here it starts late."""
    slow = folder.parent / "slow"
    slow.mkdir(mode=0o700)
    flag = go.with_name("later")
    process = subprocess.Popen([sys.executable, "-c", HOST, str(slow), str(flag)], start_new_session=True)
    try:
        wait_for(lambda: (slow / SOCKET).exists())
        client = subprocess.Popen(
            ["/bin/sh", "-c", client_command(slow), "x"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(0.3)
        flag.touch()
        assert "argv" in client.communicate(timeout=20)[0]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_client_command_fails_when_no_host_answers_so_that_the_app_starts_by_itself(tmp_path: Path) -> None:
    assert ask(tmp_path).returncode != 0
    # What is left of a host that was killed.
    import socket

    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        socket.socket(socket.AF_UNIX).bind(SOCKET)
    finally:
        os.chdir(before)
    assert ask(tmp_path).returncode != 0


def test_other_kinds_of_task_are_refused_at_a_site(tmp_path: Path) -> None:
    commands = write_commands(tmp_path / "commands")
    for name in ("flwr-serverapp", "flwr-agentapp", "flwr-simulation", "flwr-model", "flwr-connector"):
        done = subprocess.run([commands / name, "--token", "x"], capture_output=True, text=True, timeout=10)
        assert done.returncode == 1 and "installed here only" in done.stderr


def test_flower_has_no_kind_of_task_that_a_site_has_forgotten_to_refuse(tmp_path: Path) -> None:
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    here = {path.name for path in write_commands(tmp_path / "commands").iterdir()}
    assert set(TASK_TYPE_TO_COMMAND.values()) <= here


def test_flower_still_has_the_names_whose_replacement_keeps_bundled_code_out() -> None:
    """`fedcore.flower.serve_installed_client_app` refuses to run without them; this says so at an upgrade."""
    from flwr.supernode.runtime import run_clientapp

    assert callable(run_clientapp.install_from_fab)
    assert callable(run_clientapp.get_load_client_app_fn)


def test_release_of_a_node_at_a_superlink_that_is_away_is_no_error(tmp_path: Path) -> None:
    from fedcore.engines.processes import free_port
    from fedcore.flower import release_node
    from fedcore.trust.certificates import prepare_tls
    from fedcore.trust.identity import new_identity

    identity = new_identity(tmp_path / "k", "k")
    authority = prepare_tls(tmp_path / "tls", identity, "f", ["localhost"]).authority.read_bytes()
    assert release_node(f"127.0.0.1:{free_port()}", authority, identity.private_key, 7) is False
