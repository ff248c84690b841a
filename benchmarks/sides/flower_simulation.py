"""Run one of the hand-written Flower apps on Flower's simulation runtime (Ray).

python flower_simulation.py flower_tabular settings.json told.json
"""

from __future__ import annotations

import os

os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1", RAY_USAGE_STATS_ENABLED="0")

import importlib
import json
import logging
import sys
from pathlib import Path

from flwr.simulation import run_simulation


def main() -> None:
    """Import the app by name, as Flower does, so that Ray's workers import it too instead of unpickling it."""
    name, settings_file, told_file = sys.argv[1:]
    settings = json.loads(Path(settings_file).read_text())
    module = importlib.import_module(name)
    told: dict = {}
    run_simulation(
        module.server_app(settings, told),
        module.client_app,
        num_supernodes=settings["participants"],
        backend_config={
            # One core for each of as many ClientApps at a time as there are cores: Ray's workers get one
            # torch thread each, which is what small models on small batches want.
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {
                "num_cpus": settings["cores"],
                "include_dashboard": False,
                "logging_level": logging.ERROR,
            },
        },
    )
    Path(told_file).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
