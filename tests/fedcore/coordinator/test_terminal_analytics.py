from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from fedcore.analytics.disclosure import SUPPRESSED
from fedcore.coordinator.record import parse
from fedcore.coordinator.record_analytics import answers_of, first_error
from fedcore.coordinator.terminal import print_summary
from fedcore.coordinator.terminal_analytics import SUPPRESSED_STYLE, AnswerProgress, cell
from fedcore.coordinator.watch import EventFile, Replay
from fedcore.coordinator.wording import headline
from fedcore.errors import JobError, PolicyRefused
from tests.fedcore.coordinator.answered_result import HIDDEN, NAMES, a_refusal, a_result, an_answer

HOSTILE = "[red]x[/red]\x1b]0;x\x07\u202e"


def summary(result, width=100):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_summary(result, console, report="runs/x/report.html")
    return re.sub(r" *│\n│ *", "\n", console.file.getvalue())


def test_each_question_is_printed_with_its_table_notes_and_who_is_in_the_sum():
    text = summary(a_result())
    for words in (
        "Five participants answered two questions about “lung”",
        "by_sex  lung by sex: count(*), mean(age)",
        "2 groups",
        "secure sum of 4 of 5 participants under secagg+ · no noise",
        "two cells suppressed",
        "without hospital-5: column 'sex' is text here",
        "n = 227, events 164",
        "secure sum of 5 participants under secagg+",
        "answers/hazard-curves.svg",
        "report: runs/x/report.html",
    ):
        assert words in text, words
    assert re.search(r"1 +138 +63\.3406", text) and re.search(r"2 +suppressed +suppressed", text)
    assert re.search(r"sex +0\.5754 +0\.1680 +0\.001", text), "a p-value has three decimals"


def test_suppressed_has_a_style_of_its_own_that_a_group_of_that_name_has_not():
    table = answers_of(a_result())["by_sex"].tables[0]
    assert table.rows[1][1] is SUPPRESSED
    assert [cell(value, "x").style for value in (SUPPRESSED, "suppressed", 0, None)] == [
        SUPPRESSED_STYLE,
        "",
        "",
        "",
    ]
    assert table.texts(1) == ["138", "suppressed"]


def test_numbers_of_a_column_are_whole_where_all_are():
    rows = [
        {"a": 11.0, "b": 1.0, "p": 1.0},
        {"a": None, "b": 0.5, "p": 0.00001},
        {"a": HIDDEN, "b": -2.0, "p": 0.04},
    ]
    table = answers_of(a_result({"q": an_answer(tables=[{"title": "", "rows": rows}])}))["q"].table()
    assert table.texts(0) == ["11", "–", "suppressed"]
    assert table.texts(1) == ["1.0000", "0.5000", "−2.0000"]
    assert table.texts(2) == ["1.000", "<0.001", "0.040"]


def test_a_refused_question_says_where_why_and_how_to_cure_it():
    text = summary(a_result({"by_sex": an_answer(), "hazard": a_refusal()}, status="partial"))
    assert "partly answered" in text and "answered one of two questions" in text
    assert "refused  hospital-2, question: statistic cox is not allowed here" in text
    assert "cure  ask for count" in text


def test_noise_states_its_cost_its_neighbours_and_its_scale():
    told = {"mechanism": "discrete gaussian", "neighbours": "add-remove-row", "epsilon": 0.5, "delta": 1e-6}
    told |= {"mode": "central", "scale": 12.5}
    text = summary(a_result({"by_sex": an_answer(privacy=told)}), width=240)
    assert (
        "epsilon 0.5, delta 1e-06, neighbours: one row, there or not, central noise, discrete gaussian, scale 12.5"
        in text
    )
    assert "with noise (epsilon 0.5 in all)" in text


