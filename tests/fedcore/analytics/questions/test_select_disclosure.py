"""SQL over sites: what is small is not told, by itself, in the sum or through totals."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from fedcore.analytics.disclosure import ALL, SUPPRESSED, from_json
from fedcore.analytics.quantile import Interval
from fedcore.analytics.query import Query
from fedcore.analytics.question import State
from fedcore.analytics.questions.select import Select
from fedcore.analytics.sums import form
from fedcore.analytics.table import Table
from fedcore.errors import JobError, PolicyRefused
from fedcore.jobs.participant import Rule
from tests.fedcore.analytics.questions.select_over_sites import (
    added,
    agreed,
    asked,
    parts,
    people,
    run,
    source,
)

START = Query("lung")


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
    rows = json.loads(json.dumps(found.as_dict(), allow_nan=False))["rows"]
    assert [row["values"]["count(age)"] for row in rows[:2]] == [9, 0]
    assert rows[1]["values"]["mean(age)"] is None
    assert from_json(rows[2]["values"]["mean(age)"]) is SUPPRESSED
    assert "suppressed" in str(found) and "–" in str(found)


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


def test_a_key_that_names_persons_is_refused_at_the_site() -> None:
    frame = people(1, 60).assign(patient=[f"p{at}" for at in range(60)])
    with pytest.raises(PolicyRefused, match="patient has almost as many values as rows"):
        asked(START.group_by("patient").count(), [frame], levels={"patient": ["p1", "p2"]})


def test_rows_whose_key_is_no_level_are_counted_apart_and_in_no_total() -> None:
    frame = people(5, 600)
    query = START.group_by("stage").count().quantile("age").sum("dose").totals()
    some = frame[frame.stage < 2]
    made = asked(query, parts(frame, 3), minimum=5, levels={"stage": [0, 1]})
    for key, (rows, _, dose) in made.rows.items():
        held = some[(some.stage == key[0]) | (key[0] is ALL)]
        assert rows == len(held) and dose == pytest.approx(held.dose.sum(), rel=1e-8)
    interval = made.value("quantile(age, 0.5)", ALL)
    exact = np.quantile(some.age.dropna(), 0.5, method="inverted_cdf")
    assert isinstance(interval, Interval) and interval.low <= exact < interval.high
    said = "rows in no group, for their key is none of the levels:"
    assert f"{said} suppressed" in made.notes  # beside totals
    plain = asked(START.group_by("stage").count(), parts(frame, 3), minimum=5, levels={"stage": [0, 1]})
    assert f"{said} {(frame.stage > 1).sum()}" in plain.notes
    few = pd.DataFrame({"stage": [0] * 20 + [7] * 3})
    question = Select.of(START.group_by("stage").count(), agreed(few, {"stage": [0]}, minimum=5))
    answer = run(question, [source(few)], 5)
    assert "none of the levels: suppressed" in answer.tables[0].notes[1] and answer.suppressed == 1


@pytest.mark.parametrize("seen", ["sum", "site"])
def test_rows_in_no_group_are_not_told_beside_a_suppressed_group(seen: str) -> None:
    # With the number of all rows, 43, they would tell that stage 0 has 3.
    frame = pd.DataFrame({"stage": [0] * 3 + [1] * 20 + [2] * 20})
    for levels, said in (([0, 1], "suppressed"), ([1], "23")):
        made = asked(START.group_by("stage").count(), [frame], 5, seen, levels={"stage": levels})
        assert f"none of the levels: {said}" in " ".join(made.notes)


@pytest.mark.parametrize("rows", [3, 40])
def test_a_site_seen_alone_does_not_tell_rows_in_no_group_beside_totals(rows: int) -> None:
    frame = pd.DataFrame({"stage": [0] * 30 + [2] * rows})
    about = agreed(frame, {"stage": [0]}, minimum=5, protected=False)
    question = Select.of(START.group_by("stage").count().totals(), about)
    told = added(question, [question.partial(source(frame), question.begin())], 5)
    assert told.hidden["rows"].tolist() == [False, False, True] and told.sums["rows"][-1] == 0


@pytest.mark.parametrize("query", [START.quantile("age"), START.min("age"), START.count().max("age")])
def test_counts_between_edges_leave_a_site_in_a_protected_sum_or_with_noise_only(query: Query) -> None:
    frame = people(1, 200)
    with pytest.raises(PolicyRefused, match="in a protected sum only"):
        asked(query, [frame], seen="site")
    assert asked(query, [frame]).rows
    # A coordinator that begins with edges gets no further.
    question = Select.of(query, agreed(frame, protected=False))
    at = len(query.asked) - 1
    for middle in (52.0, 54.0):
        part = question.partial(source(frame), State({"edges": {str(at): [[0, [0.0, middle, 100.0]]]}}))
        assert not part.alone and f"search.{at}" in part.sums


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10**6), st.booleans())
def test_the_lowest_and_highest_are_those_of_at_least_the_minimum(seed: int, bound: bool) -> None:
    frame = people(seed, 300)
    bounds = (0.0, 200.0) if bound else None
    query = START.group_by("sex").min("age", bounds).max("age", bounds)
    for (sex,), row in asked(query, parts(frame, 2), minimum=5).rows.items():
        ages = np.sort(frame.age[frame.sex.isna() if sex is None else frame.sex == sex].dropna())
        for interval, kth in zip(row, (ages[4], ages[-5]), strict=True):
            assert isinstance(interval, Interval) and interval.low <= kth < interval.high
            assert ((ages >= interval.low) & (ages < interval.high)).sum() >= 5
            assert interval.low not in ages or interval.width >= 1e-3


def test_the_lowest_of_few_values_is_suppressed_and_none_of_nothing() -> None:
    frame = pd.DataFrame({"stage": [0] * 9 + [1] * 9, "age": [1.0] * 4 + [np.nan] * 14})
    made = asked(START.group_by("stage").min("age").max("age"), [frame], minimum=5)
    assert made.rows == {(0,): (SUPPRESSED, SUPPRESSED), (1,): (None, None)}


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_what_one_site_tells_by_itself_hides_its_small_cells(seed: int) -> None:
    draw = np.random.default_rng(seed)
    frame = people(seed, int(draw.integers(4, 60)))
    query = (
        START.group_by("stage")
        .count()
        .count("age")
        .mean("age")
        .variance("age")
        .histogram("age", [20, 50, 70, 95])
    )
    question = Select.of(query, agreed(people(1, 400), minimum=5, protected=False))
    part = question.partial(source(frame), question.begin())
    told = added(question, [part], 5)
    hidden = told.hidden
    for place, (stage,) in enumerate(question.form.keys):
        group = frame[frame.stage == stage]
        ages = group.age.dropna()
        if 0 < len(group) < 5:
            assert all(mask[place].all() for mask in hidden.values())
            continue
        assert not hidden["rows"][place]
        few = 0 < len(ages) < 5 or 0 < len(group) - len(ages) < 5
        for name in ("present.0", "total.0", "square.0"):
            assert hidden[name][place] == few
        bins = np.array([0, *np.histogram(ages, [20, 50, 70, 95])[0], 0])
        kept = hidden["bins.0"][place]
        assert kept.all() if few else kept[(bins > 0) & (bins < 5)].all()
        # Who knows their sum learns no kept bin.
        assert kept.sum() != 1 and (few or (told.sums["bins.0"][place][~kept] == bins[~kept]).all())
    for name, mask in hidden.items():
        assert not told.sums[name][mask].any()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from(["sum", "site"]))
def test_totals_do_not_tell_a_suppressed_cell(seed: int, seen: str) -> None:
    draw = np.random.default_rng(seed)
    size = int(draw.integers(20, 70))
    frame = pd.DataFrame({"sex": draw.choice(["f", "m"], size), "stage": draw.integers(0, 3, size)})
    made = asked(START.group_by("sex", "stage").count().totals(), parts(frame, 2), minimum=5, seen=seen)
    keys = [(sex, stage) for sex in "fm" for stage in range(3)]
    rows, values = [], []
    for key, (count,) in made.rows.items():
        if count is not SUPPRESSED:
            rows.append(
                [float(all(k in (ALL, own) for k, own in zip(key, each, strict=True))) for each in keys]
            )
            values.append(count)
    least = [(1 if made.rows.get(key, (0,))[0] is SUPPRESSED else 0, None) for key in keys]
    zero = [key for key in keys if key not in made.rows]
    rows += [[float(each == key) for each in keys] for key in zero]
    values += [0] * len(zero)
    for place, key in enumerate(keys):
        if made.rows.get(key, (0,))[0] is SUPPRESSED:
            goal = np.eye(len(keys))[place]
            equal = {"A_eq": rows, "b_eq": values} if rows else {}
            ends = [optimize.linprog(sign * goal, bounds=least, **equal) for sign in (1, -1)]
            assert ends[1].status == 3 or -ends[1].fun - ends[0].fun >= 4 - 1e-6


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.integers(0, 3))
def test_the_form_of_a_part_does_not_follow_from_the_rows(seed: int, rows: int) -> None:
    about = agreed(people(1, 400), minimum=5, protected=False)
    query = START.group_by("sex", "stage").count().mean("age").variance("dose").min("age")
    question = Select.of(query.histogram("age", [0, 50, 100]), about)
    state = State({"centres": {"dose": 1e6}, "edges": {"3": [[0, [1.0, 2.0]], [7, [1.0, 2.0, 3.0]]]}})
    for each in (question.begin(), state):
        full = question.partial(source(people(seed, 300)), each)
        assert form(full.sums) == form(question.partial(source(people(seed, 300).head(rows)), each).sums)
        assert set(full.cells) <= set(full.sums)


@pytest.mark.parametrize(
    "told",
    [
        {"edges": {"0": [[0, [1.0, 2.0]]]}},
        {"edges": {"1": [[99, [1.0, 2.0]]]}},
        {"edges": {"1": [[0, [2.0, 1.0]]]}},
        {"edges": {"1": [[0, [1.0, math.inf]]]}},
        {"edges": {"1": [[0, ["a", "b"]]]}},
        {"edges": {"x": []}},
        {"edges": [1]},
        {"centres": {}},
        {"centres": {"age": math.nan}},
        {"centres": {"age": "1"}},
        {"centres": [1.0]},
    ],
)
def test_a_request_that_is_none_is_refused(told: dict[str, Any]) -> None:
    question = Select.of(START.count().quantile("age").variance("age"), agreed(people(1, 50)))
    with pytest.raises(JobError, match="the request holds"):
        question.partial(source(people(1, 50)), State(told))


def test_a_site_may_keep_small_cells_out_of_protected_sums() -> None:
    frames = [pd.DataFrame({"stage": [0] * 20 + [1] * rows, "age": 1.0}) for rows in (20, 2)]
    question = Select.of(START.group_by("stage").count().mean("age"), agreed(frames[0], minimum=5))
    rule = Rule(jobs=("analytics",), data="lung", min_cell=5, min_rows=1, small_cells="never")
    made = run(question, [source(each) for each in frames], 5, rule).tables[0]
    assert isinstance(made, Table) and made.rows == {(0,): (40, 1.0), (1,): (SUPPRESSED, SUPPRESSED)}
