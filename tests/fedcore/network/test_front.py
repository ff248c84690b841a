"""Placements of the same offers by other weights."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import FedcoreError, JobError
from fedcore.network.front import Point, grid, judged, pareto, point_of
from fedcore.network.place import make_plan
from fedcore.network.policy import Carbon, Hard, Weights
from tests.fedcore.network.placing import WORK, network, policy, random_offers

OFFERS, TOPOLOGY, RULES = random_offers(5, 9), network(), policy(4)
PLAN = make_plan(OFFERS, TOPOLOGY, RULES, WORK, "s0")


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_weights_of_the_grid_sum_to_one_and_hold_each_corner(steps: int) -> None:
    made = grid(steps)
    assert len(made) == len(set(made)) == (steps + 1) * (steps + 2) // 2
    assert all(math.isclose(math.fsum(one), 1) and min(one) >= 0 for one in made)
    assert {(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)} <= set(made)


def test_the_ends_of_the_front_are_the_best_of_each_figure() -> None:
    points = pareto(PLAN, OFFERS, TOPOLOGY, RULES, steps=4)
    assert len(points) > 2 and [one.round_s for one in points] == sorted(one.round_s for one in points)
    for place, term in ((0, "time"), (1, "carbon"), (2, "cost")):
        alone = policy(4)
        left = 1 - alone.weights.latency - alone.weights.security
        weights = {"time": 0.0, "carbon": 0.0, "cost": 0.0, "latency": 0.2, "security": 0.2, term: left}
        rules = alone.model_copy(update={"weights": Weights(**weights)})
        extreme = make_plan(OFFERS, TOPOLOGY, rules, WORK, "s0", scale=PLAN.scale)
        wanted = point_of(extreme, rules).figures
        assert min(one.figures[place] for one in points) <= wanted[place] * (1 + 1e-6)


def test_hard_constraints_hold_in_every_point() -> None:
    limit = PLAN.prediction.round_s * 1.2
    rules = policy(4, hard=Hard(round_deadline=limit))
    assert all(one.round_s <= limit for one in pareto(PLAN, OFFERS, TOPOLOGY, rules, steps=3))


def test_carbon_is_counted_on_the_policys_basis() -> None:
    market = RULES.model_copy(update={"carbon": Carbon(basis="market")})
    assert point_of(PLAN, market).grams == PLAN.prediction.gco2_market
    assert point_of(PLAN, RULES).grams == PLAN.prediction.gco2_location


def test_a_grid_without_steps_and_a_policy_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(JobError, match="at least 1"):
        pareto(PLAN, OFFERS, TOPOLOGY, RULES, steps=0)
    with pytest.raises(FedcoreError):
        pareto(PLAN, OFFERS, TOPOLOGY, policy(4, hard=Hard(round_deadline=0.01)), steps=1)


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_efficient_is_what_no_other_point_beats(figures: list[tuple[int, int, int]]) -> None:
    points = judged([Point((1, 0, 0), *map(float, one)) for one in figures])
    assert any(one.efficient for one in points)
    for one in points:
        beaten = any(
            all(a <= b for a, b in zip(other.figures, one.figures, strict=True))
            and other.figures != one.figures
            for other in points
        )
        assert one.efficient is not beaten
