"""Quantiles by rounds of counts: the interval holds the value, and never fewer values than the minimum."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedcore.analytics.disclosure import SUPPRESSED, suppressed_bins
from fedcore.analytics.quantile import MOST_ROUNDS, Search

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
