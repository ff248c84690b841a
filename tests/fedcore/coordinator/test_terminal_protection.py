"""Secure aggregation in the terminal: stages while they go on, sums in the table, a summary at the end."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from fedcore.coordinator.record_protection import exchanges_of
from fedcore.coordinator.terminal import RoundProgress, print_summary
from fedcore.coordinator.terminal_protection import StageLine, sum_cell
from fedcore.coordinator.watch import EventFile, Replay, Silent
from tests.fedcore.coordinator.protected_result import FAILED, account, make_protected, make_troubled

STAGES = ("keys", "roster", "masked", "confirm", "reveal")


def console(terminal: bool = False) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=120, color_system=None, legacy_windows=False
    )


def written(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def play(watcher: Any, number: int = 1, stages: tuple[str, ...] = STAGES, replies: int = 5) -> None:
    """One exchange, in the order in which the grids tell of it."""
    for stage in stages:
        watcher.stage_started(stage)
        watcher.phase_started(number, f"train: {stage}", 5)
        for i in range(replies):
            watcher.reply(f"hospital-{i}", "train", 0.1)


def test_stages_that_are_over_show_their_time_and_the_last_its_replies():
    times = iter([0.0, 2.0, 2.0, 5.0, 5.0])
    line = StageLine(lambda: next(times))
    for stage in ("keys", "roster", "masked"):
        line.begin((1, "train"), stage, 5)
    line.reply()
    line.reply()
    line.lost()
    said = line.text().plain
    assert said == "secure aggregation  keys 2.0 s → roster 3.0 s → masked 2 of 5 (1 dropped)"


def test_another_exchange_begins_another_line():
    line = StageLine()
    line.begin((1, "train"), "reveal", 5)
    line.begin((1, "evaluate"), "masked", 5)
    assert line.text().plain == "secure aggregation  masked 0 of 5"
    line.clear()
    assert not line


def test_the_live_view_shows_all_stages_of_the_exchange_that_goes_on():
    to = console(terminal=True)
    with RoundProgress(4, console=to) as progress:
        play(progress)
    last = written(to).split("secure aggregation  ")[-1].splitlines()[0]
    assert [part.split()[0] for part in last.split(" → ")] == list(STAGES)
    assert "reveal 5 of 5" in last
    assert "train, round 1: 5 of 5 replies" in written(to)


def test_a_phase_without_stages_shows_none():
    to = console(terminal=True)
    progress = RoundProgress(4, console=to)
    play(progress)
    progress.phase_started(0, "local baseline", 5)
    with progress:
        pass
    assert "secure aggregation" not in written(to)


def test_a_participant_that_drops_out_is_told_with_its_stage_and_a_failed_round_as_no_sum():
    to = console()
    with RoundProgress(4, console=to) as progress:
        play(progress, stages=("masked",), replies=2)
        progress.lost("hospital-4", "train round 2", "no reply within 60 s")
        progress.lost("coordinator", "train round 2", FAILED)
    assert written(to).splitlines() == [
        "lost hospital-4 in train round 2 (masked): no reply within 60 s",
        f"no sum in train round 2: {FAILED}",
    ]


def test_a_line_of_a_protected_round_counts_those_in_the_sum():
    to, result = console(), make_troubled()
    with RoundProgress(4, console=to) as progress:
        for record in result["rounds"]:
            progress.round_finished(record)
    ends = [line.split("  in the sum ")[1] for line in written(to).splitlines()]
    assert ends == ["5/5", "train none, evaluate 5/5", "5/5  clipped 120", "5/5"]


def test_the_live_table_has_the_sums_and_the_cut_values():
    to, result = console(terminal=True), make_troubled()
    with RoundProgress(4, console=to) as progress:
        for record in result["rounds"]:
            progress.round_finished(record)
    head, *rows = [line.split() for line in written(to).split("round  ")[-1].splitlines()[:5]]
    assert head[-4:] == ["in", "the", "sum", "clipped"]
    assert rows[1][-5:] == ["train", "none,", "evaluate", "5/5", "0"]
    assert rows[2][-2:] == ["5/5", "120"]


def test_a_sum_that_lacks_somebody_stands_out():
    def cell(**changes: Any) -> Any:
        return sum_cell(exchanges_of({"rounds": [{"round": 1, "protection": {"train": account(**changes)}}]}))

    assert (cell().plain, cell().style) == ("5/5", "")
    assert (cell(summed=4).plain, cell(summed=4).style) == ("4/5", "yellow")
    assert (cell(summed=0, failed="x").plain, cell(summed=0, failed="x").style) == ("none", "red")


def test_the_summary_has_time_and_traffic_of_each_stage():
    to = console()
    print_summary(make_protected(), to)
    rows = {
        line.strip("│ ").split()[0]: line.strip("│ ").split()[1:]
        for line in written(to).splitlines()[1:-1]
        if line.strip("│ ")
    }
    assert rows["masked"] == ["8", "2.0", "s", "800", "kB", "800", "kB", "40/40"]
    assert rows["keys"] == ["1", "250", "ms", "500", "B", "250", "B", "5/5"]
    told = " ".join(line.strip("│ ") for line in written(to).splitlines())
    assert "All 8 exchanges gave a sum. Dropped out: nobody. No value was cut" in told


def test_the_summary_says_what_went_wrong():
    to = console()
    print_summary(make_troubled(), to)
    told = " ".join(" ".join(line.strip("│ ") for line in written(to).splitlines()).split())
    assert "1 of 8 exchanges gave no sum" in told
    assert "three participants, by stage: masked 2, reveal 1" in told
    assert "120 values were cut because they changed beyond 8" in told
    assert f"no sum in train of round 2: {FAILED}" in told
    assert "wrong shares came from hospital-5" in told


def test_stages_reach_the_terminal_from_another_process(tmp_path):
    class Told(Silent):
        def __init__(self) -> None:
            self.seen: list[tuple[Any, ...]] = []

        def stage_started(self, stage: str) -> None:
            self.seen.append(("stage", stage))

        def phase_started(self, number: int, phase: str, cohort: int) -> None:
            self.seen.append(("phase", number, phase, cohort))

    told = Told()
    replay = Replay(tmp_path / "events.jsonl", told)
    replay.poll()
    play(EventFile(tmp_path / "events.jsonl"), number=3, stages=("masked", "reveal"))
    replay.poll()
    assert told.seen == [
        ("stage", "masked"),
        ("phase", 3, "train: masked", 5),
        ("stage", "reveal"),
        ("phase", 3, "train: reveal", 5),
    ]


def test_names_of_stages_and_reasons_are_no_control_codes():
    hostile = "[red]x[/red]\x1b]0;title\x07"
    to = console(terminal=True)
    with RoundProgress(console=to) as progress:
        progress.stage_started(hostile)
        progress.phase_started(1, f"train: {hostile}", 2)
        progress.lost("a", "train round 1", "gone")
    result = make_protected(rounds=1)
    result["rounds"][0]["protection"]["train"] = account(
        failed=hostile, dropped={hostile: hostile}, blamed=[hostile], stages={hostile: {"seconds": 1}}
    )
    print_summary(result, to)
    assert "[red]x[/red]" in written(to)
    assert "\x1b]" not in written(to) and "\x07" not in written(to)
