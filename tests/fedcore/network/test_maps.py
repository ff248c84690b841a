"""Maps of real networks."""

import pytest

from fedcore.errors import DataError
from fedcore.network.maps import Place, import_map, spelt
from fedcore.network.topology import topology_from

GRAPH = {
    "nodes": [
        {"id": "0", "name": "Xi'an", "pos": [108.9, 34.3]},
        {"id": "1", "name": "São Paulo", "pos": [-46.6, -23.5]},
    ],
    "edges": [{"source": "0", "target": "1", "dist": 1000.0}],
}
OTHER = Place("", "CN", None)


def made(graph: dict) -> object:
    return import_map(
        graph,
        name="m",
        places={"Xi'an": Place("Shaanxi", "CN", 633.5)},
        otherwise=OTHER,
        mbit_s=10,
        source="s",
        licence="l",
    )


def test_a_node_link_graph_becomes_a_topology_with_positions_and_lengths():
    file = made(GRAPH)
    assert set(file.sites) == {"xian", "sao-paulo"}
    assert (file.sites["xian"].longitude, file.sites["xian"].carbon_g_per_kwh) == (108.9, 633.5)
    assert topology_from(file).one_way_ms[0, 1] == pytest.approx(5.05)


@pytest.mark.parametrize(
    "graph",
    [
        {},
        {"nodes": [{"id": "0"}], "edges": []},
        {"nodes": GRAPH["nodes"], "edges": [{"source": "0", "target": "9", "dist": 1}]},
        {"nodes": GRAPH["nodes"], "edges": [{"source": "0", "target": "1", "dist": "far"}]},
    ],
)
def test_something_else_is_refused(graph):
    with pytest.raises(DataError, match="node-link"):
        made(graph)


def test_two_nodes_of_one_name_are_refused():
    twice = {"nodes": [{**GRAPH["nodes"][0]}, {**GRAPH["nodes"][0], "id": "1"}], "edges": []}
    with pytest.raises(DataError, match="same name"):
        made(twice)


def test_names_become_safe():
    assert spelt("Zürich (HB) 2") == "zurich-hb-2"
    assert spelt("北京") == "site"


def test_the_map_that_comes_along_is_what_the_importer_makes_of_topohub():
    pytest.importorskip("topohub")
    from benchmarks.network_maps import chinanet
    from fedcore.network.topology import load_topology
    from tests.fedcore.network.test_topology import NETWORKS

    assert load_topology(NETWORKS / "chinanet.yaml").digest() == topology_from(chinanet()).digest()
