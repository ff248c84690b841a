"""One party's part in an intersection of several, with all parties in one process: rows, refusals, what is written."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from crypto.psi import star
from crypto.psi.items import ItemRules
from fedcore.errors import DataError, FedcoreError, JobError, PeerLost, ProtocolFailed
from fedcore.participant.data.batches import file_data
from fedcore.participant.intersection import PLANTED, RESULT, ROWS
from fedcore.participant.intersection import star as intersection_star
from fedcore.participant.intersection.star import StarSide, intersect_star
from fedcore.peer.grpc_channel import GrpcChannel
from fedcore.peer.listening import Listener
from fedcore.peer.memory import MemoryChannel
from fedcore.peer.tls import Peer
from fedcore.trust.identity import Identity
from tests.crypto.psi.star_parties import Dealer

PARTIES = ("bank", "clinic", "telecom", "utility")
SESSION = "a test of several"
IDENTITIES = {
    name: Identity(name, Path("/nowhere"), ec.generate_private_key(ec.SECP384R1())) for name in PARTIES
}


@pytest.fixture(autouse=True)
def dealt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Correlations are dealt in the place of VOLE; tests over TLS undo this."""
    Dealer().put(monkeypatch)


class Star:
    """A bank that leads and others that follow, with a file each; `told` gives what each returned or raised.

    Attributes:
        options: Of one party's side, by name.
        broken: Called with a name and its channels before the party starts.
    """

    def __init__(self, folder: Path, *columns: dict[str, Any]) -> None:
        self.names = PARTIES[: len(columns)]
        self.files, self.out = {}, {}
        for name, values in zip(self.names, columns, strict=True):
            self.files[name] = folder / f"{name}.parquet"
            self.out[name] = folder / f"out-{name}"
            pq.write_table(pa.table(values), self.files[name])
        self.options: dict[str, dict[str, Any]] = {name: {} for name in self.names}
        self.broken: Callable[[str, dict[str, Any]], None] = lambda name, channels: None
        self.meet: Callable[[], dict[str, dict[str, Any]]] = self.in_memory

    def side(self, party: str, **options: Any) -> StarSide:
        given = {
            "name": party,
            "leader": "bank",
            "followers": self.names[1:],
            "data": file_data(self.files[party]),
            "key": ("id",),
            "session": SESSION,
            "identity": IDENTITIES[party],
            "pins": {other: IDENTITIES[other].public_line for other in self.names[1:] if other != party},
            **options,
            **self.options[party],
        }
        return StarSide(**given)

    def in_memory(self) -> dict[str, dict[str, Any]]:
        """Channels of each party."""
        pairs = {name: MemoryChannel.pair(names=("bank", name)) for name in self.names[1:]}
        return {
            "bank": {name: pair[0] for name, pair in pairs.items()},
            **{name: {"bank": pair[1]} for name, pair in pairs.items()},
        }

    def over_tls(self) -> dict[str, dict[str, Any]]:
        """The same over gRPC on loopback: followers wait, the bank calls."""
        peers = {name: Peer(name, IDENTITIES[name].public_line) for name in self.names}
        met: dict[str, dict[str, Any]] = {"bank": {}}
        for name in self.names[1:]:
            waiting = Listener("127.0.0.1:0", identity=IDENTITIES[name], peer=peers["bank"], session=SESSION)
            met["bank"][name] = GrpcChannel.connect(
                waiting.address, identity=IDENTITIES["bank"], peer=peers[name], session=SESSION, deadline=30
            )
            met[name] = {"bank": waiting.accept(30)}
        return met

    def told(self, **options: Any) -> dict[str, Any]:
        """Results and errors, by party."""
        sides = {name: self.side(name, **options) for name in self.names}
        met = self.meet()

        def party(name: str) -> Any:
            self.broken(name, met[name])
            try:
                return intersect_star(lambda: met[name], sides[name], self.out[name])
            except FedcoreError as error:
                for channel in met[name].values():
                    channel.abort()
                return error

        with ThreadPoolExecutor(len(self.names)) as pool:
            return dict(zip(self.names, pool.map(party, self.names), strict=True))

    def run(self, **options: Any) -> dict[str, Any]:
        found = self.told(**options)
        for each in found.values():
            if isinstance(each, Exception):
                raise each
        return found

    def refused(self, **options: Any) -> dict[str, Any]:
        """What each raised; nobody wrote anything."""
        found = self.told(**options)
        assert all(isinstance(each, ProtocolFailed | PeerLost) for each in found.values()), found
        assert not [file for folder in self.out.values() for file in folder.glob("*")]
        return found

    def rows(self, name: str) -> list[tuple[int, int]]:
        """Row and match, as they were written."""
        found = pq.read_table(self.out[name] / ROWS).to_pydict()
        return list(zip(found["row"], found["match"], strict=True))


