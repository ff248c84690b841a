"""Plans of the same offers under other weights: what a shorter round costs in carbon and in money.

The weights of time, carbon and cost are taken from a grid; those of latency and security stay as they are. Hard constraints
hold in all of them. Of a grid one gets the corners that sums of the terms reach, which is not every efficient placement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedcore.errors import JobError, NoPlacement
from fedcore.network.offer import Offer
from fedcore.network.place import make_plan
from fedcore.network.plan import Plan
from fedcore.network.policy import Policy, Weights
from fedcore.network.topology import Topology


@dataclass(frozen=True)
class Point:
    """One placement of the job.

    Args:
        weights: Of time, carbon and cost, summing to one; of the first weights that led to it.
        round_s: Seconds.
        grams: CO2 of a round, on the policy's basis.
        money: Price of a round.
        efficient: No other point is at least as good in all three and better in one.
    """

    weights: tuple[float, float, float]
    round_s: float
    grams: float
    money: float
    efficient: bool = True

    @property
    def figures(self) -> tuple[float, float, float]:
        """Seconds, grams, money."""
        return (self.round_s, self.grams, self.money)


def pareto(
    plan: Plan, offers: Sequence[Offer], topology: Topology, policy: Policy, *, steps: int = 5
) -> tuple[Point, ...]:
    """Placements over a grid of weights, the shortest round first.

    Args:
        plan: Whose work, root and scale are used.
        offers, topology, policy: What it was made of.
        steps: The grid has `(steps + 1) * (steps + 2) / 2` weights.

    Raises:
        NoPlacement: No placement keeps the hard constraints.
    """
    if steps < 1:
        raise JobError(f"steps is {steps}; it must be at least 1")
    found: dict[tuple[float, float, float], Point] = {}
    for weights in grid(steps):
        rules = policy.model_copy(update={"weights": _with(policy.weights, weights)})
        made = make_plan(
            offers, topology, rules, plan.work, plan.root, job=plan.job, seed=plan.seed, scale=plan.scale
        )
        point = point_of(made, policy, weights)
        found.setdefault(_rounded(point), point)
    if not found:
        raise NoPlacement("no placement keeps the hard constraints", step="placement")
    return judged(list(found.values()))


def grid(steps: int) -> list[tuple[float, float, float]]:
    """Weights of time, carbon and cost in equal steps; each three sum to one.

    Example:
        >>> grid(1)
        [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)]
    """
    return [
        (time / steps, carbon / steps, (steps - time - carbon) / steps)
        for time in range(steps + 1)
        for carbon in range(steps + 1 - time)
    ]


def point_of(plan: Plan, policy: Policy, weights: tuple[float, float, float] | None = None) -> Point:
    """A plan as a point; under its policy's own weights when none are given."""
    told = plan.prediction
    grams = told.gco2_market if policy.carbon.basis == "market" else told.gco2_location
    own = policy.weights
    return Point(weights or (own.time, own.carbon, own.cost), told.round_s, grams, told.cost)


def judged(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points with `efficient` set, the shortest round first."""
    made = [
        Point(
            one.weights,
            *one.figures,
            efficient=not any(_better(other.figures, one.figures) for other in points),
        )
        for one in points
    ]
    return tuple(sorted(made, key=lambda one: one.figures))


def _better(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def _with(weights: Weights, split: tuple[float, float, float]) -> Weights:
    """The three weights split anew; latency and security as they were."""
    left = 1 - weights.latency - weights.security
    if left <= 0:
        left, weights = 1.0, weights.model_copy(update={"latency": 0.0, "security": 0.0})
    time, carbon = left * split[0], left * split[1]
    values = {"time": time, "carbon": carbon, "cost": max(0.0, left - time - carbon)}
    return weights.model_copy(update=values)


def _rounded(point: Point) -> tuple[float, float, float]:
    time, grams, money = (float(f"{value:.6g}") for value in point.figures)
    return time, grams, money
