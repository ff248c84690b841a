"""Merging fine bins: monotone, large enough, and as good as the best of all merges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.vertical.monotone import merge


def plain_iv(groups: list[tuple[int, int]], goods: int, bads: int) -> float:
    """Information value of bins of (good, bad), in plain numbers."""
    total = 0.0
    for good, bad in groups:
        if good + bad == 0:
            continue
        half = 0.5 if good == 0 or bad == 0 else 0.0
        of_good, of_bad = (good + half) / goods, (bad + half) / bads
        total += (of_bad - of_good) * math.log(of_bad / of_good)
    return total


def every_merge(bins: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """All merges of neighbours."""
    found = []
    for cuts in itertools.product([False, True], repeat=len(bins) - 1):
        merged = [bins[0]]
        for cut, (good, bad) in zip(cuts, bins[1:], strict=True):
            if cut:
                merged.append((good, bad))
            else:
                merged[-1] = (merged[-1][0] + good, merged[-1][1] + bad)
        found.append(merged)
    return found


def monotone(groups: list[tuple[int, int]]) -> bool:
    # As whole numbers: bad_i / rows_i < bad_j / rows_j.
    pairs = list(itertools.pairwise(groups))
    rising = all(b * (g2 + b2) < b2 * (g + b) for (g, b), (g2, b2) in pairs)
    falling = all(b * (g2 + b2) > b2 * (g + b) for (g, b), (g2, b2) in pairs)
    return rising or falling


def allowed(groups: list[tuple[int, int]], max_bins: int, least: float) -> bool:
    return len(groups) == 1 or (
        len(groups) <= max_bins and monotone(groups) and all(sum(each) >= least for each in groups)
    )


def summed(bins: list[tuple[int, int]], groups: tuple[tuple[int, ...], ...]) -> list[tuple[int, int]]:
    return [(sum(bins[i][0] for i in each), sum(bins[i][1] for i in each)) for each in groups]


fine_bins = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda each: sum(each) > 0), min_size=1, max_size=7
)


@given(fine_bins, st.integers(2, 7), st.integers(0, 12), st.booleans())
def test_the_merge_is_allowed_and_none_that_is_has_a_larger_information_value(
    bins: list[tuple[int, int]], max_bins: int, least: int, ordered: bool
) -> None:
    goods, bads = sum(g for g, _ in bins) + 3, sum(b for _, b in bins) + 2
    groups = merge(
        [g for g, _ in bins],
        [b for _, b in bins],
        goods,
        bads,
        max_bins=max_bins,
        least=least,
        ordered=ordered,
    )
    assert sorted(each for group in groups for each in group) == list(range(len(bins)))
    if ordered:
        assert [each for group in groups for each in group] == list(range(len(bins)))
    merged = summed(bins, groups)
    assert allowed(merged, max_bins, least)
    in_order = bins if ordered else sorted(bins, key=lambda each: each[1] / sum(each))
    best = max(
        plain_iv(each, goods, bads) for each in every_merge(in_order) if allowed(each, max_bins, least)
    )
    assert plain_iv(merged, goods, bads) == pytest.approx(best, abs=1e-9)


def test_a_dip_in_the_bad_rate_is_merged_away() -> None:
    groups = merge([90, 80, 85, 60], [10, 20, 15, 40], 315, 85, max_bins=4, least=0)
    assert groups == ((0,), (1, 2), (3,))


def test_falling_rates_stay_falling() -> None:
    assert merge([10, 20, 30], [30, 20, 10], 60, 60, max_bins=3, least=0) == ((0,), (1,), (2,))


def test_equal_rates_are_one_bin() -> None:
    assert merge([10, 20, 10], [10, 20, 30], 40, 60, max_bins=3, least=0) == ((0, 1), (2,))


def test_two_bins_never_have_equal_rates_though_half_rows_make_them_look_better() -> None:
    # (0,), (1,), (2,) would have the largest information value of all.
    assert merge([1, 1, 98], [0, 0, 2], 100, 2, max_bins=3, least=0) == ((0,), (1, 2))


def test_bins_of_categories_are_ordered_by_their_bad_rate_and_categories_inside_a_bin_are_not() -> None:
    # Category 2 has a lower bad rate than category 0, which a partner that owns them is not told.
    groups = merge([50, 90, 51, 20], [50, 10, 49, 80], 211, 189, max_bins=3, least=0, ordered=False)
    assert groups == ((1,), (0, 2), (3,))


def test_one_fine_bin_and_an_empty_one_stay() -> None:
    assert merge([5], [0], 5, 5, max_bins=10, least=100) == ((0,),)
    assert merge([0], [0], 5, 5, max_bins=10, least=100) == ((0,),)


def test_a_share_that_no_two_bins_can_keep_leaves_one() -> None:
    assert merge([10, 10], [1, 9], 20, 10, max_bins=5, least=16) == ((0, 1),)


def test_the_most_fine_bins_merge_as_few_do() -> None:
    good, bad = np.arange(300, 45, -1), np.arange(45, 300)
    groups = merge(good, bad, int(good.sum()), int(bad.sum()), max_bins=64, least=0)
    assert len(groups) == 64
