"""The psi job: two parties learn which of their rows have the same key."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedcore.errors import did_you_mean
from fedcore.jobs.common import Bytes, Name, Seconds, Strict

COORDINATOR = "coordinator"
"""The coordinator's name where a policy says who may learn a number; no party has it."""

Protocol = Literal["vole", "vole-compact", "ecdh"]
What = Literal["rows", "cardinality"]


class PsiParty(Strict):
    """What one party brings.

    Args:
        data: The data set's name in the party's catalogue.
        key: The column, or the columns in the same order as the other party's. A row's key is their values
            together.
    """

    data: Name
    key: str | tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The key's columns, also where there is one."""
        return (self.key,) if isinstance(self.key, str) else self.key

    @model_validator(mode="after")
    def _some(self) -> PsiParty:
        if not self.columns or not all(self.columns):
            raise ValueError("key: name one column or more")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("key: a column stands twice")
        return self


class Reveal(Strict):
    """What the run reveals, and to whom.

    Args:
        what: `rows`: which of its own rows match; `cardinality`: how many keys match and nothing else.
        to: The party that learns it, or both; with `cardinality` one.
        coordinator: What the coordinator is told: `sizes` is how many rows and keys each party has; `count`
            is also how many match.
    """

    what: What
    to: tuple[Name, ...]
    coordinator: Literal["sizes", "count"] = "sizes"

    @property
    def receiver(self) -> str:
        """Who learns the result first."""
        return self.to[0]

    @property
    def both(self) -> bool:
        """Whether both learn it."""
        return len(self.to) == 2


class Items(Strict):
    """What counts as the same key.

    Args:
        trim: White space around a text does not count.
        fold_case: Capital and small letters are the same.
        numbers_as_text: A number is its decimal text; for CSV, which has only text, against typed columns.
        dates_as_text: A date is its text, 2026-01-31; for CSV against typed columns.
    """

    trim: bool = False
    fold_case: bool = False
    numbers_as_text: bool = False
    dates_as_text: bool = False


class PsiJob(Strict):
    """Find the rows that two parties share, and nothing else.

    Args:
        name: Names the run folder and stands in every log.
        purpose: Why; a participant's policy may allow only some purposes.
        parties: The two parties by name, and what each brings.
        protocol: `vole`, `vole-compact` (fewer bytes) or `ecdh`; [intersection.md](intersection.md) has a table.
        memory_limit: Memory for a party's keys; a party takes its own `resources.memory` where that is less.
        deadline: Longest wait for the parties in one phase, seconds.
    """

    kind: Literal["psi"]
    name: Name
    purpose: Name = "research"
    parties: dict[Name, PsiParty]
    protocol: Protocol = "vole"
    reveal: Reveal
    items: Items = Items()
    memory_limit: Bytes | None = None
    deadline: Seconds = Field(default=3600.0)

    @model_validator(mode="after")
    def _fits(self) -> PsiJob:
        if len(self.parties) != 2:
            raise ValueError(f"parties: {len(self.parties)} are named; an intersection is between two")
        if COORDINATOR in self.parties:
            raise ValueError(f"parties: {COORDINATOR!r} is the coordinator's name; rename the party")
        lengths = {name: len(party.columns) for name, party in self.parties.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {number}" for name, number in lengths.items())
            raise ValueError(
                f"parties: the keys have different numbers of columns ({told}); they never match"
            )
        self._check_reveal()
        return self

    def _check_reveal(self) -> None:
        to = self.reveal.to
        for name in to:
            if name not in self.parties:
                raise ValueError(f"reveal.to: {name!r} is no party; {did_you_mean(name, self.parties)}")
        if not to or len(set(to)) < len(to):
            raise ValueError("reveal.to: name the party that learns the result, or both, each once")
        if self.reveal.what == "cardinality" and self.protocol != "ecdh":
            raise ValueError(
                f"protocol: {self.protocol} shows which rows match; for the cardinality alone take ecdh"
            )
        if self.reveal.what == "cardinality" and self.reveal.both:
            raise ValueError("reveal.to: with cardinality one party learns the number; name one")
