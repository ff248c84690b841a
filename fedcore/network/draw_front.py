"""The front of a job drawn: round time against carbon, coloured by cost, and against cost, coloured by carbon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fedcore.network.canvas import INK, QUIET, amount
from fedcore.network.front import Point
from fedcore.network.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 690.0, 315.0
PLAN = "#d1495b"


def draw_front(points: Sequence[Point], plan: Point, *, currency: str, basis: str = "location") -> Figure:
    """A figure of two panels that share the time of a round.

    Args:
        points: Of `fedcore.network.front.pareto`.
        plan: The plan itself, among them or not.
        currency: Of the cost.
        basis: Of the carbon: `location` or `market`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72, facecolor="white")
    FigureCanvasAgg(figure)
    carbon = "g CO2 of a round" + (", by contracts" if basis == "market" else "")
    cost = f"{currency} of a round"
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.085, right=0.965, top=0.885, bottom=0.225, wspace=0.42)
    _panel(left, points, plan, (_grams, carbon), (_money, cost), "carbon")
    _panel(right, points, plan, (_money, cost), (_grams, carbon), "cost")
    _legend(figure, points)
    return figure


def front_title(plan: Plan, points: Sequence[Point]) -> str:
    """One sentence that says what the picture shows."""
    best = sum(point.efficient for point in points)
    return (
        f"{len(points)} placements of {plan.job} by other weights, {best} of them not beaten in time, carbon and cost at "
        "once"
    )


def _grams(point: Point) -> float:
    return point.grams


def _money(point: Point) -> float:
    return point.money


_Axis = tuple[Callable[[Point], float], str]


def _panel(axes: Axes, points: Sequence[Point], plan: Point, upward: _Axis, shade: _Axis, name: str) -> None:
    from matplotlib import colormaps

    (height, title), (dark, told) = upward, shade
    values = [dark(point) for point in points]
    low, span = min(values), (max(values) - min(values)) or 1.0
    lesser = [point for point in points if not point.efficient]
    best = [point for point in points if point.efficient]
    axes.scatter([p.round_s for p in lesser], [height(p) for p in lesser], s=26, facecolors="none", edgecolors="#9aa3ad", linewidths=1.0, gid=f"{name} dominated")  # fmt: skip
    edge = _lower(best, height)
    axes.plot([p.round_s for p in edge], [height(p) for p in edge], color="#8792a0", linewidth=1.2, drawstyle="steps-post", gid=f"{name} front", zorder=1)  # fmt: skip
    for number, point in enumerate(best):
        colour = colormaps["cividis"]((dark(point) - low) / span)
        axes.plot([point.round_s], [height(point)], "o", markersize=8, color=colour, markeredgecolor=INK, markeredgewidth=0.7, gid=f"{name} point {number}")  # fmt: skip
    axes.plot([plan.round_s], [height(plan)], "o", markersize=14, markerfacecolor="none", markeredgecolor=PLAN, markeredgewidth=2.0, gid=f"{name} plan")  # fmt: skip
    _words(axes, points, height, "greenest" if name == "carbon" else "cheapest")
    _scale(axes, low, low + span, told, name)
    axes.set_xlabel("seconds of a round", fontsize=9, color=INK)
    axes.set_ylabel(title, fontsize=9, color=INK)
    axes.tick_params(labelsize=8.4, colors=QUIET, length=3)
    _limits(axes, [p.round_s for p in (*points, plan)], [height(p) for p in (*points, plan)])
    axes.grid(color="#e8ebef", linewidth=0.8)
    axes.set_axisbelow(True)
    for side, line in axes.spines.items():
        line.set_visible(side in ("left", "bottom"))
        line.set_color("#c3c9d0")


def _limits(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> None:
    """Room around the points; figures that differ by less than a twentieth are drawn as near as they are."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for values, change, axis, margin in (
        (xs, axes.set_xlim, axes.xaxis, 0.14),
        (ys, axes.set_ylim, axes.yaxis, 0.22),
    ):
        low, high = min(values), max(values)
        span = max(high - low, 0.05 * abs(high), 1e-12)
        middle = (low + high) / 2
        change(middle - span * (0.5 + margin), middle + span * (0.5 + margin))
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def _lower(points: Sequence[Point], height: Callable[[Point], float]) -> list[Point]:
    """Those that no other beats in the two figures of a panel, from left to right."""
    found: list[Point] = []
    for point in sorted(points, key=lambda one: (one.round_s, height(one))):
        if not found or height(point) < height(found[-1]):
            found.append(point)
    return found


def _words(axes: Axes, points: Sequence[Point], height: Callable[[Point], float], least: str) -> None:
    """Names of the two ends."""
    ends = {"fastest": min(points, key=lambda one: (one.round_s, height(one)))}
    ends[least] = min(points, key=lambda one: (height(one), one.round_s))
    if ends["fastest"].figures == ends[least].figures:
        ends = {f"fastest and {least}": ends[least]}
    for word, point in ends.items():
        up = 12 if word == "fastest" else -18
        side = "left" if "fastest" in word else "right"
        axes.annotate(word, (point.round_s, height(point)), xytext=(-8 if side == "left" else 8, up), textcoords="offset points", ha=side, fontsize=8.4, color=INK)  # fmt: skip


def _legend(figure: Figure, points: Sequence[Point]) -> None:
    """What the marks mean, below the panels."""
    from matplotlib.lines import Line2D

    plain: dict[str, Any] = {"color": "none", "marker": "o"}
    marks = [
        (Line2D([], [], markersize=11, markeredgecolor=PLAN, markeredgewidth=2.0, markerfacecolor="none", **plain), "this plan"),
        (Line2D([], [], markersize=8, markeredgecolor=INK, markerfacecolor="#7c7b78", **plain), "not beaten in all three"),
        (Line2D([], [], color="#8792a0", linewidth=1.2), "best of the two figures"),
    ]  # fmt: skip
    if any(not point.efficient for point in points):
        hollow = Line2D([], [], markersize=5.5, markeredgecolor="#9aa3ad", markerfacecolor="none", **plain)
        marks.insert(2, (hollow, "beaten"))
    handles, words = zip(*marks, strict=True)
    figure.legend(handles, words, loc="lower center", ncol=len(marks), frameon=False, fontsize=8.4)


def _scale(axes: Axes, low: float, high: float, told: str, name: str) -> None:
    """The colours above a panel, from the smallest to the largest."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    look: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    axes.text(0.0, 1.07, told, fontsize=8.4, color=QUIET, va="center", gid=f"{name} scale", **look)
    start, wide, pieces = 0.56, 0.22, 24
    for piece in range(pieces):
        colour = colormaps["cividis"]((piece + 0.5) / pieces)
        spot = (start + wide * piece / pieces, 1.045)
        axes.add_patch(
            Rectangle(spot, wide / pieces + 0.002, 0.05, facecolor=colour, edgecolor="none", **look)
        )
    axes.text(start - 0.02, 1.07, amount(low), fontsize=8.4, color=QUIET, va="center", ha="right", **look)
    axes.text(start + wide + 0.02, 1.07, amount(high), fontsize=8.4, color=QUIET, va="center", **look)
