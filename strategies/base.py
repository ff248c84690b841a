"""What every strategy of ours stands on: a server half and, where sites do something special, a client half.

The server half sees one thing per round: the weighted mean of what the sites sent. It therefore runs
unchanged when secure aggregation hands it that mean as one single reply. All it remembers is in `state`,
a dict of arrays, so that a checkpoint of a run needs no code of the strategy's own.

A new strategy overrides at most `begin` and `update`. A whole federation in a few lines, two sites whose
own optima are 1 and 3 and a server that adds momentum:

    >>> import numpy as np
    >>> class Momentum(Strategy):
    ...     def update(self, current, mean):
    ...         step = mean["w"] - current["w"] + 0.5 * self.state.get("step", 0.0)
    ...         self.state["step"] = step
    ...         return {"w": current["w"] + step}
    >>> strategy, model = Momentum(), {"w": np.zeros(1)}
    >>> for number in range(1, 5):
    ...     sent = strategy.outgoing(model)
    ...     sites = [sent["w"] + 0.5 * (optimum - sent["w"]) for optimum in (1.0, 3.0)]
    ...     model = strategy.incoming(sent, {"w": np.mean(sites, axis=0)})
    ...     print(number, model["w"])
    1 [1.]
    2 [2.]
    3 [2.5]
    4 [2.5]

Extra arrays (a control variate, a count of steps) travel beside the model's arrays under `extra/<name>` and
are averaged by the same rule; `outgoing` adds the server's, `incoming` takes the sites' mean of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

Arrays = dict[str, NDArray[Any]]
"""Arrays by name: a model's `state_dict` names, and `extra/<name>` for what a strategy adds."""

EXTRA = "extra/"
"""Prefix of a strategy's own arrays beside the model's."""

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Last parts of the names that torch's normalisation layers give their running statistics."""

_KEPT = "kept/"
_TRAINED = "trained"


class StrategyError(ValueError):
    """A strategy's name, parameter or result cannot be used.

    Args:
        message: What is wrong, what is allowed, the cure.
        value: What was given.
        allowed: What could have been given, if that is a list.
        nearest: The allowed word most like the one given.
    """

    def __init__(
        self, message: str, *, value: Any = None, allowed: Iterable[str] = (), nearest: str | None = None
    ) -> None:
        super().__init__(message)
        self.value = value
        self.allowed = tuple(sorted(allowed))
        self.nearest = nearest


class ClientHalf:
    """What an algorithm does at a participant, around the task's own training loop.

    The loop of one round, which every task shares:

        half = Client(state, extra, parameters)
        load all received model arrays but those of half.keeps(model);  half.restore(model)
        half.lr, half.momentum = ...
        half.begin(model, config)
        for each batch:  backward;  half.adjust_gradients(model);  optimizer step;  half.steps += 1
        extra = half.finish(model)
        send the model's arrays but those of half.keeps(model), and extra under extra/<name>
        store half.remember(model)

    An evaluation is `half = Client(...)`, load, `half.restore(model)`, evaluate.

    Args:
        state: What this participant stored for this strategy in the latest round *before* this one of this
            run; empty at first. (Of the round before: a round that is repeated after a crash then repeats.)
        extra: The server's extra arrays that came with the model, without their prefix.
        parameters: The strategy's parameters as written in the job.

    Attributes:
        state: What to store; replace or fill it in `finish`. It never leaves the site.
        lr: Local learning rate, set by the loop before `begin`.
        momentum: Local momentum in [0, 1), 0 when the local optimizer is not SGD; set before `begin`.
        steps: Optimizer steps that were really taken this round, counted by the loop.
    """

    lr: float = 0.0
    momentum: float = 0.0
    steps: int = 0

    def __init__(self, state: Arrays, extra: Arrays, parameters: Mapping[str, Any]) -> None:
        self.state = state
        self.extra = extra
        self.parameters = parameters

    def keeps(self, model: nn.Module) -> set[str]:
        """Names of the model's arrays that stay at the site: neither sent nor overwritten."""
        return set()

    def begin(self, model: nn.Module, config: Mapping[str, Any]) -> None:
        """Called once the received model is loaded, before the first step.

        Args:
            model: On its device, holding the server's arrays (and the site's own for those it keeps).
            config: The message's config record: `server-round` and what the server half put there.
        """

    def adjust_gradients(self, model: nn.Module) -> None:
        """Called after each backward pass and before the optimizer's step; changes `p.grad` in place.

        Gradients are unscaled (mixed precision) and in the parameters' dtype.
        """

    def finish(self, model: nn.Module) -> Arrays:
        """Called after the last step.

        It may change the model's arrays: they are sent as they stand afterwards.

        Returns:
            Extra arrays to send, named without prefix. Every site must return the same names and shapes,
            float dtypes: they are averaged, weighted by examples.
        """
        return {}

    def restore(self, model: nn.Module) -> None:
        """Put the arrays that `keeps` names back into the model, from the state. Called by the loop."""
        import torch

        target = model.state_dict(keep_vars=False)
        with torch.no_grad():
            for name in self.keeps(model):
                if (stored := self.state.get(_KEPT + name)) is not None:
                    target[name].copy_(torch.tensor(stored))

    def remember(self, model: nn.Module) -> Arrays:
        """What to store after `finish`: the state and the arrays that `keeps` names. Called by the loop."""
        kept = self.keeps(model)
        arrays = {
            _KEPT + name: tensor.detach().cpu().numpy().copy()
            for name, tensor in model.state_dict().items()
            if name in kept
        }
        return {**{k: v for k, v in self.state.items() if not k.startswith(_KEPT)}, **arrays}


