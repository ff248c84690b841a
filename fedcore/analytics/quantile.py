"""A quantile by rounds of counts between edges, each round within the interval that the last one found.

The q-quantile of n values is the ceil(q n)-th smallest. The first round's edges are powers of two, so that nobody has to
know the range; each next one divides the interval by 32. A round shows how many values lie between edges, never a value.
The interval that is told never holds fewer than the minimum of values, however narrow an answer was asked. Where bounds are
given, values count as moved into them, and the first round divides the bounds.

Counts with noise (`NoisySearch`) are narrowed for as many rounds as bounds and width say, whatever the counts are, so that
the cost is known before; what is told then is an interval that probably holds the quantile.

Cost: three or four rounds of 32 to 163 counts a group, for an answer to a thousandth of its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedcore.analytics.disclosure import SUPPRESSED
from fedcore.analytics.partial import Count, add

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
        width: To which it is narrowed; a thousandth of its size, or of the bounds, when None.
        rank: Which smallest value is sought; that of `q` when None.
        bounds: Into which values are moved.
        found: The interval so far; None before the first round.
        rounds: So far.
        done: Whether another round would tell more.
    """

    q: float
    total: int
    minimum: int
    width: float | None = None
    rank: int | None = None
    bounds: tuple[float, float] | None = None
    found: Interval | None = None
    rounds: int = 0
    done: bool = False

    @property
    def edges(self) -> tuple[float, ...]:
        """Of the next round, rising."""
        if self.found is None and self.bounds is not None:
            return _divided(*self.bounds)
        if self.found is None:
            powers = [2.0**power for power in _EXPONENTS]
            return (*(-each for each in reversed(powers)), 0.0, *powers)
        return _divided(self.found.low, self.found.high)

    def told(self, counts: Sequence[Count]) -> Search:
        """The search after a round.

        Args:
            counts: Below the first edge, from each edge to the next, from the last on; some may be suppressed.
        """
        edges = self.edges
        known = _known(edges, _moved_in(edges, counts, self.bounds), self.total)
        rank = min(self.total, max(1, math.ceil(self.q * self.total) if self.rank is None else self.rank))
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
        wanted = self.width or _SHARE * (
            max(abs(found.low), abs(found.high)) if self.bounds is None else self.bounds[1] - self.bounds[0]
        )
        end = (
            stuck
            or not math.isfinite(found.width)
            or found.width <= wanted
            or found == before
            or self.rounds + 1 >= MOST_ROUNDS
        )
        return replace(self, found=found, rounds=self.rounds + 1, done=end)


@dataclass(frozen=True)
class NoisySearch:
    """What noisy counts say of one quantile of one group so far.

    Args:
        q: Above 0, below 1.
        bounds: Into which values are moved.
        found: The interval so far.
        rounds: That are left.
    """

    q: float
    bounds: tuple[float, float]
    found: Interval
    rounds: int

    @classmethod
    def begun(cls, q: float, bounds: tuple[float, float], width: float | None) -> NoisySearch:
        """Before the first round."""
        return cls(q, bounds, Interval(*bounds), noisy_rounds(bounds, width))

    @property
    def edges(self) -> tuple[float, ...]:
        """Of the next round, rising."""
        return _divided(self.found.low, self.found.high)

    def told(self, counts: Sequence[int]) -> NoisySearch:
        """The search after a round.

        Args:
            counts: Below the first edge, from each edge to the next, from the last on; any whole numbers.
        """
        edges = self.edges
        counts = [each for each in _moved_in(edges, counts, self.bounds) if isinstance(each, int)]
        wanted = self.q * sum(counts)
        below = np.cumsum(counts)[:-1]
        # Noise can make sums fall; the first edge with enough below it ends the interval.
        enough = np.flatnonzero(below[1:] >= wanted)
        at = int(enough[0]) if len(enough) else len(edges) - 2
        return replace(self, found=Interval(edges[at], edges[at + 1]), rounds=self.rounds - 1)


def noisy_rounds(bounds: tuple[float, float], width: float | None) -> int:
    """Rounds that a `NoisySearch` takes: until the interval is as narrow as `width`, a thousandth of the bounds when None."""
    parts = 1 / _SHARE if width is None else (bounds[1] - bounds[0]) / width
    rounds = 1
    while PARTS**rounds < parts and rounds < MOST_ROUNDS:
        rounds += 1
    return rounds


def _divided(low: float, high: float) -> tuple[float, ...]:
    return tuple(float(edge) for edge in np.unique(np.linspace(low, high, PARTS + 1)))


def _moved_in(
    edges: Sequence[float], counts: Sequence[Count], bounds: tuple[float, float] | None
) -> Sequence[Count]:
    """Counts of the values moved into the bounds: what lies beyond them counts in the outermost bins."""
    if bounds is None:
        return counts
    moved = list(counts)
    if edges[0] == bounds[0]:
        moved[:2] = [0, add(moved[:2])]
    if edges[-1] == bounds[1]:
        moved[-2:] = [add(moved[-2:]), 0]
    return moved


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
