"""Start, ask after and stop a federation on this machine: `fedcore federation up | status | down`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedcore.engines.keeper import UP_ALREADY, Federation, start_deadline
from fedcore.engines.plan import Folders, Plan, make_plan, work_folder
from fedcore.engines.processes import (
    ProcessId,
    child_environment,
    folder_mark,
    left_behind,
    new_mark,
    sweep,
    tail,
)
from fedcore.engines.state import owned, owner, read_state, starting, write_state
from fedcore.errors import EngineError
from fedcore.jobs.load import LoadedFederation

Report = Callable[[dict[str, Any]], None]
_POLL = 0.2


class AlreadyUp(EngineError):
    """Another start of the same federation lives."""


def up(
    federation: LoadedFederation, *, ephemeral: bool = False, report: Report | None = None
) -> dict[str, Any]:
    """Start a federation in the background and wait until every SuperNode of this machine is online.

    Args:
        federation: Its files.
        ephemeral: End it when no run uses it any more.
        report: Told the state while waiting.

    Returns:
        The state (see `fedcore.engines.keeper`), `status` being `up`.

    Raises:
        EngineError: It is up already, its port is taken, or it did not come up; nothing is left running.
        IdentityError: A key is missing, unsafe, or not the pinned one.
    """
    plan = make_plan(federation)
    folders = plan.folders
    with starting(folders):
        _refuse_second(folders)
        mark = new_mark(folders.root)
        keeper = _detach(federation.file, mark, folders, ephemeral)
        try:
            return _wait(keeper, plan, mark, report)
        except BaseException:
            # Ctrl-C while waiting, or a failed start: what has been started goes again.
            if keeper.poll() != UP_ALREADY:
                down(federation)
            raise


def up_in_foreground(federation: LoadedFederation, report: Report | None = None) -> None:
    """Run a federation in this process until SIGINT or SIGTERM.

    Raises:
        FedcoreError: As `up`.
    """
    plan = make_plan(federation)
    with owner(plan.folders) as mine:
        if not mine:
            _refuse_second(plan.folders)
        Federation(plan, new_mark(plan.folders.root), report=report).run(start_deadline(plan))


def down(federation: LoadedFederation, deadline: float = 30.0) -> dict[str, Any]:
    """Stop a federation and everything that any start of it left behind.

    Args:
        federation: Its files.
        deadline: Seconds for the keeper to end by itself.

    Returns:
        `was_up`, and `swept`: processes that had lost their keeper and were ended.
    """
    folders = work_folder(federation)
    was_up = owned(folders)
    if was_up:
        _end_keeper(folders, time.monotonic() + deadline)
    swept = sweep(folder_mark(folders.root), folders.root)
    folders.forget()
    state = read_state(folders)
    if state and state.get("status") not in ("down", "failed"):
        # The keeper was killed and could not say so itself.
        write_state(folders, {**state, "status": "down", "processes": [], "supervisor": None})
    return {"federation": federation.spec.name, "was_up": was_up, "swept": swept}


def status(federation: LoadedFederation) -> dict[str, Any]:
    """What runs: the keeper's last state, corrected by what can be seen now.

    Returns:
        The state; `status` is `up`, `starting`, `stopping`, `down`, `failed` or `lost` (the keeper died and
        left processes behind).
    """
    folders = work_folder(federation)
    state = read_state(folders) or {"federation": federation.spec.name, "status": "down"}
    if owned(folders):
        return state
    orphans = left_behind(folder_mark(folders.root), folders.root)
    ended = "failed" if state.get("status") == "failed" else "down"
    nobody = [{**each, "online": False} for each in state.get("participants", [])]
    return {
        **state,
        "status": "lost" if orphans else ended,
        "supervisor": None,
        "participants": nobody,
        "processes": [{"name": p.name(), "pid": p.pid, "status": "lost"} for p in orphans],
    }


def _refuse_second(folders: Folders) -> None:
    if owned(folders):
        keeper = read_state(folders).get("supervisor") or {}
        raise AlreadyUp(
            f"this federation is up already, kept by process {keeper.get('pid', 'unknown')}; allowed: one "
            f"start of a federation at a time. Cure: use it as it is, or end it: fedcore federation down"
        )


def _detach(file: Path, mark: str, folders: Folders, ephemeral: bool) -> subprocess.Popen[bytes]:
    """Start the keeper in a session of its own, so that closing this terminal does not end it."""
    log = folders.log("keeper")
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, "-m", "fedcore.engines.keeper", str(file), "--mark", mark]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        return subprocess.Popen(
            [*command, "--ephemeral"] if ephemeral else command,
            env=child_environment(mark),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def _wait(keeper: subprocess.Popen[bytes], plan: Plan, mark: str, report: Report | None) -> dict[str, Any]:
    folders = plan.folders
    # The keeper has its own deadline and says what failed; this one is for a keeper that hangs.
    deadline = time.monotonic() + start_deadline(plan) + 20.0
    while True:
        state = read_state(folders)
        if state.get("mark") == mark:
            if report is not None:
                report(state)
            if state["status"] == "up":
                return state
        if keeper.poll() == UP_ALREADY:
            _refuse_second(folders)
        if keeper.poll() is not None or time.monotonic() > deadline:
            raise _start_failed(folders, mark)
        time.sleep(_POLL)


def _start_failed(folders: Folders, mark: str) -> EngineError:
    state = read_state(folders)
    error = state.get("error") if state.get("mark") == mark else None
    if error:
        return EngineError(error["message"], detail=error.get("detail"))
    return EngineError(
        f"the federation did not come up; allowed: all SuperNodes online in time. Cure: the logs "
        f"say why: {folders.root / 'logs'}",
        step="federation up",
        detail=tail(folders.log("keeper")),
    )


def _end_keeper(folders: Folders, deadline: float) -> None:
    told = read_state(folders).get("supervisor") or {}
    keeper = ProcessId(int(told.get("pid", 0)), float(told.get("born", 0.0)))
    if keeper.pid and keeper.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper.pid, signal.SIGTERM)
    # The lock is released a moment before the process is gone.
    while owned(folders) or (keeper.pid and keeper.alive):
        if time.monotonic() > deadline:
            if keeper.pid and keeper.alive:
                os.kill(keeper.pid, signal.SIGKILL)
            return
        time.sleep(0.05)
