from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedcore.coordinator.record import parse
from fedcore.coordinator.record_psi import parties_of
from fedcore.coordinator.report import render
from fedcore.coordinator.terminal import print_summary
from fedcore.coordinator.terminal_psi import PairProgress
from fedcore.coordinator.watch import EventFile, Replay
from fedcore.coordinator.wording import headline
from tests.pairs import BANK, TELECOM


def a_receipt(**changes: Any) -> dict[str, Any]:
    return {
        "role": "receiver",
        "rows": 1_000_000,
        "items": 999_000,
        "folder": "shared-1",
        "commitment": "ab" * 32,
        "protocol": {"name": "vole", "version": "2"},
        "phases": {"read": {"seconds": 1.5}, "vole": {"seconds": 2.5}},
        "compile_seconds": 0.1,
        "peak_memory_bytes": 2 * 10**8,
        "bytes": {"sent": 10**6, "received": 3 * 10**6},
        **changes,
    }


def a_result(**changes: Any) -> dict[str, Any]:
    receipts = {BANK: a_receipt(), TELECOM: a_receipt(role="sender", folder="shared-1")}
    return {
        "kind": "psi",
        "name": "shared",
        "run": "shared-1",
        "engine": "deployment",
        "status": "finished",
        "job": {"kind": "psi", "parties": {BANK: {}, TELECOM: {}}, "reveal": {"what": "rows", "to": [BANK]}},
        "participants": [{"name": name, "rows": 1_000_000, "layers": {"policy": "on"}} for name in receipts],
        "meeting": {"how": "direct"},
        "receipts": receipts,
        "seconds": 6.0,
        **changes,
    }


def plain_console(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=False)


def output(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_gets_one_line_for_each_phase_of_each_party() -> None:
    console = plain_console()
    with PairProgress([BANK, TELECOM], name="shared", console=console) as progress:
        progress.phase_started(0, "intersect", 2)
        for done in range(0, 1000, 10):
            progress.progress(BANK, "read", done, 0)
        progress.progress(TELECOM, "vole", 5, 10)
        progress.progress(BANK, "done", 1000, 1000)
        progress.progress("a stranger", "read", 1, 0)
    assert output(console).splitlines() == [
        "bank-a  at work",
        "telecom-b  at work",
        "bank-a  reading the keys",
        "telecom-b  exchanging masked keys",
        "bank-a  done  1\u202f000 rows",
    ]


def test_a_terminal_shows_a_bar_for_each_party_with_its_rows() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with PairProgress([BANK, TELECOM], console=console) as progress:
        progress.progress(BANK, "read", 12_345, 0)
        progress.progress(TELECOM, "vole", 50, 100)
    assert "reading the keys" in output(console) and "12\u202f345" in output(console)
    assert "exchanging masked keys" in output(console)


def test_a_refusal_is_shown_without_markup_or_control_characters() -> None:
    console = plain_console()
    with PairProgress([BANK, TELECOM], console=console) as progress:
        progress.lost(BANK, "prepare", "[red]no\x1b[2J[/red]")
        progress.lost("not a party", "prepare", "it is not asked")
    assert "[red]no" in output(console) and "not a party" not in output(console)
    assert "\x1b" not in output(console)


def test_events_of_another_process_are_shown(tmp_path: Path) -> None:
    told: list[Any] = []

    class Watching(PairProgress):
        def progress(self, party: str, phase: str, done: int, of: int) -> None:
            told.append((party, phase, done, of))

    EventFile(tmp_path / "events.jsonl").progress(BANK, "read", 7, 0)
    Replay(tmp_path / "events.jsonl", Watching([BANK], console=plain_console())).poll()
    assert told == [(BANK, "read", 7, 0)]


def test_summary_has_sizes_phases_and_where_the_result_is() -> None:
    console = plain_console()
    print_summary(a_result(), console)
    shown = output(console)
    for words in (
        "1\u202f000\u202f000",
        "999\u202f000",
        "exchanging masked keys",
        "shared-1 in each one's folder",
    ):
        assert words in shown
    assert "compiling" not in shown


def test_headline_says_who_learned_what_and_the_count_where_it_was_told() -> None:
    assert headline(parse(a_result())) == (
        "bank-a and telecom-b found which of their rows they share; bank-a learned it; keys and rows stayed at the "
        "parties."
    )
    assert ", 15 keys;" in headline(parse(a_result(intersection=15)))
    error = {"type": "PolicyRefused", "message": "no", "party": BANK}
    refused = a_result(status="refused", receipts=None, error=error)
    assert headline(parse(refused)).endswith("but the run was refused at bank-a.")


@pytest.mark.parametrize(
    "receipts", [None, {}, [], {BANK: None}, {BANK: {"phases": 3, "bytes": None, "rows": "many"}}]
)
def test_a_result_with_parts_missing_is_still_shown(receipts: Any) -> None:
    result = a_result(receipts=receipts, meeting=None, job={})
    console = plain_console()
    print_summary(result, console)
    assert "shared" in output(console) and "shared" in render(result)
    assert len(parties_of(result)) == (len(receipts) if isinstance(receipts, dict) else 0)


@pytest.mark.parametrize(
    ("how", "engine", "said"),
    [
        ("direct", "deployment", "Direct, TLS; each accepts the other’s pinned key only"),
        ("relay", "deployment", "encrypted end to end"),
        ("direct", "simulation", "keys that no file pins came from the coordinator"),
        ("memory", "embedded", "nothing was encrypted"),
    ],
)
def test_report_says_how_the_parties_were_connected(how: str, engine: str, said: str) -> None:
    page = render(a_result(meeting={"how": how}, engine=engine)).replace("&#x27;", "’")
    assert said in page and "secure aggregation" not in page.lower()


def test_report_of_a_failed_run_names_the_party_and_how_to_begin_again(tmp_path: Path) -> None:
    error = {"type": "PeerLost", "message": "it stopped in the middle", "party": TELECOM, "step": "vole"}
    page = render(a_result(status="failed", receipts=None, error=error), tmp_path)
    assert "telecom-b, vole: " in page and "Begin it again with" in page
