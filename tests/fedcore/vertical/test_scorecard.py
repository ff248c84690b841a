"""Points: against the exact score, rounding bounds, two cards as one, reasons, bad input."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import DataError, JobError
from fedcore.jobs.vertical import Scorecard
from fedcore.vertical.binning import Bins
from fedcore.vertical.evidence import Variable
from fedcore.vertical.scorecard import Card, CardVariable, card, log_odds_of, points, score_of
from fedcore.vertical.table import Table

USUAL = Scorecard(base=600.0, odds=20.0, pdo=20.0)


def variable(name: str, *woe: float, owner: str = "bank") -> Variable:
    """A variable whose bins are whole numbers from 0, and the missing one last."""
    size = len(woe)
    bins = Bins(True, edges=tuple(float(each) for each in range(1, size - 1)))
    none = np.zeros(size, dtype=np.int64)
    return Variable(owner, name, None, True, size - 1, none, None, None, np.array(woe), 0.1, 0.0, bins)


def table(**columns: list[float]) -> Table:
    made = {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
    return Table(made, np.zeros(len(next(iter(made.values()))), dtype=np.int8))


def test_base_points_are_at_the_base_odds_and_pdo_more_double_them() -> None:
    assert score_of(-math.log(20), USUAL) == pytest.approx(600)
    assert score_of(-math.log(40), USUAL) == pytest.approx(620)
    assert score_of(-math.log(10), USUAL) == pytest.approx(580)


@given(st.floats(-20, 20))
def test_scores_and_log_odds_undo_each_other(log_odds: float) -> None:
    assert log_odds_of(score_of(log_odds, USUAL), USUAL) == pytest.approx(log_odds, abs=1e-9)


def test_points_of_a_bin_are_those_of_the_formula() -> None:
    each = variable("age", 0.8, -0.3, 0.0)
    found = points(each.bins, each.woe, 1.2, 250.0, USUAL)
    factor = 20 / math.log(2)
    assert found.tolist() == [round(250 - factor * 1.2 * woe) for woe in (0.8, -0.3, 0.0)]
    # Riskier bins have fewer points.
    assert found[0] < found[2] < found[1]


def test_a_joint_score_is_the_sum_of_two_cards() -> None:
    bank = [variable("age", 0.8, -0.3, 0.1), variable("income", 0.5, -0.6, 0.0)]
    telecom = [variable("late", -0.7, 1.1, 0.2, owner="telecom")]
    coefficients = {"age": 1.1, "income": 0.7, "late": 0.9}
    mine = card(bank, coefficients, USUAL, intercept=-1.5)
    theirs = card(telecom, coefficients, USUAL)
    rows = table(age=[0, 1, math.nan, 1], income=[1, 0, 1, 1], late=[0, 1, 1, 0])
    joint = mine.score(rows) + theirs.score(rows)
    assert joint.dtype == np.int64
    margin = -1.5 + sum(
        coefficients[each.name] * each.woe[each.bins.codes(rows.columns[each.name])]
        for each in bank + telecom
    )
    assert np.abs(joint - score_of(margin, USUAL)).max() <= 3 / 2
    assert np.abs(mine.log_odds(joint) - margin).max() <= 3 / 2 / (20 / math.log(2)) + 1e-12
    # The label holder's variables carry the intercept, a partner's none.
    assert mine.start == theirs.start == 0
    assert {each.neutral for each in theirs.variables} == {0}
    assert sum(each.neutral for each in mine.variables) == pytest.approx(float(score_of(-1.5, USUAL)), abs=1)


numbers = st.floats(-4, 4)


@given(
    st.lists(st.tuples(numbers, st.floats(0, 3), st.booleans()), min_size=1, max_size=12),
    st.floats(-6, 6),
    st.floats(5, 100),
)
def test_a_joint_score_is_within_half_a_point_for_each_variable(
    bins: list[tuple[float, float, bool]], intercept: float, pdo: float
) -> None:
    settings = Scorecard(base=500, odds=15, pdo=pdo)
    sides: dict[bool, list[Variable]] = {True: [], False: []}
    coefficients = {}
    for place, (woe, coefficient, at_bank) in enumerate(bins):
        sides[at_bank].append(variable(f"v{place}", woe, 0.0))
        coefficients[f"v{place}"] = coefficient
    rows = table(**{f"v{place}": [0.0] for place in range(len(bins))})
    joint = card(sides[True], coefficients, settings, intercept).score(rows)
    joint = joint + card(sides[False], coefficients, settings).score(rows)
    exact = score_of(intercept + sum(woe * coefficient for woe, coefficient, _ in bins), settings)
    rounded = len(bins) + (not sides[True])
    assert abs(float(joint[0]) - float(exact)) <= rounded / 2 + 1e-6


def test_a_label_holder_without_variables_keeps_the_start() -> None:
    mine = card([], {}, USUAL, intercept=0.0)
    assert mine.start == round(float(score_of(0.0, USUAL))) and mine.variables == ()
    assert mine.score(table(x=[1, 2])).tolist() == [mine.start] * 2
    assert card([], {}, USUAL).start == 0


def test_reasons_are_the_variables_that_cost_most() -> None:
    made = Card(
        USUAL,
        (
            CardVariable("age", variable("age", 0, 0, 0).bins, (10, 40, 25), 20),
            CardVariable("income", variable("income", 0, 0, 0).bins, (5, 80, 30), 25),
            CardVariable("late", variable("late", 0, 0, 0).bins, (50, 45, 50), 45),
        ),
    )
    rows = table(age=[0, 1], income=[0, 1], late=[1, 0])
    first, second = made.reasons(rows)
    assert [(each.variable, each.label, each.points, each.lost) for each in first] == [
        ("income", "< 1", 5, 75),
        ("age", "< 1", 10, 30),
        ("late", ">= 1", 45, 5),
    ]
    assert second == ()
    assert [each.variable for each in made.reasons(rows, most=1)[0]] == ["income"]
    assert [(each.variable, each.lost) for each in made.reasons(rows, against="neutral")[0]] == [
        ("income", 20),
        ("age", 10),
    ]
    assert card([], {}, USUAL).reasons(rows) == [(), ()]


def test_cards_survive_json_and_score_the_same() -> None:
    made = card(
        [variable("age", 0.8, -0.3, 0.1)], {"age": 1.0}, Scorecard(base=1, odds=0.3, pdo=7.7), intercept=0.3
    )
    again = Card.from_dict(json.loads(json.dumps(made.as_dict())))
    assert again == made
    rows = table(age=[0, 1, math.nan])
    assert again.score(rows).tolist() == made.score(rows).tolist()


def test_damaged_cards_are_refused() -> None:
    found = card([variable("age", 0.8, -0.3)], {"age": 1.0}, USUAL, intercept=0.3).as_dict()
    found["variables"][0]["points"].append(3)
    with pytest.raises(DataError, match="3 points of 2 bins"):
        Card.from_dict(found)
    del found["settings"]
    with pytest.raises(DataError, match="scorecard: cannot be read"):
        Card.from_dict(found)
    with pytest.raises(DataError, match="scorecard: cannot be read"):
        Card.from_dict({**found, "settings": {"pdo": -1}, "variables": []})


def test_bad_input_is_named() -> None:
    each = variable("age", 0.8, -0.3)
    with pytest.raises(DataError, match="'age' has no coefficient"):
        card([each], {}, USUAL)
    anonymous = Variable("telecom", "telecom 0", 0, True, 1, each.rows, None, None, each.woe, 0.1, 0.0, None)
    with pytest.raises(DataError, match="'telecom 0' is of telecom, which keeps its points"):
        card([anonymous], {"telecom 0": 1.0}, USUAL)
    with pytest.raises(DataError, match="1 weights of evidence of 2 bins"):
        points(each.bins, np.zeros(1), 1.0, 0.0, USUAL)
    with pytest.raises(JobError, match=r"points; lower scorecard\.pdo"):
        card([each], {"age": 1e12}, USUAL)
    made = card([each], {"age": 1.0}, USUAL)
    with pytest.raises(DataError, match="column 'age' is not in the table, which the scorecard asks for"):
        made.score(table(income=[1.0]))
    with pytest.raises(DataError, match="column 'age': 1 infinite value"):
        made.score(table(age=[math.inf]))
