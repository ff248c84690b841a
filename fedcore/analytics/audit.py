"""Differencing over what was asked: which pairs of past questions together tell of a few rows.

    questions of all runs  ->  the rows of each group, over all sites that can be read here  ->  pairs that differ by a few

Of two groups of rows, one within the other, the difference of their answers is an answer about the rows between them. Who
has both learns what those few have: their count, and of sums and means the sum of their values. A question under
differential privacy has noise instead, and is left out; so is what was suppressed.

This is the attack that a site refuses by itself (`fedcore.analytics.overlap`), seen from the side of who asks: over all
askers, over all runs, and over rows of all sites together.

Source: Denning and Schlörer, "Inference controls for statistical databases", IEEE Computer 1983 (trackers).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedcore.analytics import questions
from fedcore.analytics.disclosure import ALL, Key
from fedcore.analytics.overlap import Told, refuse_isolating, told_sets
from fedcore.analytics.question import Question
from fedcore.analytics.source import Source
from fedcore.errors import DataError, FedcoreError, PolicyRefused

RESULT = "result.json"
TOGETHER = "together"


@dataclass(frozen=True)
class Past:
    """One question that was answered.

    Args:
        run: The run's folder.
        name: Of the question in its job.
        question: As it was built.
    """

    run: str
    name: str
    question: Question

    def __str__(self) -> str:
        return f"{self.run}: {self.name}"


@dataclass(frozen=True)
class Pair:
    """Two questions whose difference isolates a few rows.

    Args:
        one, other: Run and name; `other` is `together` where it takes several earlier ones.
        one_group, other_group: Keys of the groups, for people.
        rows: Between them; None where it takes a combination of several groups.
        where: `all sites`, or the site whose own answer is seen.
    """

    one: str
    other: str
    one_group: str
    other_group: str
    rows: int | None
    where: str = "all sites"


@dataclass(frozen=True)
class Differencing:
    """What was found.

    Args:
        data: Data sets looked at.
        questions: How many were compared, each once.
        private: Left out, for they have noise.
        skipped: Questions that could not be compared, and why.
        sites: Whose rows were read.
        minimum: Fewest rows that may stand apart.
        pairs: Below it; the fewest rows first.
    """

    data: tuple[str, ...]
    questions: int
    private: int
    skipped: tuple[str, ...]
    sites: tuple[str, ...]
    minimum: int
    pairs: tuple[Pair, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def past_questions(runs: Iterable[Path]) -> tuple[list[Past], list[str]]:
    """The questions of runs that have a result, oldest folder first.

    Args:
        runs: Run folders; those of other kinds are passed over.

    Returns:
        The questions, and what could not be read.
    """
    found: list[Past] = []
    unread: list[str] = []
    for folder in sorted(runs):
        try:
            told = json.loads((folder / RESULT).read_text())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            unread.append(f"{folder.name}: {RESULT} cannot be read ({error})")
            continue
        if not isinstance(told, dict) or told.get("kind") != "analytics":
            continue
        for name, each in (told.get("answers") or {}).items():
            try:
                found.append(Past(folder.name, str(name), questions.read(each["question"])))
            except (FedcoreError, KeyError, TypeError) as error:
                unread.append(f"{folder.name}: {name}: {error}")
    return found, unread


def differencing(
    asked: Sequence[Past],
    sites: Mapping[str, Mapping[str, Source]],
    *,
    minimum: int,
    unread: Sequence[str] = (),
) -> Differencing:
    """Look at all pairs of questions of one data set.

    Args:
        asked: In the order in which they were asked.
        sites: Per site, its data sets by name.
        minimum: Fewest rows that may stand apart, 3 or more.
        unread: Told with what could not be compared.
    """
    skipped = list(unread)
    pairs: dict[tuple[Any, ...], Pair] = {}
    compared: set[str] = set()
    before: dict[str, list[_Rows]] = {}
    for past in asked:
        if past.question.agreed.private:
            continue
        held = before.setdefault(past.question.agreed.data, [])
        if past.question.hash in compared:
            continue
        try:
            new = _rows(past, sites, minimum)
        except FedcoreError as error:
            skipped.append(f"{past}: {error}")
            continue
        if not new:
            skipped.append(f"{past}: none of its groups holds rows that are told")
            continue
        compared.add(past.question.hash)
        for each in new:
            earlier = [other for other in held if other.where == each.where]
            for pair in _with(each, earlier, minimum):
                pairs.setdefault((pair.one, pair.other, pair.where), pair)
        held.extend(new)
    return Differencing(
        tuple(sorted({past.question.agreed.data for past in asked})),
        len(compared),
        sum(past.question.agreed.private for past in asked),
        tuple(skipped),
        tuple(sorted(name for name, held in sites.items() if held)),
        minimum,
        tuple(
            sorted(pairs.values(), key=lambda pair: (pair.rows is None, pair.rows or 0, pair.one, pair.other))
        ),
    )


@dataclass(frozen=True)
class _Rows:
    """The groups of a question that were told, seen in one place."""

    past: Past
    where: str
    sets: dict[int, str]


def _rows(past: Past, sites: Mapping[str, Mapping[str, Source]], minimum: int) -> list[_Rows]:
    """Of all sites together; where each site's answer is seen by itself, of each site too."""
    question = past.question
    held = {name: own[question.agreed.data] for name, own in sites.items() if question.agreed.data in own}
    places = {} if question.agreed.protected or len(held) == 1 else dict(held)
    if held:
        places["all sites"] = _together(question, held)
    made = []
    for name, source in places.items():
        if source.rows.num_rows >= minimum:
            query, groups = question.groups_of(source)
            made.append(_Rows(past, name, _told(groups, minimum, query.margins)))
    return [each for each in made if each.sets]


