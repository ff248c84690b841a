"""Kaplan-Meier curves with the log-rank test: one round of counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from scipy import optimize

from fedcore.analytics import survival
from fedcore.analytics.disclosure import SUPPRESSED
from fedcore.analytics.question import STEP, Answer, Bounds, Mask, Part, State, Total
from fedcore.analytics.questions.asked import LEFT_OUT, Asked
from fedcore.analytics.questions.hazards import NONE, SITE, Cox, grid_of
from fedcore.analytics.result import Cell, Table
from fedcore.analytics.rows import Levels
from fedcore.analytics.source import Source
from fedcore.analytics.sums import Floats, Sums
from fedcore.analytics.survival_plot import COLOURS, survival_plot
from fedcore.errors import DataError
from fedcore.jobs import asks

CURVES = "curves"
ENDS = "ends"
_RANKS = ("observed", "expected", "variance")


class KaplanMeier(Asked[asks.KaplanMeier]):
    """Survival curves.

    A curve is told as far as the minimum cell is at risk, a group with fewer rows not at all.

    Attributes:
        curves: As `fedcore.analytics.survival` takes it.
    """

    kind: ClassVar[str] = "kaplan_meier"
    model = asks.KaplanMeier
    curves: survival.Survival

    def check(self) -> None:
        """Numeric time and event, groups with levels, a grid."""
        asked = self.asked
        self.numeric(asked.time, asked.event)
        self.once(*self.read)
        levels = () if asked.by is None else tuple(self.levels(asked.by))
        self.fits(2 * len(grid_of(asked.end, asked.unit)) * max(1, len(levels)))
        self.curves = survival.Survival(
            asked.time, asked.event, grid_of(asked.end, asked.unit), asked.by, levels, asked.missing
        )

    @property
    def grouped(self) -> Mapping[str, Levels]:
        """The groups."""
        return {} if self.asked.by is None else {self.asked.by: self.curves.levels}

    @property
    def read(self) -> tuple[str, ...]:
        """Time, event and groups."""
        by = () if self.asked.by is None else (self.asked.by,)
        return (self.asked.time, self.asked.event, *by)

    def lacks_for_privacy(self) -> str | None:
        """Nothing: a row ends once."""
        return None

    def begin(self) -> State:
        """Before the round."""
        return State({"round": CURVES})

    def partial(self, source: Source, state: State) -> Part:
        """Events and censored rows at each time, and what the log-rank test by site needs."""
        self.round(state, CURVES)
        columns = self.taken(source, self.grouped)
        sums = survival.partial_survival(columns, self.curves)
        rows = int(sums["rows"].sum())
        if self.agreed.private:
            ends = np.stack([sums["events"], sums["censored"]])
            ends[1, :, -1] += sums["beyond"]
            return Part({ENDS: ends}, rows, alone=False, bounds={ENDS: Bounds(0, 1)})
        if self._ranked == SITE:
            by_site = survival.partial_log_rank_by_site(columns, self.curves)
            sums = {**sums, **{name: by_site[name] for name in _RANKS}}
        return Part(sums, rows, cells={"rows": ()}, alone=False)

    def combine(self, total: Total, state: State) -> State:
        """The sums are the answer."""
        return State({}, (total, self.left_out(total)), done=True)

    def answer(self, state: State) -> Answer:
        """Medians, the curves, the test and a picture."""
        total, left_out = state.kept
        if self.agreed.private:
            return self._noisy(total)
        sums = {**total.sums, LEFT_OUT: np.asarray(0)}
        if int(sums["rows"].sum()) <= 0:
            raise DataError("no site has a complete row; allowed: at least one in all", step=STEP)
        held = total.hidden.get("rows", np.zeros(len(sums["rows"]), bool))
        few = (sums["rows"] > 0) & (sums["rows"] < self.agreed.minimum) | held
        beyond = int(np.where(few, 0, sums["beyond"]).sum())
        if self.too_few(beyond):
            sums["beyond"], past = np.zeros_like(sums["beyond"]), True
            sums["censored"] = sums["censored"].copy()
            sums["censored"][:, -1] += total.sums["beyond"]
        else:
            sums["beyond"], past = np.where(few, 0, sums["beyond"]), False
        found = self._found(sums)
        notes = [
            f"curves end where fewer than {self.agreed.minimum} rows are at risk, and what is later is suppressed"
        ]
        notes += ["rows censored at the end of the grid: suppressed"] if past else []
        notes += [f"{int(few.sum())} groups with fewer rows are suppressed as a whole"] if few.any() else []
        cut = replace(
            found, curves=tuple(self._cut(each, bad) for each, bad in zip(found.curves, few, strict=True))
        )
        tables = [self._medians(cut, found, few), self._steps(cut)]
        if self._ranked:
            test = self._log_rank(total.sums, few)
            tables.append(_without_counts(test) if _late(cut, found, few).any() else test)
        return self.shows(tables, left_out, notes=notes, plots=_picture(cut))

    @property
    def _ranked(self) -> str:
        """How groups are compared; empty where there is no test."""
        several = len(self.curves.groups) > 1 and self.asked.log_rank != NONE
        return self.asked.log_rank if several else ""

    def _found(self, sums: Sums) -> survival.SurvivalResult:
        asked = self.asked
        return survival.combine_survival(
            sums, self.curves, confidence=asked.confidence, interval=asked.interval
        )

    def _cut(self, curve: survival.Curve, bad: bool) -> survival.Curve:
        """Up to the last time at which enough rows are at risk."""
        much = 0 if bad else int((curve.at_risk >= self.agreed.minimum).sum())
        if much == len(curve.time):
            return curve
        names = ("time", "at_risk", "events", "censored", "survival", "error", "low", "high")
        return replace(curve, cut=True, **{name: getattr(curve, name)[:much] for name in names})

    def _medians(self, cut: survival.SurvivalResult, found: survival.SurvivalResult, few: Mask) -> Table:
        """A row a group; where a cut curve has not come to a half, what comes then is not told."""
        whole = found.table()
        rows: list[tuple[Cell, ...]] = []
        parts = (cut.table().rows, whole.rows, cut.curves, few.tolist(), _late(cut, found, few).tolist())
        for row, all_, curve, bad, late in zip(*parts, strict=True):
            told = [SUPPRESSED if curve.cut and cell == np.inf else cell for cell in row[3:]]
            counts = (*all_[:2], SUPPRESSED if late else all_[2])
            rows.append((row[0], *(SUPPRESSED,) * 5) if bad else (*counts, *told))
        return replace(whole, rows=tuple(rows))

    def _steps(self, cut: survival.SurvivalResult) -> Table:
        table = cut.steps()
        back: tuple[Cell, ...] = (SUPPRESSED,) * (len(table.heads) - 1)
        ends = tuple((str(each.group), *back) for each in cut.curves if each.cut)
        return replace(table, rows=(*table.rows, *ends))

    def _log_rank(self, sums: Sums, few: Mask) -> Table:
        if self._ranked == SITE:
            if few.any():
                # Each group's expected events are made with the rows at risk of all groups.
                why = "suppressed, as a group is. Cure: merge groups, or ask log_rank pooled"
                heads = ("chi-square", "dof", "p")
                return Table("Log-rank test, stratified by site", heads, ((SUPPRESSED,) * 3,), (why,))
            return _or_why(
                "Log-rank test, stratified by site",
                lambda: survival.combine_log_rank_by_site(sums, self.curves).table(),
            )
        kept = np.flatnonzero(~few)
        levels = tuple(self.curves.levels[place] for place in kept)
        if len(levels) < 2:
            why = f"fewer than two groups have {self.agreed.minimum} rows"
            return Table("Log-rank test", ("chi-square", "dof", "p"), ((SUPPRESSED,) * 3,), (why,))
        own = {name: sums[name][kept] for name in ("events", "censored", "beyond", "rows")}
        return _or_why(
            "Log-rank test", lambda: survival.log_rank(own, replace(self.curves, levels=levels)).table()
        )

    def _noisy(self, total: Total) -> Answer:
        """Curves of counts with noise.

        Sums over time up to each point are made to rise again, by the least change in squares, which keeps their ends;
        noise alone would make events that were not there (Hay, Rastogi, Miklau, Suciu, VLDB 2010).
        """
        ends = np.asarray(total.sums[ENDS], np.float64)
        events, censored = (np.stack([_rising(row) for row in part]) for part in ends)
        rows = events.sum(axis=1) + censored.sum(axis=1)
        sums = {
            "events": events,
            "censored": censored,
            "beyond": np.zeros(len(rows)),
            "rows": rows,
            LEFT_OUT: np.asarray(0),
        }
        if rows.sum() < 1:
            raise DataError("the noise is larger than the number of rows. Cure: a larger epsilon", step=STEP)
        found = self._found(sums)
        error = np.sqrt(float(total.variance.get(ENDS, 0.0)))
        notes = (
            f"noise for differential privacy is in the events and in the censored rows of each time, of standard error "
            f"{error:.4g}, and intervals know nothing of it; counts are smoothed to rise",
            *(("there is no log-rank test, which knows nothing of the noise",) if self._ranked else ()),
        )
        return self.shows((found.table(), found.steps()), None, notes=notes, plots=_picture(found))


def _late(cut: survival.SurvivalResult, found: survival.SurvivalResult, few: Mask) -> Mask:
    """(g,) groups that are shown and have events after the end of their curve.

    All their events minus those of the steps shown would be the events of the rows left at the end, which are few.
    """
    pairs = zip(cut.curves, found.curves, strict=True)
    late = [each.cut and each.events.sum() != whole.events.sum() for each, whole in pairs]
    return np.array(late, bool) & ~few


def _without_counts(test: Table) -> Table:
    """A log-rank test without the events of its groups; observed ones of all groups are as many as expected ones."""
    if test.heads != ("group", "events", "expected"):
        return test
    back = ((row[0], SUPPRESSED, SUPPRESSED) if any(row[1:]) else row for row in test.rows)
    return replace(test, rows=tuple(back))


def _rising(counts: Floats) -> Floats:
    """Counts of 0 or more whose sums from the left are nearest to those given."""
    whole = optimize.isotonic_regression(np.cumsum(counts)).x
    made: Floats = np.diff(np.maximum(whole, 0.0), prepend=0.0)
    return np.maximum(made, 0.0)


def _or_why(title: str, make: Any) -> Table:
    """The table of a test, or why there is none."""
    try:
        made: Table = make()
    except DataError as error:
        return Table(title, ("chi-square", "dof", "p"), ((None,) * 3,), (error.message,))
    return made


def _picture(found: survival.SurvivalResult) -> dict[str, str]:
    several = sum(bool(len(each.time)) for each in found.curves)
    return {"curves": survival_plot(found)} if 0 < several <= len(COLOURS) else {}


__all__ = ["Cox", "KaplanMeier"]
