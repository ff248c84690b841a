"""Does a strategy run on every engine, resume, survive what happens, and allow protection that sums?"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.serverapp.strategy import Strategy

from fedcore.coordinator import checkpoint as checkpoints
from fedcore.coordinator.checkpoint import Checkpoint, restore_strategy_state, strategy_state
from fedcore.coordinator.grids.mean import EXAMPLES, mean_metrics
from fedcore.flower import NDArray, error_reply
from fedcore.testing.report import Check, ConformanceReport, NotConforming, attempt
from fedcore.testing.toy import LOCAL, SITES, ToyFederation, initial_arrays
from strategies.registry import Entry, StrategyError, build, resolve

ROUNDS = 4
SAME = 1e-3
"""What counts as the same result of one reply and of many: this share of how far the model moved."""


def check_strategy(
    strategy: str | type[Strategy], *, parameters: Mapping[str, Any] | None = None, seed: int = 0
) -> ConformanceReport:
    """Try a strategy on everything that a run may do to it. Takes about a second.

    Args:
        strategy: A name (`scaffold`), an import path (`package.module:Class`) or a class.
        parameters: As a job would give them.
        seed: Of the generated rows, the initial weights and the order of batches.

    Returns:
        A report. A strategy that raises fails its check; nothing of its is raised from here.
    """
    name = strategy if isinstance(strategy, str) else strategy.__name__
    made = "can be made from its parameters"
    with _quiet(), tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        try:
            entry = resolve(strategy)
            trial = _Trial(strategy, entry, dict(parameters or {}), seed, Path(folder), stack)
            trial.make()
        except StrategyError as error:
            return ConformanceReport(name, (Check(made, False, str(error)),))
        checks = [Check(made, True), attempt("trains and keeps the model's arrays", trial.trains)]
        if checks[-1].passed:
            checks += [
                attempt("gives the same result through Flower's wire format", trial.survives_the_wire),
                attempt("repeats by seed", trial.repeats),
                attempt("resumes from a checkpoint", trial.resumes),
                attempt("survives a site that drops out", trial.survives_a_drop_out),
                attempt("survives a round without replies", trial.survives_an_empty_round),
                attempt("evaluates", trial.evaluates),
                attempt("says truly whether protection that sums serves it", trial.sums),
            ]
    return ConformanceReport(name, tuple(checks), trial.summable)


class _Trial:
    """The checks of one strategy; each runs in a federation of its own."""

    def __init__(
        self,
        use: str | type[Strategy],
        entry: Entry,
        parameters: dict[str, Any],
        seed: int,
        folder: Path,
        stack: contextlib.ExitStack,
    ) -> None:
        self.use, self.entry, self.parameters, self.seed = use, entry, parameters, seed
        self.folder, self.stack = folder, stack
        self.count = 0
        self.summable: bool | None = None
        self.start = initial_arrays(seed)
        self.reference: list[dict[str, NDArray]] = []

    def make(self) -> Strategy:
        """A fresh strategy with the settings of a run."""
        return build(
            self.use,
            self.parameters,
            min_train_nodes=2,
            min_evaluate_nodes=2,
            min_available_nodes=2,
            weighted_by_key=EXAMPLES,
            train_metrics_aggr_fn=mean_metrics,
            evaluate_metrics_aggr_fn=mean_metrics,
            client_learning_rate=LOCAL.lr,
            train_loss_key="loss",
        )

    def federation(self, *, serialize: bool = False) -> ToyFederation:
        """A fresh federation."""
        self.count += 1
        folder = self.folder / str(self.count)
        made = ToyFederation(self.entry.client, self.parameters, self.seed, folder, serialize)
        self.stack.callback(made.grid.close)
        return made

    def trains(self) -> None:
        """Four rounds in process give finite arrays of the model's names and shapes."""
        self.reference = self.federation().rounds(self.make(), self.start, range(1, ROUNDS + 1))
        for number, arrays in enumerate(self.reference, start=1):
            for name, array in arrays.items():
                if not np.isfinite(array).all():
                    raise NotConforming(f"after round {number} array {name!r} has values that are not finite")

    def survives_the_wire(self) -> None:
        """What an in-process engine passes by reference, the others serialise."""
        found = self.federation(serialize=True).rounds(self.make(), self.start, range(1, ROUNDS + 1))
        cure = "do not change a reply's arrays in place, and keep nothing but arrays in them"
        self._same(found[-1], "in-process and serialised messages", cure)

    def repeats(self) -> None:
        """The same seed, the same arrays."""
        found = self.federation().rounds(self.make(), self.start, range(1, ROUNDS + 1))
        cure = (
            "draw from np.random.default_rng((seed, server_round)), never from a global generator, and keep "
            "nothing in class attributes or modules"
        )
        self._same(found[-1], "two runs with the same seed", cure)

    def resumes(self) -> None:
        """A run that goes on from its checkpoint, in a new process with new objects, ends the same."""
        federation, first, half = self.federation(), self.make(), ROUNDS // 2
        arrays = federation.rounds(first, self.start, range(1, half + 1))[-1]
        taken = strategy_state(first)
        folder = self.folder / "checkpoints"
        checkpoints.save(folder, Checkpoint(half, arrays, taken, {"array_order": list(arrays)}))
        stored = checkpoints.load(folder)
        if stored is None:
            raise NotConforming("the checkpoint cannot be read back")
        second = self.make()
        restore_strategy_state(second, stored.strategy)
        found = federation.rounds(second, stored.arrays, range(half + 1, ROUNDS + 1))[-1]
        lost = sorted(
            name for name, value in vars(first).items() if name not in taken and not callable(value)
        )
        cure = "keep what must be remembered as arrays in self.state"
        if lost:
            cure += f"; a checkpoint does not hold self.{', self.'.join(lost)}"
        self._same(found, "four rounds, and two rounds resumed for two more,", cure)

    def survives_a_drop_out(self) -> None:
        """A round with one error reply, and the round after it."""
        federation, strategy = self.federation(), self.make()
        arrays = federation.rounds(strategy, self.start, [1])[-1]
        kept = federation.round(strategy, arrays, 2, lost={1})
        if kept is None:
            raise NotConforming(
                f"with {SITES - 1} of {SITES} replies it gave no model; aggregate those that came"
            )
        federation.rounds(strategy, kept, [3])

    def survives_an_empty_round(self) -> None:
        """Nobody replies: no model, the same state, and the next round works."""
        federation, strategy = self.federation(), self.make()
        arrays = federation.rounds(strategy, self.start, [1])[-1]
        for number, what in ((2, "errors only"), (3, "no reply at all")):
            messages = federation.ask(strategy, arrays, number)
            before = _flat(strategy_state(strategy))
            replies = [error_reply(message, "lost") for message in messages] if number == 2 else []
            record, _ = strategy.aggregate_train(number, replies)
            if record is not None:
                raise NotConforming(f"with {what} it returned arrays; return None, so that the model stays")
            if changed := _changed(before, _flat(strategy_state(strategy))):
                raise NotConforming(
                    f"with {what} it changed self.{changed}; leave the state as it is when nobody replied"
                )
        federation.rounds(strategy, arrays, [4])

    def evaluates(self) -> None:
        """An evaluation over the wire gives the mean of the sites' metrics, and they are numbers."""
        federation, strategy = self.federation(serialize=True), self.make()
        arrays = federation.rounds(strategy, self.start, range(1, ROUNDS + 1))[-1]
        metrics = federation.evaluate(strategy, arrays, ROUNDS)
        if "loss" not in metrics:
            raise NotConforming(
                "aggregate_evaluate gave no metrics; return the weighted mean of the sites' metrics"
            )
        if not np.isfinite(metrics["loss"]):
            raise NotConforming(
                "the loss is not finite; a running variance below zero does that: move the arrays of "
                "normalisation layers no further than to their mean"
            )

    def sums(self) -> str | None:
        """Whether one reply that holds the weighted mean is as good as all of them, and what the class says."""
        moved = max(_distance(arrays, self.start) for arrays in self.reference)
        try:
            found = self.federation().rounds(self.make(), self.start, range(1, 3), fold=True)
            self.summable = _distance(found[-1], self.reference[1]) <= SAME * moved
        except NotConforming:
            self.summable = False
        return self._declared(self.entry.summable)

    def _declared(self, declared: bool | None) -> str | None:
        if declared is None:
            fact = (
                "the weighted mean was all it needed here"
                if self.summable
                else "it needs individual updates, which protection that sums does not show"
            )
            return f"unknown algebra: {fact}. Declare it in the class: summable = {self.summable}"
        if declared and not self.summable:
            raise NotConforming(
                "it declares summable = True, but one reply that holds the weighted mean gives another result; "
                "use nothing but the mean of the replies, or declare summable = False"
            )
        if declared:
            return None
        return "individual updates needed: a job that protects updates by summing them is refused with it"

    def _same(self, found: dict[str, NDArray], what: str, cure: str) -> None:
        for name, array in self.reference[-1].items():
            if not np.array_equal(array, found[name]):
                gap = float(np.max(np.abs(array.astype(float) - found[name])))
                raise NotConforming(f"{what} differ in array {name!r} by {gap:.3g}; {cure}")


