"""The choice between all workers and one alone."""

from __future__ import annotations

import pytest

from fedcore.engines.pace import Pace


def settle(pace: Pace, kind: str, together: float, alone: float, replies: int = 200) -> list[int]:
    limits = []
    for _ in range(replies):
        limits.append(pace.limit(kind))
        pace.replied(kind, alone if limits[-1] == 1 else together)
    return limits


@pytest.mark.parametrize(("together", "alone", "kept"), [(0.02, 0.01, 1), (0.01, 0.02, 2), (0.01, 0.0099, 2)])
def test_the_faster_is_kept_and_all_workers_where_it_makes_no_difference(together, alone, kept) -> None:
    pace = Pace(2)
    limits = settle(pace, "train", together, alone)
    assert {1, 2} == set(limits), "both were tried"
    assert set(limits[-100:]) == {kept}


def test_each_kind_of_message_has_its_own() -> None:
    pace = Pace(2)
    settle(pace, "train", 0.02, 0.01)
    settle(pace, "evaluate", 0.01, 0.02)
    assert (pace.limit("train"), pace.limit("evaluate"), pace.limit("query")) == (1, 2, 2)


def test_a_moment_in_which_the_machine_was_busy_does_not_decide() -> None:
    pace = Pace(2)
    for number in range(200):
        slow = 1.0 if number == 10 else 0.0
        pace.replied("train", slow + (0.01 if pace.limit("train") == 1 else 0.02))
    assert pace.limit("train") == 1


def test_the_first_replies_which_read_and_build_do_not_count() -> None:
    pace = Pace(2)
    for _ in range(4):
        pace.replied("train", 10.0)
    settle(pace, "train", 0.01, 0.02)
    assert pace.limit("train") == 2


def test_a_single_worker_has_no_choice() -> None:
    pace = Pace(1)
    assert set(settle(pace, "train", 0.02, 0.01)) == {1}
