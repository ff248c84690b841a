"""Analytics jobs from file to result, on the embedded engine: what sites tell, refuse and keep back."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from fedcore.errors import BudgetExhausted, DataError, JobError, PeerLost, PolicyRefused
from tests.questions import RULE, Hospitals

BY_SEX = "SELECT sex, count(*), avg(age), stddev(age) FROM study GROUP BY sex"
PLAIN = {"secure_aggregation": "none"}


@pytest.fixture
def hospitals(tmp_path) -> Hospitals:
    return Hospitals(tmp_path)


def rows_of(answer: dict[str, Any]) -> list[list[Any]]:
    """Keys and values of each row of the first table."""
    rows = answer["tables"][0]["rows"]
    return [[*row["key"], *row["values"].values()] if "key" in row else list(row.values()) for row in rows]


def counts_of(answer: dict[str, Any]) -> list[Any]:
    """The last column."""
    return [row[-1] for row in rows_of(answer)]


def refused(result: dict[str, Any], name: str) -> str:
    answer = result["answers"][name]
    assert answer["status"] != "answered" and not answer["tables"]
    return str(answer["reason"])


@pytest.mark.parametrize("protection", [{}, PLAIN], ids=["secagg+", "plain"])
def test_sql_is_the_pooled_answer(hospitals, protection) -> None:
    result = hospitals.ask({"by_sex": BY_SEX}, protection=protection)
    assert result["status"] == "finished"
    pooled = hospitals.pooled().groupby("sex").agg(n=("sex", "size"), mean=("age", "mean"), sd=("age", "std"))
    for row, (sex, said) in zip(rows_of(result["answers"]["by_sex"]), pooled.iterrows(), strict=True):
        assert row[:2] == [sex, said["n"]]
        np.testing.assert_allclose(row[2:], [said["mean"], said["sd"]], rtol=1e-10)


def test_models_are_the_pooled_ones(hospitals) -> None:
    sm = pytest.importorskip("statsmodels.api")
    columns = ["age", "sex"]
    result = hospitals.ask(
        {
            "visits": {"poisson": {"response": "visits", "columns": columns}},
            "death": {"logistic": {"response": "status", "columns": columns}},
        }
    )
    rows = hospitals.pooled().dropna()
    design = sm.add_constant(rows[columns])
    for name, response, family in (
        ("visits", "visits", sm.families.Poisson()),
        ("death", "status", sm.families.Binomial()),
    ):
        reference = sm.GLM(rows[response], design, family=family).fit(tol=1e-12)
        told = [row[1:3] for row in rows_of(result["answers"][name])]
        np.testing.assert_allclose(
            told, np.column_stack([reference.params, reference.bse]), rtol=1e-6, atol=1e-9
        )
    assert result["answers"]["visits"]["summed"] == 4
    log = (hospitals.folder / ".fedcore" / "site-0" / "evidence.jsonl").read_text()
    assert "poisson" in log


def test_a_site_that_refuses_a_statistic_is_left_out_and_named(hospitals) -> None:
    hospitals.write("site-3", rule="{jobs: [analytics], data: any, min_cohort: 3, statistics: [histogram]}")
    ages = {"histogram": {"column": "age", "edges": [0, 50, 60, 70, 120]}}
    result = hospitals.ask({"by_sex": BY_SEX, "ages": ages})
    assert result["status"] == "finished"
    by_sex = result["answers"]["by_sex"]
    assert by_sex["sites"] == ["site-0", "site-1", "site-2"] and by_sex["summed"] == 3
    assert [each["party"] for each in by_sex["left_out"]] == ["site-3"]
    assert "statistic" in by_sex["left_out"][0]["reason"]
    three = hospitals.pooled().iloc[: 60 + 45 + 80]
    assert [row[1] for row in rows_of(by_sex)] == three.groupby("sex").size().tolist()
    assert result["answers"]["ages"]["summed"] == 4


def test_too_few_that_agree_give_no_answer_and_the_other_questions_do(hospitals) -> None:
    for name in hospitals.names[1:]:
        hospitals.write(name, rule="{jobs: [analytics], data: any, min_cohort: 3, statistics: [histogram]}")
    result = hospitals.ask(
        {"by_sex": BY_SEX, "ages": {"histogram": {"column": "age", "edges": [0, 60, 120]}}}
    )
    assert result["status"] == "partial"
    assert "1 of at least 3" in refused(result, "by_sex")
    assert result["answers"]["ages"]["status"] == "answered"


def test_a_run_without_any_answer_fails_with_the_first_reason(hospitals) -> None:
    with pytest.raises(JobError, match="agee"):
        hospitals.ask({"wrong": "SELECT avg(agee) FROM study"})
    result = json.loads((hospitals.folder / "run" / "result.json").read_text())
    assert result["status"] == "failed" and "age" in result["reason"]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT count(*) FROM nowhere", ["nowhere", "study"]),
        ("SELECT avg(agee) FROM study", ["agee", "age"]),
        ("SELECT count(*) FROM study JOIN other USING (id)", ["join"]),
        ("SELECT age FROM study", ["rows"]),
        ("SELECT count(*) FROM study; DROP TABLE study", []),
        ('SELECT count(*) FROM study GROUP BY "sex; DROP TABLE study"', ["sex"]),
        ("SELECT time, count(*) FROM study GROUP BY time", ["levels", "time"]),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(hospitals, sql, words) -> None:
    with pytest.raises((JobError, PolicyRefused)) as error:
        hospitals.ask({"wrong": sql})
    for word in words:
        assert word in str(error.value).lower()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"age": None}, ["missing at site-1"]),
        ({"age": ["x"] * 45}, ["text at site-1", "number at site-0"]),
    ],
)
def test_a_column_that_one_site_has_otherwise_cannot_be_asked(hospitals, columns, words) -> None:
    hospitals.write("site-1", **columns)
    with pytest.raises(JobError) as error:
        hospitals.ask({"mean": "SELECT avg(age) FROM study"})
    for word in words:
        assert word in str(error.value)
    assert hospitals.ask({"all": "SELECT count(*) FROM study"}, folder="second")["status"] == "finished"


def test_other_units_are_named(hospitals) -> None:
    for name, unit in (("site-0", "years"), ("site-1", "months")):
        file = hospitals.folder / f"{name}.yaml"
        file.write_text(file.read_text().replace(".parquet}", f".parquet, units: {{age: {unit}}}}}"))
    with pytest.raises(JobError, match="years at site-0; number in months at site-1"):
        hospitals.ask({"mean": "SELECT avg(age) FROM study"})


def test_small_cells_of_the_sum_are_suppressed_and_not_zero(tmp_path) -> None:
    hospitals = Hospitals(tmp_path, sizes=(30, 30, 30))
    for name in hospitals.names:
        ward = [0] * 28 + [1] + [2]
        hospitals.rows[name]["ward"] = ward
        hospitals.write(name)
    answer = hospitals.ask({"wards": "SELECT ward, count(*) FROM study GROUP BY ward"})["answers"]["wards"]
    counts = counts_of(answer)
    assert counts == [84, {"suppressed": True}, {"suppressed": True}] and answer["suppressed"] >= 2
    csv = (hospitals.folder / "run" / "answers" / "wards.csv").read_text()
    assert csv.count("suppressed") >= 2


def test_without_a_protected_sum_a_cell_that_is_small_at_one_site_is_suppressed(hospitals) -> None:
    ward = [0] * 59 + [1]
    hospitals.rows["site-0"]["ward"] = ward
    hospitals.write("site-0")
    asked = {"wards": "SELECT ward, count(*) FROM study GROUP BY ward"}
    plain = hospitals.ask(asked, protection=PLAIN)["answers"]["wards"]
    summed = hospitals.ask(asked, folder="second")["answers"]["wards"]
    assert counts_of(plain)[1] == {"suppressed": True}
    pooled = hospitals.pooled().groupby("ward").size().tolist()
    assert counts_of(summed) == pooled


def test_all_cells_suppressed_is_an_answer(tmp_path) -> None:
    hospitals = Hospitals(
        tmp_path, sizes=(5, 5, 5), rule="{jobs: [analytics], data: any, min_cell: 16, min_rows: 3}"
    )
    answer = hospitals.ask({"sexes": "SELECT sex, count(*) FROM study GROUP BY sex"})["answers"]["sexes"]
    assert answer["status"] == "answered"
    assert counts_of(answer) == [{"suppressed": True}] * 2


def test_a_question_that_differs_by_few_rows_from_an_earlier_one_is_refused(hospitals) -> None:
    ages = np.sort(np.concatenate([rows["age"] for rows in hospitals.rows.values()]))
    ages = ages[~np.isnan(ages)]
    low, high = ages[40], ages[42]
    first = hospitals.ask({"a": f"SELECT count(*) FROM study WHERE age > {low - 0.05}"})
    assert first["answers"]["a"]["status"] == "answered"
    with pytest.raises(PolicyRefused, match="differ"):
        hospitals.ask({"b": f"SELECT count(*) FROM study WHERE age > {high - 0.05}"}, folder="second")
    # The same again, and one that is far from it, are answered.
    assert hospitals.ask({"a": f"SELECT count(*) FROM study WHERE age > {low - 0.05}"}, folder="third")
    far = float(ages[90])
    assert hospitals.ask({"c": f"SELECT count(*) FROM study WHERE age > {far}"}, folder="fourth")


def test_undeclared_keys_are_asked_where_the_sites_tell_them(tmp_path) -> None:
    asked = {"wards": "SELECT ward, count(*) FROM study GROUP BY ward"}
    shut = Hospitals(tmp_path)
    with pytest.raises((JobError, PolicyRefused), match="levels"):
        shut.ask(asked, levels={})
    (tmp_path / "open").mkdir()
    told = Hospitals(tmp_path / "open", rule="{jobs: [analytics], data: any, keys: told}")
    answer = told.ask(asked, levels={})["answers"]["wards"]
    pooled = told.pooled().groupby("ward").size().tolist()
    assert counts_of(answer) == pooled


def test_separable_outcomes_are_told_as_such(hospitals) -> None:
    for name in hospitals.names:
        hospitals.rows[name]["status"] = (np.asarray(hospitals.rows[name]["time"]) > 100).astype(int)
        hospitals.write(name)
    with pytest.raises(DataError, match="time"):
        hospitals.ask({"death": {"logistic": {"response": "status", "columns": ["time"]}}})


BUDGET = "  privacy: {study: {epsilon: 1.0, delta: 1.0e-3}}\n"
PRIVATE = {"differential_privacy": {"epsilon": 0.6, "delta": 1e-4}}


def test_noise_is_paid_for_at_every_site_and_a_spent_budget_refuses(tmp_path) -> None:
    hospitals = Hospitals(tmp_path, extra=BUDGET)
    asked = {
        "all": "SELECT count(*) FROM study",
        "ages": {"histogram": {"column": "age", "edges": [0, 60, 120]}},
    }
    result = hospitals.ask(asked, protection=PRIVATE)
    answer = result["answers"]["all"]
    said, scale = rows_of(answer)[0][-1], answer["privacy"]["arrays"]
    assert (
        answer["privacy"]["epsilon"] == pytest.approx(0.3) and "add-remove" in answer["privacy"]["neighbours"]
    )
    spread = math.sqrt(4) * max(each["scale"] for each in scale.values())
    assert abs(said - len(hospitals.pooled())) < 12 * spread
    for name in hospitals.names:
        (ledger,) = (tmp_path / ".fedcore" / name / "privacy").glob("study-*.jsonl")
        assert ledger.read_text().count('"charge"') >= 2
    # 0.4 are left: two questions at 0.2 are answered, the third is not, and the job after it is refused.
    second = hospitals.ask({"more": asked["all"], **asked}, folder="second", protection=PRIVATE)
    assert [each["status"] for each in second["answers"].values()] == ["answered", "answered", "refused"]
    assert second["answers"]["ages"]["error"]["type"] == "BudgetExhausted"
    assert "remain" in refused(second, "ages")
    with pytest.raises(BudgetExhausted, match="remain"):
        hospitals.ask({"all": asked["all"]}, folder="third", protection=PRIVATE)


def test_keys_that_nobody_declared_are_found_by_noisy_counts(tmp_path) -> None:
    hospitals = Hospitals(tmp_path, sizes=(300, 300, 300), extra=BUDGET.replace("1.0,", "20,"))
    noise = {"epsilon": 4, "delta": 1e-4, "private_keys": True}
    asked = {"wards": "SELECT ward, count(*) FROM study GROUP BY ward"}
    answer = hospitals.ask(asked, levels={}, protection={"differential_privacy": noise})["answers"]["wards"]
    counts = {row[0]: row[1] for row in rows_of(answer)}
    # Half of the budget finds the keys; some hundred rows each, at an error of about 2.
    assert answer["privacy"]["epsilon"] == pytest.approx(2) and {0, 1, 2} <= counts.keys()
    assert all(abs(counts[ward] - 300) < 60 for ward in (0, 1, 2))


def test_what_has_no_bounds_cannot_be_private(tmp_path) -> None:
    hospitals = Hospitals(tmp_path, extra=BUDGET)
    with pytest.raises(JobError, match=r"clamp|bounds"):
        hospitals.ask({"mean": "SELECT avg(age) FROM study"}, protection=PRIVATE)
    asked = {"cox": {"time": "time", "event": "status", "covariates": ["age"]}}
    with pytest.raises(JobError, match="cox"):
        hospitals.ask({"hazard": asked}, folder="second", protection=PRIVATE)
    assert not list(tmp_path.glob(".fedcore/*/privacy/*.jsonl"))


def test_a_site_that_requires_privacy_does_not_answer_without(hospitals) -> None:
    rule = RULE.replace("}", ", private: required}")
    for name in hospitals.names:
        hospitals.write(name, rule=rule)
    with pytest.raises(PolicyRefused, match="differential"):
        hospitals.ask({"all": "SELECT count(*) FROM study"})


def test_resumed_noise_is_the_same_noise(tmp_path) -> None:
    from fedcore.engines.run import resume

    hospitals = Hospitals(tmp_path, extra=BUDGET)
    asked = {"all": "SELECT count(*) FROM study", "wrong": "SELECT avg(age) FROM study"}
    first = hospitals.ask(asked, protection=PRIVATE)
    assert first["status"] == "partial"
    again = resume(tmp_path / "run").json
    assert rows_of(again["answers"]["all"]) == rows_of(first["answers"]["all"])


def fail_in(round_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the last site fail in a round of each question."""
    from fedcore.participant import analytics

    answer = analytics.answer

    def failing(participant: Any, request: Any, message: Any) -> Any:
        if participant.name == "site-3" and request.state.get(analytics.ROUND) == round_:
            raise DataError("the disk is gone")
        return answer(participant, request, message)

    monkeypatch.setattr(analytics, "answer", failing)


