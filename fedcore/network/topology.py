"""Sites, the links between them, and how far apart any two are: one way and there and back.

A file gives the sites in tiers (end, edge, cloud, hub) and the links that somebody measured or declared; every
other pair is derived from the path of least delay and marked so. Two sites without a path are infinitely far apart.
Latency circles (1, 5 and 20 ms unless the file says otherwise) are counted in the metric that the file names.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from fedcore.errors import DataError, JobError, did_you_mean
from fedcore.jobs.common import Name, Strict
from fedcore.jobs.problems import refuse
from fedcore.jobs.source import read_source
from fedcore.jobs.validation import validate

Tier = Literal["end", "edge", "cloud", "hub"]
Metric = Literal["one_way", "rtt"]
Circle = Literal["city", "region", "national", "wide"]
CIRCLES: tuple[Circle, ...] = ("city", "region", "national", "wide")

FIBRE_MS_PER_KM = 0.005
"""Light in glass: two thirds of its speed in vacuum."""

HOP_MS = 0.05
"""Assumed for the equipment at the ends of a link whose length alone is known."""

Milliseconds = Annotated[float, Field(ge=0, le=10_000)]
Rate = Annotated[float, Field(gt=0, le=1e8)]
"""Mbit/s."""


class Aggregator(Strict):
    """What a site can do as an aggregator.

    Args:
        ingress_mbit_s: Rate at which it takes in updates of all its children together, Mbit/s.
        merge_mb_s: Rate at which it adds updates up, MB/s (10^6 bytes).
        cost: Price of keeping it for one round, in the policy's currency.
        kwh: Energy of keeping it for one round, times the site's PUE.
        owner: `neutral`, or the participant that runs it.
        security: Level, from 1 to 5.
        attested: Kinds of attestation that were verified.
    """

    ingress_mbit_s: Rate
    merge_mb_s: Annotated[float, Field(gt=0, le=1e7)] = 1000.0
    cost: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    kwh: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    owner: Name = "neutral"
    security: Annotated[int, Field(ge=1, le=5)] = 3
    attested: tuple[str, ...] = ()


class Site(Strict):
    """A place with nodes, with an aggregator, or only with a switch.

    Args:
        latitude, longitude: Degrees; for drawing only.
        region: Whose carbon factor is meant, such as a province.
        carbon_g_per_kwh: Grams of CO2 per kWh of the local grid; none where nobody publishes one.
        egress_price: Of traffic out of the site, in the policy's currency per GB (10^9 bytes).
    """

    tier: Tier
    jurisdiction: str
    latitude: Annotated[float, Field(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Field(ge=-180, le=180)] | None = None
    region: str = ""
    carbon_g_per_kwh: Annotated[float, Field(ge=0, le=2000)] | None = None
    pue: Annotated[float, Field(ge=1, le=3)] = 1.5
    egress_price: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    aggregator: Aggregator | None = None


class Link(Strict):
    """A link between two sites, alike in both directions unless `one_direction` is set.

    Args:
        ends: From, to.
        km: Length; the delay is then that of glass and equipment.
        one_way_ms, rtt_ms: Delay; the other is taken as its double or half where it is absent.
        mbit_s: Rate in Mbit/s.
        source: Where the delay and the rate come from.
    """

    ends: tuple[Name, Name]
    km: Annotated[float, Field(ge=0, le=50_000)] | None = None
    one_way_ms: Milliseconds | None = None
    rtt_ms: Milliseconds | None = None
    mbit_s: Rate
    one_direction: bool = False
    source: Literal["measured", "attested", "declared", "derived"] = "declared"

    @model_validator(mode="after")
    def _delay(self) -> Link:
        if self.one_way_ms is None and self.rtt_ms is None and self.km is None:
            raise ValueError("a link needs one of one_way_ms, rtt_ms and km")
        if self.ends[0] == self.ends[1]:
            raise ValueError("a link joins two different sites")
        return self

    @property
    def delay_ms(self) -> float:
        """One way."""
        if self.one_way_ms is not None:
            return self.one_way_ms
        if self.rtt_ms is not None:
            return self.rtt_ms / 2
        return (self.km or 0.0) * FIBRE_MS_PER_KM + HOP_MS

    @property
    def back_ms(self) -> float:
        """The other half of the round trip."""
        if self.rtt_ms is not None and self.one_way_ms is not None:
            return max(0.0, self.rtt_ms - self.one_way_ms)
        return self.delay_ms


class CircleLimits(Strict):
    """Up to how many milliseconds a pair is in a circle; beyond the last it is `wide`."""

    city: Milliseconds = 1.0
    region: Milliseconds = 5.0
    national: Milliseconds = 20.0
    metric: Metric = "one_way"

    @model_validator(mode="after")
    def _rising(self) -> CircleLimits:
        if not self.city < self.region < self.national:
            raise ValueError("circles must widen: city, then region, then national")
        return self


class Inside(Strict):
    """Between two machines of one site."""

    one_way_ms: Milliseconds = 0.1
    mbit_s: Rate = 10_000.0


class TopologyFile(Strict):
    """A topology as a person writes it.

    Args:
        about: What the map shows.
        source: Where its facts come from.
        licence: Under which they may be used.
        assumptions: Which values nobody measured.
    """

    name: Name
    about: str = ""
    source: str = ""
    licence: str = ""
    assumptions: tuple[str, ...] = ()
    circles: CircleLimits = CircleLimits()
    inside: Inside = Inside()
    sites: Annotated[dict[Name, Site], Field(min_length=1)]
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, eq=False)
class Topology:
    """Sites and all pairs of them.

    Args:
        file: As written.
        names: Of the sites, sorted; all arrays are in this order.
        one_way_ms: [S, S] float64, from row to column; infinite without a path.
        rtt_ms: [S, S] float64.
        mbit_s: [S, S] float64, the narrowest link of the path; 0 without one.
        source: [S, S] of text: that of the link, `derived` for a longer path, `none` without one.
    """

    file: TopologyFile
    names: tuple[str, ...]
    one_way_ms: npt.NDArray[np.float64]
    rtt_ms: npt.NDArray[np.float64]
    mbit_s: npt.NDArray[np.float64]
    source: npt.NDArray[np.str_]

    @property
    def sites(self) -> Mapping[str, Site]:
        """By name."""
        return self.file.sites

    def index(self, name: str) -> int:
        """A site's place in the arrays.

        Raises:
            DataError: There is no such site.
        """
        if name not in self.file.sites:
            raise DataError(
                f'site "{name}" is not in topology {self.file.name}: {did_you_mean(name, self.names)}'
            )
        return self.names.index(name)

    def circle(self, one: str, other: str, metric: Metric | None = None) -> Circle:
        """The narrowest circle that holds both sites."""
        pair = (self.index(one), self.index(other))
        ms = (self.rtt_ms if (metric or self.file.circles.metric) == "rtt" else self.one_way_ms)[pair]
        return next((name for name in CIRCLES[:-1] if ms <= self.limit(name)), "wide")

    def limit(self, circle: Circle) -> float:
        """Milliseconds up to which a pair is in a circle."""
        return math.inf if circle == "wide" else float(getattr(self.file.circles, circle))

    def digest(self) -> str:
        """SHA-256 of the file's values, hex."""
        text = json.dumps(self.file.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def load_topology(path: str | Path) -> Topology:
    """The topology of a YAML file.

    Raises:
        JobError: With all problems of the file.
    """
    source, problems = read_source(Path(path))
    model: Any = None
    if source.data is not None:
        model, found = validate(source, TopologyFile)
        problems += found
    refuse(problems)
    return topology_from(model)


def topology_from(file: TopologyFile) -> Topology:
    """All pairs of a topology's sites.

    Raises:
        JobError: A link names a site that is not there.
    """
    for link in file.links:
        for end in link.ends:
            if end not in file.sites:
                raise JobError(f'topology {file.name}: link to "{end}": {did_you_mean(end, file.sites)}')
    names = tuple(sorted(file.sites))
    place = {name: index for index, name in enumerate(names)}
    arcs = _arcs(file.links)
    size = len(names)
    one_way, rate = np.full((size, size), np.inf), np.zeros((size, size))
    source = np.full((size, size), "none", dtype="<U8")
    for start, name in enumerate(names):
        one_way[start, start], rate[start, start] = file.inside.one_way_ms, file.inside.mbit_s
        source[start, start] = "declared"
        for end, (delay, width, hops, first) in _paths(arcs, name).items():
            at = (start, place[end])
            one_way[at], rate[at] = delay / 1e6, width
            source[at] = first if hops == 1 else "derived"
    return Topology(file, names, one_way, one_way + one_way.T, rate, source)


_Arcs = dict[str, list[tuple[str, int, float, str]]]


def _arcs(links: Sequence[Link]) -> _Arcs:
    """By the site they leave: to, delay in nanoseconds (whole, so that equal paths are equal), Mbit/s, source."""
    arcs: _Arcs = {}
    for link in links:
        there, back = link.ends
        arcs.setdefault(there, []).append((back, round(link.delay_ms * 1e6), link.mbit_s, link.source))
        if not link.one_direction:
            arcs.setdefault(back, []).append((there, round(link.back_ms * 1e6), link.mbit_s, link.source))
    return arcs


def _paths(arcs: _Arcs, start: str) -> dict[str, tuple[int, float, int, str]]:
    """To every other site that can be reached: least delay, the widest among those, its links, the first's source."""
    best: dict[str, tuple[int, float, int, str]] = {}
    queue: list[tuple[int, float, int, str, str]] = [(0, -math.inf, 0, start, "")]
    while queue:
        delay, narrow, hops, at, first = heapq.heappop(queue)
        if at in best:
            continue
        best[at] = (delay, -narrow, hops, first)
        for end, more, width, source in arcs.get(at, ()):
            if end not in best:
                heapq.heappush(queue, (delay + more, max(narrow, -width), hops + 1, end, first or source))
    del best[start]
    return best


def with_links(topology: Topology, links: Sequence[Link]) -> Topology:
    """The topology in which these links replace those between the same ends, such as after a measurement."""
    ends = {link.ends for link in links} | {link.ends[::-1] for link in links if not link.one_direction}
    kept: list[Link] = []
    for old in topology.file.links:
        there, back = old.ends in ends, old.ends[::-1] in ends
        if old.one_direction or there == back:
            kept += [] if there else [old]
        else:
            alive = old.ends if back else old.ends[::-1]
            delay = old.delay_ms if back else old.back_ms
            half: dict[str, Any] = {"ends": alive, "one_way_ms": delay, "rtt_ms": None, "one_direction": True}
            kept.append(old.model_copy(update=half))
    return topology_from(topology.file.model_copy(update={"links": (*kept, *links)}))


def without(topology: Topology, sites: Sequence[str] = (), links: Sequence[tuple[str, str]] = ()) -> Topology:
    """The topology after a loss: these sites pass nothing on and aggregate nothing, these links carry nothing.

    Raises:
        DataError: A site is not there.
    """
    for name in sites:
        topology.index(name)
    cut = {frozenset(pair) for pair in links}
    left = tuple(
        link
        for link in topology.file.links
        if frozenset(link.ends) not in cut and not set(link.ends) & set(sites)
    )
    dead = {name: topology.sites[name].model_copy(update={"aggregator": None}) for name in sites}
    return topology_from(
        topology.file.model_copy(update={"links": left, "sites": {**topology.file.sites, **dead}})
    )
