"""What one asker was told of one data set so far, so that no difference of answers isolates a few rows.

A site keeps, of each query it answered, which rows the groups held that were told (never what the rows hold). A new query is
refused when with the earlier ones

- a group of the one, or all its groups, and groups of the other that lie within or around it differ by fewer rows than the
  minimum; or
- some sum and difference of any answers is the count of fewer rows than the minimum that belong to the same groups
  throughout: then it is in the span of the groups' indicator vectors.

The file is kept at the site, is only ever added to, and each line carries the hash of the one before it.

What this does not hold against: askers who put their answers together, unions of several such sets of rows beyond the first
test, knowledge from elsewhere, and differences in which values are missing. Rows are told apart by their place, so a data
set that changes otherwise than by new rows at its end needs a new name.

Source: Chin and Özsoyoğlu, "Auditing and inference control in statistical databases", IEEE TSE 1982 (spans of answered sums).
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedcore.analytics.disclosure import ALL, MINIMUM, Key, checked_minimum, to_suppress
from fedcore.analytics.query import Query
from fedcore.errors import DataError, PolicyRefused
from fedcore.trust import evidence
from fedcore.trust.locked import locked

STEP = "overlap"
MOST_SETS = 1500
_NEAR = 1e-6


@dataclass(frozen=True)
class Told:
    """One query that was answered.

    Args:
        time: When, ISO 8601.
        query: Its hash.
        text: For a person to read.
        sets: Rows of its groups that were told, as the set bits of whole numbers.
    """

    time: str
    query: str
    text: str
    sets: tuple[int, ...]


def admit(file: Path, asker: str, query: Query, groups: Mapping[Key, int], *, minimum: int = MINIMUM) -> None:
    """Check a query against all that its asker was told, and note it as told; two at a time wait for each other.

    Args:
        file: The site's record; made on first use.
        asker: Who asks, as the site knows it.
        query: What is asked.
        groups: Rows of each of its groups, from `local.row_sets`.
        minimum: Least cell of the site.

    Raises:
        PolicyRefused: With earlier answers it would isolate fewer rows than the minimum; the earlier query is named. Or
            there are too many to be checked.
        DataError: The record was changed after it was written.
    """
    new = told_sets(groups, minimum, margins=query.margins)
    with locked(file):
        before = told(file, asker, query.dataset)
        known = {rows for each in before for rows in each.sets}
        more = [rows for rows in new if rows not in known]
        if more:
            refuse_isolating(before, new, minimum)
        evidence.append(
            file,
            {
                "asker": asker,
                "dataset": query.dataset,
                "query": query.hash,
                "text": query.text,
                "sets": [packed(rows) for rows in more],
            },
        )


def told(file: Path, asker: str, dataset: str) -> list[Told]:
    """What an asker was told of a data set, in order.

    Raises:
        DataError: The record was changed after it was written.
    """
    if not file.exists():
        return []
    made = []
    for line in evidence.read(file):
        if line.get("asker") == asker and line.get("dataset") == dataset:
            try:
                sets = tuple(unpacked(each) for each in line["sets"])
                made.append(Told(str(line["time"]), str(line["query"]), str(line["text"]), sets))
            except (KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
                raise DataError(
                    f"{file.name} holds a line that is no answered query; compare it with a copy", step=STEP
                ) from error
    return made


def told_sets(groups: Mapping[Key, int], minimum: int, *, margins: bool) -> tuple[int, ...]:
    """Rows of the groups, and totals, that this site would tell of by itself.

    Args:
        groups: Rows of each group.
        minimum: Least cell.
        margins: Whether totals are told.
    """
    checked_minimum(minimum)
    whole = dict(groups)
    if margins:
        for key, rows in groups.items():
            totals: list[Key] = [(ALL,)] if len(key) == 1 else [(key[0], ALL), (ALL, key[1]), (ALL, ALL)]
            for total in totals if key else ():
                whole[total] = whole.get(total, 0) | rows
    hidden = to_suppress({key: rows.bit_count() for key, rows in groups.items()}, minimum, margins=margins)
    return tuple(dict.fromkeys(rows for key, rows in whole.items() if rows and key not in hidden))


def refuse_isolating(before: Sequence[Told], new: Sequence[int], minimum: int) -> None:
    """Refuse sets of rows that with those told before would isolate fewer than the minimum.

    Args:
        before: Told so far.
        new: Would be told.
        minimum: Fewest rows.

    Raises:
        PolicyRefused: As `admit`.
    """
    for earlier in before:
        if _isolates(new, earlier.sets, minimum) or _isolates(earlier.sets, new, minimum):
            raise _refused(earlier, minimum)
    if before:
        _refuse_in_span(before, new, minimum)


def _isolates(one: Sequence[int], other: Sequence[int], minimum: int) -> bool:
    """Whether a set of the one query, or all of it, and sets of the other differ by a few rows."""
    fine = _finest(other)
    for rows in dict.fromkeys((*one, _union(_finest(one)))):
        inside = _union(part for part in fine if part & ~rows == 0)
        around = _union(part for part in fine if part & rows)
        apart = [rows & ~inside] if inside else []
        apart += [around & ~rows] if rows & ~around == 0 else []
        apart += [rows ^ part for part in other if part & ~rows == 0 or rows & ~part == 0]
        if any(0 < few.bit_count() < minimum for few in apart):
            return True
    return False


def _finest(sets: Sequence[int]) -> list[int]:
    """Sets of a query that are no totals over others of it; no two share a row."""
    return [rows for rows in sets if not any(part != rows and part & ~rows == 0 for part in sets)]


def _union(sets: Iterable[int]) -> int:
    made = 0
    for rows in sets:
        made |= rows
    return made


def _refuse_in_span(before: Sequence[Told], new: Sequence[int], minimum: int) -> None:
    owner: dict[int, Told | None] = {}
    for each in before:
        for rows in each.sets:
            owner.setdefault(rows, each)
    old = len(owner)
    for rows in new:
        owner.setdefault(rows, None)
    if len(owner) > MOST_SETS:
        raise PolicyRefused(
            f"this asker was told of {old} groups of rows; allowed: {MOST_SETS}, which can be checked together. Cure: ask the "
            "site's data office",
            step=STEP,
        )
    members, sizes = _atoms(list(owner))
    small = np.flatnonzero(sizes < minimum)
    if not len(small) or old == len(owner):
        return
    newly = _in_span(members, small) & ~_in_span(members[:old], small)
    for at in small[newly]:
        unit = np.zeros(members.shape[1])
        unit[at] = 1
        weights, *_ = np.linalg.lstsq(members.T, unit, rcond=None)
        named = [
            each for each, weight in zip(owner.values(), weights, strict=True) if abs(weight) > _NEAR and each
        ]
        if named:
            raise _refused(named[0], minimum)


def _atoms(sets: Sequence[int]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Rows that belong to the same sets, taken together.

    Returns:
        (sets, atoms) membership as 0 and 1, and the (atoms,) numbers of rows.
    """
    size = max(rows.bit_length() for rows in sets)
    packed = np.zeros((size, -(-len(sets) // 8)), dtype=np.uint8)
    for at in range(0, len(sets), 8):
        held = np.stack([_bits(rows, size) for rows in sets[at : at + 8]], axis=1)
        packed[:, at // 8] = np.packbits(held, axis=1, bitorder="little")[:, 0]
    kinds, counts = np.unique(packed, axis=0, return_counts=True)
    members = np.unpackbits(kinds, axis=1, bitorder="little")[:, : len(sets)].T
    used = members.any(axis=0)
    return members[:, used].astype(np.float64), counts[used]


def _bits(rows: int, size: int) -> npt.NDArray[np.uint8]:
    raw = np.frombuffer(rows.to_bytes(-(-size // 8), "little"), dtype=np.uint8)
    return np.unpackbits(raw, bitorder="little")[:size]


def _in_span(members: npt.NDArray[np.float64], which: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Of which unit vectors a combination of the rows can be made."""
    _, values, right = np.linalg.svd(members, full_matrices=False)
    basis = right[values > _NEAR * max(1.0, float(values.max(initial=0.0)))]
    reached = (basis[:, which] ** 2).sum(axis=0)
    made: npt.NDArray[np.bool_] = np.abs(reached - 1) < _NEAR
    return made


def _refused(earlier: Told, minimum: int) -> PolicyRefused:
    return PolicyRefused(
        f"with the query {earlier.query[:12]} of {earlier.time[:16]} ({earlier.text:.200}) this one would tell of fewer than "
        f"{minimum} rows; allowed: differences of {minimum} rows or more, or none. Cure: ask the same groups again, or "
        "coarser ones",
        step=STEP,
    )


def packed(rows: int) -> str:
    """A set of rows as text."""
    raw = rows.to_bytes(-(-rows.bit_length() // 8), "little")
    return base64.b64encode(zlib.compress(raw)).decode()


def unpacked(text: Any) -> int:
    """What `packed` was given."""
    return int.from_bytes(zlib.decompress(base64.b64decode(text, validate=True)), "little")
