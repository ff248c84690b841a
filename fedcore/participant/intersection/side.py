"""What one party brings to an intersection, and what the parties agreed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crypto.psi.items import ItemRules
from fedcore.errors import JobError, did_you_mean

if TYPE_CHECKING:
    from fedcore.jobs.datasets import DataSet

Role = Literal["receiver", "sender"]

PROTOCOLS = ("vole", "vole-compact", "ecdh", "ecdh-cached")
REVEALS = ("rows", "cardinality", "sum")
MEMORY = 2**30
"""Bytes for the keys and the work on them where a job does not say: beyond, keys go to a file."""
LEAST_MEMORY = 2**26
PLANTED = 64
"""Items of the self-check."""
MOST_SUMMED = 16
"""Columns that are added up in one run: with 64 bits each, as many as a ciphertext takes in any case."""
MOST_DIGITS = 18
"""After the point of an amount."""
MOST_MATCHES = 2**32 - 2**10

ROLES = ("receiver", "sender")


@dataclass(frozen=True)
class SumOf:
    """Which numbers are added up over the matches, and whose they are. Bounds and scale are the holder's to say.

    Args:
        columns: Names, the same at both parties.
        holder: Who has them.
        scale: Digits after the point; as many as the data has when None. The other party learns it.
        bounds: Least and most that one key may add to a sum, both allowed, with 0 between them. The other party
            learns them; when None they are those of 64 bits, which tell nothing.
    """

    columns: tuple[str, ...]
    holder: Role
    scale: int | None = None
    bounds: tuple[Decimal, Decimal] | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.columns) <= MOST_SUMMED or not all(self.columns):
            raise JobError(
                f"reveal: {len(self.columns)} columns to add up; name 1 to {MOST_SUMMED}, as in sum:income,tax"
            )
        if len(set(self.columns)) < len(self.columns):
            raise JobError("reveal: a column to add up stands twice")
        if self.holder not in ROLES:
            raise JobError(f"holder: {self.holder!r} is not known; {did_you_mean(self.holder, ROLES)}")
        if self.scale is not None and not 0 <= self.scale <= MOST_DIGITS:
            raise JobError(f"amount_scale: {self.scale} digits after the point; allowed: 0 to {MOST_DIGITS}")
        if self.bounds is not None and not (
            all(bound.is_finite() for bound in self.bounds) and self.bounds[0] <= 0 <= self.bounds[1]
        ):
            raise JobError(
                f"amount_bounds: {self.bounds[0]} to {self.bounds[1]} do not enclose 0, which a key may add too"
            )


@dataclass(frozen=True)
class Side:
    """What one party brings and what was agreed.

    Args:
        role: The receiver learns the result.
        data: Its rows.
        key: Columns of the key, in an order that both parties know.
        session: Name of the meeting, the same at both.
        rules: What counts as the same item.
        protocol: `vole`, `vole-compact` (fewer bytes), `ecdh` or `ecdh-cached`.
        reveal: `rows`, `cardinality` or `sum`.
        both: Whether the sender learns the rows too.
        memory: Bytes for reading, the keys and the work on them, beside some 250 MB for the program itself; `MEMORY`
            when None. With `vole` and `vole-compact` a larger set lies in a file meanwhile; `ecdh` holds it in memory all the same.
        sum_of: For `sum`: of what.
        min_matches: For `cardinality` and `sum`: with fewer matches the receiver learns that they are fewer, and no
            number. The sender learns how many there are and enforces it.
        published: For the receiver of `ecdh-cached`: the other party's published set.
    """

    role: Role
    data: DataSet
    key: tuple[str, ...]
    session: str
    rules: ItemRules = field(default_factory=ItemRules)
    protocol: str = "vole"
    reveal: str = "rows"
    both: bool = False
    memory: int | None = None
    sum_of: SumOf | None = None
    min_matches: int = 0
    published: Path | None = None

    @property
    def holds(self) -> bool:
        """Whether the numbers that are added up are this party's."""
        return self.sum_of is not None and self.sum_of.holder == self.role

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("role", self.role, ROLES),
            ("protocol", self.protocol, PROTOCOLS),
            ("reveal", self.reveal, REVEALS),
        ):
            if value not in allowed:
                raise JobError(f"{name}: {value!r} is not known; {did_you_mean(value, allowed)}")
        if not self.key:
            raise JobError("key: name one column or more")
        if self.memory is not None and self.memory < LEAST_MEMORY:
            raise JobError(f"memory_limit: {self.memory} bytes; at least {LEAST_MEMORY} (64 MiB) are needed")
        self._check_reveal()
        self._check_published()

    def _check_reveal(self) -> None:
        if self.reveal != "rows" and self.protocol != "ecdh":
            what = "the cardinality" if self.reveal == "cardinality" else "a sum"
            raise JobError(
                f"protocol {self.protocol} shows the receiver which rows match; for {what} alone take protocol ecdh"
            )
        if self.reveal == "cardinality" and self.both:
            raise JobError(
                "both: with cardinality the receiver alone learns the number, and nobody rows; leave it out"
            )
        if self.reveal == "sum" and self.both:
            raise JobError("both: with sum the receiver alone learns the sum, and nobody rows; leave it out")
        if (self.reveal == "sum") != (self.sum_of is not None):
            raise JobError(
                "reveal: a sum needs the columns to add up, as in sum:income, and nothing else does"
            )
        if self.reveal == "sum" and importlib.util.find_spec("gmpy2") is None:
            raise JobError(
                "reveal: a sum needs the package gmpy2, which is not installed; pip install 'fedcore[paillier]'"
            )
        if (
            self.sum_of is not None
            and not self.holds
            and (self.sum_of.scale, self.sum_of.bounds) != (None, None)
        ):
            raise JobError(
                "amount_scale, amount_bounds: they are for the party that holds the columns; leave them out here"
            )
        if not 0 <= self.min_matches <= MOST_MATCHES:
            raise JobError(f"min_matches: {self.min_matches}; allowed: 0 to {MOST_MATCHES}")
        if self.min_matches and self.reveal == "rows":
            raise JobError(
                "min_matches: rows show how many there are; it is for reveal cardinality and sum, leave it out"
            )

    def _check_published(self) -> None:
        cached = self.protocol == "ecdh-cached"
        if cached and self.role == "sender":
            raise JobError(
                "protocol ecdh-cached: the sender answers from the secret of the set it published, and brings no data"
            )
        if cached and self.both:
            raise JobError("both: with ecdh-cached the receiver alone learns the rows; leave it out")
        if cached and self.published is None:
            raise JobError("protocol ecdh-cached: name the other party's published set (published)")
        if self.published is not None and not cached:
            raise JobError(f"published: protocol {self.protocol} needs no published set; leave it out")