def said(found: dict[str, Any]) -> str:
    """What those that refused something say."""
    return " / ".join(str(each) for each in found.values() if isinstance(each, ProtocolFailed))


BANK, CLINIC, TELECOM = [5, 3, None, 8, 5, 1, 4], [9, 5, 5, 8, None, 3, 7, 9], [8, 2, 5, 3, 3, 11]


def three(folder: Path) -> Star:
    return Star(folder, *({"id": pa.array(ids, pa.int64())} for ids in (BANK, CLINIC, TELECOM)))


def matched(meeting: Star, *values: list[Any]) -> None:
    """The rows written at all parties are those that Python finds, and belong together."""
    shared = set.intersection(*(set(ids) for ids in values)) - {None}
    groups = []
    for name, ids in zip(meeting.names, values, strict=True):
        written = meeting.rows(name)
        assert sorted(row for row, _ in written) == [row for row, one in enumerate(ids) if one in shared]
        groups.append({match: ids[row] for row, match in written})
        assert all(groups[-1][match] == ids[row] for row, match in written)
    assert all(group == groups[0] for group in groups) and set(groups[0].values()) == shared


# ---- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["in_memory", "over_tls"])
def test_rows_that_match_are_written_at_all_parties_under_one_number(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "over_tls":
        monkeypatch.undo()  # over VOLE
    meeting = three(tmp_path)
    meeting.meet = getattr(meeting, how)
    found = meeting.run(reveal="all")
    matched(meeting, BANK, CLINIC, TELECOM)
    assert [each["intersection"] for each in found.values()] == [3, 3, 3]
    assert [each["matched_rows"] for each in found.values()] == [4, 4, 4]
    assert [each["items"] for each in found.values()] == [5, 5, 5]
    assert [each["nulls"] for each in found.values()] == [1, 1, 0]


def test_with_the_leader_alone_followers_are_told_nothing_and_write_no_rows(tmp_path: Path) -> None:
    meeting = three(tmp_path)
    found = meeting.run()
    assert sorted(row for row, _ in meeting.rows("bank")) == [0, 1, 3, 4]
    assert found["bank"]["intersection"] == 3 and found["bank"]["to"] == "leader"
    for name in ("clinic", "telecom"):
        assert found[name]["intersection"] is None and found[name]["matched_rows"] is None
        assert [file.name for file in meeting.out[name].iterdir()] == [RESULT]


def test_four_parties_with_text_and_two_columns(tmp_path: Path) -> None:
    ids = [" Ann", "BOB", "cy "], ["bob", "ann", "dee"], ["Ann", "x", "bob "], ["y", "bob", "ANN"]
    meeting = Star(tmp_path, *({"id": each, "no": [1, 1, 1]} for each in ids))
    meeting.run(reveal="all", rules=ItemRules(trim=True, fold_case=True), key=("id", "no"))
    matched(meeting, *([text.strip().lower() for text in each] for each in ids))


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_an_empty_set_of_one_party_is_an_empty_result(empty: int, tmp_path: Path) -> None:
    columns = [{"id": pa.array([] if number == empty else [1, 2], pa.int64())} for number in range(3)]
    meeting = Star(tmp_path, *columns)
    assert [each["intersection"] for each in meeting.run(reveal="all").values()] == [0, 0, 0]
    assert [meeting.rows(name) for name in meeting.names] == [[], [], []]


def test_the_result_file_says_what_was_done_and_what_it_cost(tmp_path: Path) -> None:
    meeting = three(tmp_path)
    found = meeting.run(reveal="all")
    for name, result in found.items():
        assert json.loads((meeting.out[name] / RESULT).read_text()) == result
        assert set(result) == {
            "kind", "session", "role", "parties", "protocol", "reveal", "to", "rules", "rows", "nulls", "duplicates",
            "items", "intersection", "matched_rows", "self_check", "phases", "compile_seconds", "peak_memory_bytes",
            "spilled_bytes", "bytes",
        }  # fmt: skip
        assert result["role"] == ("leader" if name == "bank" else "follower")
        assert result["parties"] == ["bank", "clinic", "telecom"]
        assert result["protocol"]["name"] == "star" and result["protocol"]["signed_keys"] is True
        assert result["self_check"] == {"planted": PLANTED, "returned": PLANTED}
        assert list(result["phases"]) == ["read", "collapse", "meet", "agree", "star", "check", "write"]
    both = [found[name]["bytes"] for name in ("clinic", "telecom")]
    assert found["bank"]["bytes"]["sent"] == sum(each["received"] for each in both) > 0
    assert found["bank"]["bytes"]["received"] == sum(each["sent"] for each in both) > 0


def test_the_planted_items_are_others_in_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = three(tmp_path)
    seeds: list[bytes] = []
    real = intersection_star.planted
    monkeypatch.setattr(
        intersection_star, "planted", lambda count, seed: seeds.append(seed) or real(count, seed)
    )
    meeting.run()
    meeting.run()
    assert len(seeds) == 6 and len(set(seeds)) == 2


# ---- keys between the followers -------------------------------------------------------------------------------------


def test_a_leader_that_puts_itself_between_followers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = star.join_keys
    monkeypatch.setattr(
        star, "join_keys", lambda keys: real([bytes(31) + b"\x09" + each[32:] for each in keys])
    )
    found = three(tmp_path).refused(reveal="all")
    assert "was not signed for this run by the identity pinned to it" in said(found)


def test_a_follower_with_another_key_than_the_pinned_one_is_refused_by_the_other(tmp_path: Path) -> None:
    meeting = three(tmp_path)
    meeting.options["telecom"] = {"identity": IDENTITIES["utility"]}
    found = meeting.refused(reveal="all")
    assert "the key that came for telecom was not signed" in str(found["clinic"])


def test_without_signatures_no_identity_is_needed_and_all_must_agree_on_it(tmp_path: Path) -> None:
    meeting = three(tmp_path)
    assert meeting.run(sign=False, identity=None, pins={})["bank"]["protocol"]["signed_keys"] is False
    (tmp_path / "again").mkdir()
    meeting = three(tmp_path / "again")
    meeting.options["clinic"] = {"sign": False}
    assert "option keys are signed" in said(meeting.refused())


@pytest.mark.parametrize("lacking", [{"identity": None}, {"pins": {}}])
def test_a_follower_that_cannot_check_the_others_keys_is_told_so(
    lacking: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=r"sign: the (own identity|keys of telecom) must be known here"):
        three(tmp_path).side("clinic", **lacking)


# ---- parties that differ, or are gone -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "what"),
    [
        ({"reveal": "all"}, "option reveal"),
        ({"followers": ("clinic", "telecom", "utility")}, "option parties"),
        ({"session": "another"}, "differ in session"),
        ({"rules": ItemRules(trim=True)}, "give --trim at both parties"),
        ({"rules": ItemRules(numbers_as_text=True)}, "give --numbers-as-text"),
        ({"key": ("id", "id2")}, "types of the key"),
    ],
)
def test_a_setting_that_differs_at_one_follower_is_named(
    option: dict[str, Any], what: str, tmp_path: Path
) -> None:
    ids = pa.array([1, 2], pa.int64())
    meeting = Star(tmp_path, *({"id": ids, "id2": ids} for _ in range(3)))
    meeting.options["telecom"] = {
        "pins": {name: IDENTITIES[name].public_line for name in ("clinic", "utility")},
        **option,
    }
    found = meeting.refused()
    assert what in said(found)
    if isinstance(found["bank"], ProtocolFailed):
        assert "hello: with telecom: " in str(found["bank"])


