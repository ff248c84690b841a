"""Attacks on the release gate for questions: what a lying coordinator, or an asker with an ordinary job, must not get.

Each test says what ought to hold, and failed before its hole was closed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.analytics import questions
from fedcore.analytics.columns import Column
from fedcore.analytics.question import Agreed
from fedcore.errors import JobError, PolicyRefused
from fedcore.flower import arrays_in, ndarrays
from fedcore.jobs import asks
from fedcore.jobs.request import ADMIT, TOTALS, AnalyticsRequest, parse_request
from fedcore.participant import analytics
from fedcore.participant.client_app import build_client_app
from tests.messages import CONTEXT, a_site, message
from tests.questions import RULE, Hospitals

ROWS = 60
BY_SEX = "SELECT sex, count(*) FROM study GROUP BY sex"
LOCAL = {"epsilon": 0.1, "delta": 1e-6, "mode": "local"}
PRIVATE = "{jobs: [analytics], data: any, min_cohort: 3, private: required}"
BUDGET = "  privacy: {study: {epsilon: 1, delta: 0.00001, required_for: [analytics]}}\n"


# ---- a coordinator that lies ----------------------------------------------------------------------------------------


def site(folder: Path, rule: str = RULE, extra: str = "") -> Any:
    """One of 60 rows has sex 2, and everybody a name."""
    rows = {
        "age": np.random.default_rng(0).integers(20, 90, ROWS).astype(float),
        "sex": [1] * (ROWS - 1) + [2],
        "name": [f"p{place}" for place in range(ROWS)],
    }
    return a_site(folder, rows, rule=rule, extra=extra)


def asking(ask: str | None, **changes: Any) -> AnalyticsRequest:
    protected = changes.get("secure_aggregation", "none") != "none"
    agreed = Agreed(
        "study",
        {"age": Column("number"), "sex": Column("number"), "name": Column("text")},
        {"sex": (1, 2)},
        5,
        protected,
        changes.get("differential_privacy") is not None,
    )
    told = {
        "run": "run-1",
        "job": "job",
        "kind": "analytics",
        "purpose": "research",
        "cohort": 4,
        "data": "study",
        "asker": "anna",
        "least": 3,
        "secure_aggregation": "none",
        "name": "q",
        "question": questions.to_json(questions.build(asks.Question.model_validate(ask), agreed))
        if ask
        else {},
        "state": {"sums": True, "number of round": 1},
        **changes,
    }
    return AnalyticsRequest.model_validate(told)


def sent(participant: Any, kind: str, request: AnalyticsRequest) -> Any:
    """What leaves through the whole gate: arrays, or what is said; the text of an error."""
    reply = build_client_app(lambda context: participant)(message(kind, request=request), CONTEXT)
    if reply.has_error():
        return json.loads(reply.error.reason)["message"]
    arrays = arrays_in(reply.content)
    return ndarrays(arrays[0]) if arrays else json.loads(str(reply.content["site"]["about"]))


def test_a_small_cell_is_kept_back_in_a_round(tmp_path) -> None:
    told = sent(site(tmp_path), TOTALS, asking(BY_SEX))
    assert told["rows"].tolist() == [ROWS - 1, 0, 0, 0] and told["hidden:rows"][1] == 1


def test_the_check_for_differences_is_answered_under_a_protected_sum_only(tmp_path) -> None:
    assert isinstance(sent(site(tmp_path), TOTALS, asking(BY_SEX, state={"earlier": []})), str)


def test_the_check_for_differences_does_not_go_round_differential_privacy(tmp_path) -> None:
    request = asking(BY_SEX, state={"earlier": []}, differential_privacy=LOCAL)
    assert isinstance(sent(site(tmp_path, PRIVATE, BUDGET), TOTALS, request), str)


def test_a_share_of_noise_leaves_in_a_protected_sum_only(tmp_path) -> None:
    request = asking(BY_SEX, cohort=2000, differential_privacy=LOCAL)
    forged = request.to_json().replace('"mode":"local"', '"mode":"central"')
    assert '"central"' in forged
    with pytest.raises(JobError, match="not a request"):
        parse_request(forged)


def test_noise_shared_out_among_many_does_not_leave_in_a_sum_of_few(tmp_path) -> None:
    north = site(tmp_path, extra="  privacy: {study: {epsilon: 1, delta: 0.001}}\n")
    central = {"epsilon": 0.5, "delta": 1e-6, "mode": "central"}
    many, few = (
        asking(BY_SEX, cohort=cohort, secure_aggregation="secagg+", differential_privacy=central)
        for cohort in (2000, 4)
    )
    analytics.answer(north, many, message(TOTALS, request=many))
    with pytest.raises(PolicyRefused):
        analytics.answer(north, few, message(TOTALS, request=few))


def test_keys_with_a_large_delta_are_refused(tmp_path) -> None:
    north = site(tmp_path, extra="  privacy: {study: {epsilon: 1, delta: 0.99}}\n")
    noise = {"epsilon": 1.0, "delta": 0.98, "mode": "local", "private_keys": True}
    assert isinstance(
        sent(north, ADMIT, asking(None, state={"keys": ["name"]}, differential_privacy=noise)), str
    )


def test_keys_wait_for_approval_like_the_question(tmp_path) -> None:
    rule = "{jobs: [analytics], data: any, min_cohort: 3, askers: [bob]}"
    extra = "  privacy: {study: {epsilon: 2, delta: 0.01}}\n  approval: {by: office, for: [askers]}\n"
    noise = {"epsilon": 2.0, "delta": 0.01, "mode": "local", "private_keys": True}
    request = asking(None, state={"keys": ["sex"]}, differential_privacy=noise)
    assert isinstance(sent(site(tmp_path, rule, extra), ADMIT, request), str)


# ---- an asker with an ordinary job ----------------------------------------------------------------------------------


@pytest.fixture
def hospitals(tmp_path) -> Hospitals:
    """One person stands out by `rare` and `code`, three by `pick`, `kind` and `low`."""
    made = Hospitals(tmp_path)
    for place, name in enumerate(made.names):
        size = len(made.rows[name]["sex"])
        few = np.arange(size) < (0 if place else 3)
        rare = np.arange(size) < (0 if place else 1)
        made.rows[name] |= {
            "rare": rare.astype(int),
            "code": 1 + rare,
            "pick": few.astype(int),
            "kind": ["a" if one else "bc"[at % 2] for at, one in enumerate(few)],
            "low": np.where(few, 5.0, 50.0),
            "salary": np.round(np.random.default_rng(100 + place).normal(3000, 500, size), 2),
        }
        made.write(name)
    return made


def table(result: dict[str, Any], name: str) -> Any:
    """Rows of a question's first table; None where it has none."""
    answer = result["answers"][name]
    return answer["tables"][0]["rows"] if answer["tables"] else None


