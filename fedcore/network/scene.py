"""What a picture of a plan shows, in plain numbers: where sites stand, who is there, which links carry how much."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.network.offer import Offer
from fedcore.network.plan import Plan
from fedcore.network.topology import Circle, Tier, Topology


@dataclass(frozen=True)
class Place:
    """A site of the picture.

    Args:
        x, y: In the unit square, north and east being up and right.
        carbon: g/kWh; none where nobody publishes one.
        computing: Owners that take part with a node here, and the circle that holds each and its aggregator.
        idle: Owners that offered a node here and do not take part.
        children: Participants whose updates are added up here; 0 for a site that does not aggregate.
        standby: Whether it is kept ready.
        root: Whether the aggregate ends here.
    """

    name: str
    x: float
    y: float
    tier: Tier
    carbon: float | None
    computing: tuple[tuple[str, Circle], ...]
    idle: tuple[str, ...]
    children: int
    standby: bool
    root: bool

    @property
    def used(self) -> bool:
        """Whether the plan says anything of it."""
        return bool(self.computing or self.idle or self.children or self.standby or self.root)


@dataclass(frozen=True)
class Edge:
    """Updates that go from the participants of one site to one aggregator.

    Args:
        circle: That holds both; none from an aggregator to the root.
        megabytes: Both ways, in a round.
    """

    site: str
    to: str
    owners: tuple[str, ...]
    circle: Circle | None
    megabytes: float


@dataclass(frozen=True)
class Scene:
    """A plan on its map.

    Args:
        places: Of all sites, by name.
        links: Pairs of sites that are joined, with the MB that they carry in a round.
        edges: Between different sites.
        geographic: Whether places are by longitude and latitude; by latency otherwise.
    """

    places: Mapping[str, Place]
    links: Mapping[tuple[str, str], float]
    edges: tuple[Edge, ...]
    geographic: bool


def scene_of(plan: Plan, topology: Topology, offers: Sequence[Offer] = ()) -> Scene:
    """What a picture of a plan shows.

    Args:
        plan: Of this map.
        topology: The map.
        offers: Of all owners; those who made one and do not take part are shown where they are given.

    Raises:
        DataError: The plan names a site that is not on the map.
    """
    spots, geographic = _spots(topology)
    inside = {one.owner for one in plan.participants}
    children = {one.site: one.children for one in plan.aggregators}
    computing: dict[str, list[tuple[str, Circle]]] = {}
    for one in plan.participants:
        computing.setdefault(one.site, []).append((one.owner, topology.circle(one.site, one.aggregator)))
    idle: dict[str, dict[str, None]] = {}
    for offer in sorted(offers, key=lambda each: each.owner):
        if offer.owner not in inside:
            idle.setdefault(offer.site, {})[offer.owner] = None
    places = {
        name: Place(
            name,
            *spots[name],
            site.tier,
            site.carbon_g_per_kwh,
            tuple(sorted(computing.get(name, ()))),
            tuple(idle.get(name, ())),
            children.get(name, 0),
            name in plan.standby,
            name == plan.root,
        )
        for name, site in topology.sites.items()
    }
    edges = _edges(plan, topology)
    links = {_pair(*link.ends): 0.0 for link in topology.file.links}
    for edge in edges:
        way = path(topology, edge.site, edge.to)
        for pair in itertools.pairwise(way):
            links[_pair(*pair)] = links.get(_pair(*pair), 0.0) + edge.megabytes
    return Scene(places, links, edges, geographic)


def path(topology: Topology, start: str, end: str) -> list[str]:
    """The sites of the way of least delay, both ends among them; empty without one."""
    if not math.isfinite(topology.one_way_ms[topology.index(start), topology.index(end)]):
        return []
    target = topology.index(end)
    way = [start]
    while way[-1] != end and len(way) <= len(topology.names):
        here = way[-1]
        left = float(topology.one_way_ms[topology.index(here), target])
        steps = [
            (abs(delay + _left(topology, there, target) - left), there)
            for there, delay in _neighbours(topology, here)
            if there not in way
        ]
        if not steps:
            return []
        way.append(min(steps)[1])
    return way


def _left(topology: Topology, site: str, target: int) -> float:
    at = topology.index(site)
    return 0.0 if at == target else float(topology.one_way_ms[at, target])


def _neighbours(topology: Topology, site: str) -> list[tuple[str, float]]:
    """Sites that a link leads to, with its delay."""
    found = []
    for link in topology.file.links:
        if link.ends[0] == site:
            found.append((link.ends[1], link.delay_ms))
        elif link.ends[1] == site and not link.one_direction:
            found.append((link.ends[0], link.back_ms))
    return found


def _edges(plan: Plan, topology: Topology) -> tuple[Edge, ...]:
    each = plan.work.down_mb + plan.work.up_mb
    groups: dict[tuple[str, str], list[str]] = {}
    for one in plan.participants:
        if one.site != one.aggregator:
            groups.setdefault((one.site, one.aggregator), []).append(one.owner)
    edges = [
        Edge(site, to, tuple(sorted(owners)), topology.circle(site, to), each * len(owners))
        for (site, to), owners in sorted(groups.items())
    ]
    up = [
        Edge(one.site, plan.root, (), None, each)
        for one in plan.aggregators
        if one.site != plan.root and one.children
    ]
    return (*edges, *sorted(up, key=lambda edge: edge.site))


def _spots(topology: Topology) -> tuple[dict[str, tuple[float, float]], bool]:
    """Each site in the unit square; by latency where a site's place on earth is not known."""
    sites = topology.sites
    known = [
        (site.longitude, site.latitude)
        for site in sites.values()
        if site.longitude is not None and site.latitude is not None
    ]
    if len(known) == len(sites):
        middle = math.radians(sum(latitude for _, latitude in known) / len(known))
        spots = {
            name: (float(site.longitude or 0.0) * math.cos(middle), float(site.latitude or 0.0))
            for name, site in sites.items()
        }
        return _squared(spots), True
    return _squared(_by_latency(topology)), False


def _squared(spots: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """The same shape with its longer side from 0 to 1, and the shorter one in the middle of it."""
    low = [min(spot[axis] for spot in spots.values()) for axis in (0, 1)]
    span = [max(spot[axis] for spot in spots.values()) - low[axis] for axis in (0, 1)]
    wide = max(*span, 1e-9)
    off = [(1 - each / wide) / 2 for each in span]
    return {
        name: ((x - low[0]) / wide + off[0], (y - low[1]) / wide + off[1]) for name, (x, y) in spots.items()
    }


def _by_latency(topology: Topology) -> dict[str, tuple[float, float]]:
    """Classical scaling of round trips to a plane; what cannot be reached stands twice as far as the farthest."""
    trips = (topology.rtt_ms + topology.rtt_ms.T) / 2
    reached = trips[np.isfinite(trips)]
    far = 2 * float(reached.max()) if len(reached) else 1.0
    squares = np.where(np.isfinite(trips), trips, far) ** 2
    np.fill_diagonal(squares, 0.0)
    centre = np.eye(len(squares)) - 1 / len(squares)
    values, vectors = np.linalg.eigh(-centre @ squares @ centre / 2)
    plane = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0.0))
    if plane.shape[1] < 2:
        plane = np.hstack([np.zeros((len(plane), 1)), plane])
    # The sign of an axis is the solver's whim.
    plane = plane * np.where(plane[np.abs(plane).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    return {name: (float(row[1]), float(row[0])) for name, row in zip(topology.names, plane, strict=True)}


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one <= other else (other, one)
