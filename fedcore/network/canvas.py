"""A figure without axes, in points (1/72 inch), and the marks that pictures of the network share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedcore.network.topology import Circle, Tier

INK, QUIET, LINK, BAND = "#1b1f24", "#59626d", "#c9ced5", "#c3d3e6"

CIRCLE_LOOK: Mapping[Circle, tuple[str, Any]] = {
    "city": ("#0a7d5a", "solid"),
    "region": ("#0063a8", (0, (3.2, 1))),
    "national": ("#99327f", (0, (3.6, 0.9, 0.9, 0.9))),
    "wide": ("#1b1f24", (0, (1, 0.9))),
}
CORNERS: Mapping[Tier, tuple[int, float]] = {
    "end": (3, 0.0),
    "edge": (4, 0.0),
    "cloud": (4, math.pi / 4),
    "hub": (6, 0.0),
}
"""Corners of a tier's marker, and how it is turned."""


class Canvas:
    """A figure in points, without axes.

    Args:
        width, height: Points.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.transforms import Affine2D

        self.width, self.height = width, height
        # At 72 dots an inch a pixel is a point, so that text is measured in points.
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="white")
        agg: Any = FigureCanvasAgg(self.figure)
        self._renderer = agg.get_renderer()
        self._points = Affine2D().scale(1 / 72) + self.figure.dpi_scale_trans
        self._layer = 1.0

    def line(self, xs: Sequence[float], ys: Sequence[float], name: str, **look: Any) -> None:
        """A line through points."""
        from matplotlib.lines import Line2D

        self._add(Line2D(xs, ys, **look), name)

    def polygon(self, points: Sequence[tuple[float, float]], name: str, **look: Any) -> None:
        """A filled polygon."""
        from matplotlib.patches import Polygon

        self._add(Polygon(points, closed=True, **look), name)

    def circle(self, x: float, y: float, radius: float, name: str, **look: Any) -> None:
        """A circle."""
        from matplotlib.patches import Circle as Round

        self._add(Round((x, y), radius, **look), name)

    def text(self, x: float, y: float, words: str, name: str, **look: Any) -> None:
        """Words from their left end, on their middle line unless told otherwise."""
        from matplotlib.text import Text

        self._add(Text(x, y, shown(words), parse_math=False, **{"va": "center", "color": INK, **look}), name)

    def measure(self, words: str, size: float, *, bold: bool = False) -> float:
        """The width of a line of words."""
        from matplotlib.font_manager import FontProperties

        # Letters are set on whole pixels, so that large ones are measured more exactly.
        look = FontProperties(size=10 * size, weight="bold" if bold else "normal")
        wide, _, _ = self._renderer.get_text_width_height_descent(shown(words), look, False)
        return float(wide) / 10

    def _add(self, artist: Any, name: str) -> None:
        # What is drawn later lies above.
        self._layer += 0.001
        artist.set_zorder(self._layer)
        artist.set_transform(self._points)
        artist.set_gid(shown(name))
        self.figure.add_artist(artist)


def shown(words: str) -> str:
    """Text that a font can draw: letters that do not show, and those that would turn the line, become a mark."""
    return "".join(each if each.isprintable() else "\ufffd" for each in words)


def amount(value: float) -> str:
    """Three digits that count.

    Example:
        >>> amount(0.026742), amount(1234.5), amount(12.0)
        ('0.0267', '1,234', '12')
    """
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


class Shades:
    """Carbon as a colour, from light to dark.

    Args:
        values: g/kWh of the sites.
    """

    def __init__(self, values: Sequence[float]) -> None:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        step = 100.0 if high - low > 150 else 10.0
        self.low, self.high = math.floor(low / step) * step, math.ceil(high / step) * step
        self.high = max(self.high, self.low + step)
        self.known = bool(values)

    def colour(self, carbon: float | None) -> Any:
        """White where nobody publishes a factor."""
        from matplotlib import colormaps

        if carbon is None:
            return "white"
        share = (carbon - self.low) / (self.high - self.low)
        return colormaps["YlOrBr"](0.04 + 0.86 * share)


def person(
    canvas: Canvas, x: float, y: float, circle: Circle | None, name: str, radius: float | None = None
) -> None:
    """A participant: filled in the colour of its circle, hollow when it was not chosen."""
    if circle is None:
        canvas.circle(x, y, radius or 2.5, name, facecolor="white", edgecolor=QUIET, linewidth=0.9)
    else:
        look = {"facecolor": CIRCLE_LOOK[circle][0], "edgecolor": "white", "linewidth": 0.6}
        canvas.circle(x, y, radius or 3.2, name, **look)


def marker(
    canvas: Canvas, x: float, y: float, size: float, tier: Tier, name: str, colour: Any, used: bool
) -> None:
    corners, turned = CORNERS[tier]
    points = [
        (
            x + size * math.sin(turned + 2 * math.pi * index / corners),
            y + size * math.cos(turned + 2 * math.pi * index / corners),
        )
        for index in range(corners)
    ]
    edge = INK if used else QUIET
    canvas.polygon(points, name, facecolor=colour, edgecolor=edge, linewidth=1.0 if used else 0.6)
