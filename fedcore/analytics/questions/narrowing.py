"""Quantiles: rounds of counts between edges that close in on them, as far as enough rows lie within."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fedcore.analytics import codec, quantiles
from fedcore.analytics.disclosure import SUPPRESSED, Suppressed
from fedcore.analytics.quantiles import Search
from fedcore.analytics.question import STEP, Answer, Bounds, Part, State, Total
from fedcore.analytics.questions.asked import Asked
from fedcore.analytics.questions.tables import COUNTS
from fedcore.analytics.result import Table
from fedcore.analytics.source import Source
from fedcore.analytics.sums import Floats, Sums, number
from fedcore.errors import DataError, JobError
from fedcore.jobs import asks

SEARCH = "search"


@dataclass(frozen=True)
class _Kept:
    """What is known of a search; `asked` are the places of its quantiles among those of the question."""

    search: Search
    asked: tuple[int, ...]
    left_out: int | Suppressed | None = None
    error: float = 0.0


class Quantiles(Asked[asks.Quantiles]):
    """Quantiles narrowed to intervals."""

    kind: ClassVar[str] = "quantiles"
    model = asks.Quantiles

    def check(self) -> None:
        """A numeric column, and bounds that make sense."""
        self.numeric(self.asked.column)
        if len(set(self.asked.q)) != len(self.asked.q):
            raise JobError("a share stands twice in q; allowed: each once", step=STEP)
        self.fits(len(self.asked.q) * (quantiles.CUTS + 2))
        try:
            self._first()
        except DataError as error:
            raise JobError(error.message, step=STEP) from error

    @property
    def read(self) -> tuple[str, ...]:
        """The column."""
        return (self.asked.column,)

    def lacks_for_privacy(self) -> str | None:
        """Nothing: a row adds 1 to one bin of each quantile's search."""
        return None

    def rounds_for_privacy(self) -> int:
        """Until a bin is no wider than asked: planned, since noise must not decide when to stop."""
        width, rounds = self.asked.high - self.asked.low, 0
        # The last bin is compared with a little room, because the edges of a round are rounded.
        while rounds == 0 or width > self.asked.width * (1 + 1e-9):
            width, rounds = width / quantiles.CUTS, rounds + 1
        return rounds

    def begin(self) -> State:
        """The bounds."""
        return self._ask(_Kept(self._first(), tuple(range(len(self.asked.q)))))

    def partial(self, source: Source, state: State) -> Part:
        """Counts between the edges of each quantile."""
        self.round(state, SEARCH)
        search = self._told(state)
        columns = self.taken(source, {})
        sums = quantiles.partial_quantiles(columns, search, missing=self.asked.missing)
        rows = number(sums["rows"])
        if not self.agreed.private:
            # The last rounds count rows in narrow bins, where single ones stand out.
            return Part(sums, rows, alone=False)
        apart: Sums = {_array(place): each.copy() for place, each in enumerate(sums[COUNTS])}
        return Part(apart, rows, alone=False, bounds={name: Bounds(0, 1) for name in apart})

    def combine(self, total: Total, state: State) -> State:
        """Narrower bounds."""
        kept: _Kept = state.kept
        if self.agreed.private:
            return self._noisy(total, kept)
        left_out = self.left_out(total)
        search = kept.search
        if search.rounds == 0:
            rows = number(total.sums["rows"])
            inside = total.sums[COUNTS][:, 1:-1].sum(axis=1)
            told = [
                place
                for place, share in enumerate(search.shares)
                if self._may_be_told(share, rows) and not self.too_few(inside[place])
            ]
            kept = replace(kept, asked=tuple(kept.asked[place] for place in told))
            search = _some(search, told)
            total = replace(total, sums={**total.sums, COUNTS: total.sums[COUNTS][told]})
        if search.shares or not number(total.sums["rows"]):
            search = quantiles.combine_quantiles(total.sums, search, self.agreed.minimum)
        kept = replace(kept, search=replace(search, left_out=0), left_out=left_out)
        return self._ask(kept) if search.shares and not search.done else State({}, kept, done=True)

    def answer(self, state: State) -> Answer:
        """A row a quantile."""
        kept: _Kept = state.kept
        search, rows = kept.search, []
        found = zip(search.middle.tolist(), search.low.tolist(), search.high.tolist(), strict=True)
        there = dict(zip(kept.asked, found, strict=True))
        for place, share in enumerate(self.asked.q):
            rows.append((share, *there.get(place, (SUPPRESSED,) * 3)))
        notes = [f"{search.rows} rows; a quantile lies between low and high"] if search.shares else []
        if len(there) < len(rows):
            notes.append(
                f"a quantile with fewer than {self.agreed.minimum} rows on one side, or within the bounds, is suppressed"
            )
        if (search.high - search.low > self.asked.width * (1 + 1e-9)).any():
            notes.append(
                f"narrowed until fewer than {self.agreed.minimum} rows would lie within: wider than asked"
            )
        if self.agreed.private:
            notes = [
                f"about {search.rows} rows, in {search.rounds} rounds; noise for differential privacy is in each count, of "
                f"standard error {kept.error:.4g}, so that a quantile may lie outside of low and high"
            ]
        heads = ("share", "middle", "low", "high")
        table = Table(f"Quantiles of {self.asked.column}", heads, tuple(rows), tuple(notes))
        return self.shows((table,), kept.left_out)

    def _first(self) -> Search:
        asked = self.asked
        return quantiles.search(asked.column, asked.q, asked.low, asked.high, asked.width)

    def _may_be_told(self, share: float, rows: int) -> bool:
        rank = min(rows, max(1, math.ceil(share * rows * (1 - 1e-12))))
        return min(rank, rows - rank + 1) >= self.agreed.minimum or not rows

    def _ask(self, kept: _Kept) -> State:
        # The sites need where to cut; how many rows there are is not for them.
        told = replace(kept.search, rows=0, left_out=0, stopped=())
        return State({"round": SEARCH, "state": codec.pack(told)}, kept)

    def _told(self, state: State) -> Search:
        search = codec.unpack(Search, state.told.get("state"))
        size = len(search.shares)
        sizes = search.low.shape == search.high.shape == (size,) and len(search.first) == size
        if (
            not sizes
            or not 0 < size == len(set(search.shares))
            or not set(search.shares) <= set(self.asked.q)
            or search.name != self.asked.column
            or search.cuts != quantiles.CUTS
            or not self._needed(search)
        ):
            raise JobError("the bounds told are not those of this search for quantiles", step=STEP)
        return search

    def _needed(self, search: Search) -> bool:
        """Whether a round lies within the bounds asked for, and cuts no finer than the width asked for needs."""
        low, high = self.asked.low, self.asked.high
        begin = (search.low == low) & (search.high == high)
        inside = (search.low >= low) & (search.high <= high)
        # One bin may be at the width already when another is above it by rounding.
        wide = search.high - search.low > self.asked.width / 2
        return bool((begin | (inside & wide)).all())

    def _noisy(self, total: Total, kept: _Kept) -> State:
        """A round whose counts have noise: nothing in them is sure, so that nothing is refused for them."""
        search = kept.search
        edges = search.edges()
        low, high, first, rows = search.low.copy(), search.high.copy(), list(search.first), 0.0
        for place, share in enumerate(search.shares):
            counts: Floats = np.asarray(total.sums[_array(place)], np.float64)
            so_far = np.maximum.accumulate(np.cumsum(counts))
            rows = max(float(counts.sum()), 0.0)
            found = int(np.clip(np.searchsorted(so_far, max(share * rows, 0.5)), 1, search.cuts))
            low[place], high[place] = edges[place, found - 1], edges[place, found]
            first[place] = search.first[place] and found == 1
        search = replace(
            search, low=low, high=high, first=tuple(first), rows=round(rows), rounds=search.rounds + 1
        )
        error = math.sqrt(max([0.0, *total.variance.values()]))
        kept = replace(kept, search=search, error=error)
        return State({}, kept, done=True) if search.rounds >= self.rounds_for_privacy() else self._ask(kept)


def _array(place: int) -> str:
    return f"{COUNTS}_{place}"


def _some(search: Search, places: list[int]) -> Search:
    return replace(
        search,
        shares=tuple(search.shares[place] for place in places),
        low=search.low[places],
        high=search.high[places],
        first=tuple(search.first[place] for place in places),
    )
