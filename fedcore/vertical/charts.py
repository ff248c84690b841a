"""Charts of scores, as SVG: curves over shares, distributions, groups. Colours are classes of the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fedcore.drawing.axes import Scale, metric_axis, nice_step, svg, tick_text
from fedcore.drawing.markup import Markup, coordinate, element, escape, join
from fedcore.drawing.page import middle_cut

MOST_POINTS = 240
"""Points of one drawn line; more are not seen and only make the page heavy."""


@dataclass(frozen=True)
class Axis:
    """One side of a chart.

    Args:
        title: What it shows.
        low, high: Its ends; taken from the points where None.
        percent: Whether its numbers are shares, written as per cent.
        ticks: About so many numbers along it.
        whole: Whether only whole numbers stand there.
    """

    title: str
    low: float | None = None
    high: float | None = None
    percent: bool = False
    ticks: int = 5
    whole: bool = False

    def text(self, value: float, step: float) -> str:
        """A tick's text."""
        if self.whole:
            return str(round(value))
        return metric_axis(100 * value, 100 * step) if self.percent else metric_axis(value, step)


@dataclass(frozen=True)
class Line:
    """Points joined by a line.

    Args:
        points: x and y; those that are not finite are left out.
        style: Its class.
        name: What a pointer resting on it reads.
        dots: Whether each point is marked, too.
        reach: Lowest and highest y of each point (its interval); none when empty.
    """

    points: Sequence[tuple[float, float]]
    style: str
    name: str = ""
    dots: bool = False
    reach: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Bars:
    """Bars of equal width from zero.

    Args:
        edges: Of the bars, one more than heights.
        heights: Of each.
        style: Their class.
        told: What a pointer resting on one reads; none when empty.
    """

    edges: Sequence[float]
    heights: Sequence[float]
    style: str
    told: Sequence[str] = ()


@dataclass(frozen=True)
class Upright:
    """A dashed line at one x with a word beside it."""

    x: float
    text: str
    low: float = math.nan
    high: float = math.nan


