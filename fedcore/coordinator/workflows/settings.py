"""Where and for whom a job runs: what an engine tells the coordinator, whatever the kind of job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedcore.coordinator.grids.hierarchy import Aggregators
from fedcore.coordinator.watch import RunWatcher
from fedcore.jobs.federation import ComputeNetwork
from fedcore.jobs.participant import Participant

GRACE = 60.0
"""Seconds to wait for participants to be online before the work begins."""


@dataclass(frozen=True)
class RelayAt:
    """A relay.

    Args:
        address: `host:port` as participants reach it.
        public_key: Its public key line.
    """

    address: str
    public_key: str


@dataclass(frozen=True)
class Settings:
    """Where and for whom a job runs.

    Args:
        run: The run's id.
        folder: The run folder.
        engine: For the result.
        expected: How many participants the federation has.
        watcher: Told what happens.
        stream: The engine gives replies as they come, so that a summable strategy needs one model of memory.
        digest: Record a SHA-256 of each update.
        participants: The participants themselves, where one machine has them all (the pooled baseline).
        resume: Go on from the last checkpoint.
        registered: Node number to the participant whose pinned key it has; None where nodes have no keys.
        keys: Participants' public key lines by name, as the federation pins them; empty where there are none.
        relay: Where parties meet that cannot reach each other.
        network: The compute network of jobs with a placement.
        identity: The coordinator's private key file; a fresh key is made for the run when None.
        aggregators: How aggregators of other machines are reached; regions are added up here when None.
    """

    run: str
    folder: Path
    engine: str
    expected: int
    watcher: RunWatcher
    stream: bool = False
    digest: bool = True
    participants: Sequence[Participant] = ()
    resume: bool = False
    registered: Mapping[int, str] | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    relay: RelayAt | None = None
    network: ComputeNetwork | None = None
    identity: Path | None = None
    aggregators: Aggregators | None = None
