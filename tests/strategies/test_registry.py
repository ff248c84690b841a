"""Strategies by name or import path, their parameters and what a wrong word is answered with."""

import sys

import pytest
from flwr.serverapp import strategy as flower

from strategies import registry
from strategies.base import Strategy, StrategyError
from strategies.fedbn import FedBN, FedBNClient
from strategies.fedprox import FedProxClient
from strategies.scaffold import ScaffoldClient

NAMES = [
    "bulyan",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedbn",
    "fedmedian",
    "fednova",
    "fedprox",
    "fedtrimmedavg",
    "fedyogi",
    "krum",
    "multikrum",
    "qfedavg",
    "scaffold",
]


class Reserved(Strategy):
    """A developer's own, with a parameter that shares a name with one of Flower's."""

    def __init__(self, *, beta: int, note: str = "", **settings):
        super().__init__(**settings)
        self.beta, self.note = beta, note


class OnTopOfMedian(flower.FedMedian):
    pass


class OnTopOfAdam(flower.FedAdam):
    pass


class Bare(flower.Strategy):
    """A strategy on Flower's bare base, which knows none of FedAvg's settings."""

    def __init__(self, speed: float = 1.0):
        self.speed = speed

    def configure_train(self, server_round, arrays, config, grid):
        return []

    def aggregate_train(self, server_round, replies):
        return None, None

    def configure_evaluate(self, server_round, arrays, config, grid):
        return []

    def aggregate_evaluate(self, server_round, replies):
        return None

    def summary(self):
        return None


class WrongClient(Strategy):
    client = "FedProxClient"


def here(name):
    return f"{__name__}:{name}"


def test_the_names_are_those_the_manual_lists():
    assert registry.names() == tuple(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_builds_and_keeps_the_settings_of_fedcore(name):
    settings = {"min_train_nodes": 3, "client_learning_rate": 0.1, "train_loss_key": "loss"}
    built = registry.build(name, {}, **settings)
    assert built.min_train_nodes == 3
    assert registry.resolve(name).server is type(built)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_allowed_values_and_hide_what_fedcore_sets(name):
    for info in registry.allowed_parameters(name).values():
        assert info.fits(info.default), info
        assert not info.keyword.startswith(("fraction_", "min_", "weighted_by"))


def test_friendly_names_reach_flowers_parameters():
    adam = registry.build("fedadam", {"server_lr": 0.03, "beta1": 0.5, "beta2": 0.7, "tau": 0.1})
    assert (adam.eta, adam.beta_1, adam.beta_2, adam.tau) == (0.03, 0.5, 0.7, 0.1)
    momentum = registry.build("fedavgm", {"server_lr": 0.5, "momentum": 0.8})
    assert (momentum.server_learning_rate, momentum.server_momentum) == (0.5, 0.8)
    assert registry.build("fedprox", {"mu": 2}).proximal_mu == 2.0
    assert registry.build("multikrum", {"malicious": 1, "select": 3}).num_nodes_to_select == 3


def test_flowers_own_names_are_understood_too():
    assert registry.build("fedadam", {"eta": 0.03}).eta == 0.03


def test_fedavgm_and_fedprox_do_something_by_default():
    assert registry.build("fedavgm", {}).server_momentum > 0
    assert registry.build("fedprox", {}).proximal_mu > 0


def test_client_halves_follow_from_the_name():
    assert registry.resolve("fedprox").client is FedProxClient
    assert registry.resolve("scaffold").client is ScaffoldClient
    assert registry.resolve("fedbn").client is FedBNClient
    assert registry.resolve("fedadam").client is None


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ("fedavg", True),
        ("fedadam", True),
        ("scaffold", True),
        ("fedmedian", False),
        ("krum", False),
        ("qfedavg", False),
        ("flwr.serverapp.strategy:DifferentialPrivacyServerSideFixedClipping", False),
        (here("Reserved"), True),
        (here("OnTopOfMedian"), False),
        (here("OnTopOfAdam"), None),
        (here("Bare"), None),
    ],
)
def test_what_is_known_of_a_strategys_algebra(use, expected):
    assert registry.resolve(use).summable is expected


