"""Histograms and quantiles over sites: counts between edges, and rounds of them that close in on a quantile.

A quantile here is a value that stands in a row: the k-th smallest of n, k = ceil(p n) (the inverse of the distribution
function). Each round counts the rows between edges, keeps the bin that the k-th row lies in, and cuts it again, until the
bin is no wider than asked, or, where a least number of rows is given, until fewer would lie within: the search then ends
with the smallest half, quarter and so on of the bins that holds as many. The value lies in that bin: above `low` and at most `high`, or at `low` where that is the
lower bound asked for.

What leaves a site: a histogram of b bins, b + 3 counts; a round of a search for q quantiles, q (b + 2) + 2 counts. The last
rounds count rows in narrow bins: over all sites together, these counts, too, are small.

Source: Hyndman, Fan, The American Statistician 50, 1996, definition 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedcore.analytics.moments import left_out_note
from fedcore.analytics.result import Table
from fedcore.analytics.rows import Columns, Missing, complete
from fedcore.analytics.sums import Floats, Ints, Sums, number
from fedcore.errors import DataError

STEP = "quantiles"
CUTS = 64
"""Bins a round, of each quantile."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """Rows between edges.

    Args:
        name: Of the column.
        edges: (b + 1,), rising; a bin has its lower edge in it, the last bin its upper one, too.
        counts: (b,).
        below, above: Rows outside.
        left_out: Rows that missed a value.
    """

    name: str
    edges: Floats
    counts: Ints
    below: int
    above: int
    left_out: int

    def table(self) -> Table:
        """A row a bin."""
        bins = zip(self.edges[:-1].tolist(), self.edges[1:].tolist(), self.counts.tolist(), strict=True)
        outside = f"{self.below} rows below, {self.above} above"
        return Table(
            f"Histogram of {self.name}",
            ("from", "to", "rows"),
            tuple(bins),
            (outside, *left_out_note(self.left_out)),
        )


@dataclass(frozen=True, eq=False)
class Search:
    """Where the quantiles are known to lie.

    Args:
        name: Of the column.
        shares: (q,) of the rows at or below each quantile, above 0, at most 1.
        width: That a bin may have at the end.
        low, high: (q,) bounds of each.
        cuts: Bins a round.
        first: Whether the lower bound may itself be the value.
        rows: Found in the last round.
        left_out: Rows that missed a value.
        rounds: So far.
        stopped: (q,) whether each ended because fewer rows than the least would lie within; empty before a round.
    """

    name: str
    shares: tuple[float, ...]
    width: float
    low: Floats
    high: Floats
    cuts: int
    first: tuple[bool, ...]
    rows: int = 0
    left_out: int = 0
    rounds: int = 0
    stopped: tuple[bool, ...] = ()

    @property
    def done(self) -> bool:
        """Whether each bin is as narrow as it is to be."""
        narrow = self.high - self.low <= self.width
        return self.rounds > 0 and bool((narrow | np.array(self.stopped or (False,))).all())

    @property
    def middle(self) -> Floats:
        """(q,) the middles of the bins, at most half a bin from the quantiles."""
        made: Floats = self.low + (self.high - self.low) / 2
        return made

    def edges(self) -> Floats:
        """(q, cuts + 1) where the next round cuts."""
        return np.linspace(self.low, self.high, self.cuts + 1, axis=1)

    def table(self) -> Table:
        """A row a quantile."""
        made = tuple(
            zip(self.shares, self.middle.tolist(), self.low.tolist(), self.high.tolist(), strict=True)
        )
        notes = (f"{self.rows} rows; a quantile lies between low and high", *left_out_note(self.left_out))
        return Table(f"Quantiles of {self.name}", ("share", "middle", "low", "high"), made, notes)


def partial_histogram(columns: Columns, name: str, edges: Floats, *, missing: Missing = "refuse") -> Sums:
    """Rows in each bin, at a site.

    What leaves: `counts` (b + 2,), rows below the first edge, in each bin, above the last edge; `left_out`, a count.

    Args:
        columns: Of the site, (n,) each.
        name: A column of numbers.
        edges: (b + 1,), rising, the same at all sites.
        missing: The rule for missing values.

    Raises:
        DataError: The edges do not rise.
    """
    edges = np.asarray(edges, np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise DataError(
            "edges do not rise; allowed: two or more finite numbers, each above the last", step=STEP
        )
    rows = complete(columns, [name], missing=missing)
    values = rows.numbers[name]
    places = np.searchsorted(edges, values, side="right")
    places[values == edges[-1]] = len(edges) - 1
    counts = np.bincount(places, minlength=len(edges) + 1).astype(np.int64)
    return {"counts": counts, "left_out": rows.counts()["left_out"]}


def combine_histogram(total: Sums, name: str, edges: Floats) -> Histogram:
    """The histogram over all sites."""
    counts = total["counts"]
    outside = int(counts[0]), int(counts[-1])
    return Histogram(name, np.asarray(edges, np.float64), counts[1:-1], *outside, number(total["left_out"]))


def search(
    name: str, shares: Sequence[float], low: float, high: float, width: float, cuts: int = CUTS
) -> Search:
    """What the first round of a search for quantiles asks.

    Args:
        name: A column of numbers.
        shares: Of the rows at or below each quantile; 0.5 is the median.
        low, high: Bounds of the column, known beforehand and not taken from the rows.
        width: That the bin of a quantile may have at the end, in the unit of the column.
        cuts: Bins a round, 2 or more: more bins are fewer rounds.

    Raises:
        DataError: A share is not above 0 and at most 1, or bounds, width or bins make no sense.
    """
    wrong = [share for share in shares if not 0 < share <= 1]
    if wrong or not shares:
        raise DataError(f"shares are {list(shares)}; allowed: one or more, above 0 and at most 1", step=STEP)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise DataError(
            f"bounds are {low} and {high}; allowed: finite, the second above the first", step=STEP
        )
    least = float(np.spacing(max(abs(low), abs(high)))) * 4
    if not (math.isfinite(width) and width >= least) or cuts < 2:
        raise DataError(
            f"the width is {width} and there are {cuts} bins; allowed: a width of at least {least:.3g} between these bounds, "
            "2 bins or more",
            step=STEP,
        )
    count = len(shares)
    return Search(
        name,
        tuple(shares),
        width,
        np.full(count, float(low)),
        np.full(count, float(high)),
        cuts,
        (True,) * count,
    )


def partial_quantiles(columns: Columns, state: Search, *, missing: Missing = "refuse") -> Sums:
    """A round at a site.

    What leaves: `rows` and `left_out`, two counts; `counts` (q, cuts + 2), for each quantile the rows below its bounds, in
    each bin of them, and above. A bin has its upper edge in it, and not its lower one.

    Args:
        columns: Of the site, (n,) each.
        state: Of the search, the same at all sites.
        missing: The rule for missing values.
    """
    rows = complete(columns, [state.name], missing=missing)
    counts = np.zeros((len(state.shares), state.cuts + 2), np.int64)
    for place, edges in enumerate(state.edges()):
        if state.first[place]:
            edges = edges.copy()
            edges[0] = np.nextafter(edges[0], -np.inf)
        found = np.searchsorted(edges, rows.numbers[state.name], side="left")
        counts[place] = np.bincount(found, minlength=state.cuts + 2)
    return {**rows.counts(), "counts": counts}


def combine_quantiles(total: Sums, state: Search, least: int = 0) -> Search:
    """What is known after a round; ask again until it is `done`.

    Args:
        total: Of `partial_quantiles`, added over sites.
        state: That the sites were told.
        least: Rows that an interval holds at least, if as many lie within the bounds.

    Raises:
        DataError: No site has a row, or a quantile lies outside the bounds.
    """
    rows = number(total["rows"])
    if rows <= 0:
        raise DataError("no site has a complete row; allowed: at least one in all", step=STEP)
    low, high, first = state.low.copy(), state.high.copy(), list(state.first)
    stopped = [False] * len(state.shares)
    for place, (share, edges) in enumerate(zip(state.shares, state.edges(), strict=True)):
        so_far = np.cumsum(total["counts"][place])
        # A product such as 0.1 * 30 is a little above 3 in floats; the third row is meant.
        rank = min(rows, max(1, math.ceil(share * rows * (1 - 1e-12))))
        found = int(np.searchsorted(so_far, rank))
        if found == 0 or found > state.cuts:
            side = "below" if found == 0 else "above"
            raise DataError(
                f'the {share:g} quantile of "{state.name}" lies {side} the bounds {state.low[place]:g} to '
                f"{state.high[place]:g}. Cure: ask with wider bounds",
                step=STEP,
            )
        begin, end = _block(so_far, found, state.cuts, least)
        low[place], high[place] = edges[begin], edges[end]
        first[place] = state.first[place] and begin == 0
        stopped[place] = end - begin > 1
    return replace(
        state,
        low=low,
        high=high,
        first=tuple(first),
        rows=rows,
        left_out=number(total["left_out"]),
        rounds=state.rounds + 1,
        stopped=tuple(stopped),
    )


def _block(so_far: Ints, found: int, cuts: int, least: int) -> tuple[int, int]:
    """First and last edge of the bins, one or an aligned power of two of them, that hold the least number of rows.

    Halves of halves and not the nearest bins: where those end would tell where the nearest rows lie.
    """
    size = 1
    while size < cuts:
        begin = (found - 1) // size * size
        end = min(begin + size, cuts)
        if so_far[end] - so_far[begin] >= least:
            return begin, end
        size *= 2
    return 0, cuts
