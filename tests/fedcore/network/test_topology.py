"""Topologies: files, all pairs, circles, losses."""

from pathlib import Path

import networkx
import numpy as np
import pytest

from fedcore.errors import DataError, JobError
from fedcore.network.topology import (
    Link,
    Site,
    TopologyFile,
    load_topology,
    topology_from,
    with_links,
    without,
)

NETWORKS = Path(__file__).parents[3] / "configs" / "networks"


def sites(*names: str) -> dict[str, Site]:
    return {name: Site(tier="cloud", jurisdiction="CN") for name in names}


def line(**first: object) -> TopologyFile:
    return TopologyFile(
        name="line",
        sites=sites("a", "b", "c"),
        links=(
            Link(ends=("a", "b"), mbit_s=100, **(first or {"one_way_ms": 2.0})),
            Link(ends=("b", "c"), one_way_ms=3.0, mbit_s=50, source="measured"),
        ),
    )


@pytest.mark.parametrize("name", ["eight_hubs", "chinanet"])
def test_the_maps_that_come_along_name_source_and_licence_and_agree_with_networkx(name):
    topology = load_topology(NETWORKS / f"{name}.yaml")
    assert topology.file.source and topology.file.licence and topology.file.assumptions
    graph = networkx.Graph()
    for link in topology.file.links:
        graph.add_edge(*link.ends, ms=link.delay_ms)
    lengths = dict(networkx.all_pairs_dijkstra_path_length(graph, weight="ms"))
    for i, one in enumerate(topology.names):
        for j, other in enumerate(topology.names):
            if i != j:
                assert topology.one_way_ms[i, j] == pytest.approx(lengths[one][other], abs=1e-4)
    assert topology.rtt_ms == pytest.approx(topology.one_way_ms + topology.one_way_ms.T)


def test_the_eight_hubs_carry_the_factors_of_their_provinces():
    hubs = load_topology(NETWORKS / "eight_hubs.yaml").sites
    assert len(hubs) == 8
    assert {site.region: site.carbon_g_per_kwh for site in hubs.values()}["Sichuan"] == 156.4
    assert all(site.tier == "hub" and site.aggregator is not None for site in hubs.values())


def test_a_missing_link_is_derived_from_the_path_and_says_so():
    topology = topology_from(line())
    assert topology.one_way_ms[0, 2] == 5.0
    assert topology.mbit_s[0, 2] == topology.mbit_s[2, 0] == 50
    assert topology.source[0, 2] == "derived"
    assert topology.source[1, 2] == "measured"


def test_of_two_equal_paths_the_wider_is_taken():
    file = line().model_copy(
        update={
            "sites": sites("a", "b", "c", "d"),
            "links": (
                Link(ends=("a", "b"), one_way_ms=1.1, mbit_s=10),
                Link(ends=("b", "d"), one_way_ms=2.2, mbit_s=10),
                Link(ends=("a", "c"), one_way_ms=2.2, mbit_s=90),
                Link(ends=("c", "d"), one_way_ms=1.1, mbit_s=80),
            ),
        }
    )
    assert topology_from(file).mbit_s[0, 3] == 80


def test_one_way_and_round_trip_are_both_kept():
    topology = topology_from(line(one_way_ms=1.0, rtt_ms=5.0))
    assert (topology.one_way_ms[0, 1], topology.one_way_ms[1, 0], topology.rtt_ms[0, 1]) == (1.0, 4.0, 5.0)
    assert topology_from(line(rtt_ms=5.0)).one_way_ms[0, 1] == 2.5
    assert topology_from(line(km=390)).one_way_ms[0, 1] == pytest.approx(2.0)


def test_circles_are_counted_in_the_metric_that_is_asked_for():
    topology = topology_from(line())
    assert topology.circle("a", "b") == "region"
    assert topology.circle("a", "c") == "region"
    assert topology.circle("a", "c", "rtt") == "national"
    assert topology.circle("a", "a") == "city"


def test_a_disconnected_pair_is_infinitely_far_and_wide():
    topology = topology_from(line().model_copy(update={"links": ()}))
    assert np.isinf(topology.one_way_ms[0, 1]) and topology.mbit_s[0, 1] == 0
    assert topology.source[0, 1] == "none"
    assert topology.circle("a", "b") == "wide"


def test_a_measured_link_replaces_the_declared_one_in_its_direction_alone():
    topology = with_links(
        topology_from(line()),
        [Link(ends=("a", "b"), one_way_ms=7.0, mbit_s=20, one_direction=True, source="measured")],
    )
    assert (topology.one_way_ms[0, 1], topology.one_way_ms[1, 0]) == (7.0, 2.0)
    assert (topology.source[0, 1], topology.source[1, 0]) == ("measured", "declared")
    both = with_links(topology, [Link(ends=("b", "a"), one_way_ms=9.0, mbit_s=20)])
    assert (both.one_way_ms[0, 1], both.one_way_ms[1, 0], len(both.file.links)) == (9.0, 9.0, 2)


def test_a_lost_site_passes_nothing_on():
    left = without(topology_from(line()), ["b"])
    assert np.isinf(left.one_way_ms[0, 2])
    with pytest.raises(DataError, match="allowed: a, b, c"):
        without(left, ["bb"])


def test_the_digest_sees_a_changed_link():
    assert topology_from(line()).digest() != topology_from(line(one_way_ms=2.1)).digest()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sites: {a: {tier: hub, jurisdiction: CN, pue: 0.8}}", "pue"),
        ("sites: {a: {tier: hubb, jurisdiction: CN}}", 'did you mean "hub"'),
        ("sites: {a: {tier: hub, jurisdiction: CN, ingres: 3}}", "unknown key"),
        ("sites: {a: {tier: hub, jurisdiction: CN}}\ncircles: {city: 9}", "widen"),
        (
            "sites: {a: {tier: hub, jurisdiction: CN}}\nlinks: [{ends: [a, b], km: 3, mbit_s: 1}]",
            "allowed: a",
        ),
        (
            "sites: {a: {tier: hub, jurisdiction: CN}}\nlinks: [{ends: [a, a], km: 3, mbit_s: 1}]",
            "two different",
        ),
        ("sites: {a: {tier: hub, jurisdiction: CN}}\nlinks: [{ends: [a, b], mbit_s: 1}]", "needs one of"),
        ("sites: {a: {tier: hub, jurisdiction: CN}}\nlinks: [{ends: [a, b], km: -3, mbit_s: 1}]", "km"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path, text, says):
    file = tmp_path / "net.yaml"
    file.write_text(f"name: net\n{text}\n")
    with pytest.raises(JobError, match=says):
        load_topology(file)
