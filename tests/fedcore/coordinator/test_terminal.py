"""The terminal: a live table for a person, plain lines for a log, nothing for a machine."""

from __future__ import annotations

import contextlib
import io
import threading
from typing import Any

import pytest
from rich.console import Console

from fedcore.coordinator.terminal import RoundProgress, print_summary
from fedcore.coordinator.watch import RunWatcher
from tests.fedcore.coordinator.result_factory import make_result


def console(terminal: bool = False, width: int = 110) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, color_system=None, legacy_windows=False
    )


def written(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def play(progress: RoundProgress, result: dict[str, Any]) -> None:
    with progress:
        progress.job_started(result["name"], result["job"]["rounds"])
        for record in result["rounds"]:
            progress.phase_started(record["round"], "train", len(record["sites"]))
            for party in record["sites"]:
                progress.reply(party, "train", 0.1)
            for each in record["lost"]:
                progress.lost(each["party"], each["step"], each["reason"])
            progress.round_finished(record)
        progress.finished(result)


def test_it_is_a_watcher_of_runs():
    watcher: RunWatcher = RoundProgress(console=console())
    assert all(
        callable(getattr(watcher, name)) for name in ("phase_started", "reply", "lost", "round_finished")
    )


def test_outside_a_terminal_each_round_and_each_loss_is_one_plain_line():
    to, result = console(), make_result(rounds=6)
    play(RoundProgress(console=to), result)
    lines = written(to).splitlines()
    assert len(lines) == 6 + 1
    assert "\x1b" not in written(to)
    assert lines[3] == "lost hospital-5 in train round 4: no reply within its deadline of 600 s"
    accuracy = result["rounds"][0]["evaluate"]["accuracy"]
    assert lines[0].startswith(f"round 1/6  accuracy {accuracy:.4f}  loss ")
    assert lines[0].endswith("255 kB  replies 5/5")
    assert lines[4].endswith("replies 4/5")


def test_a_long_line_is_not_broken_outside_a_terminal():
    to = console(width=20)
    play(RoundProgress(console=to), make_result(rounds=5))
    assert len(written(to).splitlines()) == 5 + 1


def test_in_a_terminal_the_table_holds_the_last_rounds_and_their_replies():
    to, result = console(terminal=True), make_result(rounds=12)
    play(RoundProgress(console=to), result)
    last_frame = written(to).split("round  ")[-1]
    rows = [line.split() for line in last_frame.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == ["5", "6", "7", "8", "9", "10", "11", "12"]
    for row, record in zip(rows, result["rounds"][4:], strict=True):
        assert row[1] == f"{record['evaluate']['accuracy']:.4f}"
        assert row[-1] == "5/5"
    assert "round 12 of 12" in last_frame
    assert "finished" in last_frame


def test_the_bar_counts_replies_of_the_step_it_is_in():
    to = console(terminal=True)
    with RoundProgress(console=to) as progress:
        progress.phase_started(0, "prepare", 3)
        progress.reply("a", "prepare", 0.1)
        progress.phase_started(3, "evaluate", 4)
        progress.reply("a", "evaluate", 0.1)
        progress.reply("b", "evaluate", 0.1)
    assert "evaluate, round 3: 2 of 4 replies" in written(to)


def test_silent_writes_nothing_even_in_a_terminal():
    to = console(terminal=True)
    play(RoundProgress(console=to, silent=True), make_result(rounds=6))
    assert written(to) == ""


def test_the_terminal_is_given_back_when_the_run_raises():
    to = console(terminal=True)
    progress = RoundProgress(console=to)
    with contextlib.suppress(KeyboardInterrupt), progress:
        progress.phase_started(1, "train", 5)
        raise KeyboardInterrupt
    assert written(to).rstrip().endswith("\x1b[?25h"), "the cursor is shown again"


def test_replies_from_many_threads_are_all_counted():
    to = console(terminal=True)
    with RoundProgress(console=to) as progress:
        progress.phase_started(1, "train", 400)
        threads = [
            threading.Thread(target=lambda: [progress.reply("x", "train", 0.1) for _ in range(50)])
            for _ in range(8)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert "400 of 400 replies" in written(to)


@pytest.mark.parametrize("terminal", [True, False])
def test_names_and_reasons_are_neither_markup_nor_control_codes(terminal):
    hostile = "[red]x[/red] [link=http://e.example]y[/link]\x1b]0;title\x07\r"
    to = console(terminal)
    with RoundProgress(console=to, name=hostile) as progress:
        progress.phase_started(1, hostile, 1)
        progress.lost(hostile, hostile, hostile)
        progress.round_finished({"round": 1, "evaluate": {hostile: 0.5}, "sites": {hostile: {}}})
    result = make_result(rounds=1) | {"name": hostile, "reason": hostile, "status": hostile}
    print_summary(result, to, report=hostile)
    text = written(to)
    assert "[red]x[/red]" in text
    assert "\x1b]" not in text and "\x07" not in text


def test_the_summary_compares_alone_federated_and_pooled():
    to, result = console(), make_result()
    print_summary(result, to, report="runs/x/report.html")
    lines = [line.strip("│ ") for line in written(to).splitlines()]
    base = result["baselines"]
    alone = sum(each["accuracy"] for each in base["local"].values()) / 5
    federated, pooled = base["federated"]["accuracy"], base["pooled"]["accuracy"]

    def row(label: str) -> list[str]:
        return next(line for line in lines if line.startswith(label)).split()

    assert row("each site alone, mean")[-2:] == [f"{alone:.4f}", f"+{federated - alone:.4f}"]
    assert row("federated ")[-1] == f"{federated:.4f}"
    assert row("all rows pooled")[-2:] == [f"{pooled:.4f}", "−0.0040"]
    assert "report: runs/x/report.html" in lines
    told = " ".join(lines)
    assert "secure aggregation OFF" in told and "site policy ON" in told


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({}, "No model was trained"),
        (make_result(rounds=0, status="interrupted") | {"reason": "Ctrl-C"}, "Interrupted: Ctrl-C"),
        (
            make_result(rounds=3, status="stopped-early") | {"reason": "no better auc"},
            "Stopped early: no better auc",
        ),
        (make_result(sites=1000, rounds=1), "1\u202f000 participants"),
    ],
)
def test_the_summary_serves_runs_of_any_end(result, said):
    to = console()
    print_summary(result, to)
    assert said in written(to)
