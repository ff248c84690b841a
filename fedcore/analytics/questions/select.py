"""SQL, and a `Query` from Python, as a question: its groups as sums of a fixed form.

    round 1      rows, values, sums and histograms of each group
    round 2      squares around the means that round 1 gave, where a variance is asked; the first counts between edges
    further      counts between narrower edges, for quantiles, lowest and highest values

Which groups there are follows from the levels of the keys, and a missing key; rows with another key are counted as others.
Under differential privacy round 1 sums around the middle of the bounds and holds the first counts between edges, and the
number of rounds follows from the question.

Who learns what: the coordinator learns the sums over sites, small groups among them where only the sum is seen, and shows
what `fedcore.analytics.evaluate` lets it; sites learn the edges and means that the next round needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, ClassVar

from fedcore.analytics import evaluate, local, noisy, query_json, sql
from fedcore.analytics.cells import OTHER, Form, keys_of, masked
from fedcore.analytics.columns import problems
from fedcore.analytics.condition import Condition
from fedcore.analytics.disclosure import SUPPRESSED, Key
from fedcore.analytics.evaluate import Hidden, totals_of
from fedcore.analytics.partial import Cell, Count, sort_key
from fedcore.analytics.quantile import NoisySearch, Search
from fedcore.analytics.query import Query
from fedcore.analytics.question import STEP, Agreed, Answer, Bounds, Part, Question, State, Total
from fedcore.analytics.questions import bins, select_site
from fedcore.analytics.sums import Sums
from fedcore.analytics.table import Table, Value
from fedcore.errors import JobError, did_you_mean
from fedcore.jobs import asks

if TYPE_CHECKING:
    from fedcore.analytics.source import Source


@dataclass(frozen=True)
class _Kept:
    """What the coordinator knows so far.

    Args:
        cells: Groups over all sites.
        mask: What must not be told.
        around: Per column, what squares are summed around.
        searches: Per place of what is asked and of a group.
        noise: Sums with noise, and its variances.
        other: Rows whose key is none of the levels, as they may be told.
        sites: In the sum.
    """

    cells: Mapping[Key, Cell]
    mask: Hidden
    around: Mapping[str, float]
    searches: Mapping[int, Mapping[int, Search | NoisySearch]]
    noise: Total | None
    other: Count
    sites: int


class Select(Question):
    """Group keys and aggregates.

    Args:
        agreed: By all sites.
        query: What is asked.

    Attributes:
        keys: Of the groups that there may be, in order; totals after them.

    Raises:
        JobError: The query names what the sites do not have, has keys whose levels are not known, or cannot be asked so.
    """

    kind: ClassVar[str] = "sql"

    def __init__(self, agreed: Agreed, query: Query) -> None:
        super().__init__(agreed)
        self.query = query
        if query.dataset != agreed.data:
            raise JobError(
                f'the query asks "{query.dataset}": {did_you_mean(query.dataset, [agreed.data])}', step=STEP
            )
        if not query.asked:
            raise JobError("the query asks nothing. Cure: add count()", step=STEP)
        if found := problems(query, agreed.columns):
            raise JobError("; ".join(found), step=STEP)
        if agreed.private and (why := self.lacks_for_privacy()) is not None:
            raise JobError(why, step=STEP)
        margins = query.margins and bool(query.groups)
        if margins and not agreed.private and any(each.edges for each in query.asked):
            raise JobError(
                "totals beside histograms of groups would tell suppressed bins. Cure: ask the histogram in a query without "
                "totals",
                step=STEP,
            )
        if agreed.protected and not agreed.private:
            bins.refuse_shared(query)
        groups = keys_of(query, agreed.columns, agreed.levels)
        self.form = Form(query, groups)
        squared = tuple(each for each in query.asked if each.statistic in ("variance", "stddev"))
        self.squares = Form(replace(query, asked=squared), groups)
        totals = dict.fromkeys(total for key in groups for total in totals_of(key)) if margins else {}
        self.keys: tuple[Key, ...] = (*groups, *totals)
        self.places = {key: place for place, key in enumerate(self.keys)}
        self.inside = replace(query, condition=select_site.inside(query, groups)) if totals else query

    @classmethod
    def of(cls, query: Query, agreed: Agreed) -> Select:
        """The question that a query from Python asks; errors as for the class."""
        return cls(agreed, query)

    @classmethod
    def build(cls, asked: asks.Question, agreed: Agreed) -> Select:
        """The question that a job asks, checked against what the sites have."""
        return cls(agreed, _parsed(asked, agreed))

    @classmethod
    def keys_of(cls, asked: asks.Question, agreed: Agreed) -> tuple[str, ...]:
        """Columns whose values must be known before it is built."""
        return _parsed(asked, agreed).groups

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read at a site."""
        return self.query.columns

    @property
    def condition(self) -> Condition | None:
        """Which rows it is over."""
        return self.query.condition

    @property
    def statistics(self) -> tuple[str, ...]:
        """The aggregates by name."""
        return tuple(dict.fromkeys(each.statistic for each in self.query.asked))

    @property
    def text(self) -> str:
        """For a person to read."""
        return f"{self.query.text}{' with totals' if self.query.margins else ''}"

    def to_json(self) -> dict[str, Any]:
        """The query as JSON values."""
        return self.query.to_json()

    @classmethod
    def from_json(cls, told: Mapping[str, Any], agreed: Agreed) -> Select:
        """Take back what `to_json` gave."""
        return cls(agreed, query_json.read(told))

    def groups_of(self, source: Source) -> tuple[Query, dict[Key, int]]:
        """Which rows of a site its groups hold, empty ones too, rows in no group, and bins.

        Under a protected sum bins stand in the place of their groups, for there no two may share a row.
        """
        fitted = select_site.fitted(self.query, source, self.agreed)
        found = local.row_sets(self.query, fitted, minimum=None)
        groups = {key: found.get(key, 0) for key in self.form.keys}
        query = self.query if self.query.groups else replace(self.query, margins=False)
        of_bins: dict[Key, int] = {}
        for (column, edges), called in {
            (each.column or "", each.edges): each.name for each in self.form.histograms
        }.items():
            inside = bins.row_sets(fitted, column, edges)
            for key, rows in groups.items():
                here = {name: rows & these for name, these in inside.items()}
                kept = here if self.agreed.protected else bins.told(here, self.agreed.minimum)
                of_bins |= {(key, f"{called} {name}"): these for name, these in kept.items()}
        made = of_bins if of_bins and self.agreed.protected else {**groups, **of_bins}
        if query.groups and not query.margins:
            made[OTHER,] = reduce(or_, (rows for key, rows in found.items() if key not in groups), 0)
        return query, made

    @property
    def block(self) -> int:
        """Bins of the histogram, with those below, above and missing, under a protected sum."""
        one = self.form.histograms[:1] if self.agreed.protected and not self.agreed.private else ()
        return sum(len(each.edges) + 2 for each in one)

    def lacks_for_privacy(self) -> str | None:
        """Bounds, where there are none."""
        return noisy.lacks(self.query)

    def rounds_for_privacy(self) -> int:
        """As many as the narrowest quantile takes."""
        return noisy.rounds(self.query)

    def begin(self) -> State:
        """Before the first round."""
        if not self.agreed.private:
            return State({"sums": True})
        searches: dict[int, dict[int, Search | NoisySearch]] = {
            at: dict.fromkeys(range(len(self.form.keys)), noisy.search(each))
            for at, each in enumerate(self.query.asked)
            if each.searched
        }
        kept = _Kept({}, {}, {}, searches, None, 0, 0)
        return State({"sums": True, "edges": _edges_json(searches)}, kept)

    def partial(self, source: Source, state: State) -> Part:
        """A site's part of a round: arrays of `fedcore.analytics.cells`, and `search.i` of counts between edges."""
        told = state.told
        edges = select_site.read_edges(told.get("edges", {}), self.query, self.keys)
        source = select_site.fitted(self.query, source, self.agreed)
        sums: Sums = {}
        cells: dict[str, tuple[str, ...]] = {}
        rows = source.rows.num_rows
        bounds: dict[str, Bounds] = {}
        if told.get("sums") is True:
            around = noisy.centres(self.query) if self.agreed.private else {}
            sums, rows = select_site.sums(self.form, self.query, source, self.agreed, around)
            cells = self.form.cells
        elif "centres" in told:
            around = select_site.read_centres(told["centres"], self.squares)
            sums, rows = select_site.sums(self.squares, self.query, source, self.agreed, around)
            cells = self.squares.cells
        seen = not (self.agreed.protected or self.agreed.private)
        if seen and "rows" in sums and self.query.margins and self.query.groups:
            # Not told beside totals: one is fewer than any least cell.
            sums["rows"][-1] = min(sums["rows"][-1], 1)
        if self.agreed.private:
            bounds = noisy.needed(self.form) if told.get("sums") is True else {}
            sums, cells = {name: sums[name] for name in bounds}, {}
        for at, of in edges.items():
            column = self.query.asked[at].column or ""
            sums[f"search.{at}"] = select_site.counts(self.inside, column, of, source, self.agreed)
            if self.agreed.private:
                bounds[f"search.{at}"] = Bounds(0, 1)
            else:
                cells[f"search.{at}"] = ()
        # Counts between edges that an asker moves a little tell of the few rows between them.
        alone = not any(each.searched for each in self.query.asked)
        return Part(sums, rows, cells=cells, alone=alone, bounds=bounds)

    def combine(self, total: Total, state: State) -> State:
        """After a round."""
        if self.agreed.private:
            return self._combine_noisy(total, state)
        if state.told.get("sums") is True:
            kept = self._first(total)
        else:
            kept = state.kept
            if "centres" in state.told:
                again = self.squares.read(total)
                kept = replace(kept, cells=_renewed(kept.cells, again))
            kept = replace(kept, searches=self._narrowed(kept.searches, total))
        told: dict[str, Any] = {}
        if state.told.get("sums") is True and self.squares.query.asked:
            told["centres"] = dict(kept.around)
        if edges := _edges_json(kept.searches):
            told["edges"] = edges
        return State(told, kept, not told)

    def answer(self, state: State) -> Answer:
        """When no round is left."""
        kept: _Kept = state.kept
        if kept.noise is not None:
            intervals = {
                self.query.asked[at].name: [
                    each.found for each in of.values() if isinstance(each, NoisySearch)
                ]
                for at, of in kept.searches.items()
            }
            made = noisy.table(
                self.form, kept.noise.sums, kept.noise.variance, intervals, kept.sites, self.text
            )
            return Answer((made,))
        cells = self._with_totals(kept.cells)
        rows = {key: tuple(self._values(key, cells[key], kept)) for key in sorted(cells, key=sort_key)}
        lost = kept.other is SUPPRESSED
        shown = Table(
            self.query.groups,
            tuple(each.name for each in self.query.asked),
            rows,
            {each.name: each.edges for each in self.query.asked if each.edges},
            self.agreed.minimum,
            kept.sites,
            self.text,
            self._remarks(kept.other),
        )
        return Answer((shown,), suppressed=shown.suppressed + lost)

    def _first(self, total: Total) -> _Kept:
        cells, minimum = self.form.read(total), self.agreed.minimum
        mask = evaluate.hidden(self.query, cells, minimum)
        around = evaluate.centres(self.query, cells, mask, minimum)
        shown = self._with_totals(cells)
        searches: dict[int, dict[int, Search | NoisySearch]] = {}
        for at, each in enumerate(self.query.asked):
            if each.searched and each.column is not None:
                counts = {
                    place: shown[key].present[each.column]
                    for place, key in enumerate(self.keys)
                    if key in shown and key not in mask[each.column]
                }
                searches[at] = {
                    place: evaluate.search(each, count, minimum)
                    for place, count in counts.items()
                    if isinstance(count, int) and count
                }
        other = evaluate.others(self.query, self.form.other(total), mask, minimum)
        return _Kept(cells, mask, around, searches, None, other, total.sites)

    def _narrowed(
        self, searches: Mapping[int, Mapping[int, Search | NoisySearch]], total: Total
    ) -> dict[int, dict[int, Search | NoisySearch]]:
        """The searches after a round; those that are done stay."""
        made: dict[int, dict[int, Search | NoisySearch]] = {}
        for at, of in searches.items():
            counts = masked(total, f"search.{at}") if any(map(_open, of.values())) else []
            made[at] = {}
            start = 0
            for place, each in of.items():
                if not _open(each):
                    made[at][place] = each
                    continue
                end = start + len(each.edges) + 1
                made[at][place] = each.told(counts[start:end])
                start = end
        return made

    def _combine_noisy(self, total: Total, state: State) -> State:
        kept: _Kept = state.kept
        if state.told.get("sums") is True:
            sums = {name: total.sums[name] for name in noisy.needed(self.form)}
            kept = replace(kept, noise=replace(total, sums=sums), sites=total.sites)
        kept = replace(kept, searches=self._narrowed(kept.searches, total))
        edges = _edges_json(kept.searches)
        return State({"edges": edges} if edges else {}, kept, not edges)

    def _with_totals(self, cells: Mapping[Key, Cell]) -> dict[Key, Cell]:
        margins = self.query.margins and bool(self.query.groups)
        return {**cells, **evaluate.totals(cells)} if margins else dict(cells)

    def _values(self, key: Key, cell: Cell, kept: _Kept) -> list[Value]:
        """What is shown of a group."""
        around = {each: kept.around[each[0]] for each in self.squares.measures}
        made: list[Value] = []
        for at, each in enumerate(self.query.asked):
            search = kept.searches.get(at, {}).get(self.places[key])
            if key in kept.mask[each.column]:
                made.append(SUPPRESSED)
            elif each.searched:
                made.append(evaluate.interval(search) if isinstance(search, Search) else None)
            else:
                made.append(evaluate.value(each, cell, around, self.agreed.minimum))
        return made

    def _remarks(self, other: Count) -> tuple[str, ...]:
        made: tuple[str, ...] = ()
        if other != 0:
            made = (f"rows in no group, for their key is none of the levels: {other}",)
        if any(each.statistic in ("min", "max") for each in self.query.asked):
            where = f"where the {self.agreed.minimum}th smallest and the {self.agreed.minimum}th largest value lie"
            made += (f"min and max: {where}; no single value is told",)
        return made


def _parsed(asked: asks.Question, agreed: Agreed) -> Query:
    if asked.query is not None:
        return query_json.read(asked.query)
    query = sql.parse(asked.sql or "", {agreed.data: agreed.columns})
    return query.totals() if asked.totals else query


def _renewed(cells: Mapping[Key, Cell], again: Mapping[Key, Cell]) -> dict[Key, Cell]:
    """Cells with the sums of another round in the place of their own."""
    return {
        key: replace(cell, moments={**cell.moments, **again[key].moments}) if key in again else cell
        for key, cell in cells.items()
    }


def _open(search: Search | NoisySearch) -> bool:
    return search.rounds > 0 if isinstance(search, NoisySearch) else not search.done


def _edges_json(searches: Mapping[int, Mapping[int, Search | NoisySearch]]) -> dict[str, Any]:
    """Edges of the next round, of what is still searched."""
    made = {
        str(at): [[place, list(each.edges)] for place, each in of.items() if _open(each)]
        for at, of in searches.items()
    }
    return {at: of for at, of in made.items() if of}
