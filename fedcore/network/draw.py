"""A plan drawn on its map: who computes, who aggregates, which links are used, how near, how much carbon.

Colours are told apart by the colour-blind and in grey: carbon goes from light to dark, and circles have their own kinds of
line as well. All lengths are points (1/72 inch).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedcore.network.canvas import BAND, CIRCLE_LOOK, INK, LINK, Canvas, Shades, amount, marker, person
from fedcore.network.draw_labels import label_sites
from fedcore.network.draw_legend import draw_legend
from fedcore.network.offer import Offer
from fedcore.network.plan import Plan
from fedcore.network.scene import Scene, scene_of
from fedcore.network.spots import HEIGHT, WIDTH, Spot, crowded, discs_of, dots_of, spots_of
from fedcore.network.topology import Topology

if TYPE_CHECKING:
    from matplotlib.figure import Figure

APART = 5.0
"""Between the points by which labels keep off a line."""


def draw_plan(plan: Plan, topology: Topology, offers: Sequence[Offer] = ()) -> Figure:
    """A figure of a plan on its map.

    Args:
        plan: Of this map.
        topology: The map.
        offers: Of all owners; without them only those who take part are shown.

    Raises:
        DataError: The plan names a site that is not on the map.
    """
    scene = scene_of(plan, topology, offers)
    canvas = Canvas(WIDTH, HEIGHT)
    spots = spots_of(scene)
    shades = Shades([site.carbon for site in scene.places.values() if site.carbon is not None])
    lines = [*_links(canvas, scene, spots), *_edges(canvas, scene, spots)]
    for spot in spots.values():
        _site(canvas, spot, shades, crowded(scene))
    label_sites(canvas, spots, lines, len(plan.participants))
    draw_legend(canvas, plan, topology, scene, shades)
    return canvas.figure


def title_of(plan: Plan) -> str:
    """One sentence that says what the picture shows."""
    people, sites = len(plan.participants), len(plan.aggregators)
    return (
        f"Plan {plan.version} of {plan.job}: {people} participant{'s' * (people != 1)} compute, {sites} "
        f"site{'s' * (sites != 1)} aggregate{'s' * (sites == 1)}, a round takes {amount(plan.prediction.round_s)} s"
    )


def _links(canvas: Canvas, scene: Scene, spots: Mapping[str, Spot]) -> list[list[tuple[float, float]]]:
    """The map's links, wider where more passes."""
    most = max([*scene.links.values(), 1e-12])
    drawn = []
    for (one, other), megabytes in sorted(scene.links.items(), key=lambda pair: pair[1]):
        xs, ys = [spots[one].x, spots[other].x], [spots[one].y, spots[other].y]
        drawn.append(_sampled(xs, ys))
        if megabytes > 0:
            look: dict[str, Any] = {"color": BAND, "linewidth": 2.5 + 7.5 * math.sqrt(megabytes / most)}
            canvas.line(xs, ys, f"link {one} {other}", solid_capstyle="round", **look)
        canvas.line(xs, ys, f"way {one} {other}", color=LINK, linewidth=0.8)
    return drawn


def _sampled(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    """Points along a straight line, every few points of length."""
    count = max(2, round(math.hypot(xs[1] - xs[0], ys[1] - ys[0]) / APART))
    return [
        (xs[0] + (xs[1] - xs[0]) * step / count, ys[0] + (ys[1] - ys[0]) * step / count)
        for step in range(count + 1)
    ]


def _edges(canvas: Canvas, scene: Scene, spots: Mapping[str, Spot]) -> list[list[tuple[float, float]]]:
    """Bent lines to aggregators, in the colour of their circle, and from aggregators to the root."""
    most = max([edge.megabytes for edge in scene.edges if edge.circle], default=1.0)
    drawn = []
    for edge in scene.edges:
        points = _bent(spots[edge.site], spots[edge.to], 0.16 if edge.circle else -0.16)
        colour, style = CIRCLE_LOOK[edge.circle] if edge.circle else (INK, "solid")
        width = 1.1 + 1.4 * math.sqrt(edge.megabytes / most) if edge.circle else 1.1
        name = f"edge {edge.site} {edge.to}" if edge.circle else f"up {edge.site} {edge.to}"
        canvas.line(*_axes(points), name, color=colour, linewidth=width, linestyle=style)
        canvas.polygon(_head(points, 4.5 + width), f"{name} head", facecolor=colour, edgecolor="none")
        drawn.append(points)
    return drawn


def _bent(start: Spot, end: Spot, bend: float) -> list[tuple[float, float]]:
    """Points of a bow between two sites, from the edge of the one to that of the other."""
    dx, dy = end.x - start.x, end.y - start.y
    far = math.hypot(dx, dy) or 1.0
    middle = ((start.x + end.x) / 2 - dy * bend, (start.y + end.y) / 2 + dx * bend)
    points = []
    count = max(12, round(far / APART))
    for step in range(count + 1):
        t = step / count
        x = (1 - t) ** 2 * start.x + 2 * t * (1 - t) * middle[0] + t**2 * end.x
        y = (1 - t) ** 2 * start.y + 2 * t * (1 - t) * middle[1] + t**2 * end.y
        points.append((x, y))
    kept = [
        (x, y)
        for x, y in points
        if math.hypot(x - start.x, y - start.y) >= min(start.ring, far / 3)
        and math.hypot(x - end.x, y - end.y) >= min(end.ring + 2, far / 3)
    ]
    return kept if len(kept) > 1 else points


def _head(points: Sequence[tuple[float, float]], size: float) -> list[tuple[float, float]]:
    """An arrow's head at the end of a line."""
    (x0, y0), (x1, y1) = points[-2], points[-1]
    far = math.hypot(x1 - x0, y1 - y0) or 1.0
    ux, uy = (x1 - x0) / far, (y1 - y0) / far
    tip = (x1 + ux * size * 0.7, y1 + uy * size * 0.7)
    return [
        tip,
        (x1 - uy * size * 0.5, y1 + ux * size * 0.5),
        (x1 + uy * size * 0.5, y1 - ux * size * 0.5),
    ]


def _axes(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _site(canvas: Canvas, spot: Spot, shades: Shades, many: bool) -> None:
    """A site with everybody around it."""
    one = spot.place
    discs = discs_of(one, many)
    around = list(zip(discs, dots_of(spot.x, spot.y, spot.size, len(discs)), strict=True))
    for disc, (x, y) in around:
        if disc.circle is not None:
            look = {"color": CIRCLE_LOOK[disc.circle][0], "linewidth": 1.1}
            canvas.line([spot.x, x], [spot.y, y], f"spoke {disc.name}", **look)
    for disc, (x, y) in around:
        name = f"participant {disc.name}" if disc.circle else f"idle {disc.name}"
        person(canvas, x, y, disc.circle, name, disc.radius)
    if one.children:
        canvas.circle(spot.x, spot.y, spot.size + 2.8, f"aggregator {one.name}", facecolor="white", edgecolor=INK, linewidth=1.8)  # fmt: skip
    elif one.standby:
        canvas.circle(spot.x, spot.y, spot.size + 2.8, f"standby {one.name}", facecolor="white", edgecolor=INK, linewidth=1.1, linestyle=(0, (2, 1.6)))  # fmt: skip
    marker(
        canvas, spot.x, spot.y, spot.size, one.tier, f"site {one.name}", shades.colour(one.carbon), one.used
    )
    if one.root:
        canvas.circle(
            spot.x, spot.y, 2.4, f"root {one.name}", facecolor=INK, edgecolor="white", linewidth=0.7
        )
