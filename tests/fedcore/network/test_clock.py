"""The simulated clock: agrees with the judge in calm weather, and every assumption does what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import DataError, JobError
from fedcore.network.clock import CALM, Clock, Weather
from fedcore.network.evaluate import Placed, evaluate
from fedcore.network.offer import Offer
from fedcore.network.place import make_plan
from fedcore.network.reference import Scale
from fedcore.network.topology import Topology, without
from tests.fedcore.network.placing import WORK, network, offer, policy, random_offers

ROOT = "s0"


def clock(offers: list[Offer], map_: Topology | None = None, **more: object) -> Clock:
    return Clock(offers, map_ or network(), policy(), WORK, ROOT, **more)  # type: ignore[arg-type]


def always_up(offers: list[Offer]) -> list[Offer]:
    return [replace(one, available=1.0) for one in offers]


def at_root(offers: list[Offer]) -> list[Placed]:
    return [Placed(one.owner, one.id, ROOT) for one in offers]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), sites=st.integers(1, 4))
def test_in_calm_weather_a_round_is_what_the_judge_says(seed: int, sites: int) -> None:
    offers = always_up(random_offers(seed, 8, sites))
    map_ = network(sites, ingress=1e6)
    draw = np.random.default_rng(seed)
    owners = sorted({one.owner for one in offers})[:5]
    first = [next(one for one in offers if one.owner == owner) for owner in owners]
    placed = [Placed(one.owner, one.id, f"s{draw.integers(sites)}") for one in first]
    told = evaluate(placed, offers, map_, policy(), WORK, ROOT, Scale())
    took = clock(offers, map_, weather=CALM).round(placed)
    for mine, judged in (
        (took.seconds, told.round_s),
        (took.kwh, told.kwh),
        (took.gco2_location, told.gco2_location),
        (took.gco2_market, told.gco2_market),
        (took.cost, told.cost),
    ):
        assert mine == pytest.approx(judged, rel=1e-3)
    assert took.done == tuple(owners) and not took.lost


def test_a_plans_prediction_holds_in_calm_weather_also_where_updates_queue() -> None:
    offers = always_up(random_offers(3, 12))
    map_ = network(3, ingress=400.0)
    plan = make_plan(offers, map_, policy(6), WORK, ROOT)
    took = clock(offers, map_, weather=CALM).round(plan.placed())
    # The plan keeps room for the queue as a share of the round; playing it, the last may wait for some of the others.
    assert plan.prediction.round_s * 0.5 < took.seconds < plan.prediction.round_s * 1.5


def test_updates_that_come_at_once_wait_for_the_aggregators_line() -> None:
    offers = always_up([offer(i, f"p{i}", ROOT, up_mbit_s=1e4, down_mbit_s=1e4) for i in range(5)])
    narrow, wide = network(1, ingress=10.0), network(1, ingress=1e6)
    slow, quick = (
        clock(offers, each, weather=CALM).round(at_root(offers)).seconds for each in (narrow, wide)
    )
    # All five are ready at once, and 20 MB at 10 Mbit/s take 16 s each.
    assert slow - quick == pytest.approx(5 * 20 * 8 / 10, rel=0.01)


def test_a_seed_gives_the_same_rounds_again_and_another_seed_others() -> None:
    offers = random_offers(1, 8)
    runs = []
    for seed in (5, 5, 6):
        one = clock(offers, seed=seed)
        runs.append(
            [
                one.round([Placed(each.owner, each.id, each.site) for each in _each_once(offers)])
                for _ in range(4)
            ]
        )
    assert runs[0] == runs[1] != runs[2]


def _each_once(offers: list[Offer]) -> list[Offer]:
    return list({one.owner: one for one in offers}.values())


def test_what_a_node_meets_does_not_depend_on_who_else_is_chosen() -> None:
    offers = always_up([offer(i, f"p{i}", ROOT) for i in range(6)])
    few, all_ = clock(offers, seed=2).round(at_root(offers[:3])), clock(offers, seed=2).round(at_root(offers))
    for owner in few.done:
        assert few.parts[owner] == all_.parts[owner]


def test_factors_have_mean_one_and_the_spread_that_was_asked_for() -> None:
    offers = always_up([offer(0, "p0", ROOT)])
    one = clock(offers, weather=Weather(compute=0.3, link=0.0))
    seconds = np.array([one.round(at_root(offers)).parts["p0"].compute for _ in range(4000)]) / 10.0
    assert seconds.mean() == pytest.approx(1.0, abs=0.02)
    assert np.log(seconds).std() == pytest.approx(0.3, abs=0.015)


def test_energy_and_cost_follow_the_time_that_a_node_computed() -> None:
    offers = always_up([offer(0, "p0", ROOT, kwh=5.0, cost=7.0, gco2_location=11.0, egress_price=0.0)])
    calm = clock(offers, weather=CALM).round(at_root(offers))
    rough = clock(offers, weather=Weather(compute=0.5, link=0.0), seed=3).round(at_root(offers))
    factor = rough.parts["p0"].compute / 10.0
    assert factor != pytest.approx(1.0, abs=0.01)
    assert rough.kwh - calm.kwh == pytest.approx(5.0 * (factor - 1))
    assert rough.cost - calm.cost == pytest.approx(7.0 * (factor - 1))
    assert rough.gco2_location - calm.gco2_location == pytest.approx(11.0 * (factor - 1))


# ---- who is up -----------------------------------------------------------------------------------------------------


def test_nodes_are_up_for_the_share_of_time_that_they_say_and_more_at_the_best_hour() -> None:
    offers = [offer(i, f"p{i}", ROOT, available=0.7) for i in range(40)]
    one = clock(offers, weather=Weather(swing=1.0, best_hour=3.0), hour=0.0)
    seen: dict[int, list[float]] = {}
    for step in range(24 * 20):
        seen.setdefault(step % 24, []).append(len(one.online()) / len(offers))
        one.wait(3600.0)
    hours = {hour: float(np.mean(values)) for hour, values in seen.items()}
    assert np.mean(list(hours.values())) == pytest.approx(0.7, abs=0.02)
    assert hours[3] == pytest.approx(1.0, abs=0.03) and hours[15] == pytest.approx(0.4, abs=0.08)


def test_outages_last_as_long_as_assumed() -> None:
    offers = [offer(i, f"p{i}", ROOT, available=0.5) for i in range(200)]
    one = clock(offers, weather=Weather(swing=0.0, outage_s=1000.0))
    down = {each.owner for each in offers} - {each.owner for each in one.online()}
    one.wait(500.0)
    still = down - {each.owner for each in one.online()}
    # Recovers and fails at 1/1000 s: still or again down after 500 s with 0.5 + 0.5 exp(-1).
    assert len(still) / len(down) == pytest.approx(0.5 + 0.5 * math.exp(-1), abs=0.12)


def test_nodes_that_are_never_up_or_always_up_stay_so() -> None:
    offers = [offer(0, "never", ROOT, available=0.0), offer(1, "always", ROOT, available=1.0)]
    one = clock(offers)
    for _ in range(50):
        assert [each.owner for each in one.online()] == ["always"]
        one.wait(5000.0)


def test_a_node_that_fails_in_a_round_loses_its_update_is_noticed_and_counts_for_what_it_did() -> None:
    offers = [offer(i, f"p{i}", ROOT, available=0.5, work_s=700.0, kwh=1.0) for i in range(30)]
    weather = Weather(compute=0.0, link=0.0, swing=0.0, outage_s=1000.0, noticed_s=50.0)
    one = clock(offers, network(1, ingress=1e6), weather=weather)
    up = one.online()
    took = one.round(at_root(up))
    assert took.lost and took.done and set(took.done) | set(took.lost) == {each.owner for each in up}
    for owner in took.lost:
        part = took.parts[owner]
        assert part.lost and 0 <= part.compute <= 700.0
    last = max(part.down + part.compute + part.up + 50.0 * part.lost for part in took.parts.values())
    assert took.seconds == pytest.approx(last, rel=1e-3)
    used = sum(part.compute for part in took.parts.values()) / 700.0
    assert took.kwh == pytest.approx(used, rel=0.01)
    # Who failed is down when the round ends, unless it came back since.
    assert {each.owner for each in one.online()} != {each.owner for each in up}


def test_a_round_of_which_nobody_is_left_ends_when_the_last_is_noticed() -> None:
    offers = [offer(i, f"p{i}", ROOT, available=0.0) for i in range(3)]
    took = clock(offers, weather=Weather(noticed_s=20.0)).round(at_root(offers))
    assert took.seconds == 20.0 and took.done == () and len(took.lost) == 3


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("compute", -0.1),
        ("link", math.nan),
        ("outage_s", 0.0),
        ("swing", 1.5),
        ("best_hour", 25.0),
        ("noticed_s", math.inf),
    ],
)
def test_weather_that_cannot_be_is_refused_with_what_is_allowed(name: str, value: float) -> None:
    with pytest.raises(JobError, match=f"{name} is .* must be from"):
        Weather(**{name: value})


def test_placements_that_cannot_be_played_are_refused() -> None:
    offers = always_up([offer(0, "p0", "s0"), offer(1, "p1", "s1")])
    one = clock(offers)
    with pytest.raises(DataError, match="is not there"):
        one.round([Placed("p0", "o0009", ROOT)])
    with pytest.raises(DataError, match="placed twice"):
        one.round([Placed("p0", "o0000", ROOT)] * 2)
    with pytest.raises(DataError, match="placed twice or its offer"):
        one.round([Placed("p1", "o0000", ROOT)])
    with pytest.raises(JobError, match="above 0"):
        one.wait(0.0)
    with pytest.raises(DataError, match='site "nowhere" is not in'):
        Clock(offers, network(), policy(), WORK, "nowhere")
    with pytest.raises(DataError, match="work_s"):
        clock([offer(0, "p0", ROOT, work_s=-1.0)])


def test_a_site_without_a_path_cannot_be_played() -> None:
    map_ = network(2)
    offers = always_up([offer(0, "p0", "s1")])
    with pytest.raises(DataError, match="no path"):
        clock(offers, without(map_, links=[("s0", "s1")])).round(at_root(offers))
