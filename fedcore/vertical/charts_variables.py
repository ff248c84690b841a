"""Charts of variables, as SVG: weight of evidence with bad rates, rankings, the heat map of correlations."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedcore.drawing.axes import Scale, metric_axis, nice_step, svg, tick_text
from fedcore.drawing.markup import Markup, coordinate, element
from fedcore.drawing.numbers import percent_text
from fedcore.vertical.charts import Format, titled

ROW = 20
"""Pixels from one bin to the next."""


@dataclass(frozen=True)
class BinRow:
    """One bin of a variable; NaN where a number is not known.

    Args:
        label: Its limits or categories.
        share: Of training rows.
        woe: Weight of evidence.
        bad_rate: Share of bad rows.
        joined: Whether it follows the bin before it in order, so that the line of bad rates goes through both.
    """

    label: str
    share: float
    woe: float
    bad_rate: float
    joined: bool = True


@dataclass(frozen=True)
class Bar:
    """One row of a ranking.

    Args:
        label: At the left.
        value: Of the bar; NaN draws none.
        style: Its class.
        note: At the right.
        low: Another value marked on the bar's row; none when NaN.
    """

    label: str
    value: float
    style: str
    note: str = ""


def woe_bars(rows: Sequence[BinRow], *, describe: str, width: int = 440) -> Markup:
    """Bins from the top down: share of rows, weight of evidence as bars, bad rate as a line.

    Args:
        rows: The bins in their order.
        describe: For those who hear the page.
        width: Pixels.
    """
    rates = [row.bad_rate for row in rows if math.isfinite(row.bad_rate)]
    right = width - 8.0
    split = right - 108 if rates else right
    bottom = 22 + ROW * len(rows)
    height = bottom + 22
    woes = [row.woe for row in rows if math.isfinite(row.woe)]
    most = max((abs(value) for value in woes), default=0.0) or 0.1
    x = Scale(-most * 1.05, most * 1.05, 192.0, split - (22 if rates else 0))
    parts = [_head(178.0, "rows", "end")]
    crowded = any(len(row.label) > 18 for row in rows)
    for place, row in enumerate(rows):
        middle = 22 + ROW * (place + 0.5)
        parts.append(
            element(
                "text",
                titled(row.label, 18, _rounded(row.label) if crowded else ""),
                x=128.0,
                y=middle + 4,
                class_="bin",
                text_anchor="end",
            )
        )
        parts.append(tick_text(178.0, middle + 4, percent_text(row.share), "end"))
    if woes:
        parts += _woe_panel(rows, x, bottom)
    if rates:
        parts += _rate_panel(rows, Scale(0.0, max(rates) * 1.08 or 1.0, split + 10, right - 2), bottom)
    return svg(width, height, describe, parts)


def ranking(
    bars: Sequence[Bar],
    *,
    describe: str,
    text: Format,
    marks: Sequence[tuple[float, str]] = (),
    width: int = 900,
    notes: int = 250,
) -> Markup:
    """Horizontal bars, the value written at the end of each, a note at the right.

    Args:
        bars: From the top down.
        describe: For those who hear the page.
        text: How a value is written.
        marks: Values with a dashed line through all rows, and their words.
        width: Pixels.
        notes: Pixels kept for the notes.
    """
    row, top = 22, 22 if marks else 4
    height = top + row * len(bars) + 6
    values = [bar.value for bar in bars if math.isfinite(bar.value)]
    high = max([*values, *(value for value, _ in marks)], default=0.0) or 1.0
    x = Scale(0.0, high, 190.0, width - notes - 60.0)
    parts: list[Markup] = []
    taken = -math.inf
    for value, word in sorted(marks):
        at = x(value)
        parts.append(element("line", x1=at, x2=at, y1=top - 4.0, y2=height - 4.0, class_="mark"))
        start = max(at, taken)
        parts.append(tick_text(start, 12.0, word, "start"))
        taken = start + 7 * len(word) + 10
    for place, bar in enumerate(bars):
        middle = top + row * (place + 0.5)
        parts.append(
            element("text", titled(bar.label, 24), x=180.0, y=middle + 4, class_="bin", text_anchor="end")
        )
        if math.isfinite(bar.value):
            box = {"x": x.start, "y": middle - 6.5, "width": max(x(bar.value) - x.start, 1.0), "height": 13.0}
            parts.append(element("rect", class_=bar.style, **box))
            parts.append(element("text", text(bar.value), x=x(bar.value) + 7, y=middle + 4, class_="value"))
        if bar.note:
            parts.append(
                element(
                    "text",
                    titled(bar.note, 36, _first_clause(bar.note)),
                    x=width - notes + 8.0,
                    y=middle + 4,
                    class_="note",
                )
            )
    return svg(width, height, describe, parts)


def heat_map(
    names: Sequence[str], values: Sequence[Sequence[float]], *, owners: Sequence[str], describe: str
) -> Markup:
    """Correlations as a square of cells: blue above zero, orange below, darker is stronger.

    Args:
        names: Of rows and columns; columns carry their numbers.
        values: (names, names); NaN is an empty cell.
        owners: Of each name; a line parts those of different owners.
        describe: For those who hear the page.
    """
    count = len(names)
    side = max(8.0, min(34.0, 640 / max(count, 1)))
    left, top = 250.0, 22.0
    width, height = 900, math.ceil(top + side * count + 6)
    parts: list[Markup] = []
    every = max(1, math.ceil(16 / side))
    for row, name in enumerate(names):
        middle = top + side * (row + 0.5)
        if row % every == 0:
            words = titled(name, 28)
            parts.append(element("text", words, x=left - 32, y=middle + 4, class_="bin", text_anchor="end"))
            parts.append(tick_text(left - 8, middle + 4, str(row + 1), "end"))
            parts.append(tick_text(left + side * (row + 0.5), top - 7, str(row + 1), "middle"))
        for column in range(count):
            parts += _cell(values[row][column], left + side * column, top + side * row, side, row == column)
    for place in range(1, count):
        if owners[place] != owners[place - 1]:
            for ends in (
                {"x1": left, "x2": left + side * count, "y1": top + side * place, "y2": top + side * place},
                {"x1": left + side * place, "x2": left + side * place, "y1": top, "y2": top + side * count},
            ):
                parts.append(element("line", class_="border", **ends))
    return svg(width, height, describe, parts)


def signed_bar(value: float, ends: tuple[float, float], *, width: int = 180, reach: float = 0.0) -> Markup:
    """One number as a bar to the left or the right of zero, for a row of a table.

    Args:
        value: The number.
        ends: Lowest and highest value that the rows of the table show; zero is always shown.
        width: Pixels.
        reach: Half the length of its interval.
    """
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    x = Scale(low, high if high > low else low + 1.0, 4.0, width - 4.0)
    start, end = sorted((x(0), x(value)))
    style = "bar bad" if value > 0 else "bar good"
    parts = [element("rect", x=start, y=5, width=max(end - start, 1.0), height=10, class_=style)]
    if reach:
        parts.append(
            element("line", x1=x(value - reach), x2=x(value + reach), y1=10, y2=10, class_="whisker")
        )
    parts.append(element("line", x1=x(0), x2=x(0), y1=0, y2=20, class_="zero"))
    return svg(width, 20, metric_axis(value), parts)


def _woe_panel(rows: Sequence[BinRow], x: Scale, bottom: float) -> list[Markup]:
    parts = [_head((x.start + x.end) / 2, "weight of evidence", "middle")]
    parts += _ticks(x, bottom, 4)
    for place, row in enumerate(rows):
        if not math.isfinite(row.woe):
            continue
        low, high = sorted((x(0), x(row.woe)))
        told = element("title", f"{row.label}: {metric_axis(row.woe, 0.001)}")
        box = {"x": low, "y": 22 + ROW * place + 3.5, "width": max(high - low, 1.0), "height": ROW - 7.0}
        parts.append(element("rect", told, class_="bar bad" if row.woe > 0 else "bar good", **box))
    parts.append(element("line", x1=x(0), x2=x(0), y1=22, y2=bottom, class_="zero"))
    return parts


def _rate_panel(rows: Sequence[BinRow], x: Scale, bottom: float) -> list[Markup]:
    parts = [_head((x.start + x.end) / 2, "bad rate, %", "middle")]
    parts += _ticks(x, bottom, 3, percent=True)
    known = [
        (x(row.bad_rate), 22 + ROW * (place + 0.5), row)
        for place, row in enumerate(rows)
        if math.isfinite(row.bad_rate)
    ]
    joined = [(at, middle) for at, middle, row in known if row.joined]
    drawn = "M" + "L".join(f"{coordinate(at)} {coordinate(middle)}" for at, middle in joined)
    parts.append(element("g", element("path", d=drawn) if len(joined) > 1 else "", class_="line rate"))
    for at, middle, row in known:
        told = element("title", f"{row.label}: {percent_text(row.bad_rate)}")
        parts.append(element("circle", told, cx=at, cy=middle, r=3.6, class_="dot rate"))
    return parts


def _first_clause(text: str) -> str:
    """What fits beside a bar; the table below has the whole."""
    return re.split(r"[;,] ", text)[0]


def _rounded(label: str) -> str:
    """A bin's limits to three digits, for where there is no room for more: `[-1.54258, 0.0693152)` is `[−1.54, 0.0693)`."""
    return re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.3g}".replace("-", "−"), label)


