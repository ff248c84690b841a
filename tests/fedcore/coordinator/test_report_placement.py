"""What the report and the terminal say of a run that was placed."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from rich.console import Console

from fedcore.coordinator.record_placement import placements
from fedcore.coordinator.report import render, write_report
from fedcore.coordinator.terminal import print_summary
from fedcore.network.made_of import beside, save_made_of
from fedcore.network.place import make_plan
from fedcore.network.plan import load_plan, save_plan
from fedcore.network.topology import load_topology
from tests.fedcore.coordinator.chromium import MISSING, PROGRAM, open_page
from tests.fedcore.coordinator.result_factory import make_result, write_run
from tests.fedcore.coordinator.test_report import ALLOWED_TAGS, HOSTILE, JSON, Page
from tests.fedcore.network.placing import WORK, offer, policy
from tests.fedcore.network.test_files import CONFIGS

DRAWN = frozenset({"defs", "use", "clippath"})
NAMES = tuple(f"hospital-{number}" for number in range(1, 5))


def placed(rounds: int = 4) -> dict[str, Any]:
    """A result of which hospital-5 is in no round; the third round has a repaired plan after a refused lease."""
    result = make_result(rounds=rounds, losses=False)
    for each in result["rounds"]:
        late = each["round"] >= 3
        each["seconds"]["train"] = 0.2
        each["placement"] = {
            "version": 2 if late else 1,
            "cause": "hospital-2/n2 lost" if late else "first",
            "participants": list(NAMES),
            "aggregators": {"wuhu": list(NAMES)},
            "standby": ["guian"],
            "predicted": {"round_s": 0.1, "gco2_location": 2.0, "kwh": 0.004, "cost": 0.5},
            "left_out": [{"what": "offer", "name": "old", "owner": "hospital-5", "reason": "it expired"}],
            "events": [],
        }
    result["rounds"][0]["placement"]["events"] = [
        {"event": "plan", "round": 1, "version": 1, "cause": "first"}
    ]
    repaired = result["rounds"][2]["placement"] if rounds > 2 else {}
    repaired["events"] = [
        {
            "event": "refused",
            "round": 3,
            "owner": "hospital-2",
            "offer": "hospital-2/n2/cpu",
            "reason": "busy",
        },
        {"event": "plan", "round": 3, "version": 2, "cause": "hospital-2/n2 lost"},
    ]
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    topology = load_topology(CONFIGS / "networks" / "eight_hubs.yaml")
    sites = ("wuhu", "wuhu", "guian", "chengdu", "horinger")
    offers = [offer(at, f"hospital-{at + 1}", site, work_s=5.0 + 3 * at) for at, site in enumerate(sites)]
    plan = make_plan(offers, topology, policy(4, standby=1), WORK, "wuhu", job="hospital-tabular")
    write_run(tmp_path, placed())
    save_plan(plan, tmp_path / "plan.json")
    save_made_of(tmp_path / "plan.json", offers, topology, policy(4, standby=1))
    return tmp_path


def summary(result: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_summary(result, console)
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().replace("│", " ").split())


def test_a_run_that_was_not_placed_has_no_such_section() -> None:
    result = make_result()
    assert placements(result) is None
    assert "Placement" not in Page(render(result)).text
    assert "took part" not in summary(result)


def test_the_section_says_who_took_part_and_how_long_a_round_was_predicted_to_take_and_took() -> None:
    page = Page(render(placed()))
    said = (
        "Four of five participants took part (hospital-1, hospital-2, hospital-3, hospital-4) by two plans, added up at "
        "wuhu; a round was predicted to take 100 ms and took 200 ms, mean of four rounds."
    )
    assert said in page.text
    assert ["3", "2", "4", "100 ms", "200 ms", "100 ms longer"] in page.rows
    assert "The prediction is 50% off in the mean." in page.text


def test_repairs_refused_leases_and_offers_that_were_left_out_stand_with_their_reasons() -> None:
    page = Page(render(placed()))
    assert ["3", "a lease was refused", "hospital-2", "hospital-2/n2/cpu: busy"] in page.rows
    assert ["3", "a plan", "", "plan 2: hospital-2/n2 lost"] in page.rows
    assert page.rows.count(["hospital-5", "old", "it expired"]) == 1, "what holds in all rounds is said once"


def test_a_plan_that_nothing_happened_to_has_no_table_of_events() -> None:
    result = placed(2)
    assert "What happened to the plan" not in Page(render(result)).text


def test_the_pictures_and_the_plan_of_the_run_folder_are_in_the_page(folder: Path) -> None:
    text = write_report(folder).read_text()
    page = Page(text)
    for name in ("plan-participant hospital-1", "plan-root wuhu", "front-carbon plan"):
        assert f'id="{name}"' in text
    assert "Plan 1 on its map" in page.text and "What else it could have cost" in page.text
    for one in load_plan(folder / "plan.json").participants:
        assert [one.owner, one.node, one.site, one.aggregator] in [row[:4] for row in page.rows]
        assert f'id="plan-aggregator {one.aggregator}"' in text
    assert any(row[1:2] == ["standby"] for row in page.rows)


def test_the_page_keeps_its_own_rules_with_pictures_in_it(folder: Path) -> None:
    page = Page(write_report(folder).read_text())
    assert page.tags <= ALLOWED_TAGS | DRAWN
    assert not [name for name, _ in page.attributes if name == "style" or name.startswith("on")]
    links = [value for name, value in page.attributes if name.endswith("href")]
    assert links and all(value.startswith("#") for value in links)
    ids = [value for name, value in page.attributes if name == "id"]
    outlines = [value for value in ids if "DejaVu" in value]
    assert len(outlines) == len(set(outlines))


def test_the_report_is_written_without_what_is_missing_or_broken(folder: Path) -> None:
    whole = write_report(folder).read_text()
    beside(folder / "plan.json").unlink()
    without_map = Page(write_report(folder).read_text())
    assert "The last plan" in without_map.text and "on its map" not in without_map.text
    (folder / "plan.json").write_text("{}")
    without_plan = Page(write_report(folder).read_text())
    assert "Predicted and measured" in without_plan.text and "The last plan" not in without_plan.text
    assert len(whole) > 2 * len(write_report(folder).read_text())


def test_the_terminal_says_it_in_a_line_and_that_the_plan_broke() -> None:
    text = summary(placed())
    assert "Four of five participants took part (hospital-1, hospital-2, hospital-3, hospital-4)" in text
    assert "was predicted to take 100 ms and took 200 ms" in text
    assert "one lease refused and one plan repaired" in text
    assert "refused" not in summary(placed(2))


def test_when_everybody_takes_part_nobody_is_listed() -> None:
    result = placed(1)
    result["rounds"][0]["placement"]["participants"] = [one["name"] for one in result["participants"]]
    assert "Five participants took part by one plan, added up at wuhu; a round was predicted" in summary(
        result
    )


def test_a_round_that_was_not_measured_is_in_no_mean() -> None:
    result = placed(3)
    result["rounds"][1]["seconds"] = {}
    result["rounds"][2]["placement"]["predicted"] = {}
    told = placements(result)
    assert told is not None
    assert (told.mean("predicted_s"), told.mean("actual_s"), told.error) == (0.1, 0.2, 0.5)


def test_no_name_or_reason_becomes_markup_or_reaches_the_terminal_as_code() -> None:
    result = placed()
    for each in result["rounds"]:
        told = each["placement"]
        told["participants"] = [HOSTILE]
        told["aggregators"] = {HOSTILE: [HOSTILE]}
        told["left_out"] = [{"owner": HOSTILE, "name": HOSTILE, "reason": HOSTILE}]
        told["events"] = [{"event": HOSTILE, "owner": HOSTILE, "reason": HOSTILE}]
    text = render(result)
    assert Page(text).tags <= ALLOWED_TAGS
    assert "\x1b" not in text + summary(result)


@settings(max_examples=40, deadline=None)
@given(JSON, JSON)
def test_whatever_stands_there_a_report_and_a_summary_are_written(told: Any, events: Any) -> None:
    result = placed(2)
    result["rounds"][0]["placement"] = told
    result["rounds"][1]["placement"] |= {
        "events": events,
        "left_out": events,
        "predicted": told,
        "aggregators": events,
    }
    assert render(result).startswith("<!doctype html>")
    assert summary(result)


@pytest.mark.skipif(PROGRAM is None, reason=MISSING)
def test_a_browser_finds_nothing_to_complain_about(folder: Path, tmp_path: Path) -> None:
    opened = open_page(write_report(folder), tmp_path)
    assert opened.console == [] and opened.requests == []
    assert len(re.findall(r"<svg[^>]*role=\"img\"", opened.dom)) >= 2
