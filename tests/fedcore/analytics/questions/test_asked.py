"""What all kinds share: they travel as JSON, refuse what is none, and say which rows their groups hold."""

from __future__ import annotations

import copy
import csv
import io
import json
from itertools import product

import numpy as np
import pytest
from rich.console import Console

from fedcore.analytics import questions
from fedcore.analytics.disclosure import SUPPRESSED, from_json
from fedcore.analytics.question import Question, State
from fedcore.analytics.result import Table
from fedcore.errors import JobError
from fedcore.jobs import asks
from tests.fedcore.analytics.questions.asking import agreed, build, hospitals, rows

ALL = {
    "describe": {"columns": ("age",)},
    "covariance": {"columns": ("age", "wt.loss")},
    "correlation": {"columns": ("age", "wt.loss")},
    "components": {"columns": ("age", "wt.loss"), "scaled": True},
    "t_test": {"value": "age", "by": "sex", "groups": (2, 1)},
    "anova": {"value": "age", "by": "ecog"},
    "contingency": {"down": "gender", "across": "dead"},
    "odds": {"exposure": "frail", "outcome": "status", "confidence": 0.9},
    "histogram": {"column": "age", "edges": (0, 50.5, 100)},
    "quantiles": {"column": "time", "low": 0.0, "high": 2000.0, "width": 0.1},
    "heavy_hitters": {"column": "ecog", "least": 5},
    "linear": {"response": "age", "columns": ("sex", "ecog"), "weights": "woman"},
    "logistic": {"response": "dead", "columns": ("sex",), "intercept": False},
    "poisson": {"response": "time", "columns": ("sex",), "offset": "woman"},
    "kaplan_meier": {"time": "time", "event": "status", "by": "sex", "log_rank": "site"},
    "cox": {"time": "time", "event": "status", "covariates": ("age",), "strata": "none"},
}
WHERE = "age > 60 AND NOT (gender = 'male' OR \"wt.loss\" IS NULL)"


@pytest.fixture(params=list(ALL))
def asked(request: pytest.FixtureRequest) -> Question:
    return build(request.param, {**ALL[request.param], "where": WHERE, "missing": "refuse"})


def test_every_kind_but_sql_is_here():
    assert set(ALL) == set(asks.KINDS[1:])


def test_a_question_travels_as_json(asked: Question):
    told = json.loads(json.dumps(questions.to_json(asked), allow_nan=False))
    back = questions.read(told)
    assert type(back) is type(asked) and questions.to_json(back) == questions.to_json(asked)
    assert (back.text, back.columns, back.hash) == (asked.text, asked.columns, asked.hash)
    assert back.condition == asked.condition is not None
    assert {"age", "gender", "wt.loss"} <= set(back.columns) and back.statistics == (asked.kind,)
    assert asked.kind in asked.text and "age > 60" in asked.text


def test_what_is_no_question_is_refused(asked: Question):
    told = json.loads(json.dumps(questions.to_json(asked)))
    model = told["asked"]["asked"]
    first = next(iter(ALL[asked.kind]))
    for wrong in (
        None,
        3,
        [],
        {},
        {"asked": None, "where": None},
        {"asked": 3, "where": None},
        {"asked": {**model, "more": 1}, "where": None},
        {"asked": {**model, "where": "age > 3"}, "where": None},
        {"asked": {**model, first: {"a": 1}}, "where": None},
        {"asked": {key: value for key, value in model.items() if key != first}, "where": None},
        {"asked": {**model, "missing": "guess"}, "where": None},
        {"asked": model},
        {"asked": model, "where": "age > 3"},
        {"asked": model, "where": {"column": "agee", "op": "=", "values": [1]}},
        {"asked": model, "where": {"column": "age", "op": "=", "values": ["x"]}},
        {"asked": model, "where": {"column": "age", "op": "like", "values": [1]}},
    ):
        with pytest.raises(JobError):
            questions.read({**told, "asked": wrong})


def test_a_round_of_another_question_is_refused(asked: Question):
    with pytest.raises(JobError, match="allowed: "):
        asked.partial(hospitals()[0], State({"round": "another"}))


