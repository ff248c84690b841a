"""The ledger is not overdrawn by a crash, a race, a full disk, a changed entry or an older copy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import BudgetExhausted, DataError, PolicyRefused
from fedcore.privacy import ledger_file
from fedcore.privacy.budget import epsilon_cost
from fedcore.privacy.ledger import Ledger, open_ledger
from fedcore.privacy.sensitivity import Neighbours

ROOT = Path(__file__).parents[3]
ROW = Neighbours()
ONE = epsilon_cost(1)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(
        tmp_path / "site" / "lung.jsonl", "lung", ONE, ROW, anchor=tmp_path / "away" / "lung.last"
    )


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process in which a ledger of those files is called `ledger`."""
    head = (
        "import os, signal, sys; from pathlib import Path\n"
        "from fedcore.errors import BudgetExhausted; from fedcore.privacy.budget import epsilon_cost, rho_cost\n"
        "from fedcore.privacy.ledger import Ledger, open_ledger; from fedcore.privacy.sensitivity import Neighbours\n"
        "ledger = Ledger(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    words = [sys.executable, "-c", head + code, *map(str, arguments)]
    return subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_killed_between_charge_and_release_the_budget_stays_charged_and_the_request_resumes(
    ledger: Ledger,
) -> None:
    code = (
        "ledger.charge('q', epsilon_cost('0.9'), 'mean', digest='ab')\n"
        "print('charged', flush=True); sys.stdin.read()\n"
        "ledger.release('q', b'never')"
    )
    other = child(code, ledger.file, ledger.anchor)
    assert other.stdout is not None and other.stdout.readline() == "charged\n"
    os.kill(other.pid, signal.SIGKILL)
    assert other.wait(60) == -signal.SIGKILL
    found = ledger.account()
    assert found.spent.amount == Fraction(9, 10) and found.charges[0].answer is None
    with pytest.raises(BudgetExhausted):
        ledger.charge("other", epsilon_cost("0.2"), "mean")
    assert ledger.charge("q", epsilon_cost("0.9"), "mean", digest="ab").again
    ledger.release("q", b"41.2")
    assert ledger.account().spent.amount == Fraction(9, 10)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", range(1, 7))
def test_killed_at_any_write_a_request_pays_once_and_no_answer_is_doubled(
    tmp_path: Path, at: int, when: str
) -> None:
    # A charge and a release write to the disk three times each: the line, the anchor, the anchor's folder.
    file, anchor = tmp_path / "lung.jsonl", tmp_path / "away" / "lung"
    open_ledger(file, "lung", ONE, Neighbours(), anchor=anchor)
    code = (
        "count, sync = 0, os.fsync\n"
        "def killing(number):\n"
        "    global count; count += 1\n"
        f"    if count == {at} and {when == 'before'}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    sync(number)\n"
        f"    if count == {at}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.fsync = killing\n"
        "ledger.charge('q', epsilon_cost('0.6'), 'mean'); ledger.release('q', b'1')\n"
    )
    assert child(code, file, anchor).wait(60) == -signal.SIGKILL
    ledger = Ledger(file, anchor)
    found = ledger.account()
    assert found.spent.amount in (0, Fraction(6, 10))
    ledger.charge("q", epsilon_cost("0.6"), "mean")
    assert ledger.account().spent.amount == Fraction(6, 10)
    released = ledger.account().charges[0].answer
    if released is not None:
        with pytest.raises(PolicyRefused):
            ledger.release("q", b"2")
    ledger.release("q", b"1")
    assert ledger.account().charges[0].answer is not None


@pytest.mark.parametrize("at", range(1, 8))
def test_killed_while_it_is_made_a_ledger_can_be_made(tmp_path: Path, at: int) -> None:
    file, anchor = tmp_path / "lung.jsonl", tmp_path / "away" / "lung"
    code = (
        "count, sync = 0, os.fsync\n"
        "def killing(number):\n"
        "    global count; count += 1\n"
        f"    os.kill(os.getpid(), signal.SIGKILL) if count == {at} else sync(number)\n"
        "os.fsync = killing\n"
        "open_ledger(ledger.file, 'lung', epsilon_cost(1), Neighbours(), anchor=ledger.anchor)\n"
    )
    assert child(code, file, anchor).wait(60) in (-signal.SIGKILL, 0)
    ledger = open_ledger(file, "lung", ONE, ROW, anchor=anchor)
    ledger.charge("q", ONE, "mean")
    assert ledger.account().remaining.amount == 0


def test_of_two_processes_that_race_for_the_last_budget_one_wins(ledger: Ledger) -> None:
    code = (
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try: ledger.charge(sys.argv[3], epsilon_cost('0.6'), 'mean'); print('won')\n"
        "except BudgetExhausted: print('refused')"
    )
    racers = [child(code, ledger.file, ledger.anchor, f"r{i}") for i in range(2)]
    for each in racers:
        assert each.stdout is not None and each.stdout.readline() == "ready\n"
    told = []
    for each in racers:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in racers:
        told.append(each.communicate(timeout=60)[0].strip())
    assert sorted(told) == ["refused", "won"]
    assert ledger.account().spent.amount == Fraction(6, 10)


def test_many_writers_spend_exactly_what_there_is(ledger: Ledger) -> None:
    code = (
        "won = 0\n"
        "for i in range(10):\n"
        "    try: ledger.charge(f'{sys.argv[3]}-{i}', epsilon_cost('1/30'), 'mean'); won += 1\n"
        "    except BudgetExhausted: pass\n"
        "print(won)"
    )
    others = [child(code, ledger.file, ledger.anchor, f"p{i}") for i in range(2)]
    won = []

    def go(name: str) -> None:
        for i in range(10):
            try:
                ledger.charge(f"{name}-{i}", epsilon_cost("1/30"), "mean")
                won.append(1)
            except BudgetExhausted:
                pass

    threads = [threading.Thread(target=go, args=(f"t{i}",)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won += [int(each.communicate(timeout=60)[0]) for each in others]
    assert sum(won) == 30
    found = ledger.account()
    assert found.remaining.amount == 0 and len(found.charges) == 30


def test_an_older_copy_that_is_put_back_is_found(ledger: Ledger) -> None:
    ledger.charge("a", epsilon_cost("0.5"), "mean")
    older = ledger.file.read_bytes()
    ledger.charge("b", epsilon_cost("0.5"), "mean")
    ledger.file.write_bytes(older)
    for call in (
        ledger.account,
        lambda: ledger.charge("c", epsilon_cost("0.1"), "mean"),
        lambda: ledger.release("a", b""),
    ):
        with pytest.raises(
            DataError, match=r"lung.jsonl: its 2 entries do not hold the newest.*older copy was put back"
        ):
            call()
    assert ledger.file.read_bytes() == older
    with pytest.raises(DataError, match=r"older copy"):
        open_ledger(ledger.file, "lung", ONE, ROW, anchor=ledger.anchor)


def test_an_older_copy_is_found_by_a_hash_that_was_kept_in_a_log(ledger: Ledger) -> None:
    older = ledger.file.read_bytes()
    ledger.charge("a", epsilon_cost("0.5"), "mean")
    known = Ledger(ledger.file, known=ledger.account().last)
    ledger.charge("b", epsilon_cost("0.1"), "mean")
    assert len(known.account().charges) == 2
    ledger.file.write_bytes(older)
    with pytest.raises(DataError, match=r"older copy was put back"):
        known.charge("c", epsilon_cost("0.1"), "mean")
    # Nobody could tell without either, which is why there are two.
    assert Ledger(ledger.file).account().spent.amount == 0


@pytest.mark.parametrize("what", ["file", "anchor", "both but the folder"])
def test_what_was_removed_is_not_made_anew(ledger: Ledger, what: str) -> None:
    ledger.charge("a", epsilon_cost("0.5"), "mean")
    assert ledger.anchor is not None
    if what == "anchor":
        ledger.anchor.unlink()
        with pytest.raises(DataError, match=r"its anchor lung.last is not there"):
            ledger.charge("b", epsilon_cost("0.1"), "mean")
        with pytest.raises(DataError, match=r"its anchor lung.last is not there"):
            open_ledger(ledger.file, "lung", ONE, ROW, anchor=ledger.anchor)
        return
    if what == "file":
        ledger.file.unlink()
    else:
        ledger.file.write_bytes(b"")
    with pytest.raises(DataError, match=r"no such ledger|older copy"):
        ledger.charge("b", epsilon_cost("0.1"), "mean")
    with pytest.raises(DataError, match=r"no such ledger"):
        open_ledger(ledger.file, "lung", ONE, ROW, anchor=ledger.anchor)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_entry_that_is_changed_removed_moved_or_put_in_is_found(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("tampered")
    ledger = open_ledger(folder / "l", "lung", ONE, ROW, anchor=folder / "anchor")
    for i in range(4):
        ledger.charge(f"q{i}", epsilon_cost("0.2"), "mean")
    lines = ledger.file.read_bytes().splitlines(keepends=True)
    at = data.draw(st.integers(0, 4))
    how = data.draw(st.sampled_from(["change", "cheaper", "remove", "swap", "double", "break", "cut"]))
    if how == "change":
        place = data.draw(st.integers(0, len(lines[at]) - 2))
        byte = data.draw(st.integers(0, 255).filter(lambda b: b not in (10, lines[at][place])))
        lines[at] = lines[at][:place] + bytes([byte]) + lines[at][place + 1 :]
    elif how == "cheaper":
        entry = json.loads(lines[at])
        lines[at] = json.dumps({**entry, "amount": "0.15"}).encode() + b"\n"
    elif how == "remove":
        del lines[at]
    elif how == "swap":
        other = data.draw(st.integers(0, 4).filter(lambda i: i != at))
        lines[at], lines[other] = lines[other], lines[at]
    elif how == "double":
        lines.insert(at, lines[at])
    elif how == "break":
        lines[at] = b"not json\n"
    else:
        lines = lines[:at]
    ledger.file.write_bytes(b"".join(lines))
    with pytest.raises(DataError):
        ledger.account()
    with pytest.raises(DataError):
        ledger.charge("new", epsilon_cost("0.1"), "mean")


def test_half_an_entry_of_a_crash_or_a_full_disk_is_none(ledger: Ledger) -> None:
    ledger.charge("a", epsilon_cost("0.5"), "mean")
    with ledger.file.open("ab") as log:
        log.write(b'{"time":"2026-11-21T00:00:00+00:00","previous":"00')
    assert ledger.account().spent.amount == Fraction(1, 2)
    ledger.charge("b", epsilon_cost("0.5"), "mean")
    assert [each.request for each in ledger.account().charges] == ["a", "b"]


def test_a_disk_that_does_not_take_the_entry_stops_the_release(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(
            DataError, match=r"lung.jsonl cannot be written: No space left.*Nothing is released"
        ):
            ledger.charge("a", epsilon_cost("0.5"), "mean")
    ledger.charge("a", epsilon_cost("0.5"), "mean")
    assert ledger.account().spent.amount == Fraction(1, 2)


def test_the_entry_is_on_the_disk_before_the_anchor_moves(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    sync, move = os.fsync, ledger_file.write_anchor
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("sync"), sync(number))[1])
    monkeypatch.setattr(ledger_file, "write_anchor", lambda *a: (order.append("anchor"), move(*a))[1])
    ledger.charge("a", epsilon_cost("0.5"), "mean")
    assert order[:2] == ["sync", "anchor"]
    assert ledger.anchor is not None
    assert ledger_file.read_anchor(ledger.anchor) == ledger.account().last
