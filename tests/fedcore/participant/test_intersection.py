"""One party's part in an intersection, with both parties in one process: rows, refusals, what is written."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from crypto.errors import ProtocolError
from crypto.psi.items import ItemRules
from fedcore.errors import DataError, JobError, ProtocolFailed
from fedcore.participant.intersection import PLANTED, RESULT, intersect, meeting
from fedcore.participant.intersection import run as running
from fedcore.peer.memory import MemoryChannel
from tests.fedcore.participant.intersecting import Pair, matched, table

# ---- rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["vole", "ecdh"])
def test_rows_that_match_are_written_at_both_sides_under_one_number(protocol: str, tmp_path: Path) -> None:
    left, right = [5, 3, None, 8, 5, 1, 4], [9, 5, 5, 8, None, 3, 7, 9]
    pair = Pair(tmp_path, {"id": left, "income": range(7)}, {"id": right})
    found = pair.run(protocol=protocol, both=True)
    matched(pair, left, right)
    assert [each["intersection"] for each in found] == [3, 3]
    assert [each["rows"] for each in found] == [7, 8] and [each["nulls"] for each in found] == [1, 1]
    assert [each["duplicates"] for each in found] == [1, 2] and [each["items"] for each in found] == [5, 5]
    assert [each["matched_rows"] for each in found] == [4, 4]


def test_the_sender_is_told_nothing_and_writes_no_rows(tmp_path: Path) -> None:
    pair = Pair(tmp_path, {"id": [1, 2, 3]}, {"id": [2, 3, 4, 4]})
    receiver, sender = pair.run(protocol="vole")
    assert sorted(row for row, _ in pair.rows(0)) == [1, 2]
    assert sorted(match for _, match in pair.rows(0)) == [0, 1]
    assert receiver["intersection"] == 2 and receiver["to"] == "receiver"
    assert sender["intersection"] is None and sender["matched_rows"] is None
    assert [file.name for file in pair.out[1].iterdir()] == [RESULT]


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_an_empty_side_is_an_empty_result(empty: int, tmp_path: Path) -> None:
    none = pa.array([], pa.int64())
    columns = [{"id": none if empty in (number, 2) else [1, 2]} for number in (0, 1)]
    pair = Pair(tmp_path, columns[0], columns[1])
    for each in pair.run(both=True):
        assert each["intersection"] == each["matched_rows"] == 0
    assert pair.rows(0) == pair.rows(1) == []


def test_parquet_meets_csv_with_numbers_as_text(tmp_path: Path) -> None:
    left, right = [7, 70, None, 12], ["7", "007", "12", "", "12"]
    pair = Pair(tmp_path, {"id": left}, {"id": [1]})
    pair.files = (pair.files[0], table(tmp_path, "right.csv", {"id": right}))
    found = pair.run(both=True, rules=ItemRules(numbers_as_text=True))
    matched(pair, [None if value is None else str(value) for value in left], [text or None for text in right])
    assert found[1]["nulls"] == 1 and found[1]["duplicates"] == 1
    assert found[0]["rules"]["numbers_as_text"] is True


def test_dates_meet_csv_with_dates_as_text(tmp_path: Path) -> None:
    days = pa.array(["2026-01-31", "2026-02-01"]).cast(pa.date32())
    pair = Pair(tmp_path, {"id": days}, {"id": [1]})
    pair.files = (pair.files[0], table(tmp_path, "right.csv", {"id": ["2026-02-01", "x"]}))
    assert pair.run(rules=ItemRules(dates_as_text=True))[0]["intersection"] == 1


def test_a_composite_key_matches_in_all_its_columns_only(tmp_path: Path) -> None:
    left = {"bank": ["ab", "a", "x", None], "no": ["c", "bc", "y", "z"], "z": [1, 2, 3, 4]}
    right = {"no": ["bc", "c", "q", "z"], "bank": ["a", "abc", "x", None]}
    pair = Pair(tmp_path, left, right)
    found = pair.run(both=True, key=("bank", "no"))
    assert pair.rows(0) == [(1, 0)] and pair.rows(1) == [(0, 0)]
    assert [each["nulls"] for each in found] == [1, 1]


def test_text_matches_as_the_rules_say(tmp_path: Path) -> None:
    pair = Pair(tmp_path, {"id": [" Anna", "bert"]}, {"id": ["anna", "BERT "]})
    assert pair.run()[0]["intersection"] == 0
    assert pair.run(rules=ItemRules(trim=True, fold_case=True))[0]["intersection"] == 2


# ---- cardinality --------------------------------------------------------------------------------------------------


def test_cardinality_tells_the_receiver_the_number_and_nobody_a_row(tmp_path: Path) -> None:
    pair = Pair(tmp_path, {"id": [1, 2, 3, 3]}, {"id": [3, 2, 9]})
    found = pair.run(reveal="cardinality")
    assert [each["intersection"] for each in found] == [2, None]
    for number, each in enumerate(found):
        assert each["matched_rows"] is None and each["to"] == "receiver"
        assert [file.name for file in pair.out[number].iterdir()] == [RESULT]


def test_cardinality_is_refused_with_vole_and_with_both(tmp_path: Path) -> None:
    pair = Pair(tmp_path, {"id": [1]}, {"id": [1]})
    with pytest.raises(JobError, match="for the cardinality alone take protocol ecdh"):
        pair.side(0, protocol="vole", reveal="cardinality")
    with pytest.raises(JobError, match="the receiver alone learns the number"):
        pair.side(0, reveal="cardinality", both=True)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"protocol": "vol"}, 'did you mean "vole"'),
        ({"reveal": "row"}, 'did you mean "rows"'),
        ({"role": "reciever"}, 'did you mean "receiver"'),
        ({"key": ()}, "name one column or more"),
    ],
)
def test_a_wrong_setting_is_answered_with_what_is_allowed(
    option: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=said):
        Pair(tmp_path, {"id": [1]}, {"id": [1]}).side(0, **option)


# ---- data that cannot serve -----------------------------------------------------------------------------------------


def never() -> Any:
    raise AssertionError("the other party is not to be met")


def test_a_key_column_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    pair = Pair(tmp_path, {"id": [1], "age": [2]}, {"id": [1]})
    with pytest.raises(DataError) as caught:
        intersect(never, pair.side(0, key=("ident",)), pair.out[0])
    assert "ident" in str(caught.value) and "age" in str(caught.value) and "id" in str(caught.value)
    assert pair.nothing_written()


def test_a_float_key_is_refused(tmp_path: Path) -> None:
    pair = Pair(tmp_path, {"id": [1.5]}, {"id": [1]})
    with pytest.raises(DataError, match=r"read: key id: a key column of type double is refused"):
        intersect(never, pair.side(0), pair.out[0])


def test_a_folder_that_cannot_be_made_is_noticed_before_anything_is_read(tmp_path: Path) -> None:
    pair = Pair(tmp_path, {"id": [1]}, {"id": [1]})
    (tmp_path / "file").write_text("x")
    with pytest.raises(JobError, match="cannot be made"):
        intersect(never, pair.side(0), tmp_path / "file" / "out")


# ---- sides that differ ----------------------------------------------------------------------------------------------


def test_types_that_differ_are_both_named_with_the_cure(tmp_path: Path) -> None:
    said = Pair(tmp_path, {"id": [1]}, {"id": ["1"]}).refused()
    assert "hello: the two sides differ in option types of the key" in said
    assert "number" in said and "text" in said and "--numbers-as-text" in said


def test_keys_of_different_numbers_of_columns_are_refused(tmp_path: Path) -> None:
    pair = Pair(tmp_path, {"id": ["1"], "b": ["1"]}, {"id": ["1"]})
    pair.options = ({"key": ("id", "b")}, {})
    said = pair.refused()
    assert "'text, text'" in said and "'text'" in said and "as many columns" in said


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ({"both": True}, "--both"),
        ({"rules": ItemRules(trim=True)}, "--trim"),
        ({"rules": ItemRules(fold_case=True)}, "--fold-case"),
        ({"rules": ItemRules(numbers_as_text=True)}, "--numbers-as-text"),
        ({"rules": ItemRules(dates_as_text=True)}, "--dates-as-text"),
        ({"reveal": "cardinality"}, "--reveal"),
    ],
)
def test_a_setting_that_differs_is_named_with_its_flag(
    option: dict[str, Any], flag: str, tmp_path: Path
) -> None:
    pair = Pair(tmp_path, {"id": ["1"]}, {"id": ["1"]})
    pair.options = (option, {})
    said = pair.refused()
    assert flag in said and "this side has" in said and "the other" in said


def test_different_protocols_name_both(tmp_path: Path) -> None:
    pair = Pair(tmp_path, {"id": [1]}, {"id": [1]})
    pair.options = ({"protocol": "vole"}, {"protocol": "ecdh"})
    said = pair.refused()
    assert "'psi vole'" in said and "'psi ecdh'" in said


def test_two_receivers_are_refused(tmp_path: Path) -> None:
    pair = Pair(tmp_path, {"id": [1]}, {"id": [1]})
    pair.options = ({}, {"role": "receiver"})
    assert "differ in role" in pair.refused()


@pytest.mark.parametrize("what", ["version", "table"])
def test_versions_that_differ_are_both_named(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path, {"id": [1]}, {"id": [1]})
    real, lock, asked = meeting.Hello, threading.Lock(), []

    def hello(**given: Any) -> Any:
        with lock:
            asked.append(1)
            if len(asked) == 1:
                given[what] = {"version": 41, "table": "of 2031"}[what]
        return real(**given)

    monkeypatch.setattr(meeting, "Hello", hello)
    said = pair.refused()
    assert {"version": "41", "table": "'of 2031'"}[what] in said and "install the same version" in said
    assert {"version": "psi ecdh version", "table": "parameter table"}[what] in said


def test_a_meeting_that_the_other_side_refuses_fails_as_a_protocol(tmp_path: Path) -> None:
    pair = Pair(tmp_path, {"id": [1]}, {"id": [1]})

    def meet() -> Any:
        raise ProtocolError("the two sides have different sessions", step="connect")

    with pytest.raises(ProtocolFailed, match="connect: the two sides have different sessions"):
        intersect(meet, pair.side(0), pair.out[0])


# ---- result.json ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["vole", "ecdh"])
def test_the_result_file_says_what_was_done_and_what_it_cost(protocol: str, tmp_path: Path) -> None:
    pair = Pair(tmp_path, {"id": [1, 2, 3]}, {"id": [3, 4]})
    seen: list[tuple[str, int, int]] = []
    ends = MemoryChannel.pair()
    with ThreadPoolExecutor(2) as pool:
        running = [
            pool.submit(
                intersect,
                lambda number=number: ends[number],
                pair.side(number, protocol=protocol),
                pair.out[number],
                (lambda *what: seen.append(what)) if number == 0 else (lambda *what: None),
            )
            for number in (0, 1)
        ]
        result, other = (each.result() for each in running)
    assert json.loads((pair.out[0] / RESULT).read_text()) == result
    assert set(result) == {
        "kind", "session", "role", "protocol", "reveal", "to", "rules", "rows", "nulls", "duplicates", "items",
        "intersection", "matched_rows", "min_matches", "refused", "sums", "holder", "published", "self_check",
        "phases", "compile_seconds", "peak_memory_bytes", "spilled_bytes", "bytes",
    }  # fmt: skip
    assert (result["kind"], result["session"], result["role"]) == ("psi", "a test", "receiver")
    assert result["protocol"]["name"] == protocol and result["protocol"]["parameters"] == 1
    assert result["self_check"] == {"planted": PLANTED, "returned": PLANTED}
    phases = ["read", "collapse", "meet", "agree", protocol, "check", "write"]
    assert list(result["phases"]) == phases
    assert list(dict.fromkeys(phase for phase, _, _ in seen)) == phases
    assert ("read", 3, 0) in seen
    assert result["bytes"]["sent"] == other["bytes"]["received"] > 0
    assert result["bytes"]["received"] == other["bytes"]["sent"] > 0


def test_the_planted_items_are_others_in_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(tmp_path, {"id": [1]}, {"id": [1]})
    seeds: list[bytes] = []
    real = running.planted
    monkeypatch.setattr(running, "planted", lambda count, seed: seeds.append(seed) or real(count, seed))
    pair.run()
    pair.run()
    assert len(seeds) == 4 and len(set(seeds)) == 2
