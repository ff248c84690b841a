"""Contingency tables with a chi-square test, and Mantel-Haenszel's odds ratio: one round of counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fedcore.analytics import tables
from fedcore.analytics.disclosure import ALL, SUPPRESSED, Key, Suppressed, to_suppress
from fedcore.analytics.question import STEP, Agreed, Answer, Bounds, Mask, Part, State, Total
from fedcore.analytics.questions.asked import LEFT_OUT, Asked, Withheld, hidden
from fedcore.analytics.result import Cell, Table
from fedcore.analytics.rows import Levels
from fedcore.analytics.source import Source
from fedcore.analytics.sums import Sums
from fedcore.errors import DataError
from fedcore.jobs import asks

COUNTS = "counts"
SITE = "site"


@dataclass(frozen=True)
class _Table:
    counts: npt.NDArray[Any]
    hidden: Mask
    left_out: int | Suppressed | None
    variance: float


class Contingency(Asked[asks.Contingency]):
    """A table of two columns."""

    kind: ClassVar[str] = "contingency"
    model = asks.Contingency
    down: Levels
    across: Levels

    def check(self) -> None:
        """Two columns with levels."""
        self.once(*self.read)
        self.down, self.across = self.levels(self.asked.down), self.levels(self.asked.across)
        self.fits(len(self.down) * len(self.across))

    @property
    def grouped(self) -> Mapping[str, Levels]:
        """Both."""
        return {self.asked.down: self.down, self.asked.across: self.across}

    @property
    def read(self) -> tuple[str, str]:
        """The two columns."""
        return self.asked.down, self.asked.across

    def lacks_for_privacy(self) -> str | None:
        """Nothing: a row adds 1 to one cell."""
        return None

    def begin(self) -> State:
        """Before the round."""
        return State({"round": COUNTS})

    def partial(self, source: Source, state: State) -> Part:
        """Counts of the cells."""
        self.round(state, COUNTS)
        (down, first), (across, second) = self.grouped.items()
        columns = self.taken(source, self.grouped)
        sums = tables.partial_table(columns, down, first, across, second, missing=self.asked.missing)
        rows = int(sums[COUNTS].sum())
        if self.agreed.private:
            return Part({COUNTS: sums[COUNTS]}, rows, bounds={COUNTS: Bounds(0, 1)})
        return Part(sums, rows, cells={COUNTS: (), LEFT_OUT: ()})

    def combine(self, total: Total, state: State) -> State:
        """The table."""
        found = _Table(
            total.sums[COUNTS],
            hidden(total, COUNTS),
            self.left_out(total),
            float(total.variance.get(COUNTS, 0.0)),
        )
        return State({}, found, done=True)

    def answer(self, state: State) -> Answer:
        """The table with totals, and the test."""
        found: _Table = state.kept
        if self.agreed.private:
            return self._noisy(found)
        table = tables.Contingency(self.read, tuple(self.down), tuple(self.across), found.counts, 0)
        if not found.counts.sum() and not found.hidden.any():
            raise DataError("no site has a complete row; allowed: at least one in all", step=STEP)
        cells: dict[Key, int] = {(i, j): int(each) for (i, j), each in np.ndenumerate(found.counts)}
        unknown: list[Key] = [(int(i), int(j)) for i, j in np.argwhere(found.hidden)]
        for key in unknown:
            cells.pop(key)
        back = to_suppress(cells, self.agreed.minimum, unknown=unknown)
        made = table.table()
        keys = [*range(len(self.down)), ALL], [*range(len(self.across)), ALL]
        rows = tuple(
            (
                row[0],
                *(SUPPRESSED if (i, j) in back else cell for j, cell in zip(keys[1], row[1:], strict=True)),
            )
            for i, row in zip(keys[0], made.rows, strict=True)
        )
        return self.shows((replace(made, rows=rows), self._test(table, bool(back))), found.left_out)

    def _test(self, table: tables.Contingency, suppressed: bool) -> Table:
        heads = ("chi-square", "dof", "p")
        if suppressed:
            # With the other cells the statistic would tell what is suppressed.
            why = "suppressed, as cells of the table are. Cure: merge rare categories"
            return Table("Chi-square", heads, ((SUPPRESSED,) * 3,), (why,))
        try:
            return tables.chi_square(table).table()
        except DataError as error:
            return Table("Chi-square", heads, ((None,) * 3,), (error.message,))

    def _noisy(self, found: _Table) -> Answer:
        whole = np.vstack([found.counts, found.counts.sum(axis=0)])
        whole = counted(np.hstack([whole, whole.sum(axis=1, keepdims=True)]))
        shown = ((str(level), *row) for level, row in zip((*self.down, "all"), whole.tolist(), strict=True))
        rows: tuple[tuple[Cell, ...], ...] = tuple(shown)
        heads = (f"{self.asked.down} \\ {self.asked.across}", *map(str, self.across), "all")
        notes = (
            *self.noise_note(found.variance),
            "totals are sums of noisy counts; there is no chi-square test, which knows nothing of the noise",
        )
        return self.shows((Table(" by ".join(self.read), heads, rows, notes),), None)


class Odds(Asked[asks.Odds]):
    """Mantel-Haenszel's odds ratio."""

    kind: ClassVar[str] = "odds"
    model = asks.Odds
    strata: Levels

    def check(self) -> None:
        """Columns of 0 and 1, and strata with levels."""
        self.numeric(self.asked.exposure, self.asked.outcome)
        self.once(*self.read)
        self.strata = () if self.by_site else self.levels(self.asked.strata)
        self.fits(4 * len(self.strata))

    @classmethod
    def keys_of(cls, asked: asks.Question, agreed: Agreed) -> tuple[str, ...]:
        """The strata, where a column makes them."""
        strata = asked.asked.strata
        return () if strata == SITE or strata not in agreed.columns else (strata,)

    @property
    def by_site(self) -> bool:
        """Whether each site is a stratum."""
        return self.asked.strata == SITE

    @property
    def read(self) -> tuple[str, ...]:
        """The columns."""
        own = (self.asked.exposure, self.asked.outcome)
        return own if self.by_site else (*own, self.asked.strata)

    def lacks_for_privacy(self) -> str | None:
        """Its sums need noise of their own."""
        return (
            "odds cannot be asked under differential privacy. Cure: ask a contingency table of "
            f"{self.asked.exposure} and {self.asked.outcome}"
        )

    def begin(self) -> State:
        """Before the round."""
        return State({"round": COUNTS})

    def partial(self, source: Source, state: State) -> Part:
        """Sums over the strata, and the table of all of them."""
        self.round(state, COUNTS)
        exposure, outcome, strata = self.asked.exposure, self.asked.outcome, self.asked.strata
        missing = self.asked.missing
        levels = {} if self.by_site else {strata: self.strata}
        columns = self.taken(source, levels)
        if not self.by_site:
            sums = tables.partial_odds(columns, exposure, outcome, strata, self.strata, missing=missing)
            return Part(sums, int(sums[COUNTS].sum()), cells={COUNTS: (), LEFT_OUT: ()})
        sums = tables.partial_odds_by_site(columns, exposure, outcome, missing=missing)
        ones = (1, 0)
        pairs = tables.partial_table(columns, exposure, ones, outcome, ones, missing=missing)[COUNTS]
        # A site's eight sums tell its table.
        return Part({**sums, "table": pairs}, int(pairs.sum()), alone=False)

    def combine(self, total: Total, state: State) -> State:
        """The ratio."""
        sums: Sums = total.sums
        left_out = self.left_out(total)
        pairs = sums["table"] if self.by_site else sums[COUNTS].sum(axis=0)
        if not self.by_site and hidden(total, COUNTS).any():
            why = "suppressed: a site kept back counts of a stratum. Cure: wider strata"
            return State({}, Withheld(why, left_out), done=True)
        if any(map(self.too_few, pairs.ravel().tolist())):
            why = f"suppressed: fewer than {self.agreed.minimum} rows, over all strata, have one of the four pairs of values"
            return State({}, Withheld(why, left_out), done=True)
        ratio = tables.combine_odds(sums, confidence=self.asked.confidence)
        return State({}, (replace(ratio, left_out=0), int(pairs.sum()), left_out), done=True)

    def answer(self, state: State) -> Answer:
        """One row."""
        if isinstance(state.kept, Withheld):
            return self.nothing(state.kept.why, state.kept.left_out)
        ratio, rows, left_out = state.kept
        by = "each site is a stratum" if self.by_site else f"strata by {self.asked.strata}"
        return self.shows((ratio.table(),), left_out, notes=(f"{rows} rows, {by}",))


def counted(noisy: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Noisy counts as they are shown: 0 or more, whole numbers where they all are."""
    made: npt.NDArray[Any] = np.maximum(noisy, 0)
    whole = bool((made == np.floor(made)).all())
    return made.astype(np.int64) if whole else made


__all__ = ["Contingency", "Odds", "counted"]