def _ticks(x: Scale, bottom: float, about: int, percent: bool = False) -> list[Markup]:
    parts: list[Markup] = []
    factor = 100 if percent else 1
    step = nice_step((x.high - x.low) / about) * factor
    for tick in x.ticks(about):
        parts.append(element("line", x1=x(tick), x2=x(tick), y1=22, y2=bottom, class_="grid"))
        parts.append(
            tick_text(x(tick), bottom + 15, metric_axis(tick * factor, step) if tick else "0", "middle")
        )
    return parts


def _cell(value: float, x: float, y: float, side: float, same: bool) -> list[Markup]:
    box = {"x": x + 0.5, "y": y + 0.5, "width": side - 1, "height": side - 1}
    if not math.isfinite(value):
        return [element("rect", class_="cell unknown", **box)]
    if same:
        return [element("rect", class_="cell same", **box)]
    strength = min(abs(value), 1.0)
    style = "cell above" if value > 0 else "cell below"
    told = element("title", metric_axis(value, 0.001))
    parts = [element("rect", told, class_=style, fill_opacity=f"{strength:.2f}", **box)]
    if side >= 25 and strength >= 0.095:
        text = f"{strength:.2f}".lstrip("0") if strength < 0.995 else "1"
        sign = "−" if value < 0 else ""
        style = "cell-text strong-cell" if strength > 0.55 else "cell-text"
        at = {"x": x + side / 2, "y": y + side / 2 + 3.5}
        parts.append(element("text", sign + text, class_=style, text_anchor="middle", **at))
    return parts


def _head(x: float, text: str, anchor: str) -> Markup:
    return tick_text(x, 12.0, text, anchor)
