"""Two parties, and stars."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import JobError, NoPlacement
from fedcore.network.pairs import Met, Session, place_pair, place_star
from fedcore.network.policy import Hard, LatencyLimit, Weights
from tests.fedcore.network.placing import network, offer, policy

SESSION = Session(there_mb=200, back_mb=50, trips=10)
TOPOLOGY = network(3)


def offers_of(seed: int, parties: tuple[str, ...], most: int = 4) -> list:
    draw = np.random.default_rng(seed)
    made = []
    for party in parties:
        for _ in range(int(draw.integers(1, most + 1))):
            made.append(
                offer(
                    len(made), party, f"s{int(draw.integers(3))}", work_s=float(draw.lognormal(2, 1)),
                    gco2_location=float(draw.lognormal(0, 1)), cost=float(draw.lognormal(-3, 1)),
                    trust=float(draw.uniform(0.2, 1)), up_mbit_s=float(draw.lognormal(4, 1)),
                    down_mbit_s=float(draw.lognormal(5, 1)),
                )
            )  # fmt: skip
    return made


def by_hand(made, parties, rules, leaders) -> dict[tuple[str, ...], tuple[float, float, float]]:
    """Seconds, grams and money of every choice, by leader and offers."""
    told = {}
    for leader in leaders:
        others = [name for name in parties if name != leader]
        for chosen in itertools.product(
            *([o for o in made if o.owner == name] for name in (leader, *others))
        ):
            middle, rest = chosen[0], chosen[1:]
            seconds, grams, money = [], sum(o.gco2_location for o in chosen), sum(o.cost for o in chosen)
            for other in rest:
                one, two = int(middle.site[1]), int(other.site[1])
                out = min(TOPOLOGY.mbit_s[one, two], middle.up_mbit_s, other.down_mbit_s)
                back = min(TOPOLOGY.mbit_s[two, one], other.up_mbit_s, middle.down_mbit_s)
                trips = 10 * TOPOLOGY.rtt_ms[one, two] / 1000
                seconds.append(max(middle.work_s, other.work_s) + 1600 / out + 400 / back + trips)
                sites = [TOPOLOGY.sites[o.site].carbon_g_per_kwh for o in (middle, other)]
                grams += 0.001 * 0.25 * sum(sites) / 2
                money += 0.2 * middle.egress_price + 0.05 * other.egress_price
            told[(leader, *sorted(o.id for o in chosen))] = (max(seconds), grams, money)
    return told


def only(**weight: float):
    zero = {"time": 0.0, "carbon": 0.0, "cost": 0.0, "latency": 0.0, "security": 0.0}
    return policy(None).model_copy(update={"weights": Weights(**{**zero, **weight})})


def key(met: Met) -> tuple[str, ...]:
    return (met.leader, *sorted(one.id for one in met.offers.values()))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 4))
def test_each_term_alone_is_as_small_as_trying_everything_makes_it(seed, size):
    parties = tuple("abcd"[:size])
    made = offers_of(seed, parties, 3)
    for place, rules in enumerate((only(time=1.0), only(carbon=1.0), only(cost=1.0))):
        met = place_star(parties, made, TOPOLOGY, rules, SESSION, "s0")
        told = by_hand(made, parties, rules, parties)
        assert told[key(met)] == pytest.approx((met.seconds, met.grams, met.money))
        assert told[key(met)][place] == pytest.approx(min(row[place] for row in told.values()))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.3, 1.0))
def test_weights_together_and_a_budget_are_kept_exactly(seed, share):
    parties = ("a", "b", "c")
    made = offers_of(seed, parties, 3)
    rules = only(time=0.5, carbon=0.3, cost=0.2)
    free = by_hand(made, parties, rules, parties)
    grams = [row[1] for row in free.values()]
    limit = min(grams) + share * (max(grams) - min(grams)) + 1e-9
    tight = rules.model_copy(update={"hard": Hard(carbon_per_round_g=limit)})
    met = place_star(parties, made, TOPOLOGY, tight, SESSION, "s0")
    meetings = {}
    for leader in parties:
        for middle, other in itertools.product(made, made):
            if middle.owner == leader and other.owner != leader:
                pair = by_hand([middle, other], (leader, other.owner), rules, (leader,))
                meetings[middle.id, other.id] = next(iter(pair.values()))
    middles = {one.id: one for one in made}
    seconds = np.mean([row[0] for row in meetings.values()])
    own = [(one.gco2_location, one.cost) for one in made]
    parts = [
        (row[1] - middles[m].gco2_location, row[2] - middles[m].cost) for (m, _), row in meetings.items()
    ]
    grams_mean, money_mean = np.mean(own + parts, axis=0)

    def worth(row: tuple[float, float, float]) -> float:
        return 0.5 * row[0] / seconds + (0.3 * row[1] / grams_mean + 0.2 * row[2] / money_mean) / 3

    best = min(worth(row) for row in free.values() if row[1] <= limit)
    assert met.grams <= limit * (1 + 1e-9)
    assert met.objective == pytest.approx(best) == worth(free[key(met)])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_offers_and_parties_changes_nothing(seed):
    made = offers_of(seed, ("a", "b", "c"))
    shuffled = [made[i] for i in np.random.default_rng(seed).permutation(len(made))]
    one = place_star(("a", "b", "c"), made, TOPOLOGY, policy(None), SESSION, "s0")
    other = place_star(("c", "a", "b"), shuffled, TOPOLOGY, policy(None), SESSION, "s0")
    assert one == other


def test_a_party_works_on_its_own_nodes_alone():
    made = [offer(0, "a", "s0"), offer(1, "b", "s2", work_s=900.0), offer(2, "c", "s0", work_s=0.1)]
    met = place_pair("a", "b", made, TOPOLOGY, policy(None), SESSION, "s0")
    assert met.leader == "a" and {one.owner for one in met.offers.values()} == {"a", "b"}
    assert met.offers["b"].id == "o0001" and met.seconds > 900


def test_a_pair_that_is_too_far_apart_has_no_placement():
    made = [offer(0, "a", "s0"), offer(1, "b", "s2")]
    rules = policy(None, hard=Hard(latency=LatencyLimit(circle="city")))
    with pytest.raises(NoPlacement):
        place_pair("a", "b", made, TOPOLOGY, rules, SESSION, "s0")
    assert (
        place_pair("a", "b", [*made, offer(2, "b", "s0")], TOPOLOGY, rules, SESSION, "s0").offers["b"].id
        == "o0002"
    )


def test_all_nodes_of_a_party_down_is_said_by_name():
    with pytest.raises(JobError, match="b has no admissible offer: it made none"):
        place_pair("a", "b", [offer(0, "a", "s0")], TOPOLOGY, policy(None), SESSION, "s0")
    low = [offer(0, "a", "s0", security=5), offer(1, "b", "s0", security=1)]
    with pytest.raises(JobError, match="security level 1 is below 4"):
        place_pair("a", "b", low, TOPOLOGY, policy(None, hard=Hard(security_level=4)), SESSION, "s0")


def test_a_star_of_one_a_foreign_leader_and_absurd_sessions_are_refused():
    made = [offer(0, "a", "s0"), offer(1, "b", "s0")]
    with pytest.raises(JobError, match="two or more"):
        place_star(("a",), made, TOPOLOGY, policy(None), SESSION, "s0")
    with pytest.raises(JobError, match="two or more different"):
        place_pair("a", "a", made, TOPOLOGY, policy(None), SESSION, "s0")
    with pytest.raises(JobError, match="z is to lead"):
        place_star(("a", "b"), made, TOPOLOGY, policy(None), SESSION, "s0", leader="z")
    with pytest.raises(JobError, match="there_mb"):
        Session(there_mb=-1, back_mb=0)


def test_a_star_of_many_parties_is_found_as_fast_as_its_best():
    parties = tuple(f"p{i}" for i in range(9))
    made = offers_of(3, parties, 8)
    met = place_star(parties, made, TOPOLOGY, only(time=1.0), SESSION, "s0")
    assert len(met.offers) == 9 and met.seconds > 0
