"""What may be shown of a table of counts: cells below a minimum are suppressed, and others so that totals do not tell them.

A table by one or two keys is a flow: rows of it go from a source to the row of the first key, on to the column of the
second key, and back; each count, total and grand total is the flow along one edge, and what flows into a node flows out
of it. Who reads the table knows that, which edges are suppressed, and that a suppressed count is at least 1, since a
zero is shown as zero. What an edge may then be is an interval, whose ends two maximum flows give, exactly and in whole
numbers. Counts are suppressed, small ones first, until each suppressed one keeps at least `minimum` possible values.

What this does not hold against: somebody who knows a part of the rows, and other tables over the same rows, which
`fedcore.analytics.overlap` tracks. The choice of what else is suppressed follows the counts, so its pattern says a little.

Source: Fischetti and Salazar, "Models and algorithms for optimizing cell suppression in tabular data with linear
constraints", JASA 2000 (attacker's interval, protection levels); Gusfield, "A graph theoretic approach to statistical data
security", SIAM J. Comput. 1988 (tables with two keys as graphs).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from fedcore.errors import JobError, PolicyRefused

STEP = "disclosure"
MINIMUM = 5
LEAST_MINIMUM = 3
_LARGEST = 2**62


@final
class Suppressed:
    """A value that is there and is not told: no zero, not missing, no error. There is one of it, `SUPPRESSED`.

    It cannot be reckoned with or taken for true or false, so that a sum never quietly leaves it out.
    """

    _one: Suppressed | None = None

    def __new__(cls) -> Suppressed:
        if cls._one is None:
            cls._one = super().__new__(cls)
        return cls._one

    def __repr__(self) -> str:
        return "suppressed"

    def __bool__(self) -> bool:
        raise TypeError("a suppressed value is neither true nor false; compare it with `is SUPPRESSED`")

    def __reduce__(self) -> str:
        return "SUPPRESSED"

    def __copy__(self) -> Suppressed:
        return self

    def __deepcopy__(self, _: Any) -> Suppressed:
        return self


SUPPRESSED: Final = Suppressed()
_JSON = {"suppressed": True}


def to_json(value: Any) -> Any:
    """A value for JSON; suppressed is an object of its own."""
    return dict(_JSON) if value is SUPPRESSED else value


def from_json(value: Any) -> Any:
    """What `to_json` was given."""
    return SUPPRESSED if value == _JSON and isinstance(value, dict) and value["suppressed"] is True else value


def checked_minimum(minimum: int) -> int:
    """The minimum cell, when it is one.

    Raises:
        JobError: It is no whole number, or below what anybody may set.
    """
    if isinstance(minimum, bool) or not isinstance(minimum, int) or minimum < LEAST_MINIMUM:
        raise JobError(
            f"minimum cell {minimum!r}; allowed: a whole number of {LEAST_MINIMUM} or more, {MINIMUM} unless the site "
            "says more",
            step=STEP,
        )
    return minimum


def refuse_identifying(name: str, distinct: int, rows: int, minimum: int = MINIMUM) -> None:
    """Refuse a group key whose values stand for single persons.

    Args:
        name: Of the column.
        distinct: Values it has in the whole data set, a missing one counted too.
        rows: Of the whole data set.
        minimum: Least cell.

    Raises:
        PolicyRefused: Half of the rows, or of two cells where there are fewer, could have a value of their own.
    """
    most = max(rows, 2 * checked_minimum(minimum)) / 2
    if distinct >= most:
        raise PolicyRefused(
            f"{name} has {_share(distinct, rows)} as a group key and could name single persons; allowed: fewer values than "
            "half of the rows. Cure: group by a coarser column, or ask a histogram",
            step=STEP,
        )


def _share(distinct: int, rows: int) -> str:
    return "almost as many values as rows" if distinct >= 0.9 * rows else "too many values for the rows"


Key = tuple[Hashable, ...]


@final
@dataclass(frozen=True)
class All:
    """In the place of a key: the total over its values."""

    def __repr__(self) -> str:
        return "all"


ALL: Final = All()


def with_totals(cells: Mapping[Key, int]) -> dict[Key, int]:
    """Cells by one or two keys, and the totals over each key and over all.

    Args:
        cells: Counts, 0 or more.
    """
    made = dict(cells)
    for key, count in cells.items():
        for total in _totals(key):
            made[total] = made.get(total, 0) + count
    return made


def _totals(key: Key) -> list[Key]:
    return [(ALL,)] if len(key) == 1 else [(key[0], ALL), (ALL, key[1]), (ALL, ALL)] if len(key) == 2 else []


def to_suppress(
    cells: Mapping[Key, int],
    minimum: int = MINIMUM,
    *,
    margins: bool = True,
    hidden: Collection[Key] = (),
    unknown: Collection[Key] = (),
) -> frozenset[Key]:
    """Which cells, and which totals, must not be told.

    Args:
        cells: Counts by no, one or two keys, all that are above 0; those that are not here are known to be 0.
        minimum: A count of 1 or more below it is suppressed.
        margins: Whether totals over the keys are published beside the cells.
        hidden: Cells that are suppressed for another reason.
        unknown: Cells whose counts are not known here (suppressed at a site; any number may stand for them): the totals over
            them cannot be told either.

    Returns:
        Keys of cells; a total has `ALL` in the place of a key.

    Raises:
        JobError: The minimum is not allowed, or a count is negative.
    """
    checked_minimum(minimum)
    for key, count in cells.items():
        if count < 0 or count >= _LARGEST:
            raise JobError(f"a cell counts {count}; allowed: 0 or more", step=STEP)
        if len(key) > 2:
            raise JobError(f"a cell has {len(key)} keys; allowed: at most 2", step=STEP)
    lost = set(unknown)
    named = {key: 0 for key in (*hidden, *unknown) if ALL not in key}
    everything = {key: count for key, count in {**named, **cells}.items() if count or key in named}
    if margins and any(everything):
        everything = with_totals(everything)
        lost |= {total for key in unknown for total in _totals(key)}
    first = {key for key, count in everything.items() if 0 < count < minimum} | set(hidden) | lost
    if not margins or not any(everything):
        return frozenset(first)
    return _Flows(everything, lost).protected(first, minimum)


@dataclass(frozen=True)
class _Edge:
    start: Hashable
    end: Hashable
    count: int
    spare: int
    """By how much it can be less, as far as a reader knows who is told that it is at least 1."""


class _Flows:
    """The table as a flow, and how far each suppressed edge can move."""

    def __init__(self, cells: Mapping[Key, int], lost: Collection[Key]) -> None:
        self.edges: dict[Key, _Edge] = {}
        for key, count in cells.items():
            start, end = _ends(key)
            # Of a count that is not known here nothing can be taken; more can always come.
            self.edges[key] = _Edge(start, end, count, 0 if key in lost else max(count - 1, 0))
        self.near: dict[Hashable, list[tuple[Key, bool]]] = {}
        for key, edge in self.edges.items():
            self.near.setdefault(edge.start, []).append((key, True))
            self.near.setdefault(edge.end, []).append((key, False))

    def protected(self, first: Collection[Key], minimum: int) -> frozenset[Key]:
        """What is suppressed so that each keeps `minimum` possible values."""
        chosen = {key for key in first if key in self.edges}
        extra = set(first) - chosen
        open_ = deque(sorted(chosen, key=lambda key: (self.edges[key].count, repr(key))))
        while open_:
            key = open_.popleft()
            while more := self._short_of(key, chosen, minimum - 1):
                open_.extend(sorted(more, key=repr))
                chosen |= more
        return frozenset(chosen | extra)

    def _short_of(self, key: Key, chosen: Collection[Key], enough: int) -> set[Key]:
        """What else must be suppressed for an edge to move by `enough`, up and down together; empty when it can."""
        edge = self.edges[key]
        up, moved = self._push(edge.end, edge.start, key, chosen, enough)
        ways = [self._way(edge.end, edge.start, key, chosen, enough - up, moved)]
        least = min(enough - up, edge.spare)
        down, moved = self._push(edge.start, edge.end, key, chosen, least)
        if up + down >= enough:
            return set()
        if down < least:
            ways.append(self._way(edge.start, edge.end, key, chosen, enough - up - down, moved))
        # Every total is an edge, so there is a way round that goes forward only.
        return min((way for way in ways if way is not None), key=lambda way: way[0])[1] - set(chosen)

    def _push(
        self, start: Hashable, end: Hashable, without: Key, chosen: Collection[Key], most: int
    ) -> tuple[int, dict[Key, int]]:
        """Units that can be sent along suppressed edges, at most `most`, and what then goes along each."""
        moved: dict[Key, int] = {}
        sent = 0
        while sent < most:
            path = self._path(start, end, without, chosen, moved)
            if path is None:
                break
            room = [self.edges[key].spare + moved.get(key, 0) for key, forward in path if not forward]
            step = min([most - sent, *room])
            for key, forward in path:
                moved[key] = moved.get(key, 0) + (step if forward else -step)
            sent += step
        return sent, moved

    def _path(
        self, start: Hashable, end: Hashable, without: Key, chosen: Collection[Key], moved: Mapping[Key, int]
    ) -> list[tuple[Key, bool]] | None:
        came: dict[Hashable, tuple[Hashable, Key, bool] | None] = {start: None}
        queue = deque([start])
        while queue and end not in came:
            node = queue.popleft()
            for key, forward in self.near[node]:
                if key == without or key not in chosen:
                    continue
                edge = self.edges[key]
                other = edge.end if forward else edge.start
                if other not in came and (forward or edge.spare + moved.get(key, 0) > 0):
                    came[other] = (node, key, forward)
                    queue.append(other)
        return _walked(came, end)

    def _way(
        self,
        start: Hashable,
        end: Hashable,
        without: Key,
        chosen: Collection[Key],
        enough: int,
        moved: Mapping[Key, int],
    ) -> tuple[int, set[Key]] | None:
        """The cheapest way along what is left open or could be suppressed, by the counts that it would suppress."""
        came: dict[Hashable, tuple[Hashable, Key, bool] | None] = {}
        queue: list[tuple[int, int, Hashable, tuple[Hashable, Key, bool] | None]] = [(0, 0, start, None)]
        order = 1
        while queue:
            cost, _, node, last = heapq.heappop(queue)
            if node in came:
                continue
            came[node] = last
            if node == end:
                return cost, {step for step, _ in _walked(came, end) or []}
            for key, forward in self.near[node]:
                edge = self.edges[key]
                other = edge.end if forward else edge.start
                small = not forward and edge.spare + moved.get(key, 0) < (1 if key in chosen else enough)
                if key == without or other in came or small:
                    continue
                more = 0 if key in chosen else edge.count * (4 if ALL in key else 1) + 1
                heapq.heappush(queue, (cost + more, order, other, (node, key, forward)))
                order += 1
        return None


def _walked(came: Mapping[Hashable, Any], end: Hashable) -> list[tuple[Key, bool]] | None:
    if end not in came:
        return None
    path = []
    while (step := came[end]) is not None:
        end, key, forward = step
        path.append((key, forward))
    return path[::-1]


def _ends(key: Key) -> tuple[Hashable, Hashable]:
    """Nodes that the edge of a cell or total joins."""
    source, sink = ("source",), ("sink",)
    if len(key) == 1:
        return (sink, source) if key[0] is ALL else (source, sink)
    row = source if key[0] is ALL else ("row", key[0])
    column = sink if key[1] is ALL else ("column", key[1])
    if key[0] is ALL and key[1] is ALL:
        return sink, source
    if key[1] is ALL:
        return source, row
    return (column, sink) if key[0] is ALL else (row, column)


def suppressed_bins(
    counts: Sequence[int], minimum: int = MINIMUM, *, total: bool = True
) -> tuple[int | Suppressed, ...]:
    """Counts of a histogram as they may be told.

    Args:
        counts: One for each bin, 0 or more.
        minimum: Least cell.
        total: Whether the reader knows the sum.
    """
    cells: dict[Key, int] = {(bin_,): count for bin_, count in enumerate(counts)}
    hidden = to_suppress(cells, minimum, margins=total)
    if (ALL,) in hidden:  # the sum is known all the same, so nothing else can be told
        return tuple(SUPPRESSED for _ in counts)
    return tuple(SUPPRESSED if (bin_,) in hidden else count for bin_, count in enumerate(counts))
