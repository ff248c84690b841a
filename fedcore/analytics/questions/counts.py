"""Histograms, counts of rows between edges; frequent values, counts of rows that begin alike."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fedcore.analytics import codec, heavy_hitters, quantiles
from fedcore.analytics.cells import kept_back
from fedcore.analytics.disclosure import SUPPRESSED, Key, Suppressed, suppressed_bins, to_suppress
from fedcore.analytics.query import Query
from fedcore.analytics.question import STEP, Answer, Bounds, Part, State, Total
from fedcore.analytics.questions import bins
from fedcore.analytics.questions.asked import LEFT_OUT, Asked, hidden
from fedcore.analytics.questions.pictures import bars
from fedcore.analytics.questions.tables import COUNTS, counted
from fedcore.analytics.result import Cell, Table
from fedcore.analytics.source import Source
from fedcore.analytics.sums import number
from fedcore.errors import DataError, JobError
from fedcore.jobs import asks

PREFIXES = "prefixes"
_SURELY = 5


class Histogram(Asked[asks.Histogram]):
    """Rows between edges."""

    kind: ClassVar[str] = "histogram"
    model = asks.Histogram

    def check(self) -> None:
        """A numeric column, and edges that rise."""
        self.numeric(self.asked.column)
        edges = np.asarray(self.asked.edges, np.float64)
        if not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise JobError("edges do not rise; allowed: finite numbers, each above the last", step=STEP)

    @property
    def read(self) -> tuple[str, ...]:
        """The column."""
        return (self.asked.column,)

    def groups_of(self, source: Source) -> tuple[Query, dict[Key, int]]:
        """Which rows of a site its bins hold, and which miss a value: those are told as left out."""
        query, of = super().groups_of(source)
        found = bins.row_sets(source, self.asked.column, self.asked.edges)
        made = {name: rows & of[()] for name, rows in found.items()}
        kept = made if self.agreed.protected else bins.told(made, self.agreed.minimum)
        return query, {(name,): rows for name, rows in kept.items()}

    @property
    def block(self) -> int:
        """All of them."""
        return len(self.asked.edges) + 2

    def lacks_for_privacy(self) -> str | None:
        """Nothing: a row adds 1 to one bin."""
        return None

    def begin(self) -> State:
        """Before the round."""
        return State({"round": COUNTS})

    def partial(self, source: Source, state: State) -> Part:
        """Counts below, in each bin, and above."""
        self.round(state, COUNTS)
        sums = quantiles.partial_histogram(
            self.taken(source, {}),
            self.asked.column,
            np.asarray(self.asked.edges, np.float64),
            missing=self.asked.missing,
        )
        rows = int(sums[COUNTS].sum())
        if self.agreed.private:
            return Part({COUNTS: sums[COUNTS]}, rows, bounds={COUNTS: Bounds(0, 1)})
        if not self.agreed.protected:
            # A bin that would follow from the others and their sum is kept back like a small one.
            told = suppressed_bins(sums[COUNTS].tolist(), self.agreed.minimum)
            sums[COUNTS] = np.array(kept_back(told), np.int64)
        return Part(sums, rows, cells={COUNTS: (), LEFT_OUT: ()})

    def combine(self, total: Total, state: State) -> State:
        """The counts as they may be told."""
        counts, back = total.sums[COUNTS], hidden(total, COUNTS)
        shown: tuple[Cell, ...]
        if self.agreed.private:
            variance = float(total.variance.get(COUNTS, 0.0))
            shown = tuple(counted(counts).tolist())
            return State({}, (shown, None, self.noise_note(variance)), done=True)
        if not counts.sum() and not back.any():
            raise DataError("no site has a complete row; allowed: at least one in all", step=STEP)
        cells: dict[Key, int] = {(place,): int(each) for place, each in enumerate(counts) if not back[place]}
        unknown: list[Key] = [(int(place),) for place in np.flatnonzero(back)]
        lost = to_suppress(cells, self.agreed.minimum, unknown=unknown)
        every = not unknown and sum(cells.values()) < self.agreed.minimum
        shown = tuple(
            SUPPRESSED if every or (place,) in lost else int(each) for place, each in enumerate(counts)
        )
        return State({}, (shown, self.left_out(total), ()), done=True)

    def answer(self, state: State) -> Answer:
        """A row a bin."""
        shown, left_out, notes = state.kept
        below, *inside, above = shown
        edges = self.asked.edges
        made = [("below", None, edges[0], below), *_bins(edges, inside), ("above", edges[-1], None, above)]
        rows = tuple(made if below is SUPPRESSED or below or above is SUPPRESSED or above else made[1:-1])
        table = Table(f"Histogram of {self.asked.column}", ("bin", "from", "to", "rows"), rows, notes)
        return self.shows((table,), left_out, plots={"histogram": bars(self.asked.column, edges, inside)})


def _bins(edges: tuple[float, ...], counts: list[Cell]) -> list[tuple[Cell, ...]]:
    return [
        (str(place + 1), low, high, count)
        for place, (low, high, count) in enumerate(zip(edges, edges[1:], counts, strict=False))
    ]


@dataclass(frozen=True)
class Held:
    """What the sites are told before a round for frequent values.

    Args:
        prefixes: Bytes that enough rows begin with, hex, all of one length.
    """

    prefixes: tuple[str, ...]


class HeavyHitters(Asked[asks.HeavyHitters]):
    """Frequent values of a column of text."""

    kind: ClassVar[str] = "heavy_hitters"
    model = asks.HeavyHitters

    def check(self) -> None:
        """A column of text, and no less than the minimum cell."""
        if (kind := self.known(self.asked.column)) != "text":
            raise JobError(
                f"heavy_hitters needs text; {self.asked.column} holds {kind}. Cure: ask a histogram of numbers",
                step=STEP,
            )
        if self.asked.least < self.agreed.minimum:
            raise JobError(
                f"least is {self.asked.least}; allowed: {self.agreed.minimum} or more, the minimum cell of the sites",
                step=STEP,
            )

    @property
    def read(self) -> tuple[str, ...]:
        """The column."""
        return (self.asked.column,)

    def lacks_for_privacy(self) -> str | None:
        """Nothing: a row adds 1 to one count."""
        return None

    def rounds_for_privacy(self) -> int:
        """One for each byte, and one for the end."""
        return self.asked.length + 1

    def begin(self) -> State:
        """The empty prefix."""
        asked = self.asked
        return self._ask(
            (heavy_hitters.search(asked.column, asked.least, asked.most, asked.length), None, 0.0)
        )

    def partial(self, source: Source, state: State) -> Part:
        """Counts of the next bytes."""
        self.round(state, PREFIXES)
        held = self._told(state)
        asked = self.asked
        search = heavy_hitters.search(asked.column, asked.least, asked.most, asked.length)
        columns = self.taken(source, {})
        sums = heavy_hitters.partial_prefixes(columns, replace(search, held=held), missing=asked.missing)
        rows = number(sums["rows"])
        if not self.agreed.private:
            return Part(sums, rows, alone=False)
        return Part({COUNTS: sums[COUNTS]}, rows, alone=False, bounds={COUNTS: Bounds(0, 1)})

    def combine(self, total: Total, state: State) -> State:
        """Longer prefixes."""
        search, _, _ = state.kept
        sums = total.sums
        error = math.sqrt(float(total.variance.get(COUNTS, 0.0)))
        if self.agreed.private:
            # What nobody has must not be found in noise: five times its error is passed once in some million counts.
            search = replace(search, least=max(search.least, math.ceil(_SURELY * error)))
            # The first round counts all rows; noise can make that less than nothing.
            rows = search.rows if search.rounds else max(0, round(float(sums[COUNTS].sum())))
            sums = {**sums, "rows": np.asarray(rows), LEFT_OUT: np.asarray(0)}
        made = replace(heavy_hitters.combine_prefixes(sums, search), left_out=0)
        left_out = self.left_out(total)
        if not self.agreed.private and not made.rows:
            raise DataError("no site has a complete row; allowed: at least one in all", step=STEP)
        return self._ask((made, left_out, error))

    def answer(self, state: State) -> Answer:
        """A row a value."""
        search, left_out, error = state.kept
        if self.too_few(search.rows) and not self.agreed.private:
            return self.nothing(self.few_rows, left_out)
        table = search.table()
        if self.agreed.private:
            noise = f"noise for differential privacy is in each count, of standard error {error:.4g}"
            return self.shows((table,), left_out, notes=(noise,))
        if self.too_few(search.rows - sum(count for _, count in search.found)):
            # With the number of rows, the counts shown would tell how few rows have another value.
            said = f"values of fewer than {search.least} rows are not shown; rows in all: suppressed"
            table = replace(table, notes=(said, *table.notes[1:]))
        return self.shows((table,), left_out)

    def _ask(self, kept: tuple[heavy_hitters.HeavyHitters, int | Suppressed | None, float]) -> State:
        if kept[0].done:
            return State({}, kept, done=True)
        told = Held(tuple(each.hex() for each in kept[0].held))
        return State({"round": PREFIXES, "state": codec.pack(told)}, kept)

    def _told(self, state: State) -> tuple[bytes, ...]:
        told = codec.unpack(Held, state.told.get("state")).prefixes
        try:
            held = tuple(bytes.fromhex(each) for each in told)
        except ValueError as error:
            raise JobError("the prefixes told are not hex", step=STEP) from error
        alike = len({len(each) for each in held}) == 1 and len(set(held)) == len(held)
        if not alike or len(held) > self.asked.most or len(held[0]) > self.asked.length:
            raise JobError(
                f"{len(held)} prefixes are told; allowed: 1 to {self.asked.most} of one length, at most "
                f"{self.asked.length} bytes",
                step=STEP,
            )
        return held
