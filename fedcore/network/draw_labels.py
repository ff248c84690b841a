"""The names of sites in the picture of a plan, and who computes there while they are few."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedcore.network.canvas import INK, QUIET, Canvas
from fedcore.network.labels import Box, Wanted, place
from fedcore.network.scene import Place
from fedcore.network.spots import HEIGHT, SIDE, WIDTH, Spot

LARGE, SMALL = 9.0, 7.8
NAMES = 12
"""Participants up to which each is named."""
CROWD = 16
"""Sites up to which each has its name; of more, only those where something is done, and only aggregators say what."""


def label_sites(
    canvas: Canvas,
    spots: Mapping[str, Spot],
    lines: Sequence[Sequence[tuple[float, float]]],
    people: int,
) -> None:
    """Names of sites, and of who computes there while they are few."""
    crowd = len(spots) > CROWD
    labelled = [spot for spot in spots.values() if not crowd or _strong(spot.place)]
    labelled.sort(key=lambda spot: (-spot.place.children, -len(spot.place.computing), spot.place.name))
    made = [_Label.of(canvas, spot, people <= NAMES, crowd) for spot in labelled]
    taken = [
        Box(spot.x - spot.ring, spot.y - spot.ring, spot.x + spot.ring, spot.y + spot.ring)
        for spot in spots.values()
    ]
    frame = Box(4.0, 4.0, WIDTH - SIDE - 4.0, HEIGHT - 4.0)
    for label, box in zip(made, place([each.wanted for each in made], taken, lines, frame), strict=True):
        label.draw(canvas, box)


@dataclass(frozen=True)
class _Label:
    """A site's name and what stands below it."""

    spot: Spot
    strong: bool
    lines: tuple[str, ...]
    wanted: Wanted

    @classmethod
    def of(cls, canvas: Canvas, spot: Spot, named: bool, crowd: bool) -> _Label:
        one = spot.place
        strong = _strong(one)
        lines = tuple(_body(one, named)) if not crowd or one.children or one.standby else ()
        wide = canvas.measure(one.name, LARGE, bold=strong)
        wide = max([wide, *(canvas.measure(line, SMALL) for line in lines)])
        high = LARGE * 1.2 + SMALL * 1.22 * len(lines)
        return cls(spot, strong, lines, Wanted(spot.x, spot.y, wide, high, spot.ring + 2.1))

    def draw(self, canvas: Canvas, box: Box) -> None:
        """In its box, with a line to its site where that is not next to it."""
        name, spot, middle = self.spot.place.name, self.spot, (box.x0 + box.x1) / 2
        near = (min(max(spot.x, box.x0), box.x1), min(max(spot.y, box.y0), box.y1))
        far = math.hypot(near[0] - spot.x, near[1] - spot.y)
        if far > spot.ring + 9:
            start = [at + (to - at) * spot.ring / far for at, to in zip((spot.x, spot.y), near, strict=True)]
            canvas.line(
                [start[0], near[0]], [start[1], near[1]], f"leader {name}", color=QUIET, linewidth=0.6
            )
        corners = [(box.x0 - 1, box.y0), (box.x1 + 1, box.y0), (box.x1 + 1, box.y1), (box.x0 - 1, box.y1)]
        canvas.polygon(corners, f"ground {name}", facecolor="white", edgecolor="none", alpha=0.76)
        side, x = "left", box.x0
        if abs(middle - spot.x) <= spot.ring * 0.6:
            side, x = "center", middle
        elif middle < spot.x:
            side, x = "right", box.x1
        y = box.y1 - LARGE * 0.6
        weight, colour = ("bold", INK) if self.strong else ("normal", QUIET)
        canvas.text(x, y, name, f"label {name}", size=LARGE, weight=weight, color=colour, ha=side)
        for number, words in enumerate(self.lines):
            down = LARGE * 0.6 + SMALL * (0.61 + 1.22 * number)
            canvas.text(x, y - down, words, f"label {name} {number}", size=SMALL, color=QUIET, ha=side)


def _strong(one: Place) -> bool:
    """Whether something is done there."""
    return bool(one.computing or one.children or one.standby or one.root)


def _body(one: Place, named: bool) -> list[str]:
    """What stands below a site's name."""
    said = ["coordinator"] if one.root else []
    said += [f"adds up {one.children}"] if one.children else []
    said += ["standby"] if one.standby else []
    lines = [", ".join(said)] if said else []
    if named:
        return [*lines, *(owner for owner, _ in one.computing)]
    count, all_ = len(one.computing), len(one.computing) + len(one.idle)
    if count:
        return [*lines, f"{count} of {all_} compute" if one.idle else f"{count} compute"]
    return [*lines, f"{all_} not chosen"] if all_ else lines
