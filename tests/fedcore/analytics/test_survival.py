"""Survival over hospitals is that of the pooled rows: statsmodels', and figures of lifelines 0.30.3 on the same rows."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.duration.hazard_regression import PHReg
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from fedcore.analytics import survival
from fedcore.analytics.cox import Cox, partial_stratified
from fedcore.analytics.survival import Survival, time_grid
from fedcore.analytics.survival_plot import survival_plot
from fedcore.errors import DataError
from tests.fedcore.analytics.over_sites import (
    Site,
    complete,
    errors,
    estimates,
    fit_cox,
    lung,
    p_values,
    split,
    thirds,
    total,
)

DAYS = time_grid(1100)
BY_SEX = Survival("time", "status", DAYS, "sex", (1, 2))
COLUMNS = ("age", "sex", "ph.ecog")


def hospitals() -> tuple[Site, list[Site]]:
    """The rows with a hospital and all columns, and these by hospital."""
    data = complete(lung(), "inst", *COLUMNS)
    return data, split(data, np.unique(data["inst"], return_inverse=True)[1])


def curves(sites: list[Site], asked: Survival, **keywords) -> survival.SurvivalResult:
    return survival.combine_survival(
        total([survival.partial_survival(site, asked) for site in sites]), asked, **keywords
    )


def check_cox(found, data: Site, ties: str, strata=None) -> None:
    columns = np.column_stack([data[name] for name in COLUMNS])
    reference = PHReg(data["time"], columns, status=data["status"], ties=ties, strata=strata).fit(tol=1e-12)
    assert np.allclose(estimates(found), reference.params, rtol=1e-6)
    assert np.allclose(errors(found), reference.bse, rtol=1e-6)
    assert np.allclose(p_values(found), reference.pvalues, rtol=1e-5)
    assert found.log_likelihood == pytest.approx(reference.llf, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=228, max_size=228))
def test_curves_and_log_rank_do_not_depend_on_the_split(places):
    data, sites = lung(), split(lung(), places)
    for curve in curves(sites, BY_SEX).curves:
        mine = data["sex"] == curve.group
        reference = SurvfuncRight(data["time"][mine], data["status"][mine])
        died = curve.events > 0
        assert np.array_equal(curve.time[died], reference.surv_times)
        assert np.allclose(curve.survival[died], reference.surv_prob, rtol=1e-10)
        known = reference.surv_prob > 1e-12
        assert np.allclose(curve.error[died][known], reference.surv_prob_se[known], rtol=1e-8)
    sums = total([survival.partial_survival(site, BY_SEX) for site in sites])
    found = survival.log_rank(sums, BY_SEX)
    assert (found.statistic, found.p) == pytest.approx(
        survdiff(data["time"], data["status"], data["sex"]), rel=1e-8
    )


def test_curves_of_18_hospitals_are_those_of_lifelines():
    man, woman = curves(thirds(lung()), BY_SEX).curves
    assert man.median == (270, 210, 306) and woman.median == (426, 345, 524)
    published = {
        180: (0.6444650015417823, 0.5584124730052876, 0.7180135981606778),
        365: (0.33608783463937814, 0.2527291433279729, 0.4213021682227186),
        700: (0.08928467573373637, 0.042781061106854056, 0.15693188465813165),
    }
    for day, expected in published.items():
        place = np.searchsorted(man.time, day, side="right") - 1
        assert (man.survival[place], man.low[place], man.high[place]) == pytest.approx(expected, rel=1e-10)


def test_log_rank_stratified_by_hospital_is_that_of_statsmodels():
    data = complete(lung(), "inst")
    sites = split(data, np.unique(data["inst"], return_inverse=True)[1])
    parts = [survival.partial_log_rank_by_site(site, BY_SEX) for site in sites]
    found = survival.combine_log_rank_by_site(total(parts), BY_SEX)
    reference = survdiff(data["time"], data["status"], data["sex"], strata=data["inst"])
    assert (found.statistic, found.p) == pytest.approx(reference, rel=1e-8)


def test_log_rank_of_three_groups_has_two_degrees_of_freedom():
    data = complete(lung(), "ph.ecog")
    data = {name: each[data["ph.ecog"] < 3] for name, each in data.items()}
    asked = Survival("time", "status", DAYS, "ph.ecog", (0, 1, 2, 3))
    found = survival.log_rank(total([survival.partial_survival(site, asked) for site in thirds(data)]), asked)
    reference = survdiff(data["time"], data["status"], data["ph.ecog"])
    assert found.dof == 2
    assert (found.statistic, found.p) == pytest.approx(reference, rel=1e-8)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_stratified_by_18_hospitals_is_that_of_statsmodels(ties):
    data, sites = hospitals()
    assert len(sites) == 18
    found = fit_cox(sites, Cox("time", "status", COLUMNS, ties))
    check_cox(found, data, ties, data["inst"])
    if ties == "efron":
        assert estimates(found) == pytest.approx(
            [0.009561341696521156, -0.5473566768481519, 0.5972532446801831], rel=1e-9
        )
        assert found.log_likelihood == pytest.approx(-311.2495694735961, rel=1e-12)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=226, max_size=226), st.sampled_from(["efron", "breslow"]))
def test_cox_with_one_baseline_does_not_depend_on_the_split(places, ties):
    data, _ = hospitals()
    check_cox(fit_cox(split(data, places), Cox("time", "status", COLUMNS, ties, grid=DAYS)), data, ties)


def test_cox_with_one_baseline_is_that_of_lifelines():
    _, sites = hospitals()
    found = fit_cox(sites, Cox("time", "status", COLUMNS, grid=DAYS))
    assert estimates(found) == pytest.approx(
        [0.011232164257264936, -0.5565934139844083, 0.46921639676605087], rel=1e-9
    )
    assert errors(found) == pytest.approx(
        [0.00926210540597466, 0.16807103087716185, 0.11429040215874262], rel=1e-6
    )
    assert found.log_likelihood == pytest.approx(-724.1192531184809, rel=1e-12)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_many_ties_an_empty_site_and_one_of_a_row(ties):
    data, _ = hospitals()
    data["time"] = np.ceil(data["time"] / 60)
    sites = thirds(data)
    assert [len(site["time"]) for site in sites[:2]] == [1, 0]
    check_cox(fit_cox(sites, Cox("time", "status", COLUMNS, ties, grid=time_grid(20))), data, ties)
    strata = np.repeat([0, 2, 3], [1, *(len(site["time"]) for site in sites[2:])])
    joined = {name: np.concatenate([site[name] for site in sites]) for name in data}
    check_cox(fit_cox(sites, Cox("time", "status", COLUMNS, ties)), joined, ties, strata)


def test_strata_within_a_site_are_as_sites():
    data, sites = hospitals()
    together = fit_cox([data], Cox("time", "status", COLUMNS, strata="inst"))
    assert np.allclose(
        estimates(together), estimates(fit_cox(sites, Cox("time", "status", COLUMNS))), rtol=1e-10
    )


def test_a_stratum_without_events_adds_nothing():
    _, sites = hospitals()
    quiet = {name: each.copy() for name, each in sites[0].items()}
    quiet["status"][:] = 0
    asked = Cox("time", "status", COLUMNS)
    added, plain = fit_cox([*sites, quiet], asked), fit_cox(sites, asked)
    assert np.allclose(estimates(added), estimates(plain), rtol=1e-9)
    assert added.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-12)
    quiet["status"][:] = 0
    with pytest.raises(DataError, match="no event to learn from"):
        fit_cox([quiet], asked)


@pytest.mark.parametrize("grid", [(), time_grid(12)])
def test_a_likelihood_without_a_maximum_is_told(grid):
    time = np.arange(1.0, 13)
    data = {"t": time, "e": np.ones(12), "early": (time < 6) * 1.0, "x": np.tile([0.0, 1, 1], 4)}
    with pytest.raises(DataError, match="grows without end along early"):
        fit_cox([data], Cox("t", "e", ("early", "x"), grid=grid))


def test_columns_that_do_not_tell_within_strata_are_named():
    _, sites = hospitals()
    sites = [{**site, "hospital": site["inst"]} for site in sites]
    with pytest.raises(DataError, match='"hospital" has no coefficient of its own: it does not vary'):
        fit_cox(sites, Cox("time", "status", ("age", "hospital")))
    sites = [{**site, "twice": 2 * site["age"] + site["sex"]} for site in sites]
    with pytest.raises(DataError, match='"twice" has no coefficient of its own: it is made of age, sex'):
        fit_cox(sites, Cox("time", "status", ("age", "sex", "twice")))


def test_what_leaves_a_stratum_has_no_time_and_one_size():
    from fedcore.analytics.cox import combine_start, partial_start

    _, sites = hospitals()
    asked = Cox("time", "status", COLUMNS)
    state = combine_start(total([partial_start(site, asked) for site in sites]), asked)
    parts = [partial_stratified(site, asked, state) for site in sites]
    assert {sum(each.size for each in part.values()) for part in parts} == {3 + 1 + 3 + 9}


def test_times_between_points_are_rounded_up_and_later_ones_censored():
    site = {"t": [0.5, 1.0, 1.5, 9.0], "e": [1, 1, 0, 1]}
    found = curves([site], Survival("t", "e", (0.0, 1.0, 2.0)))
    curve = found.curves[0]
    assert (curve.time.tolist(), curve.at_risk.tolist()) == ([1, 2], [4, 2])
    assert (curve.events.tolist(), curve.censored.tolist()) == ([2, 0], [0, 2])
    assert found.beyond == 1 and "1 rows censored at the end" in found.table().notes[0]
    assert time_grid(0.3, 0.1) == pytest.approx((0, 0.1, 0.2, 0.3))


def test_intervals_stay_between_0_and_1_and_unknown_scales_are_refused():
    for interval in survival.INTERVALS:
        for curve in curves([lung()], BY_SEX, interval=interval).curves:
            known = ~np.isnan(curve.low)
            assert (curve.low[known] >= 0).all() and (curve.high[known] <= 1).all()
            assert (curve.low[known] <= curve.survival[known]).all()
    with pytest.raises(DataError, match='did you mean "log-log"'):
        curves([lung()], BY_SEX, interval="loglog")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"time": [-1.0, 2]}, "below 0"),
        ({"status": [1, 2]}, "neither 0 nor 1"),
        ({"time": [np.nan, 2]}, "misses"),
    ],
)
def test_times_and_events_that_make_no_sense(change, said):
    site = {"time": [1.0, 2], "status": [0, 1], "sex": [1, 2], **change}
    with pytest.raises(DataError, match=said):
        survival.partial_survival(site, BY_SEX)


def test_a_group_that_never_has_an_event_and_one_without_rows():
    site = {"t": [1.0, 2, 3, 4], "e": [0, 0, 1, 1], "g": ["a", "a", "b", "b"]}
    asked = Survival("t", "e", time_grid(4), "g", ("a", "b", "c"))
    found = curves([site], asked)
    assert found.curves[0].survival.tolist() == [1, 1] and found.curves[0].median[0] == math.inf
    assert found.curves[2].rows == 0
    with pytest.raises(DataError, match="at risk together"):
        survival.log_rank(survival.partial_survival({**site, "g": list("aaaa")}, asked), asked)


def test_a_picture_is_whole_and_says_the_rows_at_risk():
    picture = survival_plot(curves([lung()], BY_SEX))
    root = ElementTree.fromstring(picture)
    assert root.tag.endswith("svg") and "NaN" not in picture and "nan" not in picture
    texts = [each.text for each in root.iter() if each.tag.endswith("text")]
    assert "138" in texts and "90" in texts
