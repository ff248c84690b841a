"""The report and the receipt of a run under secure aggregation."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.cli.show import command as show
from fedcore.coordinator.receipt import layers
from fedcore.coordinator.record import parse
from fedcore.coordinator.record_protection import protected
from fedcore.coordinator.report import render, write_report
from tests.fedcore.coordinator.chromium import MISSING, PROGRAM, open_page
from tests.fedcore.coordinator.protected_result import FAILED, account, make_protected, make_troubled
from tests.fedcore.coordinator.result_factory import make_result, write_run
from tests.fedcore.coordinator.test_report import ALLOWED_TAGS, HOSTILE, JSON, Page


def facts(page: Page) -> dict[str, str]:
    return {row[0]: row[1] for row in page.rows if len(row) == 2}


def test_a_run_without_it_has_no_such_section():
    assert "Who learns what" not in facts(Page(render(make_result())))


def test_the_report_says_who_learns_what_while_what_holds():
    told = facts(Page(render(make_protected(engine="deployment"))))
    assert "weighted mean of updates and metrics" in told["Who learns what"]
    assert "smallest sum has five participants" in told["Who learns what"]
    assert "says anything to anybody" in told["Holds against"] and "up to 5 %" in told["Holds against"]
    assert "different models" in told["Does not hold against"]
    assert "at least three participants" in told["Limits"] and "3 have to help" in told["Limits"]
    assert told["Outcome"] == "All 8 exchanges gave a sum."
    assert told["Dropped out"] == "Nobody."
    assert "In this run" not in told


def test_a_trial_on_one_machine_is_called_one():
    assert "keys are not signed" in facts(Page(render(make_protected())))["In this run"]


def test_an_assumption_of_the_job_is_the_one_that_is_told():
    result = make_protected()
    curious = {"protocol": "secagg+", "adversary": "curious", "corrupt": 0.2}
    result["protection"]["secure_aggregation"] = curious
    told = facts(Page(render(result)))["Holds against"]
    assert told == (
        "A coordinator that follows the protocol and looks closely at all it sees, together with up to 20 % of the "
        "participants."
    )


@pytest.mark.parametrize(
    ("protocol", "said"), [("ckks", "each has the key"), ("paillier", "who has the key")]
)
def test_where_participants_have_the_key_the_report_says_so(protocol, said):
    result = make_protected()
    result["protection"]["secure_aggregation"] = protocol
    told = facts(Page(render(result)))
    assert said in told["Holds against"]
    assert told["Does not hold against"].startswith("A coordinator that does not follow the protocol")


def test_stages_stand_with_what_they_cost():
    page = Page(render(make_protected()))
    row = next(row for row in page.rows if row[0] == "masked")
    assert row[2:] == ["8", "2.0 s", "250 ms", "800 kB", "800 kB", "40 of 40"]
    assert "Time by stage" in page.text and "Traffic by stage" in page.text


def test_what_went_wrong_stands_with_names_rounds_stages_and_reasons():
    page = Page(render(make_troubled()))
    assert ["2", "train", FAILED] in page.rows
    assert ["3", "hospital-4", "train", "reveal", "is in the sum"] in page.rows
    assert ["2", "hospital-1", "train", "masked", "no sum was made"] in page.rows
    told = facts(page)
    assert told["Sent wrong shares"] == "hospital-5"
    assert told["Accuracy"].startswith("120 values were cut because they changed beyond 8.")
    assert "3.0e−07" in told["Accuracy"]
    assert "coordinator" not in {row[1] for row in page.rows if len(row) == 4}, "it is no lost participant"


def test_fields_that_a_protocol_adds_are_shown():
    result = make_protected()
    for number, each in enumerate(result["rounds"]):
        each["protection"]["train"] |= {"spread": 1e-9 * (number + 1), "rekeyed_by": ["hospital-2"]}
    told = facts(Page(render(result)))
    assert told["Spread"] == "4.0e−09, at most"
    assert told["Rekeyed by"] == "hospital-2"


def test_who_opened_the_sum_and_the_measured_error_are_shown():
    result = make_protected()
    result["protection"]["secure_aggregation"] = {"protocol": "threshold", "adversary": "curious"}
    for each in result["rounds"]:
        each["protection"]["train"] |= {
            "error": 2e-9,
            "opened_by": ["hospital-2", "hospital-3"],
            "holders": 5,
        }
    told = facts(Page(render(result)))
    assert told["Opened by"] == "hospital-2, hospital-3"
    assert told["Accuracy"].endswith("The largest error that was measured is 2.0e−09.")
    assert told["Holds against"].endswith("together with fewer than three holders of the key.")
    assert protected_of(result)["error"] == 2e-9
    assert protected_of(result)["opened_by"] == ["hospital-2", "hospital-3"]


def protected_of(result: dict[str, Any]) -> dict[str, Any]:
    found = protected(result)
    assert found is not None
    return found.as_dict()


def test_the_layer_counts_sums_and_drop_outs():
    (layer,) = [each for each in layers(parse(make_troubled())) if each.name == "secure aggregation"]
    assert layer.state == "on"
    assert "7 of 8 exchanges gave a sum; 3 participants dropped out of some" in layer.meaning


def test_a_protocol_none_that_is_written_out_is_off():
    result = make_result()
    result["protection"] = {"secure_aggregation": {"protocol": "none", "clip": 4.0}}
    (layer,) = [each for each in layers(parse(result)) if each.name == "secure aggregation"]
    assert layer.state == "off"


def test_show_prints_the_summary_for_machines_also_of_a_run_that_has_none(tmp_path, capsys):
    folder = write_run(tmp_path / "run", make_troubled())
    show(str(folder), as_json=True)
    told = json.loads(capsys.readouterr().out)["secure_aggregation"]
    assert told["failed"] == [{"round": 2, "phase": "train", "why": FAILED}]
    assert told["stages"]["masked"]["bytes"]["up"] == 8 * 100_000


def test_no_text_of_an_account_becomes_markup():
    result = make_protected(rounds=1)
    result["rounds"][0]["protection"] = {
        HOSTILE: account(
            failed=HOSTILE,
            dropped={HOSTILE: HOSTILE},
            blamed=[HOSTILE],
            stages={HOSTILE: {"seconds": 1.0, "down": 3}},
            more=HOSTILE,
        )
    }
    result["protection"] = {"secure_aggregation": HOSTILE}
    text = render(result)
    assert Page(text).tags <= ALLOWED_TAGS
    assert "\x1b" not in text and "\u202e" not in text


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from([*account(), "more"]), JSON, max_size=6), JSON)
def test_any_account_gives_a_page_without_broken_numbers(spoiled: dict[str, Any], asked: Any):
    result = make_protected(rounds=2)
    result["rounds"][0]["protection"]["train"] |= spoiled
    result["protection"]["secure_aggregation"] = asked
    page = Page(render(result))
    assert page.tags <= ALLOWED_TAGS
    drawn = [value for name, value in page.attributes if name not in ("aria-label", "content")]
    assert not [value for value in drawn if re.search(r"\b(nan|inf|None)\b", value)]


@pytest.mark.skipif(PROGRAM is None, reason=MISSING)
def test_a_browser_shows_the_section_without_complaint(tmp_path):
    opened = open_page(write_report(write_run(tmp_path / "run", make_troubled())), tmp_path)
    assert opened.console == []
    assert opened.requests == []
    assert "<h2>Secure aggregation</h2>" in opened.dom
