"""Infeasible policies: which constraints to give up."""

import itertools

import pytest

from fedcore.errors import JobError, NoPlacement
from fedcore.network.place import make_plan
from fedcore.network.policy import Hard, LatencyLimit, Participants
from fedcore.network.relax import relaxations
from fedcore.network.topology import topology_from
from tests.fedcore.network.placing import WORK, network, offer, policy, random_offers

TOPOLOGY = network(3)
OFFERS = [offer(i, f"p{i}", "s0", work_s=10.0 + 10 * i, security=3 if i < 3 else 4) for i in range(6)]


def told(rules, offers=OFFERS, topology=TOPOLOGY):
    return relaxations(offers, topology, rules, WORK, "s0")


def test_a_policy_that_can_be_kept_has_nothing_to_relax():
    assert told(policy(4, standby=1)) == ()


def test_a_deadline_that_is_too_short_is_named_with_one_that_suffices():
    rules = policy(4, hard=Hard(round_deadline=20.0))
    found = told(rules)
    assert [one.constraints for one in found] == [("hard.round_deadline",)]
    enough = found[0].enough["hard.round_deadline"]
    assert str(enough) in str(found[0])
    with pytest.raises(NoPlacement):
        make_plan(OFFERS, TOPOLOGY, rules, WORK, "s0")
    longer = policy(4, hard=Hard(round_deadline=enough))
    assert make_plan(OFFERS, TOPOLOGY, longer, WORK, "s0").prediction.round_s <= enough


@pytest.mark.parametrize(
    ("hard", "key"),
    [
        (Hard(cost_per_round=0.01), "hard.cost_per_round"),
        (Hard(carbon_per_round_g=0.5), "hard.carbon_per_round_g"),
        (Hard(security_level=4), "hard.security_level"),
        (Hard(attestation_any=("svid",)), "hard.attestation_any"),
        (Hard(trust=0.95), "hard.trust"),
        (Hard(jurisdiction=("DE",)), "hard.jurisdiction"),
    ],
)
def test_the_one_constraint_that_is_in_the_way_is_named(hard, key):
    found = told(policy(6, hard=hard))
    assert (key,) in [one.constraints for one in found]
    assert all(len(one.constraints) == 1 for one in found)


def test_a_value_that_is_named_suffices_and_a_stricter_one_does_not():
    offers = random_offers(3, 12)
    free = make_plan(offers, TOPOLOGY, policy(8), WORK, "s0").prediction
    rules = policy(8, hard=Hard(cost_per_round=free.cost / 4))
    (found,) = [one for one in told(rules, offers) if one.constraints == ("hard.cost_per_round",)]
    enough = found.enough["hard.cost_per_round"]
    make_plan(offers, TOPOLOGY, policy(8, hard=Hard(cost_per_round=enough)), WORK, "s0")
    with pytest.raises(NoPlacement):
        make_plan(offers, TOPOLOGY, policy(8, hard=Hard(cost_per_round=enough * 0.85)), WORK, "s0")


def test_the_circle_and_the_level_that_suffice_are_named():
    offers = [offer(i, f"p{i}", "s2", security=2) for i in range(4)]
    file = network(3).file
    sites = {**file.sites, "s2": file.sites["s2"].model_copy(update={"aggregator": None})}
    topology = topology_from(file.model_copy(update={"sites": sites}))
    (near,) = told(policy(4, hard=Hard(latency=LatencyLimit(circle="city"))), offers, topology)
    assert near.enough == {"hard.latency": "region"}
    (level,) = told(policy(4, hard=Hard(security_level=3)), offers, topology)
    assert level.enough == {"hard.security_level": 2}


def test_two_constraints_are_named_when_one_is_not_enough_and_every_such_pair_is_needed():
    hard = Hard(round_deadline=15.0, security_level=4)
    rules = policy(6, hard=hard)
    found = told(rules)
    assert {len(one.constraints) for one in found} == {2}
    assert ("hard.round_deadline", "hard.security_level") in [one.constraints for one in found]
    for part in itertools.chain.from_iterable(one.constraints for one in found):
        assert not told_without(rules, part)


def told_without(rules, key: str) -> bool:
    """Whether giving up this alone is enough."""
    changes = {"hard.round_deadline": {"round_deadline": None}, "hard.security_level": {"security_level": 1}}
    if key not in changes:
        return False
    milder = rules.model_copy(update={"hard": rules.hard.model_copy(update=changes[key])})
    return told(milder) == ()


def test_fewer_participants_are_offered_as_a_way_out_and_how_many():
    rules = policy(8).model_copy(update={"participants": Participants(pick=8, min=8)})
    (found,) = told(rules)
    assert found.constraints == ("participants.min",) and found.enough == {"participants.min": 6}


def test_a_mandatory_participant_without_a_node_is_named_as_the_constraint():
    rules = policy(4).model_copy(update={"participants": Participants(pick=4, mandatory=("bank-a",))})
    assert [one.constraints for one in told(rules)] == [("participants.mandatory",)]


def test_a_standby_where_there_is_one_site_is_named():
    found = told(policy(4, standby=1), topology=network(1))
    assert ("aggregators.standby",) in [one.constraints for one in found]


def test_what_may_never_be_relaxed_is_never_named():
    with pytest.raises(JobError, match="three children"):
        told(policy(2), OFFERS[:2])
    for rules in (policy(6, hard=Hard(round_deadline=2.0)), policy(6, hard=Hard(trust=1.0))):
        named = " ".join(str(one) for one in told(rules))
        assert "data_domain" not in named and "children_min" not in named
