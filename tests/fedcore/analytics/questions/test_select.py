"""SQL over sites: without small cells the answer is that of the pooled table; small ones never show."""

from __future__ import annotations

import json
import math
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.analytics.cells import OTHER
from fedcore.analytics.condition import Both, Compare, Not
from fedcore.analytics.disclosure import ALL, SUPPRESSED
from fedcore.analytics.quantile import Interval
from fedcore.analytics.query import Query
from fedcore.analytics.question import State
from fedcore.analytics.questions.select import Select
from fedcore.analytics.table import Table
from fedcore.errors import DataError, JobError
from fedcore.jobs import asks
from tests.fedcore.analytics import over_sites
from tests.fedcore.analytics.questions.select_over_sites import (
    agreed,
    asked,
    parts,
    people,
    run,
    source,
)

START = Query("lung")


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
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.25, 0.5, 0.9]))
def test_a_quantile_lies_in_its_interval_which_holds_the_minimum(seed: int, q: float) -> None:
    frame = people(seed, 600)
    query = START.group_by("sex").quantile("dose", q).quantile("age", q, width=0.5)
    found = asked(query, parts(frame, 3), minimum=5)
    for (sex,), values in found.rows.items():
        group = frame[frame.sex.isna() if sex is None else frame.sex == sex]
        for column, interval in zip(("dose", "age"), values, strict=True):
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


def test_no_row_meets_the_condition() -> None:
    query = START.where("age", ">", 1000).count().mean("age").quantile("age")
    assert asked(query, [people(1, 50)]).rows == {(): (0, None, None)}
    assert asked(query.group_by("sex"), [people(1, 50)]).rows == {}


def test_the_result_is_printed_with_intervals_histograms_totals_and_no_markup() -> None:
    frame = people(3, 500)
    frame["sex"] = frame.sex.replace("f", "[red]f[/red]")
    plain = asked(START.group_by("sex").quantile("age"), parts(frame, 2))
    assert "[red]f[/red]" in str(plain) and "±" in str(plain)
    bins = asked(START.group_by("sex").histogram("age", [20, 50, 95]), parts(frame, 2))
    assert "[red]f[/red]" in str(bins) and "histogram(age) [50, 95]" in bins.to_csv().splitlines()[0]
    assert "quantile(age, 0.5) low" in plain.to_csv().splitlines()[0]
    assert "all" in str(asked(START.group_by("sex").count().totals(), parts(frame, 2)))


def test_the_words_of_a_wrong_name_in_a_result() -> None:
    found = asked(START.mean("age"), [people(3, 50)])
    with pytest.raises(DataError, match=r'did you mean "mean\(age\)"'):
        found.value("mean(aeg)")
    with pytest.raises(DataError, match="no such group"):
        found.value("mean(age)", "f")


def test_a_site_with_missing_columns_or_other_types_or_units_is_refused() -> None:
    good = people(1, 60)
    question = Select.of(START.mean("age").mean("dose"), agreed(good))
    bad = {
        'no column "age": did you mean "ages"': source(good.rename(columns={"age": "ages"})),
        "age holds text here; the sites agreed on number": source(good.assign(age="old")),
        "dose is in g here; the sites agreed on mg": source(good, {"dose": "g"}),
    }
    for words, each in bad.items():
        with pytest.raises(DataError, match=words):
            run(question, [source(good), each])
    with pytest.raises(JobError, match=r"dose is in mg; the query takes it in g"):
        Select.of(START.mean("dose").measured_in(dose="g"), agreed(good))
    assert asked(START.mean("dose").measured_in(dose="mg"), [good]).rows


def test_what_cannot_be_evaluated_is_refused() -> None:
    frame = people(1, 60)
    with pytest.raises(JobError, match="without totals"):
        asked(START.group_by("sex").histogram("age", [0, 50, 99]).totals(), [frame])
    with pytest.raises(JobError, match="asks nothing"):
        asked(START, [frame])
    with pytest.raises(JobError, match='asks "rats"'):
        asked(Query("rats").count(), [frame])
    with pytest.raises(JobError, match='no column "aeg": did you mean "age"'):
        asked(START.mean("aeg"), [frame])
    with pytest.raises(JobError, match='no column "seks": did you mean "sex"'):
        asked(START.group_by("seks").count(), [frame])
    with pytest.raises(
        JobError, match="declare `levels` for it in the participants' catalogue or in the job, or"
    ):
        asked(START.group_by("sex").count(), [frame], levels={})
    with pytest.raises(JobError, match="levels of sex: 3; allowed: text"):
        asked(START.group_by("sex").count(), [frame], levels={"sex": ["f", 3]})
    with pytest.raises(JobError, match="make 12012 groups; allowed: 10000"):
        asked(
            START.group_by("sex", "stage").count(),
            [frame],
            levels={"sex": list("abcdefghijk"), "stage": range(1000)},
        )
    levels = {"sex": ["f", "m"], "stage": range(1000)}
    with pytest.raises(JobError, match="make 3003 groups; allowed: 10000, and 2000 with totals"):
        asked(START.group_by("sex", "stage").count().totals(), [frame], levels=levels)
    with pytest.raises(DataError, match="infinite"):
        asked(START.mean("age"), [frame.assign(age=np.inf)])


