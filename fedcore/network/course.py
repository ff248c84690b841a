"""A course of training beside the simulated clock: rounds that are placed, played and learned from, until a score.

The clock tells what each round would take; the model is really trained, by whom the placement chose and no one lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedcore.errors import JobError
from fedcore.network.clock import DAY, Clock, SimulatedRound
from fedcore.network.evaluate import Placed
from fedcore.network.offer import Offer


@dataclass(frozen=True)
class Lap:
    """A simulated round and what the model could do after it.

    Args:
        took: By the simulated clock.
        score: Of the model that was really trained, such as its accuracy.
        seconds, kwh, gco2, cost: Since the start; carbon location-based.
    """

    took: SimulatedRound
    score: float
    seconds: float
    kwh: float
    gco2: float
    cost: float


def simulate(
    clock: Clock,
    choose: Callable[[int, Sequence[Offer]], Sequence[Placed]],
    learn: Callable[[Sequence[str]], float],
    rounds: int,
    *,
    target: float = math.inf,
    pause_s: float = 60.0,
) -> list[Lap]:
    """Rounds until a score is reached, at most so many.

    Args:
        clock: That tells the time.
        choose: The placement of a round, from its number and the offers of nodes that are up; empty when it has none.
        learn: Trains a round with the owners whose updates came, and gives the model's score.
        target: Score at which to end.
        pause_s: Simulated seconds to wait where nothing could be placed, which counts as time.

    Raises:
        JobError: Nothing could be placed for a simulated day.
    """
    laps: list[Lap] = []
    kwh = grams = money = 0.0
    for number in range(1, rounds + 1):
        waited = 0.0
        while not (placed := choose(number, clock.online())):
            clock.wait(pause_s)
            waited += pause_s
            if waited > DAY:
                raise JobError("clock: nothing could be placed for a simulated day", step="clock")
        took = clock.round(placed)
        kwh, grams, money = kwh + took.kwh, grams + took.gco2_location, money + took.cost
        score = learn(took.done)
        laps.append(Lap(took, score, clock.now, kwh, grams, money))
        if score >= target:
            break
    return laps


def first_at(laps: Sequence[Lap], target: float) -> Lap | None:
    """The first round after which the score is reached; None where none is."""
    return next((lap for lap in laps if lap.score >= target), None)
