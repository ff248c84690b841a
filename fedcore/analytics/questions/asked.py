"""What the kinds of questions other than SQL share: their condition, checks of columns, and what may be shown."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from fedcore.analytics import query_json
from fedcore.analytics.columns import problems
from fedcore.analytics.condition import Condition, shown, tested
from fedcore.analytics.condition import to_json as condition_json
from fedcore.analytics.disclosure import SUPPRESSED, Key, Suppressed
from fedcore.analytics.query import Query
from fedcore.analytics.question import STEP, Agreed, Answer, Question, State, Total
from fedcore.analytics.result import Table
from fedcore.analytics.rows import Levels
from fedcore.analytics.site_rows import columns_of
from fedcore.analytics.source import Source
from fedcore.analytics.sums import number
from fedcore.errors import DataError, JobError, did_you_mean
from fedcore.jobs import asks

Model = TypeVar("Model", bound=asks.Ask)
LEFT_OUT = "left_out"
MOST = 4_000_000
"""Entries of the arrays of a round."""


class Asked(Question, Generic[Model]):
    """A question of a model of `fedcore.jobs.asks`.

    Attributes:
        asked: The model, without its condition.
    """

    model: ClassVar[type[asks.Ask]]

    def __init__(self, agreed: Agreed, asked: Model, condition: Condition | None = None) -> None:
        super().__init__(agreed)
        self.asked, self._condition = asked, condition
        if agreed.private and (why := self.lacks_for_privacy()) is not None:
            raise JobError(why, step=STEP)
        if found := problems(Query(agreed.data, condition), agreed.columns):
            raise JobError("; ".join(found), step=STEP)
        self.check()

    @classmethod
    def build(cls, asked: asks.Question, agreed: Agreed) -> Self:
        """The question that a job asks, checked against what the sites have."""
        from fedcore.analytics.sql import parse_condition

        said: Model = asked.asked
        if not isinstance(said, cls.model):
            raise JobError(f"the question asks {asked.kind}, not {cls.kind}", step=STEP)
        where = said.where
        condition = None if where is None else parse_condition(where, agreed.data, agreed.columns)
        return cls(agreed, said.model_copy(update={"where": None}), condition)

    @abstractmethod
    def check(self) -> None:
        """Whether it can be asked of the columns that the sites agreed on; a JobError says why not."""

    @property
    @abstractmethod
    def read(self) -> tuple[str, ...]:
        """Columns that it is over, without those of the condition."""

    @property
    def grouped(self) -> Mapping[str, Levels]:
        """Columns whose values make the cells that are told, and those values."""
        return {}

    @property
    def condition(self) -> Condition | None:
        """Which rows it is over; all when None."""
        return self._condition

    def groups_of(self, source: Source) -> tuple[Query, dict[Key, int]]:
        """Which rows of a site its groups hold; all groups that there can be, in the order of the levels, missing ones last.

        Missing ones too: what is asked of groups is otherwise taken to be asked of fewer rows.
        """
        if not self.grouped:
            return super().groups_of(source)
        from fedcore.analytics import local

        query = Query(self.agreed.data, self.condition).group_by(*self.grouped).count()
        found = local.row_sets(query, source, minimum=None)
        return query, {
            key: found.get(key, 0) for key in product(*((*levels, None) for levels in self.grouped.values()))
        }

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read at a site."""
        return tuple(sorted({*self.read, *tested(self.condition)}))

    @property
    def text(self) -> str:
        """For a person to read."""
        said = self.asked.model_dump(mode="json", exclude_defaults=True)
        parts = [f"{key} {_plain(value)}" for key, value in said.items()]
        where = f" where {shown(self.condition)}" if self.condition is not None else ""
        return f"{self.agreed.data}{where}: {self.kind} of {', '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        """JSON values of what is asked."""
        where = None if self.condition is None else condition_json(self.condition)
        return {"asked": self.asked.model_dump(mode="json", exclude={"where"}), "where": where}

    @classmethod
    def from_json(cls, told: Mapping[str, Any], agreed: Agreed) -> Self:
        """Take back what `to_json` gave."""
        said = told.get("asked") if isinstance(told, dict) else None
        if not isinstance(said, dict) or set(told) != {"asked", "where"} or "where" in said:
            raise JobError(f"the request holds no question of kind {cls.kind}", step=STEP)
        query = query_json.read({"dataset": agreed.data, "where": told["where"]})
        try:
            asked: Any = cls.model.model_validate_json(json.dumps(said, allow_nan=False), strict=True)
        except (ValidationError, TypeError, ValueError) as error:
            raise JobError(
                f"the request holds no question of kind {cls.kind} that can be read",
                step=STEP,
                detail=str(error),
            ) from error
        return cls(agreed, asked, query.condition)

    # What a check uses.

    def known(self, name: str) -> str:
        """Kind of a column; a JobError where there is no such column."""
        if name not in self.agreed.columns:
            raise JobError(
                f'{self.agreed.data} has no column "{name}": {did_you_mean(name, self.agreed.columns)}',
                step=STEP,
            )
        return self.agreed.columns[name].kind

    def numeric(self, *names: str) -> None:
        """Refuse columns that hold no numbers; flags count as 0 and 1."""
        for name in names:
            if (kind := self.known(name)) not in ("number", "flag"):
                raise JobError(
                    f"{self.kind} needs numbers; {name} holds {kind}. Cure: ask another column, or take {name} for the "
                    "groups",
                    step=STEP,
                )

    def once(self, *names: str) -> None:
        """Refuse a question that names a column twice."""
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise JobError(f"{', '.join(twice)} stands twice in the question; allowed: once", step=STEP)

    def levels(self, name: str) -> Levels:
        """Values that a column of categories may have; a flag's are false and true."""
        kind = self.known(name)
        if found := self.agreed.levels.get(name):
            scalars = all(isinstance(each, int | float | str) and each == each for each in found)
            if not scalars or len(set(found)) != len(found):
                raise JobError(
                    f"the levels of {name} name a value twice, or one that is missing; allowed: numbers, texts, true and "
                    "false, each once",
                    step=STEP,
                )
            return found
        if kind == "flag":
            return (False, True)
        raise JobError(
            f"{self.kind} needs to know beforehand which values {name} may have. Cure: declare `levels` of {name} in the "
            "participants' catalogues or in the job, or ask SQL with private keys",
            step=STEP,
        )

    def fits(self, entries: int) -> None:
        """Refuse a question whose sums would have too many entries."""
        if entries > MOST:
            raise JobError(
                f"{self.kind} would send {entries} numbers a round; allowed: {MOST}. Cure: fewer levels, columns or times",
                step=STEP,
            )

    # What a site uses.

    def taken(self, source: Source, levels: Mapping[str, Levels]) -> dict[str, npt.NDArray[Any]]:
        """Columns of the rows that meet the condition; what is none of the levels is missing where that is left out."""
        there = source.columns
        for name in self.columns:
            if name not in there:
                raise DataError(
                    f'{self.agreed.data} has no column "{name}" here: {did_you_mean(name, there)}', step=STEP
                )
            want, have = self.agreed.columns[name], there[name]
            if have.kind != want.kind or (source.rows.num_rows and have.unit != want.unit):
                raise DataError(
                    f"{name} holds {have.kind}{_unit(have.unit)} here; the sites agreed on {want.kind}{_unit(want.unit)}",
                    step=STEP,
                )
        columns = columns_of(source, self.read, self.condition)
        if self.asked.missing == "leave out":
            for name, allowed in levels.items():
                columns[name] = _only(columns[name], allowed)
        return columns

    def round(self, state: State, *allowed: str) -> str:
        """The word that says which round is meant."""
        word = state.told.get("round")
        if not isinstance(word, str) or word not in allowed:
            raise JobError(
                f"the request is for round {word!r:.40} of {self.kind}; allowed: {', '.join(allowed)}",
                step=STEP,
            )
        return word

    # What is shown.

    def too_few(self, count: float) -> bool:
        """Whether some rows, but fewer than the minimum, are counted."""
        return 0 < count < self.agreed.minimum

    def left_out(self, total: Total) -> int | Suppressed | None:
        """Rows that missed a value, as far as they may be told; None where nobody counted them."""
        if LEFT_OUT not in total.sums:
            return None
        count = number(total.sums[LEFT_OUT])
        return SUPPRESSED if hidden(total, LEFT_OUT).any() or self.too_few(count) else count

    def shows(
        self,
        tables: Sequence[Table],
        left_out: int | Suppressed | None,
        *,
        notes: Sequence[str] = (),
        plots: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer; notes go below the first table.

        Args:
            tables: One or more.
            left_out: Rows that missed a value.
            notes: Further ones.
            plots: SVG texts by name.
        """
        said: tuple[str, ...] = ()
        if isinstance(left_out, Suppressed):
            said = ("rows left out because a value is missing or none of the levels: suppressed",)
        elif left_out:
            said = (f"{left_out} rows left out: a value is missing or none of the levels",)
        first = replace(tables[0], notes=(*tables[0].notes, *notes, *said))
        made = (first, *tables[1:])
        count = None if isinstance(left_out, Suppressed) else left_out
        return Answer(made, plots or {}, sum(each.suppressed for each in made), count)

    def nothing(self, why: str, left_out: int | Suppressed | None = None) -> Answer:
        """The answer of which nothing may be told."""
        table = Table(self.text, ("result",), ((SUPPRESSED,),), (why,))
        return self.shows((table,), left_out)

    def said_few(self, names: Sequence[str]) -> str:
        """Why an answer is suppressed in which few rows carry columns; empty where there is no such column."""
        if not names:
            return ""
        return (
            f"suppressed: fewer than {self.agreed.minimum} rows carry the variance of {', '.join(names)[:200]}. Cure: merge "
            "rare values, bound or transform far ones at the sites, or leave it out"
        )

    @property
    def few_rows(self) -> str:
        """Why an answer is suppressed that is over too few rows."""
        return f"suppressed: it is over fewer than {self.agreed.minimum} rows"

    def noise_note(self, variance: float) -> tuple[str, ...]:
        """What a table says of the noise in its counts."""
        return (
            f"noise for differential privacy is in each count, of standard error {np.sqrt(variance):.4g}; negative counts "
            "are shown as 0",
        )


@dataclass(frozen=True)
class Withheld:
    """What a coordinator keeps of a question whose answer may not be told.

    Args:
        why: For a person to read.
        left_out: Rows that missed a value.
    """

    why: str
    left_out: int | Suppressed | None = None


def hidden(total: Total, name: str) -> npt.NDArray[np.bool_]:
    """Entries of an array that a site kept back, of the array's shape."""
    shape = np.shape(total.sums[name])
    return np.broadcast_to(total.hidden.get(name, np.zeros((), bool)), shape)


def _only(values: npt.NDArray[Any], levels: Levels) -> npt.NDArray[Any]:
    allowed = set(levels)
    if values.dtype.kind == "f":
        numbers = [float(each) for each in allowed if isinstance(each, int | float)]
        return np.where(np.isin(values, numbers), values, np.nan)
    return np.array([*(each if each in allowed else None for each in values.tolist()), None], object)[:-1]


def _unit(unit: str) -> str:
    return f" in {unit}" if unit else ""


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value)) if len(value) <= 12 else f"{len(value)} values"
    return str(value)
