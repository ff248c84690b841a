"""From the words of `fedcore psi` to what the package takes, with an error for each word that cannot be used.

What it imports of the package, it imports when it is asked: most runs need little of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedcore.errors import DataError, JobError, did_you_mean

if TYPE_CHECKING:
    from crypto.psi.items import ItemRules
    from fedcore.jobs.datasets import DataSet
    from fedcore.participant.intersection import Role, Side, SumOf

MIN_MATCHES_OF_SUM = 5
"""Where nothing is said: the sum of one match is that row's number."""
CATALOGUES = (".yaml", ".yml")


def reveal_of(text: str) -> tuple[str, tuple[str, ...]]:
    """What is revealed, and the columns that are added up.

    Raises:
        JobError: It is nothing that can be revealed.
    """
    what, colon, rest = text.partition(":")
    if what == "sum":
        columns = tuple(name.strip() for name in rest.split(",")) if rest.strip() else ()
        if not columns or not all(columns):
            raise JobError(f"--reveal: {text!r} names no column; write sum:COLUMN, or sum:A,B for several")
        return what, columns
    if what not in ("rows", "cardinality"):
        allowed = ("rows", "cardinality", "sum:COLUMN")
        raise JobError(f"--reveal: {text!r} is not known; {did_you_mean(text, allowed)}")
    if colon:
        raise JobError(f"--reveal: {text!r}: {what} takes no column; write {what}, or sum:{rest or 'COLUMN'}")
    return what, ()


def protocol_of(given: str | None, reveal: str, published: bool) -> str:
    """The protocol; one that can do what is asked where none is given."""
    return given or ("ecdh-cached" if published else "vole" if reveal == "rows" else "ecdh")


def min_matches_of(given: int | None, reveal: str) -> int:
    """Fewest matches of which a number is told."""
    return given if given is not None else MIN_MATCHES_OF_SUM if reveal == "sum" else 0


def bounds_of(text: str) -> tuple[Decimal, Decimal]:
    """The bounds of `LOW:HIGH`.

    Raises:
        JobError: They are none.
    """
    low, colon, high = text.partition(":")
    try:
        bounds = Decimal(low.strip()), Decimal(high.strip())
    except InvalidOperation:
        bounds = Decimal("NaN"), Decimal("NaN")
    if not colon or not all(bound.is_finite() for bound in bounds):
        raise JobError(f"--amount-bounds: {text!r}; allowed: two numbers, as in -1000:250000.50")
    return bounds


def data_of(file: Path, table: str | None = None, dataset: str | None = None) -> DataSet:
    """The data set of a file, or of a catalogue that describes it.

    Args:
        file: CSV, Parquet or SQLite; or a participant file (`.yaml`), whose catalogue has data sets.
        table: Of an SQLite file.
        dataset: Of the catalogue; not needed where it has one only.

    Raises:
        DataError: The file cannot be used, or has no such table.
        JobError: The catalogue has a problem, or no such data set.
    """
    if file.suffix.lower() in CATALOGUES:
        from fedcore.jobs.load import load_participant

        if table is not None:
            raise JobError(f"--table: the catalogue {file} says which table; leave it out")
        catalogue = load_participant(file).catalogue
        if dataset is None and len(catalogue) == 1:
            return next(iter(catalogue.values()))
        if dataset is None:
            raise JobError(
                f"{file} has {len(catalogue)} data sets ({', '.join(sorted(catalogue))}); give --dataset NAME"
            )
        if dataset not in catalogue:
            raise JobError(f"--dataset: {file} has no {dataset!r}; {did_you_mean(dataset, catalogue)}")
        return catalogue[dataset]
    if dataset is not None:
        raise JobError(f"--dataset: {file} is not a catalogue ({', '.join(CATALOGUES)}); leave it out")
    from fedcore.participant.data.batches import file_data

    return file_data(file, table)


def columns_there(data: DataSet, columns: Sequence[str]) -> list[str]:
    """Those of some columns that the data has; its schema is read, no rows."""
    from fedcore.participant.data.catalogue import read_schema

    names = set(read_schema(data).names)
    return [name for name in columns if name in names]


def holder_of(data: DataSet, columns: tuple[str, ...], role: Role, given: str | None) -> Role:
    """Who has the columns: as given, else this party where its data has them, and the other where it has none.

    Raises:
        JobError: The role is none.
        DataError: Some of the columns are here and others not.
    """
    if given is not None:
        if given not in ("receiver", "sender"):
            raise JobError(f"--holder: {given!r} is not known; {did_you_mean(given, ('receiver', 'sender'))}")
        return "receiver" if given == "receiver" else "sender"
    here = columns_there(data, columns)
    if here and len(here) < len(columns):
        missing = ", ".join(name for name in columns if name not in here)
        raise DataError(
            f"column {', '.join(here)} is here and {missing} is not; the columns of a sum are all at one party"
        )
    if here:
        return role
    return "sender" if role == "receiver" else "receiver"


