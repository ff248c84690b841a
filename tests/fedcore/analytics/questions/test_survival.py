"""Curves and hazards asked of 18 hospitals are those of the pooled rows: statsmodels'."""

from __future__ import annotations

import json

import numpy as np
import pytest
from statsmodels.duration.hazard_regression import PHReg
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from fedcore.analytics.disclosure import SUPPRESSED
from fedcore.analytics.question import Bounds, State
from fedcore.errors import DataError, FedcoreError, JobError
from tests.fedcore.analytics.over_sites import Site, complete, pick
from tests.fedcore.analytics.questions.asking import (
    agreed,
    all_suppressed,
    ask,
    build,
    hospitals,
    numbers,
    rows,
    table,
)

CURVES = {"time": "time", "event": "status", "end": 1100.0}
HAZARDS = {"time": "time", "event": "status", "covariates": ("age", "sex", "ph.ecog")}


def numeric() -> Site:
    return {name: each for name, each in rows().items() if each.dtype.kind == "f"}


@pytest.mark.parametrize("by", ["sex", "gender"])
def test_curves_and_log_rank_are_those_of_the_pooled_rows(by: str):
    data = rows()
    found = ask(build("kaplan_meier", {**CURVES, "by": by}), hospitals())
    steps = [row for row in table(found, 1) if row["time"] is not SUPPRESSED]
    for code, group in enumerate(agreed().levels[by], 1):
        inside = data["sex"] == code
        want = SurvfuncRight(data["time"][inside], data["status"][inside])
        own = [row for row in steps if row["group"] == str(group) and row["events"]]
        size = len(own)
        np.testing.assert_allclose([row["time"] for row in own], want.surv_times[:size])
        np.testing.assert_allclose([row["survival"] for row in own], want.surv_prob[:size], rtol=1e-10)
        np.testing.assert_allclose(
            [row["standard error"] for row in own], want.surv_prob_se[:size], rtol=1e-8
        )
        assert min(row["at risk"] for row in own) >= 5
        assert size < len(want.surv_times)  # the last few patients are suppressed
    statistic, p = survdiff(data["time"], data["status"], data["sex"])
    assert found.tables[2].notes[0].startswith(f"chi-square {statistic:.4f}, 1 dof, p {p:.4g}")
    assert [row["median"] for row in table(found)] == [
        SurvfuncRight(data["time"][data["sex"] == code], data["status"][data["sex"] == code]).quantile(0.5)
        for code in (1, 2)
    ]
    assert "<svg" in found.plots["curves"] and ">?<" in found.plots["curves"]


def test_log_rank_by_site_is_that_of_strata():
    data = rows()
    found = ask(build("kaplan_meier", {**CURVES, "by": "sex", "log_rank": "site"}), hospitals())
    statistic, _ = survdiff(data["time"], data["status"], data["sex"], strata=data["inst"])
    assert f"chi-square {statistic:.4f}" in found.tables[2].notes[0]
    assert found.tables[2].title == "Log-rank test, stratified by site"


def test_a_group_of_one_patient_is_suppressed_as_a_whole_and_in_no_pooled_test():
    data = rows()
    said = {**CURVES, "by": "ecog"}
    found = ask(build("kaplan_meier", said), hospitals())
    assert found.tables[0].rows[3] == ("3", *(SUPPRESSED,) * 5)
    rest = pick(data, np.isin(data["ph.ecog"], (0, 1, 2)))
    statistic, p = survdiff(rest["time"], rest["status"], rest["ph.ecog"])
    assert f"chi-square {statistic:.4f}, 2 dof, p {p:.4g}" in found.tables[2].notes[0]
    by_site = ask(build("kaplan_meier", {**said, "log_rank": "site"}), hospitals())
    assert table(by_site, 2)[0]["p"] is SUPPRESSED
    assert found.suppressed == sum(each.suppressed for each in found.tables) > 5


def test_a_median_that_lies_in_what_is_suppressed_is_suppressed_and_no_infinity():
    found = ask(build("kaplan_meier", {**CURVES, "by": "sex"}, agreed(minimum=80)), hospitals())
    assert [row["median"] for row in table(found)] == [SUPPRESSED, SUPPRESSED]
    assert [row["rows"] for row in table(found)] == [137, 90]


def test_a_group_that_no_row_has_changes_nothing():
    common = agreed(levels={"gender": ("male", "other", "female")})
    said = {**CURVES, "by": "gender"}
    for log_rank in ("pooled", "site"):
        found = ask(build("kaplan_meier", {**said, "log_rank": log_rank}, common), hospitals())
        want = ask(build("kaplan_meier", {**said, "log_rank": log_rank}), hospitals())
        assert found.tables[2].notes == want.tables[2].notes
        assert [row["rows"] for row in table(found)] == [137, 0, 90]
        assert found.suppressed == want.suppressed