def _distance(a: Mapping[str, NDArray], b: Mapping[str, NDArray]) -> float:
    """The largest difference between two models' float arrays (a counter's would drown theirs)."""
    floats = [name for name, array in b.items() if array.dtype.kind == "f"]
    return max(float(np.max(np.abs(a[name] - b[name]))) for name in floats)


def _flat(state: Mapping[str, Any]) -> dict[str, NDArray]:
    """A strategy's state as copied arrays by flat name."""
    flat: dict[str, NDArray] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            items = [(f"{name}[{key!r}]", item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            items = [(f"{name}[{i}]", item) for i, item in enumerate(value)]
        else:
            items = [(name, value)]
        for key, item in items:
            flat[key] = np.array(item.numpy() if hasattr(item, "numpy") else item, copy=True)
    return flat


def _changed(before: Mapping[str, NDArray], after: Mapping[str, NDArray]) -> str | None:
    """The first piece of the state that differs."""
    for name in sorted({*before, *after}):
        if name not in before or name not in after or not np.array_equal(before[name], after[name]):
            return name
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Flower's strategies narrate each round, which the report replaces; one thread is enough for a toy."""
    logger, threads = logging.getLogger("flwr"), torch.get_num_threads()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        logger.setLevel(level)
        torch.set_num_threads(threads)
