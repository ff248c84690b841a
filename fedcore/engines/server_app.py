"""The `ServerApp` of a deployment: everything it needs stands in the run folder that the run's config names."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedcore.coordinator.grids.aggregators import SessionAggregators
from fedcore.coordinator.runner import execute
from fedcore.coordinator.watch import EventFile
from fedcore.coordinator.workflows.settings import RelayAt, Settings
from fedcore.engines.plan import COORDINATOR
from fedcore.engines.session import Door, SessionGrid
from fedcore.errors import FedcoreError, JobError
from fedcore.jobs.federation import ComputeNetwork
from fedcore.jobs.job import parse_job
from fedcore.peer.tls import Peer
from fedcore.trust.identity import load_identity

log = logging.getLogger("fedcore.engines")

app = ServerApp()

EVENTS = "events.jsonl"
NODES = "nodes.json"
"""Node number to participant, as the federation registered their keys."""
PEERS = "peers.json"
"""Whose key is whose, and where the relay is, for participants that meet each other."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job of the run folder.

    Run config: `run-dir` (path of the run folder), `resume` (bool).
    """
    named = context.run_config.get("run-dir")
    if not isinstance(named, str):
        raise JobError("the run's config names no run-dir; start runs with `fedcore run`")
    folder = Path(named)
    about = json.loads((folder / "run.json").read_text())
    nodes, peers = folder / NODES, folder / PEERS
    pinned = json.loads(peers.read_text()) if peers.exists() else {}
    settings = Settings(
        run=about["run"],
        folder=folder,
        engine="deployment",
        expected=int(about["expected"]),
        watcher=EventFile(folder / EVENTS),
        resume=bool(context.run_config.get("resume", False)),
        registered=(
            {int(number): name for number, name in json.loads(nodes.read_text()).items()}
            if nodes.exists()
            else None
        ),
        keys=pinned.get("keys", {}),
        relay=RelayAt(**pinned["relay"]) if pinned.get("relay") else None,
        network=ComputeNetwork.model_validate(pinned["network"]) if pinned.get("network") else None,
        identity=Path(pinned["identity"]) if pinned.get("identity") else None,
    )
    over = _sessions(grid, settings, pinned.get("door"))
    if over is not None:
        settings = replace(settings, aggregators=SessionAggregators(settings.registered or {}))
    try:
        execute(parse_job(about["job"]), over or grid, settings)
    except FedcoreError:
        # It stands in result.json, from where `fedcore run` takes it; Flower would print a trace.
        return
    finally:
        if over is not None:
            over.close()


def _sessions(grid: Grid, settings: Settings, door: dict[str, str] | None) -> SessionGrid | None:
    """The grid whose messages travel in sessions; None where Flower carries them."""
    if door is None or not settings.registered:
        return None
    peers = {
        node: Peer(name, settings.keys[name])
        for node, name in settings.registered.items()
        if name in settings.keys
    }
    if not peers:
        return None
    try:
        identity = load_identity(Path(door["identity"]), COORDINATOR)
    except FedcoreError as error:
        log.warning("no sessions, and Flower carries every message: %s", error)
        return None
    return SessionGrid(grid, Door(door["bind"], door["address"], identity, peers))
