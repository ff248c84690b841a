"""The plots: each mark stands where its number says, and a number that is none leaves a gap."""

from __future__ import annotations

import math
import re

import pytest

from fedcore.coordinator.plots import Band, Curve, curves, histogram, stacked_bars
from fedcore.drawing.numbers import bytes_text, difference_text, metric_text, seconds_text


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path)]


def test_a_curve_is_drawn_in_proportion_to_its_values():
    values = [0.2, 0.5, 0.35, 0.8]
    drawn = str(curves([1, 2, 3, 4], [Curve(values, "federated")], describe="x"))
    found = points(re.search(r'd="(M[^"]+)"', drawn)[1])
    assert len(found) == 4
    scale = (found[3][1] - found[0][1]) / (values[3] - values[0])
    assert scale < 0, "more is higher"
    for (x, y), value, number in zip(found, values, range(4), strict=True):
        assert y - found[0][1] == pytest.approx((value - values[0]) * scale, abs=0.11)
        assert x - found[0][0] == pytest.approx((found[1][0] - found[0][0]) * number, abs=0.11)


def test_a_value_that_is_not_a_number_leaves_a_gap():
    values = [0.2, 0.5, math.nan, 0.8, 0.9, math.nan, 0.7]
    drawn = str(curves(list(range(1, 8)), [Curve(values, "federated")], [Band(values, values)], describe="x"))
    line = re.search(r'class="line federated"><path d="([^"]+)"', drawn) or re.search(
        r'<path d="([^"]+)"></path><circle', drawn
    )
    assert line[1].count("M") == 2
    assert drawn.count("<circle") == 1, "a lonely point is a dot"


def test_a_stack_is_as_high_as_its_phases_which_stand_on_each_other():
    drawn = str(stacked_bars([1, 2], {"a": [3.0, 1.0], "b": [1.0, math.nan]}, describe="x", text=bytes_text))
    boxes = [
        dict(re.findall(r'(x|y|width|height)="([\d.]+)"', each)) for each in re.findall(r"<rect[^>]*>", drawn)
    ]
    first, upper, second = ({key: float(value) for key, value in box.items()} for box in boxes)
    assert first["height"] == pytest.approx(3 * upper["height"], abs=0.3)
    assert second["height"] == pytest.approx(upper["height"], abs=0.11)
    assert upper["x"] == first["x"] < second["x"]
    assert upper["y"] + upper["height"] == pytest.approx(first["y"], abs=0.11)
    assert first["y"] + first["height"] == pytest.approx(second["y"] + second["height"], abs=0.11)


def test_a_histogram_counts_every_site_once():
    drawn = str(histogram([0.1, 0.1, 0.9, math.nan], describe="x", bins=10))
    heights = sorted(
        float(each)
        for each in re.findall(r'height="([\d.]+)"', drawn.split("<rect", 1)[1].replace("<rect", " "))
    )
    assert len(heights) == 2
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (metric_text(0.94996), "0.9500"),
        (metric_text(1234567.0), "1.23e+06"),
        (metric_text(math.nan), "not a number"),
        (metric_text(None), "–"),
        (metric_text(-0.5), "−0.5000"),
        (difference_text(0.0), "+0.0000"),
        (difference_text(-0.00044), "−0.0004"),
        (difference_text(3e-6), "+3.0e−06"),
        (bytes_text(999), "999 B"),
        (bytes_text(999_999), "1.00 MB"),
        (bytes_text(12_345), "12.3 kB"),
        (seconds_text(0.0123), "12 ms"),
        (seconds_text(59.99), "1 min 00 s"),
        (seconds_text(3_725), "1 h 02 min"),
    ],
)
def test_numbers_are_written_for_people(written, expected):
    assert written == expected
