from __future__ import annotations

import base64
import html
import re

import pytest

from fedcore.coordinator.receipt import layers
from fedcore.coordinator.record import parse
from fedcore.coordinator.report import render, write_report
from tests.fedcore.coordinator.answered_result import (
    NAMES,
    SVG,
    a_model,
    a_refusal,
    a_result,
    an_answer,
    write_run,
)
from tests.fedcore.coordinator.chromium import MISSING, PROGRAM, open_page
from tests.fedcore.coordinator.test_report import HOSTILE, Page

NOISE = {
    "mechanism": "discrete gaussian",
    "neighbours": "row",
    "epsilon": 0.25,
    "delta": 1e-6,
    "mode": "central",
}


def test_each_question_has_a_section_with_its_table_and_its_protection(tmp_path):
    page = Page(write_report(write_run(tmp_path / "run", a_result())).read_text())
    for words in (
        "by_sex lung by sex: count(*), mean(age) · sql",
        "Secure sum of 4 of 5 participants under secagg+.",
        "No noise.",
        "Two cells: counts below the minimum",
        "Two rounds, 800 ms, 10.0 kB.",
        "hazard lung: cox of time, status on age, sex · cox",
        "n = 227, events 164",
        "Files in the run folder: answers/by_sex.csv answers/by_sex.json",
    ):
        assert words in page.text, words
    assert ["1", "138", "63.3406"] in page.rows and ["2", "suppressed", "suppressed"] in page.rows
    assert ["sex", "0.5754", "0.1680", "0.001"] in page.rows


def test_only_a_suppressed_cell_has_the_mark_of_one():
    answer = an_answer()
    answer["tables"][0]["rows"].append({"sex": "suppressed", "count(*)": 0, "mean(age)": None})
    text = render(a_result({"q": answer}))
    assert len(re.findall(r'<td class="n suppressed">suppressed</td>', text)) == 2
    assert "<td>suppressed</td>" in text and '<td class="n">0</td>' in text and '<td class="n">–</td>' in text


def test_the_top_of_the_page_has_the_facts():
    page = Page(
        render(a_result({"a": an_answer(privacy=NOISE), "b": a_model(privacy=NOISE), "c": a_refusal()}))
    )
    for words in (
        "report of answers",
        "Answers 2 of three questions",
        "Participants 5",
        "Suppressed 2 cells",
        "Epsilon 0.5 delta 1e-06",
        "Rounds 8 in all",
        "Traffic 30.0 kB",
    ):
        assert words in page.text, words


