"""One site on its own machine: its SuperNode, kept running until somebody ends it.

The SuperNode only calls out, to the coordinator's one port; nothing of the site listens beyond loopback.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedcore.engines.node import ACCEPTED, host_unit, release, supernode_units
from fedcore.engines.plan import Folders, Site, coordinator_pin, load_site
from fedcore.engines.processes import folder_mark, new_mark, sweep, tail
from fedcore.engines.state import owner
from fedcore.engines.supervisor import Supervisor, Unit
from fedcore.errors import EngineError, IdentityError, JobError
from fedcore.jobs.federation import Federation, Roster
from fedcore.jobs.load import load_participant, load_roster
from fedcore.trust.certificates import check_pinned

_TICK = 0.2


@dataclass(frozen=True)
class SitePlan:
    """A site that is ready to be started.

    Args:
        site: The participant with its key.
        superlink: `host:port` of the coordinator.
        authority: The CA certificate that vouches for it.
        pinned: Whether that certificate's key is the one that a roster pins.
    """

    site: Site
    superlink: str
    authority: Path
    pinned: bool

    @property
    def folders(self) -> Folders:
        """Where logs and secrets go."""
        state = self.site.participant.state or self.site.file.parent / ".fedcore" / self.site.name
        return Folders(state / "supernode")


def plan_site(
    file: Path, federation: tuple[Path, Federation] | None, coordinator: str | None, authority: Path | None
) -> SitePlan:
    """Check everything that can be checked before a process starts.

    Args:
        file: Participant file.
        federation: The federation file and what it says (its paths absolute), if there is one.
        coordinator: `host:port`; the federation's when absent.
        authority: The coordinator's `ca.crt`; where a federation of this machine keeps it when absent.

    Raises:
        JobError: The file is wrong, or nobody says where the coordinator is.
        IdentityError: A key or certificate is missing, unsafe, or not the one that the roster pins.
    """
    participant = load_participant(file)
    roster: Roster | None = None
    if federation is not None:
        where, spec = federation
        coordinator = coordinator or spec.coordinator.address
        authority = authority or where.parent / ".fedcore" / spec.name / "tls" / "ca.crt"
        roster = load_roster(spec.roster) if spec.roster is not None else None
    if coordinator is None or authority is None:
        raise JobError(
            "nobody says where the coordinator is; allowed: --federation FED.yaml, or both --coordinator HOST:PORT "
            "and --ca ca.crt"
        )
    site = load_site(participant, file.resolve(), roster)
    return SitePlan(site, coordinator, authority.resolve(), _check_authority(authority, roster))


def _check_authority(authority: Path, roster: Roster | None) -> bool:
    """Whether the certificate is pinned; raises when it should be and is not."""
    try:
        content = authority.read_bytes()
    except OSError as exc:
        raise IdentityError(
            f"the coordinator's certificate {authority} cannot be read: {exc.strerror}; allowed: the ca.crt that "
            f"`fedcore federation up` wrote at the coordinator. Cure: ask for it, and give it with --ca FILE"
        ) from exc
    if roster is None:
        return False
    pinned = coordinator_pin(roster)
    if pinned is None:
        raise IdentityError(
            "the roster pins no coordinator, so the coordinator's certificate cannot be checked; allowed: one "
            "member with role: coordinator. Cure: add the line of the coordinator's key to the roster"
        )
    check_pinned(content, pinned)
    return True


def run_site(plan: SitePlan, report: Callable[[str, str], None]) -> None:
    """Keep a site's SuperNode running until SIGINT or SIGTERM.

    A SuperNode that ends is started again with back-off, for ever: the coordinator may be down for the night.

    Args:
        plan: What to start.
        report: Told each change: `starting`, `connecting`, `online`, `refused` or `stopped`, and why.

    Raises:
        EngineError: The same site runs already.
    """
    folders = plan.folders
    with owner(folders) as mine:
        if not mine:
            raise EngineError(
                f"{plan.site.name} runs already on this machine (its lock {folders.lock} is held); allowed: once. "
                f"Cure: end the other `fedcore participant start`",
                party=plan.site.name,
            )
        told: list[int] = []
        before = {
            number: signal.signal(number, lambda number, _frame: told.append(number))
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        sweep(folder_mark(folders.root), folders.root)
        mark = new_mark(folders.root)
        node, helper = supernode_units(plan.site, folders, mark, plan.superlink, plan.authority, None)
        # A power cut leaves the SuperLink believing in a SuperNode that is no more.
        release(plan.site, node.log, plan.superlink, plan.authority)
        supervisor = Supervisor()
        supervisor.add(node, helper, host_unit(folders, mark, plan.site.file.parent))
        last = ("", "")
        try:
            while not told:
                supervisor.tick()
                now = _stand(node)
                if now != last:
                    report(*now)
                    last = now
                time.sleep(_TICK)
        finally:
            supervisor.shut_down()
            sweep(folder_mark(folders.root), folders.root)
            for number, handler in before.items():
                signal.signal(number, handler)
        report("stopped", "")


def _stand(node: Unit) -> tuple[str, str]:
    """How it stands with a SuperNode, and why."""
    if node.process is None:
        why = [line.strip() for line in tail(node.log).splitlines() if "[code" in line or "Error" in line]
        return "refused", (why or [f"see {node.log}"])[-1]
    if node.said(ACCEPTED):
        return "online", ""
    return ("connecting" if node.ready else "starting"), ""
