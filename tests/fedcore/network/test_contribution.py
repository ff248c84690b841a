"""Shapley values: exact ones by another formula, and GTG-Shapley against exact ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import DataError
from fedcore.network.contribution import (
    Sampling,
    Utility,
    by_usage,
    exact_shapley,
    gtg_shapley,
    update_utility,
)

FINE = Sampling(between=0.0, within=0.0, least=300, settled=0.005)
WORTHS = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6)


def names(count: int) -> list[str]:
    return [f"owner-{i}" for i in range(count)]


def saturating(worth: Mapping[str, float]) -> Utility:
    """What more data adds becomes less, as in learning; symmetric players are alike."""
    return lambda subset: 1 - math.exp(-2 * math.fsum(worth[each] for each in subset))


def over_all_orders(players: list[str], utility: Utility) -> dict[str, float]:
    """The definition: the mean marginal gain over every order."""
    total = dict.fromkeys(players, 0.0)
    orders = list(itertools.permutations(players))
    for order in orders:
        joined: frozenset[str] = frozenset()
        for player in order:
            total[player] += utility(joined | {player}) - utility(joined)
            joined |= {player}
    return {player: value / len(orders) for player, value in total.items()}


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=25)
@given(WORTHS)
def test_exact_values_are_the_mean_gain_over_every_order(worths: list[float]) -> None:
    worth = dict(zip(names(len(worths)), worths, strict=True))
    utility = saturating(worth)
    exact = exact_shapley(worth, utility)
    assert exact.values == pytest.approx(over_all_orders(sorted(worth), utility), abs=1e-12)
    assert exact.evaluated == 2 ** len(worth)


@settings(max_examples=25)
@given(WORTHS, st.integers(0, 2**32))
def test_values_add_up_to_what_all_gained(worths: list[float], seed: int) -> None:
    worth = dict(zip(names(len(worths)), worths, strict=True))
    utility = saturating(worth)
    gained = utility(frozenset(worth)) - utility(frozenset())
    for found in (exact_shapley(worth, utility), gtg_shapley([(worth, utility)], seeded(seed), FINE)):
        assert math.fsum(found.values.values()) == pytest.approx(gained, abs=1e-9)


@settings(max_examples=20)
@given(st.lists(st.floats(0.05, 1.0), min_size=2, max_size=6), st.integers(0, 2**32))
def test_gtg_is_close_to_exact(worths: list[float], seed: int) -> None:
    worth = dict(zip(names(len(worths)), worths, strict=True))
    utility = saturating(worth)
    exact = exact_shapley(worth, utility).values
    found = gtg_shapley([(worth, utility)], seeded(seed), FINE).values
    gained = utility(frozenset(worth))
    assert all(abs(found[name] - value) <= 0.03 * gained for name, value in exact.items())


def test_with_its_own_settings_gtg_evaluates_each_subset_once_and_few_of_them() -> None:
    worth = {name: 0.02 * (i + 1) for i, name in enumerate(names(12))}
    calls: list[frozenset[str]] = []

    def utility(subset: frozenset[str]) -> float:
        calls.append(subset)
        return saturating(worth)(subset)

    found = gtg_shapley([(worth, utility)], seeded(), Sampling())
    assert len(calls) == len(set(calls)) == found.evaluated < 2**12 / 4
    exact = exact_shapley(worth, saturating(worth)).values
    assert all(abs(found.values[name] - value) < 0.02 for name, value in exact.items())


@settings(max_examples=25)
@given(WORTHS, st.integers(0, 2**32))
def test_a_null_player_gets_nothing(worths: list[float], seed: int) -> None:
    worth = dict(zip(names(len(worths)), worths, strict=True))
    utility = saturating({**worth, "null": 0.0})
    everyone = [*worth, "null"]
    assert exact_shapley(everyone, utility).values["null"] == 0
    for sampling in (FINE, Sampling()):
        assert gtg_shapley([(everyone, utility)], seeded(seed), sampling).values["null"] == 0


@settings(max_examples=25)
@given(st.permutations(names(5)), st.integers(0, 2**32))
def test_the_order_in_which_participants_are_named_changes_nothing(order: list[str], seed: int) -> None:
    worth = dict(zip(names(5), (0.1, 0.4, 0.2, 0.9, 0.3), strict=True))
    utility = saturating(worth)
    found = [gtg_shapley([(each, utility)], seeded(seed)) for each in (order, names(5))]
    assert found[0] == found[1]
    assert exact_shapley(order, utility) == exact_shapley(names(5), utility)


def test_the_same_seed_gives_the_same_values_and_another_one_others() -> None:
    worth = {name: 0.1 + 0.1 * i for i, name in enumerate(names(8))}
    one, same, other = (gtg_shapley([(worth, saturating(worth))], seeded(s)).values for s in (1, 1, 2))
    assert one == same != other


def test_who_does_harm_gets_a_value_below_zero() -> None:
    def utility(subset: frozenset[str]) -> float:
        return len(subset - {"owner-0"}) - 0.5 * ("owner-0" in subset)

    for found in (
        exact_shapley(names(3), utility),
        gtg_shapley([(names(3), utility)], seeded(), FINE),
    ):
        assert found.values["owner-0"] == pytest.approx(-0.5)


def test_rounds_are_summed_and_a_round_without_a_gain_costs_two_evaluations() -> None:
    def gain(subset: frozenset[str]) -> float:
        return float(len(subset))

    found = gtg_shapley([(["a", "b"], gain), (["b", "c"], gain), (["a", "c"], lambda subset: 0.5)], seeded())
    assert found.values == pytest.approx({"a": 1.0, "b": 2.0, "c": 1.0})
    assert found.rounds_skipped == 1 and found.evaluated == 4 + 4 + 2


def test_an_order_is_cut_short_once_the_rest_cannot_matter() -> None:
    def first_wins(subset: frozenset[str]) -> float:
        return float(bool(subset))

    found = gtg_shapley([(names(8), first_wins)], seeded(), Sampling(least=30))
    assert found.evaluated == 1 + 1 + 8
    assert found.values == pytest.approx(dict.fromkeys(names(8), 1 / 8))


def test_a_run_of_nobody_has_no_values() -> None:
    assert gtg_shapley([], seeded()).values == {}
    assert gtg_shapley([([], lambda subset: 0.0)], seeded()).values == {}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_utility_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="finite"):
        gtg_shapley([(["a", "b"], lambda subset: value)], seeded())


def test_too_many_for_exact_values_and_a_name_twice_are_refused() -> None:
    with pytest.raises(DataError, match="gtg_shapley"):
        exact_shapley(names(17), lambda subset: 0.0)
    with pytest.raises(DataError, match="twice"):
        exact_shapley(["a", "a"], lambda subset: 0.0)


def test_the_utility_of_updates_is_of_the_weighted_mean_of_the_subset() -> None:
    before = {"w": np.zeros(2, np.float32), "n": np.array(3, np.int64)}
    updates = {
        "a": {"w": np.array([1, 0], np.float32), "n": np.array(4)},
        "b": {"w": np.array([0, 4], np.float32), "n": np.array(4)},
    }
    seen = []

    def evaluate(model: dict[str, np.ndarray]) -> float:
        seen.append(model)
        return float(model["w"].sum())

    utility = update_utility(before, updates, {"a": 3.0, "b": 1.0}, evaluate)
    assert utility(frozenset()) == 0.0
    assert utility(frozenset({"a"})) == 1.0
    assert utility(frozenset({"a", "b"})) == pytest.approx(0.75 + 1.0)
    assert {each["w"].dtype for each in seen} == {np.dtype(np.float32)}
    seen[0]["w"] += 1
    assert before["w"].sum() == 0
    # a alone 1, b alone 4, both 1.75: a adds 1 or -2.25, b adds 4 or 0.75.
    assert exact_shapley(["a", "b"], utility).values == pytest.approx({"a": -0.625, "b": 2.375})


def test_where_contributions_cannot_be_known_the_split_is_by_usage_and_says_why() -> None:
    found = by_usage({"b": 3, "a": 1}, "updates were summed under secagg+")
    assert found.values == {"a": 1.0, "b": 3.0} and found.how == "usage"
    assert "secagg+" in found.why
