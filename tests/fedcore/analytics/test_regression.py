"""Regressions over sites are those of statsmodels over the pooled rows."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer

from fedcore.analytics.glm import Regression
from fedcore.errors import DataError
from tests.fedcore.analytics.over_sites import Site, errors, estimates, fit_glm, p_values, split, thirds

FAMILIES = {
    "linear": sm.families.Gaussian(),
    "logistic": sm.families.Binomial(),
    "poisson": sm.families.Poisson(),
}


def public(name: str) -> Site:
    found = getattr(sm.datasets, name).load_pandas().data
    return {column: np.array(found[column], float) for column in found.columns}


def check(found, data: Site, asked: Regression, **keywords) -> None:
    pooled = np.column_stack([data[name] for name in asked.columns])
    if asked.intercept:
        pooled = sm.add_constant(pooled)
    reference = sm.GLM(data[asked.response], pooled, family=FAMILIES[asked.family], **keywords).fit(
        tol=1e-14, maxiter=200, use_t=asked.family == "linear"
    )
    assert np.allclose(estimates(found), reference.params, rtol=1e-6, atol=1e-12)
    assert np.allclose(errors(found), reference.bse, rtol=1e-6)
    assert np.allclose(p_values(found), reference.pvalues, rtol=1e-5, atol=1e-300)
    bounds = [(each.low, each.high) for each in found.coefficients]
    assert np.allclose(bounds, reference.conf_int(), rtol=1e-5)
    assert found.deviance == pytest.approx(reference.deviance, rel=1e-8)
    assert found.log_likelihood == pytest.approx(reference.llf, rel=1e-8)


LONGLEY = Regression("linear", "TOTEMP", ("GNPDEFL", "GNP", "UNEMP", "ARMED", "POP", "YEAR"))
RANDHIE = Regression(
    "poisson", "mdvis", ("lncoins", "idp", "lpi", "fmde", "physlm", "disea", "hlthg", "hlthf", "hlthp")
)
SPECTOR = Regression("logistic", "GRADE", ("GPA", "TUCE", "PSI"))


def test_poisson_regression_of_20190_rows_over_seven_sites():
    data = public("randhie")
    found = fit_glm(split(data, np.arange(20190) % 7), RANDHIE)
    check(found, data, RANDHIE)
    assert found.rows == 20190 and found.rounds <= 8


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=32, max_size=32))
def test_logistic_regression_does_not_depend_on_the_split(places):
    data = public("spector")
    check(fit_glm(split(data, places), SPECTOR), data, SPECTOR)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=16, max_size=16))
def test_nearly_collinear_columns_of_longley_keep_their_digits(places):
    data = public("longley")
    check(fit_glm(split(data, places), LONGLEY), data, LONGLEY)


def test_an_empty_site_and_one_of_a_row_change_nothing():
    for name, asked in (("longley", LONGLEY), ("spector", SPECTOR)):
        data = public(name)
        check(fit_glm(thirds(data), asked), data, asked)


def test_offset_weights_and_no_intercept():
    data = public("randhie")
    data = {name: each[:2000] for name, each in data.items()}
    data["exposure"] = np.linspace(-1, 1, 2000)
    data["times"] = np.arange(2000) % 4.0
    keywords = {"offset": data["exposure"], "freq_weights": data["times"]}
    for intercept in (True, False):
        asked = Regression("poisson", "mdvis", ("lncoins", "disea"), intercept, "exposure", "times")
        check(fit_glm(thirds(data), asked), data, asked, **keywords)
    asked = Regression("linear", "mdvis", ("lncoins", "disea"), weights="times")
    check(fit_glm(thirds(data), asked), data, asked, freq_weights=data["times"])


def test_separable_data_are_told_with_the_column():
    data = {"y": [0, 0, 0, 1, 1, 1], "x": [1.0, 2, 3, 4, 5, 6], "z": [1.0, 5, 2, 4, 1, 3]}
    with pytest.raises(DataError, match=r"no maximum: it grows without end along x.*separate"):
        fit_glm(
            thirds({name: np.array(each) for name, each in data.items()}),
            Regression("logistic", "y", ("x", "z")),
        )


def test_data_that_one_category_separates_are_told():
    generator = np.random.default_rng(5)
    rare, x = np.arange(300) % 20 == 0, generator.normal(size=300)
    outcome = np.where(rare, 1, generator.random(300) < 1 / (1 + np.exp(-x)))
    data = {"y": outcome.astype(float), "rare": rare.astype(float), "x": x}
    with pytest.raises(DataError, match="along rare, because"):
        fit_glm(thirds(data), Regression("logistic", "y", ("x", "rare")))
    data["y"] = np.where(rare, 0, generator.poisson(2, 300)).astype(float)
    with pytest.raises(DataError, match="along rare, because"):
        fit_glm(thirds(data), Regression("poisson", "y", ("x", "rare")))


def test_thirty_columns_that_separate_breast_cancer_are_told():
    found = load_breast_cancer()
    data = {**dict(zip(found.feature_names, found.data.T, strict=True)), "benign": found.target.astype(float)}
    with pytest.raises(DataError, match="no maximum"):
        fit_glm(thirds(data), Regression("logistic", "benign", tuple(found.feature_names)))


def test_data_that_nearly_separate_still_have_an_estimate():
    x = np.concatenate([np.arange(20.0), [19.5, 18.5]])
    data = {"x": x, "y": np.concatenate([np.arange(20) > 9, [False, True]]).astype(float)}
    data["y"][8] = 1
    asked = Regression("logistic", "y", ("x",))
    check(fit_glm(thirds(data), asked), data, asked)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_collinear_columns_are_told_with_their_names(offset):
    generator = np.random.default_rng(3)
    data = {name: offset + generator.normal(size=60) for name in ("age", "height", "weight")}
    data["y"] = generator.normal(size=60)
    data["both"] = 2 * data["age"] - data["weight"] / 3
    asked = Regression("linear", "y", ("age", "height", "weight", "both"))
    with pytest.raises(DataError, match='"both" has no coefficient of its own: it is made of age, weight'):
        fit_glm(thirds(data), asked)
    data["both"] = np.full(60, 0.1)
    with pytest.raises(DataError, match='"both" has no coefficient of its own: it does not vary'):
        fit_glm(thirds(data), asked)


@pytest.mark.parametrize(
    ("family", "y", "said"),
    [
        ("logistic", [0, 1, 2], "neither 0 nor 1"),
        ("logistic", [1, 1, 1], "the same in all rows"),
        ("poisson", [-1, 0, 1], "below 0"),
        ("poisson", [0, 0, 0], "0 in all rows"),
        ("linear", [1, np.nan, 1], "misses values"),
    ],
)
def test_responses_that_a_family_does_not_allow(family, y, said):
    with pytest.raises(DataError, match=said):
        fit_glm([{"y": y, "x": [1.0, 2, 4]}], Regression(family, "y", ("x",)))


def test_missing_values_are_left_out_and_counted():
    data = public("spector")
    data["GPA"][[3, 9]] = np.nan
    asked = Regression("logistic", "GRADE", ("GPA", "TUCE", "PSI"), missing="leave out")
    found = fit_glm(thirds(data), asked)
    kept = {name: np.delete(each, [3, 9]) for name, each in data.items()}
    check(found, kept, asked)
    assert (found.rows, found.left_out) == (30, 2)


def test_questions_that_make_no_sense():
    with pytest.raises(DataError, match='did you mean "logistic"'):
        Regression("logistc", "y", ("x",))
    with pytest.raises(DataError, match="x stands twice"):
        Regression("linear", "y", ("x", "x"))
    with pytest.raises(DataError, match="no more rows than that"):
        fit_glm([{"y": [1.0, 2], "x": [1.0, 3]}], Regression("linear", "y", ("x",)))


def test_a_table_says_what_a_statistician_expects():
    table = fit_glm(thirds(public("spector")), SPECTOR).table()
    assert table.heads[:6] == ("", "coefficient", "standard error", "z", "p", "odds ratio")
    assert [row[0] for row in table.rows] == ["intercept", "GPA", "TUCE", "PSI"]
    assert table.to_csv().splitlines()[1].startswith("intercept,-13.02")
    assert table.as_dict()["rows"][1]["odds ratio"] == pytest.approx(16.88, abs=0.01)
    assert len(list(table.rich().rows)) == 4
