"""Where labels go in a picture so that none covers another, a marker or, as far as there is room, a line.

Each label has a point that it belongs to. Places around it are tried, near ones first, and the one that hides least is
taken; labels that come first are placed first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DIRECTIONS = 16
DISTANCES = (0.0, 6.0, 14.0, 26.0, 44.0)
"""Pixels beyond the closest place, the nearest first."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlap(self, other: Box) -> float:
        """Square pixels that both cover."""
        wide = min(self.x1, other.x1) - max(self.x0, other.x0)
        high = min(self.y1, other.y1) - max(self.y0, other.y0)
        return wide * high if wide > 0 and high > 0 else 0.0

    def holds(self, x: float, y: float) -> bool:
        """Whether a point is inside."""
        return self.x0 <= x <= self.x1 and self.y0 <= y <= self.y1

    def grown(self, by: float) -> Box:
        """With a margin."""
        return Box(self.x0 - by, self.y0 - by, self.x1 + by, self.y1 + by)


@dataclass(frozen=True)
class Wanted:
    """A label to place.

    Args:
        x, y: The point that it belongs to.
        width, height: Of the label.
        clear: Pixels around the point to stay off.
    """

    x: float
    y: float
    width: float
    height: float
    clear: float = 6.0


def place(
    labels: Sequence[Wanted],
    taken: Sequence[Box],
    lines: Sequence[Sequence[tuple[float, float]]],
    frame: Box,
) -> list[Box]:
    """A box for each label.

    Args:
        labels: The most important first.
        taken: Boxes of markers and the like.
        lines: Points along each line, close to one another.
        frame: In which all must stay.
    """
    points = [point for line in lines for point in line]
    placed: list[Box] = []
    for label in labels:
        best, least = None, math.inf
        for extra in DISTANCES:
            for turn in range(DIRECTIONS):
                box = _around(label, extra, 2 * math.pi * turn / DIRECTIONS)
                worth = _hidden(box, placed, taken, points, frame) + 1.1 * extra + _habit(turn)
                if worth < least:
                    best, least = box, worth
        placed.append(best or _around(label, 0.0, 0.0))
    return placed


def _around(label: Wanted, extra: float, angle: float) -> Box:
    """The box whose nearest edge is just off the point in a direction."""
    far, turn = label.clear + extra, (math.cos(angle), math.sin(angle))
    # On the edge of a rectangle, so that a corner clears the point as far as a side does.
    out = max(abs(turn[0]), abs(turn[1]))
    x = label.x + turn[0] / out * (far + label.width / 2)
    y = label.y + turn[1] / out * (far + label.height / 2)
    return Box(x - label.width / 2, y - label.height / 2, x + label.width / 2, y + label.height / 2)


def _habit(turn: int) -> float:
    """Readers look to the right first; straight above and below come last."""
    return (0.0, 1.0, 2.0, 3.5, 4.0)[min(turn % 8, 8 - turn % 8)] + (0.5 if 4 < turn < 12 else 0.0)


def _hidden(
    box: Box,
    placed: Sequence[Box],
    taken: Sequence[Box],
    points: Sequence[tuple[float, float]],
    frame: Box,
) -> float:
    """What a label at a place would hide, the worst counting most."""
    near = box.grown(2.0)
    outside = max(0.0, frame.x0 - box.x0, box.x1 - frame.x1) + max(0.0, frame.y0 - box.y0, box.y1 - frame.y1)
    worth = 1000.0 * outside
    worth += sum(100.0 + 10.0 * covered for one in placed if (covered := near.overlap(one)))
    worth += sum(60.0 + 2.0 * covered for one in taken if (covered := near.overlap(one)))
    # A label that crosses a line somewhat is better than one far away.
    return worth + min(26.0, 3.5 * sum(near.holds(x, y) for x, y in points))
