"""Kaplan-Meier curves as an SVG picture: steps, intervals, and the rows at risk below."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise

from fedcore.analytics.survival import Curve, SurvivalResult
from fedcore.drawing.axes import Scale, horizontal_grid, metric_axis, nice_step, svg, tick_text
from fedcore.drawing.markup import Markup, coordinate, element, join
from fedcore.errors import DataError

COLOURS = ("#1b6ca8", "#c2571a", "#2f8f5b", "#8a4fa3", "#9c7a00", "#5b6770")
LEFT, TOP, LINE = 96, 16, 16
_STYLE = Markup(
    "text{font:12px system-ui,sans-serif;fill:#333}.grid{stroke:#e3e3e3}.axis{stroke:#777}.curve{fill:none;stroke-width:2}"
    ".reach{stroke:none;opacity:.15}"
)


def survival_plot(found: SurvivalResult, *, width: int = 640, height: int = 400) -> Markup:
    """The curves of all groups, with pointwise intervals, in up to six colours.

    Args:
        found: Of `survival.combine_survival`.
        width, height: Pixels; the rows at risk come below that height.

    Returns:
        An SVG element that stands alone; write it to a file as it is.

    Raises:
        DataError: There are more than six groups, or none with rows.
    """
    shown = [each for each in found.curves if len(each.time)]
    if not 0 < len(shown) <= len(COLOURS):
        raise DataError(
            f"{len(shown)} groups have rows; a picture shows 1 to {len(COLOURS)}. Cure: ask for fewer groups",
            step="plot",
        )
    end = max(float(each.time[-1]) for each in shown) or 1.0
    step = nice_step(end / 8)
    ticks = [place * step for place in range(math.ceil(end / step - 1e-9) + 1)]
    x = Scale(0.0, ticks[-1], LEFT, width - 24)
    y = Scale(0.0, 1.0, height - 40, TOP)
    parts: list[object] = [element("style", _STYLE), horizontal_grid(y, x.start, x.end, metric_axis)]
    parts.append(element("line", x1=x.start, x2=x.end, y1=y(0), y2=y(0), class_="axis"))
    parts += [tick_text(x(tick), height - 22, metric_axis(tick, step), "middle") for tick in ticks]
    parts.append(tick_text(x.end, height - 6, str(found.asked.time), "end"))
    parts.append(tick_text(8, height + LINE - 4, "at risk", "start"))
    for place, each in enumerate(shown):
        colour, below = COLOURS[place], height + LINE * (place + 2) - 4
        parts.append(element("path", d=_band(each, x, y), class_="reach", style=f"fill:{colour}"))
        line = _path(_steps(each.time.tolist(), each.survival.tolist()), x, y)
        name = element("title", f"{each.group}: {each.rows} rows, {int(each.events.sum())} events")
        parts.append(element("path", name, d=line, class_="curve", style=f"stroke:{colour}"))
        parts.append(element("text", str(each.group), x=8, y=below, style=f"fill:{colour};font-weight:600"))
        parts += [tick_text(x(tick), below, _at_risk(each, tick), "middle") for tick in ticks]
    described = f"Kaplan-Meier curves of {found.asked.time}: {', '.join(str(each.group) for each in shown)}"
    tall = height + LINE * (len(shown) + 2)
    picture = svg(width, tall, described, [join(parts)])
    return Markup(picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def _steps(time: list[float], share: list[float]) -> list[tuple[float, float]]:
    """Corners of a curve that starts at 1."""
    corners = [(0.0, 1.0)]
    for at, value in zip(time, share, strict=True):
        corners += [(at, corners[-1][1]), (at, value)]
    return corners


def _path(corners: list[tuple[float, float]], x: Scale, y: Scale) -> str:
    kept = [corners[0], *(b for a, b in pairwise(corners) if a != b)]
    return "M" + "L".join(f"{coordinate(x(at))} {coordinate(y(value))}" for at, value in kept)


def _band(curve: Curve, x: Scale, y: Scale) -> str:
    """The interval, up to where it is known."""
    known = [not math.isnan(low) for low in curve.low.tolist()]
    count = known.index(False) if False in known else len(known)
    time = curve.time.tolist()[:count]
    upper, lower = _steps(time, curve.high.tolist()[:count]), _steps(time, curve.low.tolist()[:count])
    return _path([*upper, *reversed(lower)], x, y) + "Z"


def _at_risk(curve: Curve, time: float) -> str:
    """Rows whose time is not before this one; a question mark where that is not told."""
    times = curve.time.tolist()
    place = bisect_left(times, time * (1 - 1e-12))
    if place < len(times):
        return str(round(curve.at_risk[place]))
    return "?" if curve.cut else "0"


__all__ = ["survival_plot"]
