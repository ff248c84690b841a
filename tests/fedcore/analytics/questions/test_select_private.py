"""SQL under differential privacy: each row changes one entry of each array within its bounds, and the answer is fair."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.analytics.columns import Column
from fedcore.analytics.disclosure import ALL
from fedcore.analytics.quantile import Interval
from fedcore.analytics.query import Query
from fedcore.analytics.question import State, Total
from fedcore.analytics.questions.select import Select
from fedcore.analytics.table import Table
from fedcore.errors import JobError
from fedcore.jobs import asks
from tests.fedcore.analytics.questions.select_over_sites import added, agreed, parts, people, run, source

START = Query("lung")
ALL_KINDS = (
    START.group_by("sex")
    .count()
    .count("age")
    .sum("age", (30, 70))
    .mean("age", (30, 70), label="mean")
    .variance("dose", (-5.0, 20.0))
    .histogram("age", [0, 40, 80])
    .quantile("age", 0.5, (0, 128), width=3)
    .max("age", (0, 100), width=1)
)


def private(query: Query, levels: dict[str, Any] | None = None) -> Select:
    held = {"sex": ["f", "m"], "stage": [0, 1, 2, 3]} if levels is None else levels
    return Select.of(query, agreed(people(1, 300), held, private=True))


@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, 10**6),
    st.integers(0, 40),
    st.sampled_from(["f", "m", "x", None]),
    st.floats(-1e9, 1e9) | st.just(math.nan),
    st.floats(-1e9, 1e9) | st.just(math.nan),
)
def test_a_row_changes_one_entry_of_each_array_within_its_bounds(
    seed: int, rows: int, sex: str | None, age: float, dose: float
) -> None:
    question = private(ALL_KINDS)
    frame = people(seed, rows).assign(stage=0)
    more = pd.concat([frame, pd.DataFrame({"sex": [sex], "stage": [0], "age": [age], "dose": [dose]})])
    if len(frame) < 12:
        # With more keys a site of few rows would refuse them.
        more, frame = more.assign(sex="f"), frame.assign(sex="f")
    later = State({"edges": {"6": [[0, [0.0, 50.0, 60.0]], [2, [0.0, 5.0, 9.0, 128.0]]]}})
    for state in (question.begin(), later):
        with_, without = (question.partial(source(each), state) for each in (more, frame))
        assert set(with_.sums) == set(with_.bounds) == set(without.sums) and not with_.cells
        for name, bounds in with_.bounds.items():
            change = with_.sums[name] - without.sums[name]
            # Sums of doubles: the change is that of the row but for their rounding.
            near = 1e-9 * (1 + np.abs(with_.sums[name]).max())
            moved = change[np.abs(change) > near]
            assert len(moved) <= 1
            assert all(bounds.low - near <= each <= bounds.high + near for each in moved)


def test_without_noise_the_answer_is_that_of_the_values_moved_into_the_bounds() -> None:
    frame = people(4, 2000)
    question = private(ALL_KINDS)
    answer = run(question, [source(each) for each in parts(frame, 4)])
    made = answer.tables[0]
    assert isinstance(made, Table) and answer.suppressed == 0
    for (sex,) in made.rows:
        group = frame[frame.sex.isna() if sex is None else frame.sex == sex]
        ages = group.age.dropna()
        expected = {
            "count(*)": len(group),
            "count(age)": len(ages),
            "sum(age)": ages.clip(30, 70).sum(),
            "mean": ages.clip(30, 70).mean(),
            "variance(dose)": group.dose.clip(-5, 20).var(),
        }
        for name, value in expected.items():
            assert made.value(name, sex) == pytest.approx(value, rel=1e-8, abs=1e-9)
        assert made.value("histogram(age)", sex) == tuple(np.histogram(ages, [0, 40, 80])[0])
        for name, q, width in (("quantile(age, 0.5)", 0.5, 4), ("max(age)", 0.99, 1)):
            interval = made.value(name, sex)
            exact = np.quantile(ages, q, method="inverted_cdf")
            assert isinstance(interval, Interval) and interval.low <= exact < interval.high
            assert interval.width <= width
    assert "max(age): the noisy quantile of 0.99" in made.notes


def test_the_noise_beside_a_number_is_the_error_that_it_has() -> None:
    frame = people(5, 3000)
    query = START.group_by("sex").count().sum("age", (0, 100)).mean("age", (0, 100)).variance("age", (0, 100))
    question = private(query.stddev("age", (0, 100)).totals())
    state = question.begin()
    whole = added(question, [question.partial(source(frame), state)])
    spread = {"rows": 9.0, "present.0": 4.0, "total.0": 2500.0, "square.0": 4e6}
    draw = np.random.default_rng(7)
    exact = answered(question, whole)
    off: dict[tuple[Any, str], list[float]] = {}
    for _ in range(300):
        noisy = {
            name: value + draw.normal(0, math.sqrt(spread[name]), value.shape)
            for name, value in whole.sums.items()
        }
        made = answered(question, Total(noisy, {}, 3, spread))
        for sex in ("f", "m", None, ALL):
            for name in ("sum(age)", "mean(age)", "variance(age)", "stddev(age)"):
                error = made.value(f"{name} noise", sex)
                off.setdefault((sex, name), []).append(
                    (made.value(name, sex) - exact.value(name, sex)) / error
                )  # type: ignore[operator]
    for found in off.values():
        # Of 300 draws the spread is within 20 % of 1 and the mean within 0.25, but for one time in 10,000.
        assert np.std(found) == pytest.approx(1, abs=0.2) and abs(np.mean(found)) < 0.25
    assert made.value("count(*) noise", "f") == 3 and made.value("count(*) noise", ALL) == pytest.approx(
        3 * 3**0.5
    )


def answered(question: Select, total: Total) -> Table:
    state = question.combine(total, question.begin())
    assert state.done
    made = question.answer(state).tables[0]
    assert isinstance(made, Table)
    return made


def test_groups_without_rows_and_negative_counts_are_shown() -> None:
    question = private(START.group_by("sex").count().mean("age", (0, 100)), {"sex": ["f", "m", "x"]})
    state = question.begin()
    sums = {
        name: value + (-3 if value.dtype == np.int64 else 0.0)
        for name, value in question.partial(source(people(1, 0)), state).sums.items()
    }
    made = answered(question, Total(sums, {}, 2, {"rows": 4.0, "present.0": 4.0, "total.0": 9.0}))
    assert {key for (key,) in made.rows} == {"f", "m", "x", None}
    assert "rows in no group, for their key is none of the levels: -3, with noise" in made.notes
    assert made.rows["x",] == (-3, 2.0, 50.0, pytest.approx(3.0))
    assert "a count may be negative" in str(made) and made.suppressed == 0


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 10**6))
def test_a_search_takes_its_rounds_whatever_the_noise(seed: int) -> None:
    draw = np.random.default_rng(seed)
    query = START.group_by("stage").quantile("age", 0.5, (0, 100), width=0.01).min("age", (0, 100), width=20)
    question = private(query)
    frame = people(seed, 100)
    state, rounds = question.begin(), 0
    while not state.done:
        rounds += 1
        found = question.partial(source(frame), state).sums
        noisy = {name: value + draw.integers(-60, 61, value.shape) for name, value in found.items()}
        state = question.combine(Total(noisy, {}, 1, {}), state)
    assert rounds == question.rounds_for_privacy() == 3
    for row in question.answer(state).tables[0].as_dict()["rows"]:
        wide = row["values"]["min(age)"]
        assert 0 <= wide["low"] < wide["high"] <= 100 and wide["high"] - wide["low"] <= 20


def test_only_the_arrays_that_are_asked_are_sent_and_paid() -> None:
    def names(query: Query) -> list[str]:
        question = private(query)
        return sorted(question.partial(source(people(1, 50)), question.begin()).sums)

    assert names(START.count()) == ["rows"]
    assert names(START.mean("age", (0, 9))) == ["present.0", "total.0"]
    assert names(START.variance("age", (0, 9))) == ["present.0", "square.0", "total.0"]
    assert names(START.histogram("age", [0, 9])) == ["bins.0"]
    assert names(START.quantile("age", 0.5, (0, 9))) == ["search.0"]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("avg(age)", r"mean\(age\) needs bounds .* clamp\(age, low, high\)"),
        ("quantile(age, 0.5)", "needs bounds"),
        ("min(age)", "needs bounds"),
        ("avg(clamp(age, 0, 9)), sum(clamp(age, 0, 99))", "age has two pairs of bounds"),
        ("sex, median(clamp(age, 0, 9))", "no totals"),
    ],
)
def test_what_lacks_for_privacy_is_said(sql: str, words: str) -> None:
    about = agreed(people(1, 50), private=True)
    by = " GROUP BY sex" if "sex" in sql else ""
    asked = asks.Question(sql=f"SELECT {sql} FROM lung{by}", totals=bool(by))
    with pytest.raises(JobError, match=words):
        Select.build(asked, about)
    open_ = Select.build(asked, agreed(people(1, 50)))
    assert open_.lacks_for_privacy() is not None


def test_levels_of_a_flag_need_no_declaration() -> None:
    about = agreed(people(1, 50), {}, private=True)
    columns = {**about.columns, "dead": Column("flag")}
    question = Select.of(START.group_by("dead").count(), type(about)("lung", columns, private=True))
    assert question.form.keys == ((False,), (True,), (None,))
