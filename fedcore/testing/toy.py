"""A federation small enough to run dozens of times in a second, on the parts that a run is made of.

Sites have generated rows; the network has a batch norm layer, which gives it buffers and an integer array.
The engine, the training loop, the mean over replies and the sites' stores are those of a run; the release
gate and the data catalogue are left out, because a strategy does not see them.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy
from torch import nn

from fedcore.coordinator.grids.mean import EXAMPLES, MeanGrid
from fedcore.engines.embedded import EmbeddedGrid, Node
from fedcore.flower import NDArray, array_record, base_array, error_reply, ndarrays, stamp
from fedcore.jobs.job import LocalTraining
from fedcore.jobs.participant import Participant
from fedcore.learning.examples import Examples
from fedcore.learning.seeds import derive_seed, seeded_model
from fedcore.learning.task import Batch, Task
from fedcore.learning.training import evaluate, load_arrays, take_arrays, train
from fedcore.participant.store import load_state, save_state
from fedcore.testing.report import NotConforming
from strategies.base import EXTRA, ClientHalf, fitted, split

SITES = 5
PATIENCE = 20.0  # seconds that a strategy may take to choose its sites
LOCAL = LocalTraining(epochs=1, batch_size=8, lr=0.05, device="cpu", precision="float32")


class ToyTask(Task):
    """Two classes from four features."""

    classification = True

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch.x), batch.y)

    def metrics(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        sums = [(float(self.loss(model, batch)) * len(batch), len(batch)) for batch in batches]
        return {"loss": sum(loss for loss, _ in sums) / sum(rows for _, rows in sums)}


def initial_arrays(seed: int) -> dict[str, NDArray]:
    """The network's weights before round 1."""
    return take_arrays(seeded_model(ToyTask().model, derive_seed(seed, "initial weights")))


def toy_rows(seed: int, site: int) -> Examples:
    """A site's rows: as many, shifted and labelled as no other's."""
    rng = np.random.default_rng([seed, site])
    x = rng.normal(loc=site / 2, size=(16 + 8 * site, 4)).astype(np.float32)
    y = (x @ rng.normal(size=4) > site).astype(np.int64)
    return Examples(torch.from_numpy(x), torch.from_numpy(y))


