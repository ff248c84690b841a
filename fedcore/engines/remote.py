"""A job on a real Flower federation, seen from the person who waits for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedcore.coordinator.checkpoint import write_json
from fedcore.coordinator.runner import RESULT, note_interruption
from fedcore.coordinator.watch import Replay, Silent
from fedcore.engines.deployment import deployment
from fedcore.engines.plan import coordinator_key, is_loopback
from fedcore.engines.server_app import EVENTS, NODES, PEERS
from fedcore.errors import EngineError, FedcoreError, error_kind
from fedcore.jobs.load import LoadedFederation


def run_deployed(
    home: Path, about: dict[str, Any], federation: LoadedFederation, *, resume: bool, watcher: Any
) -> dict[str, Any]:
    """Run the job of a run folder on the federation that is up, or on one that is up for this run only.

    Args:
        home: Run folder; the ServerApp reads its `run.json` and writes all results into it.
        about: What `run.json` holds.
        federation: Loaded.
        resume: Go on from the last checkpoint.
        watcher: Told what the ServerApp does.

    Raises:
        FedcoreError: As the ServerApp raised it, or the federation's own trouble.
    """
    if federation.spec.virtual is not None:
        raise EngineError(
            "engine deployment needs participant files; virtual participants run on embedded or simulation"
        )
    events = home / EVENTS
    shown = Replay(events, watcher or Silent())
    shown.read = events.stat().st_size if events.exists() else 0
    before = _stamp(home)
    network = federation.spec.network
    try:
        with deployment(federation) as running:
            write_json(home / NODES, running.nodes())
            write_json(
                home / PEERS,
                {
                    "keys": running.keys(),
                    "relay": running.relay(),
                    "door": door_of(federation),
                    "identity": str(coordinator_key(federation)),
                    "network": network.model_dump(mode="json") if network is not None else None,
                },
            )
            running.run(home / "job.yaml", home, resume=resume, on_poll=shown.poll)
    except KeyboardInterrupt:
        _noted(home, about, before, EngineError("stopped by the user (Ctrl-C)"))
        raise
    except FedcoreError as error:
        _noted(home, about, before, error)
        raise
    shown.poll()
    result: dict[str, Any] = json.loads((home / RESULT).read_text())
    if "error" in result:
        raise _as_raised(result["error"])
    if watcher is not None:
        watcher.finished(result)
    return result


def door_of(federation: LoadedFederation) -> dict[str, str] | None:
    """Where sessions are opened and with which key; None where Flower carries every message."""
    coordinator = federation.spec.coordinator
    port = coordinator.data_port
    if port == "auto":
        port = 0 if is_loopback(coordinator.listen) else "off"
    if port == "off":
        return None
    listen = coordinator.listen
    return {
        "bind": f"[{listen.strip('[]')}]:{port}" if ":" in listen else f"{listen}:{port}",
        "address": f"{coordinator.host}:{port}",
        "identity": str(coordinator_key(federation)),
    }


def _stamp(home: Path) -> int:
    file = home / RESULT
    return file.stat().st_mtime_ns if file.exists() else 0


def _noted(home: Path, about: dict[str, Any], before: int, error: FedcoreError) -> None:
    """A ServerApp that was killed wrote no result; say what is known in its stead."""
    if _stamp(home) == before:
        note_interruption(home, about, error)


def _as_raised(told: dict[str, Any]) -> FedcoreError:
    return error_kind(str(told["type"]))(told["message"], party=told["party"], step=told["step"])
