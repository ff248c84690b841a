"""Availability: a posterior over heartbeats, and outages that were seen."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.network.availability import from_heartbeats
from fedcore.network.quantity import contradictions


def test_a_node_that_always_answered_is_nearly_sure_and_few_answers_are_not() -> None:
    many = from_heartbeats([30.0 * i for i in range(1, 1000)], begin=0, end=29_990)
    few = from_heartbeats([30.0, 60.0], begin=0, end=61)
    assert (many.came, many.missed, many.outages) == (999, 0, 0)
    # Beta(1000, 1) and Beta(3, 1), from the textbook.
    assert many.up == pytest.approx(1000 / 1001) and few.up == pytest.approx(0.75)
    assert few.spread == pytest.approx(math.sqrt(3 / (16 * 5)) / 0.75)
    assert many.quantities()["availability"].reliable and not few.quantities()["availability"].reliable


def test_an_outage_counts_its_heartbeats_and_its_seconds() -> None:
    moments = [30.0 * i for i in range(1, 101) if not 40 < i <= 60]
    seen = from_heartbeats(moments, begin=0, end=3000)
    assert (seen.came, seen.missed, seen.outages) == (80, 20, 1)
    assert seen.down_s == pytest.approx(600) and seen.mttr_s == pytest.approx(600)
    assert seen.up_s == pytest.approx(2400)


def test_one_late_heartbeat_is_no_outage() -> None:
    seen = from_heartbeats([30, 75, 90, 120], begin=0, end=120)
    assert seen.outages == 0 and seen.missed <= 1


def test_a_node_that_was_never_seen_is_down() -> None:
    seen = from_heartbeats([], begin=0, end=3000)
    assert seen.up < 0.02 and seen.outages == 1


@given(st.lists(st.floats(0, 3600), max_size=60), st.floats(1, 3600))
def test_a_longer_round_is_never_likelier_to_pass(moments: list[float], seconds: float) -> None:
    seen = from_heartbeats(moments, begin=0, end=3600)
    assert 0 <= seen.for_a_round(2 * seconds) <= seen.for_a_round(seconds) <= seen.up <= 1
    assert contradictions(seen.quantities()) == []


@pytest.mark.parametrize(("begin", "end", "interval"), [(0, 0, 30), (5, 1, 30), (0, 10, 0)])
def test_no_time_is_refused(begin: float, end: float, interval: float) -> None:
    with pytest.raises(ValueError, match="no time to watch"):
        from_heartbeats([], begin=begin, end=end, interval=interval)
