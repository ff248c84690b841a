"""The report of each party: complete, true to its numbers, silent about labels at a partner, offline, safe."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedcore.vertical import metrics
from fedcore.vertical.report import render, write_report
from fedcore.vertical.results import MatchReport, PartFacts, PartyResult
from tests.fedcore.coordinator.chromium import MISSING, PROGRAM, open_page
from tests.fedcore.coordinator.test_report import ALLOWED_TAGS, HOSTILE, Page
from tests.fedcore.vertical.result_factory import make_partner_result, make_result

TAGS = ALLOWED_TAGS | {"br"}


def sections(text: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", text)


def hostile(value: Any) -> Any:
    """The same result with every text of free choice replaced by an attack."""
    if dataclasses.is_dataclass(value):
        fixed = {"role", "use", "target"}
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        return replace(
            value, **{name: each if name in fixed else hostile(each) for name, each in fields.items()}
        )
    if isinstance(value, tuple):
        return tuple(hostile(each) for each in value)
    if isinstance(value, dict):
        parts = {"train", "test", "out of time"}
        return {name if name in parts else f"{HOSTILE}{name}": hostile(each) for name, each in value.items()}
    return f"{HOSTILE}{value}" if isinstance(value, str) and value not in ("train", "test") else value


def test_the_label_holder_reads_everything_that_a_risk_team_signs():
    assert sections(render(make_result())) == [
        "What the joint model adds",
        "How well it tells bad from good",
        "Groups by score",
        "Champion against challenger",
        "Stability over the split",
        "Match",
        "Split",
        "Variables",
        "Correlations",
        "Coefficients",
        "Scorecard",
        "Training",
        "Protocols",
        "Who learned what",
        "What it cost",
        "What it stands on",
        "Parameters",
    ]


def test_the_first_sentence_is_the_uplift_in_the_numbers_of_the_metrics():
    result = make_result()
    labels, model = result.labels["test"], result.models[0]
    joint, own = metrics.auc(labels, model.scores["test"]), metrics.auc(labels, model.own_scores["test"])
    swap = metrics.swap_set(labels, model.scores["test"], model.own_scores["test"], 0.8)
    text = Page(render(result)).text
    assert "bank-a and telecom-b together tell bad from good better than bank-a alone" in text
    assert f"AUC {joint:.3f} against {own:.3f} (+{joint - own:.3f};" in text
    old, new = (f"{100 * bad / swap.approved:.1f} %" for bad in (swap.old_bad, swap.new_bad))
    assert f"the bad rate of the approved falls from {old} to {new}" in text
    assert f"{swap.old_bad - swap.new_bad} fewer bad rows among the approved" in text


def test_a_joint_model_that_adds_nothing_is_said_to_add_nothing():
    result = make_result()
    same = replace(result.models[0], own_scores=result.models[0].scores)
    text = Page(render(replace(result, models=(same,)))).text
    assert "not measurably better than bank-a alone" in text and "stays the same" in text
    worse = replace(result.models[0], scores=result.models[0].own_scores, own_scores=result.models[0].scores)
    assert "worse than bank-a alone" in Page(render(replace(result, models=(worse,)))).text


def test_the_page_shows_bins_points_signs_reasons_and_hashes():
    page = Page(render(make_result()))
    for told in (
        "up to 1 000",
        "telecom-b 1",
        "bin 2",
        "information value 0.003 is below 0.02",
        "expected",
        "600 points are odds of 20 good to 1 bad",
        "income: −28",
        "ab" * 32,
        "grouped sums",
        "bank-a learned totals of anonymous bins.",
        "77.8 %",
        "models.scorecard.sign",
        "Trees tell the partner which rows share a leaf.",
    ):
        assert told in page.text, told
    wrong = replace(
        make_result().models[0],
        coefficients=(replace(make_result().models[0].coefficients[0], sign_ok=False),),
    )
    assert "opposite" in Page(render(replace(make_result(), models=(wrong,)))).text


def test_a_partner_reads_of_its_columns_and_nothing_of_labels():
    text = render(make_partner_result())
    assert sections(text) == [
        "Match",
        "Split",
        "Variables",
        "Coefficients",
        "Scorecard",
        "Training",
        "Protocols",
        "Who learned what",
        "What it cost",
        "What it stands on",
        "Parameters",
    ]
    words = Page(text).text
    assert "calls" in words and "missing 0.97 is above 0.95" in words and "31" in words
    for told in ("bad rate", "Bad rate", "AUC", "KS", "Gini", "bad rows", "ROC", "income"):
        assert told not in words.replace("share of bad rows", ""), told


def test_a_partners_tables_have_no_column_of_labels(tmp_path):
    write_report(tmp_path, make_partner_result())
    heads = {path.stem: path.read_text().splitlines()[0] for path in (tmp_path / "tables").glob("*.csv")}
    assert {"bins", "variables", "coefficients", "scorecard", "costs", "match", "split"} <= set(heads)
    assert not {"metrics", "groups", "swap_set", "score_stability", "cut_offs"} & set(heads)
    assert not [name for name, head in heads.items() if re.search(r"\b(bad|good|bad_rate)\b", head)]


def test_the_tables_hold_the_unrounded_numbers_in_both_formats(tmp_path):
    result = make_result()
    write_report(tmp_path, result)
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "tables").glob("*.json")}
    for name, records in found.items():
        with (tmp_path / "tables" / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(records) and list(rows[0]) == list(records[0]), name
    auc = next(
        row["value"]
        for row in found["metrics"]
        if (row["model"], row["scores"], row["part"], row["figure"]) == ("scorecard", "joint", "test", "auc")
    )
    assert auc == metrics.auc(result.labels["test"], result.models[0].scores["test"])
    assert sum(row["rows"] for row in found["groups"]) == 200
    assert found["correlations"][0] == {"variable": "income", "income": 1.0, "telecom-b 1": -0.32}
    assert [row["points"] for row in found["scorecard"]] == [12, 40, -3]
    assert found["bins"][0]["bad_rate"] == pytest.approx(55 / 150)


def test_an_earlier_reports_tables_do_not_stay(tmp_path):
    write_report(tmp_path, make_result())
    path = write_report(tmp_path, replace(make_result(), correlations=None))
    assert path == tmp_path / "report.html"
    assert not list((tmp_path / "tables").glob("correlations.*"))
    assert not list(tmp_path.rglob(".*.part"))


def test_no_cell_is_a_formula_to_a_spreadsheet(tmp_path):
    result = make_result()
    named = replace(result.variables[0], name="=cmd|' /C calc'!A0", reason="@sum")
    write_report(tmp_path, replace(result, variables=(named,)))
    with (tmp_path / "tables" / "variables.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert row["variable"].startswith("'=") and row["reason"].startswith("'@")
    assert json.loads((tmp_path / "tables" / "variables.json").read_text())[0]["variable"].startswith("=cmd")


@pytest.mark.parametrize("make", [make_result, make_partner_result])
def test_no_name_of_a_column_party_or_model_becomes_markup(make, tmp_path):
    text = write_report(tmp_path, hostile(make())).read_text()
    page = Page(text)
    assert page.tags <= TAGS
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text, "the name is shown, as text"
    assert "\x1b" not in text and "\u202e" not in text


def _bare(result: PartyResult) -> PartyResult:
    return replace(
        result,
        variables=(),
        models=(),
        correlations=None,
        protocols=(),
        leakage=(),
        hashes={},
        versions={},
        costs=(),
    )


def _only(**change: Any) -> PartyResult:
    result = make_result()
    return replace(result, models=(replace(result.models[0], **change),))


def _without(part: str) -> PartyResult:
    result = make_result()
    models = tuple(
        replace(
            model,
            scores={name: each for name, each in model.scores.items() if name != part},
            own_scores={name: each for name, each in model.own_scores.items() if name != part},
        )
        for model in result.models
    )
    labels = {name: each for name, each in result.labels.items() if name != part}
    return replace(
        result, models=models, labels=labels, split=tuple(each for each in result.split if each.name != part)
    )


def _spoiled_numbers() -> PartyResult:
    result = make_result()
    nan = float("nan")
    variable = replace(
        result.variables[0], woe=(nan,) * 3, iv=nan, missing=nan, vif=nan, stability={"test": nan}
    )
    coefficient = replace(result.models[0].coefficients[0], standard_error=nan, p_value=nan)
    model = replace(result.models[0], coefficients=(coefficient,), trace=(nan, nan, 0.5))
    values = np.full((2, 2), nan)
    return replace(
        result,
        variables=(variable, *result.variables[1:]),
        models=(model,),
        correlations=replace(result.correlations, values=values),
    )


def _one_class() -> PartyResult:
    result = make_result()
    return replace(result, labels={part: np.zeros(len(each)) for part, each in result.labels.items()})


def _numbers(target: str) -> PartyResult:
    result = make_result()
    shape = (3,) if target == "classes" else ()
    scores = {part: np.full((len(each), *shape), 0.25) for part, each in result.labels.items()}
    return replace(
        result,
        models=(replace(result.models[0], target=target, scores=scores, own_scores=scores, card=None),),
        split=tuple(replace(each, bad=None) for each in result.split),
    )


def _no_bins() -> PartyResult:
    result = make_result()
    bare = [replace(each, labels=None, rows={}, good=None, bad=None, woe=None) for each in result.variables]
    return replace(result, variables=tuple(bare))


UNUSUAL = {
    "nothing but the match": lambda: _bare(make_result()),
    "a partner with nothing but the match": lambda: _bare(make_partner_result()),
    "one model": lambda: _only(),
    "no scorecard": lambda: _only(card=None),
    "no own model": lambda: _only(own_scores=None),
    "no scores": lambda: _only(scores=None, own_scores=None),
    "no coefficients": lambda: _only(coefficients=(), card=None, trace=()),
    "no out-of-time rows": lambda: _without("out of time"),
    "no test rows": lambda: _without("test"),
    "equal scores": lambda: _only(
        scores={"train": np.full(400, 0.2), "test": np.full(200, 0.2)}, own_scores={"test": np.zeros(200)}
    ),
    "numbers that are none": _spoiled_numbers,
    "one class": _one_class,
    "a number to predict": lambda: _numbers("number"),
    "classes to predict": lambda: _numbers("classes"),
    "variables without bins": _no_bins,
    "no rows in common": lambda: replace(
        _bare(make_partner_result()), match=MatchReport(0, 0), split=(PartFacts("train", 0),)
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_a_result_of_fewer_parts_gives_a_page_of_fewer_parts(name, tmp_path):
    page = Page(write_report(tmp_path, UNUSUAL[name]()).read_text())
    assert page.tags <= TAGS
    drawn = [value for attribute, value in page.attributes if attribute not in ("aria-label", "content")]
    assert not [value for value in drawn if re.search(r"\b(nan|inf|None)\b", value)]
    assert not re.search(r"\b(nan|inf|None|NaN)\b", page.text)
    assert "Match" in page.text


def test_two_hundred_variables_make_a_page_that_folds_most_of_them():
    result = make_result()
    many = tuple(replace(result.variables[0], name=f"column {place}") for place in range(200))
    names = tuple(each.name for each in many)
    correlations = replace(result.correlations, names=names, values=np.eye(200))
    text = render(replace(result, variables=many, correlations=correlations))
    assert (
        "188 more variables in use" in text and "140 more variables stand in tables/correlations.csv" in text
    )
    assert len(text) < 3_000_000


@pytest.mark.skipif(PROGRAM is None, reason=MISSING)
@pytest.mark.parametrize("make", [make_result, make_partner_result])
def test_the_page_opens_offline_without_a_request_or_a_complaint(make, tmp_path):
    path = write_report(tmp_path / "report", make())
    opened = open_page(path, tmp_path)
    assert opened.console == []
    assert opened.requests == []
    assert "What it cost" in opened.dom
