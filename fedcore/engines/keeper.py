"""The keeper: the process that owns a federation; SuperLink, SuperNodes and helpers live as long as it does.

`python -m fedcore.engines.keeper FED.yaml --mark M` is what `fedcore federation up` detaches. It
holds the lock of the work folder while it lives, writes `state.json` for whoever asks, and ends everything
when it is told to (SIGTERM, SIGINT), when the start fails, or, for an ephemeral federation, when no run uses
it.
"""

from __future__ import annotations

import argparse
import fcntl
import signal
import ssl
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from fedcore.engines.flower_commands import CONNECTION, FlowerCommands
from fedcore.engines.node import host_unit, supernode_units
from fedcore.engines.plan import (
    Plan,
    front_command,
    make_plan,
    reachable,
    relay_command,
    superexec_command,
    superlink_command,
)
from fedcore.engines.processes import (
    ProcessId,
    child_environment,
    folder_mark,
    free_port,
    require_free,
    sweep,
    tail,
)
from fedcore.engines.state import owner, write_state
from fedcore.engines.supervisor import Supervisor, Unit
from fedcore.errors import EngineError, FedcoreError
from fedcore.jobs.federation import Relay
from fedcore.jobs.load import load_federation

_TICK = 0.1
_UNUSED = 3.0
_GIVE_UP = 4

UP_ALREADY = 75
"""Exit status of a keeper that found another one at work."""


class Stopped(Exception):
    """Somebody asked for the end."""


