"""The rounds of a train job: train and evaluate under any Flower strategy, resumable after each."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies
from flwr.serverapp.strategy import Strategy

from fedcore.coordinator import checkpoint as checkpoints
from fedcore.coordinator.checkpoint import Checkpoint
from fedcore.coordinator.grids.evidence import EvidenceGrid, Phase
from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.mean import EXAMPLES
from fedcore.coordinator.grids.metering import MeteringGrid
from fedcore.coordinator.grids.private import PrivateGrid
from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.coordinator.model import Model
from fedcore.coordinator.placing import Placing
from fedcore.coordinator.workflows.private import PrivateRun
from fedcore.coordinator.workflows.settings import Settings
from fedcore.errors import JobError, RunInterrupted
from fedcore.flower import NDArray, array_record, ndarrays
from fedcore.jobs.job import TrainJob
from fedcore.learning.seeds import derive_seed
from strategies.base import fitted
from strategies.registry import StrategyError

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


class Rounds:
    """The loop over rounds.

    Args:
        job: What to do.
        settings: Where and for whom.
        strategy: Configures and aggregates.
        evidence: The grid that takes down who sent what.
        grid: The topmost grid, through which the strategy's messages go.
        model: What is trained.
        progress: What was done before; rounds are added to it.
        placing: Who plans each round, for a job that is placed.
        metered: Who counts what is used, where the job asks for it.
        private: What is promised to each participant, where the job asks for it; `grid` is then a `PrivateGrid`.
    """

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
        private: PrivateRun | None = None,
    ) -> None:
        self.placing, self.metered, self.private = placing, metered, private
        self.job, self.settings, self.strategy = job, settings, strategy
        self.evidence, self.grid, self.model, self.progress = evidence, grid, model, progress
        secure = grid.secure if isinstance(grid, PrivateGrid) else grid
        self.secure = secure if isinstance(secure, SecureAggregationGrid) else None
        self.protection: dict[str, Any] = {}
        self.privacy: dict[str, Any] = {}

    def run(self, arrays: dict[str, NDArray]) -> dict[str, NDArray]:
        """All rounds that are left; the model to keep."""
        done = len(self.progress.rounds)
        for number in range(done + 1, self.job.rounds + 1):
            if self._paid() or self.progress.stopped:
                break
            arrays = self._round(number, arrays)
        if self.job.stop and self.progress.best:
            return self._best_arrays() or arrays
        return arrays

    def _paid(self) -> bool:
        """Whether all rounds that were paid for were begun; rounds that were cut off are among them."""
        private = self.private
        if private is None or private.left > 0 or not self.progress.rounds:
            return False
        done, paid = len(self.progress.rounds), private.noise.releases
        self.progress.stopped = f"all {paid} rounds that were paid for were begun, {done} completed"
        return True

    def _round(self, number: int, arrays: dict[str, NDArray]) -> dict[str, NDArray]:
        began = time.monotonic()
        self.protection = {}
        self.privacy = {}
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
        if self.privacy:
            record["privacy"] = self.privacy
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
        if self.private is not None and isinstance(self.grid, PrivateGrid):
            self.private.begin()
            self.grid.clip = self.private.clip
        phase = self.evidence.begin("train", number)
        messages = self.strategy.configure_train(number, array_record(arrays), ConfigRecord(), self.grid)
        if self.metered is not None and self.placing is not None:
            self.metered.follow(self.placing.plan)
        replies = list(self.grid.send_and_receive(messages, timeout=self.job.deadline))
        if self.private is not None and isinstance(self.grid, PrivateGrid):
            self.privacy = self.private.finished(self.grid.summed, self.grid.bits)
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
        if self.secure is None:
            return True
        account = self.secure.account
        self.protection[phase.name] = account.as_dict()
        if account.failed:
            self.evidence.refuse("coordinator", account.failed, "RoundFailed")
        return not account.failed

    def _enough(self, phase: Phase) -> None:
        valid = len(phase.sites) - len(phase.lost)
        if self.secure is not None:
            # Who was lost after its vector had come is in the sum.
            valid = self.secure.account.summed
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
