"""Intersections that go wrong: matches lost, disks full, results of an older run."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crypto.psi import ecdh
from crypto.psi.items import ItemRules
from fedcore.errors import DataError, PeerLost
from fedcore.participant.intersection import PLANTED, RESULT, ROWS, Side
from fedcore.participant.intersection import keys as keys_of_side
from fedcore.participant.intersection import rows as rows_file
from fedcore.participant.intersection import run as running
from tests.fedcore.participant.intersecting import Pair, matched

# ---- a run that goes wrong ------------------------------------------------------------------------------------------


def losing(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Any], Any]) -> None:
    """Change what one side's protocol returns."""
    real = getattr(ecdh, name)
    monkeypatch.setattr(ecdh, name, lambda *given, **options: change(real(*given, **options)))


@pytest.mark.parametrize("name", ["receive", "send"])
def test_a_run_that_loses_matches_fails_and_writes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path, {"id": range(100)}, {"id": range(100)})
    losing(monkeypatch, name, lambda positions: positions[::2])
    said = pair.refused(both=True)
    assert "psi.check" in said and f"of {PLANTED} planted items came back" in said


def test_a_cardinality_below_the_planted_items_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(tmp_path, {"id": [1]}, {"id": [2]})
    losing(monkeypatch, "receive", lambda count: count - 1)
    assert f"{PLANTED - 1} of {PLANTED} planted items" in pair.refused(reveal="cardinality")


def test_counts_that_differ_fail_and_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(tmp_path, {"id": range(50)}, {"id": range(50)})
    real = rows_file.RowsFile.append

    def append(self: Any, items: Any) -> None:
        real(self, items)
        # One match fewer at one side, and no planted item.
        self.matches -= self._file.parent == pair.out[1]

    monkeypatch.setattr(rows_file.RowsFile, "append", append)
    said = pair.refused(both=True)
    assert "psi.check: this side found" in said and "50" in said and "49" in said


@pytest.mark.parametrize("which", [ROWS, RESULT])
def test_a_full_disk_leaves_nothing_behind(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path, {"id": [1, 2]}, {"id": [1]})
    full = OSError(errno.ENOSPC, "No space left on device")

    class Half:
        def __init__(self, file: Path, *given: Any, **options: Any) -> None:
            file.write_bytes(b"half")

        def write_table(self, data: Any) -> None:
            raise full

        def close(self) -> None:
            raise full

    def half_text(file: Path, text: str) -> None:
        file.write_bytes(b"half")
        raise full

    if which == ROWS:
        monkeypatch.setattr(rows_file.pq, "ParquetWriter", Half)
    else:
        monkeypatch.setattr(Path, "write_text", half_text)
    left, _ = pair.told()
    assert isinstance(left, DataError) and left.step == "write"
    assert f"{which} could not be written (No space left on device)" in str(left)
    assert list(pair.out[0].iterdir()) == []


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys have no room in memory: all go to a file."""
    monkeypatch.setattr(keys_of_side, "MEMORY", 0)


def test_a_set_that_lies_in_a_file_gives_the_same_rows(tmp_path: Path, no_memory: None) -> None:
    left, right = [*range(9000), *range(50)], [*range(3000, 12_000, 2), 4000, None]
    pair = Pair(tmp_path, {"id": left}, {"id": right})
    found = pair.run(protocol="vole", both=True)
    matched(pair, left, right)
    assert all(each["spilled_bytes"] > 20 * each["items"] for each in found)
    assert all({file.name for file in folder.iterdir()} == {ROWS, RESULT} for folder in pair.out)


@pytest.mark.parametrize("after", [0, 2], ids=["reading", "planting"])
def test_a_disk_that_is_full_while_keys_are_put_there_leaves_nothing_behind(
    after: int, tmp_path: Path, no_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path, {"id": range(10)}, {"id": range(5)})
    real, lock, calls = os.pwrite, threading.Lock(), []

    def filling(*given: Any) -> int:
        if threading.current_thread() in failing:
            with lock:
                calls.append(given)
                if len(calls) > after:
                    raise OSError(errno.ENOSPC, "No space left on device")
        return real(*given)

    failing: list[threading.Thread] = []
    real_read = running.read_keys

    def read(side: Side, *given: Any) -> Any:
        # The pool may give both parties one thread, one after the other.
        failing[:] = [threading.current_thread()] if side.role == "receiver" else failing
        if side.role == "sender" and threading.current_thread() in failing:
            failing.clear()
        return real_read(side, *given)

    monkeypatch.setattr(os, "pwrite", filling)
    monkeypatch.setattr(running, "read_keys", read)
    left, right = pair.told(protocol="vole")
    assert isinstance(left, DataError) and left.step == "spill"
    assert "No space left on device" in str(left) and "raise the memory limit" in str(left)
    assert isinstance(right, PeerLost) and pair.nothing_written()


def test_an_older_result_goes_once_the_parties_agree_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path, {"id": ["1", "2"]}, {"id": ["1"]})
    pair.run()
    pair.options = ({"rules": ItemRules(trim=True)}, {})
    pair.told()
    assert {file.name for file in pair.out[0].iterdir()} == {ROWS, RESULT}
    pair.options = ({}, {})
    losing(monkeypatch, "receive", lambda positions: positions[:-5])
    pair.refused()
