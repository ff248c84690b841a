"""The grid under which only exact sums over participants are learned, for whatever is summed."""

from __future__ import annotations

from collections.abc import Mapping

from crypto.rlwe.committee import committee
from crypto.secagg.graph import Assumptions, NoParameters, parameters
from fedcore.coordinator.grids.evidence import EvidenceGrid
from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.secure import PATIENCE, SecureAggregationGrid
from fedcore.coordinator.workflows.settings import Settings
from fedcore.errors import JobError
from fedcore.jobs.secure import SecureAggregation, SumProtocol
from fedcore.trust.signing import authenticator

CONTROL = "query.secure"
"""Type of the protocol's own messages."""


def sums_grid(
    asked: SecureAggregation,
    cohort: Layer,
    evidence: EvidenceGrid,
    members: Mapping[int, str],
    deadline: float,
    settings: Settings,
    *,
    largest_weight: int = 1,
    protocol: SumProtocol | None = None,
    steps: bool = False,
) -> SecureAggregationGrid:
    """The grid.

    Args:
        asked: The job's protection.
        cohort: The grid below.
        evidence: Told whose message could not be used.
        members: Who takes part, by node.
        deadline: Of the job, seconds.
        settings: Of the run.
        largest_weight: Examples that one participant can have.
        protocol: In place of the job's.
        steps: Whether updates are whole numbers of steps, summed exactly.

    Raises:
        JobError: The cohort is too small for what is assumed of it.
    """
    if asked.protocol == "none":
        raise ValueError("the job asks for no secure aggregation")
    chosen = protocol or asked.protocol
    assumptions = Assumptions(
        corrupt=asked.corrupt,
        dropout=asked.dropout,
        adversary=asked.adversary,
        least_cohort=asked.least_cohort,
        enrolled=max(settings.expected, len(members)),
    )
    rules = parameters if chosen == "secagg+" else committee
    try:
        rules(len(members), assumptions)
    except NoParameters as error:
        raise JobError(
            f"protection.secure_aggregation: {error}. Nothing was trained or computed",
            party="coordinator",
            step="prepare",
        ) from error
    return SecureAggregationGrid(
        cohort,
        assumptions,
        protocol=chosen,
        clip=asked.clip,
        bits=asked.bits,
        key_bits=asked.key_bits,
        cipher=asked.cipher,
        largest_weight=largest_weight,
        name_of=lambda node: members.get(node, f"node {node}"),
        authenticator=authenticator(None, settings.keys) if settings.engine == "deployment" else None,
        control=CONTROL,
        patience=min(deadline, PATIENCE),
        refused=evidence.refuse,
        stage=settings.watcher.stage_started,
        steps=steps,
    )
