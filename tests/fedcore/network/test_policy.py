"""The placement policy file."""

import pytest
from pydantic import ValidationError

from fedcore.errors import JobError
from fedcore.network.policy import Fairness, Policy, Weights, load_policy


def loaded(tmp_path, text: str) -> Policy:
    file = tmp_path / "green.yaml"
    file.write_text(text)
    return load_policy(file)


def test_an_empty_policy_is_a_safe_one(tmp_path):
    policy = loaded(tmp_path, "name: plain\n")
    assert policy.hard.data_domain == "owner-only"
    assert policy.hard.jurisdiction == "root"
    assert policy.aggregators.children_min == 3
    assert policy.aggregators.standby == 1
    assert policy.participants.utility.weight == 0
    assert policy.carbon.basis == "location"


def test_a_whole_policy_is_read(tmp_path):
    policy = loaded(
        tmp_path,
        """
name: green
weights: {time: 0.3, carbon: 0.4, cost: 0.2, latency: 0.05, security: 0.05}
reference: {from: random, samples: 20}
hard:
  data_domain: owner-only
  jurisdiction: [CN]
  security_level: 3
  attestation_any: [tee_quote]
  evidence: {compute: measured}
  latency: {circle: national, metric: rtt}
  round_deadline: 10m
  carbon_per_round_g: 800
  cost_per_round: 50
participants: {pick: 30, min: 20, mandatory: [bank-a], utility: {weight: 0.1, epsilon: 1.0}}
fairness: {window: 20, min_rate: 0.1, max_rate: 0.5}
aggregators: {children_min: 4, ingress_share: 0.4, most: 6, standby: 2, owners: [neutral, participant]}
carbon: {basis: market, network_kwh_per_gb: 0.01}
replace: {min_gain: 0.1, cooldown_rounds: 5}
""",
    )
    assert policy.hard.round_deadline == 600
    assert (policy.fairness.least, policy.fairness.most) == (2, 10)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("weights: {time: 0.5}", "sum to 1.1; they must sum to 1"),
        ("weights: {time: -0.1, carbon: 0.7}", "weights.time"),
        ("hard: {data_domain: anywhere}", "owner-only"),
        ("hard: {data_domain: false}", "data_domain"),
        ("hard: {security_lvl: 3}", 'did you mean "security_level"'),
        ("hard: {security_level: 6}", "security_level"),
        ("hard: {round_deadline: -5}", "round_deadline"),
        ("hard: {cost_per_round: 0}", "cost_per_round"),
        ("hard: {latency: {circle: town}}", "city, national, region, wide"),
        ("aggregators: {children_min: 2}", "children_min"),
        ("aggregators: {ingress_share: 1.5}", "ingress_share"),
        ("aggregators: {owners: []}", "owners"),
        ("participants: {pick: 3, min: 5}", "above pick"),
        ("participants: {pick: 1, mandatory: [a, b]}", "more than pick"),
        ("participants: {pick: 4, mandatory: [a, a]}", "twice"),
        ("participants: {utility: {weight: 0.1}}", "epsilon"),
        ("fairness: {min_rate: 0.9, max_rate: 0.1}", "no room"),
        ("fairness: {window: 4, max_rate: 0.1}", "nobody"),
        ("wieghts: {time: 0.5}", 'did you mean "weights"'),
        ("replace: {min_gian: 0.1}", 'did you mean "min_gain"'),
    ],
)
def test_a_wrong_policy_says_what_is_wrong(tmp_path, text, says):
    with pytest.raises(JobError, match=says):
        loaded(tmp_path, f"name: green\n{text}\n")


def test_weights_that_sum_to_one_in_decimals_do():
    assert Weights(time=0.1, carbon=0.2, cost=0.3, latency=0.3, security=0.1).cost == 0.3
    with pytest.raises(ValidationError):
        Weights(time=0.1, carbon=0.2, cost=0.3, latency=0.3, security=0.1001)


def test_a_share_of_a_window_is_whole_rounds():
    assert Fairness(window=10, min_rate=0.3, max_rate=0.7).least == 3


def test_the_digest_sees_a_default_that_was_changed():
    assert Policy().digest() != Policy(currency="EUR").digest()