def test_variance_keeps_its_digits_where_the_mean_is_large() -> None:
    frame = pd.DataFrame({"age": 1e9 + np.random.default_rng(1).normal(0, 1e-2, 4000)})
    found = asked(START.variance("age"), parts(frame, 3)).value("variance(age)")
    assert close(found, frame.age.var())


LUNG = pd.read_csv(over_sites.LUNG)
"""Patients of 18 hospitals; see `over_sites.lung`."""


def pooled(text: str, frame: pd.DataFrame) -> dict[Any, tuple[Any, ...]]:
    """The rows of an SQL text by their first field, from DuckDB over all rows."""
    with duckdb.connect() as connection:
        connection.register("lung", pa.Table.from_pandas(frame, preserve_index=False))
        return {row[0]: tuple(row[1:]) for row in connection.execute(text).fetchall()}


@pytest.mark.parametrize("key", ["sex", "ph.ecog"])
def test_sql_over_the_hospitals_is_sql_over_all_patients(key: str) -> None:
    hospitals = [rows.drop(columns="inst") for _, rows in LUNG.groupby("inst", dropna=False)]
    assert len(hospitals) == 18 and min(map(len, hospitals)) < 3
    text = (
        f'SELECT "{key}", count(*), count("wt.loss"), sum("wt.loss") AS s, avg(age), var_samp(age), stddev_samp(time), '
        f'avg("meal.cal") FROM lung WHERE age > 45 AND status IS NOT NULL GROUP BY "{key}"'
    )
    about = agreed(LUNG.drop(columns="inst"), {key: [0, 1, 2, 3]}, minimum=5)
    question = Select.build(asks.Question(sql=text), about)
    made = run(question, [source(each) for each in hospitals], 5).tables[0]
    assert isinstance(made, Table)
    exact = pooled(text, LUNG)
    assert {key[0] for key in made.rows} == set(exact)
    told = 0
    for (key,), row in made.rows.items():
        for found, expected in zip(row, exact[key], strict=True):
            if found is not SUPPRESSED:
                assert found == pytest.approx(expected, rel=1e-8)
                told += 1
    assert told >= 12


def mixed(seed: int, rows: int) -> pd.DataFrame:
    """Columns of every kind, each with missing values."""
    draw = np.random.default_rng(seed)
    days = pd.Series(pd.to_datetime("2024-02-27") + pd.to_timedelta(draw.integers(0, 4, rows), "D"))
    made = pd.DataFrame(
        {
            "ward": draw.choice(['a"; DROP TABLE lung; --', "b'", "ç"], rows),
            "day": days.dt.date,
            "when": days + pd.to_timedelta(draw.integers(0, 2, rows) * 12, "h"),
            "smokes": draw.choice([True, False], rows),
            "level": draw.choice([0.5, 1.0, 2.5], rows),
            "value": draw.normal(3, 2, rows).round(3),
        }
    )
    for name in made:
        made[name] = made[name].astype(object).where(draw.random(rows) > 0.1, None)
    return made.astype({"level": float, "value": float}).assign(when=pd.to_datetime(made["when"]))


@pytest.mark.parametrize("key", ["ward", "day", "when", "smokes", "level"])
def test_keys_of_every_kind(key: str) -> None:
    frame = mixed(3, 900)
    text = f'SELECT "{key}", count(*), avg(value), var_samp(value), count(smokes) FROM lung GROUP BY "{key}"'
    question = Select.build(asks.Question(sql=text, totals=True), agreed(frame))
    made = run(question, [source(each) for each in parts(frame, 4)]).tables[0]
    assert isinstance(made, Table)
    for group, row in pooled(text, frame).items():
        held = made.rows[(None if isinstance(group, float) and math.isnan(group) else group,)]
        assert held == pytest.approx(row, rel=1e-8)
    assert made.value("count(*)", ALL) == 900
    json.dumps(made.as_dict(), allow_nan=False)


