"""Cox regression: a round for the means, then one for each Newton step, or two halves of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fedcore.analytics import codec, cox, cox_pooled, newton, survival
from fedcore.analytics.disclosure import Suppressed
from fedcore.analytics.question import STEP, Agreed, Answer, Part, State, Total
from fedcore.analytics.questions.asked import LEFT_OUT, Withheld
from fedcore.analytics.questions.concentration import POWERS, powers
from fedcore.analytics.questions.models import Fit, texts
from fedcore.analytics.risk_sets import Risk
from fedcore.analytics.source import Source
from fedcore.analytics.sums import Floats, Ints, Sums, number
from fedcore.errors import DataError, JobError
from fedcore.jobs import asks

START, NEWTON, RISK, SPREAD = "start", "newton", "risk", "spread"
SITE, NONE = "site", "none"


@dataclass(frozen=True, eq=False)
class Told:
    """What the sites are told before half a round of one baseline.

    Args:
        state: Coefficients.
        times: (m,) with an event at some site, rising.
        at_risk, at_event: (m,) of the second half; empty in the first.
    """

    state: newton.State
    times: Floats
    at_risk: Floats
    at_event: Floats


@dataclass(frozen=True)
class _Fit:
    start: Sums
    left_out: int | Suppressed | None
    state: newton.State
    first: Sums | None = None
    risk: Risk | None = None


class Cox(Fit[asks.CoxModel]):
    """Proportional hazards.

    Attributes:
        fit: As `fedcore.analytics.cox` takes it.
    """

    kind: ClassVar[str] = "cox"
    model = asks.CoxModel
    fit: cox.Cox

    def check(self) -> None:
        """Numeric time and event, numeric columns and categories with levels, each once."""
        asked = self.asked
        self.numeric(asked.time, asked.event)
        self.once(asked.time, asked.event, *asked.covariates, *([asked.strata] if self._within else []))
        if self._within:
            self.known(asked.strata)
        self.expand(asked.covariates)
        grid = grid_of(asked.end, asked.unit) if self.pooled else ()
        strata = asked.strata if self._within else None
        self.fits(2 * len(grid) * (len(self.names) + 1))
        try:
            self.fit = cox.Cox(asked.time, asked.event, self.names, asked.ties, strata, grid, asked.missing)
        except DataError as error:
            raise JobError(error.message, step=STEP) from error

    @classmethod
    def keys_of(cls, asked: asks.Question, agreed: Agreed) -> tuple[str, ...]:
        """Columns of text, which become indicators."""
        return texts(asked.asked.covariates, agreed)

    @property
    def pooled(self) -> bool:
        """Whether all rows have one baseline."""
        return self.asked.strata == NONE

    @property
    def _within(self) -> bool:
        return self.asked.strata not in (NONE, SITE)

    @property
    def read(self) -> tuple[str, ...]:
        """All columns of the model."""
        asked = self.asked
        names = (asked.time, asked.event, *asked.covariates, *([asked.strata] if self._within else []))
        return tuple(dict.fromkeys(names))

    def lacks_for_privacy(self) -> str | None:
        """Sums without bounds."""
        return (
            "cox cannot be asked under differential privacy, because its sums have no bounds. Cure: ask kaplan_meier by "
            "groups"
        )

    def begin(self) -> State:
        """Before the means are known."""
        return State({"round": START})

    def partial(self, source: Source, state: State) -> Part:
        """A round, or half a one."""
        word = self.round(state, START, *((RISK, SPREAD) if self.pooled else (NEWTON,)))
        told = state.told.get("state")
        # What is told is read before the rows are.
        both = self._told(told, whole=word == SPREAD) if word in (RISK, SPREAD) else None
        one = self.read_state(told) if word == NEWTON else None
        columns = self._columns(source)
        if both is not None:
            if word == RISK:
                sums = cox_pooled.partial_risk(columns, self.fit, both.state, both.times)
            else:
                empty = np.empty(0)
                risk = Risk(0.0, empty, empty, both.at_risk, both.at_event)
                sums = cox_pooled.partial_spread(columns, self.fit, both.state, both.times, risk)
        elif one is not None:
            sums = cox.partial_stratified(columns, self.fit, one)
        else:
            sums = cox.partial_start(columns, self.fit)
        first = one if both is None else both.state if word == RISK else None
        if first is not None and not first.rounds:
            sums[POWERS] = powers(first.design(cox.take(columns, self.fit).matrix(self.names)))
        rows = sums["rows"] if "rows" in sums else np.asarray(cox.take(columns, self.fit).count)
        cells: dict[str, tuple[str, ...]] = {LEFT_OUT: ()} if LEFT_OUT in sums else {}
        return Part(sums, number(rows), len(self.names), cells, alone=not self.pooled)

    def combine(self, total: Total, state: State) -> State:
        """The next coefficients, or the second half of a round."""
        sums = total.sums
        word = self.round(state, START, *((RISK, SPREAD) if self.pooled else (NEWTON,)))
        if word == START:
            left_out = self.left_out(total)
            events = int(sums["events"].sum())
            why = self.thin(sums, len(self.names))
            if self.too_few(events):
                why = f"suppressed: fewer than {self.agreed.minimum} rows have the event"
            if why:
                return State({}, Withheld(why, left_out), done=True)
            return self._ask(_Fit(sums, left_out, cox.combine_start(sums, self.fit)))
        kept: _Fit = state.kept
        if POWERS in sums and (why := self.few_carry(sums[POWERS])):
            return State({}, Withheld(why, kept.left_out), done=True)
        if word == NEWTON:
            return self._ask(replace(kept, state=cox.combine_stratified(sums, kept.state)))
        if word == RISK:
            _, events_at = self._times(kept)
            if (sums["risk"] <= 0).any():
                raise DataError(
                    "no row is at risk at the time of an event: a site changed its rows", step=STEP
                )
            risk = cox_pooled.combine_risk(sums, self.fit, events_at)
            return self._ask(replace(kept, first=sums, risk=risk))
        if kept.first is None or kept.risk is None:
            raise JobError("the second half of a round came before the first", step=STEP)
        after = cox_pooled.combine_spread(sums, kept.first, kept.risk, kept.state)
        return self._ask(replace(kept, state=after, first=None, risk=None))

    def answer(self, state: State) -> Answer:
        """A row a coefficient."""
        if isinstance(state.kept, Withheld):
            return self.nothing(state.kept.why, state.kept.left_out)
        kept: _Fit = state.kept
        start = {**kept.start, LEFT_OUT: np.asarray(0)}
        found = cox.result(start, self.fit, kept.state, confidence=self.asked.confidence)
        table = found.table()
        if self._within:
            table = replace(table, title=table.title.replace("by site", f"by site and {self.asked.strata}"))
        return self.shows((table,), kept.left_out, plots=self.plots(found.coefficients))

    def _columns(self, source: Source) -> dict[str, npt.NDArray[Any]]:
        columns = self.expanded(self.taken(source, self.categories))
        if self._within:
            columns[self.asked.strata] = _codes(columns[self.asked.strata])
        return columns

    def _times(self, kept: _Fit) -> tuple[Floats, Ints]:
        return cox_pooled.event_times(kept.start, self.fit)

    def _ask(self, kept: _Fit) -> State:
        if kept.state.done:
            return State({}, kept, done=True)
        view = self.view(kept.state)
        if not self.pooled:
            return State({"round": NEWTON, "state": codec.pack(view)}, kept)
        risk, empty = kept.risk, np.empty(0)
        told = Told(
            view, self._times(kept)[0], risk.at_risk if risk else empty, risk.at_event if risk else empty
        )
        return State({"round": SPREAD if risk else RISK, "state": codec.pack(told)}, kept)

    def _told(self, given: Any, *, whole: bool) -> Told:
        told = codec.unpack(Told, given)
        self.checked_state(told.state)
        size = told.times.shape if whole else (0,)
        rising = told.times.ndim == 1 and len(told.times) > 0 and bool((np.diff(told.times) > 0).all())
        inside = rising and bool(np.isin(told.times, np.asarray(self.fit.grid)).all())
        halves = (told.at_risk, told.at_event)
        if not inside or any(each.shape != size or not np.isfinite(each).all() for each in halves):
            raise JobError("the event times told are not those of this grid, or lack their sums", step=STEP)
        return told


def grid_of(end: float, unit: float) -> tuple[float, ...]:
    """The grid of times; a JobError where it is too long."""
    try:
        return survival.time_grid(end, unit)
    except DataError as error:
        raise JobError(error.message, step=STEP) from error


def _codes(values: npt.NDArray[Any]) -> Floats:
    """Any column as numbers that are equal where its values are; strata lie within a site, which needs no levels."""
    if values.dtype.kind == "f":
        return values
    places: dict[Any, float] = {}
    made = [float("nan") if each is None else places.setdefault(each, float(len(places))) for each in values]
    return np.asarray(made, np.float64)