def test_an_import_path_finds_a_strategy():
    assert registry.resolve("strategies.fedbn:FedBN").server is FedBN
    assert isinstance(registry.build(here("OnTopOfAdam"), {"server_lr": 0.2}), OnTopOfAdam)


def test_a_developers_parameter_keeps_its_name_type_and_need():
    infos = registry.allowed_parameters(here("Reserved"))
    assert set(infos) == {"beta", "note"}
    assert infos["beta"].required
    assert infos["beta"].type is int
    assert registry.build(here("Reserved"), {"beta": 7}, min_train_nodes=4).min_train_nodes == 4
    with pytest.raises(StrategyError, match="needs beta"):
        registry.build(here("Reserved"), {})


def test_a_strategy_on_flowers_bare_base_gets_no_settings_it_does_not_know():
    assert registry.build(here("Bare"), {"speed": 2}, min_train_nodes=3).speed == 2.0


@pytest.mark.parametrize(
    ("use", "nearest"),
    [("fedadm", "fedadam"), ("Fed-Adam", "fedadam"), ("scafold", "scaffold"), ("zzz", None)],
)
def test_an_unknown_name_is_answered_with_the_nearest(use, nearest):
    with pytest.raises(StrategyError) as caught:
        registry.resolve(use)
    assert caught.value.nearest == nearest
    assert caught.value.allowed == tuple(NAMES)
    assert use in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"serverlr": 1}, 'did you mean "server_lr"'),
        ({"server_lr": 0}, "above 0"),
        ({"server_lr": "fast"}, "a number"),
        ({"server_lr": True}, "a number"),
        ({"server_lr": float("nan")}, "a number"),
        ({"beta1": 1.0}, r"in \[0, 1\)"),
        ({"eta": 1, "server_lr": 1}, "the same parameter"),
        ({"min_train_nodes": 2}, "fedcore sets that one itself"),
    ],
)
def test_a_wrong_parameter_is_answered_with_what_is_allowed(parameters, words):
    with pytest.raises(StrategyError, match=words):
        registry.build("fedadam", parameters)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        ("no.such.module:Thing", "cannot import no.such.module"),
        (":Thing", "cannot import"),
        ("strategies.fedbn:FedNB", 'did you mean "FedBN"'),
        ("strategies.base:ClientHalf", "no strategy in strategies.base"),
        (here("WrongClient"), "ClientHalf or None"),
    ],
)
def test_a_wrong_import_path_is_answered_with_the_cure(use, words):
    with pytest.raises(StrategyError, match=words):
        registry.resolve(use)


def test_a_module_that_raises_at_import_is_named_with_its_error(tmp_path, monkeypatch):
    (tmp_path / "broken_strategy.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(StrategyError, match=r"broken_strategy \(ZeroDivisionError"):
        registry.resolve("broken_strategy:Mine")
    assert "broken_strategy" not in sys.modules


def test_a_constructor_that_refuses_is_an_error_of_ours(tmp_path, monkeypatch):
    source = (
        "from strategies.base import Strategy\n"
        "class Picky(Strategy):\n"
        "    def __init__(self, *, level: int = 1, **settings):\n"
        "        super().__init__(**settings)\n"
        "        if level > 3: raise ValueError('level is at most 3')\n"
    )
    (tmp_path / "picky_strategy.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(StrategyError, match="level is at most 3"):
        registry.build("picky_strategy:Picky", {"level": 9})


def test_strategies_import_neither_torch_nor_ray_nor_fedcore():
    import subprocess

    heavy = "{'torch', 'ray', 'fedcore', 'crypto'}"
    code = f"import strategies.registry, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