@pytest.mark.parametrize("what", ["version", "table"])
def test_versions_that_differ_are_both_named(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lock, asked = intersection_star.Hello, threading.Lock(), []

    def hello(**given: Any) -> Any:
        with lock:
            asked.append(1)
            if len(asked) == 1:
                given[what] = {"version": 41, "table": "of 2031"}[what]
        return real(**given)

    monkeypatch.setattr(intersection_star, "Hello", hello)
    text = said(three(tmp_path).refused())
    assert {"version": "41", "table": "'of 2031'"}[what] in text and "install the same version" in text


@pytest.mark.parametrize(
    ("how", "step"),
    [
        ("in_memory", "hello"), ("in_memory", "psi.nonce"), ("in_memory", "star.greeting"), ("in_memory", "star.key"),
        ("in_memory", "star.store"), ("in_memory", "psi.count"), ("over_tls", "vole.base"), ("over_tls", "psi.count"),
    ],
)  # fmt: skip
def test_a_follower_that_goes_away_is_named_and_all_others_stop(
    how: str, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "over_tls":
        monkeypatch.undo()  # over VOLE
    meeting = three(tmp_path)
    meeting.meet = getattr(meeting, how)

    def broken(name: str, channels: dict[str, Any]) -> None:
        if name != "clinic":
            return
        channel = channels["bank"]
        real = channel.send

        def send(at: str, data: Any) -> None:
            if at == step:
                channel.abort()
            real(at, data)

        channel.send = send

    meeting.broken = broken
    found = meeting.refused(reveal="all")
    assert all(isinstance(each, PeerLost) for each in found.values())
    assert found["bank"].party == "clinic" and found["telecom"].party == "bank"


def test_channels_to_other_parties_than_are_needed_are_refused(tmp_path: Path) -> None:
    meeting = three(tmp_path)
    channels = meeting.in_memory()["clinic"]
    with pytest.raises(JobError, match="bank met bank; needed are clinic, telecom"):
        intersect_star(lambda: channels, meeting.side("bank"), meeting.out["bank"])
    with pytest.raises(PeerLost):
        channels["bank"].send("x", b"")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"name": "clinik"}, 'did you mean "clinic"'),
        ({"followers": ()}, "at least one follower"),
        ({"followers": ("bank", "clinic")}, "each named once"),
        ({"reveal": "both"}, "allowed: all, leader"),
        ({"key": ()}, "name one column or more"),
        ({"memory": 1}, "memory_limit: 1 bytes"),
    ],
)
def test_a_wrong_setting_is_answered_with_what_is_allowed(
    option: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=text):
        three(tmp_path).side("bank", **option)


