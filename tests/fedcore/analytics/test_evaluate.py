"""Queries over sites: without small cells the answer is that of the pooled table; small ones never show."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.analytics.condition import Both, Compare, Not
from fedcore.analytics.disclosure import ALL, SUPPRESSED, from_json
from fedcore.analytics.evaluate import Site, evaluate, site
from fedcore.analytics.local import Source
from fedcore.analytics.partial import Partial, merged
from fedcore.analytics.quantile import Interval
from fedcore.analytics.query import Query
from fedcore.analytics.table import Table
from fedcore.errors import DataError, JobError, PolicyRefused

START = Query("lung")


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


def source(frame: pd.DataFrame) -> Source:
    return Source("lung", pa.Table.from_pandas(frame, preserve_index=False), {"dose": "mg"})


def parts(frame: pd.DataFrame, count: int) -> list[pd.DataFrame]:
    where = np.random.default_rng(len(frame)).integers(0, count, len(frame))
    return [frame[where == at] for at in range(count)]


def asked(query: Query, frames: list[pd.DataFrame], minimum: int = 3, seen: Any = "sum") -> Table:
    return evaluate(
        query,
        {f"site-{at}": site(source(frame), 3, seen) for at, frame in enumerate(frames)},
        minimum=minimum,
    )


def close(found: Any, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=1e-8, abs_tol=1e-9)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_statistics_of_groups_are_those_of_the_pooled_table(seed: int, count: int) -> None:
    frame = people(seed, 400)
    query = START.group_by("sex", "stage").count().count("age").sum("dose").mean("age").variance("dose")
    query = query.stddev("age").sum("age", (30, 60), label="bounded").totals()
    found = asked(query, parts(frame, count))
    keys = {
        (sex, stage): frame[
            (frame.sex.isna() if sex is None else (frame.sex == sex) if sex is not ALL else True)
            & ((frame.stage == stage) if stage is not ALL else True)
        ]
        for sex in ("f", "m", None, ALL)
        for stage in (*range(4), ALL)
        if (sex, stage) != (ALL, ALL)
    }
    keys[ALL, ALL] = frame
    for key, rows in found.rows.items():
        group = keys[key]
        few = 0 < len(group) - group.age.count() < 3 or 0 < group.age.count() < 3
        expected = {
            "count(*)": len(group),
            "count(age)": group.age.count(),
            "sum(dose)": group.dose.sum(),
            "mean(age)": group.age.mean(),
            "variance(dose)": group.dose.var(),
            "stddev(age)": group.age.std(),
            "bounded": group.age.clip(30, 60).sum(),
        }
        for name, value in zip(found.names, rows, strict=True):
            if value is not SUPPRESSED:
                assert value == pytest.approx(expected[name], rel=1e-8)
                assert not (few and "age" in name)
        if len(group) < 3:
            assert all(value is SUPPRESSED for value in rows)


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.25, 0.5, 0.9]), st.sampled_from(["sum", "site"]))
def test_a_quantile_lies_in_its_interval_which_holds_the_minimum(seed: int, q: float, seen: str) -> None:
    frame = people(seed, 600)
    query = START.group_by("sex").quantile("dose", q).quantile("age", q, width=0.5)
    found = asked(query, parts(frame, 3), minimum=5, seen=seen)
    for (sex,), values in found.rows.items():
        group = frame[frame.sex.isna() if sex is None else frame.sex == sex]
        for column, interval in zip(("dose", "age"), values, strict=True):
            if interval is SUPPRESSED:
                assert seen == "site"
                continue
            assert isinstance(interval, Interval)
            held = group[column].dropna()
            exact = np.quantile(held, q, method="inverted_cdf")
            assert interval.low <= exact < interval.high
            assert ((held >= interval.low) & (held < interval.high)).sum() >= 5


def test_a_quantile_is_narrowed_to_the_stated_width() -> None:
    frame = pd.DataFrame({"age": np.random.default_rng(5).normal(60, 5, 20_000)})
    for width in (2.0, 0.5, 0.1):
        interval = asked(START.quantile("age", 0.5, width=width), parts(frame, 4)).value(
            f"quantile(age, {0.5:g})"
        )
        assert isinstance(interval, Interval) and interval.width <= width


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from(["sum", "site"]))
def test_a_histogram_counts_as_numpy_does_where_it_tells(seed: int, seen: str) -> None:
    frame = people(seed, 300)
    edges = [20.0, 25, 40, 60, 61, 94]
    found = asked(START.group_by("sex").histogram("age", edges), parts(frame, 2), minimum=5, seen=seen)
    for (sex,), (counts,) in found.rows.items():
        group = frame[frame.sex.isna() if sex is None else frame.sex == sex]
        if counts is SUPPRESSED:
            continue
        assert isinstance(counts, tuple)
        for told, exact in zip(counts, np.histogram(group.age.dropna(), edges)[0], strict=True):
            assert told is SUPPRESSED or (told == exact and (exact == 0 or exact >= 5))


CONDITIONS = st.recursive(
    st.one_of(
        st.builds(
            lambda op, value: Compare("age", op, (value,)),
            st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
            st.integers(20, 95),
        ),
        st.builds(lambda a, b: Compare("age", "between", (a, b)), st.integers(20, 95), st.integers(20, 95)),
        st.builds(lambda a: Compare("sex", "in", tuple(a)), st.lists(st.sampled_from("fmx"), min_size=1)),
        st.sampled_from([Compare("sex", "is null"), Compare("age", "is not null")]),
    ),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(
            lambda op, found: Both(op, tuple(found)),
            st.sampled_from(["and", "or"]),
            st.lists(inner, min_size=1, max_size=3),
        ),
    ),
    max_leaves=6,
)


def truth(condition: Any, row: dict[str, Any]) -> bool | None:
    """SQL's logic of three values, by hand."""
    if isinstance(condition, Not):
        inner = truth(condition.part, row)
        return None if inner is None else not inner
    if isinstance(condition, Both):
        found = [truth(part, row) for part in condition.parts]
        decides = condition.op == "or"
        return decides if decides in found else None if None in found else not decides
    value = row[condition.column]
    if condition.op in ("is null", "is not null"):
        return bool((value is None) == (condition.op == "is null"))
    if value is None:
        return None
    first, last = condition.values[0], condition.values[-1]
    return bool(
        {
            "=": value == first,
            "!=": value != first,
            "in": value in condition.values,
            "between": condition.op == "between" and first <= value <= last,
            "<": condition.op == "<" and value < first,
            "<=": condition.op == "<=" and value <= first,
            ">": condition.op == ">" and value > first,
            ">=": condition.op == ">=" and value >= first,
        }[condition.op]
    )


