"""A course of training: until its score, with the clock's sums, and no longer than a day without a placement."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedcore.errors import JobError
from fedcore.network.clock import CALM, DAY, Clock
from fedcore.network.course import first_at, simulate
from fedcore.network.evaluate import Placed
from fedcore.network.offer import Offer
from tests.fedcore.network.placing import WORK, network, offer, policy

ROOT = "s0"


def offers_of(count: int) -> list[Offer]:
    return [replace(offer(i, f"p{i}", ROOT), available=1.0) for i in range(count)]


def clock(offers: list[Offer]) -> Clock:
    return Clock(offers, network(), policy(), WORK, ROOT, weather=CALM)


def at_root(offers: list[Offer]) -> list[Placed]:
    return [Placed(one.owner, one.id, ROOT) for one in offers]


def test_rounds_go_on_until_the_score_and_their_sums_are_told() -> None:
    offers = offers_of(4)
    one = clock(offers)
    trained: list[tuple[str, ...]] = []

    def learn(owners: object) -> float:
        trained.append(tuple(owners))  # type: ignore[arg-type]
        return len(trained) / 10

    laps = simulate(one, lambda number, up: at_root(up)[:3], learn, 20, target=0.5)
    assert [lap.score for lap in laps] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert trained == [("p0", "p1", "p2")] * 5
    assert laps[-1].seconds == pytest.approx(sum(lap.took.seconds for lap in laps)) == one.now
    assert laps[-1].gco2 == pytest.approx(sum(lap.took.gco2_location for lap in laps))
    assert first_at(laps, 0.25) is laps[2] and first_at(laps, 0.9) is None


def test_time_passes_while_nothing_can_be_placed_and_a_day_of_it_is_an_error() -> None:
    offers = offers_of(3)
    one, asked = clock(offers), []

    def choose(number: int, up: object) -> list[Placed]:
        asked.append(number)
        return at_root(offers) if len(asked) % 3 == 0 else []

    laps = simulate(one, choose, lambda owners: 0.0, 2)
    assert asked == [1, 1, 1, 2, 2, 2]
    assert laps[-1].seconds == pytest.approx(sum(lap.took.seconds for lap in laps) + 4 * 60.0)
    with pytest.raises(JobError, match="simulated day"):
        simulate(clock(offers), lambda number, up: [], lambda owners: 0.0, 1, pause_s=DAY)
