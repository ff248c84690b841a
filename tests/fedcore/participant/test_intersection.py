"""One party's part in an intersection, with both parties in one process: rows, refusals, what is written."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from crypto.errors import ProtocolError
from crypto.psi import ecdh
from crypto.psi.items import ItemRules
from fedcore.errors import DataError, FedcoreError, JobError, PeerLost, ProtocolFailed
from fedcore.participant import intersection
from fedcore.participant.data.batches import file_data
from fedcore.participant.intersection import PLANTED, RESULT, ROWS, Side, intersect
from fedcore.peer.memory import MemoryChannel

KEY = ("id",)


def table(folder: Path, name: str, columns: dict[str, Any]) -> Path:
    """A file with these columns; its suffix says which kind."""
    file = folder / name
    data = pa.table(columns)
    if file.suffix == ".csv":
        pc.write_csv(data, file)
    else:
        pq.write_table(data, file)
    return file


class Pair:
    """Two parties with a file each; `run` gives both results, or what each raised."""

    def __init__(self, folder: Path, left: dict[str, Any], right: dict[str, Any]) -> None:
        self.folder = folder
        self.files = (table(folder, "left.parquet", left), table(folder, "right.parquet", right))
        self.out = (folder / "out-left", folder / "out-right")
        self.options: tuple[dict[str, Any], dict[str, Any]] = ({}, {})

    def side(self, number: int, **options: Any) -> Side:
        given = {
            "role": ("receiver", "sender")[number],
            "data": file_data(self.files[number]),
            "key": KEY,
            "session": "a test",
            "protocol": "ecdh",
            **options,
            **self.options[number],
        }
        return Side(**given)

    def told(self, **options: Any) -> list[Any]:
        """Results and errors."""
        ends = MemoryChannel.pair()
        sides = [self.side(number, **options) for number in (0, 1)]

        def party(number: int) -> Any:
            try:
                return intersect(lambda: ends[number], sides[number], self.out[number])
            except FedcoreError as error:
                ends[number].abort()
                return error

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(party, (0, 1)))

    def run(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        left, right = self.told(**options)
        for each in (left, right):
            if isinstance(each, Exception):
                raise each
        return left, right

    def refused(self, **options: Any) -> str:
        """The message of the side that found it; the other says the same, or that it was left alone."""
        told = self.told(**options)
        assert all(isinstance(each, ProtocolFailed | PeerLost) for each in told)
        assert self.nothing_written()
        return str(next(each for each in told if isinstance(each, ProtocolFailed)))

    def nothing_written(self) -> bool:
        return not [file for folder in self.out for file in folder.glob("*")]

    def rows(self, number: int) -> list[tuple[int, int]]:
        """Row and match, as they were written."""
        found = pq.read_table(self.out[number] / ROWS).to_pydict()
        return list(zip(found["row"], found["match"], strict=True))


def matched(pair: Pair, left: list[Any], right: list[Any]) -> None:
    """The rows that were written at both sides are those that Python finds, and belong together."""
    groups: list[dict[int, set[Any]]] = []
    for number, values in ((0, left), (1, right)):
        written = pair.rows(number)
        other = right if number == 0 else left
        shared = {value for value in values if value is not None} & set(other)
        assert sorted(row for row, _ in written) == [
            row for row, value in enumerate(values) if value in shared
        ]
        by_match: dict[int, set[Any]] = {}
        for row, match in written:
            by_match.setdefault(match, set()).add(values[row])
        groups.append(by_match)
    assert groups[0] == groups[1] and all(len(values) == 1 for values in groups[0].values())


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
    real, lock, asked = intersection.Hello, threading.Lock(), []

    def hello(**given: Any) -> Any:
        with lock:
            asked.append(1)
            if len(asked) == 1:
                given[what] = {"version": 41, "table": "of 2031"}[what]
        return real(**given)

    monkeypatch.setattr(intersection, "Hello", hello)
    said = pair.refused()
    assert {"version": "41", "table": "'of 2031'"}[what] in said and "install the same version" in said
    assert {"version": "psi ecdh version", "table": "parameter table"}[what] in said


def test_a_meeting_that_the_other_side_refuses_fails_as_a_protocol(tmp_path: Path) -> None:
    pair = Pair(tmp_path, {"id": [1]}, {"id": [1]})

    def meet() -> Any:
        raise ProtocolError("the two sides have different sessions", step="connect")

    with pytest.raises(ProtocolFailed, match="connect: the two sides have different sessions"):
        intersect(meet, pair.side(0), pair.out[0])


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
    losing(monkeypatch, "send", lambda positions: positions[positions != positions.min()])
    said = pair.refused(both=True)
    assert "psi.check: this side found" in said and "50" in said and "49" in said


@pytest.mark.parametrize("which", [ROWS, RESULT])
def test_a_full_disk_leaves_nothing_behind(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path, {"id": [1, 2]}, {"id": [1]})
    full = OSError(errno.ENOSPC, "No space left on device")

    def half_table(data: Any, file: Path) -> None:
        file.write_bytes(b"half")
        raise full

    def half_text(file: Path, text: str) -> None:
        file.write_bytes(b"half")
        raise full

    if which == ROWS:
        monkeypatch.setattr(intersection.pq, "write_table", half_table)
    else:
        monkeypatch.setattr(Path, "write_text", half_text)
    left, _ = pair.told()
    assert isinstance(left, DataError) and left.step == "write"
    assert f"{which} could not be written (No space left on device)" in str(left)
    assert list(pair.out[0].iterdir()) == []


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
        "intersection", "matched_rows", "self_check", "phases", "compile_seconds", "peak_memory_bytes", "bytes",
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
    real = intersection.planted
    monkeypatch.setattr(intersection, "planted", lambda count, seed: seeds.append(seed) or real(count, seed))
    pair.run()
    pair.run()
    assert len(seeds) == 4 and len(set(seeds)) == 2
