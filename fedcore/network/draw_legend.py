"""The legend of a plan's picture: every mark that stands in it, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from fedcore.network.canvas import (
    BAND,
    CIRCLE_LOOK,
    CORNERS,
    INK,
    QUIET,
    Canvas,
    Shades,
    amount,
    marker,
    person,
)
from fedcore.network.plan import Plan
from fedcore.network.scene import Scene
from fedcore.network.spots import HEIGHT, SIDE, WIDTH, crowded
from fedcore.network.topology import CIRCLES, Circle, Tier, Topology


def draw_legend(canvas: Canvas, plan: Plan, topology: Topology, scene: Scene, shades: Shades) -> None:
    """At the right: every mark that stands in the picture, and nothing else."""
    left, y = WIDTH - SIDE + 12.0, HEIGHT - 18.0
    told = plan.prediction
    canvas.text(left, y, f"Plan {plan.version}", "legend title", size=11.0, weight="bold")
    figures = [
        f"round {amount(told.round_s)} s",
        f"{amount(told.gco2_location)} g CO2, {amount(told.kwh)} kWh",
        f"cost {amount(told.cost)}",
    ]
    for line in figures:
        y -= 12.5
        canvas.text(left, y, line, "legend figures", size=8.4, color=QUIET)
    y -= 20.0
    y = _carbon(canvas, left, y, scene, shades)
    for mark, words in _entries(canvas, plan, topology, scene):
        if mark is None:
            y -= 8.0
            canvas.text(left, y, words, "legend head", size=8.4, weight="bold")
        else:
            mark(left + 11.0, y)
            canvas.text(left + 28.0, y, words, "legend entry", size=8.4)
        y -= 14.5


def _carbon(canvas: Canvas, left: float, y: float, scene: Scene, shades: Shades) -> float:
    if not shades.known:
        return y
    canvas.text(left, y, "Grid carbon, g/kWh", "legend carbon", size=8.4, weight="bold")
    y -= 14.0
    wide, pieces = SIDE - 36.0, 30
    for index in range(pieces):
        x0, x1 = left + wide * index / pieces, left + wide * (index + 1) / pieces + 0.3
        value = shades.low + (shades.high - shades.low) * (index + 0.5) / pieces
        box = [(x0, y - 4), (x1, y - 4), (x1, y + 4), (x0, y + 4)]
        canvas.polygon(box, "carbon scale", facecolor=shades.colour(value), edgecolor="none")
    y -= 11.0
    for share, side in ((0.0, "left"), (0.5, "center"), (1.0, "right")):
        value = shades.low + (shades.high - shades.low) * share
        canvas.text(
            left + wide * share, y, f"{value:.0f}", "carbon scale value", size=8.0, color=QUIET, ha=side
        )
    return y - 16.0


def _entries(canvas: Canvas, plan: Plan, topology: Topology, scene: Scene) -> Iterable[tuple[Any, str]]:
    """How each mark is drawn at a point, and what it means; a heading has no mark."""
    places = scene.places.values()
    yield None, "Sites"
    for tier in CORNERS:
        if any(one.tier == tier for one in places):
            yield _asmarker(canvas, tier), tier
    if any(one.carbon is None for one in places):
        yield _asmarker(canvas, "cloud", "white"), "no factor published"
    yield _as_ring(canvas, "solid", 1.8), "aggregator"
    if plan.standby:
        yield _as_ring(canvas, (0, (2, 1.6)), 1.1), "standby"
    yield _as_root(canvas), "coordinator"
    metric = "one way" if topology.file.circles.metric == "one_way" else "and back"
    yield None, f"To the aggregator, {metric}"
    for circle in CIRCLES:
        count = plan.prediction.circles.get(circle, 0)
        if count:
            limit = topology.limit(circle)
            within = f"≤ {limit:g} ms" if math.isfinite(limit) else f"> {topology.limit('national'):g} ms"
            yield _as_edge(canvas, circle), f"{circle}, {within}: {count}"
    if any(one.idle for one in places):
        yield (lambda x, y: person(canvas, x, y, None, "legend idle")), "offered, not chosen"
    if any(edge.circle is None for edge in scene.edges):
        yield _as_line(canvas, INK, 1.1), "sum to coordinator"
    most = max([*scene.links.values(), 0.0])
    if most > 0:
        yield _as_line(canvas, BAND, 8.0), f"link, up to {amount(most)} MB"
    if crowded(scene):
        yield None, "Larger disc: more of them"


def _asmarker(canvas: Canvas, tier: Tier, colour: str = "#dcc9a3") -> Any:
    return lambda x, y: marker(canvas, x, y, 5.5, tier, "legend site", colour, True)


def _as_ring(canvas: Canvas, style: Any, width: float) -> Any:
    look = {"facecolor": "white", "edgecolor": INK, "linewidth": width, "linestyle": style}
    return lambda x, y: canvas.circle(x, y, 5.5, "legend ring", **look)


def _as_root(canvas: Canvas) -> Any:
    return lambda x, y: canvas.circle(x, y, 2.6, "legend root", facecolor=INK, edgecolor="none")


def _as_line(canvas: Canvas, colour: str, width: float) -> Any:
    look = {"color": colour, "linewidth": width, "solid_capstyle": "butt"}
    return lambda x, y: canvas.line([x - 11, x + 11], [y, y], "legend line", **look)


def _as_edge(canvas: Canvas, circle: Circle) -> Any:
    colour, style = CIRCLE_LOOK[circle]

    def mark(x: float, y: float) -> None:
        canvas.line([x - 11, x + 11], [y, y], "legend edge", color=colour, linewidth=1.8, linestyle=style)
        person(canvas, x, y, circle, "legend person")

    return mark
