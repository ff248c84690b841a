"""The conformance kit: every named strategy passes, and each fault is found by the check made for it."""

import functools
import threading

import numpy as np
import pytest
from flwr.serverapp import strategy as flower

import fedcore.testing.toy
from fedcore.testing import check_strategy
from strategies import registry
from strategies.base import ClientHalf, Strategy, to_arrays, to_record

TRAINS = "trains and keeps the model's arrays"
REPEATS = "repeats by seed"
RESUMES = "resumes from a checkpoint"
EMPTY = "survives a round without replies"
DROP_OUT = "survives a site that drops out"
EVALUATES = "evaluates"
SUMS = "says truly whether protection that sums serves it"


@functools.cache
def failures(strategy):
    report = check_strategy(strategy)
    return {check.name: check.message for check in report.checks if not check.passed}


class Momentum(Strategy):
    def update(self, current, mean):
        for name in mean:
            step = mean[name] - current[name] + 0.5 * self.state.get(name, 0.0)
            self.state[name] = np.asarray(step)
        return {name: current[name] + self.state[name] for name in mean}


class Velocity:
    """An object that no checkpoint knows."""

    def __init__(self):
        self.steps = {}


class Forgetful(Momentum):
    """Remembers outside what a checkpoint holds."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.velocity = Velocity()

    def update(self, current, mean):
        for name in mean:
            self.velocity.steps[name] = mean[name] - current[name] + 0.5 * self.velocity.steps.get(name, 0.0)
        return {name: current[name] + self.velocity.steps[name] for name in mean}


class Noisy(Strategy):
    def update(self, current, mean):
        return {name: array + np.random.default_rng().normal() for name, array in mean.items()}


class MedianThatSaysItSums(flower.FedMedian):
    summable = True


class UndeclaredMean(flower.FedAvg):
    pass


class UndeclaredPlainMean(flower.FedAvg):
    """Every site counts alike, whatever its rows."""

    def aggregate_train(self, server_round, replies):
        valid = [reply for reply in replies if not reply.has_error()]
        if not valid:
            return None, None
        sent = [to_arrays(reply.content["arrays"]) for reply in valid]
        return to_record({name: np.mean([arrays[name] for arrays in sent], axis=0) for name in sent[0]}), None


class NeedsEveryone(Strategy):
    summable = False

    def aggregate_train(self, server_round, replies):
        if sum(not reply.has_error() for reply in replies) < 5:
            return None, None
        return super().aggregate_train(server_round, replies)


class FirstReply(Strategy):
    def aggregate_train(self, server_round, replies):
        replies[0].metadata.src_node_id  # noqa: B018 - raises when nobody replied
        return super().aggregate_train(server_round, replies)


class CountsEmptyRounds(Strategy):
    def aggregate_train(self, server_round, replies):
        self.state["rounds"] = np.array([server_round])
        return super().aggregate_train(server_round, replies)


class Flattens(Strategy):
    def update(self, current, mean):
        return {name: np.ravel(array) for name, array in mean.items()}


class Diverges(Strategy):
    def update(self, current, mean):
        return {name: np.full_like(array, np.inf) for name, array in mean.items()}


class NoEvaluation(Strategy):
    def aggregate_evaluate(self, server_round, replies):
        return None


class RaisingHalf(ClientHalf):
    def finish(self, model):
        raise RuntimeError("no such layer")


class WithRaisingHalf(Strategy):
    client = RaisingHalf


class ListKeepingHalf(ClientHalf):
    def finish(self, model):
        self.state["losses"] = [0.1, 0.2]
        return {}


class WithListKeepingHalf(Strategy):
    client = ListKeepingHalf


released = threading.Event()


class WaitsForMore(Strategy):
    def configure_train(self, server_round, arrays, config, grid):
        released.wait()
        return []


@pytest.mark.parametrize("name", registry.names())
def test_every_named_strategy_passes_and_its_declared_algebra_is_the_measured_one(name):
    report = check_strategy(name)
    assert report.passed, str(report)
    assert report.summable is registry.resolve(name).summable


def test_a_good_strategy_of_ones_own_passes():
    report = check_strategy(Momentum)
    assert report.passed, str(report)
    assert report.summable is True


@pytest.mark.parametrize(
    ("strategy", "check", "words"),
    [
        (Forgetful, RESUMES, "self.velocity"),
        (Noisy, REPEATS, "default_rng((seed, server_round))"),
        (MedianThatSaysItSums, SUMS, "declare summable = False"),
        (NeedsEveryone, DROP_OUT, "aggregate those that came"),
        (FirstReply, EMPTY, "test_testing.py"),
        (CountsEmptyRounds, EMPTY, "changed self.state['rounds']"),
        (Flattens, TRAINS, "a model keeps its shapes"),
        (Diverges, TRAINS, "not finite"),
        (NoEvaluation, EVALUATES, "weighted mean of the sites' metrics"),
        (WithRaisingHalf, TRAINS, "RuntimeError: no such layer (test_testing.py"),
        (WithListKeepingHalf, TRAINS, "state['losses'] is a list"),
    ],
)
def test_a_fault_is_found_by_its_check_with_the_cure(strategy, check, words):
    found = failures(strategy)
    assert words in found.get(check, ""), found


def test_a_fault_fails_no_check_of_another_thing():
    assert set(failures(Forgetful)) == {RESUMES}
    assert set(failures(FirstReply)) == {EMPTY}
    assert set(failures(MedianThatSaysItSums)) == {SUMS}


@pytest.mark.parametrize(("strategy", "summable"), [(UndeclaredMean, True), (UndeclaredPlainMean, False)])
def test_an_undeclared_algebra_is_measured_and_the_declaration_told(strategy, summable):
    report = check_strategy(strategy)
    assert report.passed, str(report)
    assert report.summable is summable
    assert f"summable = {summable}" in report.checks[-1].message


def test_a_strategy_that_waits_for_sites_that_never_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(fedcore.testing.toy, "PATIENCE", 0.2)
    try:
        assert "does not come back" in failures(WaitsForMore)[TRAINS]
    finally:
        released.set()


def test_wrong_parameters_are_reported_not_raised():
    report = check_strategy("fedadam", parameters={"serverlr": 0.1})
    assert not report.passed
    assert 'did you mean "server_lr"' in str(report)


def test_parameters_reach_both_halves():
    assert check_strategy("fedprox", parameters={"mu": 0.5}).passed