def test_without_a_secure_sum_it_says_what_the_coordinator_saw():
    result = a_result({"by_sex": an_answer(protection=None)}, protection={"secure_aggregation": "none"})
    text = summary(result, width=200)
    assert "each one’s part seen by the coordinator" in text
    assert "the coordinator saw each one’s part of the answers, small cells kept back" in text
    assert "secure aggregation OFF" in text


def test_words_of_participants_are_neither_markup_nor_control_codes():
    answer = an_answer(left_out=[{"party": HOSTILE, "reason": HOSTILE}], text=HOSTILE)
    answer["tables"] = [{"title": HOSTILE, "rows": [{HOSTILE: HOSTILE}], "notes": [HOSTILE]}]
    text = summary(a_result({"q": answer, "r": a_refusal(reason=HOSTILE, error=None)}))
    assert text.count("[red]x[/red]") >= 6
    assert "\x1b" not in text and "\u202e" not in text


def test_a_run_without_any_answer_says_so():
    error = {"message": "nothing can be asked", "party": "hospital-1", "step": "prepare"}
    result = a_result({}, status="refused", error=error)
    result["job"]["ask"] = {"by_sex": {}, "hazard": {}}
    said = headline(parse(result))
    assert said.startswith("No answer: five participants were to answer two questions about “lung”")
    assert "was refused at hospital-1" in said


@pytest.mark.parametrize(
    "answers",
    [
        None,
        [],
        "x",
        {"q": None},
        {"q": {}},
        {"q": {"tables": "x", "rows": 1}},
        {"q": {"tables": [{"rows": [3]}]}},
    ],
)
def test_a_record_with_parts_missing_or_of_another_type_is_still_shown(answers):
    result = a_result()
    result["answers"] = answers
    assert "lung-survival" in summary(result)


def test_a_value_is_found_by_its_column_and_the_keys_of_its_row():
    answers = answers_of(a_result())
    assert answers["by_sex"].value("count(*)", 1) == 138
    assert answers["by_sex"].value("mean(age)", 2) is SUPPRESSED
    assert answers["hazard"].value("p", "sex") == 0.000986
    with pytest.raises(JobError, match=r'no column "count": did you mean "count\(\*\)"'):
        answers["by_sex"].value("count", 1)
    with pytest.raises(JobError, match=r"0 rows begin with 3; allowed.*of 1; 2"):
        answers["by_sex"].value("count(*)", 3)
    with pytest.raises(JobError, match="2 rows begin with no key"):
        answers["by_sex"].value("count(*)")
    with pytest.raises(JobError, match="has 1 tables"):
        answers["by_sex"].table(1)


def test_a_question_without_an_answer_raises_its_own_error_when_its_table_is_wanted():
    result = a_result({"by_sex": an_answer(), "hazard": a_refusal()})
    with pytest.raises(PolicyRefused, match="statistic cox is not allowed here") as raised:
        answers_of(result)["hazard"].table()
    assert (raised.value.party, raised.value.step) == (NAMES[1], "question")
    assert first_error(result)["exit_code"] == 4
    assert first_error(a_result()) == {}


def test_a_notebook_shows_a_table_whose_words_are_escaped():
    answer = an_answer()
    answer["tables"][0]["rows"].append({"sex": "<script>", "count(*)": 5, "mean(age)": None})
    shown = answers_of(a_result({"q": answer}))["q"]._repr_html_()
    assert "<td>suppressed</td>" in shown and "&lt;script&gt;" in shown and "<script>" not in shown


def test_a_table_without_rows_keeps_its_heads():
    told = {"title": "none", "heads": ["sex", "count(*)"], "rows": [], "notes": []}
    table = answers_of(a_result({"q": an_answer(tables=[told])}))["q"].table()
    assert (table.heads, table.rows) == (("sex", "count(*)"), ())


def test_rows_may_be_lists():
    told = {"title": "t", "heads": ["a", "b"], "rows": [[1, HIDDEN], [2]], "notes": []}
    table = answers_of(a_result({"q": an_answer(tables=[told])}))["q"].table()
    assert table.rows == ((1, SUPPRESSED), (2, None))