@pytest.mark.parametrize("levels", [(1, 1), (1, float("nan")), (1, None), ([1], 2)])
def test_levels_that_are_none_are_refused(levels: tuple):
    with pytest.raises(JobError, match="each once"):
        build("anova", {"value": "age", "by": "sex"}, agreed(levels={"sex": levels}))


def test_a_question_that_would_send_too_much_is_refused():
    many = {"gender": tuple(map(str, range(2001))), "ecog": tuple(map(str, range(2001)))}
    with pytest.raises(JobError, match="would send 4004001 numbers a round; allowed: 4000000"):
        build("contingency", {"down": "gender", "across": "ecog"}, agreed(levels=many))


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("contingency", list(product(("male", "female", None), (False, True, None)))),
        ("t_test", [(2,), (1,), (None,)]),
        ("kaplan_meier", [(1,), (2,), (None,)]),
        ("describe", [()]),
    ],
)
def test_groups_are_the_rows_of_a_site_that_its_cells_count(kind: str, keys: list):
    site = hospitals()[0]
    query, found = build(kind, {**ALL[kind], "where": "age > 50"}).groups_of(site)
    assert list(found) == keys and "age > 50" in query.text
    data = site.rows.to_pydict()
    for key, bits in found.items():
        for place in range(site.rows.num_rows):
            held = [data["gender"][place], data["dead"][place]] if len(key) == 2 else [data["sex"][place]]
            inside = data["age"][place] > 50 and tuple(held[: len(key)]) == key
            assert bool(bits >> place & 1) == inside


def test_columns_whose_values_must_be_known_are_named():
    want = {
        "anova": ("ecog",),
        "contingency": ("gender", "dead"),
        "odds": (),
        "linear": ("ecog",),
        "cox": (),
        "kaplan_meier": ("sex",),
        "describe": (),
    }
    for kind, names in want.items():
        written = asks.Question.model_validate({kind: ALL[kind]})
        assert questions.kind_of(kind).keys_of(written, agreed(levels={})) == names
    strata = asks.Question.model_validate({"odds": {**ALL["odds"], "strata": "gender"}})
    assert questions.kind_of("odds").keys_of(strata, agreed()) == ("gender",)


def test_suppressed_is_a_value_of_its_own_in_print_csv_and_json():
    table = Table("t", ("group", "rows", "p"), (("a", SUPPRESSED, SUPPRESSED), ("b", 0, None), ("c", 7, 0.5)))
    assert table.suppressed == 2 and copy.deepcopy(table) == table
    file = io.StringIO()
    Console(file=file, width=80).print(table.rich())
    lines = file.getvalue().splitlines()
    assert next(line for line in lines if "suppressed" in line).count("suppressed") == 2
    assert list(csv.reader(io.StringIO(table.to_csv())))[1:] == [
        ["a", "suppressed", "suppressed"],
        ["b", "0", ""],
        ["c", "7", "0.5"],
    ]
    told = json.loads(json.dumps(table.as_dict()))["rows"]
    assert from_json(told[0]["rows"]) is SUPPRESSED and told[1] == {"group": "b", "rows": 0, "p": None}


def test_rows_are_those_of_all_hospitals():
    assert sum(each.rows.num_rows for each in hospitals()) == len(rows()["age"])
    assert np.isnan(rows()["inst"]).sum() == 0


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"sql": "SELECT dead, count(*) FROM lung GROUP BY dead"}, ()),
        ({"sql": "SELECT dead, sex, count(*) FROM lung GROUP BY dead, sex"}, ("sex",)),
        ({"kaplan_meier": {"time": "time", "event": "status", "end": 900, "unit": 30, "by": "dead"}}, ()),
        (
            {"kaplan_meier": {"time": "time", "event": "status", "end": 900, "unit": 30, "by": "ecog"}},
            ("ecog",),
        ),
    ],
)
def test_values_of_flags_need_not_be_asked_for(said, wanted):
    common = agreed(levels={})
    asked = asks.Question.model_validate(said)
    assert questions.keys_wanted(asked, common) == wanted
    if not wanted:
        assert questions.build(asked, common)