def test_one_curve_without_groups_and_a_grid_that_ends_early():
    found = ask(build("kaplan_meier", {**CURVES, "end": 300.0}), hospitals())
    assert len(found.tables) == 2 and table(found)[0]["rows"] == len(rows()["time"])
    beyond = int((rows()["time"] > 300).sum())
    assert f"{beyond} rows censored at the end of the grid" in found.tables[0].notes
    few = ask(build("kaplan_meier", {**CURVES, "end": 1000.0}), hospitals())
    assert 0 < int((rows()["time"] > 1000).sum()) < 5
    assert "rows censored at the end of the grid: suppressed" in few.tables[0].notes


def test_curves_of_few_rows_no_rows_and_no_events():
    few = ask(build("kaplan_meier", CURVES), hospitals(pick(rows(), [0, 1, 2])))
    assert few.tables[0].rows == (("all", *(SUPPRESSED,) * 5),) and not few.plots
    with pytest.raises(DataError, match="no site"):
        ask(build("kaplan_meier", {**CURVES, "where": "age > 900"}), hospitals())
    found = ask(build("kaplan_meier", {**CURVES, "by": "sex", "where": "status = 0"}), hospitals())
    assert "no event to compare" in found.tables[2].notes[0]
    assert "negative" not in found.tables[0].to_csv()
    data = rows()
    data["time"][0] = -1
    with pytest.raises(DataError, match="below 0"):
        ask(build("kaplan_meier", CURVES), hospitals(data))


def test_curves_are_for_a_secure_sum_only():
    question = build("kaplan_meier", CURVES)
    assert not question.partial(hospitals()[0], question.begin()).alone


@pytest.mark.parametrize("noise", [1e-7, 3.0, 200.0])
def test_curves_with_noise(noise: float):
    said = {**CURVES, "by": "sex", "unit": 30.0}
    question = build("kaplan_meier", said, agreed(private=True))
    part = question.partial(hospitals()[0], question.begin())
    assert part.bounds == {"ends": Bounds(0, 1)} and part.sums["ends"].sum() == part.rows
    early = build("kaplan_meier", {**said, "end": 90.0}, agreed(private=True))
    assert early.partial(hospitals()[0], early.begin()).sums["ends"].sum() == part.rows
    found = ask(question, hospitals(), noise)
    json.dumps([each.as_dict() for each in found.tables], allow_nan=False)
    survival = [row["survival"] for row in table(found, 1)]
    assert all(0 <= each <= 1 for each in survival) and len(found.tables) == 2
    near = ask(build("kaplan_meier", {**said, "log_rank": "none"}, agreed(minimum=3)), hospitals())
    if noise < 1:
        exact = {
            (row["group"], row["time"]): row["survival"]
            for row in table(near, 1)
            if row["time"] is not SUPPRESSED
        }
        shown = {(row["group"], row["time"]): row["survival"] for row in table(found, 1)}
        assert all(abs(shown[key] - value) < 1e-3 for key, value in exact.items())


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("strata", ["site", "none"])
def test_hazards_are_those_of_the_pooled_rows(strata: str, ties: str):
    said = {**HAZARDS, "strata": strata, "ties": ties, "end": 1100.0}
    found = ask(build("cox", said), hospitals())
    data = complete(numeric(), *HAZARDS["covariates"])
    x = np.stack([data[name] for name in HAZARDS["covariates"]], axis=1)
    by = data["inst"] if strata == "site" else None
    want = PHReg(data["time"], x, data["status"], strata=by, ties=ties).fit()
    np.testing.assert_allclose(numbers(found, "coefficient"), want.params, rtol=1e-6)
    np.testing.assert_allclose(numbers(found, "standard error"), want.bse, rtol=1e-6)
    assert found.plots["coefficients"].startswith("<svg") and found.left_out is None


def test_a_hospital_without_events_adds_nothing_to_a_model_of_strata():
    data = rows()
    quiet = data["inst"] == 3.0
    assert quiet.sum() > 10
    data["status"][quiet] = 0.0
    said = {**HAZARDS, "covariates": ("age", "sex")}
    found = ask(build("cox", said), hospitals(data))
    rest = pick(data, ~quiet)
    x = np.stack([rest["age"], rest["sex"]], axis=1)
    want = PHReg(rest["time"], x, rest["status"], strata=rest["inst"], ties="efron").fit()
    np.testing.assert_allclose(numbers(found, "coefficient"), want.params, rtol=1e-6)
    assert f"{len(data['age'])} rows" in found.tables[0].notes[0]


@pytest.mark.parametrize("strata", ["gender", "sex"])
def test_a_column_makes_strata_within_the_sites_without_levels(strata: str):
    said = {**HAZARDS, "covariates": ("age",), "strata": strata}
    found = ask(build("cox", said, agreed(levels={})), hospitals())
    data = rows()
    both = np.unique(np.stack([data["inst"], data["sex"]]), axis=1, return_inverse=True)[1]
    want = PHReg(data["time"], data["age"][:, None], data["status"], strata=both, ties="efron").fit()
    np.testing.assert_allclose(numbers(found, "coefficient"), want.params, rtol=1e-6)
    assert f"stratified by site and {strata}" in found.tables[0].title


