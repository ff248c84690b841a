"""Engine `deployment`: run a job over real SuperNodes, starting the federation when it is not up.

    with deployment(federation) as running:
        running.run(job, run_dir)

When the federation is up (`fedcore federation up`), the run uses it; two runs may use it at once, and each
SuperNode handles their messages one after the other. When it is down, it is started for the run and ended
after the last run that uses it, also when that run's process is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fedcore.engines import bundle
from fedcore.engines.federation import AlreadyUp, Report, down, up
from fedcore.engines.flower_commands import CONNECTION, FlowerCommands
from fedcore.engines.plan import Folders, work_folder
from fedcore.engines.processes import child_environment
from fedcore.engines.state import owned, read_state
from fedcore.errors import EngineError, FedcoreError
from fedcore.jobs.load import LoadedFederation

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_POLL = 0.3
_START_WITHIN = 180.0
_SILENT_FOR = 90.0
_STOP_WITHIN = 15.0


@contextlib.contextmanager
def deployment(
    federation: LoadedFederation,
    *,
    app: Path | None = None,
    report: Report | None = None,
) -> Iterator[Running]:
    """A federation that runs: the one that is up, or one started for as long as it is used.

    Args:
        federation: Its files.
        app: Another Flower app than fedcore's own, for tests.
        report: Told the state while it comes up.

    Raises:
        EngineError, IdentityError: It cannot be brought up.
    """
    folders = work_folder(federation)
    folders.make()
    # Held while the run lasts; the keeper of an ephemeral federation ends it when nobody holds it.
    with folders.users.open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        state = _attach(federation, folders, report)
        try:
            yield Running(federation, folders, str(state["mark"]), app or bundle.write_app(folders.app))
        finally:
            if state.get("ephemeral"):
                _leave(federation, users.fileno())


def _attach(federation: LoadedFederation, folders: Folders, report: Report | None) -> dict[str, Any]:
    """The state of the federation that is up, waiting for one that is starting; else start one."""
    while True:
        while owned(folders):
            state = read_state(folders)
            if state.get("status") == "up":
                return state
            # The keeper ends a start that takes too long, and an end is short.
            time.sleep(_POLL)
        try:
            return up(federation, ephemeral=True, report=report)
        except AlreadyUp:
            continue


def _leave(federation: LoadedFederation, users: int) -> None:
    """End an ephemeral federation unless another run uses it."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        down(federation)


