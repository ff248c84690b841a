"""Regressions asked of 18 hospitals are those of the pooled rows: statsmodels'."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from fedcore.analytics.question import State
from fedcore.errors import DataError, JobError
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

FAMILIES = {
    "linear": sm.families.Gaussian(),
    "logistic": sm.families.Binomial(),
    "poisson": sm.families.Poisson(),
}
RESPONSE = {"linear": "wt.loss", "logistic": "status", "poisson": "time"}


def numeric() -> Site:
    return {name: each for name, each in rows().items() if each.dtype.kind == "f"}


def pooled(response: str, *names: str) -> tuple[np.ndarray, np.ndarray]:
    data = complete(numeric(), response, *names)
    return data[response], sm.add_constant(np.stack([data[name] for name in names], axis=1))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_regression_is_that_of_the_pooled_rows(family: str):
    names = ("age", "ph.karno", "sex")
    found = ask(build(family, {"response": RESPONSE[family], "columns": names}), hospitals())
    y, x = pooled(RESPONSE[family], *names)
    glm = sm.GLM(y, x, family=FAMILIES[family])
    want = sm.OLS(y, x).fit() if family == "linear" else glm.fit(tol=1e-14, maxiter=200)
    np.testing.assert_allclose(numbers(found, "coefficient"), want.params, rtol=1e-6)
    np.testing.assert_allclose(numbers(found, "standard error"), want.bse, rtol=1e-6)
    np.testing.assert_allclose(numbers(found, "p"), want.pvalues, rtol=1e-6, atol=1e-12)
    assert found.plots["coefficients"].startswith("<svg")
    missed = len(rows()["age"]) - len(y)
    assert found.left_out == (missed if missed >= 5 else None)


def test_a_column_of_text_becomes_indicators_of_all_but_its_first_level():
    common = agreed(levels={"ecog": ("0", "1", "2")})
    asked = build("linear", {"response": "age", "columns": ("ecog", "sex")}, common)
    found = ask(asked, hospitals())
    data = pick(rows(), np.isin(rows()["ph.ecog"], (0, 1, 2)))
    x = np.stack([np.ones(len(data["age"])), data["ph.ecog"] == 1, data["ph.ecog"] == 2, data["sex"]], axis=1)
    want = sm.OLS(data["age"], x.astype(float)).fit()
    assert [row[""] for row in table(found)] == ["intercept", "ecog=1", "ecog=2", "sex"]
    np.testing.assert_allclose(numbers(found, "coefficient"), want.params, rtol=1e-8)


def test_a_number_stays_a_number_whatever_its_levels():
    found = ask(build("linear", {"response": "age", "columns": ("sex",)}), hospitals())
    assert [row[""] for row in table(found)] == ["intercept", "sex"]


def test_a_model_in_which_a_level_has_few_rows_is_suppressed():
    asked = build("linear", {"response": "age", "columns": ("ecog",)})
    found = ask(asked, hospitals())
    assert all_suppressed(found) and "a value of ecog has fewer than 5 rows" in found.tables[0].notes[0]


def test_a_model_in_which_a_flag_marks_few_rows_is_suppressed():
    data = rows()
    for few in (np.arange(len(data["age"])) % 60 == 0, np.arange(len(data["age"])) % 60 != 0):
        data["frail"] = few.astype(float)
        assert 0 < min(few.sum(), (~few).sum()) < 5
        for kind, said in (
            ("linear", {"response": "age", "columns": ("sex", "frail")}),
            ("cox", {"time": "time", "event": "status", "covariates": ("sex", "frail")}),
        ):
            found = ask(build(kind, said), hospitals(data))
            assert all_suppressed(found) and "a value of frail" in found.tables[0].notes[0]


@pytest.mark.parametrize("codes", [(1.0, 2.0), (2.0, 1.0), (-3e4, 5e6)])
def test_a_model_in_which_few_rows_stand_out_is_suppressed_whatever_their_code(codes: tuple):
    data = rows()
    for few, suppressed in ((1, True), (4, True), (5, False), (40, False)):
        rare = np.random.default_rng(few).permutation(len(data["age"])) < few
        data["frail"] = np.where(rare, codes[1], codes[0])
        for kind, said in (
            ("linear", {"response": "age", "columns": ("sex", "frail")}),
            ("linear", {"response": "age", "columns": ("sex", "frail"), "intercept": False}),
            ("logistic", {"response": "woman", "columns": ("age", "frail")}),
            ("poisson", {"response": "time", "columns": ("age", "frail")}),
            ("cox", {"time": "time", "event": "status", "covariates": ("sex", "frail")}),
            (
                "cox",
                {
                    "time": "time",
                    "event": "status",
                    "covariates": ("sex", "frail"),
                    "strata": "none",
                    "end": 1100,
                    "unit": 50,
                },
            ),
        ):
            if few > 1 and not suppressed and kind in ("logistic", "poisson", "cox") and few < 40:
                continue  # five rows may all have one outcome
            found = ask(build(kind, said), hospitals(data))
            assert all_suppressed(found) is suppressed, (kind, few)
            if suppressed:
                assert "fewer than 5 rows carry the variance of frail" in found.tables[0].notes[0]


@pytest.mark.parametrize("some", [np.array([1.0]), np.array([1.0, 1e-9]), np.array([1e6, 1.0])])
def test_weights_that_few_rows_have_choose_no_rows(some: np.ndarray):
    data = rows()
    data["frail"] = np.full(len(data["age"]), some[-1] if len(some) > 1 else 0.0)
    data["frail"][:3] = some[0]
    for family in FAMILIES:
        said = {
            "response": "status" if family == "logistic" else "time",
            "columns": ("age",),
            "weights": "frail",
        }
        assert all_suppressed(ask(build(family, said), hospitals(data)))


def test_rows_of_weight_0_are_none_of_the_model():
    data = rows()
    data["frail"] = (np.arange(len(data["age"])) % 3).astype(float)
    asked = build(
        "linear", {"response": "time", "columns": ("age",), "weights": "frail", "where": "age > 50"}
    )
    found = ask(asked, hospitals(data))
    kept = (data["frail"] > 0) & (data["age"] > 50)
    want = sm.WLS(data["time"][kept], sm.add_constant(data["age"][kept]), data["frail"][kept]).fit()
    np.testing.assert_allclose(numbers(found, "coefficient"), want.params, rtol=1e-8)
    assert found.tables[0].notes[0].startswith(f"{kept.sum()} rows")
    site = hospitals(data)[0]
    query, groups = asked.groups_of(site)
    here = site.rows.to_pydict()
    for place, (age, weight) in enumerate(zip(here["age"], here["frail"], strict=True)):
        assert bool(groups[()] >> place & 1) == (age > 50 and weight > 0)
    assert "frail > 0" in query.text
    flagged = build("linear", {"response": "time", "columns": ("age",), "weights": "dead"})
    assert flagged.groups_of(site)[1][()].bit_count() == sum(site.rows.to_pydict()["dead"])


@pytest.mark.parametrize("levels", [("male", "female", "other"), ("other", "male", "female")])
def test_a_level_that_no_row_has_is_named(levels: tuple):
    common = agreed(levels={"gender": levels})
    for kind, said in (
        ("linear", {"response": "age", "columns": ("gender",)}),
        ("cox", {"time": "time", "event": "status", "covariates": ("gender",)}),
    ):
        with pytest.raises(
            DataError, match=r"no row has gender other.*declare the levels of gender without it"
        ):
            ask(build(kind, said, common), hospitals())


def test_weights_offset_and_a_condition():
    said = {"response": "time", "columns": ("age",), "weights": "sex", "offset": "woman", "intercept": False}
    found = ask(build("poisson", {**said, "where": "age >= 50"}), hospitals())
    data = pick(numeric(), numeric()["age"] >= 50)
    want = sm.GLM(
        data["time"],
        data["age"][:, None],
        family=FAMILIES["poisson"],
        offset=data["woman"],
        freq_weights=data["sex"],
    ).fit()
    assert numbers(found, "coefficient") == pytest.approx(want.params, rel=1e-6)
    assert numbers(found, "standard error") == pytest.approx(want.bse, rel=1e-6)


def test_a_flag_is_an_outcome():
    found = ask(build("logistic", {"response": "dead", "columns": ("age",)}), hospitals())
    y, x = pooled("status", "age")
    want = sm.GLM(y, x, family=FAMILIES["logistic"]).fit()
    np.testing.assert_allclose(numbers(found, "coefficient"), want.params, rtol=1e-6)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_too_few_rows_are_suppressed_and_none_are_an_error(family: str):
    said = {"response": RESPONSE[family], "columns": ("age", "sex")}
    chosen = np.flatnonzero(~np.isnan(rows()["wt.loss"]))[:7]
    found = ask(build(family, said), hospitals(pick(rows(), chosen)))
    assert all_suppressed(found) and "fewer than 5 rows beyond its 3 coefficients" in found.tables[0].notes[0]
    with pytest.raises(DataError, match="no site"):
        ask(build(family, {**said, "where": "age > 900"}), hospitals())


def test_a_rare_outcome_is_suppressed():
    data = rows()
    data["status"] = np.zeros_like(data["status"])
    data["status"][::60] = 1
    found = ask(build("logistic", {"response": "status", "columns": ("age",)}), hospitals(data))
    assert all_suppressed(found) and "have the outcome" in found.tables[0].notes[0]


def test_separable_rows_and_columns_that_depend_are_named():
    data = rows()
    data["status"] = (data["age"] > 60).astype(float)
    with pytest.raises(DataError, match="grows without end along age"):
        ask(build("logistic", {"response": "status", "columns": ("age",)}), hospitals(data))
    with pytest.raises(DataError, match=r'column "woman" has no coefficient of its own: it is made of sex'):
        ask(build("linear", {"response": "age", "columns": ("sex", "woman")}), hospitals())
    with pytest.raises(DataError, match="neither 0 nor 1"):
        ask(build("logistic", {"response": "sex", "columns": ("age",)}), hospitals())
    strict = {"response": "wt.loss", "columns": ("age",), "missing": "refuse"}
    with pytest.raises(DataError, match="misses values"):
        ask(build("linear", strict), hospitals())


def test_what_the_sites_are_told_is_no_sum():
    told = []
    ask(
        build("linear", {"response": "age", "columns": ("sex",)}),
        hospitals(),
        seen=lambda say, _: told.append(say),
    )
    state = told[-1].told["state"]
    assert state["information"] is None and state["value"] is None and state["null"] == 0


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"response": "agee", "columns": ("sex",)}, 'no column "agee"'),
        ({"response": "gender", "columns": ("sex",)}, "gender holds text"),
        ({"response": "age", "columns": ("age",)}, "age stands twice"),
        ({"response": "age", "columns": ("sex", "sex")}, "sex stands twice"),
        ({"response": "age", "columns": ("sex",), "weights": "gender"}, "gender holds text"),
        ({"response": "age", "columns": ("sex",), "weights": "age"}, "age stands twice"),
        ({"response": "age", "columns": ("sex",), "where": "sex >"}, "."),
    ],
)
def test_what_cannot_be_asked_is_refused_with_words(said: dict, message: str):
    with pytest.raises(JobError, match=message):
        build("linear", said)


def test_text_without_levels_and_privacy_are_refused():
    with pytest.raises(JobError, match="declare `levels`"):
        build("linear", {"response": "age", "columns": ("gender",)}, agreed(levels={}))
    with pytest.raises(JobError, match="one level"):
        build("linear", {"response": "age", "columns": ("gender",)}, agreed(levels={"gender": ("male",)}))
    with pytest.raises(JobError, match="client-level privacy"):
        build("linear", {"response": "age", "columns": ("sex",)}, agreed(private=True))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("names", ["intercept", "sex"]),
        ("intercept", False),
        ("beta", {"dtype": "float64", "shape": [1], "values": [0.0]}),
        ("beta", {"dtype": "float64", "shape": [2], "values": [0.0, "inf"]}),
        ("scale", {"dtype": "float64", "shape": [2], "values": [1.0, 0.0]}),
        ("scale", {"dtype": "float64", "shape": [3000000000], "values": []}),
        ("rounds", 1.5),
        ("gain", None),
    ],
)
def test_coefficients_that_are_not_of_the_model_are_refused(field: str, value: object):
    states: list[State] = []
    question = build("linear", {"response": "wt.loss", "columns": ("age",)})
    ask(question, hospitals(), seen=lambda told, _: states.append(told))
    told = {**states[-1].told, "state": {**states[-1].told["state"], field: value}}
    with pytest.raises(JobError):
        question.partial(hospitals()[0], State(told))
