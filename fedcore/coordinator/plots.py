"""The report's plots, as SVG written by hand: small, sharp, coloured by the page's style sheet.

Each function gives one `<svg>` whose colours are classes (`federated`, `alone`, `pooled`, `central`, `site`),
so that one picture serves light, dark and print. Meaning never rests on colour alone: shapes, dashes and
labels repeat it. Values that are not finite leave a gap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedcore.drawing.axes import (
    Scale,
    bar_axis,
    domain,
    horizontal_grid,
    metric_axis,
    nice_step,
    round_axis,
    rounds_scale,
    svg,
    tick_text,
    vertical_grid,
)
from fedcore.drawing.markup import Markup, coordinate, element
from fedcore.drawing.numbers import metric_text
from fedcore.drawing.symbols import symbol

MOST_BARS = 240
"""Bars of one chart: more than the pixels can show only makes the page heavy."""


@dataclass(frozen=True)
class Curve:
    """One line over the rounds.

    Args:
        values: One per round; NaN leaves a gap.
        style: Its class.
        label: At its right end; none when empty.
        name: What a pointer resting on it reads.
    """

    values: Sequence[float]
    style: str
    label: str = ""
    name: str = ""


@dataclass(frozen=True)
class Band:
    """The area between two values per round."""

    low: Sequence[float]
    high: Sequence[float]
    style: str = "band"


@dataclass(frozen=True)
class Spread:
    """One row of a comparison: single dots and the value that stands for them.

    Args:
        label: At the left.
        style: `alone`, `federated` or `pooled`.
        dots: Name and value of each site; may be empty.
        value: The mean or the only value; NaN when there is none.
        note: Small, below the label.
    """

    label: str
    style: str
    dots: Sequence[tuple[str, float]]
    value: float
    note: str = ""


def curves(
    rounds: Sequence[int],
    lines: Sequence[Curve],
    bands: Sequence[Band] = (),
    *,
    describe: str,
    width: int = 440,
    height: int = 220,
    right: int = 58,
    mark: tuple[int, str] | None = None,
) -> Markup:
    """Metrics over the rounds.

    Args:
        rounds: Round numbers, rising.
        lines: Drawn in order, the last one on top.
        bands: Drawn below all lines.
        describe: For those who hear the page.
        width, height: Pixels.
        right: Pixels kept free for labels at the lines' ends.
        mark: A round and the word that stands above it.
    """
    shown = _thin(len(rounds), width // 4)
    values = [line.values[i] for line in lines for i in shown]
    values += [edge[i] for band in bands for edge in (band.low, band.high) for i in shown]
    top = 22 if mark else 10
    y = Scale(*domain(values), height - 30, top)
    x = rounds_scale(rounds, 52, width - right)
    at = [x(rounds[i]) for i in shown]
    parts = [horizontal_grid(y, 52, width - right, metric_axis), round_axis(x, rounds, height)]
    for band in bands:
        parts += _area(at, [y(band.low[i]) for i in shown], [y(band.high[i]) for i in shown], band.style)
    if mark and rounds[0] <= mark[0] <= rounds[-1]:
        place = x(mark[0])
        parts.append(element("line", x1=place, x2=place, y1=top - 4.0, y2=height - 30, class_="mark"))
        parts.append(element("text", mark[1], x=place, y=top - 9.0, class_="note", text_anchor="middle"))
    for line in lines:
        drawn = _path(at, [y(line.values[i]) for i in shown])
        title = [element("title", line.name)] if line.name else []
        parts.append(element("g", *title, *drawn, class_=f"line {line.style}"))
    parts += _end_labels(lines, y, float(width - right), at, shown)
    return svg(width, height, describe, parts)


def stacked_bars(
    rounds: Sequence[int],
    phases: Mapping[str, Sequence[float]],
    *,
    describe: str,
    text: Callable[[float | None], str],
    width: int = 440,
    height: int = 200,
) -> Markup:
    """One bar per round, one piece per phase, from zero.

    Args:
        rounds: Round numbers, rising; more than `MOST_BARS` are averaged in groups.
        phases: Name to values, drawn from the bottom up; NaN counts as nothing.
        describe: For those who hear the page.
        text: How an amount is written.
        width, height: Pixels.
    """
    rounds, phases = _grouped(rounds, phases)
    totals = [math.fsum(values[i] for values in phases.values()) for i in range(len(rounds))]
    highest = max(totals, default=0.0)
    y = Scale(0.0, highest * 1.04 if highest > 0 else 1.0, height - 30, 10)
    left, right = 62.0, float(width - 8)
    slot = (right - left) / max(len(rounds), 1)
    bar = min(slot * 0.72 if slot > 3 else slot, 44.0)
    bars: list[Markup] = []
    for i, number in enumerate(rounds):
        pieces, base, start = [], 0.0, left + slot * (i + 0.5) - bar / 2
        for place, values in enumerate(phases.values()):
            tall = y(base) - y(base + values[i])
            if tall > 0:
                box = {"x": start, "y": y(base + values[i]), "width": bar, "height": tall}
                pieces.append(element("rect", class_=f"phase-{place % 4}", **box))
            base += values[i]
        told = "; ".join(f"{name} {text(values[i])}" for name, values in phases.items())
        bars.append(element("g", element("title", f"Round {number}: {told}"), *pieces))
    x = Scale(0, 1, left, right)
    grid = horizontal_grid(y, left, right, lambda value: _short_amount(text(value)), about=4)
    return svg(width, height, describe, [grid, *bars, bar_axis(rounds, x, slot, height)])


def comparison(spreads: Sequence[Spread], *, describe: str, width: int = 900) -> Markup:
    """Rows of dots on one scale, the value of each row marked and written at the right."""
    left, right, row = 190.0, width - 96.0, 52
    height = row * len(spreads) + 34
    values = [value for spread in spreads for _, value in spread.dots] + [spread.value for spread in spreads]
    x = Scale(*domain(values), left, right)
    parts = [vertical_grid(x, 6, height - 28, height - 10)]
    for place, spread in enumerate(spreads):
        middle = row * (place + 0.5) + 4
        parts.append(element("line", x1=left, x2=right, y1=middle, y2=middle, class_="rule"))
        parts.append(
            element("text", spread.label, x=0, y=middle + (-2.0 if spread.note else 4.0), class_="strong")
        )
        if spread.note:
            parts.append(element("text", spread.note, x=0, y=middle + 13.0, class_="note"))
        parts += _dots(spread, x, middle)
        if math.isfinite(spread.value):
            parts.append(symbol(spread.style, x(spread.value), middle, 7.0))
        parts.append(
            element(
                "text", metric_text(spread.value), x=width, y=middle + 5.0, class_="figure", text_anchor="end"
            )
        )
    return svg(width, height, describe, parts)


def dot_row(
    x: Scale, marks: Sequence[tuple[str, float]], *, describe: str, reference: float = math.nan
) -> Markup:
    """One table row's dots, joined by a line; all rows share one scale.

    Args:
        x: The scale of the table.
        marks: Style and value of each dot; the last is drawn on top.
        describe: For those who hear the page.
        reference: Drawn through all rows, such as the pooled model's value.
    """
    parts = [element("line", x1=x(tick), x2=x(tick), y1=0, y2=26, class_="grid") for tick in x.ticks(4)]
    if math.isfinite(reference):
        parts.append(element("line", x1=x(reference), x2=x(reference), y1=0, y2=26, class_="reference"))
    known = [(style, value) for style, value in marks if math.isfinite(value)]
    if len(known) > 1:
        places = [x(value) for _, value in known]
        parts.append(element("line", x1=min(places), x2=max(places), y1=13, y2=13, class_="joint"))
    parts += [symbol(style, x(value), 13.0, 5.0) for style, value in known]
    return svg(round(x.end + 20), 26, describe, parts)


def dot_axis(x: Scale) -> Markup:
    """The head of a column of `dot_row`."""
    step = nice_step((x.high - x.low) / 4)
    marks = [tick_text(x(tick), 14, metric_axis(tick, step), "middle") for tick in x.ticks(4)]
    return svg(round(x.end + 20), 18, "scale", marks)


def histogram(
    values: Sequence[float],
    outline: Sequence[float] = (),
    *,
    describe: str,
    width: int = 900,
    height: int = 220,
    bins: int = 36,
) -> Markup:
    """How many sites reached which value: bars for `values`, a stepped line for `outline`."""
    x = Scale(*domain([*values, *outline], pad=0.02), 52, width - 12)
    counts = [_counts(each, x, bins) for each in (values, outline)]
    y = Scale(0, max(1.0, *map(float, counts[0]), *map(float, counts[1])) * 1.06, height - 30, 10)
    slot = (x.end - x.start) / bins
    parts = [
        horizontal_grid(
            y, x.start, x.end, lambda value: f"{value:.0f}" if value == int(value) else "", about=4
        )
    ]
    for place, number in enumerate(counts[0]):
        if number:
            box = {
                "x": x.start + slot * place + 0.5,
                "y": y(number),
                "width": slot - 1,
                "height": y(0) - y(number),
            }
            parts.append(element("rect", class_="bar federated", **box))
    if outline:
        steps = "".join(f"V{coordinate(y(number))}h{slot:.2f}" for number in counts[1])
        drawn = f"M{coordinate(x.start)} {coordinate(y(0))}{steps}V{coordinate(y(0))}"
        parts.append(element("g", element("path", d=drawn), class_="line alone"))
    return svg(width, height, describe, [*parts, vertical_grid(x, height - 30, height - 26, height - 12)])


def _short_amount(text: str) -> str:
    """An amount without zeros that say nothing: `1.50 MB` is `1.5 MB`."""
    return re.sub(r"(\.\d*?)0+(?= )", r"\1", text).replace(". ", " ")


def _thin(length: int, most: int) -> list[int]:
    if length <= most:
        return list(range(length))
    return sorted({round(i * (length - 1) / (most - 1)) for i in range(most)})


def _grouped(
    rounds: Sequence[int], phases: Mapping[str, Sequence[float]]
) -> tuple[Sequence[int], dict[str, list[float]]]:
    size = math.ceil(len(rounds) / MOST_BARS) or 1
    starts = range(0, len(rounds), size)

    def average(values: Sequence[float], start: int) -> float:
        group = [value if math.isfinite(value) else 0.0 for value in values[start : start + size]]
        return math.fsum(group) / len(group)

    return [rounds[i] for i in starts], {
        name: [average(values, i) for i in starts] for name, values in phases.items()
    }


def _path(xs: Sequence[float], ys: Sequence[float]) -> list[Markup]:
    """The line through the finite points; a point without a neighbour is a dot."""
    drawn, single, run = "", [], []
    for point in [*zip(xs, ys, strict=True), (0.0, math.nan)]:
        if math.isfinite(point[1]):
            run.append(point)
            continue
        if len(run) > 1:
            drawn += "M" + "L".join(f"{coordinate(px)} {coordinate(py)}" for px, py in run)
        single += run if len(run) == 1 else []
        run = []
    dots = [element("circle", cx=px, cy=py, r=3.0) for px, py in single]
    return [*([element("path", d=drawn)] if drawn else []), *dots]


def _area(xs: Sequence[float], low: Sequence[float], high: Sequence[float], style: str) -> list[Markup]:
    drawn, run = "", []
    for x, bottom, top in [*zip(xs, low, high, strict=True), (0.0, math.nan, math.nan)]:
        if math.isfinite(bottom) and math.isfinite(top):
            run.append((x, bottom, top))
            continue
        if len(run) > 1:
            edge = [(px, bottom) for px, bottom, _ in run] + [(px, top) for px, _, top in reversed(run)]
            drawn += "M" + "L".join(f"{coordinate(px)} {coordinate(py)}" for px, py in edge) + "z"
        run = []
    return [element("path", d=drawn, class_=style)] if drawn else []


def _dots(spread: Spread, x: Scale, middle: float) -> list[Markup]:
    known = [(name, value) for name, value in spread.dots if math.isfinite(value)]
    if len(known) > 60:  # a rug: one stroke per site in one path
        drawn = "".join(f"M{coordinate(x(value))} {coordinate(middle - 7)}v14" for _, value in known)
        return [element("path", d=drawn, class_=f"rug {spread.style}")]
    return [
        element(
            "circle",
            element("title", f"{name}: {metric_text(value)}"),
            cx=x(value),
            cy=middle,
            r=4.0,
            class_=f"faint {spread.style}",
        )
        for name, value in known
    ]


def _end_labels(
    lines: Sequence[Curve], y: Scale, right: float, at: Sequence[float], shown: Sequence[int]
) -> list[Markup]:
    """Labels at the lines' ends, pushed apart so that none covers another."""
    wanted: list[tuple[float, Curve]] = []
    for line in lines:
        last = next((line.values[i] for i in reversed(shown) if math.isfinite(line.values[i])), math.nan)
        if line.label and math.isfinite(last):
            wanted.append((y(last), line))
    wanted.sort(key=lambda pair: pair[0])
    places: list[float] = []
    for place, _ in wanted:
        places.append(max(place, places[-1] + 15) if places else place)
    overflow = places[-1] - y.start if places and places[-1] > y.start else 0.0
    for index in range(len(places) - 1, -1, -1):
        limit = places[index + 1] - 15 if index + 1 < len(places) else y.start
        places[index] = min(places[index] - (overflow if index + 1 == len(places) else 0.0), limit)
    return [
        element("text", line.label, x=right + 6, y=place + 4.0, class_=f"end {line.style}")
        for place, (_, line) in zip(places, wanted, strict=True)
    ]


def _counts(values: Sequence[float], x: Scale, bins: int) -> list[int]:
    counts = [0] * bins
    for value in values:
        if math.isfinite(value):
            counts[min(bins - 1, int((value - x.low) / (x.high - x.low) * bins))] += 1
    return counts