def holder_of_two(left: DataSet, right: DataSet, columns: tuple[str, ...], given: str | None) -> str:
    """The side that has the columns, `left` or `right`.

    Raises:
        JobError: Both have them and nobody says who is meant.
        DataError: Neither has them all.
    """
    from fedcore.participant.data.catalogue import read_schema

    if given is not None:
        if given not in ("left", "right"):
            raise JobError(f"--holder: {given!r} is not known; {did_you_mean(given, ('left', 'right'))}")
        return given
    named = ", ".join(columns)
    sides = {"left": left, "right": right}
    found = [name for name, data in sides.items() if len(columns_there(data, columns)) == len(columns)]
    if len(found) == 2:
        raise JobError(
            f"--reveal: both files have {named}; say whose is added up: --holder left or --holder right"
        )
    if not found:
        listed = "; ".join(
            f"{name}: {', '.join(sorted(read_schema(data).names))}" for name, data in sides.items()
        )
        raise DataError(f"--reveal: neither file has all of {named}; the columns are {listed}")
    return found[0]


def refuse_for_sums_only(scale: int | None, bounds: str | None, holder: str | None) -> None:
    """Refuse options that nothing but a sum uses.

    Raises:
        JobError: One is given.
    """
    for option, value in (("--amount-scale", scale), ("--amount-bounds", bounds), ("--holder", holder)):
        if value is not None:
            raise JobError(f"{option}: it is for --reveal sum:COLUMN; leave it out")


def side_of(
    role: str,
    data: DataSet,
    key: Sequence[str],
    session: str,
    rules: ItemRules,
    *,
    protocol: str | None,
    reveal: str,
    both: bool,
    memory: int | None,
    min_matches: int | None,
    scale: int | None,
    bounds: str | None,
    holder: str | None,
    published: Path | None,
) -> Side:
    """A party's side; everything but the data is checked before its rows are read.

    Raises:
        JobError: A value is not allowed, or two do not go together.
        DataError: The columns to add up are not all at one party.
    """
    from fedcore.participant.intersection import Side, SumOf

    what, columns = reveal_of(reveal)
    if what != "sum":
        refuse_for_sums_only(scale, bounds, holder)
    limits = None if bounds is None else bounds_of(bounds)

    def summed(holder: str) -> SumOf | None:
        return SumOf(columns, holder, scale, limits) if what == "sum" else None  # type: ignore[arg-type]

    side = Side(
        role=role,  # type: ignore[arg-type]
        data=data,
        key=tuple(key),
        session=session,
        rules=rules,
        protocol=protocol_of(protocol, what, published is not None),
        reveal=what,
        both=both,
        memory=memory,
        # As if the columns were here: all that can be refused is, before anybody looks for them.
        sum_of=summed("sender" if role == "sender" else "receiver"),
        min_matches=min_matches_of(min_matches, what),
        published=published,
    )
    if what != "sum":
        return side
    return replace(side, sum_of=summed(holder_of(data, columns, side.role, holder)))


# ---- for the two parties that `fedcore psi` starts ----------------------------------------------------------------


def data_words(table: str | None, dataset: str | None) -> list[str]:
    """Words for a party that say which part of its file is its data."""
    given = {"--table": table, "--dataset": dataset}
    return [word for option, value in given.items() if value is not None for word in (option, value)]


class SumWords(NamedTuple):
    """What is said of a sum, for both sides.

    Args:
        reveal, holder, scale, bounds: As given; the holder is `left` or `right`.
    """

    reveal: str
    holder: str | None
    scale: int | None
    bounds: str | None

    def add_to(
        self, words: dict[str, list[str]], roles: dict[str, str], left: FileWords, right: FileWords
    ) -> None:
        """Add to each side's words who holds the columns, and to the holder's what its numbers may be.

        Args:
            words, roles: By side.
            left, right: Where the sides' data is.

        Raises:
            JobError: A value is not allowed, or options for a sum where none is asked for.
            DataError: Neither side has the columns.
        """
        what, columns = reveal_of(self.reveal)
        if what != "sum":
            refuse_for_sums_only(self.scale, self.bounds, self.holder)
            return
        holder = holder_of_two(data_of(*left), data_of(*right), columns, self.holder)
        for own in words.values():
            own += ["--holder", roles[holder]]
        limits = {"--amount-scale": self.scale, "--amount-bounds": self.bounds}
        words[holder] += [
            word for option, value in limits.items() if value is not None for word in (option, str(value))
        ]


FileWords = tuple[Path, str | None, str | None]
"""File, table, data set."""


def answer_of(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the receiver was told, from the results of both sides."""
    told = next(each for each in found.values() if each["role"] == "receiver")
    answer = {"intersection": told["intersection"]}
    if told["sums"] is not None:
        answer["sums"] = told["sums"]
    if told["refused"]:
        answer |= {"refused": True, "min_matches": told["min_matches"]}
    return answer
