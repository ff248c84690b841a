"""A participant's SuperNode as two processes to keep alive: the node, and the helper that starts its ClientApps."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from fedcore.engines.cores import usable_cores
from fedcore.engines.installed import host_command, write_commands
from fedcore.engines.plan import Folders, Site, superexec_command, supernode_command
from fedcore.engines.processes import child_environment, free_port
from fedcore.engines.supervisor import Unit

ACCEPTED = "SuperNode ID"
"""What a SuperNode logs once the SuperLink has let it in, with its number."""


def supernode_units(
    site: Site, folders: Folders, mark: str, superlink: str, authority: Path, after: Unit | None
) -> tuple[Unit, Unit]:
    """The SuperNode of a site and the process that starts its ClientApps.

    Args:
        site: The participant.
        folders: Where logs, secrets and commands go.
        mark: See `fedcore.engines.processes.MARK`.
        superlink: `host:port`.
        authority: The CA certificate that vouches for it.
        after: Start only when that is ready.
    """
    port = 0
    secret = folders.secret(site.name)
    home = folders.home(site.name)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    environment = child_environment(mark, FLWR_HOME=str(home))
    commands = write_commands(folders.root / "commands")
    log = folders.log(f"supernode {site.name}")

    def node_command() -> list[str]:
        # A fresh port each time: the old one may have found another user.
        nonlocal port
        port = free_port()
        return supernode_command(site, superlink, authority, port, secret)

    node = Unit(
        f"supernode {site.name}",
        node_command,
        environment,
        log,
        site.file.parent,
        health=lambda: f"http://127.0.0.1:{port}/health",
        after=after,
        on_end=lambda: release(site, log, superlink, authority),
    )
    helper = Unit(
        f"superexec {site.name}",
        lambda: superexec_command(f"127.0.0.1:{port}", secret, None),
        {**environment, "PATH": f"{commands}{os.pathsep}{environment['PATH']}"},
        folders.log(f"superexec {site.name}"),
        site.file.parent,
        after=node,
        # A SuperNode that is refused answers for a moment before it ends; its helper would start in vain.
        settle=0.8,
        falls_with=node,
    )
    return node, helper


def host_unit(folders: Folders, mark: str, folder: Path, sites: int = 1) -> Unit:
    """The process from which the ClientApps of all sites of this machine are forked.

    Args:
        folders: Where its socket and log go.
        mark: See `fedcore.engines.processes.MARK`.
        folder: Its working folder.
        sites: That share the machine: each gets its part of the cores, since threads of all on all cores wait for
            each other most of the time. Who sets OMP_NUM_THREADS has chosen.
    """
    commands = write_commands(folders.root / "commands")
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // max(1, sites)))
    environment = child_environment(mark, FLWR_HOME=str(folders.root / "nodes"), OMP_NUM_THREADS=threads)
    return Unit("clientapps", lambda: host_command(commands), environment, folders.log("clientapps"), folder)


def release(site: Site, log: Path, superlink: str, authority: Path) -> bool:
    """Tell the SuperLink that the site's last SuperNode is gone, if it was killed before it could say so.

    Without this the next one is refused for up to a minute, and messages wait for the dead one.
    """
    from fedcore.flower import release_node

    with contextlib.suppress(OSError):
        numbers = re.findall(rf"{ACCEPTED}: (\d+)".encode(), log.read_bytes())
        return bool(numbers) and release_node(
            superlink, authority.read_bytes(), site.identity.private_key, int(numbers[-1])
        )
    return False