def test_text_becomes_indicators_in_a_cox_model_too():
    common = agreed(levels={"gender": ("male", "female")})
    for strata in ("site", "none"):
        words = ask(
            build("cox", {**HAZARDS, "covariates": ("age", "gender"), "strata": strata}, common), hospitals()
        )
        codes = ask(build("cox", {**HAZARDS, "covariates": ("age", "sex"), "strata": strata}), hospitals())
        assert [row[""] for row in table(words)] == ["age", "gender=female"]
        np.testing.assert_allclose(numbers(words, "coefficient"), numbers(codes, "coefficient"), rtol=1e-8)


@pytest.mark.parametrize("strata", ["site", "none"])
def test_few_rows_few_events_and_none(strata: str):
    said = {**HAZARDS, "covariates": ("age",), "strata": strata}
    assert all_suppressed(ask(build("cox", said), hospitals(pick(rows(), [0, 1, 2, 3, 4]))))
    data = rows()
    data["status"] = np.zeros_like(data["status"])
    with pytest.raises(DataError, match="no event to learn from"):
        ask(build("cox", said), hospitals(data))
    data["status"][:3] = 1
    found = ask(build("cox", said), hospitals(data))
    assert all_suppressed(found) and "have the event" in found.tables[0].notes[0]
    with pytest.raises(DataError, match="no site"):
        ask(build("cox", {**said, "where": "age > 900"}), hospitals())


def test_a_model_with_one_baseline_is_for_a_secure_sum_only_and_tells_event_times_that_are_checked():
    states: list[State] = []
    question = build("cox", {**HAZARDS, "strata": "none"})
    ask(question, hospitals(), seen=lambda told, _: states.append(told))
    assert [each.told["round"] for each in (states[0], states[20], states[40])] == ["start", "risk", "spread"]
    site = hospitals()[0]
    assert not question.partial(site, states[20]).alone
    assert build("cox", HAZARDS).partial(site, build("cox", HAZARDS).begin()).alone
    told = states[40].told["state"]
    for field, values in (
        ("times", [1.0]),
        ("times", [0.5, 1.0]),
        ("times", []),
        ("times", ["nan"]),
        ("at_risk", [1.0]),
    ):
        wrong = {"dtype": "float64", "shape": [len(values)], "values": values}
        with pytest.raises(FedcoreError):
            question.partial(site, State({"round": "spread", "state": {**told, field: wrong}}))
    few = {"dtype": "float64", "shape": [1], "values": [1.0]}
    none = {"dtype": "float64", "shape": [0], "values": []}
    risk = {"state": told["state"], "times": few, "at_risk": none, "at_event": none}
    with pytest.raises(DataError, match="not among the event times told"):
        question.partial(site, State({"round": "risk", "state": risk}))


@pytest.mark.parametrize(
    ("kind", "said", "message"),
    [
        ("kaplan_meier", {**CURVES, "by": "inst"}, "declare `levels`"),
        ("kaplan_meier", {**CURVES, "time": "gender"}, "gender holds text"),
        ("kaplan_meier", {**CURVES, "event": "time"}, "time stands twice"),
        ("kaplan_meier", {**CURVES, "unit": 1e-9}, "at most a million points"),
        ("cox", {**HAZARDS, "covariates": ("age", "age")}, "age stands twice"),
        ("cox", {**HAZARDS, "strata": "stie"}, 'no column "stie"'),
        ("cox", {**HAZARDS, "strata": "none", "unit": 1e-9}, "at most a million points"),
        ("cox", {**HAZARDS, "covariates": ("ecg",)}, 'no column "ecg".*ecog'),
    ],
)
def test_what_cannot_be_asked_is_refused_with_words(kind: str, said: dict, message: str):
    with pytest.raises(JobError, match=message):
        build(kind, said)


def test_hazards_are_not_asked_under_privacy():
    with pytest.raises(JobError, match="ask kaplan_meier"):
        build("cox", HAZARDS, agreed(private=True))


def test_the_events_after_the_end_of_a_curve_are_not_told_by_difference():
    found = ask(build("kaplan_meier", {**CURVES, "by": "sex"}), hospitals())
    steps, groups = table(found, 1), table(found)
    test = found.tables[2]
    late = 0
    for group in groups:
        own = [row["events"] for row in steps if row["group"] == group["sex"]]
        mine = rows()["sex"] == float(group["sex"])
        missed = int(rows()["status"][mine].sum()) - sum(each for each in own[:-1])
        assert own[-1] is SUPPRESSED and 0 <= missed < 5
        assert (group["events"] is SUPPRESSED) == (missed > 0)
        late += missed > 0
    assert late
    assert all(row[1] is SUPPRESSED and row[2] is SUPPRESSED for row in test.rows) and test.notes
