"""Search and bound against trying everything, and against each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.network import bound
from fedcore.network.bound import prove
from fedcore.network.evaluate import Placed, evaluate
from fedcore.network.found import score
from fedcore.network.policy import Hard, LatencyLimit, Participants, Weights
from fedcore.network.search import search
from tests.fedcore.network.placing import (
    WORK,
    brute_force,
    network,
    offer,
    policy,
    problem,
    random_offers,
)


@pytest.mark.parametrize("seed", range(8))
def test_the_search_finds_and_the_bound_does_not_exceed_what_trying_everything_finds(seed):
    sites = 2 if seed % 2 else 3
    offers = random_offers(seed, 6, sites, most=1 if seed % 3 else 2)
    topology, rules = network(sites, 20.0 + 30 * seed), policy(4 if seed % 2 else 6)
    found = problem(offers, topology, rules, seed=seed)
    best = brute_force(offers, topology, rules, found)
    placed = search(found)
    assert (placed is None) == (best is None)
    if placed is None or best is None:
        return
    assert placed.objective == pytest.approx(best.objective, rel=1e-9)
    proof = prove(found, placed, 1e-4, 20.0)
    assert best.objective - 2e-4 <= proof.bound <= best.objective + 1e-9


@pytest.mark.parametrize("tolerance", [0.2, 0.03])
@pytest.mark.parametrize("seed", range(3))
def test_the_bound_holds_also_below_a_bad_placement(monkeypatch, seed, tolerance):
    found = problem(random_offers(seed, 40, 3), network(3, 100.0), policy(8), seed=seed)
    good = search(found)
    at = found.first[np.argsort(found.seconds.min(axis=1)[found.first])[-8:]]
    bad = score(found, found.owner_of[np.sort(at)], np.sort(at), np.ones(8, dtype=np.int64))
    assert bad.objective > good.objective + 0.2
    # What turns up on the way must not stand in for the bound.
    monkeypatch.setattr(bound._Descent, "_note", lambda *_: None)
    assert prove(found, bad, tolerance, 20.0).bound <= good.objective + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_with_budgets_too(seed):
    offers = random_offers(seed, 6, 2, most=2)
    topology = network(2, 100.0)
    free = problem(offers, topology, policy(4), seed=seed)
    loose = search(free)
    grams, money = free.terms.of(loose.offers, loose.sites)
    rules = policy(4, hard=Hard(carbon_per_round_g=grams * 0.9, cost_per_round=money * 1.2))
    found = problem(offers, topology, rules, seed=seed)
    best, placed = brute_force(offers, topology, rules, found), search(found)
    if best is None:
        assert placed is None
        return
    assert placed is not None
    assert best.objective - 1e-9 <= placed.objective <= best.objective * 1.15
    used = found.terms.of(placed.offers, placed.sites)
    assert used[0] <= grams * 0.9 * (1 + 1e-9) and used[1] <= money * 1.2 * (1 + 1e-9)
    assert prove(found, placed, 0.01, 10.0).bound <= best.objective + 1e-9


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), pick=st.integers(6, 20), ingress=st.sampled_from([20.0, 100.0, 2000.0]))
def test_what_is_found_breaks_nothing_and_lies_above_its_bound(seed, pick, ingress):
    offers, topology = random_offers(seed, 40, 5, most=3), network(5, ingress)
    rules = policy(pick, hard=Hard(latency=LatencyLimit(circle="region"), round_deadline=200.0))
    found = problem(offers, topology, rules, seed=seed)
    placed = search(found)
    if placed is None:
        return
    parts = zip(placed.owners, placed.offers, placed.sites, strict=True)
    told = evaluate(
        [Placed(found.owners[o], found.offers[f].id, found.sites[s]) for o, f, s in parts],
        offers, topology, rules, WORK, "s0", found.scale,
    )  # fmt: skip
    assert told.violations == ()
    assert told.objective == pytest.approx(placed.objective, rel=1e-12)
    proof = prove(found, placed, 0.01, 5.0)
    assert proof.bound <= placed.objective
    assert proof.bound >= placed.objective - 0.05


def test_the_same_problem_has_the_same_answer_and_ties_go_by_name():
    offers = [offer(i, f"p{i}", "s0") for i in range(9)]
    answers = set()
    for order in range(4):
        shuffled = [offers[i] for i in np.random.default_rng(order).permutation(9)]
        found = problem(shuffled, network(), policy(4), seed=2)
        placed = search(found)
        answers.add(
            tuple((found.owners[o], found.sites[s]) for o, s in zip(placed.owners, placed.sites, strict=True))
        )
    assert len(answers) == 1


def test_a_mandatory_owner_is_in_although_it_is_slow():
    offers = [*random_offers(5, 20), offer(900, "slow", "s2", work_s=500.0)]
    rules = policy(5).model_copy(update={"participants": Participants(pick=5, mandatory=("slow",))})
    found = problem(offers, network(), rules)
    placed = search(found)
    assert "slow" in {found.owners[o] for o in placed.owners} and placed.round_s > 500


def test_a_deadline_that_nobody_keeps_has_no_placement():
    offers = [offer(i, f"p{i}", "s0", work_s=10.0 + i) for i in range(6)]
    assert search(problem(offers, network(), policy(4, hard=Hard(round_deadline=15.0)))) is None
    assert search(problem(offers, network(), policy(4, hard=Hard(round_deadline=18.0)))) is not None


def test_without_a_weight_on_time_the_cheapest_are_taken_however_slow():
    offers = [
        offer(i, f"p{i}", "s0", work_s=1000.0 if i < 4 else 1.0, cost=0.001 if i < 4 else 1.0)
        for i in range(8)
    ]
    rules = policy(4).model_copy(update={"weights": Weights(time=0, carbon=0, cost=1, latency=0, security=0)})
    found = problem(offers, network(), rules)
    placed = search(found)
    assert [found.owners[o] for o in placed.owners] == ["p0", "p1", "p2", "p3"]
    assert prove(found, placed, 1e-6, 5.0).bound == pytest.approx(placed.objective, rel=1e-4)


def test_room_that_is_scarce_opens_more_aggregators():
    offers = [offer(i, f"p{i:02d}", "s0") for i in range(12)]
    hurried = Weights(time=0.9, carbon=0.1, cost=0, latency=0, security=0)
    rules = policy(12).model_copy(update={"weights": hurried})
    wide, narrow = (search(problem(offers, network(3, ingress), rules)) for ingress in (5000.0, 75.0))
    assert len(wide.opened) == 1 and len(narrow.opened) > 1
    assert np.bincount(narrow.sites)[list(narrow.opened)].min() >= 3
