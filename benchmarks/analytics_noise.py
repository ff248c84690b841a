"""Noise of answers: the error of shares of it beside noise from one hand, and a toy's releases against what is claimed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.common import Report, Target, progress
from fedcore.privacy import answers, sensitivity
from fedcore.privacy.budget import laplace_scale
from fedcore.privacy.distributed import draw_share, noise_shares
from fedcore.privacy.mechanisms import discrete_gaussian, discrete_laplace

PARTICIPANTS, LOST = 100, 10
VARIANCE = 400
ROW = sensitivity.Neighbours()
EPSILON = "1/2"
LOW, HIGH = 0, 90
"""Bounds of the toy's values."""
AGES = (34, 51, 67, 72, 45, 58, 63, 70, 29, 81)
EXPECTED = 100.0
"""Releases in a cell of the test, at least."""
WIDE = 10**4
"""A width from which a distribution over whole numbers is reckoned from the continuous one, which is off by 1 / width^2."""

Whole = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def distributed(given: Any, report: Report) -> None:
    """Root mean square error of sums under noise in shares, and under noise from one hand."""
    shares = noise_shares(VARIANCE, PARTICIPANTS, LOST)
    errors: dict[str, float] = {}
    for side, present in (
        ("in shares, 10 lost", PARTICIPANTS - LOST),
        ("in shares, nobody lost", PARTICIPANTS),
    ):
        progress(f"distributed: {side}", given.json)
        noise = np.zeros(given.sums, np.int64)
        began = time.process_time()
        for _ in range(present):
            noise += draw_share(shares, given.sums)
        seconds = (time.process_time() - began) / present
        errors[side] = _error(noise)
        report.figures.append(_row(side, errors[side], shares.total(present), seconds, given.sums))
    began = time.process_time()
    noise = discrete_gaussian(VARIANCE, given.sums)
    seconds = time.process_time() - began
    errors["from one hand"] = _error(noise)
    report.figures.append(_row("from one hand", errors["from one hand"], VARIANCE, seconds, given.sums))
    report.targets.append(
        Target(
            f"noise in shares of {PARTICIPANTS}, {LOST} lost: error over that of noise from one hand, apart from 1",
            abs(errors["in shares, 10 lost"] / errors["from one hand"] - 1),
            at_most=0.05,
        )
    )


def _error(noise: Whole) -> float:
    return math.sqrt(float(np.mean(noise.astype(np.float64) ** 2)))


def _row(side: str, error: float, variance: Fraction | int, seconds: float, sums: int) -> dict[str, Any]:
    return {
        "part": "distributed: root mean square error of a sum",
        "side": side,
        "error": error,
        "planned": math.sqrt(variance),
        "µs a number, of a participant": 1e6 * seconds / sums,
    }


def release(given: Any, report: Report) -> None:
    """A count and a bounded sum of ten ages, released again and again."""
    for what, noise, width, told in (*_gaussian(given), *_laplace(given)):
        p = goodness(noise, width, told)
        report.figures.append(
            {
                "part": "release: noise of a toy against what is claimed",
                "release": what,
                "releases": len(noise),
                "deviation": float(noise.std()),
                "claimed": told(width),
                "p": p,
            }
        )
        report.targets.append(Target(f"{what}, {len(noise):,} releases: p-value", p, at_least=0.001))


class Claimed:
    """What is claimed of a noise over whole numbers.

    Args:
        log_weight: Of numbers, as a logarithm.
        below: Of the continuous distribution of width 1.
        deviation: Of that.
    """

    def __init__(
        self,
        log_weight: Callable[[Floats, float], Floats],
        below: Callable[[Floats], Floats],
        deviation: float,
    ) -> None:
        self._log_weight, self._below, self._deviation = log_weight, below, deviation

    def __call__(self, width: float) -> float:
        """Its standard deviation, of the continuous distribution."""
        return self._deviation * width

    def masses(self, edges: Whole, width: float) -> Floats:
        """The probability of the numbers from each edge to below the next, and of those before the first and from the last on."""
        if width >= WIDE:
            under = self._below(np.asarray((edges - 0.5) / width, np.float64))
        else:
            x = np.arange(-math.ceil(60 * width) - 2, math.ceil(60 * width) + 3)
            weights = np.exp(self._log_weight(x.astype(np.float64), width))
            so_far = np.concatenate([[0.0], np.cumsum(weights) / weights.sum()])
            under = so_far[np.searchsorted(x, edges)]
        return np.diff(np.concatenate([[0.0], under, [1.0]]))


GAUSSIAN = Claimed(lambda x, width: -(x**2) / (2 * width**2), stats.norm.cdf, 1.0)
LAPLACE = Claimed(lambda x, width: -np.abs(x) / width, stats.laplace.cdf, math.sqrt(2))

Sample = tuple[str, Whole, float, Claimed]


def _gaussian(given: Any) -> list[Sample]:
    """By the plan and the noise of an answer, as one participant alone adds it."""
    entries = {
        "count": answers.Entries((1,), 0, 1, whole=True),
        "sum": answers.Entries((1,), LOW, HIGH),
    }
    plan = answers.plan_answers(entries, ROW, epsilon=EPSILON, delta="1e-6")
    exact = {"count": np.array([len(AGES)]), "sum": np.array([float(sum(AGES))])}
    told: dict[str, list[float]] = {name: [] for name in exact}
    for number in range(given.releases):
        if number % 2_000 == 0:
            progress(f"release: discrete Gaussian, {number}", given.json)
        for name, value in answers.add_noise(exact, plan, rows=len(AGES)).items():
            told[name].append(float(value[0]))
    made: list[Sample] = []
    for name, values in told.items():
        each = plan.arrays[name]
        steps = np.ldexp(np.array(values), -each.exponent) - np.rint(np.ldexp(exact[name][0], -each.exponent))
        width = math.sqrt(each.shares.variance)
        made.append((f"{name} under discrete Gaussian noise", steps.astype(np.int64), width, GAUSSIAN))
    return made


def _laplace(given: Any) -> list[Sample]:
    """By the sensitivities and the mechanism."""
    progress("release: discrete Laplace", given.json)
    sized = {"count": sensitivity.count(ROW), "sum": sensitivity.total(LOW, HIGH, ROW)}
    exact = {"count": len(AGES), "sum": sum(AGES)}
    made: list[Sample] = []
    for name, each in sized.items():
        scale = laplace_scale(each, EPSILON)
        told = exact[name] + discrete_laplace(scale, given.releases)
        made.append((f"{name} under discrete Laplace noise", told - exact[name], float(scale), LAPLACE))
    return made


def goodness(noise: Whole, width: float, claimed: Claimed) -> float:
    """p-value of Pearson's test, over cells that expect `EXPECTED` draws or more (fewer cells where there are few draws).

    Args:
        noise: Drawn, (n,).
        width: Of what is claimed.
        claimed: That.
    """
    cells = max(2, min(50, int(len(noise) / EXPECTED)))
    # Where to cut is taken from what is claimed and not from the draws: half of the cells on each side of zero.
    fine = np.unique(np.rint(width * np.linspace(-12, 12, 4_001)).astype(np.int64))
    under = np.cumsum(claimed.masses(fine, width))[:-1]
    edges = np.unique(fine[np.searchsorted(under, np.arange(1, cells) / cells).clip(max=len(fine) - 1)])
    expected = claimed.masses(edges, width) * len(noise)
    seen = np.bincount(np.searchsorted(edges, noise, side="right"), minlength=len(expected))
    return float(stats.chisquare(seen, expected * len(noise) / expected.sum()).pvalue)
