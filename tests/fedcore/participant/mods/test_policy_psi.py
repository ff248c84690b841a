from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import PolicyRefused
from fedcore.jobs.load import load_participant
from fedcore.jobs.participant import Participant
from fedcore.jobs.psi import PsiJob
from fedcore.jobs.request import PsiRequest, psi_request_for
from fedcore.participant.mods.policy import check
from tests.pairs import BANK, TELECOM, rule_of, write_party


def asked(**changes: Any) -> PsiRequest:
    written = {
        "kind": "psi",
        "name": "shared",
        "parties": {
            BANK: {"data": "customers", "key": "person"},
            TELECOM: {"data": "subscribers", "key": "person"},
        },
        "reveal": {"what": "rows", "to": (TELECOM,)},
        **changes,
    }
    return psi_request_for(PsiJob.model_validate(written), "run-1", None)


def site(folder: Path, rule: str, name: str = BANK) -> Participant:
    return load_participant(write_party(folder, name, ["a"], rule=rule))


def test_a_rule_that_says_all_of_it_admits_the_job(tmp_path: Path) -> None:
    assert check(site(tmp_path, rule_of(BANK)), asked()).peers == (TELECOM,)
    every = {"peers": "any", "protocols": "any", "columns": "all", "reveal": "{rows: any}"}
    assert check(site(tmp_path, rule_of(BANK, **every)), asked())


def test_nothing_is_allowed_to_a_peer_unless_a_rule_says_so(tmp_path: Path) -> None:
    with pytest.raises(PolicyRefused, match=r"peer 'telecom-b' is not allowed \(peers: none\)"):
        check(site(tmp_path, "{jobs: [psi], data: any}"), asked())
    with pytest.raises(PolicyRefused, match=r"'telecom-b' may not learn the rows \(reveal.rows: none\)"):
        check(site(tmp_path, "{jobs: [psi], data: any, peers: any}"), asked())


@pytest.mark.parametrize(
    ("rule", "changes", "said"),
    [
        ({"jobs": "[train]"}, {}, "jobs allowed are train"),
        ({"data": "any", "columns": "[amount]"}, {}, r"columns person may not be read \(allowed: amount\)"),
        ({"peers": "[shop-c]"}, {}, r"peer 'telecom-b' is not allowed \(peers: shop-c\)"),
        ({"protocols": "[ecdh]"}, {}, r"protocol 'vole' is not allowed \(protocols: ecdh\)"),
        ({"reveal": "{rows: [shop-c]}"}, {}, r"may not learn the rows \(reveal.rows: shop-c\)"),
        (
            {"reveal": "{rows: any}"},
            {"reveal": {"what": "cardinality", "to": (TELECOM,)}, "protocol": "ecdh"},
            r"may not learn the cardinality \(reveal.cardinality: none\)",
        ),
        ({"purpose": "audit"}, {}, "the purpose must be 'audit'"),
        ({"min_cohort": "3"}, {}, "the cohort has 2 participants, at least 3 are required"),
    ],
)
def test_each_thing_that_a_rule_lacks_is_named_with_what_is_allowed(
    tmp_path: Path, rule: dict[str, str], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(PolicyRefused, match=said):
        check(site(tmp_path, rule_of(BANK, **rule)), asked(**changes))


def test_what_a_site_itself_learns_is_for_the_other_to_allow(tmp_path: Path) -> None:
    nothing = rule_of(BANK, reveal="")
    assert check(site(tmp_path, nothing), asked(reveal={"what": "rows", "to": (BANK,)}))
    both = asked(reveal={"what": "rows", "to": (BANK, TELECOM)})
    with pytest.raises(PolicyRefused, match="'telecom-b' may not learn the rows"):
        check(site(tmp_path, nothing), both)


def test_the_coordinator_learns_the_count_only_where_it_is_written_out(tmp_path: Path) -> None:
    counted = asked(reveal={"what": "rows", "to": (TELECOM,), "coordinator": "count"})
    assert check(site(tmp_path, rule_of(BANK)), counted)
    for allowed in ("any", "[telecom-b]"):
        rule = rule_of(BANK, reveal=f"{{rows: any, cardinality: {allowed}}}")
        with pytest.raises(PolicyRefused, match=r"the coordinator may not learn how many match"):
            check(site(tmp_path, rule), counted)


def test_a_site_that_is_no_party_is_asked_nothing(tmp_path: Path) -> None:
    with pytest.raises(PolicyRefused, match="shop-c is no party of job 'shared'"):
        check(site(tmp_path, "{jobs: [psi], data: any, peers: any}", "shop-c"), asked())


def test_a_data_set_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    wrong = {
        BANK: {"data": "customer", "key": "person"},
        TELECOM: {"data": "subscribers", "key": "person"},
    }
    with pytest.raises(PolicyRefused, match='did you mean "customers"'):
        check(site(tmp_path, rule_of(BANK)), asked(parties=wrong))
