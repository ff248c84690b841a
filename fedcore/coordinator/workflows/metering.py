"""Whether and how a train job's work is metered."""

from __future__ import annotations

from fedcore.coordinator.grids.evidence import EvidenceGrid
from fedcore.coordinator.grids.metering import MeteringGrid
from fedcore.coordinator.workflows.settings import Settings
from fedcore.jobs.job import TrainJob
from fedcore.network.usage_log import FILE, UsageLog
from fedcore.trust.identity import Identity, load_identity

COORDINATOR = "coordinator"


def metering_grid(job: TrainJob, evidence: EvidenceGrid, settings: Settings) -> MeteringGrid | None:
    """The grid that writes usage records; None in a study over virtual participants, whom nobody pays.

    Where engines have keys, participants must sign with the pinned ones.

    Args:
        job: Whose work it is.
        evidence: The grid below.
        settings: Of the run.

    Raises:
        DataError: The run is resumed, and its records were changed.
    """
    if not settings.digest:
        return None
    return MeteringGrid(
        evidence,
        UsageLog(settings.folder / "evidence" / FILE),
        run=settings.run,
        job=job.name,
        pins=settings.keys,
        signed=settings.engine == "deployment",
        identity=lambda: _identity(settings),
    )


def _identity(settings: Settings) -> Identity | None:
    """The coordinator's key; on one machine only where another part of the run needed one."""
    path = settings.identity or settings.folder / f"{COORDINATOR}.key"
    return load_identity(path, COORDINATOR) if path.exists() else None
