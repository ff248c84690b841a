"""Count, mean and variance, covariance, correlation and principal components of numeric columns: two rounds of sums."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import numpy as np

from fedcore.analytics import codec, moments, newton
from fedcore.analytics.disclosure import Suppressed
from fedcore.analytics.question import STEP, Answer, Part, State, Total
from fedcore.analytics.questions.asked import LEFT_OUT, Asked, Withheld
from fedcore.analytics.questions.concentration import POWERS, carrying, powers, two_valued
from fedcore.analytics.result import Table
from fedcore.analytics.rows import complete
from fedcore.analytics.source import Source
from fedcore.analytics.sums import Floats, number
from fedcore.errors import JobError
from fedcore.jobs import asks

SUMS, MOMENTS = "sums", "moments"
SQUARE = "square"
Model = TypeVar("Model", bound=asks.Describe)


@dataclass(frozen=True, eq=False)
class Centre:
    """What the sites are told before the second round.

    Args:
        centre, scale: (k,) means of the columns, and about their standard deviations.
    """

    centre: Floats
    scale: Floats


@dataclass(frozen=True)
class _Found:
    moments: moments.Moments
    left_out: int | Suppressed | None


class Columns(Asked[Model]):
    """A question answered by means and products of columns.

    It is suppressed where few rows carry the variance of a column, since a covariance with it gives their values.
    """

    def check(self) -> None:
        """Numeric columns, each once."""
        self.numeric(*self.asked.columns)
        self.once(*self.asked.columns)
        self.fits(len(self.asked.columns) ** 2)

    @property
    def read(self) -> tuple[str, ...]:
        """The columns."""
        return self.asked.columns

    def lacks_for_privacy(self) -> str | None:
        """Sums without bounds."""
        return (
            f"{self.kind} cannot be asked under differential privacy, because its columns have no bounds. Cure: ask a "
            "histogram or quantiles of each column, or SQL with bounded sums"
        )

    def begin(self) -> State:
        """Before the means are known."""
        return State({"round": SUMS})

    def partial(self, source: Source, state: State) -> Part:
        """Sums, or sums and products around the means."""
        names, missing = self.read, self.asked.missing
        told = self._told(state) if self.round(state, SUMS, MOMENTS) == MOMENTS else None
        columns = self.taken(source, {})
        matrix = complete(columns, names, missing=missing).matrix(names)
        if told is None:
            sums = moments.partial_sums(columns, names, missing=missing)
            sums[SQUARE] = (matrix**2).sum(axis=0)
        else:
            sums = moments.partial_moments(columns, names, told.centre, missing=missing)
            sums[POWERS] = powers((matrix - told.centre) / told.scale)
        return Part(sums, number(sums["rows"]), cells={LEFT_OUT: ()})

    def combine(self, total: Total, state: State) -> State:
        """The means, then the moments."""
        left_out, sums = self.left_out(total), total.sums
        moments.some_rows(sums)
        if self.too_few(number(sums["rows"])):
            return State({}, Withheld(self.few_rows, left_out), done=True)
        if self.round(state, SUMS, MOMENTS) == SUMS:
            begin = newton.start(sums, self.read, intercept=True)
            centre = Centre(moments.combine_sums(sums, self.read).mean, begin.scale[1:])
            return State({"round": MOMENTS, "state": codec.pack(centre)}, centre)
        if few := self.few(sums[POWERS]):
            return State({}, Withheld(few, left_out), done=True)
        found = moments.combine_moments(sums, self.read, state.kept.centre)
        return State({}, _Found(replace(found, left_out=0), left_out), done=True)

    def answer(self, state: State) -> Answer:
        """The table."""
        if isinstance(state.kept, Withheld):
            return self.nothing(state.kept.why, state.kept.left_out)
        return self.shows(self.tables(state.kept.moments), state.kept.left_out)

    def few(self, total: Floats) -> str:
        """Why it may not be told, from the sums of powers; empty when it may."""
        bad = carrying(total) < self.agreed.minimum
        return self.said_few([name for name, each in zip(self.read, bad.tolist(), strict=True) if each])

    def _told(self, state: State) -> Centre:
        told = codec.unpack(Centre, state.told.get("state"))
        size = (len(self.read),)
        if told.centre.shape != size or not np.isfinite(told.centre).all():
            raise JobError(f"the means told are {told.centre.shape}; allowed: one for each column", step=STEP)
        if told.scale.shape != size or not np.isfinite(told.scale).all() or (told.scale <= 0).any():
            raise JobError("the deviations told are not one above 0 for each column", step=STEP)
        return told

    @abstractmethod
    def tables(self, found: moments.Moments) -> tuple[Table, ...]:
        """Of what was found."""


class Describe(Columns[asks.Describe]):
    """Count, mean and variance."""

    kind: ClassVar[str] = "describe"
    model = asks.Describe

    def few(self, total: Floats) -> str:
        """A column of two values of which few rows have one: its mean counts them. Others are told of by themselves."""
        bad = two_valued(total) < self.agreed.minimum
        return self.said_few([name for name, each in zip(self.read, bad.tolist(), strict=True) if each])

    def tables(self, found: moments.Moments) -> tuple[Table, ...]:
        """A row a column."""
        return (found.table(),)


class Covariance(Columns[asks.Covariance]):
    """Covariances."""

    kind: ClassVar[str] = "covariance"
    model = asks.Covariance

    def tables(self, found: moments.Moments) -> tuple[Table, ...]:
        """A row a column, a column a column."""
        rows = tuple((name, *row) for name, row in zip(found.names, found.covariance.tolist(), strict=True))
        return (Table("Covariance", ("column", *found.names), rows, (f"{found.rows} rows",)),)


class Correlation(Columns[asks.Correlation]):
    """Correlations."""

    kind: ClassVar[str] = "correlation"
    model = asks.Correlation

    def check(self) -> None:
        """Two columns or more."""
        super().check()
        if len(self.read) < 2:
            raise JobError("correlation of one column; allowed: two or more", step=STEP)

    def tables(self, found: moments.Moments) -> tuple[Table, ...]:
        """A row a pair."""
        return (moments.correlation(found).table(),)


class Components(Columns[asks.Components]):
    """Principal components."""

    kind: ClassVar[str] = "components"
    model = asks.Components

    def tables(self, found: moments.Moments) -> tuple[Table, ...]:
        """A row a component."""
        made = moments.principal_components(found, scaled=self.asked.scaled).table()
        return (replace(made, notes=(*made.notes, f"{found.rows} rows")),)