@settings(deadline=None, max_examples=25)
@given(CONDITIONS, st.integers(0, 3))
def test_a_condition_takes_the_rows_for_which_it_is_true(condition: Any, seed: int) -> None:
    frame = people(seed, 120)
    rows = [
        {"age": None if math.isnan(age) else age, "sex": None if pd.isna(sex) else sex}
        for age, sex in zip(frame.age, frame.sex, strict=True)
    ]
    expected = sum(truth(condition, row) is True for row in rows)
    found = asked(START.where(condition).count(), [frame]).value("count(*)")
    assert found is SUPPRESSED if 0 < expected < 3 else found == expected


def test_a_value_that_one_site_suppressed_is_suppressed_in_the_sum_and_its_totals() -> None:
    big = pd.DataFrame({"stage": [0] * 20 + [1] * 20 + [2] * 20})
    small = pd.DataFrame({"stage": [0] * 20 + [1] * 2 + [2] * 20})
    found = asked(START.group_by("stage").count().totals(), [big, small], seen="site")
    assert found.value("count(*)", 1) is SUPPRESSED and found.value("count(*)", ALL) is SUPPRESSED
    assert found.value("count(*)", 0) == 40
    # Where only the sum is seen, 22 rows are no small cell.
    assert asked(START.group_by("stage").count(), [big, small]).value("count(*)", 1) == 22