class Federation:
    """A federation that runs on this machine.

    Args:
        plan: What it consists of.
        mark: Carried by all its processes.
        ephemeral: End it when no run uses it any more.
        report: Told the state whenever it was written.
    """

    def __init__(
        self,
        plan: Plan,
        mark: str,
        *,
        ephemeral: bool = False,
        report: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._plan = plan
        self._mark = mark
        self._ephemeral = ephemeral
        self._report = report
        self._supervisor = Supervisor()
        self._nodes: dict[str, str] = {}
        self._online: dict[str, bool] = dict.fromkeys(plan.registered, False)
        self._status = "starting"
        self._error: dict[str, Any] | None = None
        self._began = time.time()
        self._superlink = ""
        self._relay: dict[str, str] | None = None
        self._written = self._asked = 0.0
        self._used = time.monotonic()
        self._stop = False
        self._closing: IO[str] | None = None

    def run(self, deadline: float) -> None:
        """Bring everything up and keep it up until told to stop.

        Args:
            deadline: Seconds within which all SuperNodes of this machine must be online.

        Raises:
            FedcoreError: The start failed; nothing is left running.
        """
        before = {number: signal.signal(number, self._told) for number in (signal.SIGTERM, signal.SIGINT)}
        folders = self._plan.folders
        try:
            # What an owner that was killed left behind holds ports and the database.
            sweep(folder_mark(folders.root), folders.root)
            with FlowerCommands(
                child_environment(self._mark, FLWR_HOME=str(folders.connection_home))
            ) as commands:
                self._bring_up(commands, time.monotonic() + deadline)
                while True:
                    self._turn(commands)
        except Stopped:
            self._status = "stopping"
        except FedcoreError as exc:
            self._status = "failed"
            self._error = {"type": type(exc).__name__, "message": str(exc), "detail": exc.detail}
            raise
        finally:
            self._write()
            self._supervisor.shut_down()
            sweep(folder_mark(folders.root), folders.root)
            folders.forget()
            self._online = dict.fromkeys(self._online, False)
            self._status = "failed" if self._error is not None else "down"
            self._write()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _told(self, number: int, frame: object) -> None:
        self._stop = True

    def _bring_up(self, commands: FlowerCommands, deadline: float) -> None:
        plan, folders = self._plan, self._plan.folders
        listen, port = plan.federation.spec.coordinator.listen, plan.federation.spec.coordinator.port
        require_free(listen, port, "port of coordinator.address in the federation file")
        tls = plan.tls()
        # Runs and leases of an earlier start mean nothing now; keys are registered anew.
        folders.forget()
        # Whom other machines can reach gets a door in front, and the SuperLink moves behind it.
        host, inner = ("127.0.0.1", free_port()) if plan.public else (listen, port)
        self._superlink = f"{reachable(host)}:{inner}"
        plan.connect(self._superlink, tls)
        environment = child_environment(self._mark, FLWR_HOME=str(folders.connection_home))
        superlink = Unit(
            "superlink",
            lambda: superlink_command(folders, tls, host, inner),
            environment,
            folders.log("superlink"),
            plan.federation.file.parent,
            health=lambda: f"https://{self._superlink}/health",
            context=ssl.create_default_context(cafile=str(tls.authority)),
            patience=60.0,
        )
        helper = Unit(
            "superexec",
            lambda: superexec_command(self._superlink, folders.secret("superlink"), tls.authority),
            environment,
            folders.log("superexec"),
            plan.federation.file.parent,
            after=superlink,
        )
        self._supervisor.add(superlink, helper)
        self._wait(lambda: superlink.ready, superlink, deadline)
        if plan.public:
            door = Unit(
                "front",
                lambda: front_command(tls, listen, port, self._superlink),
                environment,
                folders.log("front"),
                plan.federation.file.parent,
                health=lambda: f"https://{reachable(listen)}:{port}/health",
                context=superlink.context,
                after=superlink,
            )
            self._supervisor.add(door)
            self._wait(lambda: door.ready, door, deadline)
        self._register(commands)
        if plan.federation.spec.relay is not None:
            self._start_relay(plan.federation.spec.relay, environment, deadline)
        nodes = []
        for site in plan.sites:
            units = supernode_units(site, folders, self._mark, self._superlink, tls.authority, superlink)
            self._supervisor.add(*units)
            nodes.append(units[0])
        if nodes:
            self._supervisor.add(
                host_unit(folders, self._mark, plan.federation.file.parent, sites=len(nodes))
            )
        local = [site.name for site in plan.sites]
        while not all(self._online[name] for name in local):
            self._turn(commands, every=0.4)
            for name, unit in zip(local, nodes, strict=True):
                if unit.failures >= _GIVE_UP or (time.monotonic() > deadline and not self._online[name]):
                    raise _not_up(unit, f"SuperNode of {name} did not come online", name)
        self._status = "up"
        self._write()

    def _wait(
        self, condition: Callable[[], bool], unit: Unit, deadline: float, what: str = "SuperLink"
    ) -> None:
        while not condition():
            self._tick()
            if unit.failures >= _GIVE_UP or time.monotonic() > deadline:
                raise _not_up(unit, f"{what} did not start", "coordinator")

    def _start_relay(self, relay: Relay, environment: dict[str, str], deadline: float) -> None:
        """Let participants that cannot reach each other meet at the coordinator."""
        plan, folders = self._plan, self._plan.folders
        host, port = relay.bound.rsplit(":", 1)
        require_free(host, int(port), "port of relay.address in the federation file")
        unit = Unit(
            "relay",
            lambda: relay_command(plan, relay.bound),
            environment,
            folders.log("relay"),
            plan.federation.file.parent,
        )
        self._supervisor.add(unit)
        self._wait(lambda: unit.said("relay at"), unit, deadline, "relay")
        self._relay = {"address": relay.address, "public_key": plan.coordinator.public_line}

    def _register(self, commands: FlowerCommands) -> None:
        """Tell the SuperLink whose keys it accepts: the roster's and the sites', nobody else's."""
        folder = self._plan.folders.registered
        folder.mkdir(exist_ok=True, mode=0o700)
        # The relay serves whoever stands here, so an earlier roster's must not.
        for old in folder.glob("*.pub"):
            old.unlink()
        for name, line in self._plan.registered.items():
            path = folder / f"{name}.pub"
            path.write_text(line + "\n")
            answer = commands.require("supernode", "register", str(path), CONNECTION, "--name", name)
            self._nodes[name] = str(answer["node-id"])
            self._tick()

    def _turn(self, commands: FlowerCommands, every: float = 10.0) -> None:
        """One look at everything; asks the SuperLink who is online when that is due."""
        self._tick()
        now = time.monotonic()
        if now - self._asked >= every:
            self._asked = now
            listed = commands("supernode", "list", CONNECTION, "--format", "json", timeout=20.0).json()
            status = {str(node["node-id"]): node["status"] for node in listed.get("nodes", [])}
            if listed.get("success"):
                self._online = {
                    name: status.get(self._nodes.get(name, "")) == "online" and self._alive(name)
                    for name in self._plan.registered
                }
            self._write()

    def _alive(self, name: str) -> bool:
        """Whether a SuperNode of this machine runs; the SuperLink takes a minute to miss a killed one."""
        return all(unit.ready for unit in self._supervisor.units if unit.name == f"supernode {name}")

    def _tick(self) -> None:
        time.sleep(_TICK)
        if self._stop or (self._ephemeral and self._unused()):
            raise Stopped
        self._supervisor.tick()
        if time.monotonic() - self._written > 1.0:
            self._write()

    def _unused(self) -> bool:
        """Whether no run has held the `users` file for a while; a run that was killed holds it no longer."""
        file = self._plan.folders.users.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._used = time.monotonic()
        if time.monotonic() - self._used <= _UNUSED:
            file.close()
            return False
        # Kept open: a run that comes now waits until this start has ended, and then makes its own.
        self._closing = file
        return True

    def _write(self) -> None:
        self._written = time.monotonic()
        me = ProcessId.of()
        local = {site.name for site in self._plan.sites}
        state = {
            "federation": self._plan.federation.spec.name,
            "status": self._status,
            "error": self._error,
            "mark": self._mark,
            "ephemeral": self._ephemeral,
            "supervisor": {"pid": me.pid, "born": me.born} if me is not None else None,
            "started": datetime.fromtimestamp(self._began, UTC).isoformat(timespec="seconds"),
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "address": self._plan.federation.spec.coordinator.address,
            "superlink": self._superlink,
            "authority": str(self._plan.folders.root / "tls" / "ca.crt"),
            "relay": self._relay,
            "participants": [
                {"name": name, "node": self._nodes.get(name), "online": online, "here": name in local}
                for name, online in self._online.items()
            ],
            "processes": [unit.describe() for unit in self._supervisor.units],
        }
        write_state(self._plan.folders, state)
        if self._report is not None:
            self._report(state)


def _not_up(unit: Unit, what: str, party: str) -> EngineError:
    how = f"ended {unit.restarts} times" if unit.restarts else "is not ready"
    return EngineError(
        f"{what}: {unit.name} {how}; "
        f"allowed: an answer before the deadline. Cure: its log says why: {unit.log}",
        party=party,
        step="federation up",
        detail=tail(unit.log),
    )


def start_deadline(plan: Plan) -> float:
    """Seconds that a start may take: generous, since two cores may start twenty Python processes."""
    return 90.0 + 10.0 * len(plan.sites)


def main() -> int:
    """The detached process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("federation", type=Path)
    parser.add_argument("--mark", required=True)
    parser.add_argument("--ephemeral", action="store_true")
    arguments = parser.parse_args()
    plan = make_plan(load_federation(arguments.federation))
    with owner(plan.folders) as mine:
        if not mine:
            return UP_ALREADY
        try:
            Federation(plan, arguments.mark, ephemeral=arguments.ephemeral).run(start_deadline(plan))
        except FedcoreError as exc:
            print(f"{type(exc).__name__}: {exc}\n{exc.detail or ''}", file=sys.stderr)
            return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
