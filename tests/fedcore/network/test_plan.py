"""Plans: made, judged, written, read, fenced."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import DataError, JobError, NoPlacement, PlanRefused
from fedcore.network.place import make_plan
from fedcore.network.plan import Fence, load_plan, save_plan, verify
from fedcore.network.policy import Fairness, Hard, Participants, Utility
from tests.fedcore.network.placing import WORK, network, offer, policy, random_offers

TOPOLOGY = network(4, 100.0)
RULES = policy(8, standby=1)
OFFERS = random_offers(4, 20, 4, most=3)


def made(offers=OFFERS, rules=RULES, topology=TOPOLOGY, **more):
    return make_plan(offers, topology, rules, WORK, "s0", **more)


def without_times(plan):
    return replace(plan, quality=replace(plan.quality, seconds=0.0, proof_seconds=0.0))


def test_a_plan_says_who_where_what_it_takes_how_good_it_is_and_why_not_else():
    plan = made(job="risk", gap=0.01, seed=3)
    assert len(plan.participants) == 8 and plan.job == "risk" and plan.version == 1 and plan.seed == 3
    by_id = {one.id: one for one in OFFERS}
    for one in plan.participants:
        assert by_id[one.offer].owner == one.owner and by_id[one.offer].node == one.node
        assert 0 < one.expected.seconds <= plan.prediction.round_s
    assert sum(use.children for use in plan.aggregators) == 8
    assert all(3 <= use.children <= use.capacity for use in plan.aggregators)
    assert len(plan.standby) == 1 and plan.standby[0] not in {use.site for use in plan.aggregators}
    assert sum(plan.prediction.terms.values()) == pytest.approx(plan.quality.objective)
    assert plan.quality.bound <= plan.quality.objective <= plan.quality.random
    assert 0 <= plan.quality.gap <= 0.011
    assert sum(plan.prediction.circles.values()) == 8
    assert {one.what for one in plan.rejected} == {"site", "offer", "owner"}
    chosen = {one.offer for one in plan.participants}
    assert all(one.name not in chosen and one.reason for one in plan.rejected)


@settings(max_examples=8, deadline=None)
@given(order=st.integers(0, 10_000))
def test_the_order_of_the_offers_does_not_change_the_plan(order):
    shuffled = [OFFERS[i] for i in np.random.default_rng(order).permutation(len(OFFERS))]
    assert without_times(made(shuffled)) == without_times(made())


def test_the_same_seed_gives_the_same_plan_also_with_ties():
    alike = [offer(i, f"p{i:02d}", f"s{i % 2}") for i in range(12)]
    assert without_times(made(alike, seed=5)) == without_times(made(alike[::-1], seed=5))


def test_a_plan_is_read_as_it_was_written_and_verified(tmp_path):
    plan = made(gap=0.05)
    save_plan(plan, tmp_path / "plan.json")
    read = load_plan(tmp_path / "plan.json")
    assert read == plan
    assert verify(read, OFFERS, TOPOLOGY, RULES).violations == ()


def test_a_plan_of_other_offers_another_map_or_another_policy_is_refused():
    plan = made()
    with pytest.raises(PlanRefused, match="other offers"):
        verify(plan, [replace(OFFERS[0], cost=9.0), *OFFERS[1:]], TOPOLOGY, RULES)
    with pytest.raises(PlanRefused, match="other topology"):
        verify(plan, OFFERS, network(4, 101.0), RULES)
    with pytest.raises(PlanRefused, match="other policy"):
        verify(plan, OFFERS, TOPOLOGY, policy(9, standby=1))


def test_a_plan_that_was_changed_does_not_pass_for_what_it_says():
    plan = made()
    better = replace(plan, prediction=replace(plan.prediction, round_s=plan.prediction.round_s / 2))
    with pytest.raises(PlanRefused, match="says round_s"):
        verify(better, OFFERS, TOPOLOGY, RULES)
    foreign = replace(plan.participants[0], offer=plan.participants[1].offer)
    with pytest.raises(PlanRefused, match="worked on by a node of"):
        verify(replace(plan, participants=(foreign, *plan.participants[1:])), OFFERS, TOPOLOGY, RULES)
    with pytest.raises(PlanRefused, match="standby"):
        verify(replace(plan, standby=()), OFFERS, TOPOLOGY, RULES)


def test_an_older_plan_does_not_replace_a_newer_one(tmp_path):
    file = tmp_path / "plan.json"
    save_plan(made(version=3), file)
    with pytest.raises(PlanRefused, match="plan 2 is older"):
        save_plan(made(version=2), file)
    with pytest.raises(PlanRefused, match="plan 4 was seen"):
        load_plan(file, at_least=4)
    assert load_plan(file, at_least=3).version == 3
    save_plan(made(version=1, job="another"), file)


def test_the_fence_remembers_over_a_restart(tmp_path):
    fence = Fence(tmp_path / "state" / "newest")
    fence.admit(4)
    fence.admit(4)
    with pytest.raises(PlanRefused, match="plan 3 is older than plan 4"):
        fence.admit(3)
    again = Fence(tmp_path / "state" / "newest")
    with pytest.raises(PlanRefused):
        again.admit(3)
    again.admit(5)
    assert Fence(tmp_path / "state" / "newest").newest == 5


@pytest.mark.parametrize(
    "spoil", [{"form": 9}, {"participants": [{}]}, {"extra": 1}, {"work": {"down_mb": "x"}}]
)
def test_something_else_is_not_a_plan(tmp_path, spoil):
    file = tmp_path / "plan.json"
    save_plan(made(), file)
    file.write_text(json.dumps({**json.loads(file.read_text()), **spoil}))
    with pytest.raises(DataError, match="not a plan file"):
        load_plan(file)
    file.write_text("{")
    with pytest.raises(DataError, match="not a plan file"):
        load_plan(file)


def test_fewer_than_asked_for_are_taken_down_to_the_minimum():
    late = Hard(round_deadline=20.0)
    offers = [offer(i, f"p{i}", "s0", work_s=5.0 if i < 6 else 100.0) for i in range(10)]
    rules = policy(9, hard=late).model_copy(update={"participants": Participants(pick=9, min=4)})
    assert len(made(offers, rules).participants) == 6
    strict = policy(9, hard=late).model_copy(update={"participants": Participants(pick=9, min=7)})
    with pytest.raises(NoPlacement, match="7 of 10"):
        made(offers, strict)


def test_everybody_is_taken_where_the_policy_does_not_pick():
    assert len(made(rules=policy(None)).participants) == 20


def test_fairness_brings_in_who_is_due():
    plan = made()
    inside = {one.owner for one in plan.participants}
    outside = sorted({one.owner for one in OFFERS} - inside)
    rules = RULES.model_copy(update={"fairness": Fairness(window=4, min_rate=0.25)})
    fair = made(rules=rules, history=[inside] * 3)
    assert set(fair.forced) & set(outside)
    assert set(fair.forced) <= {one.owner for one in fair.participants}


def test_utility_pulls_in_who_is_worth_more():
    useful = [replace(one, utility=50.0 if one.owner == "p007" else 1.0, work_s=60.0) for one in OFFERS]
    plain = made(useful)
    rules = RULES.model_copy(
        update={"participants": Participants(pick=8, utility=Utility(weight=1.0, epsilon=1.0))}
    )
    told = made(useful, rules)
    assert "p007" in {one.owner for one in told.participants}
    assert plain.prediction.terms["utility"] == 0 > told.prediction.terms["utility"]


def test_an_impossible_offer_is_refused_before_anything_is_placed():
    with pytest.raises(DataError, match="work_s"):
        made([replace(OFFERS[0], work_s=-1.0), *OFFERS[1:]])


def test_no_admissible_offer_says_why():
    with pytest.raises(JobError, match="security level 3 is below 5"):
        made(rules=policy(8, hard=Hard(security_level=5)), topology=network(4, 100.0, security=5))
