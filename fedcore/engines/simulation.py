"""A job on Flower's own simulation runtime: many virtual participants over Ray's processes and GPUs.

`flwr.simulation.run_simulation` is public and announced to go in favour of `flwr run`, which leaves a
detached SuperLink behind; its use stands in this file alone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedcore.coordinator.runner import execute
from fedcore.coordinator.watch import Replay, RunWatcher, Silent
from fedcore.coordinator.workflows.settings import Settings
from fedcore.engines.cores import usable_cores
from fedcore.engines.ray_app import FederationApp
from fedcore.errors import EngineError, FedcoreError
from fedcore.jobs.job import AnyJob
from fedcore.jobs.load import LoadedFederation
from fedcore.jobs.psi import PsiJob
from fedcore.jobs.vertical import VerticalJob

PROGRESS = "progress.jsonl"
"""In the run folder: how far participants are, from their processes."""
_POLL = 0.1


@contextlib.contextmanager
def _replayed(events: Path | None, watcher: RunWatcher) -> Iterator[None]:
    """Tell a watcher what other processes write meanwhile."""
    if events is None:
        yield
        return
    events.unlink(missing_ok=True)
    shown, over = Replay(events.absolute(), watcher), threading.Event()

    def follow() -> None:
        while not over.wait(_POLL):
            shown.poll()
        shown.poll()

    thread = threading.Thread(target=follow, daemon=True, name="fedcore-progress")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def run_simulated(
    home: Path, job: AnyJob, federation: LoadedFederation, run: str, *, resume: bool, watcher: Any
) -> dict[str, Any]:
    """Run the job on Ray.

    Args:
        home: Run folder.
        job, federation: Loaded.
        run: The run's id.
        resume: Go on from the last checkpoint.
        watcher: Told what happens.

    Raises:
        EngineError: Ray is not installed or did not start.
    """
    try:
        import ray
        from flwr.simulation import run_simulation
    except ImportError as error:
        raise EngineError(
            "engine simulation needs Ray; install it with `pip install 'fedcore[simulation]'`"
        ) from error
    people = federation.participants
    told: RunWatcher = watcher or Silent()
    # Parties that wait for each other need a process each.
    together = len(job.parties) if isinstance(job, PsiJob | VerticalJob) else 0
    events = (home / PROGRESS).absolute() if together and watcher is not None else None
    settings = Settings(
        run=run,
        folder=home,
        engine="simulation",
        expected=len(people),
        watcher=told,
        digest=federation.spec.virtual is None,
        participants=people,
        resume=resume,
        network=federation.spec.network,
    )
    app = ServerApp()
    ended: dict[str, Any] = {}

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            ended["result"] = execute(job, grid, settings)
        except FedcoreError as error:
            ended["error"] = error

    options = federation.spec.simulation
    console = logging.getLogger("flwr")
    handlers, console.handlers = console.handlers, [logging.NullHandler()]
    try:
        with warnings.catch_warnings(), _replayed(events, told):
            warnings.simplefilter("ignore")
            run_simulation(
                app,
                FederationApp(federation.file, events),
                num_supernodes=len(people),
                backend_config={
                    "client_resources": {"num_cpus": options.cpus, "num_gpus": options.gpus},
                    "init_args": {
                        "num_cpus": max(usable_cores(), math.ceil(together * options.cpus), 1),
                        "include_dashboard": False,
                        "log_to_driver": False,
                        "logging_level": logging.ERROR,
                    },
                },
            )
    except RuntimeError as error:
        if "error" not in ended:
            raise EngineError(
                f"Flower's simulation runtime failed: {error}; see {home / 'run.log'}"
            ) from error
    finally:
        console.handlers = handlers
        ray.shutdown()
    if "error" in ended:
        raise ended["error"]
    if "result" not in ended:
        raise EngineError(f"Flower's simulation runtime ended without a result; see {home / 'run.log'}")
    found: dict[str, Any] = ended["result"]
    return found
