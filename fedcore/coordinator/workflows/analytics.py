"""The analytics job: who has the data set, what the sites have in common, and each question in rounds of sums.

    prepare    columns, levels and least cells of the sites          what a question is built from
    questions  one after the other (`fedcore.coordinator.workflows.questions`)

A question that cannot be asked or answered has no answer, and says why; the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.serverapp import Grid

from fedcore.coordinator.answered import Answered
from fedcore.coordinator.answering import (
    Meeting,
    agreed_by,
    replies_of,
    told_of,
)
from fedcore.coordinator.grids.cohort import CohortGrid
from fedcore.coordinator.grids.evidence import EvidenceGrid, Lost, Phase
from fedcore.coordinator.prepare import wait_for_nodes
from fedcore.coordinator.workflows.questions import Desk
from fedcore.coordinator.workflows.settings import GRACE, Settings
from fedcore.errors import JobError, PeerLost, PolicyRefused
from fedcore.jobs.analytics import AnalyticsJob
from fedcore.jobs.request import AnalyticsRequest, analytics_request_for

log = logging.getLogger("fedcore.coordinator")


@dataclass
class AnalyticsOutcome:
    """How the questions ended.

    Args:
        meeting: Who has the data set, and what they have in common.
        answers: By name, in the order of the job.
    """

    meeting: Meeting
    answers: dict[str, Answered]


def run_analytics(job: AnalyticsJob, grid: Grid, settings: Settings) -> AnalyticsOutcome:
    """Run an analytics job on a grid.

    Args:
        job: What to ask.
        grid: Any engine's.
        settings: Where and for whom.

    Raises:
        FedcoreError: Too few have the data set and agree (step `prepare`), or no question has an answer: the first error.
    """
    names: dict[int, str] = dict(settings.registered or {})
    evidence = EvidenceGrid(
        grid,
        lambda node: names.get(node, f"node {node}"),
        settings.folder / "evidence" / "coordinator.jsonl",
        settings.digest,
        settings.watcher,
    )
    nodes = wait_for_nodes(grid, settings.expected, job.participants.min, min(job.deadline, GRACE))
    wanted = min(len(nodes), len(job.participants.names or nodes))
    request = analytics_request_for(job, settings.run, wanted)
    meeting = _prepare(job, request, evidence, nodes, names, settings)
    request = request.model_copy(update={"cohort": len(meeting.members)})
    cohort = CohortGrid(evidence, meeting.members, job.participants.min, job.deadline)
    desk = Desk(job, request, cohort, evidence, meeting, settings)
    answers = {name: desk.ask(name) for name in job.ask}
    errors = [each.error for each in answers.values() if each.error is not None]
    if errors and len(errors) == len(answers):
        raise errors[0]
    return AnalyticsOutcome(meeting, answers)


def _prepare(
    job: AnalyticsJob,
    request: AnalyticsRequest,
    evidence: EvidenceGrid,
    nodes: Sequence[int],
    names: dict[int, str],
    settings: Settings,
) -> Meeting:
    """Who has the data set.

    Raises:
        PolicyRefused, PeerLost, DataError: Too few.
    """
    phase = evidence.begin("prepare", 0)
    told = replies_of(evidence, request, nodes, "query.prepare", job.deadline)
    members, sites = {}, {}
    for node, about in told.items():
        name = str(about.get("name"))
        owner = name if settings.registered is None else settings.registered.get(node)
        if owner != name:
            phase.lost.append(
                Lost(
                    owner or f"node {node}",
                    "prepare",
                    "IdentityError",
                    f"it answers as {name!r}, with another's key",
                )
            )
        elif name in sites:
            raise JobError(f"two nodes say they are participant {name!r}; each needs a name of its own")
        elif job.participants.names is None or name in job.participants.names:
            members[node], sites[name], names[node] = name, about, name
    _enough(job, sites, phase)
    members = dict(sorted(members.items(), key=lambda item: item[1]))
    return agreed_by(job, {name: sites[name] for name in sorted(sites)}, members, phase)


def _enough(job: AnalyticsJob, sites: Mapping[str, Any], phase: Phase) -> None:
    asked = job.participants.names
    missing = [name for name in asked or () if name not in sites]
    protection = job.sums
    least = max(job.participants.min, protection.least_cohort if job.protection.on else 1)
    if not missing and len(sites) >= least:
        return
    why = (
        f"participants.names asks for {', '.join(missing)}"
        if missing
        else f"{len(sites)} of at least {least} participants take part"
    )
    told = told_of(phase.lost) or "nobody else answered"
    refused = any(one.kind == "PolicyRefused" for one in phase.lost)
    raise (PolicyRefused if refused else PeerLost)(
        f"nothing can be asked: {why}. {told}", party="coordinator", step="prepare"
    )