def test_a_covariance_does_not_tell_the_value_of_a_row(hospitals) -> None:
    columns = {"columns": ["rare", "salary"]}
    result = hospitals.ask({"c": {"covariance": columns}, "d": {"describe": columns}})
    cov, about = table(result, "c"), table(result, "d")
    if "salary" not in cov[0] or "sum" not in about[0]:
        assert cov == [{"result": {"suppressed": True}}]
        return
    n = about[0]["rows"]
    found = cov[0]["salary"] * (n - 1) + about[0]["sum"] * about[1]["sum"] / n
    assert found != pytest.approx(hospitals.rows["site-0"]["salary"][0], abs=0.01)


def test_a_regression_does_not_tell_the_value_of_a_row(hospitals) -> None:
    rows = table(hospitals.ask({"l": {"linear": {"response": "salary", "columns": ["code"]}}}), "l")
    if "coefficient" not in rows[0]:
        assert rows == [{"result": {"suppressed": True}}]
        return
    found = rows[0]["coefficient"] + 2 * rows[1]["coefficient"]
    assert found != pytest.approx(hospitals.rows["site-0"]["salary"][0], abs=0.01)


def test_weights_do_not_make_a_model_of_a_few_rows(hospitals) -> None:
    ask = {"w": {"linear": {"response": "salary", "columns": ["time"], "weights": "pick"}}}
    with pytest.raises(PolicyRefused, match="at least 10 rows; there are fewer"):
        hospitals.ask(ask)


@pytest.mark.parametrize("protocol", ["secagg+", "none"])
def test_histograms_with_moved_edges_do_not_single_out_rows(hospitals, protocol) -> None:
    asked = [{"histogram": {"column": "salary", "edges": [0, middle, 9000]}} for middle in (3000, 3010)]
    result = hospitals.ask({"one": asked[0], "two": asked[1]}, protection={"secure_aggregation": protocol})
    one, two = (table(result, name) for name in ("one", "two"))
    assert two is None or not 0 < abs(two[0]["rows"] - one[0]["rows"]) < 5


def test_rows_in_no_group_do_not_tell_a_suppressed_group(hospitals) -> None:
    result = hospitals.ask(
        {"g": "SELECT kind, count(*) FROM study GROUP BY kind", "n": "SELECT count(*) FROM study"},
        levels={"kind": ["a", "b"]},
    )
    told = result["answers"]["g"]["tables"][0]
    shown = [row["values"]["count(*)"] for row in told["rows"]]
    other = [note.rpartition(": ")[2] for note in told["notes"] if "no group" in note]
    assert shown[0] == {"suppressed": True} and other == ["suppressed"]
    # All rows, without those of the other two groups, would be the suppressed one.
    assert table(result, "n") is None


def test_a_quantile_holds_no_fewer_rows_than_the_least_cell(hospitals) -> None:
    ask = {"quantiles": {"column": "salary", "q": [0.5], "low": 0, "high": 10000, "width": 0.001}}
    (row,) = table(hospitals.ask({"q": ask}), "q")
    values = np.concatenate([each["salary"] for each in hospitals.rows.values()])
    assert ((values > row["low"]) & (values <= row["high"])).sum() >= 5


def test_noise_that_hides_nothing_does_not_show_small_cells(hospitals) -> None:
    protection = {
        "secure_aggregation": "none",
        "differential_privacy": {"epsilon": 1e6, "delta": 1e-6, "mode": "local"},
    }
    asked = {"g": "SELECT kind, count(*) FROM study GROUP BY kind"}
    with pytest.raises(PolicyRefused, match="no privacy budget"):
        hospitals.ask(asked, levels={"kind": ["a", "b", "c"]}, protection=protection)
