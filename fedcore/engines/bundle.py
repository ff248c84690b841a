"""The Flower app of a deployment: two modules of three lines that import what is installed at each party.

Flower carries an app's code to every SuperNode. Ours carries none: the modules only name `fedcore`, which
each party installs itself, so that code does not travel.
"""

from __future__ import annotations

import json
from pathlib import Path

_PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedcore"
version = "{version}"
description = "Runs the fedcore that is installed here"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "fedcore"

[tool.flwr.app.components]
serverapp = "fedcore_app.coordinator:app"
clientapp = "fedcore_app.participant:app"

[tool.flwr.app.config]
job = ""
federation = ""
run-dir = ""
resume = false
"""

_MODULE = '''"""{role}: the app that is installed here."""
from {module} import {name} as app
__all__ = ["app"]
'''

COORDINATOR = "fedcore.engines.server_app:app"
PARTICIPANT = "fedcore.participant.app:app"


def write_app(folder: Path, coordinator: str = COORDINATOR, participant: str = PARTICIPANT) -> Path:
    """Write the app; the same content each time, so that Flower gives it the same hash.

    Args:
        folder: Where; its last part must not begin with a dot, which Flower would skip.
        coordinator: The ServerApp, `module:name`.
        participant: The ClientApp, `module:name`.

    Returns:
        The folder.
    """
    from fedcore import __version__

    package = folder / "fedcore_app"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text('"""Nothing of its own."""\n')
    for role, reference in (("coordinator", coordinator), ("participant", participant)):
        module, _, name = reference.partition(":")
        text = _MODULE.format(role=role.capitalize(), module=module, name=name)
        (package / f"{role}.py").write_text(text)
    (folder / "pyproject.toml").write_text(_PROJECT.format(version=__version__))
    return folder


def write_run_config(path: Path, *, job: Path, federation: Path, run_dir: Path, resume: bool) -> Path:
    """Write the run's settings as the TOML file that `flwr run --run-config` takes.

    Args:
        path: The file to write; ends in `.toml`.
        job, federation, run_dir: Absolute paths, read by the coordinator only.
        resume: Go on from the last completed round.
    """
    settings = {"job": str(job), "federation": str(federation), "run-dir": str(run_dir), "resume": resume}
    # A JSON string is a TOML basic string, and so is a JSON boolean.
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    return path
