"""Pairs of past questions that differ by a few rows are found, and others are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import csv

from fedcore.analytics import questions
from fedcore.analytics.audit import Past, differencing, past_questions
from fedcore.analytics.question import Agreed
from fedcore.analytics.source import Source
from fedcore.jobs import asks
from tests.fedcore.analytics.over_sites import LUNG

TABLE = csv.read_csv(LUNG)
WHOLE = Source("lung", TABLE)
AGREED = Agreed("lung", WHOLE.columns, {"sex": (1, 2)})


def ask(run: str, agreed: Agreed = AGREED, **asked: Any) -> Past:
    return Past(run, "q", questions.build(asks.Question.model_validate(asked), agreed))


def edges(where: str | None = None) -> dict[str, Any]:
    return {"histogram": {"column": "time", "edges": (0.0, 2000.0), **({"where": where} if where else {})}}


def hospitals() -> dict[str, dict[str, Source]]:
    """Each with its own patients, in the order of the file."""
    return {
        f"h{number}": {"lung": Source("lung", TABLE.filter(pc.equal(TABLE["inst"], number)))}
        for number in sorted(set(TABLE["inst"].drop_null().to_pylist()))
    }


def age_with_few() -> tuple[int, int]:
    """An age from which on there are fewer than five patients, and how many."""
    ages = sorted(TABLE["age"].to_pylist(), reverse=True)
    limit = next(age for at, age in enumerate(ages) if at == 3)
    return limit, sum(age >= limit for age in ages)


@pytest.mark.parametrize("sites", [{"all": {"lung": WHOLE}}, hospitals()], ids=["one site", "18 hospitals"])
def test_two_questions_that_differ_by_the_oldest_patients_are_found(
    sites: dict[str, dict[str, Source]],
) -> None:
    limit, few = age_with_few()
    assert 0 < few < 5
    asked = [ask("a", **edges()), ask("b", **edges("age > 60")), ask("c", **edges(f"age < {limit}"))]
    found = differencing(asked, sites, minimum=5)
    assert found.questions == 3 and not found.skipped and found.data == ("lung",)
    # Of the pairs a b, a c and b c only one is nested and close.
    assert [(pair.one, pair.other, pair.rows, pair.where) for pair in found.pairs if pair.rows] == [
        ("a: q", "c: q", few, "all sites")
    ]
    assert json.loads(json.dumps(found.to_json()))["pairs"][0]["rows"] == few
    # Nothing is found where a few more stand apart.
    assert not differencing(asked[:2], sites, minimum=5).pairs
    assert not differencing(asked[::2], sites, minimum=3).pairs


def test_a_planted_group_is_found_through_the_groups_of_another_question() -> None:
    limit, few = age_with_few()
    whole = ask("a", t_test={"value": "time", "by": "sex"})
    less = ask("b", t_test={"value": "time", "by": "sex", "where": f"age < {limit}"})
    found = differencing([whole, less], {"all": {"lung": WHOLE}}, minimum=5).pairs
    assert len(found) == 1 and found[0].rows is not None and 0 < found[0].rows <= few
    sexes = TABLE.filter(pc.greater_equal(TABLE["age"], limit))["sex"].to_pylist()
    least = min(count for count in (sexes.count(1), sexes.count(2)) if count)
    assert found[0].rows == least


def test_three_questions_whose_sum_and_difference_isolates_a_few_are_found() -> None:
    # a: 0-9, b: 10-19, c: 0-16; none of two is within another and close, a + b - c is 17-19.
    table = pa.table({"x": list(range(40)), "time": [1] * 40})
    source = Source("t", table)
    agreed = Agreed("t", source.columns)
    asked = [
        ask(name, agreed, **edges(where))
        for name, where in (("a", "x < 10"), ("b", "x >= 10 and x < 20"), ("c", "x < 17"))
    ]
    assert not differencing(asked[:2], {"s": {"t": source}}, minimum=5).pairs
    (pair,) = differencing(asked, {"s": {"t": source}}, minimum=5).pairs
    assert (pair.one, pair.other, pair.rows) == ("c: q", "together", None)


def test_answers_with_noise_and_answers_that_were_asked_before_are_left_out() -> None:
    limit, _ = age_with_few()
    private = replace(AGREED, private=True)
    asked = [ask("a", **edges()), ask("b", private, **edges(f"age < {limit}")), ask("c", **edges())]
    found = differencing(asked, {"all": {"lung": WHOLE}}, minimum=5)
    assert (found.questions, found.private, found.pairs) == (1, 1, ())


def test_where_each_site_answers_by_itself_pairs_within_one_are_found() -> None:
    sites = {
        "big": {"t": Source("t", pa.table({"x": list(range(50)), "time": [1] * 50}))},
        "small": {"t": Source("t", pa.table({"x": list(range(45, 60)), "time": [1] * 15}))},
        "other": {"u": WHOLE},
    }
    agreed = Agreed("t", sites["big"]["t"].columns, protected=False)
    asked = [ask("a", agreed, **edges()), ask("b", agreed, **edges("x < 48"))]
    found = differencing(asked, sites, minimum=5)
    # 48 and 49 of one, 48 to 59 of the other: fourteen together.
    assert [(pair.rows, pair.where) for pair in found.pairs] == [(2, "big")]
    sums = [
        replace(each, question=ask("s", replace(agreed, protected=True), **edges(w)).question)
        for each, w in zip(asked, (None, "x < 48"), strict=True)
    ]
    assert not differencing(sums, sites, minimum=5).pairs


def test_runs_are_read_and_what_cannot_be_is_said(tmp_path: Path) -> None:
    def run(name: str, told: Any) -> None:
        (tmp_path / name).mkdir()
        text = told if isinstance(told, str) else json.dumps(told)
        (tmp_path / name / "result.json").write_text(text)

    good = questions.to_json(ask("a", **edges("age > 60")).question)
    run("a", {"kind": "analytics", "answers": {"old": {"question": good}}})
    run("b", {"kind": "train"})
    run("c", "{")
    run("d", {"kind": "analytics", "answers": {"odd": {"question": {"kind": "histogrm"}}, "none": {}}})
    (tmp_path / "e").mkdir()
    (tmp_path / "f.txt").write_text("")
    found, unread = past_questions(tmp_path.iterdir())
    assert [str(each) for each in found] == ["a: old"]
    assert found[0].question.text == ask("a", **edges("age > 60")).question.text
    assert len(unread) == 3 and unread[0].startswith("c: result.json cannot be read")
    gone = differencing(
        [*found, ask("z", Agreed("no", WHOLE.columns), **edges())],
        {"s": {"lung": WHOLE}},
        minimum=5,
        unread=unread,
    )
    assert gone.skipped[:3] == tuple(unread) and "none of its groups" in gone.skipped[3]


def test_questions_in_sql_are_compared_group_by_group() -> None:
    limit, few = age_with_few()
    text = "SELECT sex, count(*), avg(age) FROM lung {} GROUP BY sex"
    asked = [ask("a", sql=text.format("")), ask("b", sql=text.format(f"WHERE age < {limit}"))]
    (pair,) = differencing(asked, {"all": {"lung": WHOLE}}, minimum=5).pairs
    assert pair.rows is not None and 0 < pair.rows <= few
