"""Tables, odds, histograms, quantiles and frequent values over 18 hospitals are those of the pooled rows."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable

from fedcore.analytics.disclosure import SUPPRESSED
from fedcore.analytics.question import Bounds, State, Total
from fedcore.errors import DataError, JobError
from tests.fedcore.analytics.over_sites import pick
from tests.fedcore.analytics.questions import asking
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

PRIVATE = agreed(private=True)
SEX_DEAD = {"down": "gender", "across": "dead"}


def counts(down: np.ndarray, across: np.ndarray) -> np.ndarray:
    return np.array(
        [[((down == a) & (across == b)).sum() for b in np.unique(across)] for a in np.unique(down)]
    )


def test_a_table_and_its_chi_square_are_those_of_the_pooled_rows():
    data = rows()
    found = ask(build("contingency", SEX_DEAD), hospitals())
    want = counts(data["sex"], data["status"])
    assert [row[1:3] for row in found.tables[0].rows[:2]] == [tuple(row) for row in want.tolist()]
    assert found.tables[0].rows[2][1:] == (*want.sum(axis=0), want.sum())
    test = stats.chi2_contingency(want, correction=False)
    assert table(found, 1)[0]["chi-square"] == pytest.approx(test.statistic, rel=1e-8)
    assert found.suppressed == 0


def test_a_small_cell_takes_others_with_it_and_the_chi_square():
    found = ask(build("contingency", {"down": "ecog", "across": "gender"}), hospitals())
    one = found.tables[0].rows[3]  # ecog 3: one man
    assert one == ("3", SUPPRESSED, 0, SUPPRESSED)
    more = [cell for row in found.tables[0].rows[:3] for cell in row if cell is SUPPRESSED]
    assert more
    assert table(found, 1)[0]["chi-square"] is SUPPRESSED
    assert found.suppressed == 2 + len(more) + sum(c is SUPPRESSED for c in found.tables[0].rows[4]) + 3


def test_cells_that_a_site_kept_back_are_no_numbers():
    question = build("contingency", SEX_DEAD)
    sums = question.partial(hospitals()[0], question.begin()).sums
    sums["counts"] = np.array([[20, 30], [40, 50]])
    hidden = {"counts": np.array([[True, False], [False, False]])}
    found = question.answer(question.combine(Total(sums, hidden), question.begin()))
    shown = found.tables[0].rows
    assert shown[0][1] is SUPPRESSED and shown[0][3] is SUPPRESSED and shown[2][1] is SUPPRESSED
    assert shown[2][3] is SUPPRESSED and shown[1][1:3] == (40, 50)


@pytest.mark.parametrize("strata", ["site", "gender"])
def test_odds_are_mantel_haenszels(strata: str):
    data = pick(rows(), ~np.isnan(rows()["frail"]))
    found = ask(build("odds", {"exposure": "frail", "outcome": "status", "strata": strata}), hospitals())
    by = data["inst"] if strata == "site" else data["sex"]
    tables = []
    for each in np.unique(by):
        inside = by == each
        made = [
            [((data["frail"] == a) & (data["status"] == b) & inside).sum() for b in (1, 0)] for a in (1, 0)
        ]
        if np.sum(made) > 1:
            tables.append(np.array(made, float))
    want = StratifiedTable(tables)
    row = table(found)[0]
    assert row["odds ratio"] == pytest.approx(want.oddsratio_pooled, rel=1e-8)
    assert row["95 % low"] == pytest.approx(want.oddsratio_pooled_confint()[0], rel=1e-8)
    assert row["p"] == pytest.approx(want.test_null_odds(correction=False).pvalue, rel=1e-8)


def test_odds_by_site_are_for_a_secure_sum_only_and_need_four_full_cells():
    said = {"exposure": "frail", "outcome": "status"}
    question = build("odds", said)
    assert not question.partial(hospitals()[0], question.begin()).alone
    data = rows()
    few = np.flatnonzero((data["frail"] == 1) & (data["status"] == 0))[4:]
    thinned = pick(data, np.setdiff1d(np.arange(len(data["age"])), few))
    for strata in ("site", "gender"):
        assert all_suppressed(ask(build("odds", {**said, "strata": strata}), hospitals(thinned)))
    with pytest.raises(DataError, match="levels"):
        ask(build("odds", {"exposure": "sex", "outcome": "status"}), hospitals())
    with pytest.raises(DataError, match="no stratum"):
        ask(build("odds", {**said, "where": "age > 900"}), hospitals())


EDGES = (40.0, 50.0, 60.0, 70.0, 80.0)


def test_a_histogram_is_that_of_the_pooled_rows():
    data = rows()
    found = ask(build("histogram", {"column": "age", "edges": EDGES}), hospitals())
    want = np.histogram(data["age"], [-math.inf, *EDGES[:-1], math.nextafter(80, 81), math.inf])[0]
    shown = [row["rows"] for row in table(found)]
    # One patient is 39, two are above 80: these bins are suppressed, and so is what tells them.
    assert [a for a, b in zip(shown, want.tolist(), strict=True) if a is not SUPPRESSED and a != b] == []
    assert shown[0] is SUPPRESSED and shown[-1] is SUPPRESSED and SUPPRESSED not in shown[2:-2]
    assert found.plots["histogram"].startswith("<svg")


@pytest.mark.parametrize("column", ["wt.loss", "dead"])
def test_the_bins_of_a_histogram_are_its_groups(column):
    here = hospitals()[0]
    edges = (-5.0, 0.0, 1.0, 10.0)
    said = {"column": column, "edges": edges, "where": "age > 60", "missing": "leave out"}
    question = build("histogram", said)
    _, groups = question.groups_of(here)
    told = question.partial(here, question.begin()).sums
    counts = [rows.bit_count() for rows in groups.values()]
    assert counts == [*told["counts"].tolist(), int(told["left_out"])]
    values = [
        None if value is None or not age > 60 else float(value)
        for value, age in zip(
            here.rows.column(column).to_pylist(), here.rows.column("age").to_pylist(), strict=True
        )
    ]
    last = sum(1 << place for place, each in enumerate(values) if each is not None and 1 <= each <= 10)
    assert groups["bin 3",] == last


def test_a_site_seen_alone_tells_no_bin_from_which_a_small_one_would_follow():
    here = asking.source(rows())
    counts = {}
    for protected in (True, False):
        common = agreed(minimum=5, protected=protected)
        question = build("histogram", {"column": "age", "edges": EDGES}, common)
        counts[protected] = question.partial(here, question.begin()).sums["counts"]
        groups = question.groups_of(here)[1]
        assert question.block == len(EDGES) + 2
    # One patient is 39, two are above 80.
    hidden = counts[False] == 1
    assert hidden[0] and hidden[-1] and hidden.sum() == 3 and counts[True][hidden].max() >= 5
    assert (counts[False] == counts[True])[~hidden].all()
    told = {
        ("below", "bin 1", "bin 2", "bin 3", "bin 4", "above")[at] for at in np.flatnonzero(counts[False] > 1)
    }
    assert set(groups) == {(name,) for name in (*told, "missing")}


def test_a_histogram_with_all_bins_full_shows_no_more():
    found = ask(build("histogram", {"column": "age", "edges": (0, 60, 70, 100)}), hospitals())
    data = rows()
    assert [row["rows"] for row in table(found)] == np.histogram(data["age"], [0, 60, 70, 100])[0].tolist()
    assert found.suppressed == 0


def test_a_histogram_of_few_rows_is_suppressed_and_one_of_none_an_error():
    few = pick(rows(), [0, 1, 2, 3])
    found = ask(build("histogram", {"column": "age", "edges": (0, 60, 100)}), hospitals(few))
    assert found.suppressed == len(found.tables[0].rows)
    with pytest.raises(DataError, match="no site"):
        ask(build("histogram", {"column": "age", "edges": (0, 1), "where": "age > 900"}), hospitals())


def test_quantiles_lie_in_their_intervals():
    data = rows()["time"]
    said = {"column": "time", "q": (0.1, 0.5, 0.9), "low": 0.0, "high": 2000.0, "width": 0.5}
    found = ask(build("quantiles", said), hospitals())
    for row, share in zip(table(found), (0.1, 0.5, 0.9), strict=True):
        want = np.quantile(data, share, method="inverted_cdf")
        assert row["low"] < want <= row["high"] and 0.5 < row["high"] - row["low"] <= 2000 / 16
        assert ((data > row["low"]) & (data <= row["high"])).sum() >= 5
    said |= {"width": 2000 / 64, "q": (0.5,)}
    (row,) = table(ask(build("quantiles", said), hospitals()))
    assert row["high"] - row["low"] == 31.25


@pytest.mark.parametrize("low", [0.0, 240.5, 250.0])
@pytest.mark.parametrize("width", [1e-3, 1.0, 30.0])
def test_a_quantile_is_narrowed_as_long_as_enough_rows_lie_within(low: float, width: float):
    data = rows()["time"]
    said = {"column": "time", "q": (0.5,), "low": low, "high": low + 900, "width": width}
    found = ask(build("quantiles", said), hospitals())
    (row,) = table(found)
    assert row["low"] < np.quantile(data, 0.5, method="inverted_cdf") <= row["high"]
    assert ((data > row["low"]) & (data <= row["high"])).sum() >= 5
    # The half of it that the median lies in holds fewer, or is narrower than asked.
    middle = (row["low"] + row["high"]) / 2
    half = (row["low"], middle) if np.median(data) <= middle else (middle, row["high"])
    within = ((data > half[0]) & (data <= half[1])).sum()
    assert within < 5 or row["high"] - row["low"] <= width
    wider = row["high"] - row["low"] > width
    assert wider == any(
        "narrowed until fewer than 5 rows would lie within" in n for n in found.tables[0].notes
    )


def test_many_rows_of_one_value_are_narrowed_to_the_width():
    data = pick(rows(), np.arange(200))
    data["time"][50:60] = 100.0
    share = float((data["time"] <= 100).mean())
    said = {"column": "time", "q": (share,), "low": 0.0, "high": 2000.0, "width": 0.5}
    (row,) = table(ask(build("quantiles", said), hospitals(data)))
    assert row["low"] < 100 <= row["high"] and row["high"] - row["low"] <= 0.5


def test_bounds_that_hold_few_rows_are_no_way_to_narrow_a_quantile():
    data = np.sort(rows()["time"])
    median = np.quantile(data, 0.5, method="inverted_cdf")
    said = {"column": "time", "q": (0.5,), "low": median - 0.2, "high": median + 0.2, "width": 0.1}
    assert 0 < (data == median).sum() < 5
    found = ask(build("quantiles", said), hospitals())
    assert found.suppressed == 3 and "or within the bounds" in found.tables[0].notes[0]


def test_a_quantile_of_a_few_rows_is_suppressed_and_no_round_closes_in_on_it():
    said = {"column": "time", "q": (0.5, 0.01, 0.99), "low": 0.0, "high": 2000.0, "width": 0.5}
    told = []
    found = ask(build("quantiles", said), hospitals(), seen=lambda say, part: told.append((say.told, part)))
    assert [row["low"] is SUPPRESSED for row in table(found)] == [False, True, True]
    assert told[-1][0]["state"]["shares"] == [0.5] and not told[-1][1].alone
    few = pick(rows(), [0, 1, 2])
    assert ask(build("quantiles", said), hospitals(few)).suppressed == 9
    with pytest.raises(DataError, match="no site"):
        ask(build("quantiles", {**said, "where": "age > 900"}), hospitals())
    with pytest.raises(DataError, match="above the bounds"):
        ask(build("quantiles", {**said, "q": (0.5,), "high": 100.0}), hospitals())


def test_frequent_values_are_counted():
    data = rows()
    found = ask(build("heavy_hitters", {"column": "ecog", "least": 5}), hospitals())
    want = {each: int((data["ecog"] == each).sum()) for each in ("0", "1", "2")}
    assert {row["value"]: row["count"] for row in table(found)} == want
    # One patient has another value.
    assert found.tables[0].notes[0].endswith("rows in all: suppressed")
    most = ask(build("heavy_hitters", {"column": "gender", "least": 5}), hospitals())
    assert most.tables[0].notes[0].startswith(f"{len(data['age'])} rows")
    with pytest.raises(JobError, match="least is 5; allowed: 9 or more"):
        build("heavy_hitters", {"column": "ecog", "least": 5}, agreed(minimum=9))


# Noise.

ASKED = [
    ("contingency", {"down": "ecog", "across": "gender"}),
    ("histogram", {"column": "age", "edges": EDGES}),
    ("quantiles", {"column": "time", "q": (0.25, 0.5), "low": 0.0, "high": 2000.0, "width": 1.0}),
    ("heavy_hitters", {"column": "ecog", "least": 5, "length": 3}),
]


@pytest.mark.parametrize(("kind", "said"), ASKED)
def test_each_row_adds_one_to_one_entry_of_each_array_and_nothing_else_is_sent(kind: str, said: dict):
    question = build(kind, said, PRIVATE)
    assert question.lacks_for_privacy() is None
    site, state = hospitals()[0], question.begin()
    part = question.partial(site, state)
    assert part.bounds == {name: Bounds(0, 1) for name in part.sums}
    for each in part.sums.values():
        assert each.sum() <= site.rows.num_rows and (each >= 0).all()
    one = type(site)("lung", site.rows.slice(0, 1))
    assert all(each.sum() in (0, 1) for each in question.partial(one, state).sums.values())


@pytest.mark.parametrize(("kind", "said"), ASKED)
@pytest.mark.parametrize("noise", [1e-6, 40.0])
def test_noise_small_or_large_breaks_nothing(kind: str, said: dict, noise: float):
    found = ask(build(kind, said, PRIVATE), hospitals(), noise)
    assert any("noise" in note for note in found.tables[0].notes)
    json.dumps([each.as_dict() for each in found.tables], allow_nan=False)
    assert "-" not in found.tables[0].to_csv().replace("e-", "")  # no negative count
    for each in found.tables:
        each.rich()


def test_tiny_noise_leaves_tables_as_they_are():
    found = ask(build("contingency", SEX_DEAD, PRIVATE), hospitals(), 1e-6)
    want = counts(rows()["sex"], rows()["status"])
    np.testing.assert_allclose(numbers(found, "False")[:2], want[:, 0], atol=1e-4)
    assert len(found.tables) == 1
    data = rows()["time"]
    said = {"column": "time", "q": (0.25, 0.5), "low": 0.0, "high": 2000.0, "width": 1.0}
    near = ask(build("quantiles", said, PRIVATE), hospitals(), 1e-6)
    for row, share in zip(table(near), (0.25, 0.5), strict=True):
        assert abs(row["middle"] - np.quantile(data, share, method="inverted_cdf")) <= 2.0


def test_values_that_nobody_has_are_not_found_in_noise():
    said = {"column": "ecog", "least": 5, "length": 3}
    found = ask(build("heavy_hitters", said, PRIVATE), hospitals(), 3.0)
    assert {row["value"] for row in table(found)} == {"0", "1", "2"}
    assert "values of fewer than 15 rows are not shown" in found.tables[0].notes[0]


def test_a_search_with_noise_takes_the_rounds_that_were_planned():
    for width, rounds in ((1000.0, 1), (2000.0 / 64, 1), (30.0, 2), (0.5, 2), (0.1, 3)):
        said = {"column": "time", "low": 0.0, "high": 2000.0, "width": width}
        question = build("quantiles", said, PRIVATE)
        seen: list[str] = []
        ask(question, hospitals()[:1], 5.0, seen=lambda told, _, seen=seen: seen.append(str(told)))
        assert question.rounds_for_privacy() == rounds == len(seen)


@pytest.mark.parametrize(
    ("kind", "said", "message"),
    [
        ("contingency", {"down": "gender", "across": "inst"}, "declare `levels`"),
        ("contingency", {"down": "gender", "across": "gender"}, "stands twice"),
        ("contingency", {"down": "gendr", "across": "sex"}, 'no column "gendr".*gender'),
        ("odds", {"exposure": "gender", "outcome": "status"}, "gender holds text"),
        ("odds", {"exposure": "frail", "outcome": "status", "strata": "inst"}, "declare `levels`"),
        ("histogram", {"column": "age", "edges": (1, 1)}, "edges do not rise"),
        ("histogram", {"column": "gender", "edges": (0, 1)}, "gender holds text"),
        ("quantiles", {"column": "age", "low": 9.0, "high": 1.0, "width": 1.0}, "bounds are 9.0 and 1.0"),
        ("quantiles", {"column": "age", "low": 0.0, "high": 1.0, "width": 1e-30}, "width is 1e-30"),
        ("quantiles", {"column": "age", "q": (0.5, 0.5), "low": 0.0, "high": 1.0, "width": 1.0}, "twice"),
        ("heavy_hitters", {"column": "age", "least": 5}, "age holds number"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_words(kind: str, said: dict, message: str):
    with pytest.raises(JobError, match=message):
        build(kind, said)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shares", []),
        ("shares", [0.1] * 4),
        ("low", {"dtype": "float64", "shape": [1], "values": ["nan"]}),
        ("low", {"dtype": "float64", "shape": [2], "values": [0.0, 0.0]}),
        ("shares", [0.25]),
        ("low", {"dtype": "float64", "shape": [1], "values": [1999.5]}),
        ("low", {"dtype": "float64", "shape": [1], "values": [-1.0]}),
        ("high", {"dtype": "float64", "shape": [1], "values": [0.0]}),
        ("name", "age"),
        ("cuts", 10**9),
        ("extra", 1),
    ],
)
def test_bounds_that_are_not_of_the_search_are_refused(field: str, value: object):
    said = {"column": "time", "q": (0.5,), "low": 0.0, "high": 2000.0, "width": 1.0}
    question = build("quantiles", said)
    state = question.begin()
    told = {**state.told, "state": {**state.told["state"], field: value}}
    with pytest.raises(JobError):
        question.partial(hospitals()[0], State(told))


@pytest.mark.parametrize(
    "prefixes", [[], ["zz"], ["61", "61"], ["61", "6161"], ["61" * 40], ["00"] * 60, "61"]
)
def test_prefixes_that_are_none_are_refused(prefixes: object):
    question = build("heavy_hitters", {"column": "ecog", "least": 5})
    with pytest.raises(JobError):
        question.partial(hospitals()[0], State({"round": "prefixes", "state": {"prefixes": prefixes}}))