class Strategy(FedAvg):
    """The server half: Flower's FedAvg whose mean goes through `update`.

    Attributes:
        summable: It needs nothing but the weighted mean of arrays and metrics, so every protection that
            sums under encryption or masks serves it. Declare False when you override `aggregate_train`.
        client: The client half that belongs to it, or None.
        state: All it remembers from round to round. Extra arrays that are sent down stand here as
            `extra/<name>`; anything else is the server's own.

    Args:
        **settings: Those of Flower's `FedAvg` (`fraction_train`, `min_train_nodes`, ...), which fedcore sets.
    """

    summable: ClassVar[bool] = True
    client: ClassVar[type[ClientHalf] | None] = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.state: Arrays = {}
        self._sent: ArrayRecord | None = None

    def begin(self, arrays: Arrays) -> Arrays:
        """Extra arrays to send down with the first round's model, named without prefix.

        Called while `state` is empty; it may also fill `self.state` with what the server keeps to itself.

        Args:
            arrays: The model's arrays before the first round.
        """
        return {}

    def update(self, current: Arrays, mean: Arrays) -> Arrays:
        """The next model, and the next extra arrays under `extra/<name>`.

        Running statistics of normalisation layers are not weights and do not come here: the next model has
        their mean. (A variance that an optimizer steps along ends below zero, and the model answers NaN.)

        Args:
            current: What was sent down: model arrays, and extra arrays under `extra/<name>`.
            mean: The mean of what came back, weighted by examples; same naming. Integer arrays come as
                floats. A model array that the sites keep for themselves is absent.

        Returns:
            Model arrays by their names (absent ones stay as they are, dtypes are restored) and the extra
            arrays to send down next (absent ones stay as they are).
        """
        return mean

    def outgoing(self, model: Arrays) -> Arrays:
        """Model arrays with the extra arrays to send beside them."""
        if not self.state:
            self.state.update({EXTRA + name: array for name, array in self.begin(model).items()})
        return {**model, **{name: array for name, array in self.state.items() if name.startswith(EXTRA)}}

    def incoming(self, sent: Arrays, mean: Arrays) -> Arrays:
        """The next model from what was sent and the mean of what came back; moves `state` on.

        Args:
            sent: As `outgoing` gave it.
            mean: Weighted mean over the sites; model and extra arrays.

        Returns:
            Model arrays with the names, shapes and dtypes of those sent.

        Raises:
            StrategyError: If `update` returned an unknown name or another shape.
        """
        new, extra = split(self.update(_weights(sent), _weights(mean)))
        statistics = {name: array for name, array in mean.items() if is_statistic(name)}
        model = fitted({**statistics, **new}, split(sent)[0])
        self.state.update({EXTRA + name: np.asarray(array) for name, array in extra.items()})
        return model

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Flower's, with the extra arrays beside the model's."""
        model = split(arrays)[0]
        if not self.state:
            self.outgoing(to_arrays(arrays))
        extra = {k: Array(np.asarray(v)) for k, v in self.state.items() if k.startswith(EXTRA)}
        self._sent = ArrayRecord({**model, **extra})
        return super().configure_train(server_round, self._sent, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Flower's, with the model's arrays alone."""
        return super().configure_evaluate(server_round, ArrayRecord(split(arrays)[0]), config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Flower's weighted mean, then `update`; (None, None) and nothing changed without a valid reply."""
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is None:
            return None, metrics
        if self._sent is None:
            raise StrategyError(
                "aggregate_train was called before configure_train: there is no current model"
            )
        # Not needed until the next configure_train: a checkpoint would hold the model twice.
        sent, self._sent = self._sent, None
        return to_record(self.incoming(to_arrays(sent), to_arrays(mean))), metrics


def split(arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model arrays, and extra arrays without their prefix.

    Example:
        >>> split({"w": 1, "extra/c": 2})
        ({'w': 1}, {'c': 2})
    """
    model = {name: array for name, array in arrays.items() if not name.startswith(EXTRA)}
    extra = {name[len(EXTRA) :]: array for name, array in arrays.items() if name.startswith(EXTRA)}
    return model, extra


def to_arrays(record: ArrayRecord) -> Arrays:
    """A Flower record as numpy arrays by name."""
    return {name: array.numpy() for name, array in record.items()}


def to_record(arrays: Arrays) -> ArrayRecord:
    """Numpy arrays by name as a Flower record."""
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def is_statistic(name: str) -> bool:
    """Whether an array is a running statistic of a normalisation layer.

    Example:
        >>> is_statistic("layer1.bn.running_var"), is_statistic("layer1.bn.weight")
        (True, False)
    """
    return not name.startswith(EXTRA) and name.rpartition(".")[2] in STATISTICS


def trained_flags(model: nn.Module) -> Arrays:
    """An extra array that tells the server which of the model's arrays gradient steps change.

    A buffer must be averaged, never scaled like an update. Only the sites have the model, and flags that all
    sites agree on survive a mean.

    Returns:
        `trained`: float32 of shape (number of model arrays without running statistics,), 1 where trained, in
        the order of sorted names.
    """
    parameters = {
        name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad
    }  # a tied weight has two names and both are trained
    names = sorted(name for name in model.state_dict() if not is_statistic(name))
    return {_TRAINED: np.array([name in parameters for name in names], np.float32)}


def trained_names(current: Arrays, mean: Arrays) -> set[str]:
    """The model arrays that the sites flagged with `trained_flags`."""
    flags = mean[EXTRA + _TRAINED]
    names = sorted(split(current)[0])
    return {name for name, flag in zip(names, flags, strict=True) if flag > 0.5}


def fitted(new: Mapping[str, Any], model: Arrays) -> Arrays:
    """What a strategy returned, as a model again: Flower's means turn integers, and FedAdam all, to float64.

    Args:
        new: Arrays by name; one that is absent stays as the model has it.
        model: The model before, whose names, shapes, dtypes and order hold.

    Raises:
        StrategyError: If there is a name that the model does not have, or another shape.
    """
    if unknown := sorted(set(new) - set(model)):
        raise StrategyError(
            f"the strategy returned an array {unknown[0]!r}, which the model does not have; "
            f"extra arrays are named {EXTRA}<name>",
            value=unknown[0],
            allowed=model,
        )
    return {name: _like(new[name], old, name) if name in new else old for name, old in model.items()}


def _weights(arrays: Arrays) -> Arrays:
    return {name: array for name, array in arrays.items() if not is_statistic(name)}


def _like(value: Any, old: NDArray[Any], name: str) -> NDArray[Any]:
    """`value` in the dtype of `old`, integers rounded; its shape must be that of `old`."""
    array: NDArray[Any] = np.asarray(value)
    if array.shape != old.shape:
        raise StrategyError(
            f"the strategy changed the shape of {name!r} from {old.shape} to {array.shape}; "
            "a model keeps its shapes",
            value=name,
        )
    if not np.issubdtype(old.dtype, np.inexact) and np.issubdtype(array.dtype, np.inexact):
        if not np.isfinite(array).all():
            raise StrategyError(f"the strategy returned values of {name!r} that are not finite", value=name)
        array = np.rint(array)
    return array.astype(old.dtype, copy=False)
