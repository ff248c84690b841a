"""The train job: prepare, the grids that its job asks for, the rounds and the baselines."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedcore.coordinator import checkpoint as checkpoints
from fedcore.coordinator.baselines import measure_baselines
from fedcore.coordinator.grids.cohort import CohortGrid
from fedcore.coordinator.grids.evidence import EvidenceGrid
from fedcore.coordinator.grids.hierarchy import HierarchyGrid
from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.mean import EXAMPLES, MeanGrid, mean_metrics, with_all_metrics
from fedcore.coordinator.grids.placement import PlacementGrid
from fedcore.coordinator.grids.private import PrivateGrid
from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.coordinator.model import Model
from fedcore.coordinator.prepare import Agreement, prepare, wait_for_nodes
from fedcore.coordinator.workflows.metering import metering_grid
from fedcore.coordinator.workflows.placement import placing
from fedcore.coordinator.workflows.private import private_run
from fedcore.coordinator.workflows.private_records import check_records, records_told
from fedcore.coordinator.workflows.protection import add_totals, check_size, check_summable, secure_grid
from fedcore.coordinator.workflows.rounds import Progress, Rounds
from fedcore.coordinator.workflows.settings import GRACE, Settings
from fedcore.errors import JobError, ProtocolFailed
from fedcore.flower import NDArray
from fedcore.jobs.job import TrainJob
from fedcore.jobs.request import request_for
from fedcore.learning.task import Schema
from strategies.registry import Entry, StrategyError, build, resolve

log = logging.getLogger("fedcore.coordinator")


@dataclass
class Outcome:
    """How the rounds ended.

    Args:
        arrays: The model to keep: the best by `stop.metric`, else the last.
        totals: How the numbers of rows were summed, where each participant's is hidden.
        privacy: What was promised to each participant, and what of it was used.
    """

    arrays: dict[str, NDArray]
    progress: Progress
    agreement: Agreement
    baselines: dict[str, Any] | None = None
    totals: dict[str, Any] | None = None
    privacy: dict[str, Any] | None = None


def run_train(job: TrainJob, grid: Grid, settings: Settings) -> Outcome:
    """Run a train job on a grid.

    Args:
        job: What to do.
        grid: Any engine's.
        settings: Where and for whom.

    Raises:
        FedcoreError: The run could not start (nothing was trained), or stopped and can be resumed.
    """
    entry, strategy = make_strategy(job)
    names: dict[int, str] = dict(settings.registered or {})
    hierarchy = HierarchyGrid(grid, settings.aggregators) if _regional(job, entry) else None
    evidence = EvidenceGrid(
        hierarchy or grid,
        lambda node: names.get(node, f"node {node}"),
        settings.folder / "evidence" / "coordinator.jsonl",
        settings.digest,
        settings.watcher,
    )
    stored = checkpoints.load(settings.folder / "checkpoints") if settings.resume else None
    progress = Progress(**stored.progress) if stored else None
    known = Schema.from_dict(progress.schema) if progress else None
    patience = min(job.deadline, GRACE)
    nodes = wait_for_nodes(grid, settings.expected, job.participants.min, patience)
    agreement = prepare(
        evidence, job, settings.run, nodes, names.__setitem__, known, registered=settings.registered
    )
    for warning in agreement.warnings:
        log.warning("%s", warning)
    evidence.rows = {
        name: site["train_rows"] for name, site in agreement.sites.items() if "train_rows" in site
    }
    metered = metering_grid(job, evidence, settings)
    cohort = CohortGrid(metered or evidence, agreement.members, job.participants.min, job.deadline)
    placed = PlacementGrid(cohort, lambda: evidence.phase.number)
    top: Layer = MeanGrid(placed) if settings.stream and entry.summable else _Listed(placed)
    top = placed if job.protection.of_client else top
    totals = None
    if job.protection.on:
        cohort.request = request_for(job, settings.run, len(agreement.members), None)
        top, totals = _protected(job, placed, evidence, agreement, settings)
    schema = agreement.schema
    cohort.request = request_for(job, settings.run, len(agreement.members), schema.as_dict())
    model = Model(job, schema)
    check_records(job, model)
    if stored is None or progress is None:
        arrays = model.initial_arrays()
        check_size(job, arrays)
        progress = Progress(schema.as_dict(), list(arrays))
    else:
        checkpoints.restore_strategy_state(strategy, stored.strategy)
        arrays = stored.arrays
        log.info("resumed after round %d", stored.number)
    private = private_run(job, settings, len(agreement.members), arrays, progress.rounds)
    if private is not None:
        top = PrivateGrid(top, private.noise, private.clip)
        cohort.request = cohort.request.model_copy(update={"noise": private.plan})
    planner = None
    if job.placement is not None:
        planner = placed.planner = placing(
            job, settings, cohort, evidence, hierarchy, agreement, arrays, progress.rounds
        )
    rounds = Rounds(job, settings, strategy, evidence, top, model, progress, planner, metered, private)
    try:
        kept = rounds.run(arrays)
    finally:
        if planner is not None:
            planner.close()
    if job.protection.on and all(record["empty"] for record in progress.rounds):
        why = progress.rounds[-1]["protection"]["train"]["failed"]
        raise ProtocolFailed(f"no round gave a sum; the last: {why}", party="coordinator", step="train")
    baselines = None
    if job.baselines:
        last = progress.best["round"] if job.stop and progress.best else len(progress.rounds)
        baselines = measure_baselines(
            job, settings.participants, cohort, evidence, model, kept, progress.rounds[:last]
        )
        if metered is not None:
            metered.write()
    told = records_told(job, agreement, progress.rounds) if private is None else private.as_dict()
    return Outcome(kept, progress, agreement, baselines, totals, told)


def _regional(job: TrainJob, entry: Entry) -> bool:
    """Whether a job's rounds may be sent through regions: only what words or plain numbers add up to.

    A strategy that looks at each update, as the median does, would take a region's mean for one.
    """
    protocol = job.protection.secure_aggregation.protocol
    return job.placement is not None and (
        protocol == "secagg+" or (protocol == "none" and entry.summable is True)
    )


def _protected(
    job: TrainJob, cohort: Layer, evidence: EvidenceGrid, agreement: Agreement, settings: Settings
) -> tuple[SecureAggregationGrid, dict[str, Any] | None]:
    """The grid that sums, once the numbers of rows are known that its words must hold; and how these were summed."""
    top = secure_grid(job, cohort, evidence, agreement, settings)
    if job.protection.secure_aggregation.examples == "clear" or job.protection.of_client:
        # Under privacy each counts once, and an exact sum would have no noise.
        return top, None
    told = add_totals(job, cohort, evidence, agreement, settings, top)
    top.largest_weight = agreement.most_examples
    return top, told


def make_strategy(job: TrainJob) -> tuple[Entry, Strategy]:
    """The job's strategy, made with what fedcore sets for it.

    Raises:
        JobError: Unknown strategy or parameter.
    """
    least = job.participants.min
    try:
        entry = resolve(job.strategy.use)
        check_summable(job, entry)
        strategy = build(
            job.strategy.use,
            job.strategy.parameters,
            # Under privacy each participant throws its own coin.
            fraction_train=1.0 if job.protection.of_client else job.participants.fraction,
            min_train_nodes=least,
            min_evaluate_nodes=least,
            min_available_nodes=least,
            weighted_by_key=EXAMPLES,
            train_metrics_aggr_fn=mean_metrics,
            evaluate_metrics_aggr_fn=mean_metrics,
            client_learning_rate=job.local.lr,
            train_loss_key="loss",
        )
    except StrategyError as error:
        raise JobError(f"strategy: {error}") from error
    if type(strategy).start is not Strategy.start:
        raise JobError(
            f"strategy {job.strategy.use} brings its own loop (it overrides `start`), which cannot be checkpointed; "
            "move what it does into configure_train and aggregate_train"
        )
    return entry, strategy


class _Listed(Layer):
    """Replies in the order of the messages, so that a mean is taken in the same order on every engine."""

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        asked = list(messages)
        place = {message.metadata.dst_node_id: i for i, message in enumerate(asked)}
        replies = list(self.stream(asked, timeout))
        with_all_metrics(replies)
        return sorted(replies, key=lambda reply: place[reply.metadata.src_node_id])
