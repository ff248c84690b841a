"""A job on Flower's own simulation runtime: many virtual participants over Ray's processes and GPUs.

`flwr.simulation.run_simulation` is public and announced to go in favour of `flwr run`, which leaves a
detached SuperLink behind; its use stands in this file alone.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedcore.coordinator.runner import execute
from fedcore.coordinator.watch import Silent
from fedcore.coordinator.workflows.train import Settings
from fedcore.engines.cores import usable_cores
from fedcore.engines.ray_app import FederationApp
from fedcore.errors import EngineError, FedcoreError
from fedcore.jobs.job import TrainJob
from fedcore.jobs.load import LoadedFederation


def run_simulated(
    home: Path, job: TrainJob, federation: LoadedFederation, run: str, *, resume: bool, watcher: Any
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
    settings = Settings(
        run=run,
        folder=home,
        engine="simulation",
        expected=len(people),
        watcher=watcher or Silent(),
        digest=federation.spec.virtual is None,
        participants=people,
        resume=resume,
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_simulation(
                app,
                FederationApp(federation.file),
                num_supernodes=len(people),
                backend_config={
                    "client_resources": {"num_cpus": options.cpus, "num_gpus": options.gpus},
                    "init_args": {
                        "num_cpus": usable_cores(),
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