def _together(question: Question, held: Mapping[str, Source]) -> Source:
    """One data set of the rows of all sites, in the order of their names' first appearance."""
    import pyarrow as pa

    name, first = question.agreed.data, next(iter(held.values()))
    columns = list(question.columns) or first.rows.column_names[:1]
    try:
        tables = [source.rows.select(columns) for source in held.values()]
        return Source(name, pa.concat_tables(tables, promote_options="permissive"), first.units, first.memory)
    except (KeyError, pa.ArrowException) as error:
        raise DataError(
            f"the sites' columns {', '.join(columns)} do not go together", step="audit", detail=str(error)
        ) from error


def _told(groups: Mapping[Key, int], minimum: int, margins: bool) -> dict[int, str]:
    """Sets of rows that are told, and how they are called; all of them together is one more."""
    held = {key: rows for key, rows in groups.items() if rows}
    if not held:
        return {}
    named = {rows: _called(key) for key, rows in held.items()}
    everything = 0
    for rows in held.values():
        everything |= rows
    sets = {rows: named.get(rows, "a total") for rows in told_sets(held, minimum, margins=margins)}
    if len(sets) >= len(held):
        sets.setdefault(everything, "all groups")
    return sets


def _called(key: Key) -> str:
    return ", ".join("total" if each is ALL else str(each) for each in key) or "all rows asked"


def _with(new: _Rows, earlier: Sequence[_Rows], minimum: int) -> list[Pair]:
    found = []
    for other in earlier:
        pair = _nested(new, other, minimum)
        if pair is None and _isolates(new, [other], minimum):
            pair = Pair(str(other.past), str(new.past), "groups", "groups", None, new.where)
        if pair is not None:
            found.append(pair)
    if not found and len(earlier) > 1 and _isolates(new, earlier, minimum):
        found.append(Pair(str(new.past), TOGETHER, "groups", "earlier groups", None, new.where))
    return found


def _nested(new: _Rows, other: _Rows, minimum: int) -> Pair | None:
    """The two groups, one within the other, that differ by the fewest rows."""
    best: Pair | None = None
    for mine, called in new.sets.items():
        for its, named in other.sets.items():
            apart = (mine ^ its).bit_count()
            within = mine & ~its == 0 or its & ~mine == 0
            if within and 0 < apart < (minimum if best is None or best.rows is None else best.rows):
                best = Pair(str(other.past), str(new.past), named, called, apart, new.where)
    return best


def _isolates(new: _Rows, earlier: Sequence[_Rows], minimum: int) -> bool:
    """Whether sums and differences of several groups do."""
    told = [Told("", "", "", tuple(each.sets)) for each in earlier]
    try:
        refuse_isolating(told, tuple(new.sets), minimum)
    except PolicyRefused:
        return True
    return False
