from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from flwr.app import Message

from fedcore.errors import DataError, FedcoreError, JobError, PeerLost, PolicyRefused, ProtocolFailed
from fedcore.jobs.load import load_participant
from fedcore.jobs.participant import Participant
from fedcore.jobs.psi import PsiJob
from fedcore.jobs.request import PARTY, Meeting, PsiRequest, psi_request_for
from fedcore.participant import intersection, psi
from fedcore.participant.meeting import InMemory
from tests.messages import message
from tests.pairs import BANK, KEYS, SHARED, TELECOM, rule_of, write_party


def asked(session: str = "s", **changes: Any) -> PsiRequest:
    written = {
        "kind": "psi",
        "name": "shared",
        "parties": {BANK: {"data": "customers", "key": "person"}, TELECOM: {"data": "subscribers", "key": "person"}},
        "protocol": "ecdh",
        "reveal": {"what": "rows", "to": (BANK,)},
        "deadline": 20,
        **changes,
    }  # fmt: skip
    meeting = Meeting(session=session, how="memory")
    return psi_request_for(PsiJob.model_validate(written), "run-1", meeting)


@pytest.fixture
def parties(tmp_path: Path) -> dict[str, Participant]:
    return {name: load_participant(write_party(tmp_path, name, KEYS[name])) for name in KEYS}


def together(
    parties: dict[str, Participant], request: PsiRequest, told: list[Any] | None = None
) -> dict[str, Any]:
    """What each party ended with: its answer to the coordinator, or its error."""
    meetings = InMemory()
    events = [] if told is None else told

    def one(name: str) -> Any:
        note = lambda *event: events.append(event)  # noqa: E731
        try:
            asked_by = message("query.intersect", request=request)
            return psi.take_part(parties[name], request, asked_by, meetings, note)
        except FedcoreError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(parties, pool.map(one, parties), strict=True))


def about(reply: Message) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(str(reply.content[PARTY]["about"]))  # type: ignore[call-overload, index]
    return told


def folder_of(participant: Participant, reply: Message) -> Path:
    assert participant.state is not None
    return participant.state / "results" / about(reply)["folder"]


def test_rows_stay_here_and_sizes_leave(parties: dict[str, Participant]) -> None:
    told: list[Any] = []
    ended = together(parties, asked(), told)
    bank, telecom = about(ended[BANK]), about(ended[TELECOM])
    assert (bank["rows"], bank["items"], bank["role"]) == (40, 40, "receiver")
    assert (telecom["rows"], telecom["items"], telecom["role"]) == (65, 65, "sender")
    assert bank["bytes"]["sent"] == telecom["bytes"]["received"] > 0
    rows = pq.read_table(folder_of(parties[BANK], ended[BANK]) / "rows.parquet").column("row").to_pylist()
    assert sorted(KEYS[BANK][row] for row in rows) == SHARED
    assert not (folder_of(parties[TELECOM], ended[TELECOM]) / "rows.parquet").exists()
    for receipt in (bank, telecom):
        assert set(receipt) == {
            "fedcore", "folder", "role", "rows", "items", "protocol", "phases", "compile_seconds",
            "peak_memory_bytes", "bytes", "commitment",
        }  # fmt: skip
    assert (BANK, "done", 40, 40) in told and (TELECOM, "read", 65, 0) in told


def test_the_count_leaves_only_where_the_job_allows_it(parties: dict[str, Participant]) -> None:
    request = asked(reveal={"what": "cardinality", "to": (TELECOM,), "coordinator": "count"})
    ended = together(parties, request)
    assert about(ended[TELECOM])["intersection"] == len(SHARED)
    assert about(ended[BANK])["intersection"] is None


