"""Counts, odds ratios and quantiles over sites are those of the pooled rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.datasets import china_smoking
from statsmodels.stats.contingency_tables import StratifiedTable

from fedcore.analytics import quantiles, tables
from fedcore.errors import DataError
from tests.fedcore.analytics.over_sites import Site, lung, split, thirds, total


def cities() -> tuple[list[Site], list[np.ndarray]]:
    """Rows of smoking and lung cancer in eight cities, and their tables."""
    found = china_smoking.load_pandas().data
    made, counted = [], []
    for city in found.to_numpy()[:, -4:].astype(int):
        rows = [
            (s, c)
            for (s, c), count in zip(((1, 1), (1, 0), (0, 1), (0, 0)), city, strict=True)
            for _ in range(count)
        ]
        smoking, cancer = np.array(rows).T
        made.append({"smoking": smoking, "cancer": cancer})
        counted.append(city.reshape(2, 2))
    return made, counted


def check_odds(found: tables.OddsRatio, counted: list[np.ndarray]) -> None:
    reference = StratifiedTable([each.astype(float) for each in counted])
    assert found.ratio == pytest.approx(reference.oddsratio_pooled, rel=1e-10)
    assert (found.low, found.high) == pytest.approx(reference.oddsratio_pooled_confint(), rel=1e-10)
    test = reference.test_null_odds(correction=False)
    assert (found.statistic, found.p) == pytest.approx((test.statistic, test.pvalue), rel=1e-8)


def test_odds_ratio_over_eight_cities_is_that_of_statsmodels():
    sites, counted = cities()
    parts = [tables.partial_odds_by_site(site, "smoking", "cancer") for site in sites]
    found = tables.combine_odds(total(parts))
    check_odds(found, counted)
    assert found.ratio == pytest.approx(2.17, abs=0.01)


def test_odds_ratio_in_strata_over_sites_does_not_depend_on_the_split():
    sites, counted = cities()
    data = {name: np.concatenate([each[name] for each in sites]) for name in ("smoking", "cancer")}
    data["city"] = np.repeat(np.arange(8), [each.sum() for each in counted])
    parts = [tables.partial_odds(site, "smoking", "cancer", "city", range(8)) for site in thirds(data)]
    check_odds(tables.combine_odds(total(parts)), counted)


def test_empty_sites_and_strata_add_nothing_to_an_odds_ratio():
    sites, counted = cities()
    sites += [{"smoking": [], "cancer": []}, {"smoking": [1], "cancer": [0]}]
    parts = [tables.partial_odds_by_site(site, "smoking", "cancer") for site in sites]
    check_odds(tables.combine_odds(total(parts)), counted)
    with pytest.raises(DataError, match="wider strata"):
        tables.combine_odds(parts[-1])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=228, max_size=228))
def test_chi_square_is_that_of_scipy_under_any_split(places):
    data = lung()
    data = {"sex": data["sex"], "status": data["status"]}
    asked = ("sex", (1, 2), "status", (0, 1))
    table = tables.combine_table(
        total([tables.partial_table(site, *asked) for site in split(data, places)]), *asked
    )
    reference = stats.chi2_contingency(table.counts, correction=False)
    found = tables.chi_square(table)
    assert table.counts.sum() == 228
    assert (found.statistic, found.p, found.dof) == pytest.approx(tuple(reference[:3]), rel=1e-10)
    assert np.allclose(found.expected, reference.expected_freq)


def test_a_table_counts_what_it_leaves_out_and_needs_two_categories():
    asked = ("a", ("x", "y"), "b", (0, 1))
    site = {"a": np.array(["x", None, "x"], object), "b": [0, 1, 1]}
    table = tables.combine_table(tables.partial_table(site, *asked, missing="leave out"), *asked)
    assert table.counts.tolist() == [[1, 1], [0, 0]] and table.left_out == 1
    with pytest.raises(DataError, match="1 by 2 categories occur"):
        tables.chi_square(table)


def test_histogram_is_that_of_numpy_with_what_is_outside():
    data, edges = lung(), np.array([45.0, 55, 60, 65, 82])
    parts = [quantiles.partial_histogram(site, "age", edges) for site in thirds(data)]
    found = quantiles.combine_histogram(total(parts), "age", edges)
    assert found.counts.tolist() == np.histogram(data["age"], edges)[0].tolist()
    assert (found.below, found.above) == ((data["age"] < 45).sum(), (data["age"] > 82).sum())
    with pytest.raises(DataError, match="edges do not rise"):
        quantiles.partial_histogram(data, "age", [1, 1])


def close_in(sites: list[Site], state: quantiles.Search, missing: str = "refuse") -> quantiles.Search:
    while not state.done:
        parts = [quantiles.partial_quantiles(site, state, missing=missing) for site in sites]
        state = quantiles.combine_quantiles(total(parts), state)
    return state


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=40),
    st.lists(st.sampled_from([0.001, 0.1, 0.25, 0.3, 0.5, 0.9, 1.0]), min_size=1, max_size=3),
    st.integers(2, 40),
)
def test_quantiles_lie_in_bins_of_the_stated_width(values, shares, cuts):
    state = close_in(thirds({"x": np.array(values)}), quantiles.search("x", shares, -50, 50, 1e-3, cuts))
    for place, share in enumerate(shares):
        rank = max(1, int(np.ceil(round(share * len(values), 9))))
        exact = sorted(values)[rank - 1]
        assert state.low[place] <= exact <= state.high[place]
        assert state.high[place] - state.low[place] <= 1e-3
        assert exact > state.low[place] or state.low[place] == -50


def test_quantiles_of_lung_cancer_times_take_few_rounds():
    data = lung()
    state = close_in(thirds(data), quantiles.search("time", [0.25, 0.5, 0.75], 0, 4096, 0.01))
    reference = np.quantile(data["time"], [0.25, 0.5, 0.75], method="inverted_cdf")
    assert state.rounds == 4
    assert np.abs(state.middle - reference).max() <= 0.005


def test_searches_that_cannot_end_are_refused():
    for asked in (
        ([0.0], 0, 1, 0.1),
        ([1.5], 0, 1, 0.1),
        ([0.5], 1, 1, 0.1),
        ([0.5], 0, 1, 0.0),
        ([0.5], 0, 1e9, 1e-9),
        ([], 0, 1, 0.1),
    ):
        with pytest.raises(DataError, match="allowed"):
            quantiles.search("x", *asked)
    with pytest.raises(DataError, match="above the bounds 0 to 1"):
        close_in([{"x": [5.0]}], quantiles.search("x", [0.5], 0, 1, 0.1))
    with pytest.raises(DataError, match="no site has a complete row"):
        close_in([{"x": [np.nan]}], quantiles.search("x", [0.5], 0, 1, 0.1), missing="leave out")