@pytest.mark.parametrize("protection", [{}, PLAIN], ids=["secagg+", "plain"])
def test_who_is_lost_in_the_first_round_is_in_none(hospitals, monkeypatch, protection) -> None:
    sm = pytest.importorskip("statsmodels.api")
    fail_in(1, monkeypatch)
    asked = {"visits": {"poisson": {"response": "visits", "columns": ["age"]}}}
    answer = hospitals.ask(asked, protection=protection)["answers"]["visits"]
    assert answer["summed"] == 3 and [each["party"] for each in answer["left_out"]] == ["site-3"]
    rows = hospitals.pooled().iloc[: 60 + 45 + 80].dropna()
    reference = sm.GLM(rows["visits"], sm.add_constant(rows[["age"]]), family=sm.families.Poisson()).fit(
        tol=1e-12
    )
    np.testing.assert_allclose([row[1] for row in rows_of(answer)], reference.params, rtol=1e-6)


@pytest.mark.parametrize("protection", [{}, PLAIN], ids=["secagg+", "plain"])
def test_who_is_lost_later_ends_the_question(hospitals, monkeypatch, protection) -> None:
    fail_in(2, monkeypatch)
    with pytest.raises(PeerLost, match="site-3 dropped out in round 2"):
        hospitals.ask(
            {"visits": {"poisson": {"response": "visits", "columns": ["age"]}}}, protection=protection
        )
