"""Scales, ticks and grids below the report's plots."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedcore.drawing.markup import Markup, element, join


@dataclass(frozen=True)
class Scale:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        """Round values inside the scale, about so many."""
        step = nice_step((self.high - self.low) / max(about, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def domain(values: Sequence[float], pad: float = 0.06) -> tuple[float, float]:
    """The range that a plot of these values shows: padded, and inside [0, 1] when the values are."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    margin = (high - low) * pad or max(abs(high) * 0.05, 1e-6)
    wide = (low - margin, high + margin)
    if low >= 0 and high <= 1:
        wide = (max(wide[0], 0.0), min(wide[1], 1.0))
    return wide if wide[1] > wide[0] else (low - 0.5, high + 0.5)


def svg(width: int, height: int, describe: str, parts: Sequence[object]) -> Markup:
    """A whole picture of so many pixels, described for those who hear the page."""
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=describe,
    )


def nice_step(raw: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below `raw`."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(
        (step * power for step in (1.0, 2.0, 2.5, 5.0) if raw <= step * power * (1 + 1e-9)), 10 * power
    )


def metric_axis(value: float, step: float = 0.0) -> str:
    """A tick's text, with the decimals that its step needs."""
    if value and not 1e-4 <= abs(value) < 1e5:
        return f"{value:.1e}".replace("-", "−")
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 2
    decimals += bool(step) and not math.isclose(step * 10**decimals, round(step * 10**decimals))
    return f"{value:.{min(decimals, 6)}f}".replace("-", "−")


def rounds_scale(rounds: Sequence[int], start: float, end: float) -> Scale:
    """The scale of a curve's rounds; a single round stands in the middle."""
    if rounds[0] == rounds[-1]:
        return Scale(rounds[0] - 1, rounds[0] + 1, start, end)
    return Scale(rounds[0], rounds[-1], start + 4, end - 4)


def round_axis(x: Scale, rounds: Sequence[int], height: int) -> Markup:
    """The rounds below curves: the first, the last and round numbers between them."""
    chosen = {rounds[0], rounds[-1]}
    for tick in x.ticks(7):
        if tick == int(tick) and x(rounds[0]) + 30 <= x(tick) <= x(rounds[-1]) - 30:
            chosen.add(int(tick))
    marks = [tick_text(x(each), height - 12, str(each), "middle") for each in sorted(chosen)]
    rule = element("line", x1=x.start - 4, x2=x.end + 4, y1=height - 30, y2=height - 30, class_="axis")
    return element("g", rule, tick_text(x.start - 12, height - 12, "round", "end"), *marks)


def bar_axis(rounds: Sequence[int], x: Scale, slot: float, height: int) -> Markup:
    """The rounds below bars, about eight of them named."""
    rule = element("line", x1=x.start, x2=x.end, y1=height - 30, y2=height - 30, class_="axis")
    every = max(1, round(nice_step((rounds[-1] - rounds[0] + 1) / 8)))
    named = [number for number in range(rounds[0], rounds[-1] + 1) if number % every == 0]
    marks = []
    for number in [rounds[0], *(each for each in named if each - rounds[0] > every * 0.4)]:
        place = bisect_right(rounds, number) - 1
        marks.append(tick_text(x.start + slot * (place + 0.5), height - 12, str(number), "middle"))
    return element("g", rule, tick_text(x.start - 12, height - 12, "round", "end"), *marks)


def horizontal_grid(y: Scale, left: float, right: float, text: Callable[..., str], about: int = 5) -> Markup:
    """Horizontal lines with their values at the left; a value whose text is empty has no line."""
    parts: list[Markup] = []
    step = nice_step((y.high - y.low) / about)
    for tick in y.ticks(about):
        label = text(tick, step) if text is metric_axis else text(tick)
        if label:
            parts.append(element("line", x1=left, x2=right, y1=y(tick), y2=y(tick), class_="grid"))
            parts.append(tick_text(left - 8, y(tick) + 4, label, "end"))
    return join(parts)


def vertical_grid(x: Scale, top: float, bottom: float, text_at: float) -> Markup:
    """Vertical lines with their values at `text_at`."""
    step = nice_step((x.high - x.low) / 8)
    parts: list[Markup] = []
    for tick in x.ticks(8):
        parts.append(element("line", x1=x(tick), x2=x(tick), y1=top, y2=bottom, class_="grid"))
        parts.append(tick_text(x(tick), text_at, metric_axis(tick, step), "middle"))
    return join(parts)


def tick_text(x: float, y: float, text: str, anchor: str) -> Markup:
    """The text of a tick."""
    return element("text", text, x=float(x), y=float(y), class_="tick", text_anchor=anchor)
