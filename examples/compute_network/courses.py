"""One course of training: a policy places each round, the simulated clock plays it, a real model is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from examples.compute_network.federation import HERE, ROOT, WORK, Network
from examples.compute_network.learning import Digits
from fedcore.errors import JobError, NoPlacement
from fedcore.network.clock import Clock, Weather
from fedcore.network.course import Lap, simulate
from fedcore.network.evaluate import Placed
from fedcore.network.offer import Offer
from fedcore.network.place import make_plan
from fedcore.network.plan import Plan
from fedcore.network.policy import Fairness, Policy, load_policy

POLICIES = ("fast", "green", "cheap", "balanced")
TARGET = 0.9
"""Accuracy that a course is to reach."""
ROUNDS = 120
SLACK = 1.1
"""Times the length of another policy's round."""


def policy(name: str) -> Policy:
    """Of the example's four."""
    return load_policy(HERE / "policies" / f"{name}.yaml")


@dataclass
class Chooser:
    """Places each round among the participants that are up.

    Args:
        policy: What is wanted.
        random: Draws the participants of a round; fedcore then places those and nobody else, by the same policy. None
            lets the policy choose them.
        than: A policy whose plan for the same round is made first; the round is then given a deadline of `SLACK` times
            what that predicts.
    """

    network: Network
    policy: Policy
    random: np.random.Generator | None = None
    than: Policy | None = None

    def __post_init__(self) -> None:
        self._history: list[tuple[str, ...]] = []
        if self.random is not None:
            # Chance is fair; what the policy says about turns would only get in its way.
            self.policy = self.policy.model_copy(update={"fairness": Fairness()})

    def __call__(self, number: int, up: Sequence[Offer]) -> Sequence[Placed]:
        """The placement of a round; none where too few are up."""
        if self.random is not None:
            owners = sorted({offer.owner for offer in up})
            count = min(self.policy.participants.pick or len(owners), len(owners))
            drawn = set(self.random.choice(owners, count, replace=False).tolist()) if owners else set()
            up = [offer for offer in up if offer.owner in drawn]
        try:
            rules = self.policy
            if self.than is not None:
                most = SLACK * self._plan(up, self.than).prediction.round_s
                rules = rules.model_copy(
                    update={"hard": rules.hard.model_copy(update={"round_deadline": most})}
                )
            plan = self._plan(up, rules)
        except (NoPlacement, JobError):
            return ()
        self._history.append(tuple(one.owner for one in plan.participants))
        return plan.placed()

    def _plan(self, up: Sequence[Offer], rules: Policy) -> Plan:
        return make_plan(up, self.network.topology, rules, WORK, ROOT, history=self._history)


def course(
    network: Network,
    rules: Policy,
    *,
    seed: int = 7,
    random: bool = False,
    than: Policy | None = None,
    target: float = TARGET,
    rounds: int = ROUNDS,
    weather: Weather | None = None,
) -> list[Lap]:
    """Train until the target, at most so many rounds.

    Args:
        network: With its offers.
        rules: Of the placement.
        seed: Of the data, the model, the weather and, where it is random, the choice.
        random: Let chance choose the participants.
        than: Make rounds hardly longer than by this policy; see `Chooser`.
        target: Accuracy at which it ends.
        rounds: At most.
        weather: Of the simulated clock.
    """
    choose = Chooser(network, rules, np.random.default_rng([seed, 3]) if random else None, than)
    clock = Clock(network.offers, network.topology, rules, WORK, ROOT, seed=seed, weather=weather)
    learner = Digits(network.owners, seed)
    return simulate(clock, choose, learner.train, rounds, target=target)