def test_a_cell_that_is_small_in_the_sum_only() -> None:
    frames = [pd.DataFrame({"stage": [0] * 30 + [1] * 3}), pd.DataFrame({"stage": [0] * 30 + [2] * 9})]
    found = asked(START.group_by("stage").count().totals(), frames, minimum=5)
    assert found.value("count(*)", 1) is SUPPRESSED
    # The next smallest goes with it, or the total would tell it.
    assert found.value("count(*)", 2) is SUPPRESSED
    assert found.value("count(*)", 0) == 60 and found.value("count(*)", ALL) == 72


def test_all_cells_suppressed() -> None:
    frame = pd.DataFrame({"stage": [0] * 4 + [1] * 4 + [2] * 3 + [3] * 4})
    found = asked(START.group_by("stage").count().mean("stage").quantile("stage"), [frame], minimum=5)
    assert len(found.rows) == 4 and found.suppressed == 12
    assert "12 suppressed" in str(found) and "stage" in str(found)


def test_suppressed_zero_and_missing_stay_apart_to_the_printed_table() -> None:
    frame = pd.DataFrame({"stage": [0] * 9 + [1] * 9 + [2] * 2, "age": [50.0] * 9 + [None] * 9 + [40.0] * 2})
    found = asked(START.group_by("stage").count("age").mean("age"), [frame], minimum=5)
    assert found.rows == {(0,): (9, 50.0), (1,): (0, None), (2,): (SUPPRESSED, SUPPRESSED)}
    assert found.to_csv() == "stage,count(age),mean(age)\n0,9,50.0\n1,0,\n2,suppressed,suppressed\n"
    rows = json.loads(json.dumps(found.to_json(), allow_nan=False))["rows"]
    assert [row["values"]["count(age)"] for row in rows[:2]] == [9, 0]
    assert rows[1]["values"]["mean(age)"] is None
    assert from_json(rows[2]["values"]["mean(age)"]) is SUPPRESSED
    assert "suppressed" in str(found) and "–" in str(found)


def test_no_row_meets_the_condition() -> None:
    query = START.where("age", ">", 1000).count().mean("age").quantile("age")
    assert asked(query, [people(1, 50)]).rows == {(): (0, None, None)}
    assert asked(query.group_by("sex"), [people(1, 50)]).rows == {}


def test_few_missing_values_are_not_told_by_two_counts() -> None:
    frame = pd.DataFrame({"age": [50.0] * 30 + [None]})
    assert asked(START.count().count("age"), [frame]).rows == {(): (31, SUPPRESSED)}
    assert asked(START.count().sum("age").mean("age"), [frame]).rows == {(): (31, SUPPRESSED, SUPPRESSED)}
    assert asked(START.count().mean("age"), [frame]).rows == {(): (31, 50.0)}


def test_few_missing_values_of_a_group_do_not_follow_from_totals() -> None:
    ages = [50.0] * 29 + [None] + [50.0] * 40 + [50.0] * 30 + [None] * 20
    frame = pd.DataFrame({"stage": [0] * 30 + [1] * 40 + [2] * 50, "age": ages})
    found = asked(START.group_by("stage").count().count("age").totals(), [frame], minimum=5)
    shown = {key[0]: row[0] - row[1] for key, row in found.rows.items() if row[1] is not SUPPRESSED}
    # One is missing in stage 0, none in stage 1: those two together would still tell of one.
    assert 0 not in shown and (ALL not in shown or 2 not in shown)