def test_a_commitment_is_opened_by_the_salt_that_stays(parties: dict[str, Participant]) -> None:
    reply = together(parties, asked())[BANK]
    folder = folder_of(parties[BANK], reply)
    digest = hashlib.sha256((folder / "salt").read_bytes())
    for name in ("result.json", "rows.parquet"):
        content = (folder / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    assert digest.hexdigest() == about(reply)["commitment"]


def test_a_run_with_the_same_id_leaves_the_earlier_result_as_it_is(parties: dict[str, Participant]) -> None:
    first = together(parties, asked("one"))[BANK]
    before = {file.name: file.read_bytes() for file in folder_of(parties[BANK], first).iterdir()}
    second = together(parties, asked("two"))[BANK]
    assert about(first)["folder"] == "run-1" and about(second)["folder"] == "run-1-2"
    assert {file.name: file.read_bytes() for file in folder_of(parties[BANK], first).iterdir()} == before


def test_results_go_where_the_participant_file_says(parties: dict[str, Participant], tmp_path: Path) -> None:
    parties[BANK] = parties[BANK].model_copy(update={"output": tmp_path / "shared with whom"})
    together(parties, asked())
    assert (tmp_path / "shared with whom" / "run-1" / "rows.parquet").exists()


def test_fewer_rows_than_the_policy_asks_for_end_it_before_anything_is_sent(
    parties: dict[str, Participant], tmp_path: Path
) -> None:
    few = write_party(tmp_path, BANK, KEYS[BANK], rule=rule_of(BANK, min_rows="41"))
    parties[BANK] = load_participant(few)
    ended = together(parties, asked())
    assert isinstance(ended[BANK], PolicyRefused) and "fewer rows than the 41" in str(ended[BANK])
    assert isinstance(ended[TELECOM], PeerLost) and ended[TELECOM].party == BANK
    assert not list((parties[BANK].state or tmp_path).glob("results/*"))


def test_data_that_cannot_be_read_stops_the_other_party_at_once(
    parties: dict[str, Participant], tmp_path: Path
) -> None:
    request = asked(
        deadline=3600,
        parties={
            BANK: {"data": "customers", "key": "persom"},
            TELECOM: {"data": "subscribers", "key": "person"},
        },
    )
    policy = load_participant(write_party(tmp_path, BANK, KEYS[BANK], rule=rule_of(BANK, columns="all")))
    parties[BANK] = policy
    ended = together(parties, request)
    assert isinstance(ended[BANK], DataError) and 'did you mean "person"' in str(ended[BANK])
    assert isinstance(ended[TELECOM], PeerLost) and ended[TELECOM].party == BANK


def test_numbers_in_the_error_of_a_self_check_do_not_leave(
    parties: dict[str, Participant], monkeypatch: pytest.MonkeyPatch
) -> None:
    def disagrees(*words: Any) -> Any:
        raise ProtocolFailed("this side found 15 matches, the other 14", step="psi.check")

    monkeypatch.setattr(intersection, "intersect", disagrees)
    error = together(parties, asked())[BANK]
    assert isinstance(error, ProtocolFailed) and error.step == "psi.check"
    assert "15" not in str(error) and error.detail == "this side found 15 matches, the other 14"
    counted = asked(reveal={"what": "rows", "to": (BANK,), "coordinator": "count"})
    assert "15" in str(together(parties, counted)[BANK])


def test_memory_is_the_least_of_what_job_and_site_allow(parties: dict[str, Participant]) -> None:
    bank = parties[BANK]
    small = bank.model_copy(update={"resources": bank.resources.model_copy(update={"memory": 10**8})})
    assert psi.side_of(small, asked()).memory == 10**8
    assert psi.side_of(bank, asked(memory_limit=2 * 10**8)).memory == 2 * 10**8
    assert psi.side_of(bank, asked()).memory == intersection.MEMORY


def test_item_rules_are_those_of_the_job(parties: dict[str, Participant]) -> None:
    side = psi.side_of(parties[TELECOM], asked(items={"trim": True, "numbers_as_text": True}))
    assert side.rules.trim and side.rules.numbers_as_text and not side.rules.fold_case
    assert (side.role, side.both, side.key) == ("sender", False, ("person",))


def test_a_results_folder_that_cannot_be_made_is_told_without_its_path(
    parties: dict[str, Participant], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    blocked = parties[BANK].model_copy(update={"output": tmp_path / "file"})
    with pytest.raises(JobError, match="choose another place") as error:
        psi.new_folder(blocked, "run-1")
    assert str(tmp_path) not in str(error.value) and str(tmp_path) in str(error.value.detail)
