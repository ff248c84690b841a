"""The supervisor: order, restarts, back-off, companions, hung processes."""

from __future__ import annotations

import http.server
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedcore.engines import supervisor as module
from fedcore.engines.supervisor import Supervisor, Unit, answers

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
END = [sys.executable, "-c", "raise SystemExit(3)"]


class Clock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Unit]]:
    made: list[Unit] = []

    def unit(name: str, command: list[str], **more: Any) -> Unit:
        made.append(Unit(name, lambda: command, dict(os.environ), tmp_path / f"{name}.log", tmp_path, **more))
        return made[-1]

    yield unit
    for each in made:
        if each.process is not None:
            each.process.kill()
            each.process.wait()


def supervise(*units: Unit) -> Supervisor:
    supervisor = Supervisor()
    supervisor.add(*units)
    return supervisor


def ended(unit: Unit) -> None:
    """Wait until its process has ended, without the supervisor noticing yet."""
    process = unit.process
    assert process is not None
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_unit_that_keeps_dying_is_started_with_growing_pauses(
    clock: Clock, make: Callable[..., Unit]
) -> None:
    unit = make("dies", END)
    supervisor = supervise(unit)
    pauses = []
    supervisor.tick()
    for _ in range(7):
        # Started by the last tick: one more might already see its end.
        ended(unit)
        supervisor.tick()
        died = clock.now
        while unit.process is None:
            clock.now += 0.5
            supervisor.tick()
        pauses.append(clock.now - died)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert unit.last_exit == 3 and unit.restarts == 7


def test_unit_that_was_up_for_a_while_begins_again_at_the_shortest_pause(
    clock: Clock, make: Callable[..., Unit]
) -> None:
    unit = make("steady", END)
    supervisor = supervise(unit)
    for _ in range(4):
        supervisor.tick()
        ended(unit)
        supervisor.tick()
        clock.now += 10.0
    supervisor.tick()
    assert unit.failures == 4
    ended(unit)
    clock.now += 30.0
    supervisor.tick()
    assert unit.failures == 0
    clock.now += 0.5
    supervisor.tick()
    assert unit.process is not None


def test_unit_waits_until_the_one_it_needs_has_been_ready_for_a_moment(
    clock: Clock, make: Callable[..., Unit]
) -> None:
    first = make("first", SLEEP)
    second = make("second", SLEEP, after=first, settle=0.8)
    supervisor = supervise(second, first)
    supervisor.tick()
    assert first.process is not None and second.process is None
    clock.now += 0.7
    supervisor.tick()
    assert second.process is None
    clock.now += 0.1
    supervisor.tick()
    assert second.process is not None


def test_companion_falls_with_its_unit_and_comes_back_after_it(
    clock: Clock, make: Callable[..., Unit]
) -> None:
    node = make("node", SLEEP)
    helper = make("helper", SLEEP, after=node, falls_with=node)
    supervisor = supervise(node, helper)
    supervisor.tick()
    supervisor.tick()
    assert node.process is not None and helper.process is not None
    fallen = helper.process
    node.process.send_signal(signal.SIGKILL)
    ended(node)
    supervisor.tick()
    assert fallen.poll() is not None
    assert node.process is None and helper.process is None
    clock.now += 0.5
    supervisor.tick()
    supervisor.tick()
    assert node.process is not None and helper.process is not None
    assert node.last_exit == -signal.SIGKILL


def test_unit_is_ready_when_it_answers_and_restarted_when_it_falls_silent(
    clock: Clock, make: Callable[..., Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = False
    monkeypatch.setattr(module, "answers", lambda address, context: healthy)
    unit = make("served", SLEEP, health=lambda: "http://x/health", patience=30.0)
    supervisor = supervise(unit)
    supervisor.tick()
    clock.now += 1.0
    supervisor.tick()
    assert not unit.ready
    healthy = True
    clock.now += 1.0
    supervisor.tick()
    assert unit.ready
    healthy = False
    before = unit.process
    clock.now += 29.0
    supervisor.tick()
    assert unit.process is before
    clock.now += 6.0
    supervisor.tick()
    assert unit.process is None and unit.restarts == 1


def test_end_is_told_before_the_next_start(clock: Clock, make: Callable[..., Unit]) -> None:
    seen: list[int] = []
    unit = make("dies", END)
    unit.on_end = lambda: seen.append(unit.restarts)
    supervisor = supervise(unit)
    supervisor.tick()
    ended(unit)
    supervisor.tick()
    assert seen == [0]


def test_said_looks_at_the_log_of_this_start_only(make: Callable[..., Unit]) -> None:
    unit = make("talks", [sys.executable, "-c", "import time; print('new', flush=True); time.sleep(60)"])
    unit.log.write_text("old\n")
    unit.start(0.0)
    while not unit.said("new"):
        time.sleep(0.01)
    assert not unit.said("old")


def test_shut_down_ends_every_unit(make: Callable[..., Unit]) -> None:
    units = [make(name, SLEEP) for name in ("a", "b")]
    supervisor = supervise(*units)
    supervisor.tick()
    processes = [unit.process for unit in units]
    supervisor.shut_down(1.0)
    assert all(process is not None and process.poll() is not None for process in processes)


def test_only_success_counts_as_an_answer() -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 500)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        assert answers(f"{base}/health", None)
        assert not answers(f"{base}/other", None)
        server.shutdown()
    assert not answers(f"{base}/health", None)
    assert not answers("http://[bad", None)
