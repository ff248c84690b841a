"""Plots of answers as SVG: bars of a histogram, and coefficients with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedcore.analytics.disclosure import Suppressed
from fedcore.analytics.result import Coefficient
from fedcore.drawing.axes import Scale, domain, horizontal_grid, metric_axis, svg, tick_text, vertical_grid
from fedcore.drawing.markup import Markup, element

COLOUR = "#1b6ca8"
MOST = 60
_STYLE = Markup(
    "text{font:12px system-ui,sans-serif;fill:#333}.grid{stroke:#e3e3e3}.axis{stroke:#777}"
    f".bar{{fill:{COLOUR}}}.line{{stroke:{COLOUR};stroke-width:2}}.none{{stroke:#999;stroke-dasharray:4 3}}"
)


def bars(name: str, edges: Sequence[float], counts: Sequence[float | Suppressed], width: int = 640) -> Markup:
    """A histogram; a suppressed bin has a question mark in the place of a bar.

    Args:
        name: Of the column.
        edges: (b + 1,) rising.
        counts: (b,) 0 or more.
        width: Pixels.
    """
    height, base = 320, 280
    known = [float(each) for each in counts if not isinstance(each, Suppressed)]
    x = Scale(edges[0], edges[-1], 72, width - 24)
    y = Scale(0.0, max([*known, 1.0]) * 1.05, base, 16)
    parts: list[object] = [element("style", _STYLE), horizontal_grid(y, x.start, x.end, metric_axis)]
    parts.append(vertical_grid(x, float(base), float(base) + 4, float(base) + 18))
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if isinstance(count, Suppressed):
            parts.append(tick_text((x(low) + x(high)) / 2, base - 4, "?", "middle"))
            continue
        title = element("title", f"{low:g} to {high:g}: {count:g} rows")
        box = {"x": x(low), "y": y(count), "width": max(x(high) - x(low) - 1, 0.5), "height": y(0) - y(count)}
        parts.append(element("rect", title, class_="bar", **box))
    parts.append(element("line", x1=x.start, x2=x.end, y1=y(0), y2=y(0), class_="axis"))
    parts.append(tick_text(x.end, height - 6, name, "end"))
    return _alone(svg(width, height, f"Histogram of {name}", parts))


def forest(title: str, found: Sequence[Coefficient], width: int = 640) -> Markup | None:
    """Coefficients of a model, without the intercept, and their intervals; None where there are none or too many.

    Args:
        title: Of the model.
        found: Of its table.
        width: Pixels.
    """
    shown = [each for each in found if each.name != "intercept"]
    if not 0 < len(shown) <= MOST or not all(math.isfinite(each.low + each.high) for each in shown):
        return None
    line, top = 22, 12
    base = top + line * len(shown)
    x = Scale(*domain([0.0, *(each.low for each in shown), *(each.high for each in shown)]), 200, width - 24)
    parts: list[object] = [element("style", _STYLE), vertical_grid(x, float(top), float(base), base + 16.0)]
    parts.append(element("line", x1=x(0), x2=x(0), y1=top, y2=base, class_="none"))
    for place, each in enumerate(shown):
        at = top + line * (place + 0.5)
        parts.append(tick_text(190, at + 4, each.name, "end"))
        parts.append(element("line", x1=x(each.low), x2=x(each.high), y1=at, y2=at, class_="line"))
        said = element("title", f"{each.name}: {each.estimate:.4g} ({each.low:.4g} to {each.high:.4g})")
        parts.append(element("circle", said, cx=x(each.estimate), cy=at, r=4, class_="bar"))
    return _alone(svg(width, base + 24, title, parts))


def _alone(picture: str) -> Markup:
    return Markup(picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
