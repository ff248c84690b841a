"""The train job: prepare, then rounds of train and evaluate under any Flower strategy, resumable after each."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies
from flwr.serverapp.strategy import Strategy

from fedcore.coordinator import checkpoint as checkpoints
from fedcore.coordinator.baselines import measure_baselines
from fedcore.coordinator.checkpoint import Checkpoint
from fedcore.coordinator.grids.cohort import CohortGrid
from fedcore.coordinator.grids.evidence import EvidenceGrid, Phase
from fedcore.coordinator.grids.hierarchy import HierarchyGrid
from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.mean import EXAMPLES, MeanGrid, mean_metrics, with_all_metrics
from fedcore.coordinator.grids.metering import MeteringGrid
from fedcore.coordinator.grids.placement import PlacementGrid
from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.coordinator.model import Model
from fedcore.coordinator.placing import Placing
from fedcore.coordinator.prepare import Agreement, prepare, wait_for_nodes
from fedcore.coordinator.workflows.metering import metering_grid
from fedcore.coordinator.workflows.placement import placing
from fedcore.coordinator.workflows.protection import add_totals, check_size, check_summable, secure_grid
from fedcore.coordinator.workflows.settings import GRACE, Settings
from fedcore.errors import JobError, ProtocolFailed, RunInterrupted
from fedcore.flower import NDArray, array_record, ndarrays
from fedcore.jobs.job import TrainJob
from fedcore.jobs.request import request_for
from fedcore.learning.seeds import derive_seed
from fedcore.learning.task import Schema
from strategies.base import fitted
from strategies.registry import Entry, StrategyError, build, resolve

log = logging.getLogger("fedcore.coordinator")


@dataclass
class Progress:
    """What a run has done so far; JSON, in every checkpoint."""

    schema: dict[str, Any]
    array_order: list[str]
    rounds: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    without: int = 0
    stopped: str | None = None


@dataclass
class Outcome:
    """How the rounds ended.

    Args:
        arrays: The model to keep: the best by `stop.metric`, else the last.
        totals: How the numbers of rows were summed, where each participant's is hidden.
    """

    arrays: dict[str, NDArray]
    progress: Progress
    agreement: Agreement
    baselines: dict[str, Any] | None = None
    totals: dict[str, Any] | None = None


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
    totals = None
    if job.protection.on:
        cohort.request = request_for(job, settings.run, len(agreement.members), None)
        top, totals = _protected(job, placed, evidence, agreement, settings)
    schema = agreement.schema
    cohort.request = request_for(job, settings.run, len(agreement.members), schema.as_dict())
    model = Model(job, schema)
    if stored is None or progress is None:
        arrays = model.initial_arrays()
        check_size(job, arrays)
        progress = Progress(schema.as_dict(), list(arrays))
    else:
        checkpoints.restore_strategy_state(strategy, stored.strategy)
        arrays = stored.arrays
        log.info("resumed after round %d", stored.number)
    planner = None
    if job.placement is not None:
        planner = placed.planner = placing(
            job, settings, cohort, evidence, hierarchy, agreement, arrays, progress.rounds
        )
    rounds = _Rounds(job, settings, strategy, evidence, top, model, progress, planner, metered)
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
    return Outcome(kept, progress, agreement, baselines, totals)


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
    if job.protection.secure_aggregation.examples == "clear":
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
            fraction_train=job.participants.fraction,
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


class _Rounds:
    """The loop over rounds."""

    def __init__(
        self,
        job: TrainJob,
        settings: Settings,
        strategy: Strategy,
        evidence: EvidenceGrid,
        grid: Layer,
        model: Model,
        progress: Progress,
        placing: Placing | None = None,
        metered: MeteringGrid | None = None,
    ) -> None:
        self.placing, self.metered = placing, metered
        self.job, self.settings, self.strategy = job, settings, strategy
        self.evidence, self.grid, self.model, self.progress = evidence, grid, model, progress
        self.protection: dict[str, Any] = {}

    def run(self, arrays: dict[str, NDArray]) -> dict[str, NDArray]:
        """All rounds that are left; the model to keep."""
        done = len(self.progress.rounds)
        for number in range(done + 1, self.job.rounds + 1):
            if self.progress.stopped:
                break
            arrays = self._round(number, arrays)
        if self.job.stop and self.progress.best:
            return self._best_arrays() or arrays
        return arrays

    def _round(self, number: int, arrays: dict[str, NDArray]) -> dict[str, NDArray]:
        began = time.monotonic()
        self.protection = {}
        with _seeded(self.job.seed, number):
            new, train_metrics, train = self._train(number, arrays)
            arrays = new if new is not None else arrays
            evaluated: dict[str, float] = {}
            evaluate = Phase("evaluate", number)
            central = None
            if number % self.job.evaluation.every == 0 or number == self.job.rounds:
                if self.job.evaluation.federated:
                    evaluated, evaluate = self._evaluate(number, arrays)
                central = self.model.evaluate_central(arrays)
        record = _record(number, train, train_metrics, evaluate, evaluated, central)
        record["empty"] = new is None
        if self.protection:
            record["protection"] = self.protection
        if self.placing is not None:
            record["placement"] = self.placing.account()
        record["elapsed"] = time.monotonic() - began
        record = checkpoints.plain(record)
        self.progress.rounds.append(record)
        better = self._judge(number, evaluated, central)
        if self.metered is not None:
            # In front of the checkpoint: a round that is done again is used again.
            self.metered.write()
        self._save(number, arrays, better)
        self.settings.watcher.round_finished(record)
        return arrays

    def _train(
        self, number: int, arrays: dict[str, NDArray]
    ) -> tuple[dict[str, NDArray] | None, dict[str, float], Phase]:
        phase = self.evidence.begin("train", number)
        messages = self.strategy.configure_train(number, array_record(arrays), ConfigRecord(), self.grid)
        if self.metered is not None and self.placing is not None:
            self.metered.follow(self.placing.plan)
        replies = list(self.grid.send_and_receive(messages, timeout=self.job.deadline))
        if self._summed(phase):
            self._enough(phase)
        with self._aggregating(phase):
            mean, metrics = self.strategy.aggregate_train(number, replies)
        if mean is None:
            return None, _numbers(metrics), phase
        return self._fit(mean, arrays, phase), _numbers(metrics), phase

    def _fit(self, mean: ArrayRecord, before: Mapping[str, NDArray], phase: Phase) -> dict[str, NDArray]:
        with self._aggregating(phase):
            # In the model's own dtypes: FedAdam's float64 would double what is sent in the next round.
            return fitted(ndarrays(mean), dict(before))

    def _evaluate(self, number: int, arrays: dict[str, NDArray]) -> tuple[dict[str, float], Phase]:
        phase = self.evidence.begin("evaluate", number)
        messages = self.strategy.configure_evaluate(number, array_record(arrays), ConfigRecord(), self.grid)
        if self.metered is not None and self.placing is not None:
            self.metered.follow(self.placing.plan)
        replies = list(self.grid.send_and_receive(messages, timeout=self.job.deadline))
        self._summed(phase)
        with self._aggregating(phase):
            return _numbers(self.strategy.aggregate_evaluate(number, replies)), phase

    @contextmanager
    def _aggregating(self, phase: Phase) -> Iterator[None]:
        try:
            yield
        except (StrategyError, AggregationError, InconsistentMessageReplies) as error:
            raise RunInterrupted(
                f"strategy {self.job.strategy.use} could not aggregate: {error}",
                party="coordinator",
                step=phase.step,
            ) from error
        except Exception as error:
            # A strategy may be somebody's own code, which may raise anything.
            log.exception("strategy %s raised", self.job.strategy.use)
            raise RunInterrupted(
                f"strategy {self.job.strategy.use} raised {type(error).__name__}: {error}; the trace is in run.log",
                party="coordinator",
                step=phase.step,
            ) from error

    def _summed(self, phase: Phase) -> bool:
        """Take down what secure aggregation was; False when it gave no sum, and the next round goes on."""
        if not isinstance(self.grid, SecureAggregationGrid):
            return True
        account = self.grid.account
        self.protection[phase.name] = account.as_dict()
        if account.failed:
            self.evidence.refuse("coordinator", account.failed, "RoundFailed")
        return not account.failed

    def _enough(self, phase: Phase) -> None:
        valid = len(phase.sites) - len(phase.lost)
        if isinstance(self.grid, SecureAggregationGrid):
            # Who was lost after its vector had come is in the sum.
            valid = self.grid.account.summed
        if phase.sites and valid < min(self.job.participants.min, len(phase.sites)):
            told = "; ".join(f"{one.party}: {one.reason}" for one in phase.lost)
            raise RunInterrupted(
                f"{valid} usable replies of at least {self.job.participants.min}. {told}",
                party="coordinator",
                step=phase.step,
            )

    def _judge(self, number: int, evaluated: dict[str, float], central: dict[str, float] | None) -> bool:
        """Whether this round is the best so far by `stop.metric`; decides whether to stop."""
        stop = self.job.stop
        if stop is None or not (evaluated or central):
            return False
        found = evaluated if stop.metric in evaluated else central or {}
        if stop.metric not in found:
            allowed = ", ".join(sorted({*evaluated, *(central or {})}))
            raise JobError(f"stop.metric: the task reports no {stop.metric!r}; allowed: {allowed}")
        value, best = found[stop.metric], self.progress.best
        gain = 0.0 if best is None else (value - best["value"]) * (1 if stop.maximize else -1)
        if value == value and (best is None or gain > stop.min_delta):
            self.progress.best = {"round": number, "metric": stop.metric, "value": value}
            self.progress.without = 0
            return True
        self.progress.without += 1
        if self.progress.without >= stop.patience:
            how = f"was not defined in {stop.patience} evaluations"
            if best:
                how = f"has not improved for {stop.patience} evaluations; best in round {best['round']}"
            self.progress.stopped = f"{stop.metric} {how}"
        return False

    def _save(self, number: int, arrays: dict[str, NDArray], better: bool) -> None:
        folder = self.settings.folder / "checkpoints"
        state = checkpoints.strategy_state(self.strategy)
        checkpoints.save(folder, Checkpoint(number, arrays, state, dict(vars(self.progress)), better))

    def _best_arrays(self) -> dict[str, NDArray] | None:
        if self.progress.best is None:
            return None
        stored = checkpoints.load_best(self.settings.folder / "checkpoints", self.progress.best["round"])
        if stored is None:
            return None
        return {name: stored[name] for name in self.progress.array_order}


@contextmanager
def _seeded(seed: int, number: int) -> Any:
    """Seed Python's global generator, from which Flower's strategies sample the cohort, and put it back."""
    before = random.getstate()
    random.seed(derive_seed(seed, "cohort", number))
    try:
        yield
    finally:
        random.setstate(before)


def _numbers(metrics: MetricRecord | None) -> dict[str, float]:
    return (
        {}
        if metrics is None
        else {k: float(v) for k, v in metrics.items() if not isinstance(v, list) and k != EXAMPLES}
    )


def _record(
    number: int,
    train: Phase,
    train_metrics: dict[str, float],
    evaluate: Phase,
    evaluated: dict[str, float],
    central: dict[str, float] | None,
) -> dict[str, Any]:
    sites: dict[str, dict[str, Any]] = {}
    for phase in (train, evaluate):
        for party, told in phase.sites.items():
            site = sites.setdefault(party, {"bytes": {"down": 0, "up": 0}, "seconds": {}})
            site["bytes"]["down"] += told["bytes"]["down"]
            site["bytes"]["up"] += told["bytes"]["up"]
            site["seconds"][phase.name] = told["seconds"]
            metrics = dict(told["metrics"])
            examples = metrics.pop(EXAMPLES, None)
            if metrics:
                site[phase.name] = metrics
            if phase.name == "train" and examples is not None:
                site["examples"] = examples
    return {
        "round": number,
        "seconds": {"train": train.seconds, "evaluate": evaluate.seconds},
        "bytes": {way: train.total(way) + evaluate.total(way) for way in ("down", "up")},
        "train": train_metrics,
        "evaluate": evaluated,
        "central": central,
        "sites": {name: sites[name] for name in sorted(sites)},
        "lost": [vars(one) for one in (*train.lost, *evaluate.lost)],
    }
