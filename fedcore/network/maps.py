"""Maps of real networks as topologies: from graphs in the node-link form, such as those of TopoHub."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedcore.errors import DataError
from fedcore.network.topology import Aggregator, Link, Site, Tier, TopologyFile


@dataclass(frozen=True)
class Place:
    """What a map does not tell about a site.

    Args:
        region: Whose carbon factor is meant.
        jurisdiction: Whose law holds.
        carbon_g_per_kwh: Grams of CO2 per kWh; none where nobody publishes one.
        aggregator: None for a site that only passes on.
    """

    region: str
    jurisdiction: str
    carbon_g_per_kwh: float | None
    aggregator: Aggregator | None = None
    tier: Tier = "cloud"


def import_map(
    graph: Mapping[str, Any],
    *,
    name: str,
    places: Mapping[str, Place],
    otherwise: Place,
    mbit_s: float,
    source: str,
    licence: str,
    about: str = "",
    assumptions: tuple[str, ...] = (),
) -> TopologyFile:
    """A topology from a node-link graph.

    Args:
        graph: `nodes` with `id`, `name` and `pos` (longitude, latitude), `edges` with `source`, `target` and `dist`
            (km): the form of `topohub.get("topozoo/Chinanet")`.
        name: Of the topology.
        places: What the map does not tell, by the name of the node.
        otherwise: The same for nodes that are not in `places`.
        mbit_s: Of every link; such maps seldom have rates.
        source: Of the map.
        licence: Of the map.

    Raises:
        DataError: The graph is not of that form, or two nodes have the same name.
    """
    try:
        nodes = {str(node["id"]): node for node in graph["nodes"]}
        edges = [(str(edge["source"]), str(edge["target"]), float(edge["dist"])) for edge in graph["edges"]]
        labels = {key: spelt(str(node["name"])) for key, node in nodes.items()}
        sites = {
            labels[key]: _site(node, places.get(str(node["name"]), otherwise)) for key, node in nodes.items()
        }
        ends = [(labels[one], labels[other], km) for one, other, km in edges]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"map {name}: not a node-link graph with nodes (id, name, pos) and edges (source, target, dist): {error!r}"
        ) from error
    if len(sites) < len(nodes):
        raise DataError(f"map {name}: two nodes have the same name; names must differ")
    links = tuple(
        Link(ends=(one, other), km=round(km, 2), mbit_s=mbit_s, source="derived")
        for one, other, km in sorted(ends)
        if one != other
    )
    return TopologyFile(
        name=name,
        about=about,
        source=source,
        licence=licence,
        assumptions=assumptions,
        sites=sites,
        links=links,
    )


def spelt(name: str) -> str:
    """A node's name as a site's name: lower case, letters and digits, words joined by hyphens."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("'", "")).strip("-") or "site"


def _site(node: Mapping[str, Any], place: Place) -> Site:
    longitude, latitude = node["pos"]
    return Site(
        tier=place.tier,
        jurisdiction=place.jurisdiction,
        latitude=float(latitude),
        longitude=float(longitude),
        region=place.region,
        carbon_g_per_kwh=place.carbon_g_per_kwh,
        aggregator=place.aggregator,
    )
