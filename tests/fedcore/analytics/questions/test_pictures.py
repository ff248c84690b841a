"""Plots are SVG that can be read, show what the table shows, and take no name for markup."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from fedcore.analytics.disclosure import SUPPRESSED
from fedcore.analytics.questions.pictures import bars, forest
from fedcore.analytics.result import Coefficient

SVG = "{http://www.w3.org/2000/svg}"


def coefficient(name: str, at: float, reach: float = 1.0) -> Coefficient:
    return Coefficient(name, at, reach / 2, 1.0, 0.5, at - reach, at + reach)


def test_a_bar_for_each_bin_in_proportion_and_a_mark_for_what_is_suppressed():
    picture = ElementTree.fromstring(bars("<age>", (0, 1, 2, 4), (10, SUPPRESSED, 20)))
    first, last = picture.findall(f"{SVG}rect")
    assert float(last.get("height")) == pytest.approx(2 * float(first.get("height")), abs=0.2)
    assert float(last.get("width")) > 1.9 * float(first.get("width"))
    words = [each.text for each in picture.iter(f"{SVG}text")]
    assert words.count("?") == 1 and "<age>" in words


@pytest.mark.parametrize("counts", [(0, 0), (SUPPRESSED, SUPPRESSED), (0.25, 3.5)])
def test_no_counts_and_fractions_can_be_drawn(counts: tuple):
    ElementTree.fromstring(bars("x", (-1.5, 0, 1e6), counts))


def test_intervals_stand_where_they_are():
    found = [coefficient("intercept", 100.0), coefficient("a<b", -1.0), coefficient("c", 2.0, 0.5)]
    picture = ElementTree.fromstring(forest("model", found) or "")
    dots = [float(each.get("cx")) for each in picture.iter(f"{SVG}circle")]
    lines = [each for each in picture.findall(f"{SVG}line") if each.get("class") == "line"]
    assert len(dots) == 2 and dots[0] < dots[1]
    for dot, line in zip(dots, lines, strict=True):
        assert float(line.get("x1")) + float(line.get("x2")) == pytest.approx(2 * dot, abs=0.3)


def test_nothing_to_draw_is_no_picture():
    assert forest("model", [coefficient("intercept", 1.0)]) is None
    assert forest("model", [coefficient("a", math.inf)]) is None
    assert forest("model", [coefficient(str(each), 1.0) for each in range(100)]) is None
