"""A toy's count and sum, released 10,000 times, have the distribution that their budget claims.

From the bounds and the budget on, by the functions that a release goes through. Each test has one chance to fail, of 1e-8.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fedcore.privacy import answers, sensitivity
from fedcore.privacy.budget import gaussian_cost, gaussian_variance, laplace_cost, laplace_scale
from fedcore.privacy.mechanisms import discrete_gaussian, discrete_laplace
from fedcore.privacy.sensitivity import Contribution, Neighbours, Sensitivity
from tests.fedcore.privacy.test_mechanisms import check, gaussian, laplace

REPEATS = 10_000
AGES = np.array([34, 51, 67, 72, 45, 58, 63, 70, 29, 81, 95, 12])
LOW, HIGH = 18, 90
PERSON = Neighbours("person")
TWO = Contribution(rows=2)
TOY = [
    (len(AGES), sensitivity.count(Neighbours()), 1),
    (len(AGES), sensitivity.count(PERSON, TWO), 2),
    (int(AGES.clip(LOW, HIGH).sum()), sensitivity.total(LOW, HIGH, Neighbours()), 90),
    (int(AGES.clip(LOW, HIGH).sum()), sensitivity.total(LOW, HIGH, Neighbours(change="replace")), 90),
    (int(AGES.clip(LOW, HIGH).sum()), sensitivity.total(LOW, HIGH, PERSON, TWO), 180),
]
"""What is released without noise, its sensitivity, and the most by which a neighbour changes it."""


@pytest.mark.parametrize(("exact", "moves", "most"), TOY)
@pytest.mark.parametrize("epsilon", ["1/2", "2"])
def test_under_discrete_laplace_noise(exact: int, moves: Sensitivity, most: int, epsilon: str) -> None:
    scale = laplace_scale(moves, epsilon)
    released = exact + discrete_laplace(scale, REPEATS)
    claimed = most / float(Fraction(epsilon))
    check(released - exact, laplace(claimed), round(30 * claimed) + 30)
    assert laplace_cost(moves, scale).amount == Fraction(epsilon)


@pytest.mark.parametrize(("exact", "moves", "most"), TOY)
@pytest.mark.parametrize("rho", ["1/8", "2"])
def test_under_discrete_gaussian_noise(exact: int, moves: Sensitivity, most: int, rho: str) -> None:
    variance = gaussian_variance(moves, rho)
    released = exact + discrete_gaussian(variance, REPEATS)
    claimed = most**2 / (2 * float(Fraction(rho)))
    check(released - exact, gaussian(claimed), round(8 * claimed**0.5) + 8)
    assert gaussian_cost(moves, variance).amount == Fraction(rho)


@pytest.mark.parametrize("participants", [1, 5])
def test_the_noise_of_an_answer_over_its_participants(participants: int) -> None:
    # Each of 10,000 groups gets noise as if it were alone: a repeat for each, in one answer.
    rows = np.arange(REPEATS) % 7
    entries = {"rows": answers.Entries((REPEATS,), 0, 1, whole=True)}
    plan = answers.plan_answers(entries, Neighbours(), epsilon="1/2", delta="1e-6", participants=participants)
    noise = plan.arrays["rows"]
    told = sum(
        answers.add_noise({"rows": rows}, plan, rows=int(rows.sum()))["rows"] for _ in range(participants)
    )
    steps = np.ldexp(told - participants * rows, -noise.exponent)
    assert np.array_equal(steps, np.rint(steps))
    variance = float(noise.shares.variance)
    check(steps.astype(np.int64), gaussian(variance), round(8 * variance**0.5) + 8)
    # rho, from the variance in rows.
    # A share is rounded up to a whole 64th of a step, so that a little less is spent.
    assert 0.99 * float(plan.rho) < 1 / (2 * variance * float(noise.step) ** 2) <= float(plan.rho)