def test_a_key_column_that_is_not_there_lists_those_that_are_before_anybody_is_met(tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError("the other party is not to be met")

    meeting = three(tmp_path)
    with pytest.raises(DataError, match="ident"):
        intersect_star(never, meeting.side("bank", key=("ident",)), meeting.out["bank"])


# ---- a run that goes wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["lead", "follow"])
def test_a_run_that_loses_matches_fails_at_all_and_writes_nothing(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(star, role)
    monkeypatch.setattr(star, role, lambda *given, **options: real(*given, **options)[::2])
    found = three(tmp_path).refused(reveal="all")
    assert "psi.check" in said(found) and f"of {PLANTED} planted items came back" in said(found)


def test_counts_that_differ_fail_at_all_and_name_the_follower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_follow = star.follow

    def follow(channel: Any, items: Any, **options: Any) -> Any:
        positions = real_follow(channel, items, **options)
        if options["name"] != "telecom":
            return positions
        # One real match is lost and no planted item: those are in no file.
        kept = (place for place, item in enumerate(items[positions].tolist()) if item in real_items)
        return np.delete(positions, next(kept))

    real_items: list[Any] = []
    real_lead = star.lead

    def lead(channels: Any, items: Any, **options: Any) -> Any:
        real_items.extend(item for item in items.tolist() if item not in planted_items)
        return real_lead(channels, items, **options)

    planted_items: list[Any] = []
    real_planted = intersection_star.planted

    def planted(count: int, seed: bytes) -> Any:
        made = real_planted(count, seed)
        planted_items.extend(made.tolist())
        return made

    monkeypatch.setattr(star, "follow", follow)
    monkeypatch.setattr(star, "lead", lead)
    monkeypatch.setattr(intersection_star, "planted", planted)
    found = three(tmp_path).refused(reveal="all")
    assert "psi.check: this side found 3 matches, telecom 2" in str(found["bank"])
    assert isinstance(found["clinic"], PeerLost)
