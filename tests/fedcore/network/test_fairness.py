"""Fairness over windows of rounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import JobError
from fedcore.network.fairness import due_and_barred
from fedcore.network.policy import Fairness

OWNERS = [f"p{i}" for i in range(12)]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    window=st.integers(4, 12),
    rates=st.sampled_from([(0.0, 0.5), (0.25, 1.0), (0.25, 0.75), (0.2, 0.6), (0.34, 1.0), (0.4, 1.0)]),
)
def test_whoever_chooses_as_it_says_keeps_every_window(seed, window, rates):
    rule = Fairness(window=window, min_rate=rates[0], max_rate=rates[1])
    pick, draw = 5, np.random.default_rng(seed)
    if rule.most * len(OWNERS) < pick * window or rule.least * len(OWNERS) > pick * window:
        return
    history: list[set[str]] = []
    for _ in range(4 * window):
        forced, barred = due_and_barred(history, OWNERS, rule, pick)
        assert len(forced) <= pick and not forced & barred
        free = [name for name in OWNERS if name not in forced | barred]
        more = draw.permutation(free)[: pick - len(forced)].tolist()
        history.append({*forced, *more})
    for end in range(window, len(history) + 1):
        taken = [sum(name in round_ for round_ in history[end - window : end]) for name in OWNERS]
        assert rule.least <= min(taken) and max(taken) <= rule.most


def test_nobody_is_due_or_barred_without_a_rule():
    assert due_and_barred([{"p0"}] * 30, OWNERS, Fairness(), 3) == (frozenset(), frozenset())


def test_one_that_was_left_out_for_a_window_is_due():
    rule = Fairness(window=4, min_rate=0.25)
    forced, _ = due_and_barred([{"a", "b"}] * 3, ["a", "b", "c"], rule, 2)
    assert "c" in forced


def test_more_than_there_are_places_for_take_all_places():
    forced, _ = due_and_barred([{"a"}] * 3, ["a", "b", "c", "d"], Fairness(window=4, min_rate=0.25), 2)
    assert len(forced) == 2 and "a" not in forced


def test_rates_that_no_round_can_keep_are_refused_with_the_greatest_that_can():
    with pytest.raises(JobError, match=r"at most 0\.25"):
        due_and_barred([], OWNERS, Fairness(window=10, min_rate=0.5), 3)