class ToyFederation:
    """Five sites on the embedded engine.

    Args:
        client: The strategy's client half.
        parameters: As in a job.
        seed: Of rows and batches.
        folder: Where the sites keep their state.
        serialize: Send every message through Flower's wire format.
    """

    def __init__(
        self,
        client: type[ClientHalf] | None,
        parameters: Mapping[str, Any],
        seed: int,
        folder: Path,
        serialize: bool,
    ) -> None:
        self.client, self.parameters, self.seed = client, parameters, seed
        self.number = 0
        self.raised: Exception | None = None
        self.sites = [
            Participant(name=f"site-{i}", catalogue={}, state=folder / f"{i}") for i in range(SITES)
        ]
        app = ClientApp()
        app.train()(self._answer(self._train))
        app.evaluate()(self._answer(self._evaluate))
        nodes = [Node({"partition-id": i}, {}) for i in range(SITES)]
        self.grid = EmbeddedGrid(app, nodes, workers=1, serialize=serialize)

    def rounds(
        self, strategy: Strategy, arrays: dict[str, NDArray], numbers: Iterable[int], *, fold: bool = False
    ) -> list[dict[str, NDArray]]:
        """The model after each round.

        Raises:
            NotConforming: A round gave no model.
        """
        path: list[dict[str, NDArray]] = []
        for number in numbers:
            new = self.round(strategy, arrays, number, fold=fold)
            if new is None:
                raise NotConforming(f"round {number} gave no model although all {SITES} sites replied")
            arrays = new
            path.append(arrays)
        return path

    def round(
        self,
        strategy: Strategy,
        arrays: dict[str, NDArray],
        number: int,
        *,
        lost: Collection[int] = (),
        fold: bool = False,
    ) -> dict[str, NDArray] | None:
        """One round; the next model, or None when the strategy gives none.

        Args:
            lost: Places of the sites whose reply is an error.
            fold: Give the strategy one reply that holds the weighted mean.
        """
        messages = self.ask(strategy, arrays, number)
        sent = [message for place, message in enumerate(messages) if place not in lost]
        grid = MeanGrid(self.grid) if fold else self.grid
        replies = list(grid.send_and_receive(sent, timeout=PATIENCE))
        replies += [error_reply(messages[place], "lost") for place in lost]
        self._raise()
        record, _ = strategy.aggregate_train(number, replies)
        return None if record is None else fitted({k: v.copy() for k, v in ndarrays(record).items()}, arrays)

    def ask(self, strategy: Strategy, arrays: dict[str, NDArray], number: int) -> list[Message]:
        """The strategy's messages, in the order of the sites."""
        self.number = number
        found: list[Message] = []

        def configure() -> None:
            state = random.getstate()
            random.seed(derive_seed(self.seed, "cohort", number))
            found.extend(strategy.configure_train(number, array_record(arrays), ConfigRecord(), self.grid))
            random.setstate(state)

        _within(PATIENCE, configure, f"configure_train does not come back; {SITES} sites are online")
        if not found:
            raise NotConforming("configure_train sent no message; send one to each site that takes part")
        for message in found:
            stamp(message)
        return sorted(found, key=lambda message: message.metadata.dst_node_id)

    def evaluate(self, strategy: Strategy, arrays: dict[str, NDArray], number: int) -> dict[str, Any]:
        """The strategy's evaluation metrics."""
        self.number = number
        messages = strategy.configure_evaluate(number, array_record(arrays), ConfigRecord(), self.grid)
        replies = self.grid.send_and_receive(messages, timeout=PATIENCE)
        self._raise()
        return dict(strategy.aggregate_evaluate(number, replies) or {})

    def _answer(self, work: Callable[[Message, int], Message]) -> Callable[[Message, Context], Message]:
        def answer(message: Message, context: Context) -> Message:
            try:
                return work(message, int(context.node_config["partition-id"]))
            except Exception as error:  # noqa: BLE001 - a client half may raise anything; `_raise` tells
                self.raised = error
                return error_reply(message, type(error).__name__)

        return answer

    def _raise(self) -> None:
        """Raise what a site's client half raised."""
        raised, self.raised = self.raised, None
        if raised is not None:
            raise raised

    def _train(self, message: Message, site: int) -> Message:
        model, half = self._load(message, site, before=self.number)
        rows = toy_rows(self.seed, site)
        config = dict(next(iter(message.content.config_records.values()), {}))
        seed = (self.seed, site, self.number)
        done = train(model, ToyTask(), rows, LOCAL, seed=seed, half=half, config=config)
        extra = half.finish(model) if half else {}
        sent = take_arrays(model, half.keeps(model) if half else set())
        sent.update({EXTRA + name: np.asarray(value) for name, value in extra.items()})
        if half and (remembered := half.remember(model)):
            _arrays_only(remembered)
            save_state(self.sites[site], "toy", self.number, remembered)
        metrics = MetricRecord({EXAMPLES: done.rows, "loss": done.loss})
        return Message(RecordDict({"arrays": array_record(sent), "metrics": metrics}), reply_to=message)

    def _evaluate(self, message: Message, site: int) -> Message:
        model, _ = self._load(message, site, before=self.number + 1)
        rows = toy_rows(self.seed, site)
        metrics = MetricRecord({EXAMPLES: len(rows), **evaluate(model, ToyTask(), rows)})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    def _load(self, message: Message, site: int, before: int) -> tuple[nn.Module, ClientHalf | None]:
        record = next(iter(message.content.array_records.values()))
        arrays, extra = split({name: base_array(array) for name, array in record.items()})
        model = ToyTask().model()
        load_arrays(model, arrays)
        if self.client is None:
            return model, None
        half = self.client(load_state(self.sites[site], "toy", before), dict(extra), self.parameters)
        half.restore(model)
        return model, half


def _arrays_only(state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        if not isinstance(value, np.ndarray):
            raise NotConforming(
                f"the client half's state[{name!r}] is a {type(value).__name__}; only numpy arrays are stored: "
                "np.asarray(value)"
            )


def _within(seconds: float, function: Callable[[], None], why: str) -> None:
    """Call `function` in a thread that is left behind when it takes too long."""
    raised: list[Exception] = []

    def call() -> None:
        try:
            function()
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise NotConforming(f"{why} (waited {seconds:g} s)")
    if raised:
        raise raised[0]
