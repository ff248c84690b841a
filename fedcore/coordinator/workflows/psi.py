"""The psi job: ask both parties whether they would, arrange their meeting, wait, collect sizes and receipts.

The coordinator sees what `fedcore.participant.psi` answers and nothing else: the parties talk to each other directly,
or through a relay that sees ciphertext.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedcore.coordinator.grids.evidence import EvidenceGrid, Phase
from fedcore.coordinator.grids.pair import PairGrid
from fedcore.coordinator.workflows.parties import (
    about,
    cause,
    meeting_of,
    messages_for,
    nodes_of,
    number,
    offers_of,
    receipts_of,
    recorded,
)
from fedcore.coordinator.workflows.settings import Settings
from fedcore.errors import ProtocolFailed
from fedcore.jobs.psi import PsiJob
from fedcore.jobs.request import INTERSECT, Meeting, psi_request_for

_SIZES = ("rows", "items")
_MOST_PHASES = 32


@dataclass
class PsiOutcome:
    """How an intersection ended.

    Args:
        meeting: Where the parties met.
        offers: Per party what it said before: version, layers.
        receipts: Per party what it said at the end: sizes, costs, a commitment to its result.
        phases: The two exchanges with the coordinator.
    """

    meeting: Meeting
    offers: dict[str, dict[str, Any]]
    receipts: dict[str, dict[str, Any]]
    phases: tuple[Phase, Phase]


def run_psi(job: PsiJob, grid: Grid, settings: Settings) -> PsiOutcome:
    """Run a psi job on a grid.

    Args:
        job: What to do.
        grid: Any engine's; it works on the messages to both parties at a time.
        settings: Where and for whom.

    Raises:
        FedcoreError: A party refuses or is not there (step `prepare`; nothing was read), or the intersection failed;
            party and step are named.
    """
    names: dict[int, str] = dict(settings.registered or {})
    asking = recorded(grid, names, settings)
    nodes = nodes_of(job.parties, job.deadline, grid, settings)
    text = psi_request_for(job, settings.run, None).to_json()
    offers, first = offers_of(job.parties, text, job.deadline, asking, nodes, names, settings)
    meeting = _arrange(job, offers, settings)
    receipts, second = _intersect(job, recorded(PairGrid(grid), names, settings), names, meeting, settings)
    return PsiOutcome(meeting, offers, receipts, (first, second))


# ---- before the meeting ---------------------------------------------------------------------------------------------


def _arrange(job: PsiJob, offers: Mapping[str, Mapping[str, Any]], settings: Settings) -> Meeting:
    """Where the parties meet.

    Raises:
        IdentityError: A party's key is not the one that the federation pins.
        JobError: Neither can be reached, and there is no relay.
    """
    # The receiver first, so that the same job meets in the same way each time.
    order = sorted(offers, key=lambda name: name != job.reveal.receiver)
    return meeting_of({name: offers[name] for name in order}, settings)


# ---- the meeting ----------------------------------------------------------------------------------------------------


def _intersect(
    job: PsiJob, grid: EvidenceGrid, names: Mapping[int, str], meeting: Meeting, settings: Settings
) -> tuple[dict[str, dict[str, Any]], Phase]:
    """The parties' receipts.

    Raises:
        FedcoreError: As the party that failed told it; PeerLost for one that vanished.
    """
    phase = grid.begin("intersect", 0)
    text = psi_request_for(job, settings.run, meeting).to_json()
    nodes = [node for node, name in names.items() if name in job.parties]
    messages = messages_for(text, nodes, INTERSECT, job.deadline)
    receipts, failures = receipts_of(
        grid, messages, job.deadline, names, lambda reply: _receipt(reply, job), "an intersection"
    )
    for name, receipt in receipts.items():
        settings.watcher.progress(name, "done", receipt["rows"], receipt["rows"])
    if failures:
        raise cause(failures, receipts)
    counts = {name: receipt.get("intersection") for name, receipt in receipts.items()}
    if len({count for count in counts.values() if count is not None}) > 1:
        raise ProtocolFailed("the parties tell different counts; the result is not used", step="psi.check")
    return {name: receipts[name] for name in job.parties}, phase


_RECEIPT: dict[str, type] = {
    **dict.fromkeys(("fedcore", "folder", "role", "commitment"), str),
    **dict.fromkeys((*_SIZES, "peak_memory_bytes"), int),
    **dict.fromkeys(("protocol", "phases", "bytes"), dict),
    "compile_seconds": float,
}


def _receipt(reply: Message, job: PsiJob) -> dict[str, Any] | None:
    """A party's receipt; None when it is none. Nothing is kept that is not looked at here."""
    told = about(reply, _RECEIPT, ["intersection"])
    if told is None or any(told[size] < 0 for size in _SIZES):
        return None
    phases = told["phases"]
    if len(phases) > _MOST_PHASES or not all(isinstance(each, dict) for each in phases.values()):
        return None
    told["phases"] = {
        str(name): {key: number(each.get(key)) for key in ("seconds", "cpu_seconds")}
        for name, each in phases.items()
    }
    told["bytes"] = {way: int(number(told["bytes"].get(way))) for way in ("sent", "received")}
    allowed = ("name", "version", "parameters", "assumption")
    told["protocol"] = {key: str(told["protocol"].get(key, "")) for key in allowed}
    count = told.pop("intersection", None)
    if job.reveal.coordinator == "count" and isinstance(count, int) and not isinstance(count, bool):
        told["intersection"] = count
    return told
