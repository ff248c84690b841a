"""A party's result: JSON both ways, and nothing in it that the party cannot know."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fedcore.errors import DataError
from fedcore.vertical.results import PartFacts, PartyResult, VariableFacts
from tests.fedcore.vertical.result_factory import make_partner_result, make_result


@pytest.mark.parametrize("make", [make_result, make_partner_result])
def test_a_result_is_the_same_after_json(make):
    result = make()
    written = json.dumps(result.as_dict(), allow_nan=False)
    back = PartyResult.from_dict(json.loads(written))
    assert json.dumps(back.as_dict()) == written
    assert back.variables == result.variables and back.job == result.job and back.costs == result.costs
    if result.labels is not None:
        assert all((back.labels[part] == result.labels[part]).all() for part in result.labels)
        assert np.array_equal(back.models[0].scores["test"], result.models[0].scores["test"])
        assert back.correlations.values.shape == (2, 2)


def test_numbers_that_are_none_come_back_as_such():
    result = make_result()
    values = np.array([[1.0, np.nan], [np.nan, 1.0]])
    result = replace(result, correlations=replace(result.correlations, values=values))
    variable = replace(result.variables[0], woe=(0.1, float("nan"), -0.2))
    back = PartyResult.from_dict(replace(result, variables=(variable,)).as_dict())
    assert np.isnan(back.correlations.values[0, 1]) and back.correlations.values[1, 1] == 1
    assert np.isnan(back.variables[0].woe[1]) and back.variables[0].woe[2] == -0.2


def test_a_table_of_scores_per_class_keeps_its_shape():
    result = make_result()
    scores = {part: np.full((len(values), 3), 1 / 3) for part, values in result.labels.items()}
    model = replace(result.models[0], target="classes", scores=scores, own_scores=None)
    back = PartyResult.from_dict(json.loads(json.dumps(replace(result, models=(model,)).as_dict())))
    assert back.models[0].scores["test"].shape == (200, 3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"labels": {"test": np.zeros(200)}}, "a partner has no labels"),
        ({"split": (PartFacts("train", 400, 100),)}, "bad rows of a part"),
        ({"variables": (VariableFacts("telecom-b", "calls", bad=(1, 2)),)}, "bad rows of a bin"),
        ({"models": make_result().models}, "scores"),
    ],
)
def test_what_is_counted_from_labels_is_refused_at_a_partner(change, told):
    with pytest.raises(DataError, match=told):
        replace(make_partner_result(), **change)


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ({"test": np.zeros(199)}, "199 scores of 200 test rows"),
        ({"later": np.zeros(5)}, "labels are missing"),
        ({"test": np.full(200, np.inf)}, "not finite"),
    ],
)
def test_scores_that_do_not_fit_the_labels_are_refused(scores, told):
    result = make_result()
    with pytest.raises(DataError, match=told):
        replace(result, models=(replace(result.models[0], scores=scores),))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda found: found.update(extra=1), "unknown fields extra"),
        (lambda found: found.pop("match"), "lacks a field"),
        (lambda found: found.update(role="judge"), "none of label holder, partner"),
        (lambda found: found.update(format=99), "format 99"),
        (lambda found: found["match"].update(rows="many"), r"match\.rows is not of type int"),
        (lambda found: found["match"].update(rows=True), r"match\.rows is not of type int"),
        (lambda found: found.update(variables={}), r"variables is not a list"),
        (lambda found: found["costs"][0].update(seconds="1"), r"costs\[0\]\.seconds is not a number"),
        (lambda found: found["labels"].update(test=["a"]), "no table of numbers"),
    ],
)
def test_json_that_is_no_result_is_refused_by_the_field(spoil, told):
    found = json.loads(json.dumps(make_result().as_dict()))
    spoil(found)
    with pytest.raises(DataError, match=told):
        PartyResult.from_dict(found)
