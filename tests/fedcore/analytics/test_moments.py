"""Moments, groups and principal components over sites are those of the pooled rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.datasets import load_diabetes, load_wine
from sklearn.decomposition import PCA

from fedcore.analytics import groups, moments
from fedcore.analytics.rows import complete, indicators
from fedcore.analytics.sums import add
from fedcore.errors import DataError
from tests.fedcore.analytics.over_sites import Site, lung, split, thirds, total


def over(sites: list[Site], names: list[str], missing: str = "refuse") -> moments.Moments:
    first = total([moments.partial_sums(site, names, missing=missing) for site in sites])
    centre = moments.combine_sums(first, names).mean
    second = total([moments.partial_moments(site, names, centre, missing=missing) for site in sites])
    return moments.combine_moments(second, names, centre)


def grouped(sites: list[Site], value: str, by: str, levels: list) -> groups.Groups:
    centre = groups.combine_group_sums(
        total([groups.partial_group_sums(site, value, by, levels) for site in sites])
    )
    parts = [groups.partial_group_moments(site, value, by, levels, centre) for site in sites]
    return groups.combine_group_moments(total(parts), value, by, levels, centre)


def wine() -> Site:
    found = load_wine()
    return {
        **dict(zip(found.feature_names, found.data.T, strict=True)),
        "cultivar": found.target,
    }


NAMES = load_wine().feature_names


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=178, max_size=178))
def test_any_split_gives_the_pooled_moments(places):
    data = wine()
    found = over(split(data, places), NAMES)
    pooled = np.stack([data[name] for name in NAMES])
    assert found.rows == 178 and found.left_out == 0
    assert np.allclose(found.sum, pooled.sum(axis=1), rtol=1e-12)
    assert np.allclose(found.mean, pooled.mean(axis=1), rtol=1e-12)
    assert np.allclose(found.variance, pooled.var(axis=1, ddof=1), rtol=1e-10)
    assert np.allclose(found.covariance, np.cov(pooled), rtol=1e-8, atol=1e-12)


def test_an_empty_site_and_one_of_a_row_change_nothing():
    data = wine()
    assert np.allclose(over(thirds(data), NAMES).covariance, over([data], NAMES).covariance, rtol=1e-10)


def test_a_large_mean_beside_a_small_spread_keeps_its_digits():
    noise = np.random.default_rng(1).normal(size=3000)
    found = over(split({"x": 1e9 + noise}, np.arange(3000) % 3), ["x"])
    assert found.variance[0] == pytest.approx(np.var(1e9 + noise, ddof=1), rel=1e-10)


def test_correlation_and_its_p_value_are_those_of_scipy():
    data = wine()
    found = moments.correlation(over(thirds(data), NAMES))
    for a, b in ((0, 1), (3, 12), (5, 6)):
        reference = stats.pearsonr(data[NAMES[a]], data[NAMES[b]])
        assert found.r[a, b] == pytest.approx(reference.statistic, rel=1e-9)
        assert found.p[a, b] == pytest.approx(reference.pvalue, rel=1e-7)


@pytest.mark.parametrize("scaled", [False, True])
def test_principal_components_are_those_of_scikit_learn(scaled):
    found = load_diabetes(scaled=False)
    data = dict(zip(found.feature_names, found.data.T, strict=True))
    pooled = found.data / found.data.std(axis=0, ddof=1) if scaled else found.data
    reference = PCA().fit(pooled)
    ours = moments.principal_components(over(thirds(data), found.feature_names), scaled=scaled)
    assert np.allclose(ours.variance, reference.explained_variance_, rtol=1e-8)
    assert np.allclose(ours.share, reference.explained_variance_ratio_, rtol=1e-8)
    assert np.allclose(np.abs(np.sum(ours.loadings * reference.components_, axis=1)), 1, rtol=1e-8)
    assert (ours.loadings.max(axis=1) == np.abs(ours.loadings).max(axis=1)).all()


def test_welch_is_that_of_scipy():
    data = lung()
    found = groups.welch(
        grouped(split(data, np.arange(228) % 5), "time", "sex", [1, 2]), 1, 2, confidence=0.9
    )
    reference = stats.ttest_ind(
        data["time"][data["sex"] == 1], data["time"][data["sex"] == 2], equal_var=False
    )
    assert (found.statistic, found.dof, found.p) == pytest.approx(
        (reference.statistic, reference.df, reference.pvalue), rel=1e-9
    )
    assert (found.low, found.high) == pytest.approx(reference.confidence_interval(0.9), rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=178, max_size=178))
def test_anova_is_that_of_scipy_under_any_split(places):
    data = wine()
    found = groups.anova(grouped(split(data, places), "alcohol", "cultivar", [0, 1, 2, 3]))
    reference = stats.f_oneway(*(data["alcohol"][data["cultivar"] == each] for each in range(3)))
    assert found.dof == (2, 175)
    assert (found.statistic, found.p) == pytest.approx((reference.statistic, reference.pvalue), rel=1e-8)


def test_missing_values_are_refused_or_left_out_and_counted():
    data = lung()
    with pytest.raises(DataError, match=r'"meal.cal" misses values.*leave out') as refused:
        moments.partial_sums(data, ["age", "meal.cal"])
    assert "47" not in refused.value.message and "47 of 228" in refused.value.detail
    found = over(thirds(data), ["age", "meal.cal"], missing="leave out")
    assert (found.rows, found.left_out) == (181, 47)
    assert found.mean[0] == pytest.approx(data["age"][~np.isnan(data["meal.cal"])].mean(), rel=1e-12)
    assert "47 rows left out" in found.table().notes[0]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (["1", "2"], "allowed: one dimension of numbers"),
        (np.array(["a", None], object), "allowed: one dimension of numbers"),
        ([[1.0], [2.0]], "2 dimensions"),
        ([1.0, np.inf], "infinite"),
        (np.array(["2020-01-01", "2020-01-02"], "M8[D]"), "one dimension of numbers"),
        ([1.0, 2.0, 3.0], "differ in length"),
    ],
)
def test_columns_of_another_kind_are_refused(column, said):
    with pytest.raises(DataError, match=said):
        moments.partial_sums({"x": column, "age": [1, 2]}, ["x", "age"])


def test_an_unknown_column_gets_the_nearest_name():
    with pytest.raises(DataError, match='no column "agee"; did you mean "age"'):
        moments.partial_sums({"age": [1]}, ["agee"])


def test_none_and_masked_values_are_missing():
    masked = np.ma.MaskedArray([1.0, 2.0, 3.0], [False, True, False])
    found = complete({"a": np.array([1, 2, None], object), "b": masked}, ["a", "b"], missing="leave out")
    assert (found.count, found.left_out, found.numbers["b"].tolist()) == (1, 2, [1.0])


def test_a_value_that_is_no_level_is_refused_without_being_told():
    with pytest.raises(DataError, match="none of the 2 levels") as refused:
        complete({"g": ["a", "rare"]}, (), {"g": ["a", "b"]})
    assert "rare" not in str(refused.value)


def test_indicators_compare_with_the_first_level():
    made = indicators("g", np.array(["a", "b", None], object), ["a", "b", "c"])
    assert list(made) == ["g=b", "g=c"]
    assert np.array_equal(made["g=b"], [0, 1, np.nan], equal_nan=True)


def test_no_rows_and_constant_columns_are_told():
    nothing = moments.partial_sums({"x": []}, ["x"])
    with pytest.raises(DataError, match="no site has a complete row"):
        moments.combine_sums(nothing, ["x"])
    with pytest.raises(DataError, match="x: all rows have one value"):
        moments.correlation(over([{"x": [0.1] * 9, "y": range(9)}], ["x", "y"]))
    with pytest.raises(DataError, match="too few rows for a variance"):
        groups.welch(grouped([{"x": [1.0, 2, 3], "g": [0, 0, 1]}], "x", "g", [0, 1]), 0, 1)


def test_parts_of_different_questions_do_not_add():
    with pytest.raises(DataError, match="one form"):
        add([moments.partial_sums({"x": [1]}, ["x"]), moments.partial_sums({"x": [1], "y": [2]}, ["x", "y"])])
    with pytest.raises(DataError, match="not finite"):
        add([{"x": np.array(1e308)}, {"x": np.array(1e308)}])
