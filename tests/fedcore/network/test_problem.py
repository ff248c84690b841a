"""The numbers of a placement, and who is admitted to it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import DataError, JobError
from fedcore.network.evaluate import Placed, evaluate
from fedcore.network.found import score
from fedcore.network.policy import Aggregators, Hard, LatencyLimit, Needed, Participants
from fedcore.network.problem import Work, build
from fedcore.network.reference import Scale, random_choice
from fedcore.network.topology import TopologyFile, topology_from
from tests.fedcore.network.placing import WORK, network, offer, policy, problem, random_offers


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), pick=st.integers(3, 9), ingress=st.sampled_from([5.0, 200.0, 5000.0]))
def test_every_placement_is_worth_to_the_search_what_the_judge_says(seed, pick, ingress):
    offers, topology, rules = random_offers(seed, 10), network(3, ingress), policy(pick)
    found = problem(offers, topology, rules, seed=seed)
    chosen, sites = random_choice(found, np.random.default_rng(seed))
    own = score(found, found.owner_of[chosen], chosen, sites)
    placed = [
        Placed(found.offers[o].owner, found.offers[o].id, found.sites[s])
        for o, s in zip(chosen, sites, strict=True)
    ]
    told = evaluate(placed, offers, topology, rules, WORK, "s0", found.scale)
    assert told.objective == pytest.approx(own.objective, rel=1e-12)
    assert told.round_s == pytest.approx(own.round_s, rel=1e-12)
    grams, money = found.terms.of(chosen, sites)
    assert (told.gco2_location, told.cost) == (pytest.approx(grams), pytest.approx(money))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_offers_changes_nothing(seed):
    offers = random_offers(seed, 12)
    shuffled = [offers[i] for i in np.random.default_rng(seed).permutation(len(offers))]
    one, other = (problem(these, network(), policy(5), seed=3) for these in (offers, shuffled))
    assert one.offers == other.offers and one.scale == other.scale
    assert np.array_equal(one.cost, other.cost) and np.array_equal(one.seconds, other.seconds)


def test_a_round_trip_by_hand():
    rules = policy(3)
    offers = [offer(i, f"p{i}", "s1", up_mbit_s=80.0, down_mbit_s=160.0, work_s=10.0) for i in range(3)]
    found = problem(offers, network(2), rules)
    ms = 400 * 0.005 + 0.05
    trips = 2 * 2 * ms / 1000
    trunk = 20 * 8 / 1000 + 20 * 8 / 1000 + trips
    inside = 2 * 2 * 0.1 / 1000
    merge = 20 / 1000
    assert found.seconds[0].tolist() == pytest.approx(
        [10 + 2 + 1 + trips + merge, 10 + 2 + 1 + inside + merge + trunk]
    )
    assert found.intake_s.tolist() == pytest.approx([20 * 8 / 200 / 0.5] * 2)
    assert found.capacity(16.0).tolist() == [3, 3]


def test_each_term_is_divided_by_its_mean_over_random_placements():
    found = problem(random_offers(3, 30), network(), policy(10), seed=5)
    draw = np.random.default_rng(5)
    rows = [random_choice(found, draw) for _ in range(50)]
    assert found.scale.grams == pytest.approx(np.mean([found.terms.of(*row)[0] for row in rows]))
    values = [score(found, found.owner_of[o], o, s).objective for o, s in rows]
    assert np.mean(values) == pytest.approx(1.0)


REFUSALS = [
    ({"jurisdiction": "US"}, {}, "jurisdiction US"),
    ({"security": 2}, {"security_level": 3}, "security level 2 is below 3"),
    ({"attested": ()}, {"attestation_any": ("tee_quote",)}, "tee_quote was verified"),
    ({"trust": 0.4}, {"trust": 0.5}, "trust 0.4 is below 0.5"),
    ({"memory_gb": 0.5}, {}, "the work needs 1"),
]


@pytest.mark.parametrize(("values", "hard", "says"), REFUSALS)
def test_an_offer_that_the_policy_does_not_admit_is_left_out_with_the_reason(values, hard, says):
    offers = [offer(i, f"p{i}", "s0") for i in range(4)] + [offer(9, "p9", "s0", **values)]
    rules = policy(4, hard=Hard(**hard))
    found = build(offers, network(), rules, replace(WORK, memory_gb=1.0), "s0")
    assert "p9" not in found.owners
    assert says in next(one.reason for one in found.rejected if one.owner == "p9")


@pytest.mark.parametrize(("values", "hard", "says"), REFUSALS)
def test_the_judge_finds_an_offer_that_the_policy_does_not_admit(values, hard, says):
    offers = [offer(i, f"p{i}", "s0") for i in range(3)] + [offer(9, "p9", "s0", **values)]
    placed = [Placed(one.owner, one.id, "s0") for one in offers]
    rules = policy(4, hard=Hard(**hard))
    told = evaluate(placed, offers, network(), rules, replace(WORK, memory_gb=1.0), "s0", Scale())
    assert told.violations and all(text.startswith("p9") for text in told.violations)


def test_an_offer_that_lies_about_its_sites_law_is_left_out():
    file = network().file
    sites = {**file.sites, "s2": file.sites["s2"].model_copy(update={"jurisdiction": "HK"})}
    topology = topology_from(file.model_copy(update={"sites": sites}))
    offers = [offer(i, f"p{i}", "s0") for i in range(4)] + [offer(9, "p9", "s2", jurisdiction="CN")]
    found = problem(offers, topology, policy(4))
    assert "p9" not in found.owners and "s2" not in found.sites


def test_the_judge_sees_what_concerns_the_placement_as_a_whole():
    offers = [offer(i, f"p{i}", "s0") for i in range(6)]
    rules = policy(4, standby=1, hard=Hard(round_deadline=1.0, cost_per_round=0.001, carbon_per_round_g=0.1))
    rules = rules.model_copy(update={"participants": Participants(pick=4, mandatory=("p5",))})
    placed = [
        Placed("p0", "o0000", "s0"),
        Placed("p1", "o0001", "s1"),
        Placed("p1", "o0002", "s1"),
        Placed("p4", "zz", "s0"),
    ]
    told = evaluate(placed, offers, network(), rules, WORK, "s0", Scale(), forced=("p3",), barred=("p0",))
    said = " | ".join(told.violations)
    for text in (
        "p1 is placed twice", "p1: its data would be worked on by a node of p2", "p4: there is no offer zz",
        "p5 is mandatory", "p3 is due", "p0 has taken part too often", "has 1 children, fewer than 3",
        "0 standby sites", "the round takes", "the round costs", "the round emits", "3 participants",
    ):  # fmt: skip
        assert text in said


def test_a_pair_outside_the_circle_is_not_allowed_and_the_judge_agrees():
    offers = [offer(i, f"p{i}", "s0") for i in range(5)]
    rules = policy(4, hard=Hard(latency=LatencyLimit(circle="city")))
    found = problem(offers, network(), rules)
    assert np.isfinite(found.seconds).tolist() == [[True, False, False]] * 5
    told = evaluate(
        [Placed(one.owner, one.id, "s1") for one in offers[:4]], offers, network(), rules, WORK, "s0", Scale()
    )
    assert "outside the city circle" in told.violations[0]


def test_links_that_nobody_measured_are_left_out_where_the_policy_asks_for_measured_ones():
    rules = policy(3, hard=Hard(evidence=Needed(link="declared")))
    found = problem([offer(i, f"p{i}", "s0") for i in range(4)], network(), rules)
    assert np.isfinite(found.seconds[0]).tolist() == [True, True, False]
    with pytest.raises(JobError, match="no offer is left"):
        problem(
            [offer(i, f"p{i}", "s0") for i in range(4)],
            network(),
            policy(3, hard=Hard(evidence=Needed(link="measured"))),
        )


def test_a_node_without_any_path_is_left_out_and_none_at_all_is_an_error():
    file = network().file
    cut_off = topology_from(file.model_copy(update={"links": file.links[:1]}))
    offers = [offer(i, f"p{i}", "s0") for i in range(4)] + [offer(9, "p9", "s2")]
    found = problem(offers, cut_off, policy(4))
    assert "p9" not in found.owners and "s2" not in found.sites
    with pytest.raises(JobError, match="no offer is left"):
        problem([offer(9, "p9", "s2")], cut_off, policy(1))


def test_a_mandatory_owner_without_an_offer_is_named():
    rules = policy(3).model_copy(update={"participants": Participants(pick=3, mandatory=("bank-a",))})
    with pytest.raises(JobError, match="bank-a"):
        problem([offer(i, f"p{i}", "s0") for i in range(4)], network(), rules)


def test_an_unknown_site_is_named_with_the_nearest():
    with pytest.raises(DataError, match='"s01"'):
        problem([offer(1, "p1", "s01")], network(), policy(1))
    with pytest.raises(DataError, match='"root"'):
        build([offer(1, "p1", "s0")], network(), policy(1), WORK, "root")


def test_a_map_on_which_nobody_can_aggregate_is_refused():
    file = network().file
    plain = {name: site.model_copy(update={"aggregator": None}) for name, site in file.sites.items()}
    topology = topology_from(TopologyFile(**{**file.model_dump(), "sites": plain}))
    with pytest.raises(JobError, match="no site can aggregate"):
        problem([offer(1, "p1", "s0")], topology, policy(1))


def test_standby_needs_a_site_of_its_own():
    with pytest.raises(JobError, match="standby to at most 0"):
        problem([offer(i, f"p{i}", "s0") for i in range(4)], network(1), policy(3, standby=1))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1e9])
def test_absurd_work_is_refused(value):
    with pytest.raises(JobError, match="up_mb"):
        Work(down_mb=1, up_mb=value)


def test_aggregators_of_participants_are_used_only_where_the_policy_says_so():
    topology = network(2, owner="p1")
    with pytest.raises(JobError, match="belongs to p1"):
        problem([offer(1, "p1", "s0")], topology, policy(1))
    rules = policy(1).model_copy(
        update={"aggregators": Aggregators(owners=("neutral", "participant"), standby=0)}
    )
    assert problem([offer(1, "p1", "s0")], topology, rules).sites == ("s0", "s1")