def test_a_condition_on_every_kind_of_column() -> None:
    frame = mixed(4, 900)
    where = (
        "day BETWEEN DATE '2024-02-28' AND DATE '2024-02-29' AND NOT smokes = TRUE AND ward IN ('b''', 'ç') "
        "AND \"when\" < '2024-03-01T00:00:00' AND (level >= 1.0 OR level IS NULL)"
    )
    made = asked(START.where(where).count().mean("value"), parts(frame, 3))
    exact = pooled(f"SELECT 1, count(*), avg(value) FROM lung WHERE {where}", frame)[1]
    assert exact[0] >= 5 and made.rows[()] == pytest.approx(exact, rel=1e-8)


def test_a_site_of_one_row_adds_it() -> None:
    question = Select.of(START.count().variance("dose").histogram("age", [0, 100]), agreed(people(1, 50)))
    one = pd.DataFrame({"sex": ["f"], "stage": [1], "age": [50.0], "dose": [1e6 + 0.1]})
    sums = question.partial(source(one), question.begin()).sums
    assert sums["rows"].tolist() == [1] and sums["bins.0"].tolist() == [[0, 1, 0]]
    around = question.partial(source(one), State({"centres": {"dose": 1e6}})).sums
    assert around["total.0"][0] == pytest.approx(0.1, rel=1e-8) and around["square.0"][0] == pytest.approx(
        0.01, rel=1e-8
    )
    _, groups = question.groups_of(source(one))
    assert sum(groups.values()) == 1 == groups[(), "histogram(age) bin 1"]


def test_the_groups_of_a_question_are_all_that_there_may_be() -> None:
    frame = people(2, 60)
    question = Select.of(START.group_by("sex").count(), agreed(frame))
    query, groups = question.groups_of(source(frame))
    assert query == question.query and list(groups) == [("f",), ("m",), (None,), (OTHER,)]
    assert sum(each.bit_count() for each in groups.values()) == 60
    assert set(question.groups_of(source(frame.head(0)))[1].values()) == {0}
    some = Select.of(START.group_by("sex").count(), agreed(frame, {"sex": ["m"]})).groups_of(source(frame))[1]
    assert some[OTHER,] == groups["f",] and some["m",] == groups["m",]
    assert question.columns == ("sex",) and question.statistics == ("count",)
    assert Select.keys_of(
        asks.Question(sql="SELECT sex, count(*) FROM lung GROUP BY sex"), agreed(frame)
    ) == ("sex",)


def held(which: Any) -> int:
    """Rows as set bits."""
    return sum(1 << place for place, each in enumerate(which) if each)


@pytest.mark.parametrize("protected", [True, False])
def test_bins_are_among_the_groups_of_a_question(protected: bool) -> None:
    frame = people(4, 90)
    about = agreed(frame, protected=protected)
    question = Select.of(START.where("age", ">", 30).group_by("sex").histogram("age", [25, 50, 80]), about)
    _, groups = question.groups_of(source(frame))
    taken = {"f": frame.sex == "f", "m": frame.sex == "m", None: frame.sex.isna()}
    want = {
        "below": frame.age < 25,
        "bin 1": (frame.age >= 25) & (frame.age < 50),
        "bin 2": (frame.age >= 50) & (frame.age <= 80),
        "above": frame.age > 80,
        "missing": frame.age.isna(),
    }
    for sex, here in taken.items():
        for name, inside in want.items():
            assert groups[(sex,), f"histogram(age) {name}"] == held(here & inside & (frame.age > 30))
        # Under a protected sum no two groups share a row; a site that is seen alone compares its groups too.
        assert ((sex,) in groups) is not protected
    assert len(groups) == 15 + 1 + (0 if protected else 3)
    if protected:
        assert sum(rows.bit_count() for rows in groups.values()) == (frame.age > 30).sum()


def test_histograms_whose_groups_would_share_rows_are_refused_under_a_protected_sum() -> None:
    frame = people(1, 60)
    grouped = START.group_by("sex").count().histogram("age", [0, 50, 99])
    two = START.histogram("age", [0, 50, 99], label="one").histogram("age", [0, 60, 99], label="two")
    for query in (grouped, two):
        with pytest.raises(JobError, match="a query of its own"):
            Select.of(query, agreed(frame))
        assert Select.of(query, agreed(frame, protected=False)).groups_of(source(frame))[1]
    assert Select.of(START.count().mean("age").histogram("age", [0, 50, 99]), agreed(frame))


def test_totals_without_groups_have_no_margins() -> None:
    frame = people(1, 60)
    query, groups = Select.of(START.count().totals(), agreed(frame)).groups_of(source(frame))
    assert not query.margins and groups == {(): 2**60 - 1}