def chart(
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    describe: str,
    bars: Sequence[Bars] = (),
    uprights: Sequence[Upright] = (),
    diagonal: bool = False,
    level: tuple[float, str] | None = None,
    width: int = 440,
    height: int = 300,
) -> Markup:
    """Lines and bars over two number axes.

    Args:
        lines: Drawn in order, the last on top, above all bars.
        x, y: The axes.
        describe: For those who hear the page.
        bars: Below the lines.
        uprights: Marks at an x.
        diagonal: Whether the line y = x is drawn, for reference.
        level: A dashed line at one y, and its word.
        width, height: Pixels.
    """
    across, up = _extent(x, y, lines, bars)
    horizontal = Scale(*across, 50.0, width - 14.0)
    vertical = Scale(*up, height - 44.0, 24.0)
    parts = [_grid(horizontal, vertical, x, y, height)]
    if diagonal:
        low, high = max(across[0], up[0]), min(across[1], up[1])
        ends = {"x1": horizontal(low), "y1": vertical(low), "x2": horizontal(high), "y2": vertical(high)}
        parts.append(element("line", class_="reference", **ends))
    parts += [_bars(each, horizontal, vertical) for each in bars]
    if level is not None:
        at = vertical(level[0])
        ends = {"x1": horizontal.start, "x2": horizontal.end, "y1": at, "y2": at}
        parts.append(element("line", class_="reference", **ends))
        parts.append(element("text", level[1], x=horizontal.end, y=at - 5, class_="note", text_anchor="end"))
    parts += [_line(each, horizontal, vertical) for each in lines]
    parts += [_upright(each, horizontal, vertical) for each in uprights]
    return svg(width, height, describe, parts)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` of a curve's points: those that are about equally far along it, and both ends."""
    if len(points) <= MOST_POINTS:
        return list(points)
    lengths = [0.0]
    for (x, y), (later_x, later_y) in pairwise(points):
        lengths.append(lengths[-1] + abs(later_x - x) + abs(later_y - y))
    step, kept, due = lengths[-1] / (MOST_POINTS - 2), [points[0]], 0.0
    for point, length in zip(points[1:-1], lengths[1:-1], strict=True):
        if length >= due + step:
            kept.append(point)
            due = length
    return [*kept, points[-1]]


def _extent(
    x: Axis, y: Axis, lines: Sequence[Line], bars: Sequence[Bars]
) -> tuple[tuple[float, float], tuple[float, float]]:
    points = [point for line in lines for point in line.points if _finite(point)]
    xs = [point[0] for point in points] + [edge for each in bars for edge in each.edges]
    ys = [point[1] for point in points] + [edge for line in lines for pair in line.reach for edge in pair]
    ys += [0.0, *(height for each in bars for height in each.heights)] if bars else []
    return _ends(x, xs, pad=0.0), _ends(y, ys, pad=0.06)


def _ends(axis: Axis, values: Sequence[float], pad: float) -> tuple[float, float]:
    known = [value for value in values if math.isfinite(value)]
    low = min(known, default=0.0) if axis.low is None else axis.low
    high = max(known, default=1.0) if axis.high is None else axis.high
    margin = (high - low) * pad or (0.0 if high > low else max(abs(high) * 0.05, 1e-6))
    if axis.low is None and low != 0:
        low -= margin
    if axis.high is None:
        high += margin
    return low, high if high > low else low + 1.0


def _grid(horizontal: Scale, vertical: Scale, x: Axis, y: Axis, height: int) -> Markup:
    parts: list[Markup] = []
    step = nice_step((vertical.high - vertical.low) / y.ticks)
    for tick in vertical.ticks(y.ticks):
        at = vertical(tick)
        ends = {"x1": horizontal.start, "x2": horizontal.end, "y1": at, "y2": at}
        parts.append(element("line", class_="grid", **ends))
        parts.append(tick_text(horizontal.start - 8, at + 4, y.text(tick, step), "end"))
    step = nice_step((horizontal.high - horizontal.low) / x.ticks)
    for tick in horizontal.ticks(x.ticks):
        if x.whole and tick != round(tick):
            continue
        at = horizontal(tick)
        parts.append(element("line", x1=at, x2=at, y1=vertical.start, y2=vertical.start + 4, class_="axis"))
        parts.append(tick_text(at, vertical.start + 17, x.text(tick, step), "middle"))
    ends = {"x1": horizontal.start, "x2": horizontal.end, "y1": vertical.start, "y2": vertical.start}
    parts.append(element("line", class_="axis", **ends))
    parts.append(tick_text(horizontal.end, height - 8.0, f"{x.title}{', %' * x.percent}", "end"))
    parts.append(tick_text(0.0, 11.0, f"{y.title}{', %' * y.percent}", "start"))
    return join(parts)


def _bars(bars: Bars, horizontal: Scale, vertical: Scale) -> Markup:
    found = []
    for place, height in enumerate(bars.heights):
        left, right = horizontal(bars.edges[place]), horizontal(bars.edges[place + 1])
        if not math.isfinite(height) or height <= 0:
            continue
        box = {"x": left + 0.5, "width": max(right - left - 1, 0.5)}
        box |= {"y": vertical(height), "height": vertical.start - vertical(height)}
        title = [element("title", bars.told[place])] if bars.told else []
        found.append(element("rect", *title, class_=bars.style, **box))
    return element("g", *found)


def _line(line: Line, horizontal: Scale, vertical: Scale) -> Markup:
    places = [(horizontal(x), vertical(y)) for x, y in line.points if _finite((x, y))]
    drawn = "M" + "L".join(f"{coordinate(x)} {coordinate(y)}" for x, y in places) if len(places) > 1 else ""
    parts: list[Markup] = [element("title", line.name)] if line.name else []
    for (x, _), (low, high) in zip(line.points, line.reach, strict=False):
        at = horizontal(x)
        parts.append(
            element("line", x1=at, x2=at, y1=vertical(low), y2=vertical(high), class_=f"reach {line.style}")
        )
    parts += [element("path", d=drawn)] if drawn else []
    if line.dots or len(places) == 1:
        parts += [element("circle", cx=x, cy=y, r=3.2) for x, y in places]
    return element("g", *parts, class_=f"line {line.style}")


def _upright(mark: Upright, horizontal: Scale, vertical: Scale) -> Markup:
    at = horizontal(mark.x)
    low = mark.low if math.isfinite(mark.low) else vertical.low
    high = mark.high if math.isfinite(mark.high) else vertical.high
    rule = element("line", x1=at, x2=at, y1=vertical(low), y2=vertical(high), class_="mark")
    room = at < horizontal.end - 8 * len(mark.text)
    place = {"x": at + (7 if room else -7), "y": vertical(low + 0.7 * (high - low)) + 4}
    word = element("text", mark.text, class_="strong halo", text_anchor="start" if room else "end", **place)
    return element("g", rule, word)


def stepped(edges: Sequence[float], heights: Sequence[float]) -> list[tuple[float, float]]:
    """The outline of a histogram as points of a line."""
    points = [(edges[0], 0.0)]
    for place, height in enumerate(heights):
        points += [(edges[place], height), (edges[place + 1], height)]
    return [*points, (edges[-1], 0.0)]


def titled(text: str, most: int, shorter: str = "") -> Markup:
    """Text for inside an SVG text element, cut to so many characters; the whole stands in its title.

    Args:
        text: The whole.
        most: Characters that there is room for.
        shorter: Another way to say it, shown in its place.
    """
    if len(text) <= most and not shorter:
        return escape(text)
    return join([element("title", text), middle_cut(shorter or text, most)])


def _finite(point: tuple[float, float]) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


Format = Callable[[float], str]