def test_a_picture_stands_in_the_page_as_a_document_of_its_own(tmp_path):
    text = write_report(write_run(tmp_path / "run", a_result())).read_text()
    source = re.search(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="Plot of hazard-curves">', text)
    assert source is not None and base64.b64decode(source[1]).decode() == SVG
    assert "<path" not in text, "nothing of it is part of the page"
    assert "default-src 'none'" in html.unescape(text) and "img-src data:" in text


def test_pages_without_answers_allow_no_image():
    from tests.fedcore.coordinator.result_factory import make_result

    assert "img-src" not in render(make_result(rounds=2))


def test_a_picture_outside_the_run_folder_is_not_read(tmp_path):
    (tmp_path / "secret.svg").write_text(SVG)
    folder = write_run(tmp_path / "run", a_result({"q": a_model()}))
    result = a_result({"q": a_model(), "r": an_answer(files=["../secret.svg", "answers/gone.svg"])})
    text = render(result, folder)
    assert text.count("<img") == 1


def test_a_refused_question_has_its_reason_and_its_cure():
    page = Page(render(a_result({"by_sex": an_answer(), "hazard": a_refusal()}, status="partial")))
    assert "Partly answered. Without an answer: hazard (refused)." in page.text
    assert (
        "Refused. hospital-2, question: statistic cox is not allowed here. Cure: ask for count." in page.text
    )


def test_who_took_part_and_why_others_did_not():
    result = a_result(left_out=[{"party": "hospital-6", "step": "prepare", "reason": "no data set lung"}])
    page = Page(render(result))
    assert [NAMES[0], "2 of 2"] in page.rows and [NAMES[4], "1 of 2"] in page.rows
    assert [NAMES[4], "by_sex", "column 'sex' is text here"] in page.rows
    assert ["hospital-6", "all", "no data set lung"] in page.rows


def test_what_the_coordinator_learned_follows_from_the_protection():
    page = Page(render(a_result()))
    assert "Sums over the participants under secagg+, round by round" in page.text
    assert "The answers are exact." in page.text
    bare = {"secure_aggregation": "none", "differential_privacy": None}
    page = Page(render(a_result({"q": an_answer(protection=None)}, protection=bare)))
    assert "Of each participant its part of each answer" in page.text
    page = Page(render(a_result({"a": an_answer(privacy=NOISE), "b": an_answer(privacy=NOISE)})))
    assert "with epsilon 0.5: two data sets that differ in one row" in page.text
    assert "The answers are exact." not in page.text


def test_layers_speak_of_answers_not_of_model_updates():
    noisy = {
        "secure_aggregation": "none",
        "differential_privacy": {"epsilon": 1.0, "delta": 1e-6, "mode": "local"},
    }
    members = [{"name": "h", "layers": {"privacy": "epsilon 1", "policy": "on", "disclosure": "on"}}]
    for protection in ({"secure_aggregation": "secagg+", "differential_privacy": None}, noisy):
        found = {
            each.name: each for each in layers(parse(a_result(protection=protection, participants=members)))
        }
        said = found["secure aggregation"].meaning + found["differential privacy"].meaning
        assert "update" not in said and "answer" in said
    assert found["secure aggregation"].state == "off" and found["differential privacy"].state == "on"


def test_nothing_that_a_participant_says_becomes_markup(tmp_path):
    answer = an_answer(left_out=[{"party": HOSTILE, "reason": HOSTILE}], text=HOSTILE, kind=HOSTILE)
    answer["tables"] = [{"title": HOSTILE, "rows": [{HOSTILE: HOSTILE}], "notes": [HOSTILE]}]
    answers = {"q": answer, "r": a_refusal(reason=HOSTILE, error=None), HOSTILE: an_answer(files=[])}
    text = render(a_result(answers, warnings=[HOSTILE]))
    assert Page(text).tags.isdisjoint({"script", "img"})
    assert not [name for name, _ in Page(text).attributes if name.startswith("on")]
    assert "\x1b" not in text and "\u202e" not in text
    assert "<img" not in text


@pytest.mark.parametrize("answers", [None, [], {"q": None}, {"q": {"tables": [{"rows": "x"}], "files": 3}}])
def test_a_record_with_parts_missing_still_has_a_page(answers):
    result = a_result()
    result["answers"] = answers
    assert "lung-survival" in Page(render(result)).text


@pytest.mark.skipif(PROGRAM is None, reason=MISSING)
def test_a_browser_shows_it_without_complaint_and_without_the_network(tmp_path):
    result = a_result(
        {"by_sex": an_answer(), "hazard": a_model(), "no": a_refusal(reason=HOSTILE, error=None)}
    )
    opened = open_page(write_report(write_run(tmp_path / "run", result)), tmp_path)
    assert opened.console == []
    assert [each for each in opened.requests if not each.startswith("data:")] == []
    assert opened.dom.count("<section") == 7


def test_a_long_table_is_folded_away_behind_the_picture():
    rows = [{"time": place, "survival": 1.0} for place in range(41)]
    answer = a_model()
    answer["tables"].append({"title": "Curve", "rows": rows, "notes": []})
    text = render(a_result({"q": answer}))
    assert "<summary>Curve: 41 rows</summary>" in text and "<summary>Cox" not in text
