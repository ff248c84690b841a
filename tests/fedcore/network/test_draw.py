"""The pictures of a plan and of a front: what stands in them, read from the SVG, not from pixels."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fedcore.errors import JobError
from fedcore.network.canvas import CIRCLE_LOOK, Canvas, Shades, amount, shown
from fedcore.network.draw import draw_plan, title_of
from fedcore.network.draw_front import draw_front, front_title
from fedcore.network.front import Point, judged
from fedcore.network.offer import Offer
from fedcore.network.place import make_plan
from fedcore.network.plan import Plan
from fedcore.network.scene import scene_of
from fedcore.network.spots import HEIGHT, SIDE, WIDTH, dots_of, spots_of
from fedcore.network.svg import SVG, save_figure, svg_text
from fedcore.network.topology import load_topology
from tests.fedcore.network.placing import WORK, offer, policy
from tests.fedcore.network.test_files import CONFIGS

MAP = load_topology(CONFIGS / "networks" / "eight_hubs.yaml")
SITES = ("wuhu", "guian", "guian", "guian", "chengdu", "chengdu", "chengdu", "horinger")


def offers(count: int) -> list[Offer]:
    """Owners all over the map, the later ones slower."""
    return [
        offer(number, f"p{number:02d}", SITES[number % len(SITES)], work_s=10.0 + number)
        for number in range(count)
    ]


def planned(count: int = 12, pick: int = 8) -> Plan:
    return make_plan(offers(count), MAP, policy(pick, standby=1), WORK, "zhangjiakou", job="reading")


def picture(plan: Plan, made: list[Offer]) -> ElementTree.Element:
    return ElementTree.fromstring(svg_text(draw_plan(plan, MAP, made), title_of(plan)))


def ids(root: ElementTree.Element) -> list[str]:
    return [value for each in root.iter() if (value := each.get("id")) is not None]


def test_everything_of_the_plan_has_its_mark() -> None:
    plan, made = planned(), offers(12)
    names = ids(picture(plan, made))
    assert {f"participant {one.owner}" for one in plan.participants} <= set(names)
    chosen = {one.owner for one in plan.participants}
    assert {name for name in names if name.startswith("idle ")} == {
        f"idle {one.owner}" for one in made if one.owner not in chosen
    }
    assert {name for name in names if name.startswith("aggregator ")} == {
        f"aggregator {one.site}" for one in plan.aggregators
    }
    assert [name for name in names if name.startswith("standby ")] == [
        f"standby {one}" for one in plan.standby
    ]
    assert names.count("root zhangjiakou") == 1
    assert {f"site {name}" for name in MAP.names} <= set(names)
    assert {f"label {name}" for name in MAP.names} <= set(names)


def test_edges_have_the_colour_of_their_circle_and_links_are_wider_where_more_passes() -> None:
    plan = planned()
    root, scene = picture(plan, []), scene_of(plan, MAP)
    by_id = {each.get("id"): each for each in root.iter()}
    circles = [edge for edge in scene.edges if edge.circle]
    assert circles
    for edge in circles:
        (line,) = by_id[f"edge {edge.site} {edge.to}"].iter(f"{{{SVG}}}path")
        assert edge.circle and line.get("stroke") == CIRCLE_LOOK[edge.circle][0]
    used = {pair: megabytes for pair, megabytes in scene.links.items() if megabytes}
    widths = {
        pair: float(next(by_id[f"link {pair[0]} {pair[1]}"].iter(f"{{{SVG}}}path")).get("stroke-width") or 0)
        for pair in used
    }
    assert sorted(used, key=lambda pair: (used[pair], pair)) == sorted(
        used, key=lambda pair: (round(widths[pair], 6), used[pair], pair)
    )


def test_the_sites_of_the_picture_cover_neither_each_other_nor_the_legend() -> None:
    for count, pick in ((5, 4), (40, 20), (60, 60)):
        spots = [
            spot
            for spot in spots_of(scene_of(planned(count, pick), MAP, offers(count))).values()
            if spot.place.used
        ]
        for one, other in itertools.combinations(spots, 2):
            assert (one.x - other.x) ** 2 + (one.y - other.y) ** 2 >= (one.ring + other.ring) ** 2
        assert all(spot.ring <= spot.x <= WIDTH - SIDE - spot.ring for spot in spots)
        assert all(spot.ring <= spot.y <= HEIGHT - spot.ring for spot in spots)


def test_labels_cover_neither_each_other_nor_a_site() -> None:
    plan, made = planned(40, 20), offers(40)
    grounds = [
        box_of(each) for each in picture(plan, made).iter() if (each.get("id") or "").startswith("ground ")
    ]
    assert len(grounds) == len(MAP.names)
    for one, other in itertools.combinations(grounds, 2):
        assert not meet(one, other)
    spots = spots_of(scene_of(plan, MAP, made)).values()
    for x0, y0, x1, y1 in grounds:
        for spot in spots:
            # The picture counts from the top.
            assert not meet(
                (x0, y0, x1, y1), (spot.x - 2, HEIGHT - spot.y - 2, spot.x + 2, HEIGHT - spot.y + 2)
            )


def box_of(group: ElementTree.Element) -> tuple[float, float, float, float]:
    (drawn,) = group.iter(f"{{{SVG}}}path")
    numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", drawn.get("d") or "")]
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return (
        min(one[2], other[2]) - max(one[0], other[0]) > 0.5
        and min(one[3], other[3]) - max(one[1], other[1]) > 0.5
    )


def test_few_participants_are_named_and_many_are_counted() -> None:
    few, many = ids(picture(planned(8, 8), [])), ids(picture(planned(40, 20), []))
    guian = [one for one in planned(8, 8).participants if one.site == "guian"]
    lines = [name for name in few if name.startswith("label guian ")]
    assert len(lines) >= len(guian)
    assert len([name for name in many if name.startswith("label guian ")]) <= 2


def test_where_participants_are_many_those_of_a_site_and_a_circle_share_a_disc() -> None:
    plan, made = planned(200, 100), offers(200)
    discs = [name for name in ids(picture(plan, made)) if name.startswith("participant ")]
    wanted = Counter((one.site, MAP.circle(one.site, one.aggregator)) for one in plan.participants)
    assert sorted(discs) == sorted(f"participant {count} at {site}" for (site, _), count in wanted.items())


def test_the_legend_has_the_marks_of_the_picture_and_no_others() -> None:
    plan = planned()
    root = picture(plan, [])
    entries = [each for each in root.iter() if each.get("id") == "legend edge"]
    assert len(entries) == len(plan.prediction.circles)
    assert not [each for each in root.iter() if each.get("id") == "legend idle"]
    assert [each for each in picture(plan, offers(12)).iter() if each.get("id") == "legend idle"]


def test_the_svg_is_the_same_every_time_and_holds_no_style_and_no_link_out() -> None:
    plan, made = planned(), offers(12)
    first, second = (svg_text(draw_plan(plan, MAP, made), title_of(plan)) for _ in range(2))
    assert first == second
    root = ElementTree.fromstring(first)
    assert root.get("role") == "img" and root.get("aria-label") == title_of(plan)
    assert {each.tag.removeprefix(f"{{{SVG}}}") for each in root.iter()} <= {
        "svg",
        "title",
        "defs",
        "g",
        "path",
        "use",
        "clipPath",
    }
    assert not [each for each in root.iter() if each.get("style")]
    hrefs = [value for each in root.iter() for name, value in each.attrib.items() if name.endswith("href")]
    assert hrefs and all(value.startswith("#") for value in hrefs)


def test_ids_of_two_pictures_of_a_page_differ() -> None:
    plan = planned()
    one, other = (
        ElementTree.fromstring(svg_text(draw_plan(plan, MAP), "x", prefix=name)) for name in ("a-", "b-")
    )
    assert not set(ids(one)) & set(ids(other))
    known = set(ids(one))
    for each in one.iter():
        for name, value in each.attrib.items():
            if name.endswith("href"):
                assert value.removeprefix("#") in known


def test_a_name_that_is_markup_or_mathematics_is_text() -> None:
    made = [offer(number, f"p<b>&$x^2$\x1b{number}", "guian") for number in range(3)]
    plan = make_plan(made, MAP, policy(3), WORK, "guian", job="<script>$\\frac{1}$\x07")
    text = svg_text(draw_plan(plan, MAP, made), title_of(plan))
    assert "<script>" not in text and "<b>" not in text and not {"\x1b", "\x07"} & set(text)
    ElementTree.fromstring(text)


def test_pictures_are_written_as_their_name_says(tmp_path: Path) -> None:
    figure = draw_plan(planned(), MAP)
    assert save_figure(figure, tmp_path / "a.svg", "t").read_text().startswith("<svg")
    assert save_figure(figure, tmp_path / "a.png", "t").read_bytes().startswith(b"\x89PNG")
    assert save_figure(figure, tmp_path / "deep" / "a.pdf", "t").read_bytes().startswith(b"%PDF")
    with pytest.raises(JobError, match=r"allowed: \.svg, \.png, \.pdf"):
        save_figure(figure, tmp_path / "a.gif", "t")


def test_carbon_gets_darker_as_it_gets_more_and_is_white_where_unknown() -> None:
    shades = Shades([155.6, 300.0, 655.3])
    assert (shades.low, shades.high) == (100, 700)
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b, _ in map(shades.colour, (155.6, 300.0, 655.3))]
    assert light == sorted(light, reverse=True)
    assert shades.colour(None) == "white"
    assert not Shades([]).known


def test_people_stand_around_their_site_apart_from_each_other() -> None:
    for count in (0, 1, 7, 30, 60):
        dots = dots_of(0, 0, 8, count)
        assert len(dots) == count
        for (x, y), (u, v) in itertools.combinations(dots, 2):
            assert (x - u) ** 2 + (y - v) ** 2 > 6.4**2


def test_the_front_has_a_mark_for_each_point_and_one_for_the_plan() -> None:
    points = judged(
        [
            Point((1, 0, 0), 1, 9, 5),
            Point((0, 1, 0), 5, 2, 6),
            Point((0, 0, 1), 7, 8, 1),
            Point((0.5, 0.5, 0), 6, 9, 9),
        ]
    )
    figure = draw_front(points, points[0], currency="CNY")
    root = ElementTree.fromstring(svg_text(figure, front_title(planned(), points)))
    names = ids(root)
    for panel in ("carbon", "cost"):
        assert [name for name in names if name.startswith(f"{panel} point")] == [
            f"{panel} point {at}" for at in range(3)
        ]
        assert f"{panel} plan" in names and f"{panel} front" in names and f"{panel} dominated" in names
    assert front_title(planned(), points).startswith("4 placements of reading by other weights, 3 of them")


def test_a_front_of_one_point_can_be_drawn() -> None:
    (point,) = judged([Point((1, 0, 0), 0.0267, 1.95, 0.0)])
    assert "carbon point 0" in svg_text(draw_front([point], point, currency="CNY", basis="market"), "t")


def test_words_that_do_not_show_are_marked_and_numbers_have_three_digits() -> None:
    assert shown("a\u202eb\x00") == "a\ufffdb\ufffd"
    assert [amount(value) for value in (0, 0.026742, 12.0, 1234.5)] == ["0", "0.0267", "12", "1,234"]
    canvas = Canvas(100, 50)
    assert (
        0 < canvas.measure("ab", 9) < canvas.measure("ab", 9, bold=True) < canvas.measure("abc", 9, bold=True)
    )
