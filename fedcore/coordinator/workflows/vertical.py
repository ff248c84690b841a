"""The vertical job: ask all parties whether they would, then have them do it step by step; collect sizes and receipts.

The coordinator sees what `fedcore.participant.vertical` answers and nothing else: the parties talk to each other directly,
or through a relay that sees ciphertext. Finished steps stand in the run folder, so that a run that stopped goes on with
the first step that is not finished at all parties.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedcore.coordinator.checkpoint import write_json
from fedcore.coordinator.grids.evidence import OF_PARTIES, EvidenceGrid
from fedcore.coordinator.grids.pair import PairGrid
from fedcore.coordinator.workflows.parties import (
    OFFER,
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
from fedcore.jobs.request import STEP, PairMeeting, vertical_request_for
from fedcore.jobs.vertical import VerticalJob
from fedcore.vertical.steps import pairs_of, steps_of

STEPS = "steps.json"
"""In the run folder: the steps that all parties finished, in their order."""
_SIZES = ("rows", "items")
_RECEIPT: dict[str, type] = {
    **dict.fromkeys(("fedcore", "folder", "role", "step", "commitment"), str),
    **dict.fromkeys((*_SIZES, "peak_memory_bytes"), int),
    "bytes": dict,
    "seconds": float,
}


@dataclass
class VerticalOutcome:
    """How a vertical job ended.

    Args:
        offers: Per party what it said before: version, layers, finished steps.
        how: `memory`, `direct` or `relay`, per pair of parties (`bank-a and telecom-b`).
        steps: Of each: `step`, `seconds`, `receipts` per party.
    """

    offers: dict[str, dict[str, Any]]
    how: dict[str, str] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)


def run_vertical(job: VerticalJob, grid: Grid, settings: Settings) -> VerticalOutcome:
    """Run a vertical job on a grid.

    Args:
        job: What to do.
        grid: Any engine's; it works on the messages to all parties at a time.
        settings: Where and for whom.

    Raises:
        FedcoreError: A party refuses or is not there (step `prepare`; nothing was read), or a step failed; party and step
            are named. The steps before it are kept.
    """
    steps = steps_of(job)
    names: dict[int, str] = dict(settings.registered or {})
    nodes = nodes_of(job.parties, job.deadline, grid, settings)
    offers, _ = offers_of(
        job.parties,
        vertical_request_for(job, settings.run).to_json(),
        job.deadline,
        recorded(grid, names, settings),
        nodes,
        names,
        settings,
        {**OFFER, "finished": dict},
    )
    outcome = VerticalOutcome(offers, steps=_finished(settings, steps, offers))
    asking = recorded(PairGrid(grid), names, settings)
    wanted = [node for node, name in names.items() if name in job.parties]
    for step in steps[len(outcome.steps) :]:
        meetings = _arrange(job, offers, settings)
        outcome.how = {f"{each.between[0]} and {each.between[1]}": each.how for each in meetings}
        outcome.steps.append(_step(job, asking, names, wanted, step, meetings, settings))
        write_json(settings.folder / STEPS, outcome.steps)
    return outcome


def finished_steps(folder: Path) -> list[dict[str, Any]]:
    """The steps that stand in a run folder; none where the file cannot be read."""
    try:
        found = json.loads((folder / STEPS).read_text())
    except (OSError, ValueError):
        return []
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _finished(
    settings: Settings, steps: tuple[str, ...], offers: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The steps of before that every party still has, in the same attempt."""
    kept: list[dict[str, Any]] = []
    if not settings.resume:
        return kept
    for step, known in zip(steps, finished_steps(settings.folder), strict=False):
        receipts = known.get("receipts") or {}
        if known.get("step") != step or any(
            offer["finished"].get(step) != receipts.get(name, {}).get("commitment")
            for name, offer in offers.items()
        ):
            break
        kept.append(known)
    return kept


def _arrange(
    job: VerticalJob, offers: Mapping[str, Mapping[str, Any]], settings: Settings
) -> tuple[PairMeeting, ...]:
    """Where each pair meets in the next step.

    Raises:
        IdentityError: A party's key is not the one that the federation pins.
        JobError: Neither of two can be reached, and there is no relay.
    """
    return tuple(
        PairMeeting(**meeting_of({name: offers[name] for name in pair}, settings).model_dump(), between=pair)
        for pair in pairs_of(job)
    )


def _step(
    job: VerticalJob,
    grid: EvidenceGrid,
    names: Mapping[int, str],
    nodes: list[int],
    step: str,
    meetings: tuple[PairMeeting, ...],
    settings: Settings,
) -> dict[str, Any]:
    """One step: the parties' receipts, seconds and bytes with the coordinator.

    Raises:
        FedcoreError: As the party that failed told it; PeerLost for one that vanished.
    """
    phase = grid.begin(OF_PARTIES + step, 0)
    text = vertical_request_for(job, settings.run, step, meetings).to_json()
    messages = messages_for(text, nodes, STEP, job.deadline)
    receipts, failures = receipts_of(
        grid, messages, job.deadline, names, lambda reply: _receipt(reply, step), "a step"
    )
    if failures:
        raise cause(failures, receipts, step, again="go on with the run when it is back")
    return {
        "step": step,
        "seconds": phase.seconds,
        "bytes": {way: phase.total(way) for way in ("down", "up")},
        "receipts": {name: receipts[name] for name in job.parties},
    }


def _receipt(reply: Message, step: str) -> dict[str, Any] | None:
    """A party's receipt; None when it is none. Nothing is kept that is not looked at here."""
    told = about(reply, _RECEIPT, ["matched"])
    if told is None or told["step"] != step or any(told[size] < 0 for size in _SIZES):
        return None
    told["bytes"] = {way: int(number(told["bytes"].get(way))) for way in ("sent", "received")}
    told["seconds"] = number(told["seconds"])
    matched = told.pop("matched", None)
    if isinstance(matched, int) and not isinstance(matched, bool):
        told["matched"] = matched
    return told
