"""Where labels go."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.network.labels import Box, Wanted, place

FRAME = Box(0, 0, 500, 400)


def test_a_label_alone_stands_close_to_its_point_on_the_right() -> None:
    (box,) = place([Wanted(200, 200, 60, 12)], [], [], FRAME)
    assert (box.x0, box.y0, box.y1) == (206, 194, 206)


def test_labels_of_sites_with_room_between_them_cover_neither_each_other_nor_a_marker() -> None:
    spots = [(60 + 90 * column, 60 + 60 * row) for column in range(5) for row in range(5)]
    markers = [Box(x - 8, y - 8, x + 8, y + 8) for x, y in spots]
    boxes = place([Wanted(x, y, 56, 14, 10.1) for x, y in spots], markers, [], FRAME)
    for one, other in itertools.combinations(boxes, 2):
        assert one.overlap(other) == 0
    assert all(box.overlap(marker) == 0 for box in boxes for marker in markers)


def test_a_label_keeps_off_a_line_and_inside_the_frame() -> None:
    line = [(float(x), 200.0) for x in range(200, 400, 5)]
    (box,) = place([Wanted(200, 200, 60, 12)], [], [line], FRAME)
    assert not any(box.holds(x, y) for x, y in line)
    (corner,) = place([Wanted(498, 398, 60, 12)], [], [], FRAME)
    assert corner.x1 <= 500 and corner.y1 <= 400


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(50, 450), st.floats(50, 350)), min_size=1, max_size=20))
def test_every_label_gets_a_box_of_its_size_near_its_point(points: list[tuple[float, float]]) -> None:
    boxes = place([Wanted(x, y, 40, 12) for x, y in points], [], [], FRAME)
    for (x, y), box in zip(points, boxes, strict=True):
        assert math.isclose(box.x1 - box.x0, 40) and math.isclose(box.y1 - box.y0, 12)
        near = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
        assert math.hypot(near[0] - x, near[1] - y) <= (6 + 44) * math.sqrt(2) + 1e-6
