from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from fedcore.errors import JobError
from fedcore.jobs.datasets import ParquetData
from fedcore.jobs.job import TrainJob, parse_job
from fedcore.jobs.load import load_job
from fedcore.jobs.participant import Participant, PinnedPeer
from fedcore.jobs.psi import Protocol, PsiJob, What
from fedcore.jobs.show import filled_in
from tests.fedcore.jobs.job_files import only, told

JOB = """kind: psi
name: shared
parties:
  bank-a: {data: customers, key: [id_type, id_number]}
  telecom-b: {data: subscribers, key: [id_type, id_number]}
reveal: {what: rows, to: [bank-a, telecom-b]}
"""
LINE = "ecdsa-sha2-nistp384 AAAA telecom-b"


def load(folder: Path, text: str) -> PsiJob:
    (folder / "job.yaml").write_text(text)
    job = load_job(folder / "job.yaml")
    assert isinstance(job, PsiJob)
    return job


def test_a_job_file_gives_a_psi_job_whose_first_learner_is_the_receiver(folder: Path) -> None:
    job = load(folder, JOB)
    assert job.protocol == "vole" and job.reveal.receiver == "bank-a" and job.reveal.both
    assert job.parties["bank-a"].columns == ("id_type", "id_number")
    assert job.reveal.coordinator == "sizes"
    one = load(folder, JOB.replace("[bank-a, telecom-b]}", "[telecom-b]}"))
    assert one.reveal.receiver == "telecom-b" and not one.reveal.both


def test_a_key_of_one_column_needs_no_list(folder: Path) -> None:
    job = load(folder, JOB.replace("[id_type, id_number]", "id_number"))
    assert job.parties["telecom-b"].columns == ("id_number",)


def test_a_job_survives_its_own_json(folder: Path) -> None:
    job = load(folder, JOB + "items: {trim: true}\nmemory_limit: 512MB\ndeadline: 10m\n")
    assert job.memory_limit == 512 * 10**6 and job.deadline == 600
    assert parse_job(job.model_dump(mode="json", by_alias=True)) == job
    train = {
        "kind": "train",
        "name": "a",
        "data": "b",
        "task": {"use": "tabular-classifier", "target": "y"},
    }
    assert isinstance(parse_job(train), TrainJob)


def test_every_default_is_shown(folder: Path) -> None:
    shown = filled_in(load(folder, JOB))
    assert shown["items"] == {
        "trim": False,
        "fold_case": False,
        "numbers_as_text": False,
        "dates_as_text": False,
    }
    assert shown["protocol"] == "vole" and shown["purpose"] == "research"


@pytest.mark.parametrize("protocol", get_args(Protocol))
@pytest.mark.parametrize("what", get_args(What))
@pytest.mark.parametrize("to", [["bank-a"], ["bank-a", "telecom-b"]])
def test_a_job_is_refused_exactly_where_the_parties_own_code_would_refuse_it(
    folder: Path, protocol: str, what: str, to: list[str]
) -> None:
    from fedcore.participant.intersection import Side

    file = ParquetData(connector="parquet", path=folder / "none.parquet")
    text = JOB.replace("rows", what).replace("[bank-a, telecom-b]}", f"[{', '.join(to)}]}}")
    refused = bool(told(folder, f"{text}protocol: {protocol}\n"))
    try:
        Side("receiver", file, ("id",), "s", protocol=protocol, reveal=what, both=len(to) == 2)
    except JobError:
        assert refused
    else:
        assert not refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("protocol", "protocl"), 'protocl: unknown key; did you mean "protocol"?'),
        (("protocol: vole", "protocol: volle"), '"volle" is not allowed; did you mean "vole"? allowed: ecdh, vole, vole-compact'),
        (("what: rows", "what: row"), 'reveal.what: the text "row" is not allowed; did you mean "rows"?'),
        (("key: [id_type", "keys: [id_type"), 'parties.bank-a.keys: unknown key; did you mean "key"?'),
        (("to: [bank-a, telecom-b]", "to: [bank-b]"), "reveal.to: 'bank-b' is no party; did you mean \"bank-a\"?"),
        (("to: [bank-a, telecom-b]", "to: []"), "reveal.to: name the party that learns the result"),
        (("to: [bank-a, telecom-b]", "to: [bank-a, bank-a]"), "reveal.to: name the party that learns the result"),
        (("key: [id_type, id_number]}\n  tele", "key: []}\n  tele"), "key: name one column or more"),
        (("key: [id_type, id_number]}\n  tele", "key: [a, a]}\n  tele"), "key: a column stands twice"),
        (
            ("key: [id_type, id_number]}\n  tele", "key: id}\n  tele"),
            "parties: the keys have different numbers of columns (bank-a 1, telecom-b 2); they never match",
        ),
        (("bank-a:", "coordinator:"), "parties: 'coordinator' is the coordinator's name"),
        (("what: rows", "what: cardinality"), "protocol: vole shows which rows match; for the cardinality alone take ecdh"),
    ],
)  # fmt: skip
def test_each_mistake_is_told_with_what_is_allowed(folder: Path, change: tuple[str, str], said: str) -> None:
    text = (JOB + "protocol: vole\n").replace(*change, 1)
    assert said in "\n".join(told(folder, text))


