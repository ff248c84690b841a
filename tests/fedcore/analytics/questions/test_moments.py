"""Moments and tests of groups, asked of 18 hospitals, are those of the pooled rows; few rows are suppressed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedcore.analytics.columns import Column
from fedcore.analytics.disclosure import SUPPRESSED
from fedcore.analytics.question import State, Total
from fedcore.analytics.source import Source
from fedcore.errors import DataError, JobError
from tests.fedcore.analytics.over_sites import Site, pick
from tests.fedcore.analytics.questions.asking import (
    LEVELS,
    agreed,
    all_suppressed,
    ask,
    build,
    hospitals,
    numbers,
    rows,
    table,
)

NAMES = ("age", "ph.karno", "wt.loss")


def one(*values: float | str) -> dict:
    """An array as it is told."""
    return {"dtype": "float64", "shape": [len(values)], "values": list(values)}


def complete(*names: str) -> np.ndarray:
    pooled = np.stack([rows()[name] for name in names])
    return pooled[:, ~np.isnan(pooled).any(axis=0)]


def test_describe_is_that_of_the_pooled_rows():
    found = ask(build("describe", {"columns": NAMES}), hospitals())
    pooled = complete(*NAMES)
    assert numbers(found, "rows").tolist() == [pooled.shape[1]] * 3
    np.testing.assert_allclose(numbers(found, "mean"), pooled.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(numbers(found, "variance"), pooled.var(axis=1, ddof=1), rtol=1e-10)
    assert found.left_out == len(rows()["age"]) - pooled.shape[1]
    assert (
        f"{found.left_out} rows left out: a value is missing or none of the levels" in found.tables[0].notes
    )


def test_covariance_correlation_and_components_are_those_of_the_pooled_rows():
    pooled = complete(*NAMES)
    made = ask(build("covariance", {"columns": NAMES}), hospitals())
    np.testing.assert_allclose([numbers(made, name) for name in NAMES], np.cov(pooled), rtol=1e-10)
    r = ask(build("correlation", {"columns": NAMES}), hospitals())
    for row in table(r):
        a, b = NAMES.index(row["column"]), NAMES.index(row["with"])
        assert (row["r"], row["p"]) == pytest.approx(stats.pearsonr(pooled[a], pooled[b]), rel=1e-8)
    parts = ask(build("components", {"columns": NAMES, "scaled": True}), hospitals())
    size = np.linalg.eigvalsh(np.corrcoef(pooled))[::-1]
    np.testing.assert_allclose(numbers(parts, "variance"), size, rtol=1e-10)


def test_a_condition_leaves_rows_out_as_in_sql():
    data = rows()
    kept = (data["age"] > 60) & (data["sex"] == 1) & ~np.isnan(data["wt.loss"])
    asked = build("describe", {"columns": ("wt.loss",), "where": "age > 60 AND gender = 'male'"})
    assert "where" in asked.text and set(asked.columns) == {"age", "gender", "wt.loss"}
    found = ask(asked, hospitals())
    assert numbers(found, "mean") == pytest.approx(data["wt.loss"][kept].mean(), rel=1e-12)


@pytest.mark.parametrize("by", ["sex", "gender"])
def test_a_t_test_is_welchs(by: str):
    data = rows()
    found = ask(build("t_test", {"value": "age", "by": by}), hospitals())
    first, second = data["age"][data["sex"] == 1], data["age"][data["sex"] == 2]
    want = stats.ttest_ind(first, second, equal_var=False)
    row = table(found, 1)[0]
    assert (row["t"], row["p"]) == pytest.approx((want.statistic, want.pvalue), rel=1e-8)
    assert numbers(found, "rows").tolist() == [len(first), len(second)]


def test_a_t_test_between_two_of_more_groups_sends_nothing_of_the_others():
    data = rows()
    question = build("t_test", {"value": "age", "by": "ph.ecog", "groups": (2, 0)})
    shapes = set()
    found = ask(question, hospitals(), seen=lambda told, part: shapes.add(part.sums["rows"].shape))
    assert shapes == {(2,)}
    want = stats.ttest_ind(
        data["age"][data["ph.ecog"] == 2], data["age"][data["ph.ecog"] == 0], equal_var=False
    )
    assert table(found, 1)[0]["t"] == pytest.approx(want.statistic, rel=1e-8)
    assert found.left_out is None or found.left_out == 0  # one row misses the value: fewer than the minimum


def test_anova_is_that_of_the_groups_that_have_enough_rows():
    data = rows()
    found = ask(build("anova", {"value": "age", "by": "ecog"}), hospitals())
    groups = [data["age"][data["ph.ecog"] == place] for place in (0, 1, 2)]
    want = stats.f_oneway(*groups)
    row = table(found, 1)[0]
    assert (row["F"], row["p"]) == pytest.approx((want.statistic, want.pvalue), rel=1e-8)
    # One patient has 3.
    assert table(found)[3] == {
        "ecog": "3",
        "rows": SUPPRESSED,
        "mean": SUPPRESSED,
        "standard deviation": SUPPRESSED,
    }
    assert found.suppressed == 3
    assert found.tables[0].as_dict()["rows"][3]["mean"] == {"suppressed": True}
    assert "3,suppressed,suppressed,suppressed" in found.tables[0].to_csv()


def test_the_mean_of_a_small_group_is_not_told_to_the_sites():
    told = []
    ask(
        build("anova", {"value": "age", "by": "ecog"}), hospitals(), seen=lambda say, _: told.append(say.told)
    )
    assert told[-1]["round"] == "moments"
    centre = told[-1]["state"]["centre"]["values"]
    assert centre[3] == 0.0 and min(centre[:3]) > 50


@pytest.mark.parametrize("codes", [(0.0, 1.0), (1.0, 2.0), (-7e5, 3e6), (100000.0, 100001.0)])
@pytest.mark.parametrize("kind", ["describe", "covariance", "correlation", "components"])
def test_columns_in_which_few_rows_stand_out_are_not_told_of(kind: str, codes: tuple):
    data = rows()
    for few, suppressed in ((1, True), (4, True), (5, False), (-4, True), (-5, False)):
        rare = np.roll(np.arange(len(data["age"])), 3) < few % len(data["age"])
        data["frail"] = np.where(rare, codes[1], codes[0])
        found = ask(build(kind, {"columns": ("frail", "age")}), hospitals(data))
        assert all_suppressed(found) is suppressed
        if suppressed:
            assert "fewer than 5 rows carry the variance of frail" in found.tables[0].notes[0]


def test_one_far_row_is_not_told_of_by_a_covariance():
    data = rows()
    data["frail"] = data["age"] / 100
    data["frail"][5] = 20.0
    assert all_suppressed(ask(build("covariance", {"columns": ("age", "frail")}), hospitals(data)))
    assert not all_suppressed(ask(build("describe", {"columns": ("age", "frail")}), hospitals(data)))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("describe", {"columns": ("age",)}),
        ("covariance", {"columns": ("age", "wt.loss")}),
        ("correlation", {"columns": ("age", "wt.loss")}),
        ("components", {"columns": ("age", "wt.loss")}),
        ("t_test", {"value": "age", "by": "sex"}),
        ("anova", {"value": "age", "by": "sex"}),
    ],
)
def test_too_few_rows_are_suppressed_as_a_whole_and_none_are_an_error(kind: str, said: dict):
    few = pick(rows(), np.flatnonzero(~np.isnan(rows()["wt.loss"]))[:4])
    assert all_suppressed(ask(build(kind, said), hospitals(few)))
    with pytest.raises(DataError, match="no site has a complete row"):
        ask(build(kind, {**said, "where": "age > 900"}), hospitals())


def test_a_level_that_nobody_agreed_on_counts_as_missing_or_is_refused():
    data = rows()
    common = agreed(levels={"sex": (1,), "ph.ecog": (0, 1, 2)})
    found = ask(build("anova", {"value": "age", "by": "ph.ecog"}, common), hospitals())
    assert [row["rows"] for row in table(found)] == [
        int((data["ph.ecog"] == each).sum()) for each in (0, 1, 2)
    ]
    strict = build("anova", {"value": "age", "by": "ph.ecog", "missing": "refuse"}, common)
    with pytest.raises(DataError, match="none of the 3 levels"):
        ask(strict, hospitals())


def test_a_few_missing_rows_are_not_counted_aloud():
    data: Site = rows()
    data["age"][:3] = np.nan
    found = ask(build("describe", {"columns": ("age",)}), hospitals(data))
    assert found.left_out is None
    assert (
        "rows left out because a value is missing or none of the levels: suppressed" in found.tables[0].notes
    )
    data["age"][:5] = np.nan
    assert ask(build("describe", {"columns": ("age",)}), hospitals(data)).left_out == 5


@pytest.mark.parametrize(
    ("kind", "said", "message"),
    [
        ("describe", {"columns": ("agee",)}, 'no column "agee".*age'),
        ("describe", {"columns": ("gender",)}, "gender holds text"),
        ("describe", {"columns": ("age", "age")}, "age stands twice"),
        ("describe", {"columns": ("age",), "where": "agee > 3"}, "agee"),
        ("correlation", {"columns": ("age",)}, "two or more"),
        ("t_test", {"value": "age", "by": "inst"}, "declare `levels`.*private keys"),
        (
            "t_test",
            {"value": "age", "by": "ecog"},
            "t-test between '0', '1', '2', '3' of ecog; allowed: two of",
        ),
        ("t_test", {"value": "age", "by": "sex", "groups": (1, 7)}, "allowed: two of 1, 2"),
        ("t_test", {"value": "sex", "by": "sex"}, "sex stands twice"),
        ("anova", {"value": "gender", "by": "sex"}, "gender holds text"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_words(kind: str, said: dict, message: str):
    with pytest.raises(JobError, match=message):
        build(kind, said)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"round": "third"},
        {"round": ["moments"]},
        {"round": "moments"},
        {"round": "moments", "state": {"centre": [1.0]}},
        {"round": "moments", "state": {"centre": one(1.0)}},
        {"round": "moments", "state": {"centre": one(1.0, 2.0), "scale": one(1.0)}},
        {"round": "moments", "state": {"centre": one("nan"), "scale": one(1.0)}},
        {"round": "moments", "state": {"centre": one(1.0), "scale": one(1.0, 1.0)}},
        {"round": "moments", "state": {"centre": one(1.0), "scale": one(0.0)}},
        {"round": "moments", "state": {"centre": one(1.0), "scale": one("inf")}},
        {
            "round": "moments",
            "state": {"centre": {"dtype": "int64", "shape": [1], "values": [1]}, "scale": one(1.0)},
        },
    ],
)
def test_a_round_that_is_none_is_refused(told: dict):
    question = build("describe", {"columns": ("age",)})
    with pytest.raises(JobError):
        question.partial(hospitals()[0], State(told))


def test_a_site_with_another_type_or_unit_refuses():
    site = hospitals()[0]
    question = build("describe", {"columns": ("age",)})
    with pytest.raises(DataError, match=r'no column "age" here'):
        question.partial(Source("lung", site.rows.drop_columns("age")), question.begin())
    texts = site.rows.select(["gender"]).rename_columns(["age"])
    with pytest.raises(DataError, match="age holds text here; the sites agreed on number"):
        question.partial(Source("lung", texts), question.begin())
    common = agreed(columns={**agreed().columns, "age": Column("number", "years")})
    with pytest.raises(DataError, match="holds number here; the sites agreed on number in years"):
        build("describe", {"columns": ("age",)}, common).partial(site, question.begin())


@pytest.mark.parametrize("kind", ["describe", "t_test"])
def test_sums_without_bounds_are_not_asked_under_privacy(kind: str):
    said = {"describe": {"columns": ("age",)}, "t_test": {"value": "age", "by": "sex"}}[kind]
    assert "bounded sums" in (build(kind, said).lacks_for_privacy() or "")
    with pytest.raises(JobError, match="differential privacy"):
        build(kind, said, agreed(private=True))


def test_a_group_that_a_site_kept_back_is_suppressed():
    question = build("anova", {"value": "age", "by": "ph.ecog"})
    state = question.begin()
    while not state.done:
        parts = [question.partial(each, state) for each in hospitals()]
        sums = {name: sum(part.sums[name] for part in parts) for name in parts[0].sums}
        state = question.combine(Total(sums, {"rows": np.array([False, True, False, False])}), state)
    shown = [row["rows"] for row in table(question.answer(state))]
    assert shown[1] is SUPPRESSED and shown[3] is SUPPRESSED and SUPPRESSED not in (shown[0], shown[2])
    assert LEVELS["ph.ecog"][1] == 1
