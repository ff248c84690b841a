"""The report's charts and figures: each mark stands where its number says."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from sklearn import metrics as reference

from fedcore.vertical.charts import MOST_POINTS, Axis, Bars, Line, Upright, chart, stepped, thinned
from fedcore.vertical.charts_variables import Bar, BinRow, heat_map, ranking, signed_bar, woe_bars
from fedcore.vertical.evaluation import (
    against_own,
    confusions,
    figures,
    main_part,
    parts_of,
    scored,
    stability_of,
)
from tests.fedcore.vertical.result_factory import make_partner_result, make_result


def numbers(pattern: str, drawn: str) -> list[tuple[float, ...]]:
    found = re.findall(pattern, drawn)
    return [tuple(float(each) for each in (row if isinstance(row, tuple) else (row,))) for row in found]


RECTANGLE = r'<rect[^>]*x="([-\d.]+)" (?:y="[-\d.]+" )?width="([\d.]+)"'


def test_a_lines_points_stand_in_proportion_and_missing_ones_are_left_out():
    points = [(0.0, 0.0), (0.5, 0.8), (0.7, math.nan), (1.0, 1.0)]
    drawn = chart([Line(points, "federated", dots=True)], Axis("x", 0, 1), Axis("y", 0, 1), describe="d")
    path = numbers(r"([\d.]+) ([\d.]+)", re.search(r'd="M([^"]+)"', drawn)[1])
    (x0, y0), (x1, y1), (x2, y2) = path
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.5, abs=0.01)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(0.8, abs=0.01) and y2 < y0, "more is higher"
    assert drawn.count("<circle") == 3


def test_bars_intervals_and_marks_are_drawn():
    bars = Bars([0, 1, 2, 3], [0.2, 0.0, 0.4], "bar good", ["a", "b", "c"])
    line = Line([(0.5, 0.2)], "alone", reach=[(0.1, 0.3)])
    drawn = chart([line], Axis("x"), Axis("y", 0), describe="d", bars=[bars], uprights=[Upright(2.9, "KS")])
    tall = [height for (height,) in numbers(r'<rect[^>]*height="([\d.]+)"', drawn)]
    assert len(tall) == 2, "an empty bar is not drawn"
    assert tall[1] / tall[0] == pytest.approx(2, abs=0.01)
    assert 'class="reach alone"' in drawn and '<text class="strong halo" text-anchor="end"' in drawn
    assert "<title>c</title>" in drawn


def test_a_long_curve_is_thinned_evenly_and_keeps_its_ends():
    points = [(i / 20_000, (i / 20_000) ** 0.5) for i in range(20_001)]
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS and kept[0] == points[0] and kept[-1] == points[-1]
    steps = [abs(b[0] - a[0]) + abs(b[1] - a[1]) for a, b in pairwise(kept)]
    assert max(steps[1:-1]) < 2 * 2 / (MOST_POINTS - 2)
    assert thinned(points[:5]) == points[:5]
    assert stepped([0, 1, 2], [3, 5]) == [(0, 0), (0, 3), (1, 3), (1, 5), (2, 5), (2, 0)]


def test_weights_of_evidence_point_to_their_side_in_proportion():
    rows = [
        BinRow("low", 0.5, 0.6, 0.4),
        BinRow("high", 0.4, -0.3, 0.1),
        BinRow("[-1.54258, 0.0693152)", 0.1, math.nan, 0.3, joined=False),
    ]
    drawn = woe_bars(rows, describe="d")
    (left, wide), (other, narrow) = numbers(RECTANGLE, drawn)
    assert wide / narrow == pytest.approx(2, abs=0.02)
    assert other + narrow == pytest.approx(left, abs=0.11), "both begin at zero"
    assert re.findall(r'class="(bar \w+)"', drawn) == ["bar bad", "bar good"]
    assert drawn.count('class="dot rate"') == 3
    line = re.search(r'd="M([^"]+)"', drawn)[1]
    assert line.count("L") == 1, "the line goes through the bins that follow one another"
    assert "</title>[−1.54, 0.0693)</text>" in drawn, "the limits are rounded where there is no room"
    assert "bad rate" not in woe_bars([BinRow("few", 1.0, 0.2, math.nan)], describe="d")


def test_a_ranking_is_in_proportion_and_names_what_has_no_value():
    bars = [
        Bar("a", 0.4, "bar good"),
        Bar("b", 0.1, "bar gone", "too low"),
        Bar("c" * 60, math.nan, "bar good"),
    ]
    drawn = ranking(bars, describe="d", text=lambda value: f"{value:.3f}", marks=[(0.25, "shifted")])
    (_, wide), (_, narrow) = numbers(RECTANGLE, drawn)
    assert wide / narrow == pytest.approx(4, abs=0.05)
    assert "too low" in drawn and "0.400" in drawn and "shifted" in drawn
    assert f"<title>{'c' * 60}</title>" in drawn and "…" in drawn


def test_the_heat_map_is_as_dark_as_the_correlation_and_parts_the_owners():
    values = [[1, 0.8, math.nan], [0.8, 1, -0.3], [math.nan, -0.3, 1]]
    drawn = heat_map(["a", "b", "c"], values, owners=["x", "x", "y"], describe="d")
    assert drawn.count('class="cell same"') == 3 and drawn.count('class="cell unknown"') == 2
    assert drawn.count('class="cell above" fill-opacity="0.80"') == 2
    assert drawn.count('class="cell below" fill-opacity="0.30"') == 2
    assert drawn.count('class="border"') == 2 and "−.30" in drawn


def test_a_coefficients_bar_begins_at_zero():
    zero = numbers(r'<line x1="([\d.]+)"[^>]*class="zero"', signed_bar(0.5, (-1.0, 1.0)))[0][0]
    right, left = signed_bar(0.5, (-1.0, 1.0)), signed_bar(-0.5, (-1.0, 1.0))
    (start, wide), (begin, long) = numbers(RECTANGLE, right)[0], numbers(RECTANGLE, left)[0]
    assert (
        start == pytest.approx(zero) and begin + long == pytest.approx(zero) and wide == pytest.approx(long)
    )
    assert "bar bad" in right and "bar good" in left
    assert signed_bar(0.0, (0.0, 0.0))


def test_figures_of_a_number_and_of_classes_are_those_of_scikit_learn():
    result, generator = make_result(), np.random.default_rng(2)
    labels = generator.normal(size=200)
    found = scored(result, "test")[0]
    found = replace(
        found, model=replace(found.model, target="number"), labels=labels, scores=labels * 0.8 + 0.1
    )
    told = figures(found)
    assert told["r2"] == pytest.approx(reference.r2_score(labels, found.scores))
    assert told["mae"] == pytest.approx(reference.mean_absolute_error(labels, found.scores))
    assert told["rmse"] == pytest.approx(reference.root_mean_squared_error(labels, found.scores))
    classes, shares = generator.integers(0, 3, 200).astype(float), generator.dirichlet(np.ones(3), 200)
    found = replace(found, model=replace(found.model, target="classes"), labels=classes, scores=shares)
    told = figures(found)
    assert told["accuracy"] == pytest.approx(reference.accuracy_score(classes, shares.argmax(axis=1)))
    assert told["log_loss"] == pytest.approx(reference.log_loss(classes, shares))


def test_charts_show_the_test_rows_or_what_else_there_is():
    result = make_result()
    assert main_part(result) == "test" and parts_of(result) == ["train", "test", "out of time"]
    one_class = {**result.labels, "test": np.zeros(200)}
    assert main_part(replace(result, labels=one_class)) == "out of time"
    assert main_part(make_partner_result()) == "" and scored(make_partner_result()) == []


def test_the_uplift_is_against_the_champions_own_columns():
    joint, own = against_own(make_result())
    assert joint.name == "scorecard" and own.name == "bank-a alone"
    assert joint.scores is joint.model.scores["test"] and own.scores is joint.model.own_scores["test"]


def test_scores_that_moved_have_a_large_index_and_the_same_ones_none():
    result = make_result()
    model, train = result.models[0], result.models[0].scores["train"]
    moved = replace(model, scores={"train": train, "test": train[:200] ** 0.3, "out of time": train[:100]})
    found = stability_of(result, moved)
    assert found["test"] > 0.25 > 0.1 > found["out of time"]
    assert stability_of(result, replace(model, scores=None)) == {}


def test_cut_offs_call_the_shares_bad_that_they_are_named_by():
    found = confusions(scored(make_result(), "test")[0])
    called = [(each.true_bad + each.false_bad) / 200 for each in found]
    assert called == pytest.approx([0.05, 0.1, 0.2, 0.3, 0.5])
