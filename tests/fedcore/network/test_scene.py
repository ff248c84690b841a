"""What a picture of a plan shows, before it is drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fedcore.errors import DataError
from fedcore.network.place import make_plan
from fedcore.network.plan import Plan
from fedcore.network.scene import path, scene_of
from fedcore.network.topology import Topology, load_topology, topology_from
from tests.fedcore.network.placing import WORK, network, offer, policy
from tests.fedcore.network.test_files import CONFIGS

MAP = load_topology(CONFIGS / "networks" / "eight_hubs.yaml")
ROW = network(4)


def planned(topology: Topology = ROW) -> Plan:
    """Three at s2, three at s3 and one at s1, all of whom take part; and one who offers too little."""
    sites = ["s2"] * 3 + ["s3"] * 3 + ["s1"]
    offers = [offer(number, f"p{number}", site) for number, site in enumerate(sites)]
    return make_plan(offers, topology, policy(7, standby=1), WORK, "s0")


def test_people_aggregators_standby_and_root_stand_at_their_sites() -> None:
    plan = planned()
    scene = scene_of(plan, ROW, [offer(9, "idler", "s1")])
    assert {name: len(one.computing) for name, one in scene.places.items()} == {
        "s0": 0,
        "s1": 1,
        "s2": 3,
        "s3": 3,
    }
    assert scene.places["s1"].idle == ("idler",)
    assert {one.site: one.children for one in plan.aggregators} == {
        name: one.children for name, one in scene.places.items() if one.children
    }
    assert [name for name, one in scene.places.items() if one.root] == ["s0"]
    assert tuple(name for name, one in scene.places.items() if one.standby) == plan.standby


def test_links_carry_what_passes_over_them_both_ways() -> None:
    plan = planned()
    scene = scene_of(plan, ROW)
    wanted = dict.fromkeys([("s0", "s1"), ("s1", "s2"), ("s2", "s3")], 0.0)
    ways = [(one.site, one.aggregator) for one in plan.participants]
    ways += [(one.site, plan.root) for one in plan.aggregators]
    for start, end in ways:
        low, high = sorted((int(start[1]), int(end[1])))
        for at in range(low, high):
            wanted[f"s{at}", f"s{at + 1}"] += WORK.down_mb + WORK.up_mb
    assert scene.links == pytest.approx(wanted)


def test_edges_join_sites_and_say_who_and_how_near() -> None:
    plan = planned()
    for edge in scene_of(plan, ROW).edges:
        assert edge.site != edge.to
        if edge.circle is None:
            assert edge.to == plan.root and not edge.owners
        else:
            assert edge.circle == ROW.circle(edge.site, edge.to)
            assert {one.aggregator for one in plan.participants if one.owner in edge.owners} == {edge.to}


def test_the_way_between_two_sites_is_that_of_least_delay() -> None:
    delays = {frozenset(link.ends): link.delay_ms for link in MAP.file.links}
    for one, other in itertools.permutations(MAP.names, 2):
        way = path(MAP, one, other)
        assert (way[0], way[-1]) == (one, other)
        told = sum(delays[frozenset(pair)] for pair in itertools.pairwise(way))
        assert told == pytest.approx(float(MAP.one_way_ms[MAP.index(one), MAP.index(other)]), abs=1e-5)


def test_there_is_no_way_where_there_is_none() -> None:
    alone = topology_from(ROW.file.model_copy(update={"links": ROW.file.links[:1]}))
    assert path(alone, "s0", "s3") == []
    assert path(alone, "s0", "s1") == ["s0", "s1"]
    assert path(alone, "s2", "s2") == ["s2"]


def test_a_map_with_places_is_drawn_by_them_and_another_by_latency() -> None:
    plan = planned()
    scene = scene_of(plan, ROW)
    assert not scene.geographic
    spots = np.array([[scene.places[f"s{at}"].x, scene.places[f"s{at}"].y] for at in range(4)])
    gaps = np.linalg.norm(np.diff(spots, axis=0), axis=1)
    assert gaps == pytest.approx([gaps[0]] * 3, rel=0.05), "sites in a row, equally far apart"
    assert all(0 <= value <= 1 for value in spots.ravel())
    offers = [offer(number, f"p{number}", "wuhu") for number in range(4)]
    west = scene_of(make_plan(offers, MAP, policy(4), WORK, "wuhu"), MAP)
    assert west.geographic
    assert west.places["zhongwei"].x < west.places["wuhu"].x
    assert west.places["shaoguan"].y < west.places["zhangjiakou"].y


def test_a_plan_of_another_map_is_refused() -> None:
    with pytest.raises(DataError, match="not in topology"):
        scene_of(planned(), MAP)
