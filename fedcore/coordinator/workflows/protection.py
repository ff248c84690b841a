"""Which grid a train job's protection asks for, and what is refused before round 1."""

from __future__ import annotations

from flwr.serverapp import strategy as flower

from crypto.secagg.graph import Assumptions, NoParameters, parameters
from fedcore.coordinator.grids.cohort import CohortGrid
from fedcore.coordinator.grids.evidence import EvidenceGrid
from fedcore.coordinator.grids.secure import PATIENCE, SecureAggregationGrid
from fedcore.coordinator.prepare import Agreement
from fedcore.coordinator.workflows.settings import Settings
from fedcore.errors import JobError
from fedcore.jobs.job import TrainJob
from fedcore.trust.signing import authenticator
from strategies.registry import Entry, names, resolve

CONTROL = "query.secure"
"""Type of the protocol's own messages."""


def check_summable(job: TrainJob, entry: Entry) -> None:
    """Refuse a strategy that a sum does not serve, where the job asks for secure aggregation.

    Raises:
        JobError: It needs each participant's update, or nobody has said that it does not.
    """
    if not job.protection.on or entry.summable:
        return
    if entry.summable is False:
        good = ", ".join(name for name in names() if resolve(name).summable)
        raise JobError(
            f"strategy {entry.name} needs the update of each participant, and under protection.secure_aggregation the "
            f"coordinator learns their weighted mean only; use one of {good}, or leave the protection out"
        )
    if not _replaces(entry.server):
        return
    raise JobError(
        f"strategy {entry.name} replaces aggregate_train or aggregate_evaluate and does not say whether the weighted "
        "mean of the replies is all it needs. If it is, declare it in the class: `summable = True` "
        "(`fedcore.testing.check_strategy` tests whether that is so); if it is not, it cannot work under "
        "protection.secure_aggregation"
    )


def secure_grid(
    job: TrainJob, cohort: CohortGrid, evidence: EvidenceGrid, agreement: Agreement, settings: Settings
) -> SecureAggregationGrid:
    """The grid under which the strategy gets the mean only.

    Args:
        job: Asks for it.
        cohort: The grid below.
        evidence: Told whose message could not be used.
        agreement: Who takes part, with how many rows.
        settings: Of the run.

    Raises:
        JobError: The cohort is too small for what is assumed of it.
    """
    asked = job.protection.secure_aggregation
    assumptions = Assumptions(
        corrupt=asked.corrupt,
        dropout=asked.dropout,
        adversary=asked.adversary,
        least_cohort=asked.least_cohort,
        enrolled=max(settings.expected, len(agreement.members)),
    )
    try:
        parameters(len(agreement.members), assumptions)
    except NoParameters as error:
        raise JobError(
            f"protection.secure_aggregation: {error}. Nothing was trained",
            party="coordinator",
            step="prepare",
        ) from error
    return SecureAggregationGrid(
        cohort,
        assumptions,
        clip=asked.clip,
        bits=asked.bits,
        largest_weight=max(site["rows"] for site in agreement.sites.values()),
        name_of=lambda node: agreement.members.get(node, f"node {node}"),
        authenticator=authenticator(None, settings.keys) if settings.engine == "deployment" else None,
        control=CONTROL,
        patience=min(job.deadline, PATIENCE),
        refused=evidence.refuse,
    )


def _replaces(server: type[flower.Strategy]) -> bool:
    """Whether a class does more with replies than a base that is known to need their mean only."""
    good = [base for base in server.__mro__ if base is not server and _known(base)]
    if not good:
        return True
    # What stands before that base in the order of resolution may have changed it.
    return any(
        getattr(server, name) is not getattr(good[0], name)
        for name in ("aggregate_train", "aggregate_evaluate")
    )


def _known(base: type) -> bool:
    """Whether a base class is a strategy that is known to need the mean only."""
    return isinstance(base, type) and issubclass(base, flower.Strategy) and resolve(base).summable is True
