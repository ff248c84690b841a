"""Bins of a column: ranges of a number or groups of categories, then special values, then missing values.

A column is binned finely first, by quantile (`prebins`), so that no bin has fewer than `settings.min_rows`
training rows: totals of a bin may be told to another party, and the difference of two totals too, so a small
bin is merged into another and not left out. What then merges further is in `fedcore.vertical.monotone`.

Where a row goes that fits nowhere: missing values, or special ones, of which there are too few for a bin
share one, and where that is too small as well they join the regular bin with the most rows. Categories with
too few rows are one group, `other`, and a category that comes later and was not seen goes there too; without
that group it counts as missing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError, JobError
from fedcore.jobs.vertical import Bin

NDArray = npt.NDArray[Any]
Value = float | str
_SHOWN = 4
"""Categories that a label names before it counts the others."""


@dataclass(frozen=True)
class Bins:
    """Which bin a value falls into: regular bins from 0, then special values, then missing values, always last.

    Args:
        numeric: Whether regular bins are ranges; groups of categories otherwise.
        edges: Ascending; bin i holds edges[i-1] <= value < edges[i].
        groups: Categories of each regular bin.
        other: The regular bin of all other categories; they count as missing when None.
        special: Values with a bin of their own, one each.
        as_missing: Special values that share the bin of missing ones.
        missing_to: The regular bin that missing values join because they are few; their own when None.
    """

    numeric: bool
    edges: tuple[float, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    other: int | None = None
    special: tuple[Value, ...] = ()
    as_missing: tuple[Value, ...] = ()
    missing_to: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no partition.

        Raises:
            DataError: Edges do not ascend, a category is in two groups, or a bin does not exist.
        """
        named = [each for group in self.groups for each in group]
        ascending = all(low < high for low, high in pairwise(self.edges))
        inside = all(each is None or 0 <= each < self.regular for each in (self.other, self.missing_to))
        finite = all(map(math.isfinite, self.edges))
        if not ascending or not finite or not inside or len(set(named)) != len(named):
            raise DataError("bins: edges must ascend, a category is in one group; bin the column again")

    @property
    def regular(self) -> int:
        """Bins but for special and missing values."""
        return len(self.edges) + 1 if self.numeric else len(self.groups)

    @property
    def size(self) -> int:
        """All bins; codes are below it."""
        return self.regular + len(self.special) + 1

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the bins, as a person reads them."""
        regular = _range_labels(self.edges) if self.numeric else self._group_labels()
        missing = " or ".join(("missing", *map(_shown, self.as_missing)))
        if self.missing_to is not None:
            regular[self.missing_to] += f" or {missing}"
        return (*regular, *map(_shown, self.special), "missing" if self.missing_to is not None else missing)

    def codes(self, values: NDArray, *, name: str = "a column") -> npt.NDArray[np.uint16]:
        """The bin of each value.

        Args:
            values: (n,) numbers with NaN, or objects with None, where a value is missing.
            name: Of the column, for errors.

        Raises:
            DataError: Values are infinite, or are not numbers where bins are ranges.
        """
        missing = self.size - 1 if self.missing_to is None else self.missing_to
        if not self.numeric:
            where = {each: code for code, group in enumerate(self.groups) for each in group}
            where |= {str(each): self.regular + place for place, each in enumerate(self.special)}
            where |= {str(each): missing for each in self.as_missing}
            unseen = missing if self.other is None else self.other
            found = (missing if each is None else where.get(each, unseen) for each in _texts(values))
            return np.fromiter(found, dtype=np.uint16, count=len(values))
        numbers = _numbers(values, name)
        codes = np.searchsorted(self.edges, numbers, side="right").astype(np.uint16)
        codes[np.isnan(numbers)] = missing
        for place, each in enumerate(self.special):
            codes[numbers == each] = self.regular + place
        for each in self.as_missing:
            codes[numbers == each] = missing
        return codes

    def merged(self, groups: Sequence[Sequence[int]]) -> Bins:
        """With fewer regular bins.

        Args:
            groups: Numbers of the regular bins that become one, all of them once; neighbours where bins are ranges.

        Raises:
            DataError: The groups are no such partition.
        """
        taken = [each for group in groups for each in group]
        allowed = list(range(self.regular))
        if (taken if self.numeric else sorted(taken)) != allowed or not all(groups):
            raise DataError(
                f"bins: the groups to merge do not have each of the {self.regular} bins once"
                + (", in order" if self.numeric else "")
            )
        place = {old: new for new, group in enumerate(groups) for old in group}
        return replace(
            self,
            edges=tuple(self.edges[group[0] - 1] for group in groups[1:]) if self.numeric else (),
            groups=()
            if self.numeric
            else tuple(tuple(each for old in group for each in self.groups[old]) for group in groups),
            other=None if self.other is None else place[self.other],
            missing_to=None if self.missing_to is None else place[self.missing_to],
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, texts and numbers; floats survive JSON exactly."""
        return {
            "numeric": self.numeric,
            "edges": list(self.edges),
            "groups": [list(group) for group in self.groups],
            "other": self.other,
            "special": list(self.special),
            "as_missing": list(self.as_missing),
            "missing_to": self.missing_to,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What `as_dict` gave.

        Raises:
            DataError: Something is missing, of another type, or no partition.
        """
        try:
            return cls(
                numeric=bool(found["numeric"]),
                edges=tuple(map(float, found["edges"])),
                groups=tuple(tuple(map(str, group)) for group in found["groups"]),
                other=None if found["other"] is None else int(found["other"]),
                special=tuple(found["special"]),
                as_missing=tuple(found["as_missing"]),
                missing_to=None if found["missing_to"] is None else int(found["missing_to"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"bins: cannot be read ({error!r}); bin the column again") from error

    def _group_labels(self) -> list[str]:
        labels = []
        for place, group in enumerate(self.groups):
            shown = [_shown(each) for each in group[:_SHOWN]]
            if len(group) > _SHOWN:
                shown.append(f"{len(group) - _SHOWN} more")
            if place == self.other:
                shown.append("other")
            labels.append(", ".join(shown) or "any")
        return labels


def prebins(column: NDArray, settings: Bin, special: Iterable[Value] = (), *, name: str = "a column") -> Bins:
    """Fine bins of a column, none with fewer than `settings.min_rows` rows but empty ones.

    Args:
        column: (n,) training rows; numbers with NaN, or objects with None, where a value is missing.
        settings: With the method `quantile` bins are those of equal shares already: at most `max_bins`, none with
            less than `min_share`.
        special: Values with a bin of their own.
        name: Of the column, for errors.

    Returns:
        Bins; a constant column has one regular bin, and so has one without values, which is empty.

    Raises:
        DataError: Values are infinite, or there are fewer rows than a bin must have.
        JobError: A special value is no number where the column has numbers.
    """
    rows, least = len(column), settings.min_rows
    if rows < least:
        raise DataError(
            f"column {name!r}: {rows} training rows, and a bin has {least} at least; match more rows or lower "
            "bin.min_rows"
        )
    numeric = column.dtype.kind in "biuf"
    values: NDArray | list[str | None] = _numbers(column, name) if numeric else _texts(column)
    wanted: list[Value] = (
        _special(special, name) if numeric else [str(each) for each in dict.fromkeys(special)]
    )
    most = settings.prebins
    if settings.method == "quantile":
        most, least = settings.max_bins, max(least, math.ceil(settings.min_share * rows))
    if isinstance(values, np.ndarray):
        counts = {each: int((values == each).sum()) for each in wanted}
        bins, regular = _ranges(values[~np.isnan(values) & ~np.isin(values, wanted)], most, least)
    else:
        counted = Counter(each for each in values if each is not None)
        counts = {each: counted.pop(str(each), 0) for each in wanted}
        bins, regular = _categories(counted, most, least)
    return _with_missing(bins, regular, counts, rows, settings.min_rows)


def _ranges(values: NDArray, most: int, least: int) -> tuple[Bins, list[int]]:
    """Ranges with about equal shares and at least `least` rows, with the rows of each."""
    distinct, counts = np.unique(values, return_counts=True)
    edges = distinct[1:]
    if len(distinct) > most:
        # The distinct values in which a quantile falls start a bin; one in which several fall is a bin of its own.
        quantiles = [part * len(values) // most for part in range(1, most)]
        at, falls = np.unique(np.searchsorted(np.cumsum(counts), quantiles, side="right"), return_counts=True)
        starts = np.union1d(at, at[falls > 1] + 1)
        edges = distinct[starts[(starts > 0) & (starts < len(distinct))]]
    fine = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    kept: list[float] = []
    rows: list[int] = [0]
    for place, number in enumerate(fine.tolist()):
        if place and rows[-1] >= least:
            kept.append(float(edges[place - 1]))
            rows.append(0)
        rows[-1] += number
    if kept and rows[-1] < least:
        kept.pop()
        rows[-2:] = [rows[-2] + rows[-1]]
    return Bins(True, edges=tuple(kept)), rows


def _categories(counts: Counter[str], most: int, least: int) -> tuple[Bins, list[int]]:
    """Each category with at least `least` rows, the most frequent first, then all others; with the rows of each."""
    ranked = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    kept = [each for each in ranked if each[1] >= least]
    if len(kept) < len(ranked) or len(kept) > most:
        kept = kept[: most - 1]
    others = sum(counts.values()) - sum(number for _, number in kept)
    groups: list[tuple[str, ...]] = [(each,) for each, _ in kept]
    rows = [number for _, number in kept]
    if others == 0:
        return Bins(False, groups=tuple(groups) or ((),)), rows or [0]
    if others < least and groups:
        rows[-1] += others
    else:
        groups.append(())
        rows.append(others)
    return Bins(False, groups=tuple(groups), other=len(groups) - 1), rows


def _with_missing(bins: Bins, regular: list[int], special: dict[Value, int], rows: int, least: int) -> Bins:
    """With special and missing values, where they have rows enough, and joined to others where not."""
    few = [each for each, number in special.items() if 0 < number < least]
    own = [each for each in special if each not in few]
    pool = rows - sum(regular) - sum(special[each] for each in own)
    join = 0 < pool < least or 0 < sum(regular) < least
    while join and sum(regular) + pool < least:
        # Rows enough are somewhere: special values give up their bins, the smallest first.
        smallest = min((each for each in own if special[each]), key=lambda each: special[each])
        own.remove(smallest)
        few.append(smallest)
        pool += special[smallest]
    join = 0 < pool < least or (0 < sum(regular) < least and pool > 0)
    largest = max(range(len(regular)), key=lambda place: regular[place])
    return replace(bins, special=tuple(own), as_missing=tuple(few), missing_to=largest if join else None)


def _special(special: Iterable[Value], name: str) -> list[Value]:
    found: list[Value] = []
    for each in dict.fromkeys(special):
        try:
            found.append(float(each))
        except ValueError:
            raise JobError(
                f"bin.special: {each!r} is no number, and column {name!r} has numbers; name one of its values"
            ) from None
    return found


def _numbers(values: NDArray, name: str) -> npt.NDArray[np.float64]:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(
            f"column {name!r}: has values that are not numbers, where its bins are ranges; prepare it as for "
            "training"
        ) from None
    if infinite := int(np.isinf(numbers).sum()):
        raise DataError(
            f"column {name!r}: {infinite} infinite value{'s' * (infinite > 1)}; make them missing or a special "
            "value"
        )
    return numbers


def _texts(values: NDArray) -> list[str | None]:
    """Categories as texts; None and NaN are missing."""
    return [None if each is None or each != each else str(each) for each in values.tolist()]


def _shown(value: Value) -> str:
    if isinstance(value, str):
        return value
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.6g}"


def _range_labels(edges: Sequence[float]) -> list[str]:
    if not edges:
        return ["any"]
    shown = [_shown(each) for each in edges]
    if len(set(shown)) < len(shown):
        shown = [repr(each) for each in edges]
    between = [f"[{low}, {high})" for low, high in pairwise(shown)]
    return [f"< {shown[0]}", *between, f">= {shown[-1]}"]
