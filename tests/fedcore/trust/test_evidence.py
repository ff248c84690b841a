"""The log's chain: what is changed, removed or put in is found, and writers do not disturb each other."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import DataError
from fedcore.trust import evidence
from fedcore.trust.evidence import START, append, read

ROOT = Path(__file__).parents[3]


def write(file: Path, entries: int = 6) -> list[str]:
    file.unlink(missing_ok=True)
    return [append(file, {"event": "release", "number": i}, durable=False) for i in range(entries)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log" / "evidence.jsonl"


def test_each_line_carries_the_hash_of_the_one_before(file) -> None:
    hashes = write(file)
    found = list(read(file))
    assert [entry["previous"] for entry in found] == [START, *hashes[:-1]]
    assert [entry["number"] for entry in found] == list(range(6))
    assert all(entry["time"].endswith("+00:00") for entry in found)


@given(st.data())
@settings(max_examples=60)
def test_any_line_that_is_changed_removed_moved_or_put_in_is_found(tmp_path_factory, data) -> None:
    file = tmp_path_factory.getbasetemp() / "tampered.jsonl"
    last = write(file)[-1]
    lines = file.read_bytes().splitlines(keepends=True)
    at = data.draw(st.integers(0, 5))
    how = data.draw(st.sampled_from(["change", "remove", "swap", "double", "insert", "break", "cut"]))
    if how == "change":
        place = data.draw(st.integers(0, len(lines[at]) - 2))
        byte = data.draw(st.integers(0, 255).filter(lambda b: b not in (10, lines[at][place])))
        lines[at] = lines[at][:place] + bytes([byte]) + lines[at][place + 1 :]
    elif how == "remove":
        del lines[at]
    elif how == "swap":
        other = data.draw(st.integers(0, 5).filter(lambda i: i != at))
        lines[at], lines[other] = lines[other], lines[at]
    elif how == "double":
        lines.insert(at, lines[at])
    elif how == "insert":
        entry = json.loads(lines[at])
        lines.insert(at, json.dumps({**entry, "number": 99}).encode() + b"\n")
    elif how == "break":
        lines[at] = b"not json\n"
    else:
        lines = lines[:at]
    file.write_bytes(b"".join(lines))
    with pytest.raises(DataError, match=r"tampered.jsonl: .*compare it with a copy"):
        list(read(file, last))


def test_without_a_copy_of_the_last_hash_all_but_the_end_is_still_held(file) -> None:
    last = write(file)[-1]
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]))
    assert len(list(read(file))) == 3
    with pytest.raises(DataError, match="the line whose hash was kept is not there"):
        list(read(file, last))
    file.write_bytes(b"".join([*lines[:2], lines[2].replace(b"release", b"refused"), *lines[3:]]))
    with pytest.raises(DataError, match="line 4 does not follow line 3"):
        list(read(file))


def test_an_older_hash_is_found_in_a_log_that_went_on(file) -> None:
    hashes = write(file)
    assert len(list(read(file, hashes[2]))) == 6


def test_half_a_line_of_a_full_disk_is_no_entry_and_the_log_goes_on(file) -> None:
    write(file, 3)
    with file.open("ab") as log:
        log.write(b'{"time":"2026-11-21T00:00:00+00:00","previous":"' + b"0" * 30)
    assert len(list(read(file))) == 3
    last = append(file, {"event": "after"})
    found = list(read(file, last))
    assert [entry["event"] for entry in found[2:]] == ["release", "after"]


def test_half_a_first_line_is_no_entry(file) -> None:
    file.parent.mkdir()
    file.write_bytes(b'{"time"')
    assert list(read(file)) == []
    append(file, {"event": "first"})
    assert next(read(file))["previous"] == START


@pytest.mark.parametrize("size", [100, 70_000, 200_000])
def test_lines_longer_than_what_is_read_at_a_time_are_chained(file, size) -> None:
    for _ in range(3):
        append(file, {"note": "x" * size}, durable=False)
    assert len(list(read(file))) == 3


def test_every_text_survives(file) -> None:
    texts = ["größe", 'a "quoted" \\ line', "two\nlines", "\u2028", ""]
    for text in texts:
        append(file, {"note": text}, durable=False)
    assert [entry["note"] for entry in read(file)] == texts


def test_two_processes_and_threads_append_to_one_log_at_once(file) -> None:
    code = (
        "import sys; from pathlib import Path; from fedcore.trust.evidence import append\n"
        "for i in range(60): append(Path(sys.argv[1]), {'who': sys.argv[2], 'i': i}, durable=False)"
    )
    others = [subprocess.Popen([sys.executable, "-c", code, str(file), f"p{i}"], cwd=ROOT) for i in range(2)]

    def go(name: str) -> None:
        for i in range(60):
            append(file, {"who": name, "i": i}, durable=False)

    threads = [threading.Thread(target=go, args=(f"t{i}",)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait(60) for other in others] == [0, 0]
    found = list(read(file))
    assert len(found) == 240
    for who in ("p0", "p1", "t0", "t1"):
        assert [entry["i"] for entry in found if entry["who"] == who] == list(range(60))


def test_a_durable_line_is_on_the_disk_when_append_returns(file, monkeypatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    append(file, {"event": "a"}, durable=False)
    assert synced == []
    append(file, {"event": "b"})
    assert synced == [file.stat().st_size]


def test_a_caller_cannot_forge_the_chain(file) -> None:
    # The chain's own fields are not the caller's.
    append(file, {"event": "a"})
    append(file, {"event": "b", "previous": "f" * 64, "time": "never"})
    assert [entry["event"] for entry in read(file)] == ["a", "b"]
    assert list(read(file))[1]["time"] != "never"


def test_reading_a_log_that_is_not_there_says_so(file) -> None:
    with pytest.raises(FileNotFoundError):
        list(read(file))
    assert evidence.START == "0" * 64


def test_several_entries_at_once_are_a_chain_and_another_writer_in_between_is_seen(tmp_path) -> None:
    file = tmp_path / "log.jsonl"
    append(file, {"n": 1}, {"n": 2})
    # Another process's line, which this one's memory of the end does not know.
    with file.open("ab") as log:
        previous = hashlib.sha256(file.read_bytes().splitlines(keepends=True)[-1]).hexdigest()
        log.write(json.dumps({"time": "now", "previous": previous, "n": 3}).encode() + b"\n")
    last = append(file, {"n": 4}, {"n": 5})
    assert [entry["n"] for entry in read(file, last)] == [1, 2, 3, 4, 5]