@dataclass(frozen=True)
class Running:
    """A federation to which runs can be given.

    Args:
        federation: Its files.
        folders: Where it works.
        mark: Of this start of it.
        app: The Flower app.
    """

    federation: LoadedFederation
    folders: Folders
    mark: str
    app: Path

    def nodes(self) -> dict[str, str]:
        """The SuperLink's number of each registered node, and whose key it has."""
        told = read_state(self.folders).get("participants", [])
        return {str(each["node"]): each["name"] for each in told if each["node"] is not None}

    def keys(self) -> dict[str, str]:
        """The public key line of each registered participant."""
        lines = {name: self.folders.registered / f"{name}.pub" for name in self.nodes().values()}
        return {name: file.read_text().strip() for name, file in lines.items() if file.exists()}

    def relay(self) -> dict[str, str] | None:
        """Address and public key line of the relay, where there is one."""
        relay: dict[str, str] | None = read_state(self.folders).get("relay")
        return relay

    def run(
        self,
        job: Path,
        run_dir: Path,
        resume: bool = False,
        on_poll: Callable[[], None] | None = None,
    ) -> int:
        """Run a job and wait for its end.

        Args:
            job: Job file.
            run_dir: Run folder; the coordinator writes everything into it.
            resume: Go on from its last completed round.
            on_poll: Called a few times a second while the run lasts.

        Returns:
            Flower's number of the run. How it ended stands in `run_dir/result.json`.

        Raises:
            EngineError: The run ended without a result, did not start, or the federation went away.
            KeyboardInterrupt: Ctrl-C; the run was stopped at every party first.
        """
        environment = child_environment(self.mark, FLWR_HOME=str(self.folders.connection_home))
        before = _result(run_dir)
        with FlowerCommands(environment) as commands:
            number = self._submit(commands, job, run_dir, resume)
            try:
                end = self._wait(commands, number, lambda: _result(run_dir) != before, on_poll)
            except (KeyboardInterrupt, FedcoreError):
                self._stop(commands, number, run_dir, before)
                raise
            if end["status"] != "finished:completed" and _result(run_dir) == before:
                raise self._failed(commands, number, end)
        return int(number)

    def _submit(self, commands: FlowerCommands, job: Path, run_dir: Path, resume: bool) -> str:
        settings = self.folders.root / f"run-{secrets.token_hex(6)}.toml"
        bundle.write_run_config(
            settings,
            job=job.resolve(),
            federation=self.federation.file,
            run_dir=run_dir.resolve(),
            resume=resume,
        )
        try:
            told = commands.require("run", str(self.app), CONNECTION, "--run-config", str(settings))
        finally:
            settings.unlink()
        return str(told["run-id"])

    def _wait(
        self,
        commands: FlowerCommands,
        number: str,
        written: Callable[[], bool],
        on_poll: Callable[[], None] | None,
    ) -> dict[str, Any]:
        """How Flower says that the run ended."""
        began = heard = time.monotonic()
        started = False
        while True:
            listed: dict[str, Any] = {}
            # No answer is no end: what is still possible is judged below, with a better reason.
            with contextlib.suppress(EngineError):
                listed = commands("list", CONNECTION, "--run-id", number, "--format", "json").json()
            now = time.monotonic()
            if listed.get("success") and listed.get("runs"):
                heard = now
                run: dict[str, Any] = listed["runs"][0]
                if str(run["status"]).startswith("finished"):
                    return run
                started = started or run["status"] == "running"
                if started and written() and not self._server_apps():
                    # It could not tell the SuperLink, which was away just then and waits for it for a minute.
                    return run
            self._still_possible(started or now - began < _START_WITHIN, now - heard)
            if on_poll is not None:
                on_poll()
            time.sleep(_POLL)

    def _server_apps(self) -> bool:
        """Whether a ServerApp process lives, of whichever run."""
        processes = read_state(self.folders).get("processes", [])
        helper = next((each["pid"] for each in processes if each["name"] == "superexec"), None)
        try:
            children = psutil.Process(helper).children() if helper else []
            return any("flwr-serverapp" in " ".join(child.cmdline()) for child in children)
        except psutil.Error:
            return False

    def _still_possible(self, in_time: bool, silent: float) -> None:
        """Refuse to wait for what cannot happen any more."""
        state = read_state(self.folders)
        if state.get("mark") != self.mark or not owned(self.folders):
            raise EngineError(
                "the federation was taken down while the run went on; allowed: one that stays up. Cure: "
                "start it again and resume the run",
                party="coordinator",
            )
        logs = self.folders.root / "logs"
        if silent > _SILENT_FOR:
            raise EngineError(
                f"the SuperLink has not answered for {silent:.0f} s, though it was restarted; allowed: an "
                f"answer within {_SILENT_FOR:.0f} s. Cure: its log says why: {logs}",
                party="coordinator",
            )
        if not in_time:
            raise EngineError(
                f"the run did not start within {_START_WITHIN:.0f} s; allowed: a ServerApp that starts. "
                f"Cure: the logs of superlink and superexec say why: {logs}",
                party="coordinator",
            )

    def _stop(self, commands: FlowerCommands, number: str, run_dir: Path, before: str | None) -> None:
        """Stop the run at every party, and leave its ServerApp a moment to write down how far it came."""
        with contextlib.suppress(EngineError):
            commands("stop", number, CONNECTION, "--format", "json", timeout=20.0)
        deadline = time.monotonic() + _STOP_WITHIN
        while _result(run_dir) == before and time.monotonic() < deadline and owned(self.folders):
            time.sleep(_POLL)

    def _failed(self, commands: FlowerCommands, number: str, end: dict[str, Any]) -> EngineError:
        """What Flower and the ServerApp's log say about a run that wrote no result."""
        told = commands("log", number, CONNECTION, "--show", timeout=20.0).output
        reason = end.get("status-details") or "no reason given"
        return EngineError(
            f"the run ended as {end['status']} without a result: {reason}; allowed: one that writes "
            f"result.json. Cure: run.log in the run folder and {self.folders.root / 'logs'} say why",
            party="coordinator",
            detail="\n".join(_COLOUR.sub("", told).splitlines()[-40:]),
        )


def _result(run_dir: Path) -> str | None:
    """The status in `result.json` with the moment it was written; None while there is none."""
    path = run_dir / "result.json"
    try:
        status = json.loads(path.read_text()).get("status")
        return f"{status} {path.stat().st_mtime_ns}" if status else None
    except (OSError, json.JSONDecodeError):
        return None