def test_progress_names_the_question_the_round_and_who_is_lost():
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    with AnswerProgress(["by_sex", "hazard"], name="lung", console=console) as told:
        told.phase_started(0, "prepare", 5)
        told.phase_started(0, "question by_sex: admit", 5)
        told.lost("hospital-5", "question by_sex", "no such column")
        told.phase_started(1, "question by_sex", 4)
        told.stage_started("shares")
        told.phase_started(2, "question by_sex: shares", 4)
        told.reply("hospital-1", "question by_sex", 0.1)
        assert "question by_sex, round 2: 1 of 4 replies" in str(told._bar.tasks[0].fields["now"])
        told.phase_started(1, "question hazard", 4)
        assert told._bar.tasks[0].completed == 1
        told.round_finished({})
        told.finished({"status": "finished"})
    assert told._bar.tasks[0].completed == 2
    lines = console.file.getvalue().splitlines()
    assert lines == [
        "question 1 of 2: by_sex",
        "lost hospital-5 in question by_sex: no such column",
        "question 2 of 2: hazard",
    ]


def test_progress_can_be_replayed_from_another_process(tmp_path):
    events = EventFile(tmp_path / "events.jsonl")
    events.phase_started(1, "question hazard", 4)
    events.reply("hospital-1", "question hazard", 0.1)
    events.finished({"status": "finished"})
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    with AnswerProgress(["by_sex", "hazard"], console=console) as told:
        Replay(tmp_path / "events.jsonl", told).poll()
    assert console.file.getvalue() == "question 2 of 2: hazard\n"


def test_progress_for_machines_says_nothing():
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    with AnswerProgress(["by_sex"], console=console, silent=True) as told:
        told.phase_started(1, "question by_sex", 4)
        told.lost("hospital-1", "question by_sex", "gone")
    assert console.file.getvalue() == ""


def test_a_long_table_is_cut_and_says_so():
    rows = [{"k": place, "count(*)": 10} for place in range(30)]
    text = summary(a_result({"q": an_answer(tables=[{"title": "t", "rows": rows, "notes": []}])}))
    assert "10 more rows stand in the files" in text
    assert re.search(r"\n19 +10", text) and not re.search(r"\n20 +10", text)


def test_groups_have_their_intervals_and_bins_in_columns_of_their_own():
    first = {"count(*)": 12, "median": {"low": 3.0, "high": 4.0}, "bins": [7, HIDDEN]}
    second = {"count(*)": HIDDEN, "median": HIDDEN, "bins": HIDDEN}
    rows = [{"key": ["a", None], "values": first}, {"key": [{"all": True}, 2], "values": second}]
    told = {
        "title": "t",
        "keys": ["x", "y"],
        "rows": rows,
        "edges": {"bins": [0, 1, 2]},
        "notes": ["5 sites"],
    }
    table = answers_of(a_result({"q": an_answer(tables=[told])}))["q"].table()
    assert table.heads == ("x", "y", "count(*)", "median low", "median high", "bins [0, 1)", "bins [1, 2]")
    assert table.rows[0] == ("a", "missing", 12, 3.0, 4.0, 7, SUPPRESSED)
    assert table.rows[1] == ("all", 2, *[SUPPRESSED] * 5)
    assert table.value("median", "a") == (3.0, 4.0)
    assert table.notes == ("5 sites",)


def test_a_broad_table_keeps_its_numbers_in_one_piece():
    heads = ["coefficient", "standard error", "z", "p", "hazard ratio", "95 % low", "95 % high"]
    rows = [{"": "ph.karno", **dict.fromkeys(heads, -0.5281)}]
    text = summary(a_result({"q": an_answer(tables=[{"title": "Cox", "rows": rows}])}), width=80)
    assert text.count("−0.5281") + text.count("<0.001") == len(heads), text
