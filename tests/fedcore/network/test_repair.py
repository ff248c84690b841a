"""Repair after a loss, and when a better plan is worth a change."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import DataError, JobError, NoPlacement, PlanRefused
from fedcore.network.place import make_plan
from fedcore.network.plan import Fence, verify
from fedcore.network.policy import Hard, Participants, Replace
from fedcore.network.repair import Loss, repair, worth_changing
from tests.fedcore.network.placing import WORK, network, offer, policy, random_offers

TOPOLOGY = network(5, 60.0)
RULES = policy(10, standby=1)
OFFERS = random_offers(11, 25, 5, most=2)


@pytest.fixture(scope="module")
def plan():
    return make_plan(OFFERS, TOPOLOGY, RULES, WORK, "s0", job="risk")


def busiest(plan) -> str:
    return max(plan.aggregators, key=lambda use: (use.children, use.site)).site


def test_a_lost_aggregator_loses_no_participant_and_moves_only_its_children(plan):
    lost = busiest(plan)
    mended = repair(plan, OFFERS, TOPOLOGY, RULES, Loss(sites=[lost]))
    assert {one.owner for one in mended.plan.participants} == {one.owner for one in plan.participants}
    assert set(mended.moved) == set(plan.children(lost))
    assert lost not in {use.site for use in mended.plan.aggregators} | set(mended.plan.standby)
    assert verify(mended.plan, mended.offers, mended.topology, RULES).violations == ()


def test_the_repaired_plan_fences_off_the_broken_one(plan):
    mended = repair(plan, OFFERS, TOPOLOGY, RULES, Loss(sites=[busiest(plan)])).plan
    assert mended.version == plan.version + 1 and "aggregator" in mended.cause
    fence = Fence()
    fence.admit(mended.version)
    with pytest.raises(PlanRefused):
        fence.admit(plan.version)


def test_a_lost_node_is_replaced_and_the_others_stay(plan):
    one = plan.participants[0]
    nodes = [(o.owner, o.node) for o in OFFERS if o.owner == one.owner]
    mended = repair(plan, OFFERS, TOPOLOGY, RULES, Loss(nodes=nodes))
    assert mended.left == (one.owner,) and len(mended.joined) == 1
    stayed = {
        p.owner: (p.offer, p.aggregator) for p in mended.plan.participants if p.owner not in mended.joined
    }
    before = {p.owner: (p.offer, p.aggregator) for p in plan.participants if p.owner != one.owner}
    assert sum(stayed[owner] != before[owner] for owner in before) == len(mended.moved) <= 3
    assert verify(mended.plan, mended.offers, mended.topology, RULES).violations == ()


def test_a_newcomer_that_is_cheaper_pushes_nobody_out(plan):
    lost = plan.participants[0]
    nodes = [(o.owner, o.node) for o in OFFERS if o.owner == lost.owner]
    cheap = [
        offer(
            900 + i, f"new{i}", plan.participants[i].site, work_s=0.1, gco2_location=0.0, cost=0.0, trust=1.0
        )
        for i in range(4)
    ]
    mended = repair(plan, [*OFFERS, *cheap], TOPOLOGY, RULES, Loss(nodes=nodes))
    assert mended.left == (lost.owner,) and len(mended.joined) == 1 and mended.joined[0].startswith("new")


def test_another_node_of_the_same_owner_takes_over():
    offers = [offer(i, f"p{i}", "s0") for i in range(4)] + [offer(90, "p0", "s1", work_s=11.0)]
    rules = policy(4, standby=0)
    plan = make_plan(offers, network(2), rules, WORK, "s0")
    mended = repair(plan, offers, network(2), rules, Loss(nodes=[("p0", "n0")]))
    assert {one.owner: one.node for one in mended.plan.participants}["p0"] == "n90"


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_whatever_is_lost_the_repaired_plan_breaks_nothing(plan, data):
    nodes = data.draw(st.lists(st.sampled_from([(o.owner, o.node) for o in OFFERS]), max_size=12))
    sites = data.draw(st.lists(st.sampled_from(["s1", "s2", "s3"]), max_size=2, unique=True))
    links = data.draw(st.lists(st.sampled_from([("s3", "s4"), ("s2", "s3")]), max_size=1))
    dark = data.draw(st.sampled_from([[], ["s4"]]))
    loss = Loss(nodes=nodes, sites=sites, links=links, dark=dark)
    try:
        mended = repair(plan, OFFERS, TOPOLOGY, RULES, loss)
    except (NoPlacement, JobError):
        return
    assert verify(mended.plan, mended.offers, mended.topology, RULES).violations == ()
    gone = set(nodes)
    assert not any((one.owner, one.node) in gone or one.site in dark for one in mended.plan.participants)


def test_nothing_lost_changes_nothing_but_the_version(plan):
    mended = repair(plan, OFFERS, TOPOLOGY, RULES, Loss())
    assert (mended.moved, mended.joined, mended.left) == ((), (), ())
    assert mended.plan.quality.objective == pytest.approx(plan.quality.objective)


def test_all_nodes_of_a_mandatory_owner_down_is_said_by_name():
    rules = RULES.model_copy(update={"participants": Participants(pick=10, mandatory=("p003",))})
    plan = make_plan(OFFERS, TOPOLOGY, rules, WORK, "s0")
    nodes = [(o.owner, o.node) for o in OFFERS if o.owner == "p003"]
    with pytest.raises(JobError, match="p003"):
        repair(plan, OFFERS, TOPOLOGY, rules, Loss(nodes=nodes))


def test_too_few_left_is_no_placement(plan):
    keep = {one.owner for one in plan.participants[:5]}
    nodes = [(o.owner, o.node) for o in OFFERS if o.owner not in keep]
    with pytest.raises(NoPlacement):
        repair(plan, OFFERS, TOPOLOGY, RULES, Loss(nodes=nodes))
    fewer = RULES.model_copy(update={"participants": Participants(pick=10, min=4)})
    assert len(repair(plan, OFFERS, TOPOLOGY, fewer, Loss(nodes=nodes)).plan.participants) == 5


def test_a_lost_root_needs_another_root(plan):
    with pytest.raises(DataError, match="choose another root"):
        repair(plan, OFFERS, TOPOLOGY, RULES, Loss(dark=["s0"]))
    with pytest.raises(DataError, match="s9"):
        repair(plan, OFFERS, TOPOLOGY, RULES, Loss(sites=["s9"]))


def test_a_budget_still_holds_after_a_repair(plan):
    rules = policy(10, standby=1, hard=Hard(cost_per_round=plan.prediction.cost * 1.05))
    tight = make_plan(OFFERS, TOPOLOGY, rules, WORK, "s0")
    mended = repair(tight, OFFERS, TOPOLOGY, rules, Loss(sites=[busiest(tight)]))
    assert mended.plan.prediction.cost <= plan.prediction.cost * 1.05 * (1 + 1e-9)


def test_a_small_gain_or_an_early_one_is_not_worth_a_change(plan):
    rules = RULES.model_copy(update={"replace": Replace(min_gain=0.05, cooldown_rounds=3)})

    def better(share: float):
        return replace(plan, quality=replace(plan.quality, objective=plan.quality.objective * (1 - share)))

    assert not worth_changing(plan, better(0.04), rules, 10)
    assert not worth_changing(plan, better(0.06), rules, 2)
    assert worth_changing(plan, better(0.06), rules, 3)
    assert not worth_changing(plan, better(-0.5), rules, 10)
