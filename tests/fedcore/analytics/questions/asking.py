"""A question over hospitals as a coordinator asks it: what travels is JSON or an array of doubles, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from fedcore.analytics import questions
from fedcore.analytics.disclosure import SUPPRESSED
from fedcore.analytics.question import Agreed, Answer, Part, Question, State, Total
from fedcore.analytics.source import Source
from fedcore.analytics.sums import form
from fedcore.jobs import asks
from tests.fedcore.analytics.over_sites import Site, lung, split

LEVELS: dict[str, tuple[Any, ...]] = {
    "sex": (1, 2),
    "gender": ("male", "female"),
    "ecog": ("0", "1", "2", "3"),
    "ph.ecog": (0, 1, 2, 3),
}


def rows() -> Site:
    """lung with a hospital for each row, the same in words, and flags; missing ones are None or NaN."""
    data = lung()
    data = {name: each[~np.isnan(data["inst"])] for name, each in data.items()}
    data["gender"] = np.array([{1: "male", 2: "female"}[each] for each in data["sex"]], object)
    data["ecog"] = np.array([None if np.isnan(each) else str(int(each)) for each in data["ph.ecog"]], object)
    data["dead"] = np.array([bool(each) for each in data["status"]], object)
    data["woman"] = data["sex"] - 1.0
    data["frail"] = np.where(np.isnan(data["ph.karno"]), np.nan, data["ph.karno"] < 80)
    return data


def source(data: Site) -> Source:
    """A site's data set of columns by name."""
    arrays = {}
    for name, each in data.items():
        values = [None if value is None or value != value else value for value in each.tolist()]
        kind = {"gender": pa.string(), "ecog": pa.string(), "dead": pa.bool_()}.get(name, pa.float64())
        arrays[name] = pa.array(values, kind)
    return Source("lung", pa.table(arrays))


def hospitals(data: Site | None = None) -> list[Source]:
    """A source for each of the 18 hospitals and one that has no rows."""
    data = rows() if data is None else data
    places = np.unique(data["inst"], return_inverse=True)[1]
    return [*map(source, split(data, places)), empty(source(data))]


def empty(like: Source) -> Source:
    """No rows of the same columns."""
    return Source(like.name, like.rows.slice(0, 0))


def agreed(**more: Any) -> Agreed:
    """What the hospitals have in common."""
    return Agreed("lung", **{"columns": source(rows()).columns, "levels": LEVELS, **more})


def build(kind: str, said: dict[str, Any], common: Agreed | None = None) -> Question:
    """The question of a job."""
    written = asks.Question.model_validate({kind: said})
    return questions.build(written, common or agreed())


def ask(question: Question, sources: list[Source], noise: float | None = None, seen: Any = None) -> Answer:
    """The answer over sources.

    Args:
        question: As the coordinator built it; each site reads it from JSON.
        sources: Of the sites.
        noise: Standard error of what is added to each entry, for questions that take it.
        seen: Called with each state and part.
    """
    state, rounds, draws = question.begin(), 0, np.random.default_rng(7)
    told_question = json.loads(json.dumps(questions.to_json(question), allow_nan=False))
    while not state.done:
        told = State(json.loads(json.dumps(state.told, allow_nan=False)))
        here = questions.read(told_question)
        like = here.partial(empty(sources[0]), told)
        parts = [here.partial(each, told) for each in sources]
        for part in parts:
            assert form(part.sums) == form(like.sums)
            assert set(part.cells) | {each for pair in part.cells.values() for each in pair} <= set(part.sums)
            if seen:
                seen(told, part)
        state = question.combine(added(question, parts, like, noise, draws), state)
        rounds += 1
        assert rounds < 100
    if question.agreed.private:
        assert rounds <= question.rounds_for_privacy()
    return question.answer(state)


def added(question: Question, parts: list[Part], like: Part, noise: float | None, draws: Any) -> Total:
    """The sum in doubles, as a secure sum gives it, with the types of a part."""
    sums: dict[str, Any] = {}
    for name, first in like.sums.items():
        total = np.sum([np.asarray(part.sums[name], np.float64) for part in parts], axis=0)
        sums[name] = np.asarray(total).astype(first.dtype) if not noise else np.asarray(total)
    if not question.agreed.private:
        return Total(sums, sites=len(parts))
    assert set(like.bounds) == set(like.sums)
    for name in sums:
        sums[name] = sums[name] + draws.normal(0, noise or 0, np.shape(sums[name]))
    return Total(sums, sites=len(parts), variance=dict.fromkeys(sums, (noise or 0.0) ** 2))


def table(answer: Answer, place: int = 0) -> list[dict[str, Any]]:
    """The rows of a table by head."""
    found = answer.tables[place]
    return [dict(zip(found.heads, row, strict=True)) for row in found.rows]


def numbers(answer: Answer, head: str, place: int = 0) -> np.ndarray:
    """A column of a table."""
    return np.array([np.nan if row[head] is None else row[head] for row in table(answer, place)], float)


def all_suppressed(answer: Answer) -> bool:
    """Whether an answer tells nothing."""
    cells = [cell for each in answer.tables for row in each.rows for cell in row]
    return answer.suppressed == 1 and cells == [SUPPRESSED] and not answer.plots
