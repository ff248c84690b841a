"""Exact assignments."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.network import flow
from fedcore.network.cell import Cell, cut
from fedcore.network.flow import COST_BITS, assign, prices, value, whole
from tests.fedcore.network.placing import network, policy, problem, random_offers


def cell(
    seed: int,
    owners: int,
    sites: int,
    pick: int,
    room: int,
    least: int,
    mandatory: int = 0,
    holes: float = 0.2,
) -> Cell:
    draw = np.random.default_rng(seed)
    cost = draw.normal(0.5, 1.0, (owners, sites))
    cost[draw.random((owners, sites)) < holes] = np.inf
    needed = np.zeros(owners, dtype=bool)
    needed[:mandatory] = True
    return Cell(
        1.0, np.arange(owners), cost, np.full(sites, room), np.ones(sites, dtype=bool), needed,
        draw.random(sites) * 0.2, pick, least, sites,
    )  # fmt: skip


def by_hand(of: Cell, opened: tuple[int, ...]) -> float:
    best = math.inf
    for choice in itertools.product((-1, *opened), repeat=len(of.rows)):
        load = [choice.count(site) for site in opened]
        if sum(load) != of.pick or not all(
            of.children_min <= n <= of.capacity[s] for n, s in zip(load, opened, strict=True)
        ):
            continue
        if any(of.mandatory[row] and site < 0 for row, site in enumerate(choice)):
            continue
        worth = sum(of.cost[row, site] for row, site in enumerate(choice) if site >= 0)
        best = min(best, worth + of.open_cost[list(opened)].sum())
    return best


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), owners=st.integers(3, 7), pick=st.integers(2, 5), room=st.integers(1, 4),
    least=st.integers(1, 2), mandatory=st.integers(0, 2),
)  # fmt: skip
def test_the_flow_is_what_trying_everything_finds(seed, owners, pick, room, least, mandatory):
    of = cell(seed, owners, 2, min(pick, owners), room, least, mandatory)
    found = assign(of, (0, 1))
    best = by_hand(of, (0, 1))
    if found is None:
        assert best == math.inf
    else:
        assert found.value == pytest.approx(best, abs=1e-9)
        assert value(of, found.site) == found.value


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), room=st.integers(9, 12), mandatory=st.integers(0, 5))
def test_many_arcs_solved_in_parts_are_worth_what_they_are_at_once(seed, room, mandatory):
    of = cell(seed, 120, 6, 40, room, 3, mandatory, holes=0.1)
    noise = np.random.default_rng(seed).normal(0, 0.1, of.cost.shape) + 0.1 * np.arange(6)
    of = replace(of, cost=np.where(np.isfinite(of.cost), of.cost[:, :1] * 0.1 + noise, np.inf))
    whole_at_once = assign(of, (0, 1, 2, 4, 5))
    before, flow.FEW_ARCS = flow.FEW_ARCS, 10
    try:
        in_parts = assign(of, (0, 1, 2, 4, 5))
    finally:
        flow.FEW_ARCS = before
    assert (whole_at_once is None) == (in_parts is None)
    if whole_at_once is not None and in_parts is not None:
        assert in_parts.value == pytest.approx(whole_at_once.value, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), room=st.integers(5, 15), mandatory=st.integers(0, 4))
def test_the_prices_prove_the_assignment(seed, room, mandatory):
    of = cell(seed, 30, 4, 15, room, 3, mandatory, holes=0.3)
    opened = (0, 1, 3)
    found = assign(of, opened)
    if found is None:
        return
    worth, paid = prices(of, found)
    priced = (of.cost + paid)[:, list(opened)]
    at = np.flatnonzero(found.site >= 0)
    out = np.flatnonzero(found.site < 0)
    assert (priced[out].min(axis=1, initial=np.inf) >= worth - 1e-9).all()
    own = of.cost[at, found.site[at]] + paid[found.site[at]]
    assert own == pytest.approx(priced[at].min(axis=1), abs=1e-9)
    assert (own[~of.mandatory[at]] <= worth + 1e-9).all()
    load = np.bincount(found.site[at], minlength=4)
    for site in opened:
        assert paid[site] <= 1e-9 or load[site] == of.capacity[site]
        assert paid[site] >= -1e-9 or load[site] == of.children_min


def test_a_scale_that_is_a_power_of_two_rounds_no_weight():
    weights = np.array([1.667, -0.3, 1e-7, 0.0])
    numbers = whole(weights)
    assert np.abs(numbers).max() < 2**COST_BITS
    power = COST_BITS - math.frexp(1.667)[1]
    assert numbers / 2.0**power == pytest.approx(weights, abs=2.0**-COST_BITS * 2)
    assert (whole(np.array([0.25, 3.0])) == np.array([0.25, 3.0]) * 2 ** (COST_BITS - 2)).all()


def test_sites_without_room_or_children_have_no_assignment():
    of = cell(1, 8, 2, 6, 2, 1, holes=0.0)
    assert assign(of, (0, 1)) is None
    assert assign(of, ()) is None
    assert assign(cell(1, 8, 2, 4, 8, 3, holes=0.0), (0, 1)) is None


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_owners_that_are_cut_off_are_not_missed(seed):
    found = problem(random_offers(seed, 30), network(3, 40.0), policy(6), seed=1)
    length = float(np.median(found.seconds)) * 1.5
    small = cut(found, length)
    if small is None:
        return
    allowed = np.where(found.seconds <= length, found.cost, np.inf)
    everybody = np.minimum.reduceat(allowed, found.first, axis=0)
    full = Cell(
        length, np.arange(len(everybody)), everybody, small.capacity, small.usable,
        np.zeros(len(everybody), dtype=bool), small.open_cost, small.pick, small.children_min, small.most_open,
    )  # fmt: skip
    for opened in ((0,), (0, 1), (1, 2)):
        one, other = assign(small, opened), assign(full, opened)
        assert (one is None) == (other is None)
        assert one is None or other is None or one.value == pytest.approx(other.value, abs=1e-9)
    assert len(small.rows) < len(full.rows)
