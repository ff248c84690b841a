"""The least noise: enough, hardly more, and no leap below half of what was known to be enough."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.privacy.least import least

TOLERANCE = 1e-3


def looked_at(
    cost: Callable[[float], float], target: float, high: float, lowest: float = 0.01
) -> tuple[float, list[float]]:
    """The noise that was found, and those on the way."""
    looks: list[float] = []

    def noted(noise: float) -> float:
        looks.append(noise)
        return cost(noise)

    return least(noted, target, high, lowest=lowest, tolerance=TOLERANCE), looks


@given(
    root=st.floats(0.02, 1e3),
    power=st.floats(0.3, 40),
    bend=st.floats(0, 5),
    times=st.floats(1, 20),
)
def test_it_is_enough_and_hardly_more(root: float, power: float, bend: float, times: float) -> None:
    def cost(noise: float) -> float:
        x = math.log(noise / root)
        return math.exp(min(max(-power * x + bend * x * abs(x) * -1, -700), 700))

    found, looks = looked_at(cost, 1.0, root * times)
    assert root * (1 - 1e-12) <= found <= root * (1 + 1.01 * TOLERANCE)
    assert len(looks) < 40
    # Never below half of a noise that was enough, when it was looked at.
    enough = looks[0]
    for each in looks[1:]:
        assert each >= enough / 2 * (1 - 1e-12)
        enough = min(enough, each) if cost(each) <= 1 else enough


@pytest.mark.parametrize("wrong", [math.inf, math.nan, 1e300])
def test_a_cost_that_jumps_is_closed_in_on(wrong: float) -> None:
    for below in (0.0, 1e-9, 0.5):
        found, looks = looked_at(lambda noise, below=below: below if noise >= 0.37 else wrong, 1.0, 1.0)
        assert 0.37 <= found <= 0.37 * (1 + TOLERANCE) and len(looks) < 40


def test_less_than_the_lowest_is_not_looked_at() -> None:
    found, looks = looked_at(lambda noise: 0.0, 1.0, 1.0)
    assert found == 0.01 == min(looks) and len(looks) < 12
    assert looked_at(lambda noise: 0.5, 1.0, 0.01)[0] == 0.01