def test_the_result_is_printed_with_intervals_histograms_totals_and_no_markup() -> None:
    frame = people(3, 500)
    frame["sex"] = frame.sex.replace("f", "[red]f[/red]")
    plain = asked(START.group_by("sex").quantile("age").histogram("age", [20, 50, 95]), parts(frame, 2))
    assert "[red]f[/red]" in str(plain) and "±" in str(plain)
    assert "histogram(age) [50, 95]" in plain.to_csv().splitlines()[0]
    assert "quantile(age, 0.5) low" in plain.to_csv().splitlines()[0]
    assert "all" in str(asked(START.group_by("sex").count().totals(), parts(frame, 2)))


def test_the_words_of_a_wrong_name_in_a_result() -> None:
    found = asked(START.mean("age"), [people(3, 50)])
    with pytest.raises(DataError, match=r'did you mean "mean\(age\)"'):
        found.value("mean(aeg)")
    with pytest.raises(DataError, match="no such group"):
        found.value("mean(age)", "f")


def test_sites_with_missing_columns_or_other_types_or_units_are_named() -> None:
    good = people(1, 60)
    with pytest.raises(DataError, match=r'site-1.*no column "age": did you mean "ages"'):
        asked(START.mean("age"), [good, good.rename(columns={"age": "ages"})])
    with pytest.raises(DataError, match=r"site-1.*age holds text"):
        asked(START.mean("age"), [good, good.assign(age="old")])
    with pytest.raises(DataError, match=r"site-0.*dose is in mg; the query takes it in g"):
        asked(START.mean("dose").measured_in(dose="g"), [good])
    assert asked(START.mean("dose").measured_in(dose="mg"), [good]).rows


def test_a_key_that_names_persons_is_refused_at_the_site() -> None:
    frame = people(1, 60).assign(patient=[f"p{at}" for at in range(60)])
    with pytest.raises(PolicyRefused, match=r"site-0.*patient has almost as many values as rows"):
        asked(START.group_by("patient").count(), [frame])


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(JobError, match="without totals"):
        asked(START.group_by("sex").histogram("age", [0, 50, 99]).totals(), [people(1, 60)])
    with pytest.raises(JobError, match="asks nothing"):
        asked(START, [people(1, 60)])
    with pytest.raises(DataError, match="no site"):
        asked(START.count(), [])
    with pytest.raises(DataError, match='asks "rats"'):
        asked(Query("rats").count(), [people(1, 60)])
    with pytest.raises(DataError, match="fewer than 3 rows"):
        asked(START.count(), [people(1, 2)])
    with pytest.raises(JobError, match="3 or more"):
        asked(START.count(), [people(1, 60)], minimum=2)
    with pytest.raises(DataError, match="infinite"):
        asked(START.mean("age"), [people(1, 60).assign(age=np.inf)])


def test_an_answer_to_another_query_or_with_other_centres_is_refused() -> None:
    right = site(source(people(1, 60)), 3, "sum")
    other = right.answer(START.count(), {})
    query = START.mean("age")
    with pytest.raises(DataError, match="b, merge: answers another query"):
        merged({"a": right.answer(query, {}), "b": other}, query)
    with pytest.raises(DataError, match="b, merge: sums squares around other centres"):
        merged({"a": right.answer(query, {}), "b": right.answer(query, {"age": 5.0})}, query)


def test_a_site_that_answers_a_search_wrongly_is_named() -> None:
    def nothing(query: Query, column: str, edges: Any) -> Any:
        return {}

    def answer(query: Query, centres: Any) -> Partial:
        return site(source(people(1, 60)), 3, "sum").answer(query, centres)

    with pytest.raises(DataError, match=r"bad, query: answers 1 groups of quantile"):
        evaluate(START.quantile("age"), {"bad": Site(answer, nothing)}, minimum=3)


def test_variance_keeps_its_digits_where_the_mean_is_large() -> None:
    frame = pd.DataFrame({"age": 1e9 + np.random.default_rng(1).normal(0, 1e-2, 4000)})
    found = asked(START.variance("age"), parts(frame, 3)).value("variance(age)")
    assert close(found, frame.age.var())
