"""Welch's t-test and one-way analysis of variance: two rounds of sums of the groups."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from fedcore.analytics import codec, groups
from fedcore.analytics.disclosure import SUPPRESSED, Suppressed
from fedcore.analytics.question import STEP, Answer, Mask, Part, State, Total
from fedcore.analytics.questions.asked import LEFT_OUT, Asked, Withheld, hidden
from fedcore.analytics.result import Cell, Table
from fedcore.analytics.rows import Levels
from fedcore.analytics.source import Source
from fedcore.analytics.sums import Floats, Sums
from fedcore.errors import DataError, JobError
from fedcore.jobs import asks

SUMS, MOMENTS = "sums", "moments"
Model = TypeVar("Model", asks.TTest, asks.Anova)


@dataclass(frozen=True, eq=False)
class Centres:
    """What the sites are told before the second round.

    Args:
        centre: (g,) means of the groups; 0 of one that is suppressed.
    """

    centre: Floats


@dataclass(frozen=True)
class _Found:
    groups: groups.Groups
    shown: Mask
    left_out: int | Suppressed | None


class Grouped(Asked[Model]):
    """A question answered by the mean and variance of groups.

    Attributes:
        levels_asked: (g,) the groups.
    """

    levels_asked: Levels

    def check(self) -> None:
        """A numeric column, and one with levels."""
        self.numeric(self.asked.value)
        self.once(self.asked.value, self.asked.by)
        self.levels_asked = self.chosen(self.levels(self.asked.by))
        self.fits(len(self.levels_asked))

    def chosen(self, levels: Levels) -> Levels:
        """The groups, of all levels."""
        return levels

    @property
    def grouped(self) -> Mapping[str, Levels]:
        """The groups."""
        return {self.asked.by: self.levels_asked}

    @property
    def read(self) -> tuple[str, str]:
        """The value and the groups."""
        return self.asked.value, self.asked.by

    def lacks_for_privacy(self) -> str | None:
        """Sums without bounds."""
        return (
            f"{self.kind} cannot be asked under differential privacy, because {self.asked.value} has no bounds. Cure: ask "
            "SQL with bounded sums by group, or a contingency table"
        )

    def begin(self) -> State:
        """Before the means are known."""
        return State({"round": SUMS})

    def partial(self, source: Source, state: State) -> Part:
        """Counts and sums of the groups, or counts, sums and squares around their means."""
        value, by, missing = self.asked.value, self.asked.by, self.asked.missing
        word = self.round(state, SUMS, MOMENTS)
        columns = self._of_groups(self.taken(source, {by: self.levels(by)}))
        if word == SUMS:
            sums = groups.partial_group_sums(columns, value, by, self.levels_asked, missing=missing)
            beside: tuple[str, ...] = ("sum",)
        else:
            centre = codec.unpack(Centres, state.told.get("state")).centre
            if centre.shape != (len(self.levels_asked),) or not np.isfinite(centre).all():
                raise JobError(f"the means told are {centre.shape}; allowed: one for each group", step=STEP)
            sums = groups.partial_group_moments(
                columns, value, by, self.levels_asked, centre, missing=missing
            )
            beside = ("sum", "square")
        return Part(sums, int(sums["rows"].sum()), cells={"rows": beside, LEFT_OUT: ()})

    def combine(self, total: Total, state: State) -> State:
        """The means, then the variances."""
        left_out, sums = self.left_out(total), total.sums
        if int(sums["rows"].sum()) <= 0:
            raise DataError("no site has a complete row; allowed: at least one in all", step=STEP)
        told = (sums["rows"] >= self.agreed.minimum) & ~hidden(total, "rows")
        if why := self.withheld(sums, told):
            return State({}, Withheld(why, left_out), done=True)
        if self.round(state, SUMS, MOMENTS) == SUMS:
            centres = Centres(np.where(told, groups.combine_group_sums(sums), 0.0))
            return State({"round": MOMENTS, "state": codec.pack(centres)}, centres)
        value, by = self.read
        found = groups.combine_group_moments(sums, value, by, self.levels_asked, state.kept.centre)
        # What is shown and tested is over the groups that may be told, and over no other.
        kept = replace(
            found,
            left_out=0,
            rows=np.where(told, found.rows, 0),
            mean=np.where(told, found.mean, np.nan),
            variance=np.where(told, found.variance, np.nan),
        )
        back = ~told & ((found.rows > 0) | hidden(total, "rows"))
        return State({}, _Found(kept, ~back, left_out), done=True)

    @abstractmethod
    def withheld(self, sums: Sums, told: Mask) -> str:
        """Why nothing may be told; empty when something may."""

    def answer(self, state: State) -> Answer:
        """The groups and the test."""
        if isinstance(state.kept, Withheld):
            return self.nothing(state.kept.why, state.kept.left_out)
        found: groups.Groups = state.kept.groups
        table = found.table()
        marks = state.kept.shown.tolist()
        rows = tuple(_marked(row, told) for row, told in zip(table.rows, marks, strict=True))
        short = int((~state.kept.shown).sum())
        note = f"{short} groups with fewer than {self.agreed.minimum} rows are suppressed and in no test"
        return self.shows(
            (replace(table, rows=rows), self.test(found)), state.kept.left_out, notes=(note,) if short else ()
        )

    @abstractmethod
    def test(self, found: groups.Groups) -> Table:
        """The table of the test."""

    def _of_groups(self, columns: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Without the rows of groups that are not asked for; they are not missing."""
        by = self.asked.by
        others = [level for level in self.levels(by) if level not in self.levels_asked]
        if not others:
            return columns
        inside = np.array([each not in others for each in columns[by].tolist()], bool)
        return {name: values[inside] for name, values in columns.items()}


def _marked(row: tuple[Cell, ...], told: bool) -> tuple[Cell, ...]:
    return row if told else (row[0], *(SUPPRESSED,) * (len(row) - 1))


class TTest(Grouped[asks.TTest]):
    """Welch's t-test."""

    kind: ClassVar[str] = "t_test"
    model = asks.TTest

    def chosen(self, levels: Levels) -> tuple[Hashable, Hashable]:
        """The two groups."""
        asked = self.asked.groups or tuple(levels)
        if len(asked) != 2 or asked[0] == asked[1] or any(each not in levels for each in asked):
            raise JobError(
                f"a t-test between {', '.join(map(repr, asked))} of {self.asked.by}; allowed: two of "
                f"{', '.join(map(repr, levels))[:200]}. Cure: name them under `groups`, or ask anova",
                step=STEP,
            )
        return asked[0], asked[1]

    def withheld(self, sums: Sums, told: Mask) -> str:
        """Where a group has too few rows; one that has none is an error of the data."""
        empty = (sums["rows"] == 0) & told[::-1]
        return (
            ""
            if told.all() or empty.any()
            else f"suppressed: a group has fewer than {self.agreed.minimum} rows"
        )

    def test(self, found: groups.Groups) -> Table:
        """One row."""
        first, second = self.levels_asked
        return groups.welch(found, first, second, confidence=self.asked.confidence).table()


class Anova(Grouped[asks.Anova]):
    """One-way analysis of variance."""

    kind: ClassVar[str] = "anova"
    model = asks.Anova

    def withheld(self, sums: Sums, told: Mask) -> str:
        """Where groups are suppressed and two are not left."""
        few = int(told.sum()) < 2 and bool((~told & (sums["rows"] > 0)).any())
        return f"suppressed: fewer than two groups have {self.agreed.minimum} rows" if few else ""

    def test(self, found: groups.Groups) -> Table:
        """Two rows."""
        return groups.anova(found).table()
