"""Where sites and people stand in the picture of a plan, in points."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from fedcore.network.scene import Place, Scene
from fedcore.network.topology import Circle

WIDTH, HEIGHT = 690.0, 430.0
SIDE = 168.0
"""Of the legend."""
MOST_PEOPLE = 150
"""Up to which each participant has its own disc; of more, those of a site and a circle share one, larger for more."""


@dataclass(frozen=True)
class Disc:
    """One disc beside a site.

    Args:
        name: Of its participant, or how many share it.
        circle: Of those who compute; none for those who offered and were not chosen.
        radius: Of the disc.
    """

    name: str
    circle: Circle | None
    radius: float


@dataclass(frozen=True)
class Spot:
    """A site in the picture.

    Args:
        size: Of its marker.
        ring: Radius of everything around it.
    """

    place: Place
    x: float
    y: float
    size: float
    ring: float


def spots_of(scene: Scene) -> dict[str, Spot]:
    """Sites in points, those that the plan uses pushed apart until none covers another."""
    around = 42.0
    wide, high = WIDTH - SIDE - 2 * around, HEIGHT - 2 * around
    xs = [one.x for one in scene.places.values()]
    ys = [one.y for one in scene.places.values()]
    span = (max(max(xs) - min(xs), 1e-9), max(max(ys) - min(ys), 1e-9))
    # A map may be stretched to fill the picture, by a third at most.
    scale = min(wide / span[0], high / span[1])
    across, up = min(wide / span[0], scale * 1.33), min(high / span[1], scale * 1.33)
    off = ((wide - across * span[0]) / 2, (high - up * span[1]) / 2)
    spots, many = [], crowded(scene)
    for one in scene.places.values():
        size = 0.0 if not one.used else 8.5 if one.children else 6.0
        ring = 2.5 if not one.used else _ring(size, len(discs_of(one, many)))
        x = around + off[0] + (one.x - min(xs)) * across
        y = around + off[1] + (one.y - min(ys)) * up
        spots.append([x, y, size or 2.2, ring])
    used = [index for index, one in enumerate(scene.places.values()) if one.used]
    for _ in range(200):
        moved = False
        for place_, first in enumerate(used):
            for second in used[place_ + 1 :]:
                moved |= _apart(spots[first], spots[second])
        if not moved:
            break
    for spot in spots:
        edge = spot[3] + 4
        spot[0] = min(max(spot[0], edge), WIDTH - SIDE - edge)
        spot[1] = min(max(spot[1], edge), HEIGHT - edge)
    return {one.name: Spot(one, *spot) for one, spot in zip(scene.places.values(), spots, strict=True)}


def _apart(one: list[float], other: list[float]) -> bool:
    """Push two sites apart; whether they were too near."""
    dx, dy = other[0] - one[0], other[1] - one[1]
    far, least = math.hypot(dx, dy), one[3] + other[3] + 16.0
    if far >= least - 0.01:
        return False
    ux, uy = (dx / far, dy / far) if far > 1e-6 else (1.0, 0.0)
    push = (least - far) / 2
    one[0], one[1] = one[0] - ux * push, one[1] - uy * push
    other[0], other[1] = other[0] + ux * push, other[1] + uy * push
    return True


def crowded(scene: Scene) -> bool:
    """Whether there are too many participants for a disc each."""
    return sum(len(one.computing) + len(one.idle) for one in scene.places.values()) > MOST_PEOPLE


def discs_of(one: Place, many: bool) -> list[Disc]:
    """What stands around a site.

    Args:
        many: Whether participants share discs.
    """
    people: list[tuple[str, Circle | None]] = [*one.computing, *((owner, None) for owner in one.idle)]
    if not many:
        return [Disc(name, circle, 3.2 if circle else 2.5) for name, circle in people]
    counts = Counter(circle for _, circle in people)
    return [
        Disc(f"{count} at {one.name}", circle, min(4.6, 2.2 + 0.45 * math.sqrt(count)))
        for circle, count in counts.items()
    ]


def _ring(size: float, people: int) -> float:
    """Radius of the marker and everybody around it."""
    dots = dots_of(0.0, 0.0, size, people)
    return max((math.hypot(x, y) for x, y in dots), default=size + 3.0) + 4.0


def dots_of(x: float, y: float, size: float, count: int) -> list[tuple[float, float]]:
    """Places of people around a site: in rings, from the top."""
    found: list[tuple[float, float]] = []
    radius = size + 8.5
    while len(found) < count:
        room = int(2 * math.pi * radius / 8.0)
        here = min(room, count - len(found))
        for index in range(here):
            angle = math.pi / 2 - 2 * math.pi * index / (room if here == room else max(here, 5))
            found.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
        radius += 8.0
    return found
