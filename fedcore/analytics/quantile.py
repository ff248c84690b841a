"""A quantile by rounds of counts between edges, each round within the interval that the last one found.

The q-quantile of n values is the ceil(q n)-th smallest. The first round's edges are powers of two, so that nobody has to
know the range; each next one divides the interval by 32. A round shows how many values lie between edges, never a value.
The interval that is told never holds fewer than the minimum of values, however narrow an answer was asked.

Cost: three or four rounds of 32 to 163 counts a group, for an answer to a thousandth of its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedcore.analytics.disclosure import SUPPRESSED
from fedcore.analytics.partial import Count

PARTS = 32
MOST_ROUNDS = 14
_EXPONENTS = range(-20, 61)
_SHARE = 1e-3


@dataclass(frozen=True)
class Interval:
    """Where a quantile lies.

    Args:
        low: Not above it.
        high: Above it.
    """

    low: float
    high: float

    @property
    def value(self) -> float:
        """The middle."""
        return self.low / 2 + self.high / 2

    @property
    def width(self) -> float:
        """From end to end."""
        return self.high - self.low

    def __str__(self) -> str:
        return f"{self.value:.6g} ± {self.width / 2:.2g}"


@dataclass(frozen=True)
class Search:
    """What is known of one quantile of one group so far.

    Args:
        q: Above 0, below 1.
        total: Values of the group, 1 or more.
        minimum: Fewest values that the interval holds.
        width: To which it is narrowed; a thousandth of its size when None.
        found: The interval so far; None before the first round.
        rounds: So far.
        done: Whether another round would tell more.
    """

    q: float
    total: int
    minimum: int
    width: float | None = None
    found: Interval | None = None
    rounds: int = 0
    done: bool = False

    @property
    def edges(self) -> tuple[float, ...]:
        """Of the next round, rising."""
        if self.found is None:
            powers = [2.0**power for power in _EXPONENTS]
            return (*(-each for each in reversed(powers)), 0.0, *powers)
        found = np.linspace(self.found.low, self.found.high, PARTS + 1)
        return tuple(float(edge) for edge in np.unique(found))

    def told(self, counts: Sequence[Count]) -> Search:
        """The search after a round.

        Args:
            counts: Below the first edge, from each edge to the next, from the last on; some may be suppressed.
        """
        known = _known(self.edges, counts, self.total)
        rank = min(self.total, max(1, math.ceil(self.q * self.total)))
        last_low = max(at for at, (_, below) in enumerate(known) if below < rank)
        low, high = last_low, last_low + 1
        stuck = known[high][1] - known[low][1] < self.minimum
        while known[high][1] - known[low][1] < self.minimum and (low > 0 or high < len(known) - 1):
            wider = [
                (known[b][0] - known[a][0], a, b)
                for a, b in ((low - 1, high), (low, high + 1))
                if a >= 0 and b < len(known)
            ]
            _, low, high = min(wider)
        found = Interval(known[low][0], known[high][0])
        before = self.found
        if before is not None and (found.low < before.low or found.high > before.high):
            return replace(self, rounds=self.rounds + 1, done=True)
        wanted = self.width or _SHARE * max(abs(found.low), abs(found.high))
        end = (
            stuck
            or not math.isfinite(found.width)
            or found.width <= wanted
            or found == before
            or self.rounds + 1 >= MOST_ROUNDS
        )
        return replace(self, found=found, rounds=self.rounds + 1, done=end)


def _known(edges: Sequence[float], counts: Sequence[Count], total: int) -> list[tuple[float, int]]:
    """Edges below which the number of values is known, from below or from above what is suppressed."""
    below: dict[float, int] = {-math.inf: 0, math.inf: total}
    so_far = 0
    for edge, count in zip(edges, counts, strict=False):
        if count is SUPPRESSED or not isinstance(count, int):
            break
        so_far += count
        below[edge] = so_far
    above = 0
    for edge, count in zip(reversed(edges), reversed(counts), strict=False):
        if count is SUPPRESSED or not isinstance(count, int):
            break
        above += count
        below[edge] = total - above
    return sorted(below.items())
