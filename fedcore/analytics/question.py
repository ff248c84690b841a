"""A question over many sites, of whatever kind: rounds of sums, each made at the sites and added on the way.

    state = question.begin()
    while not state.done:
        every site:   part = question.partial(source, state)         its own rows, and nothing of any other
        on the way:   the release gate of each site, and the sum over sites
        coordinator:  state = question.combine(total, state)
    answer = question.answer(state)

What a question needs to know beforehand (which columns there are, which values a column of categories may have) is
agreed by all sites before (`Agreed`). The two halves of a question stand in one class, which knows nothing of secure sums,
networks, noise or policies.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from fedcore.analytics.columns import Column
from fedcore.analytics.condition import Condition
from fedcore.analytics.disclosure import Key, checked_minimum
from fedcore.analytics.query import Query
from fedcore.analytics.sums import Sums
from fedcore.errors import JobError
from fedcore.jobs import asks

if TYPE_CHECKING:
    import rich.table

    from fedcore.analytics.source import Source

STEP = "question"
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Agreed:
    """What all sites that take part have in common.

    Args:
        data: Name of the data set.
        columns: By name, with kind and unit.
        levels: Values that a column of categories may have, in order; columns without are not there.
        minimum: Least cell of all sites.
        protected: Whether only the sum over sites is seen.
        private: Whether noise is added.
    """

    data: str
    columns: Mapping[str, Column]
    levels: Mapping[str, tuple[Hashable, ...]] = field(default_factory=dict)
    minimum: int = 5
    protected: bool = True
    private: bool = False

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` takes them back."""
        return {
            "data": self.data,
            "columns": {name: [each.kind, each.unit] for name, each in self.columns.items()},
            "levels": {name: list(values) for name, values in self.levels.items()},
            "minimum": self.minimum,
            "protected": self.protected,
            "private": self.private,
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Agreed:
        """Take back what `to_json` gave.

        Raises:
            JobError: It is none.
        """
        try:
            return cls(
                str(told["data"]),
                {str(name): Column(*each) for name, each in told["columns"].items()},
                {str(name): tuple(values) for name, values in told["levels"].items()},
                checked_minimum(int(told["minimum"])),
                bool(told["protected"]),
                bool(told["private"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise JobError("the request does not say what the sites agreed on", step=STEP) from error


@dataclass(frozen=True)
class Bounds:
    """What one row can add to an array: to one entry of it, a number between two bounds; to the others 0.

    Args:
        low, high: Of the number.
    """

    low: float
    high: float


@dataclass(frozen=True)
class Part:
    """What one site makes for a round, before its gate.

    Args:
        sums: Arrays by name; form and order follow from question and state, not from the rows.
        rows: Of this site that the question is over.
        parameters: Numbers that a model estimates from the rows; 0 for what is no model.
        cells: Arrays of counts of rows of which each entry is a cell that someone may read by itself, and the arrays that
            go with it, whose first axes are those of the counts: where a cell is hidden, so are they.
        alone: Whether the part may be seen by itself, as it is without a secure sum; a part in which single rows stand
            out must not.
        bounds: Per array, for noise; an array that has none cannot be told under differential privacy.
    """

    sums: Sums
    rows: int
    parameters: int = 0
    cells: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    alone: bool = True
    bounds: Mapping[str, Bounds] = field(default_factory=dict)


@dataclass(frozen=True)
class Total:
    """What comes out of the sum over sites.

    Args:
        sums: Added arrays, of the types of the parts.
        hidden: Per array of cells and arrays that go with it: entries that a site kept back, shape of the array.
        sites: In the sum.
        variance: Per array, of the noise in each entry; empty without.
    """

    sums: Sums
    hidden: Mapping[str, Mask] = field(default_factory=dict)
    sites: int = 0
    variance: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """Where a question is.

    Args:
        told: JSON values that the sites need for the next round; equal for all.
        kept: What the coordinator remembers; it does not travel.
        done: Whether no round is left.
    """

    told: dict[str, Any] = field(default_factory=dict)
    kept: Any = None
    done: bool = False


class Shown(Protocol):
    """A table of an answer: `fedcore.analytics.result.Table`, or the groups of a query."""

    @property
    def title(self) -> str:
        """What it is."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines below it."""

    def rich(self) -> rich.table.Table:
        """For a terminal."""

    def to_csv(self) -> str:
        """A line of heads and one a row."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values; suppressed, 0 and missing stay apart."""


@dataclass(frozen=True)
class Answer:
    """What is shown.

    Args:
        tables: In order.
        plots: SVG texts by name.
        suppressed: Cells or whole answers that are kept back for their small counts.
        left_out: Rows that missed a value, where that is told.
    """

    tables: tuple[Shown, ...]
    plots: Mapping[str, str] = field(default_factory=dict)
    suppressed: int = 0
    left_out: int | None = None


class Question(ABC):
    """One question of a job, built for what the sites agreed on.

    Attributes:
        kind: As jobs and policies name it (`fedcore.jobs.asks.KINDS`).
        agreed: By all sites.
    """

    kind: ClassVar[str]

    def __init__(self, agreed: Agreed) -> None:
        self.agreed = agreed

    @classmethod
    @abstractmethod
    def build(cls, asked: asks.Question, agreed: Agreed) -> Question:
        """The question that a job asks, checked against what the sites have.

        Raises:
            JobError: It names what they do not have, or cannot be asked so; the nearest that can is named.
        """

    @classmethod
    def keys_of(cls, asked: asks.Question, agreed: Agreed) -> tuple[str, ...]:
        """Columns whose values must be known before it is built.

        Raises:
            JobError: As `build`.
        """
        found = (getattr(asked.asked, name, None) for name in ("by", "down", "across"))
        return tuple(name for name in found if name is not None and name in agreed.columns)

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """All columns that are read at a site, also in a condition."""

    @property
    def condition(self) -> Condition | None:
        """Which rows it is over; all when None."""
        return None

    @property
    def hash(self) -> str:
        """SHA-256 of what is asked of which data set, hex; where groups are bins, `-` and `block` after it."""
        told = {"kind": self.kind, "data": self.agreed.data, "asked": self.to_json()}
        made = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        return f"{made}-{self.block}" if self.block else made

    @property
    def block(self) -> int:
        """How many of the groups of `groups_of`, in a row, are the bins of one histogram and its missing values; 0: none."""
        return 0

    def groups_of(self, source: Source) -> tuple[Query, dict[Key, int]]:
        """Which rows of a site its groups hold, so that differences with other questions can be looked at.

        Args:
            source: The site's rows.

        Returns:
            The groups as a query, and for each of them, in an order that all sites share, its rows as the set bits of a
            whole number.
        """
        from fedcore.analytics import local

        query = Query(self.agreed.data, self.condition).count()
        return query, {(): local.row_sets(query, source, minimum=None).get((), 0)}

    @property
    def statistics(self) -> tuple[str, ...]:
        """What a site's policy must allow, words of `fedcore.jobs.asks.STATISTICS`."""
        return (self.kind,)

    @property
    @abstractmethod
    def text(self) -> str:
        """For a person to read."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """JSON values of what is asked; `from_json` takes them back."""

    @classmethod
    @abstractmethod
    def from_json(cls, told: Mapping[str, Any], agreed: Agreed) -> Question:
        """Take back what `to_json` gave; what the sites agreed on comes beside it.

        Raises:
            JobError: It is none.
        """

    def lacks_for_privacy(self) -> str | None:
        """Why it cannot be asked under differential privacy, and what can; None when it can."""
        return f"{self.kind} cannot be asked under differential privacy"

    def rounds_for_privacy(self) -> int:
        """Rounds that it takes under differential privacy, over which its cost is split."""
        return 1

    @abstractmethod
    def begin(self) -> State:
        """Before the first round."""

    @abstractmethod
    def partial(self, source: Source, state: State) -> Part:
        """A site's part of a round.

        Args:
            source: Its rows.
            state: With `told` only.

        Raises:
            DataError: Its rows do not serve.
        """

    @abstractmethod
    def combine(self, total: Total, state: State) -> State:
        """After a round."""

    @abstractmethod
    def answer(self, state: State) -> Answer:
        """When no round is left."""
