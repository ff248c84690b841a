"""Queries: one description, the same text for the same question, JSON both ways."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.analytics.columns import Column, problems
from fedcore.analytics.condition import Both, Compare, Not
from fedcore.analytics.query import Aggregate, Query
from fedcore.analytics.query_json import read
from fedcore.errors import JobError

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=20)
NUMBERS = st.floats(-1e9, 1e9)
VALUES = st.one_of(st.integers(), NUMBERS, st.booleans(), NAMES)
COMPARES = st.one_of(
    st.builds(
        lambda name, op, value: Compare(name, op, (value,)), NAMES, st.sampled_from(["=", "<"]), VALUES
    ),
    st.builds(lambda name, values: Compare(name, "in", tuple(values)), NAMES, st.lists(VALUES, min_size=1)),
    st.builds(lambda name: Compare(name, "is null"), NAMES),
)
CONDITIONS = st.recursive(
    COMPARES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(lambda parts: Both("or", tuple(parts)), st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=5,
)
ASKED = st.one_of(
    st.just(Aggregate("count")),
    st.builds(lambda name: Aggregate("sum", name, (0, 1)), NAMES),
    st.builds(lambda name, q: Aggregate("quantile", name, q=q), NAMES, st.floats(0.01, 0.99)),
    st.builds(lambda name: Aggregate("histogram", name, edges=(1.0, 2.5)), NAMES),
)
QUERIES = st.builds(
    lambda name, where, by, asked, margins: Query(name, where, by, asked, margins),
    NAMES,
    st.none() | CONDITIONS,
    st.just(()) | st.tuples(NAMES),
    st.tuples(ASKED),
    st.booleans(),
).filter(lambda query: bool(query.hash))


@given(QUERIES)
def test_json_gives_back_the_same_query_with_the_same_hash(query: Query) -> None:
    again = read(json.loads(query.canonical))
    assert again == query and again.hash == query.hash and hash(again) == hash(query)


@given(QUERIES, QUERIES)
def test_two_queries_have_one_hash_only_when_they_are_one(one: Query, other: Query) -> None:
    assert (one.hash == other.hash) == (one.canonical == other.canonical)


def test_a_hash_does_not_depend_on_how_a_query_was_written() -> None:
    one = Query("lung").measured_in(age="years", time="days").sum("age", (0, 1)).where("age", ">", 1)
    other = Query("lung").where("age", ">", 1).sum("age", (0.0, 1.0)).measured_in(time="days", age="years")
    assert one.hash == other.hash
    assert one.hash != one.totals().hash != one.where("age", "<", 5).hash


def test_a_query_is_not_changed_by_asking_more() -> None:
    start = Query("lung").count()
    start.mean("age").group_by("sex").where("age", ">", 3)
    assert start == Query("lung").count()
    with pytest.raises(dataclasses.FrozenInstanceError):
        start.dataset = "rats"  # type: ignore[misc]


def test_its_text_is_for_a_person() -> None:
    query = (
        Query("lung")
        .where("age", "between", [40, 60])
        .where("sex", "in", ["f"])
        .where(Not(Compare("x", "is null")))
    )
    assert query.mean("age").text == (
        "lung where age between 40 and 60 and sex in ('f') and not (x is null): mean(age)"
    )


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Query(""), "no name of a data set"),
        (lambda: Query("a\0b"), "no name"),
        (lambda: Query("lung").group_by("a", "b", "c"), "one or two"),
        (lambda: Query("lung").group_by("a", "a"), "each once"),
        (lambda: Query("lung").count().count(), "asked twice"),
        (lambda: Query("lung").where("age", "like", "a%"), 'comparison "like"'),
        (lambda: Query("lung").where("age", "=", None), "is null"),
        (lambda: Query("lung").where("age", ">", math.nan), "finite"),
        (lambda: Query("lung").where("age", "in", "abc"), "a list of values"),
        (lambda: Query("lung").where("age", "in", []), "1 to 1000"),
        (lambda: Query("lung").where("age", "between", [1]), "2 to 2"),
        (lambda: Aggregate("men", "age"), 'did you mean "mean"'),
        (lambda: Aggregate("mean"), "needs a column"),
        (lambda: Query("lung").sum("age", (2, 1)), "low below high"),
        (lambda: Query("lung").sum("age", (0, math.inf)), "finite"),
        (lambda: Query("lung").quantile("age", 0), "above 0, below 1"),
        (lambda: Query("lung").quantile("age", 1), "above 0, below 1"),
        (lambda: Query("lung").quantile("age", math.nan), "above 0, below 1"),
        (lambda: Query("lung").quantile("age", width=0), "width"),
        (lambda: Query("lung").histogram("age", [1]), "edges"),
        (lambda: Query("lung").histogram("age", [1, 1]), "rising"),
        (lambda: Query("lung").histogram("age", [2, 1]), "rising"),
        (lambda: Query("lung").histogram("age", [1, math.inf]), "finite"),
    ],
)
def test_a_query_that_means_nothing_is_refused(made: Any, words: str) -> None:
    with pytest.raises(JobError, match=words):
        made()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], "an object"),
        ({"dataset": 3}, "allowed: text"),
        ({"dataset": "lung", "asks": []}, 'did you mean "ask"'),
        ({"dataset": "lung", "by": "sex"}, "a list"),
        ({"dataset": "lung", "margins": 1}, "true or false"),
        ({"dataset": "lung", "units": {"age": 3}}, "column and unit"),
        ({"dataset": "lung", "ask": [{"statistic": "mean", "column": "a", "q": "x"}]}, "a number"),
        ({"dataset": "lung", "ask": [{"statistic": "sum", "column": "a", "bounds": [1]}]}, "low and high"),
        ({"dataset": "lung", "where": {"column": "a", "op": "=", "values": [[1]]}}, "no value"),
        ({"dataset": "lung", "where": {"xor": []}}, 'where has no "xor"'),
        ({"dataset": "lung", "where": {"and": []}}, "of 0 parts"),
    ],
)
def test_json_of_another_shape_is_refused(found: Any, words: str) -> None:
    with pytest.raises(JobError, match=words):
        read(found)


def test_a_condition_nested_without_end_is_refused() -> None:
    found: Any = {"column": "a", "op": "is null"}
    for _ in range(200):
        found = {"not": found}
    with pytest.raises(JobError, match="nested deeper"):
        read({"dataset": "lung", "where": found})


def test_all_that_does_not_fit_is_said_at_once() -> None:
    columns = {"age": Column("number", "years"), "sex": Column("text")}
    query = Query("lung").where("sex", ">", 3).group_by("stage").mean("sex").measured_in(age="months")
    found = "; ".join(problems(query, columns))
    assert 'no column "stage"' in found and "mean(sex) needs numbers" in found
    assert "sex holds text; it is compared with 3" in found and "age is in years" in found


def test_a_condition_may_be_a_text_whose_query_is_that_of_its_parts() -> None:
    start = Query("lung")
    text = start.where("age > 60 AND sex IN ('f', 'm')").count()
    assert text.condition == Both("and", (Compare("age", ">", (60,)), Compare("sex", "in", ("f", "m"))))
    assert text.hash == start.where("age", ">", 60).where("sex", "in", ["f", "m"]).count().hash
    assert start.where("age", value=3) == start.where("age", "=", 3) == start.where("age = 3")
    assert start.where("age IS NULL").where("lung.sex = 'f'").condition == Both(
        "and", (Compare("age", "is null"), Compare("sex", "=", ("f",)))
    )
    with pytest.raises(JobError, match="in WHERE"):
        start.where("age")
    with pytest.raises(JobError, match="no SQL"):
        start.where("age >")


def test_the_lowest_and_highest_take_bounds_and_a_width() -> None:
    ask = Query("lung").min("age", (0, 120), width=2).max("age").quantile("age", 0.5, (0, 120))
    assert read(json.loads(ask.canonical)) == ask
    with pytest.raises(JobError, match="width"):
        Aggregate("mean", "age", width=2)
    with pytest.raises(JobError, match="bounds"):
        Query("lung").min("age", (3, 3))
