"""What a SuperNode runs for a message: the ClientApp that is installed at the site, whatever the bundle holds.

Flower's `flower-superexec` starts `flwr-clientapp` and its like by name. A site's own folder of commands stands
first on the PATH of its processes: there `flwr-clientapp` is this module, and every other kind of task that a
coordinator could ask for is refused.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedcore.engines.warm import client_command, host
from fedcore.jobs.request import SERVE

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

APP = "FEDCORE_CLIENT_APP"
"""Environment variable of the site: another ClientApp of the site's choice, `module:name`. For tests."""

_DEFAULT = "fedcore.participant.app:app"
# What a message may need, torch included; the app itself imports it only when a message does.
_PACKAGES = ("fedcore.participant", "fedcore.learning", "strategies")
_REFUSED = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")


def write_commands(folder: Path) -> Path:
    """Write the commands that a SuperNode's helper finds first.

    Args:
        folder: Where; made when absent.

    Returns:
        The folder, for the front of the PATH.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    cold = f'exec {shlex.join(host_command(folder)[:3])} "$@"'
    _script(folder / "flwr-clientapp", f"{client_command(folder)} || {cold}")
    for name in _REFUSED:
        _script(
            folder / name,
            f"echo '{name}: this site runs the ClientApp that is installed here only' >&2; exit 1",
        )
    return folder


def host_command(folder: Path) -> list[str]:
    """The process that holds everything imported for the ClientApps of this machine's sites."""
    return [sys.executable, "-m", "fedcore.engines.installed", "--host", str(folder)]


def _script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o700)


def _load() -> ClientApp:
    module, _, name = os.environ.get(APP, _DEFAULT).partition(":")
    app: ClientApp = getattr(importlib.import_module(module), name)
    return app


def _serve() -> None:
    if sys.argv[1:2] == [SERVE]:
        from fedcore.participant.app import resolve
        from fedcore.participant.session import serve

        serve(_load, resolve)
        return
    from fedcore.flower import serve_installed_client_app

    serve_installed_client_app(_load)


def main() -> None:
    """Be `flwr-clientapp`, or with `--host FOLDER` what such processes and those of sessions are forked from."""
    if sys.argv[1:2] == [SERVE]:
        # Only the host's forks are ended with the site; the coordinator sends plain messages meanwhile.
        print("the host of this site's ClientApps does not answer; its log says why")
        return
    if sys.argv[1:2] != ["--host"]:
        _serve()
        return
    host(Path(sys.argv[2]), _prepare, _serve)


def _prepare() -> None:
    """Import here what no fork should have to."""
    import flwr.supernode.cli  # noqa: F401

    _load()
    for package in map(importlib.import_module, _PACKAGES):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            # A part whose optional dependency is not installed is no use to a fork either.
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    import torch

    # The first optimizer of a process imports another second's worth of torch.
    torch.optim.SGD([torch.zeros(1)])


if __name__ == "__main__":
    main()