def test_cardinality_is_for_one_party(folder: Path) -> None:
    text = JOB.replace("rows", "cardinality") + "protocol: ecdh\n"
    assert "with cardinality one party learns the number" in only(folder, text)
    assert told(folder, text.replace("[bank-a, telecom-b]}", "[bank-a]}")) == []


@pytest.mark.parametrize(
    "parties", ["  a: {data: d, key: k}\n", "".join(f"  {n}: {{data: d, key: k}}\n" for n in "abc")]
)
def test_an_intersection_is_between_two(folder: Path, parties: str) -> None:
    text = f"kind: psi\nname: x\nparties:\n{parties}reveal: {{what: rows, to: [a]}}\n"
    assert "an intersection is between two" in only(folder, text)


def test_a_missing_kind_is_told_once_and_the_rest_is_judged_as_what_it_looks_like(folder: Path) -> None:
    text = JOB.replace("kind: psi\n", "") + "engine: embedded\n"
    (folder / "job.yaml").write_text(text)
    from fedcore.jobs.load import check_file

    said = [str(problem) for problem in check_file(folder / "job.yaml", "job").problems]
    assert sum("kind: missing; allowed: train, psi" in one for one in said) == 1
    assert sum("engine: unknown key" in one for one in said) == 1 and len(said) == 2


def test_a_participant_pins_peers_and_allows_nothing_to_them_by_itself(folder: Path) -> None:
    written = {
        "name": "bank-a",
        "catalogue": {},
        "peers": {"telecom-b": {"public_key": LINE, "address": "telecom.example:9443"}},
        "inbound": {"address": "bank.example:9443", "listen": "0.0.0.0"},
        "policy": {"rules": ({"jobs": ("psi",), "data": "any"},)},
    }
    bank = Participant.model_validate(written)
    assert bank.peers["telecom-b"] == PinnedPeer(public_key=LINE, address="telecom.example:9443")
    assert bank.inbound is not None and bank.inbound.bound == "0.0.0.0:9443"
    rule = bank.policy.rules[0]
    assert rule.peers == () and rule.reveal.rows == () and rule.reveal.cardinality == ()


@pytest.mark.parametrize(
    "address", ["bank.example", "bank.example:", "bank.example:0", "bank.example:70000", ":9443"]
)
def test_an_address_is_host_and_port(folder: Path, address: str) -> None:
    text = f"name: site-a\ncatalogue: {{}}\ninbound: {{address: '{address}'}}\n"
    assert "inbound.address" in only(folder, text)


def test_a_peer_without_a_proper_key_is_refused(folder: Path) -> None:
    text = "name: site-a\ncatalogue: {}\npeers: {site-b: {public_key: ssh-rsa AAAA}}\n"
    assert "is not an OpenSSH public key line" in only(folder, text)
