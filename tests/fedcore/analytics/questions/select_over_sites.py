"""SQL over sites that are held in memory: every part passes the gate, everything told passes JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from fedcore.analytics import questions
from fedcore.analytics.columns import Column
from fedcore.analytics.query import Query
from fedcore.analytics.question import Agreed, Answer, Part, State, Total
from fedcore.analytics.questions.select import Select
from fedcore.analytics.source import Source
from fedcore.analytics.sums import form
from fedcore.analytics.table import Table
from fedcore.jobs.participant import Rule
from fedcore.participant.mods.disclosure import HIDDEN, disclose

UNITS = {"dose": "mg"}


def people(seed: int, rows: int) -> pd.DataFrame:
    """A made-up table with missing values, ties, wide scales and two keys."""
    draw = np.random.default_rng(seed)
    made = pd.DataFrame(
        {
            "sex": draw.choice(["f", "m", None], rows, p=[0.5, 0.4, 0.1]),
            "stage": draw.integers(0, 4, rows),
            "age": draw.integers(20, 95, rows).astype(float),
            "dose": draw.lognormal(0, 3, rows) * draw.choice([-1, 1], rows) + 1e6,
        }
    )
    made.loc[draw.random(rows) < 0.15, "age"] = np.nan
    return made


def source(frame: pd.DataFrame, units: Mapping[str, str] = UNITS) -> Source:
    """A site's data set."""
    return Source("lung", pa.Table.from_pandas(frame, preserve_index=False), dict(units))


def parts(frame: pd.DataFrame, count: int) -> list[pd.DataFrame]:
    """The rows over so many sites, some of which may get few."""
    where = np.random.default_rng(len(frame)).integers(0, count, len(frame))
    return [frame[where == at] for at in range(count)]


def agreed(frame: pd.DataFrame, levels: Mapping[str, Sequence[Any]] | None = None, **more: Any) -> Agreed:
    """What sites with such columns agree on; by default all values of columns that could be keys are levels."""
    columns: dict[str, Column] = source(frame).columns
    if levels is None:
        levels = {
            name: sorted({_plain(each) for each in frame[name].dropna()}, key=str)
            for name in columns
            if frame[name].nunique() <= 20
        }
    held = {name: tuple(each) for name, each in levels.items() if len(each)}
    return Agreed("lung", columns, held, **({"minimum": 3} | more))


def _plain(each: Any) -> Any:
    each = each.item() if isinstance(each, np.generic) else each
    return each if isinstance(each, int | float | str) else each.isoformat()


def run(question: Select, sources: Sequence[Source], gate: int = 3, rule: Rule | None = None) -> Answer:
    """Ask.

    Args:
        question: To ask; sites read it from JSON.
        sources: Of the sites.
        gate: Least cell of each site, for what is seen by itself.
        rule: Of each site; one that allows all when None.
    """
    read = questions.read(json.loads(json.dumps(questions.to_json(question))))
    state = question.begin()
    while not state.done:
        told = State(json.loads(json.dumps(state.told, allow_nan=False)))
        found = [read.partial(each, told) for each in sources]
        state = question.combine(added(question, found, gate, rule), state)
    return question.answer(state)


def added(question: Select, found: Sequence[Part], gate: int = 3, rule: Rule | None = None) -> Total:
    """The sum of the parts, past the gate."""
    rule = rule or Rule(jobs=("analytics",), data="lung", min_cell=gate, min_rows=1)
    agreed = question.agreed
    told = [disclose(each, rule, protected=agreed.protected, private=agreed.private) for each in found]
    assert all(form(each) == form(told[0]) for each in told)
    sums = {name: np.sum([each[name] for each in told], axis=0) for name in told[0]}
    return Total(
        {name: value for name, value in sums.items() if not name.startswith(HIDDEN)},
        {name.removeprefix(HIDDEN): value > 0 for name, value in sums.items() if name.startswith(HIDDEN)},
        len(found),
    )


def asked(
    query: Query,
    frames: Sequence[pd.DataFrame],
    minimum: int = 3,
    seen: str = "sum",
    levels: Mapping[str, Sequence[Any]] | None = None,
) -> Table:
    """The table of groups.

    Args:
        query: To ask.
        frames: Of the sites.
        minimum: Least cell that all agreed on.
        seen: `site` where each site's part is seen by itself, `sum` where only the sum is.
        levels: Of keys; all values that there are when None.
    """
    whole = pd.concat(frames)
    question = Select.of(query, agreed(whole, levels, minimum=minimum, protected=seen == "sum"))
    made = run(question, [source(each) for each in frames], minimum).tables[0]
    assert isinstance(made, Table)
    return made
