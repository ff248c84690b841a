"""Which grid a train job's protection asks for, and what is refused before round 1."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import strategy as flower

from fedcore.coordinator.grids.evidence import EvidenceGrid
from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.coordinator.prepare import COUNTS, Agreement, Moments
from fedcore.coordinator.workflows.private import check_strategy, losses
from fedcore.coordinator.workflows.settings import Settings
from fedcore.coordinator.workflows.sums import sums_grid
from fedcore.errors import JobError, ProtocolFailed
from fedcore.flower import NDArray
from fedcore.jobs.job import TrainJob
from fedcore.jobs.request import TOTALS
from fedcore.jobs.secure import SumProtocol
from fedcore.participant.mods.protocols.base import needs
from strategies.registry import Entry, names, resolve

log = logging.getLogger("fedcore.coordinator")

MANY_PAILLIER = 50_000
MOST_PAILLIER = 1_000_000
"""Values of a model under Paillier's encryption."""
ENCRYPTING, OPENING = 4e-5, 3.4e-4
"""Seconds a value, with 3072 bits and words of 32, on one core of a server of 2024."""


def check_summable(job: TrainJob, entry: Entry) -> None:
    """Refuse a strategy that a sum does not serve, where the job asks for secure aggregation, and one without its package.

    Raises:
        JobError: It needs each participant's update, or nobody has said that it does not; or what the protocol needs is
            not installed.
    """
    if job.protection.of_record is not None and entry.name == "qfedavg":
        raise JobError(
            "strategy qfedavg weighs updates by their loss, which would leave a site without noise; under "
            "protection.differential_privacy use another strategy",
            party="coordinator",
            step="prepare",
        )
    private = job.protection.of_client is not None
    if not job.protection.on and not private:
        return
    missing = needs(job.protection.secure_aggregation.protocol) if job.protection.on else None
    if missing is not None:
        raise JobError(f"protection.secure_aggregation: {missing}", party="coordinator", step="prepare")
    if private:
        check_strategy(job, entry)
        return
    if entry.summable:
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
    job: TrainJob,
    cohort: Layer,
    evidence: EvidenceGrid,
    agreement: Agreement,
    settings: Settings,
    protocol: SumProtocol | None = None,
) -> SecureAggregationGrid:
    """The grid under which the strategy gets the mean only.

    Args:
        job: Asks for it.
        cohort: The grid below.
        evidence: Told whose message could not be used.
        agreement: Who takes part, with how many rows.
        settings: Of the run.
        protocol: In place of the job's.

    Raises:
        JobError: The cohort is too small for what is assumed of it.
    """
    asked = job.protection.secure_aggregation
    private = job.protection.of_client is not None
    # A smaller sum would have less noise than was promised.
    present = losses(job, len(agreement.members))[1] if private else 0
    return sums_grid(
        asked.model_copy(update={"least_cohort": max(asked.least_cohort, present)}),
        cohort,
        evidence,
        agreement.members,
        job.deadline,
        settings,
        largest_weight=agreement.most_examples,
        protocol=protocol,
        steps=private,
    )


def add_totals(
    job: TrainJob,
    cohort: Layer,
    evidence: EvidenceGrid,
    agreement: Agreement,
    settings: Settings,
    top: SecureAggregationGrid,
) -> dict[str, Any]:
    """Have the numbers of rows summed, and the moments of `standardize: federated`, so that nobody tells its own.

    Args:
        job, cohort, evidence, agreement, settings: As for `secure_grid`; the agreement gets what comes out.
        top: The run's own grid, which serves if its protocol makes exact sums.

    Returns:
        What the exchange was, for the result.

    Raises:
        ProtocolFailed: Too few were left for a sum.
    """
    grid = top
    if top.agreed.protocol != "secagg+":
        grid = secure_grid(job, cohort, evidence, agreement, settings, "secagg+")
    evidence.begin("totals", 0)
    messages = [Message(RecordDict({}), node, TOTALS) for node in agreement.members]
    sums = grid.sums(messages, job.deadline)
    told = grid.account.as_dict()
    if sums is None:
        raise ProtocolFailed(
            f"the numbers of rows could not be summed: {grid.account.failed}. Nothing was trained",
            party="coordinator",
            step="prepare",
        )
    agreement.totals = {name: int(sums[name]) for name in COUNTS}
    if "sums" in sums and not agreement.schema.mean:
        moments = Moments(agreement.totals["train_rows"], sums["sums"].tolist(), sums["squares"].tolist())
        mean, scale = moments.scaling()
        agreement.schema = replace(agreement.schema, mean=mean, scale=scale)
    return told


def check_size(job: TrainJob, arrays: Mapping[str, NDArray]) -> None:
    """Refuse a model that Paillier's encryption would take hours for, and warn of one that takes minutes.

    Args:
        job: Whose protection.
        arrays: Of the model.

    Raises:
        JobError: It has more than `MOST_PAILLIER` values.
    """
    asked, count = job.protection.secure_aggregation, sum(each.size for each in arrays.values())
    if asked.protocol != "paillier" or count <= MANY_PAILLIER:
        return
    # Slots are of the bits of a word, one less for the sum of the weights; the work grows with the square of the key.
    sent = count / (asked.key_bits // asked.bits - 1) * asked.key_bits / 4
    work = (asked.key_bits / 3072) ** 2 * count * asked.bits / 32
    told = (
        f"paillier over {count:,} values sends {sent / 1e6:.0f} MB from each site in a round, and takes about "
        f"{work * ENCRYPTING:.0f} s to encrypt at each and {work * OPENING:.0f} s to open the sum"
    )
    if count > MOST_PAILLIER:
        raise JobError(
            f"protection.secure_aggregation: {told}; it is for statistics and short vectors, at most {MOST_PAILLIER:,} "
            "values. Use secagg+, threshold or ckks. Nothing was trained",
            party="coordinator",
            step="prepare",
        )
    log.warning("%s; secagg+, threshold and ckks take less than a second", told)


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
