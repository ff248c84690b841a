"""The counter of a published set: nothing is answered that is not on the disk as charged."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import DataError, PolicyRefused
from fedcore.participant.intersection.spending import charge, spent, spent_file, start_counting

SET = bytes(range(16))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Where a counter was started."""
    start_counting(tmp_path / "s.key", SET)
    return tmp_path / "s.key"


def take(secret: Path, asked: int, lifetime: int = 100) -> int:
    return charge(secret, SET, asked, lifetime, session="s", by="b")


def test_charges_add_up_to_the_lifetime_and_no_further(secret: Path) -> None:
    assert take(secret, 60) == 40
    with pytest.raises(
        PolicyRefused, match="41 items are asked for and 40 of the set's lifetime of 100 are left"
    ):
        take(secret, 41)
    assert spent(secret, SET) == 60
    assert take(secret, 40) == 0 and take(secret, 0) == 0
    with pytest.raises(PolicyRefused):
        take(secret, 1)
    lines = [json.loads(line) for line in spent_file(secret).read_text().splitlines()]
    assert [line.get("total") for line in lines] == [None, 60, 100, 100]


def test_less_than_nothing_is_not_given_back(secret: Path) -> None:
    with pytest.raises(PolicyRefused):
        take(secret, -1)


def test_charges_at_once_never_exceed_the_lifetime(secret: Path) -> None:
    def one(number: int) -> bool:
        try:
            take(secret, 7)
        except PolicyRefused:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(40))) == 14
    assert spent(secret, SET) == 98


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_that_a_crash_cut_short_was_not_answered_and_is_removed(cut: int, secret: Path) -> None:
    take(secret, 10)
    whole = spent_file(secret).read_bytes()
    take(secret, 20)
    after = spent_file(secret).read_bytes()
    spent_file(secret).write_bytes(after[: len(whole) + cut])
    assert spent(secret, SET) == 10
    assert take(secret, 5) == 85 and spent(secret, SET) == 15
    assert spent_file(secret).read_bytes().startswith(whole)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.unlink(), "cannot be opened"),
        (lambda file: file.write_text(""), "is damaged"),
        (lambda file: file.write_text("{}\n"), "is damaged"),
        (lambda file: file.write_text('{"set": "' + "00" * 16 + '"}\n'), "is of another set"),
        (lambda file: file.write_text(file.read_text() + '{"asked": 1, "total": 9}\n'), "is damaged"),
        (lambda file: file.write_text(file.read_text() + '{"asked": -4, "total": -4}\n'), "is damaged"),
        (lambda file: file.write_text(file.read_text() + "nonsense\n"), "is damaged"),
    ],
)
def test_a_counter_that_is_missing_or_damaged_answers_nothing(damage: Any, said: str, secret: Path) -> None:
    damage(spent_file(secret))
    for use in (lambda: take(secret, 1), lambda: spent(secret, SET)):
        with pytest.raises(DataError, match=said):
            use()


@pytest.mark.parametrize(("call", "left"), [("pwrite", 90), ("fsync", 80)])
def test_what_cannot_be_written_is_not_answered(
    call: str, left: int, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, call, full)
        with pytest.raises(DataError, match="so nothing is answered"):
            take(secret, 10)
    # What may be on the disk counts.
    assert take(secret, 10) == left


def test_a_line_goes_to_the_disk_before_the_charge_returns(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_size), real(descriptor))
    )
    take(secret, 10)
    assert synced == [spent_file(secret).stat().st_size]
