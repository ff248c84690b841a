"""Strategies by name: which exist, what they take, which client half belongs to them, what they reveal.

A strategy is named in a job as `use: fedadam` or as `use: package.module:Class`, which may be any Flower
strategy. A parameter has one friendly name over all strategies (`server_lr`, `mu`, `momentum`); Flower's own
name is understood too. What fedcore sets itself (how many sites, record keys) is not a parameter.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from flwr.serverapp import strategy as flower

from strategies.base import ClientHalf, Strategy, StrategyError
from strategies.bulyan import Bulyan
from strategies.fedbn import FedBN
from strategies.fednova import FedNova
from strategies.fedopt import FedAdagrad, FedAdam, FedAvgM, FedYogi
from strategies.fedprox import FedProx
from strategies.qfedavg import QFedAvg
from strategies.scaffold import Scaffold

_BY_NAME: dict[str, type[flower.Strategy]] = {
    "fedavg": flower.FedAvg,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "fednova": FedNova,
    "fedbn": FedBN,
    "fedmedian": flower.FedMedian,
    "fedtrimmedavg": flower.FedTrimmedAvg,
    "krum": flower.Krum,
    "multikrum": flower.MultiKrum,
    "bulyan": Bulyan,
    "qfedavg": QFedAvg,
}

# Does the server half need only the weighted mean of the replies? Read from Flower's code, held by
# `fedcore.testing.check_strategy` in the tests.
_FLOWER_SUMMABLE: dict[type[flower.Strategy], bool] = {
    flower.FedAvg: True,
    flower.FedAvgM: True,
    flower.FedAdam: True,
    flower.FedYogi: True,
    flower.FedAdagrad: True,
    flower.FedProx: True,
    flower.FedMedian: False,
    flower.FedTrimmedAvg: False,
    flower.Krum: False,
    flower.MultiKrum: False,
    flower.Bulyan: False,
    flower.QFedAvg: False,
    flower.FedXgbBagging: False,
    flower.FedXgbCyclic: False,
    flower.DifferentialPrivacyServerSideFixedClipping: False,
    flower.DifferentialPrivacyServerSideAdaptiveClipping: False,
}

_SET_BY_FEDCORE = frozenset(
    {
        "fraction_train",
        "fraction_evaluate",
        "min_train_nodes",
        "min_evaluate_nodes",
        "min_available_nodes",
        "weighted_by_key",
        "arrayrecord_key",
        "configrecord_key",
        "train_metrics_aggr_fn",
        "evaluate_metrics_aggr_fn",
        "client_learning_rate",  # QFedAvg: the job's local.lr
        "train_loss_key",  # QFedAvg: the name of the task's loss
        "eta_l",  # FedOpt: Flower never reads it; the job's local.lr is the local rate
        "selection_rule",  # Bulyan: a function cannot stand in a job
    }
)

_FRIENDLY = {
    "eta": "server_lr",
    "server_learning_rate": "server_lr",
    "server_momentum": "momentum",
    "beta_1": "beta1",
    "beta_2": "beta2",
    "proximal_mu": "mu",
    "num_malicious_nodes": "malicious",
    "num_nodes_to_select": "select",
    "beta": "trim",
}

# Flower's own defaults make these two plain FedAvg, which nobody means who asks for them.
_DEFAULTS: dict[type[flower.Strategy], dict[str, Any]] = {
    flower.FedAvgM: {"server_momentum": 0.9},
    FedProx: {"proximal_mu": 0.01},
}

_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "server_lr": ("above 0", lambda x: x > 0),
    "momentum": ("in [0, 1)", lambda x: 0 <= x < 1),
    "beta1": ("in [0, 1)", lambda x: 0 <= x < 1),
    "beta2": ("in [0, 1)", lambda x: 0 <= x < 1),
    "tau": ("above 0", lambda x: x > 0),
    "mu": ("at least 0", lambda x: x >= 0),
    "malicious": ("at least 0", lambda x: x >= 0),
    "select": ("at least 1", lambda x: x >= 1),
    "trim": ("in [0, 0.5)", lambda x: 0 <= x < 0.5),
    "q": ("at least 0", lambda x: x >= 0),
}


@dataclass(frozen=True)
class Entry:
    """A strategy that was found.

    Args:
        name: As the job names it.
        server: Its server half.
        client: Its client half, or None when sites do plain local training.
        summable: Whether the weighted mean of the replies is all it needs; None when nobody has said.
    """

    name: str
    server: type[flower.Strategy]
    client: type[ClientHalf] | None
    summable: bool | None


@dataclass(frozen=True)
class ParameterInfo:
    """A parameter that a job may set.

    Args:
        name: Its friendly name.
        type: `float`, `int`, `str`, `bool`, or `object` when its class does not say.
        default: What it is when the job does not say; None for a required one.
        required: Whether the job must set it.
        keyword: Its name in the constructor.
        allowed: The range in words, or empty.
    """

    name: str
    type: type
    default: Any
    required: bool
    keyword: str
    allowed: str = ""

    @property
    def expected(self) -> str:
        """What a value must be, in words: `a number above 0`."""
        words = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
        return " ".join(part for part in (words.get(self.type, ""), self.allowed) if part) or "a value"

    def fits(self, value: Any) -> bool:
        """Whether a value has the type and lies in the range."""
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if self.type in (float, int):
            typed = number and (self.type is float or isinstance(value, int))
        else:
            typed = self.type is object or isinstance(value, self.type)
        return typed and (not self.allowed or _RANGES[self.name][1](value))


def names() -> tuple[str, ...]:
    """The strategies that have a name, sorted."""
    return tuple(sorted(_BY_NAME))


Use = str | type[flower.Strategy]
"""A strategy as a job names it, or its class itself."""


def resolve(use: Use) -> Entry:
    """Find a strategy. An import path runs that module's code, so a site must allow it first.

    Args:
        use: A name of `names()`, `package.module:Class`, or a class.

    Raises:
        StrategyError: If there is none, or it is not a strategy.
    """
    if isinstance(use, str):
        server = _imported(use) if ":" in use else _BY_NAME.get(use)
        if server is None:
            raise _unknown("strategy", use, _BY_NAME, "or package.module:Class")
    else:
        server, use = use, use.__name__
    client = getattr(server, "client", None)
    if client is not None and not (isinstance(client, type) and issubclass(client, ClientHalf)):
        raise StrategyError(
            f"{use}: its attribute `client` must be a subclass of strategies.base.ClientHalf or None",
            value=client,
        )
    return Entry(use, server, client, _summable(server))


def allowed_parameters(use: Use) -> dict[str, ParameterInfo]:
    """The parameters a job may set for a strategy, by friendly name.

    Raises:
        StrategyError: If there is no such strategy.
    """
    return _parameters(resolve(use).server)


def build(use: Use, parameters: Mapping[str, Any], **settings: Any) -> flower.Strategy:
    """Make a strategy.

    Args:
        use: A name of `names()`, `package.module:Class`, or a class.
        parameters: As the job has them.
        **settings: What fedcore sets (`min_train_nodes`, ...). Those that the class does not take are left
            out: a strategy written on Flower's bare `Strategy` has no such settings.

    Raises:
        StrategyError: If the strategy or a parameter is unknown, missing, of the wrong type or out of range.
    """
    entry = resolve(use)
    use, server = entry.name, entry.server
    infos = _parameters(server)
    arguments = {name: value for name, value in settings.items() if _takes(server, name)}
    arguments.update({info.keyword: info.default for info in infos.values() if not info.required})
    keywords = {info.keyword: info for info in infos.values()}
    given: dict[str, str] = {}
    for name, value in parameters.items():
        info = infos.get(name) or keywords.get(name)
        if info is None:
            raise _unknown(f"parameter of strategy {use}", name, infos, _no_parameter(name))
        if info.keyword in given:
            raise StrategyError(f"strategy {use}: {given[info.keyword]} and {name} are the same parameter")
        given[info.keyword] = name
        if not info.fits(value):
            raise StrategyError(
                f"strategy {use}: {info.name} is {value!r} but must be {info.expected}",
                value=value,
                allowed=[info.expected],
            )
        arguments[info.keyword] = float(value) if info.type is float else value
    missing = [info.name for info in infos.values() if info.required and info.keyword not in given]
    if missing:
        raise StrategyError(f"strategy {use} needs {', '.join(missing)}; add it to the job", allowed=infos)
    try:
        return server(**arguments)
    except (TypeError, ValueError) as error:
        raise StrategyError(f"strategy {use} cannot be made of these parameters: {error}") from error


def _imported(use: str) -> type[flower.Strategy]:
    """The class that an import path names."""
    module_name, _, class_name = use.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module that somebody wrote may raise anything
        raise StrategyError(
            f"strategy {use}: cannot import {module_name} ({type(error).__name__}: {error}); "
            "install it, or add its folder to PYTHONPATH",
            value=module_name,
        ) from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, flower.Strategy)):
        there = [
            name
            for name, value in vars(module).items()
            if isinstance(value, type)
            and issubclass(value, flower.Strategy)
            and not inspect.isabstract(value)
        ]
        raise _unknown(f"strategy in {module_name}", class_name, there, "a subclass of a Flower strategy")
    return found


def _summable(server: type[flower.Strategy]) -> bool | None:
    """What the class says, else what is known of Flower's.

    A subclass of one of Flower's may do anything with the replies, so that a base which needs only the mean
    proves nothing; a base which needs each reply stays one.
    """
    declared = getattr(server, "summable", None)
    if isinstance(declared, bool):
        return declared
    if server in _FLOWER_SUMMABLE:
        return _FLOWER_SUMMABLE[server]
    return False if any(_FLOWER_SUMMABLE.get(base) is False for base in server.__mro__) else None


def _signature(server: type) -> Iterator[tuple[type, inspect.Parameter, Any]]:
    """Every keyword that the constructor takes, through `**settings` up to the base that ends it."""
    seen: set[str] = set()
    for owner in server.__mro__:
        init = vars(owner).get("__init__")
        if init is None:
            continue
        try:
            hints = get_type_hints(init)
        except NameError:  # an annotation that exists for the type checker only
            hints = {}
        parameters = list(inspect.signature(init).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                if parameter.name not in seen:
                    yield owner, parameter, hints.get(parameter.name)
                seen.add(parameter.name)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return


def _takes(server: type, name: str) -> bool:
    return any(parameter.name == name for _, parameter, _ in _signature(server))


def _parameters(server: type[flower.Strategy]) -> dict[str, ParameterInfo]:
    found: dict[str, ParameterInfo] = {}
    for owner, parameter, hint in _signature(server):
        if parameter.name in _SET_BY_FEDCORE:
            continue
        known = owner.__module__.split(".")[0] in ("flwr", "strategies")
        name = _FRIENDLY.get(parameter.name, parameter.name) if known else parameter.name
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        for base in server.__mro__:
            if parameter.name in _DEFAULTS.get(base, {}):
                default = _DEFAULTS[base][parameter.name]
                break
        kind = hint if hint in (float, int, str, bool) else type(default) if default is not None else object
        allowed = _RANGES[name][0] if known and name in _RANGES else ""
        found[name] = ParameterInfo(name, kind, default, required, parameter.name, allowed)
    return found


def _no_parameter(name: str) -> str:
    return "fedcore sets that one itself" if name in _SET_BY_FEDCORE else ""


def _unknown(what: str, word: str, allowed: Iterable[str], also: str = "") -> StrategyError:
    """No `what` is called `word`; the nearest word and all of them."""
    listed = sorted(allowed)
    plain = {_plain(name): name for name in listed}
    close = difflib.get_close_matches(_plain(word), list(plain), n=1, cutoff=0.55)
    best = plain[close[0]] if close else None
    hint = f'did you mean "{best}"? ' if best else ""
    text = f"no {what} is called {word!r}; {hint}allowed: {', '.join(listed) or 'none'}"
    return StrategyError(f"{text}; {also}" if also else text, value=word, allowed=listed, nearest=best)


def _plain(word: str) -> str:
    """As people mistype it: no case, no separators."""
    return re.sub("[-_ .]", "", word.lower())


__all__ = [
    "Entry",
    "ParameterInfo",
    "Strategy",
    "StrategyError",
    "allowed_parameters",
    "build",
    "names",
    "resolve",
]
