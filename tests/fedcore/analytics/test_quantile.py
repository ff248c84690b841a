"""Quantiles by rounds of counts: the interval holds the value, and never fewer values than the minimum."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedcore.analytics.disclosure import SUPPRESSED, suppressed_bins
from fedcore.analytics.quantile import MOST_ROUNDS, NoisySearch, Search, noisy_rounds

VALUES = st.lists(
    st.one_of(st.integers(-50, 50).map(float), st.floats(-1e6, 1e6, allow_subnormal=False)),
    min_size=5,
    max_size=200,
)


def searched(values: list[float], q: float, width: float | None, *, hide: bool = False) -> Search:
    search = Search(q, len(values), 5, width)
    while not search.done:
        edges = np.array(search.edges)
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).tolist()
        search = search.told(suppressed_bins(counts, 5) if hide else counts)
    return search


@given(VALUES, st.floats(0.01, 0.99), st.none() | st.floats(1e-3, 10), st.booleans())
def test_the_interval_holds_the_quantile_and_the_minimum(
    values: list[float], q: float, width: float | None, hide: bool
) -> None:
    search = searched(values, q, width, hide=hide)
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    found = search.found
    assert found is not None and found.low <= exact < found.high and search.rounds <= MOST_ROUNDS
    assert sum(found.low <= value < found.high for value in values) >= 5


def test_ties_are_narrowed_to_the_width() -> None:
    found = searched([7.0] * 50, 0.5, 1e-6).found
    assert found is not None and found.width <= 1e-6 and found.low <= 7 < found.high


def test_nothing_known_but_the_number_says_nothing() -> None:
    search = Search(0.5, 20, 5)
    search = search.told([SUPPRESSED] * (len(search.edges) + 1))
    assert search.done and search.found is not None and search.found.width == math.inf


@given(VALUES, st.floats(0.01, 0.99), st.booleans())
def test_values_beyond_the_bounds_count_at_them(values: list[float], q: float, noisy: bool) -> None:
    bounds = (-10.0, 30.0)
    search: Search | NoisySearch = Search(q, len(values), 5, 0.5, None, bounds)
    if noisy:
        search = NoisySearch.begun(q, bounds, 0.5)
    while (search.rounds > 0) if isinstance(search, NoisySearch) else not search.done:
        edges = np.array(search.edges)
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).tolist()
        search = search.told(counts)
    exact = min(30.0, max(-10.0, sorted(values)[max(1, math.ceil(q * len(values))) - 1]))
    found = search.found
    assert found is not None and -10 <= found.low <= exact <= found.high <= 30
    assert exact < found.high or found.high == 30


@given(VALUES, st.integers(5, 200))
def test_a_rank_is_found_in_the_place_of_a_share(values: list[float], rank: int) -> None:
    search = Search(0.5, len(values), 5, None, rank)
    while not search.done:
        edges = np.array(search.edges)
        search = search.told(
            np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).tolist()
        )
    assert search.found is not None
    assert search.found.low <= sorted(values)[min(rank, len(values)) - 1] < search.found.high


def test_noisy_rounds_follow_from_bounds_and_width() -> None:
    assert [noisy_rounds((0, 100), width) for width in (200, 100, 3.2, 3, 0.1, None)] == [1, 1, 1, 2, 2, 2]


@given(st.lists(st.integers(-50, 50), min_size=34, max_size=34), st.floats(0.01, 0.99))
def test_any_counts_narrow_a_noisy_search(counts: list[int], q: float) -> None:
    search = NoisySearch.begun(q, (0.0, 32.0), 1.0).told(counts)
    assert search.rounds == 0 and search.found.width == 1 and 0 <= search.found.low < 32
