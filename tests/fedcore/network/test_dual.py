"""Bounds of a cell: by prices and by HiGHS, against trying every set of sites."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.network.aggregators import place_aggregators
from fedcore.network.cell import Cell
from fedcore.network.dual import ascend, fewest_sites, from_flow, relaxed, worthwhile
from fedcore.network.flow import assign
from fedcore.network.milp import solve_cell

CELLS = {
    "seed": st.integers(0, 10**6),
    "room": st.integers(4, 12),
    "mandatory": st.integers(0, 3),
    "holes": st.sampled_from([0.0, 0.3]),
}


def cell(seed: int, room: int, mandatory: int, holes: float, sites: int = 5) -> Cell:
    draw = np.random.default_rng(seed)
    cost = draw.lognormal(0, 0.5, (24, 1)) * draw.lognormal(0, 0.4, (24, sites))
    cost[draw.random((24, sites)) < holes] = np.inf
    needed = np.zeros(24, dtype=bool)
    needed[:mandatory] = True
    usable = np.isfinite(cost).sum(axis=0) >= 3
    return Cell(
        1.0,
        np.arange(24),
        cost,
        np.full(sites, room),
        usable,
        needed,
        draw.uniform(0.0, 2.0, sites),
        10,
        3,
        sites,
    )


def best(of: Cell) -> float:
    sets = itertools.chain.from_iterable(itertools.combinations(range(5), size) for size in range(1, 4))
    values = [found.value for opened in sets if (found := assign(of, opened)) is not None]
    return min(values, default=float("inf"))


@settings(max_examples=30, deadline=None)
@given(**CELLS)
def test_prices_and_programs_bound_from_below_and_the_search_from_above(seed, room, mandatory, holes):
    of = cell(seed, room, mandatory, holes)
    least = best(of)
    found = place_aggregators(of)
    assert (found is None) == (least == float("inf"))
    if found is None:
        return
    assert found.value >= least - 1e-9
    dual = ascend(of, *from_flow(of, found), found.value, 200)
    assert dual.bound <= least + 1e-9
    pairs, must = worthwhile(of, dual, found.value + 1e-6)
    solved = solve_cell(of, pairs, must, 20.0)
    assert solved.bound == pytest.approx(least, rel=1e-6)
    again = solve_cell(of, np.isfinite(of.cost), np.where(of.usable, 0, -1), 20.0)
    assert again.bound == pytest.approx(least, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(worth=st.floats(-1, 5), spread=st.floats(0, 3), **CELLS)
def test_whatever_the_prices_the_bound_holds(worth, spread, seed, room, mandatory, holes):
    of = cell(seed, room, mandatory, holes)
    least = best(of)
    owner = np.random.default_rng(seed).uniform(0, spread, 24)
    bound, _, _ = relaxed(of, owner, worth, fewest_sites(of))
    assert bound <= least + 1e-9


def test_the_bound_is_close_where_room_is_not_scarce():
    gaps = []
    for seed in range(10):
        of = cell(seed, 12, 0, 0.0)
        found = place_aggregators(of)
        assert found is not None
        gaps.append((best(of) - ascend(of, *from_flow(of, found), found.value, 300).bound) / best(of))
    assert np.median(gaps) < 0.02


def test_what_cannot_be_has_an_infinite_bound():
    of = cell(1, 4, 0, 0.0, sites=2)
    solved = solve_cell(of, np.isfinite(of.cost), np.zeros(2, dtype=np.int64), 5.0)
    assert solved.bound == np.inf and solved.opened is None


def test_fewest_sites_have_room_for_all():
    assert fewest_sites(cell(1, 4, 0, 0.0)) == 3
    assert fewest_sites(cell(1, 10, 0, 0.0)) == 1


@settings(max_examples=30, deadline=None)
@given(steps=st.integers(1, 40), **CELLS)
def test_what_the_prices_rule_out_is_in_no_assignment_below_the_limit(steps, seed, room, mandatory, holes):
    of = cell(seed, room, mandatory, holes)
    found = place_aggregators(of)
    if found is None:
        return
    limit = found.value * 1.15
    pairs, must = worthwhile(of, ascend(of, *from_flow(of, found), limit, steps), limit)
    for size in (1, 2, 3):
        for opened in itertools.combinations(range(5), size):
            other = assign(of, opened)
            if other is not None and other.value <= limit:
                at = np.flatnonzero(other.site >= 0)
                assert pairs[at, other.site[at]].all()
                assert not (must[list(opened)] == -1).any()
                assert set(np.flatnonzero(must == 1)) <= set(opened)


def test_sites_that_only_fit_together_are_found():
    cost = np.full((6, 3), np.inf)
    cost[:3, 0], cost[3:, 1], cost[[0, 1, 3, 4], 2] = 1.0, 1.0, 0.1
    every = np.ones(3, dtype=bool)
    of = Cell(1.0, np.arange(6), cost, np.full(3, 3), every, np.zeros(6, dtype=bool), np.zeros(3), 6, 3, 2)
    found = place_aggregators(of)
    assert found is not None and found.opened == (0, 1)
